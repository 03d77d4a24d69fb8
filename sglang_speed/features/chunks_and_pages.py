"""Prompts in chunks, KV in pages. Served; chunks in one batch with decode steps are not."""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.served import speed_of


def _no_chunk_has_a_page(args: Any) -> bool:
    return 0 < (args.chunked_prefill_size or 0) < args.page_size


def _together(args: Any) -> int:
    """Prompt tokens that belong in one chunk: whose queries choose, and whose logits are read."""
    speed = speed_of(args.get_model_config().hf_config)
    if speed is None or not speed.keeps_states:
        return 0
    return max(speed.tail_tokens, 0 if speed.selection is None else speed.selection.window)


def _takes_apart_what_chooses(args: Any) -> bool:
    return 0 < (args.chunked_prefill_size or 0) < _together(args)


def _message_of_chunks(args: Any) -> str:
    return (
        f"--chunked-prefill-size {args.chunked_prefill_size} is smaller than select_window or tail_tokens of the "
        f"checkpoint, which belong in one chunk; take at least {_together(args)}, or convert the model with a shorter "
        "tail or window"
    )


FEATURE = Feature(
    name="chunked prefill, pages",
    served=("--chunked-prefill-size", "--page-size"),
    proof=("tests/inprocess/parity/test_every_setting.py",),
    refusals=(
        Refusal("--enable-mixed-chunk", on("enable_mixed_chunk"), "its decode steps are not checked for deep slots"),
        Refusal(
            "--page-size",
            _no_chunk_has_a_page,
            "a page is larger than a chunk of --chunked-prefill-size, and no prompt would ever start",
        ),
        Refusal(
            "--chunked-prefill-size below select_window or tail_tokens, with states",
            _takes_apart_what_chooses,
            "the last tokens of a prompt belong in one chunk, since their queries choose and their logits are read",
            message=_message_of_chunks,
            at_full_depth=False,
        ),
    ),
)

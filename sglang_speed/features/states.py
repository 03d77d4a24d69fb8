"""Policies whose prefix cache keeps hidden states: fastkv, and short messages with any policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.configs.model_config import AttentionArch

from sglang_speed.config import SpeedConfig
from sglang_speed.features.base import Feature, Refusal
from sglang_speed.served import speed_of

_STATES = "policy fastkv or short messages"
_BFLOAT16 = ("bf16", "bfloat16")


def _with_states(args: Any) -> SpeedConfig | None:
    speed = speed_of(args.get_model_config().hf_config)
    return speed if speed is not None and speed.keeps_states else None


def _refused(flag: str, reason: str, fix: str, is_set: Callable[[SpeedConfig, Any], bool]) -> Refusal:
    """A setting that is refused where states are kept."""

    def is_asked(args: Any) -> bool:
        speed = _with_states(args)
        return speed is not None and is_set(speed, args)

    return Refusal(
        f"{flag} with {_STATES}",
        is_asked,
        reason,
        message=lambda args: f"{flag} is not supported with {_STATES} ({reason}); {fix}",
        at_full_depth=False,
    )


def _together(speed: SpeedConfig) -> int:
    """Prompt tokens that belong in one chunk: whose queries choose, and whose logits are read."""
    return max(speed.tail_tokens, 0 if speed.selection is None else speed.selection.window)


def _takes_apart_what_chooses(args: Any) -> bool:
    speed = _with_states(args)
    return speed is not None and 0 < (args.chunked_prefill_size or 0) < _together(speed)


def _message_of_chunks(args: Any) -> str:
    speed = _with_states(args)
    assert speed is not None, "only where states are kept"
    return (
        f"--chunked-prefill-size {args.chunked_prefill_size} is smaller than select_window or tail_tokens of the "
        f"checkpoint, which belong in one chunk; take at least {_together(speed)}, or convert the model with a shorter "
        "tail or window"
    )


def _rounds_states(_: SpeedConfig, args: Any) -> bool:
    return args.kv_cache_dtype in _BFLOAT16 and args.get_model_config().dtype != torch.bfloat16


def _splits_heads_that_keep(speed: SpeedConfig, args: Any) -> bool:
    model = args.get_model_config()
    num_heads = 1 if model.attention_arch == AttentionArch.MLA else model.get_total_num_kv_heads()
    return speed.is_thinned and args.tp_size > num_heads


def _splits_a_state_unequally(_: SpeedConfig, args: Any) -> bool:
    return bool(args.get_model_config().hidden_size % args.tp_size)


FEATURE = Feature(
    name="states in the prefix cache",
    served=("--policy fastkv", "--deep-message-tokens"),
    proof=("tests/inprocess/parity/test_every_setting.py", "tests/inprocess/parity/test_every_architecture.py"),
    refusals=(
        Refusal(
            f"--chunked-prefill-size below select_window or tail_tokens with {_STATES}",
            _takes_apart_what_chooses,
            "the last tokens of a prompt belong in one chunk, since their queries choose and their logits are read",
            message=_message_of_chunks,
            at_full_depth=False,
        ),
        _refused(
            "--kv-cache-dtype bfloat16",
            "states lie in the KV pool in the dtype of the model",
            "leave it out, or add --dtype bfloat16",
            _rounds_states,
        ),
        _refused(
            "--enable-deterministic-inference",
            "selected tokens run in pieces that depend on the batch",
            "leave it out, or convert the model with --policy speed alone",
            lambda _, args: bool(getattr(args, "enable_deterministic_inference", False)),
        ),
        _refused(
            "--rl-on-policy-target",
            "it keeps hidden states in another dtype than the KV pool",
            "leave it out, or convert the model with --policy speed alone",
            lambda _, args: getattr(args, "rl_on_policy_target", None) is not None,
        ),
        _refused(
            "--tp-size",
            "the hidden size has no equal shares for so many ranks",
            "take a number of ranks that divides it",
            _splits_a_state_unequally,
        ),
        _refused(
            "--tp-size above the number of KV heads, with --kv-keep,",
            "what is kept is chosen by KV head, and ranks would share one",
            "take fewer ranks, or convert the model without --kv-keep",
            _splits_heads_that_keep,
        ),
    ),
    note="[which policy](policies.md)",
)

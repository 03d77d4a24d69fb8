"""Speculative decoding: several tokens in a step, drafted by something cheap and verified by the model.

A verified batch has the drafts of each request as rows, all of them deep. They take slots in both bands beforehand, as
many as SGLang keeps behind a request; a rejected draft's slots are used again. Diffusion models are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.features.base import Feature, Refusal, is_not, on
from sglang_speed.host.adapter import HOST
from sglang_speed.host.hook import Hook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.kv_pool.request_pool import banded

SERVED = ("NGRAM", "STANDALONE")
HEADS = (
    "its head reads states of three layers, and the uppermost, the third from the top where the head does not say "
    "otherwise, is one that prompt tokens do not pass; a head on layers below the cutoff is not served either: bands "
    "hand out no states of single layers, and SGLang's tree then has pairs of tokens as keys, with which anchors and "
    "the ends of prefix hits are not proven"
)
ON_GPU = ("flashinfer",)
"""Attention backends whose plans for drafts are tested in two bands."""


def take_draft_slots(
    _: Any, tree_cache: Any, req_to_token_pool: Any, *, reqs: Any, batch: Any = None, **__: Any
) -> None:
    """Hook after alloc_for_spec_decode: room for drafts in each deep band, as SGLang has made it in its own pool."""
    pool = banded(req_to_token_pool)
    if pool is None:
        return
    rows = [HOST.row_of(req) for req in reqs]
    known = [row for row in rows if row is not None]
    assert len(known) == len(rows), "a request that decodes has no row"
    for band in pool.deep_bands:
        if band.grows:
            band.make_room_ahead(known, [HOST.committed_len(req) for req in reqs])
        elif band.end_contexts(known) and batch is not None:
            batch.batch_is_full = False  # there is room for who waits, though nobody has left


def move_in_all_bands(
    original: Callable[..., None], batch: Any, accept_index: Any, num_correct_drafts: Any, allocator: Any
) -> None:
    """Hook around move_accept_tokens_to_target_kvcache: accepted drafts lie in a row afterwards, in every band.

    A batch that a decode graph ran on has padding behind its own rows.
    """
    original(batch, accept_index, num_correct_drafts, allocator)
    pool = banded(batch.req_to_token_pool)
    if pool is None:
        return
    for drafted in pool.drafted:
        moves = [drafted.slots[: len(batch.out_cache_loc)]]
        if drafted.band.first_filled is not None:
            moves.append(batch.out_cache_loc + drafted.band.first_filled)
        for slots in moves:
            view = SimpleNamespace(seq_lens=batch.seq_lens, out_cache_loc=slots)
            original(view, accept_index, num_correct_drafts, drafted.band.allocator)


def widen_rows(num_columns: int) -> int:
    """Hook after get_req_to_token_extra_context_len: a line of the table must hold all places for drafts behind a
    request as long as the context."""
    return max(num_columns, 4 + HOST.num_ahead())


def _drafts_with(algorithm: str, is_set: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda args: bool(args.speculative_algorithm == algorithm and is_set(args))


def _is_on_gpu(args: Any) -> bool:
    return bool(args.device != "cpu")


def _where(algorithm: str, where: str, is_set: Callable[[Any], bool], reason: str, fix: str) -> Refusal:
    """A refusal of an algorithm in some place."""
    flag = f"--speculative-algorithm {algorithm}"
    return Refusal(
        f"{flag} {where}",
        _drafts_with(algorithm, is_set),
        reason,
        message=lambda _: f"{flag} is not supported with a SPEED model {where} ({reason}); {fix}",
        at_full_depth=False,
        versions=(NEWEST,),
    )


_SPEC_DECODE = ("tree_cache", "req_to_token_pool", "reqs", "req_pool_indices", "cur_kv_lens", "cur_kv_lens_cpu")
_SPEC_DECODE_MORE = ("nxt_kv_lens", "nxt_kv_lens_cpu", "num_needed_tokens", "batch")

FEATURE = Feature(
    name="speculative decoding, diffusion models",
    served=("--speculative-algorithm NGRAM, STANDALONE (0.5.23)",),
    proof=(
        "tests/inprocess/parity/test_speculation.py",
        "tests/inprocess/platforms/test_cpu_speculation.py",
        "tests/server/e2e/test_drafts_over_http.py",
    ),
    note="[which drafts](speculation.md)",
    hooks=(
        Hook(
            target="sglang.srt.mem_cache.allocation.alloc_for_spec_decode",
            parameters={NEWEST: (*_SPEC_DECODE, *_SPEC_DECODE_MORE)},
            kind=HookType.AFTER,
            function=take_draft_slots,
            reason="drafts take deep slots",
            remove_when="SGLang tells the request pool of decode steps",
        ),
        Hook(
            target="sglang.srt.speculative.spec_utils.move_accept_tokens_to_target_kvcache",
            parameters={
                NEWEST: ("batch", "accept_index", "num_correct_drafts", "token_to_kv_pool_allocator"),
            },
            kind=HookType.AROUND,
            function=move_in_all_bands,
            reason="the deep bands' KV of accepted drafts lies in pools of its own",
            remove_when="SGLang tells the request pool which drafts are accepted",
        ),
        Hook(
            target="sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len",
            parameters={NEWEST: ()},
            kind=HookType.AFTER,
            function=widen_rows,
            reason="with pages of one token SGLang keeps places for twice as many drafts as its table has columns for, "
            "so that a request near the end of the context writes into the next one's line",
            remove_when="SGLang sizes its table by what it allocates",
        ),
    ),
    refusals=(
        Refusal(
            "--speculative-algorithm",
            on("speculative_algorithm"),
            f"drafts have no deep rows with this SGLang; {NEWEST} serves {' and '.join(SERVED)}",
            versions=(OLDEST,),
        ),
        Refusal(
            "--speculative-algorithm EAGLE3",
            lambda args: args.speculative_algorithm == "EAGLE3",
            HEADS,
            message=lambda _: (
                f"--speculative-algorithm EAGLE3 is not supported with a SPEED model ({HEADS}); take "
                f"--speculative-algorithm {' or '.join(SERVED)}"
            ),
            at_full_depth=False,
            versions=(NEWEST,),
        ),
        Refusal(
            "--speculative-algorithm",
            is_not("speculative_algorithm", None, *SERVED),
            "its drafts read hidden states of layers that prompt tokens do not pass; NGRAM and STANDALONE do not",
            versions=(NEWEST,),
        ),
        _where(
            "STANDALONE",
            "on a GPU",
            _is_on_gpu,
            "its kernels have not been watched in two bands yet; CPUs serve it",
            "take --speculative-algorithm NGRAM",
        ),
        _where(
            "STANDALONE",
            "with --speculative-eagle-topk above 1",
            lambda args: args.speculative_eagle_topk != 1,
            "a draft model's branches are not proven in two bands",
            "give --speculative-eagle-topk 1",
        ),
        _where(
            "NGRAM",
            "with another attention backend",
            lambda args: _is_on_gpu(args) and not {*args.get_attention_backends()} <= {*ON_GPU},
            "masks of drafts are proven for some only",
            f"give --attention-backend {' or '.join(ON_GPU)}",
        ),
        _where(
            "NGRAM",
            "with sliding windows on a GPU",
            lambda args: _is_on_gpu(args) and args.get_model_config().sliding_window_size is not None,
            "kernels count a window's places along all branches, and a draft stands on one; CPUs serve it",
            "leave it out",
        ),
        *(
            _where(
                algorithm,
                "with an fp8 KV cache",
                lambda args: str(args.kv_cache_dtype).startswith("fp8"),
                "what rounds to another step of fp8 depends on how many rows run together",
                "leave --kv-cache-dtype out",
            )
            for algorithm in SERVED
        ),
        Refusal("--speculative-adaptive", on("speculative_adaptive"), "room for drafts is fixed", versions=(NEWEST,)),
        Refusal("--decoupled-spec-role", is_not("decoupled_spec_role", "null"), "draft tokens have no deep rows yet"),
        Refusal("--dllm-algorithm", on("dllm_algorithm"), "a diffusion model has no decode phase"),
    ),
)

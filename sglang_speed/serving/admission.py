"""Admission: what the deep bands let the scheduler do.

Hooks on the scheduler's side: how much of a prefix may be reused, which request may start, whether the next
decode step fits, and which request can never fit. All of it on the CPU, in counts, one for each deep band.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS, AddReqResult, PrefillAdder

from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.kv_pool.request_pool import BandedReqToTokenPool, banded
from sglang_speed.policies import ThinnedPolicy
from sglang_speed.served import active_pool
from sglang_speed.serving.fields import DEEP_PROMISED

logger = logging.getLogger(__name__)

Slots = tuple[int, ...]
"""A number of slots in each deep band."""


def limit_reuse(max_prefix_len: int, req: Req, input_len: int) -> int | None:
    """Hook after Req._compute_max_prefix_len: rows that must be deep are computed, never taken from the tree."""
    pool = active_pool()
    return None if pool is None else min(max_prefix_len, pool.max_reusable_prefix(req))


def take_decode_slots(_: Any, batch: ScheduleBatch, token_per_req: int) -> None:
    """Hook after alloc_for_decode: a slot in each deep band for the next token of each request.

    `batch.seq_lens` still counts the tokens before this step.
    """
    pool = banded(batch.req_to_token_pool)
    if pool is None:
        return
    assert token_per_req == 1, f"{token_per_req=}: steps of drafts take their slots elsewhere"
    rows = batch.req_pool_indices_cpu.tolist()
    for band in pool.deep_bands:
        if band.grows:
            band.extend_by_one(rows, batch.req_pool_indices, batch.seq_lens)
        elif band.end_contexts(rows):
            batch.batch_is_full = False  # there is room for who waits, though nobody has left


def refuse_beams(original: Callable[..., Any], coordinator: Any, req: Req, *args: Any) -> Any:
    """Hook around BeamCoordinator.validate_and_init, which answers a request with the text that it gives."""
    if banded(coordinator.req_to_token_pool) is None or req.sampling_params.beam_width <= 1:
        return original(coordinator, req, *args)
    return (
        f"sglang_speed: beam_width={req.sampling_params.beam_width} is not supported with a SPEED model (beams have no "
        "slots in a deep band); leave it out, or serve the full-depth checkpoint"
    )


def check_deep_decode(fits: bool, batch: ScheduleBatch, selected_indices: list[int] | None = None) -> bool:
    """Hook after ScheduleBatch.check_decode_mem: the next step fits only if it fits in every deep band too."""
    pool = banded(batch.req_to_token_pool)
    if pool is None:
        return fits
    reqs = batch.reqs if selected_indices is None else [batch.reqs[index] for index in selected_indices]
    return fits and all(band.reclaim(pool.num_missing(band, reqs)) for band in pool.growing_bands)


def _tokens_to_come(req: Req) -> int:
    """Tokens that a request may still generate, clipped as SGLang clips its own estimate; none if it only waits to
    be told that it was refused."""
    if req.to_finish is not None or req.finished():
        return 0
    return min(max(req.sampling_params.max_new_tokens - len(req.output_ids), 0), CLIP_MAX_NEW_TOKENS)


def _deep_claim(pool: BandedReqToTokenPool, req: Req) -> Slots:
    """Deep slots that a request must find free before it starts: to prefill, and to generate."""
    num_tokens = len(req.origin_input_ids) + len(req.output_ids)
    to_come = _tokens_to_come(req)
    return tuple(band.num_slots_for(pool.deep_tokens_of(req, band), num_tokens, to_come) for band in pool.deep_bands)


def _fits(adder: PrefillAdder, pool: BandedReqToTokenPool, claim: Slots, gains: Sequence[Slots] = ()) -> bool:
    """Whether every deep band has the room that is claimed, if victims of a preemption gave back `gains`.

    Room is what is neither held, nor promised in this pass, nor expected by running requests.
    """
    running = adder.running_batch.reqs if adder.running_batch is not None else []
    expected = sum(adder._get_running_request_total_token_offset(req) for req in running)
    promised = DEEP_PROMISED.get(adder, (0,) * len(claim))
    ahead = [pool.num_missing(band, running) if band.num_ahead else 0 for band in pool.deep_bands]
    return all(
        claimed <= band.num_available - expected * band.grows - missing - already + sum(gained)
        for claimed, band, missing, already, *gained in zip(
            claim, pool.deep_bands, ahead, promised, *gains, strict=True
        )
    )


def _promise(adder: PrefillAdder, slots: Slots) -> None:
    """An adder lives for one scheduling pass, and so do its promises."""
    promised = DEEP_PROMISED.get(adder, (0,) * len(slots))
    DEEP_PROMISED.set(adder, tuple(already + more for already, more in zip(promised, slots, strict=True)))


def add_within_deep_room(
    original: Callable[..., AddReqResult], adder: PrefillAdder, req: Req, *args: Any, **kwargs: Any
) -> AddReqResult:
    """Hook around PrefillAdder.add_one_req: a request starts when its claim fits beside what runs."""
    pool = banded(adder.tree_cache.req_to_token_pool)
    if pool is None:
        return original(adder, req, *args, **kwargs)
    _leave_hit_of_lost_anchors(adder, pool, req)
    claim = _deep_claim(pool, req)
    if not _fits(adder, pool, claim):
        return AddReqResult.NO_TOKEN
    if _is_first_chunk_too_short(adder, pool, req):
        return AddReqResult.OTHER
    num_added = len(adder.can_run_list)
    result = original(adder, req, *args, **kwargs)
    if len(adder.can_run_list) > num_added:
        _promise(adder, claim)
        if _keep_together(adder, pool, req):
            adder.new_chunked_req = None
    return result


def _leave_hit_of_lost_anchors(adder: PrefillAdder, pool: BandedReqToTokenPool, req: Req) -> None:
    """A hit that has nothing but anchors which would be computed by themselves saves nothing: match again without."""
    if pool.would_compute_again(req, HOST.prefix_len(req) + HOST.host_hit_len(req)):
        with pool.reusing_nothing(req):
            req.init_next_round_input(adder.tree_cache)


def _is_first_chunk_too_short(adder: PrefillAdder, pool: BandedReqToTokenPool, req: Req) -> bool:
    """Whether what other requests leave of this pass for a chunk holds a part of what belongs together, and nothing
    before it."""
    if adder.rem_chunk_tokens is None or not adder.can_run_list:
        return False
    prefix_len = HOST.prefix_len(req)
    ends = [start + adder.rem_chunk_tokens for start in (prefix_len, prefix_len + HOST.host_hit_len(req))]
    ends += [end // adder.page_size * adder.page_size for end in ends]  # SGLang may round it to a page
    return any(pool.end_of_chunk(req, end, adder.page_size) > end for end in ends)


def _keep_together(adder: PrefillAdder, pool: BandedReqToTokenPool, req: Req) -> bool:
    """Let the chunk that a request was given end before what belongs in one forward, if it would end within that.

    A request in mid-prefill must go on: where nothing stands before that in its chunk it takes all of it, a few tokens
    more than the pass has for it. Returns whether it has thereby become the last chunk.
    """
    end = HOST.extend_end(req)
    kept = pool.end_of_chunk(req, end, adder.page_size)
    HOST.end_extend_at(req, kept)
    return end < kept == len(req.full_untruncated_fill_ids)


def preempt_within_deep_room(original: Callable[..., bool], adder: PrefillAdder, req: Req, *args: Any) -> bool:
    """Hook around PrefillAdder.preempt_to_schedule: preempt as many as the deep bands need, or none.

    SGLang picks victims by the main pool. Nothing begins unless all that may be preempted make enough room, and what
    begins goes on until there is.
    """
    pool = banded(adder.tree_cache.req_to_token_pool)
    if pool is None:
        return original(adder, req, *args)
    claim = _deep_claim(pool, req)
    gains = [_gain(adder, pool, victim) for victim in _preemptible(adder, req, HOST.prefers_low_priority(*args))]
    if not _fits(adder, pool, claim, gains):
        return False
    pool.preempted = adder.preempt_list
    preempted = original(adder, req, *args)
    while preempted and not _fits(adder, pool, claim):
        preempted = original(adder, req, *args)
    return preempted


def queue_preempted_again(result: tuple[Any, Any], scheduler: Any, *args: Any, **kwargs: Any) -> None:
    """Hook after Scheduler._get_new_batch_prefill_raw: who was preempted waits, whether or not anything started.

    SGLang 0.5.17 queues them again only if there is a batch; who preempted may yet find the main pool too short.
    """
    pool = banded(scheduler.req_to_token_pool)
    if pool is None:
        return
    preempted, pool.preempted = pool.preempted, []
    if result[0] is None:
        for req in preempted:
            scheduler._add_request_to_queue(req)


def _preemptible(adder: PrefillAdder, req: Req, prefers_low: bool) -> list[Req]:
    """Running requests that may make way for `req`: those whose priority is lower by more than the threshold."""
    sign = -1 if prefers_low else 1
    return [
        running
        for running in adder.running_batch.reqs
        if HOST.row_of(running) is not None
        and not running.finished()
        and sign * (req.priority - running.priority) > adder.priority_scheduling_preemption_threshold
    ]


def _gain(adder: PrefillAdder, pool: BandedReqToTokenPool, victim: Req) -> Slots:
    """Deep room that a preemption makes: what the victim owns and what it was expected to take."""
    expected = adder._get_running_request_total_token_offset(victim)
    row = HOST.row_of(victim)
    assert row is not None, f"request {victim.rid} runs without a row"
    return tuple(band.rows[row].num_owned + expected * band.grows for band in pool.deep_bands)


def keep_room_for_chunked(original: Callable[..., Req | None], adder: PrefillAdder, req: Req) -> Req | None:
    """Hook around PrefillAdder.add_chunked_req: a request in mid-prefill holds its prompt's deep slots already;
    what it may generate is promised again in every pass, because it is not in the running batch."""
    unfinished, pool = original(adder, req), banded(adder.tree_cache.req_to_token_pool)
    if pool is None:
        return unfinished
    _promise(adder, tuple(_tokens_to_come(req) * band.grows + band.num_ahead for band in pool.deep_bands))
    became_last = req in adder.can_run_list and _keep_together(adder, pool, req)
    return None if became_last else unfinished


def fit_to_deep_bands(scheduler: Any, req: Req, is_retracted: bool = False) -> None:
    """Hook before Scheduler._add_request_to_queue: refuse what can never fit, clip what would outgrow a deep band.

    A request that was retracted or preempted comes by again, and is left as it is: the limits are those of its
    prompt and of all that it may generate.
    """
    pool = banded(scheduler.req_to_token_pool)
    if pool is None:
        return
    if HOST.take_readout(req) is not None:
        req.set_finish_with_abort(
            "sglang_speed: token_indices_to_pool (score_extraction_token of /v1/score) is not supported with a SPEED "
            "model: the tokens that it reads logits at do not pass the deep layers; leave it out, or serve the "
            "full-depth checkpoint"
        )
    if req.multimodal_inputs is not None:
        req.set_finish_with_abort(
            "sglang_speed: images, video and audio are not supported with a SPEED model: their tokens are not proven "
            "in a deep band; leave them out, or serve the full-depth checkpoint"
        )
    _refuse_states_of_prompts(pool, req)
    for band in pool.deep_bands:
        if req.to_finish is None and not req.finished():
            _fit_to(band, req, band.num_slots_for(pool.deep_tokens_of(req, band), len(req.origin_input_ids)))


def _refuse_states_of_prompts(pool: BandedReqToTokenPool, req: Req) -> None:
    """Hidden states of all of a prompt are there where all of it is in the decode phase."""
    if req.return_hidden_states is not True:
        return
    deep_start = pool.deep_tokens_of(req, pool.deep_bands[0]).deep_start
    if deep_start > 0:
        req.set_finish_with_abort(
            f"sglang_speed: return_hidden_states=true is not supported for this prompt: {deep_start} of its "
            f"{len(req.origin_input_ids)} tokens have no last hidden state, since they do not pass the deep layers; "
            'ask for return_hidden_states="last" (in chats, /v1/completions or Engine.generate; /generate of SGLang '
            "0.5.23 refuses it), or also for log-probabilities with logprob_start_len=0, with which all of the prompt "
            "passes all layers"
        )


def _fit_to(band: DeepBand, req: Req, needed: int) -> None:
    """needed: slots of the request's prompt in the band."""
    limit, params = band.max_request_len, req.sampling_params
    room = limit - needed
    if room < min(1, params.max_new_tokens) * band.grows:
        band.counters.refused_requests += 1
        which = "anchors, tail and the span whose log-probabilities it asks for"
        if band.policy.chooses:
            which = "anchors, tail, what else of the prompt passes the deep layers, and what is scored behind it"
            if isinstance(band.policy, ThinnedPolicy):
                which = "what is kept of it, and what stands behind its context"
        which += f"; and {band.num_ahead} places for drafts" if band.num_ahead else ""
        shorter = "raise logprob_start_len" if req.return_logprob else "send a shorter prompt"
        req.set_finish_with_abort(
            f"sglang_speed: the request needs {needed} deep tokens for its prompt ({which}), and the {band.name} band "
            f"holds {limit}; {shorter}, or start the server with a larger {DEEP_TOKENS_VARIABLE}"
        )
    elif band.grows and params.max_new_tokens > room:
        band.counters.clipped_requests += 1
        logger.warning(
            f"sglang_speed: max_new_tokens of {req.rid} is cut from {params.max_new_tokens} to {room}, which is what "
            f"the {band.name} band can hold of one request; {DEEP_TOKENS_VARIABLE} raises it"
        )
        params.max_new_tokens = room
        params.min_new_tokens = min(params.min_new_tokens, room)

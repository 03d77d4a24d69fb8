"""What must be true of a scheduler between two turns of its loop, known from what was asked of it and nothing else.

Owns a second bookkeeping beside the scheduler's: which requests there are, how many tokens each may answer, which of
its tokens are deep, and who holds which slot of either band. It reads the scheduler's state and changes none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.served import active_pool
from tests import host
from tests.catalogue import Bands
from tests.inprocess.parity.expected import Ask, Expected
from tests.scheduler_harness import Answer, SchedulerHarness


@dataclass
class Sent:
    """A request that was sent. may_abort: somebody asked for its end before it came by itself."""

    ask: Ask
    stops_at_once: bool = False
    may_abort: bool = False
    is_settled: bool = False


@dataclass(frozen=True)
class Limits:
    """Sizes of the two bands, as they were asked for; page_size and context belong to the shallow band."""

    deep_tokens: int
    shallow_tokens: int
    page_size: int


def deep_positions(bands: Bands, ask: Ask, num_tokens: int, band: int = 0) -> int:
    """How many of a request's first `num_tokens` tokens are deep in a band, counted one by one."""
    start = max(0, len(ask.prompt) - bands.tail_tokens)
    if ask.scored_from is not None and ask.scored_from >= 0:
        start = min(start, ask.scored_from)
    anchors = min(bands.anchor_tokens, start)
    deep = {position for position in range(num_tokens) if position < anchors or position >= start}
    end = min(len(ask.prompt), start + bands.tail_tokens)
    for begin, stop in messages_of(bands, ask.prompt[:end]):
        if stop - begin <= (bands.deep_message_tokens or 0):
            deep |= {*range(begin, stop)}
    if bands.policy != "fastkv":
        return len(deep)
    window = 8 if bands.select_window is None else bands.select_window
    deep |= {*range(max(0, end - window), end)}
    ratio = bands.select_ratio[band] if isinstance(bands.select_ratio, tuple) else bands.select_ratio or 0.2
    return len(deep) + max(0, int(ratio * end) - sum(position < end for position in deep))


def kept_positions(bands: Bands, ask: Ask) -> tuple[int, int]:
    """How many of a context are seen behind it, where it is thinned, and how long it is."""
    start = max(0, len(ask.prompt) - bands.tail_tokens)
    if ask.scored_from is not None and ask.scored_from >= 0:
        start = min(start, ask.scored_from)
    end = min(len(ask.prompt), start + bands.tail_tokens)
    window = 8 if bands.select_window is None else bands.select_window
    chosen = {*range(min(bands.anchor_tokens, start)), *range(max(0, end - window), end)}
    return max(len(chosen), int((bands.kv_keep or 1) * end)), end


def messages_of(bands: Bands, context: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each message of a context begins and ends."""
    delimiters = bands.message_delimiters or ()
    begins = [
        place
        for place in range(len(context))
        if any(tuple(context[place : place + len(delimiter)]) == delimiter for delimiter in delimiters)
    ]
    if begins:
        yield from pairwise([0, *begins[1:], len(context)])


class Shadow:
    """The requests of one scheduler. `check` after every turn, `settle` raises for a wrong answer."""

    def __init__(self, expected: Expected, engine: SchedulerHarness, limits: Limits) -> None:
        self.expected = expected
        self.engine = engine
        self.limits = limits
        self.sent: dict[str, Sent] = {}
        self.seen: Counter[str] = Counter()

    @property
    def unanswered(self) -> list[str]:
        return [name for name, sent in self.sent.items() if not sent.is_settled]

    @property
    def answered(self) -> list[tuple[Ask, Answer]]:
        """Requests that ended by themselves, which a chat may go on from."""
        ended = [(sent.ask, self.engine.answers[name]) for name, sent in self.sent.items() if sent.is_settled]
        return [(ask, answer) for ask, answer in ended if not answer.was_aborted]

    def may_abort(self, names: list[str]) -> None:
        for name in names:
            self.sent[name].may_abort = True

    def check(self) -> None:
        """AssertionError or IntegrityError for anything lost, doubled, miscounted or answered wrongly."""
        self._settle()
        self._require_all_requests_known()
        self._require_shallow_slots_owned_once()
        pool = active_pool()
        pool.check_integrity()
        self._require_deep_rows()

    # Answers

    def num_expected(self, ask: Ask) -> int:
        """Tokens that a request is answered with: what was asked for, cut to what either band can hold of it."""
        pages = -(-len(ask.prompt) // self.limits.page_size)
        shallow = self.limits.shallow_tokens - (pages + 1) * self.limits.page_size - 1
        context = self.engine.scheduler.max_req_len - len(ask.prompt) - 1
        return max(0, min(ask.max_new_tokens, shallow, context, self._deep_room(ask)))

    def never_fits(self, ask: Ask) -> bool:
        too_long = len(ask.prompt) >= self.engine.scheduler.max_req_input_len
        return too_long or self._deep_room(ask) < min(1, ask.max_new_tokens)

    def _deep_room(self, ask: Ask) -> int:
        if self.expected.bands.kv_keep is not None:
            kept, end = kept_positions(self.expected.bands, ask)
            in_context = deep_positions(self.expected.bands, ask, len(ask.prompt)) - (len(ask.prompt) - end)
            behind = self.limits.deep_tokens - kept - (len(ask.prompt) - end)
            return behind if in_context <= self.limits.deep_tokens else -1
        return self.limits.deep_tokens - deep_positions(self.expected.bands, ask, len(ask.prompt))

    def _settle(self) -> None:
        for name in self.unanswered:
            answer = self.engine.answers[name]
            if answer.finish_reason is not None:
                self._require_answer(self.sent[name], answer)
                self.sent[name].is_settled = True
                self._count(self.sent[name], answer)

    def _require_answer(self, sent: Sent, answer: Answer) -> None:
        ask = sent.ask
        if answer.was_aborted:
            assert sent.may_abort or self.never_fits(ask), f"{answer.finish_reason} for {ask}"
            if self.never_fits(ask):  # SGLang ran another prompt in its place
                assert sent.may_abort or len(answer.finish_reason["message"]) > len("Aborted"), "a refusal says why"
                return
            num_tokens = len(answer.output_ids)
            if self.num_expected(ask) == 0 and answer.output_ids in ([], [0]):
                return  # SGLang draws no token where a batch wants none, and an abort tells of the zero in its place
            num_allowed = max(1, self.num_expected(ask))
            assert num_tokens <= num_allowed, f"{num_tokens} tokens before the abort of {ask}"
        else:
            assert not self.never_fits(ask), f"{answer} for {ask}, which can never fit"
            num_tokens = min(self.num_expected(ask), 1 if sent.stops_at_once else ask.max_new_tokens)
            if not sent.stops_at_once:
                self.expected.require(answer, replace(ask, max_new_tokens=num_tokens))
        self.expected.require_tokens(answer.output_ids, ask, num_tokens)

    def _count(self, sent: Sent, answer: Answer) -> None:
        self.seen["requests"] += 1
        self.seen["aborted"] += answer.was_aborted and sent.may_abort
        self.seen["refused"] += answer.was_aborted and not sent.may_abort
        self.seen["clipped"] += not answer.was_aborted and self.num_expected(sent.ask) < sent.ask.max_new_tokens
        self.seen["retractions"] += answer.num_retractions
        self.seen["prefix hits"] += answer.cached_tokens > 0

    # Requests

    def holders(self) -> dict[str, Any]:
        """Requests that hold a row, by name."""
        scheduler = self.engine.scheduler
        batches = [batch for batch in (scheduler.running_batch, scheduler.last_batch) if batch is not None]
        reqs = [req for batch in batches for req in batch.reqs]
        reqs += [scheduler.chunked_req] if scheduler.chunked_req is not None else []
        return {req.rid: req for req in reqs if HOST.row_of(req) is not None}

    def _require_all_requests_known(self) -> None:
        """Each is still to be delivered, or waits, or holds a row, or was answered: one of them."""
        places = Counter(req.rid for req in self.engine.scheduler.waiting_queue)
        places.update(self.holders().keys())
        places.update(self._undelivered())
        places.update(name for name, sent in self.sent.items() if sent.is_settled)
        astray = {name: places[name] for name in self.sent if places[name] != 1}
        assert not astray, f"requests in no place, or in several: {astray}"
        assert all(HOST.row_of(req) is None for req in self.engine.scheduler.waiting_queue), (
            "a waiting request has a row"
        )

    def _undelivered(self) -> Iterator[str]:
        for message in self.engine.feed.messages:
            if hasattr(message.payload, "input_ids"):
                yield message.payload.rid

    # Slots

    def _require_shallow_slots_owned_once(self) -> None:
        """Every page is free, in the tree, or held by one request beyond what it has in the tree."""
        scheduler, page_size = self.engine.scheduler, self.limits.page_size
        allocator, tree = scheduler.token_to_kv_pool_allocator, scheduler.tree_cache
        pages = Counter(host.free_pages(allocator))
        if tree.evictable_size() + tree.protected_size() > 0:
            pages.update(slot // page_size for slot in tree.all_values_flatten().tolist()[::page_size])
        for req in self.holders().values():
            slots = scheduler.req_to_token_pool.req_to_token[HOST.row_of(req), : req.kv.kv_allocated_len].tolist()
            pages.update(slot // page_size for slot in slots[host.cached_len(req) :: page_size])
        wrong = {page: count for page, count in pages.items() if count != 1}
        assert not wrong, f"pages with several owners: {wrong}"
        num_pages = allocator.size // page_size
        assert set(pages) == set(range(1, num_pages + 1)), f"{len(pages)} pages have an owner, there are {num_pages}"

    def _require_deep_rows(self) -> None:
        """Those who hold a row hold deep rows of the length and the gap that the method says, and nobody else."""
        for number, band in enumerate(active_pool().deep_bands):
            self._require_rows_of(band, number)

    def _require_rows_of(self, deep: DeepBand, number: int) -> None:
        holders = self.holders()
        rows = {HOST.row_of(req): name for name, req in holders.items()}
        assert set(deep.rows) == set(rows), f"deep rows {sorted(deep.rows)}, rows that are held {sorted(rows)}"
        for row, name in rows.items():
            req, ask = holders[name], self._ask_as_run(name)
            num_tokens = max(len(req.full_untruncated_fill_ids), req.kv.kv_allocated_len)
            bands = self.expected.bands
            if bands.kv_keep is not None:
                self._require_thinned_row(deep, name, deep.rows[row].length, num_tokens)
                continue
            own = deep_positions(bands, ask, num_tokens, number)
            length = num_tokens if bands.is_filled else own
            assert deep.rows[row].length == length, f"{name} sees {deep.rows[row].length} tokens, not {length}"
            shared = 0 if deep.rows[row].anchors is None else deep.rows[row].anchors.num_slots
            assert deep.rows[row].num_owned == own - shared, f"{name} has {deep.rows[row].num_owned} slots, not {own}"
            gap = 0 if bands.is_filled else len(ask.prompt) - deep_positions(bands, ask, len(ask.prompt), number)
            assert int(deep.gap[row]) == int(deep.gap_cpu[row]) == gap, (
                f"{name} has gap {int(deep.gap[row])}, not {gap}"
            )

    def _require_thinned_row(self, deep: DeepBand, name: str, length: int, num_tokens: int) -> None:
        """A request is in the deep bands until it decodes; behind its context it sees what is kept."""
        ask, bands = self._ask_as_run(name), self.expected.bands
        kept, end = kept_positions(bands, ask)
        if deep.grows:
            assert length == kept + num_tokens - end, f"{name} sees {length} of {num_tokens} tokens, {kept} of {end}"
        else:
            own = deep_positions(bands, Ask(ask.prompt[:end], 0, ask.scored_from), end)
            assert length in (0, own), f"{name} has {length} slots, not {own}"

    def _ask_as_run(self, name: str) -> Ask:
        """SGLang runs what it refuses as a prompt of one token."""
        ask = self.sent[name].ask
        return Ask([0], 0) if self.never_fits(ask) else ask

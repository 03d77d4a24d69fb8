"""SGLang's request table with the deep bands beside it.

A request row is where a deep band's slots live and die: taken when SGLang gives a request its row, given
back when SGLang frees it, which covers finish, abort, retraction, preemption and flush in one place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from torch import Tensor

from sglang_speed.errors import IntegrityError, raise_violations
from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.counters import BandCounters
from sglang_speed.kv_pool.deep_band import Admission, DeepBand
from sglang_speed.method.bands import SHALLOW
from sglang_speed.method.deep_tokens import DeepTokens
from sglang_speed.policies import ThinnedPolicy

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


def banded(pool: Any) -> BandedReqToTokenPool | None:
    """A request pool that has deep bands, None for any other."""
    return pool if isinstance(pool, BandedReqToTokenPool) else None


@dataclass(frozen=True)
class _InBand:
    """A request as one deep band sees it. anchor_key: None where its anchors must not be shared."""

    band: DeepBand
    deep: DeepTokens
    anchor_key: Hashable | None

    @property
    def finds_anchors(self) -> bool:
        return self.deep.num_anchors == 0 or self.anchor_key in self.band.anchors


@dataclass(frozen=True)
class Drafted:
    """Where a verified batch writes in a deep band. slots: [num_rows], int64, in the order of the batch's rows."""

    band: DeepBand
    slots: Tensor


class BandedReqToTokenPool(ReqToTokenPool):
    """A request table whose rows own deep slots. `attach` comes before the first request.

    deep_bands: from the bottom up; where contexts are thinned, the band of all layers behind them comes last.
    counters: by the name of the band, the shallow one included.
    preempted: requests that the scheduling pass at hand has preempted.
    resting: rows that sessions keep between their turns; they are in no deep band.
    drafted: what the verified batch at hand writes in each deep band beside the slots of the main pool; see `Drafted`.
    """

    deep_bands: tuple[DeepBand, ...]
    counters: dict[str, BandCounters]
    preempted: list[Req]
    resting: set[int]
    drafted: list[Drafted]
    _known: WeakKeyDictionary[Req, dict[Hashable, DeepTokens]]
    _reusing_nothing: Req | None
    _num_admitted: int
    _idle_checked_at: int

    @classmethod
    def adopt(cls, pool: ReqToTokenPool) -> BandedReqToTokenPool:
        """The same table under this class; `pool` must not be used any more."""
        adopted = cls.__new__(cls)
        adopted.__dict__.update(pool.__dict__)
        return adopted

    def attach(self, deep_bands: Sequence[DeepBand]) -> None:
        self.deep_bands = tuple(deep_bands)
        self.counters = {SHALLOW: BandCounters(), **{band.name: band.counters for band in deep_bands}}
        self.preempted, self.resting, self.drafted = [], set(), []
        self._known = WeakKeyDictionary()
        self._reusing_nothing = None
        self._num_admitted = 0
        self._idle_checked_at = -1

    @property
    def growing_bands(self) -> list[DeepBand]:
        """Those in which each decode step takes a slot."""
        return [band for band in self.deep_bands if band.grows]

    def num_missing(self, band: DeepBand, reqs: Sequence[Req]) -> int:
        """Slots that a decode step of running requests takes in a band."""
        if not band.num_ahead:
            return len(reqs)
        lengths = {row: HOST.committed_len(req) for req in reqs if (row := HOST.row_of(req)) is not None}
        return band.num_missing([*lengths], [*lengths.values()])

    def context_end_of(self, req: Req) -> int | None:
        """What stands behind it depends on the request itself, where its context is thinned; None where it is not."""
        *_, top = self.deep_bands
        context = self.deep_tokens_of(req, top).context
        return context.end if isinstance(top.policy, ThinnedPolicy) and context is not None else None

    def deep_tokens_of(self, req: Req, band: DeepBand) -> DeepTokens:
        """The tokens of a request that are deep in a band, from its prompt's length and its scored span alone."""
        row = HOST.row_of(req)
        if row is not None and row in band.rows:
            return band.rows[row].deep
        scored_from = req.logprob_start_len if req.return_logprob and req.logprob_start_len >= 0 else None
        key, known = (band.name, len(req.origin_input_ids), scored_from), self._known.setdefault(req, {})
        if key not in known:  # messages are looked for once, however often the scheduler asks
            known[key] = band.policy.deep_tokens(len(req.origin_input_ids), scored_from, req.origin_input_ids)
        return known[key]

    def end_of_chunk(self, req: Req, end: int, page_size: int) -> int:
        """Where a chunk of a request that would end at `end` must end, so that what belongs in one forward is not taken
        apart: before that, or else behind it."""
        contexts = [self.deep_tokens_of(req, band).context for band in self.deep_bands]
        found = [context for context in contexts if context is not None]
        if not any(context.is_cut_at(end) for context in found):
            return end
        before = min(context.whole_from for context in found) // page_size * page_size
        return before if before > HOST.prefix_len(req) else found[0].end

    def max_reusable_prefix(self, req: Req) -> int:
        """Longest prefix of a request that may come from the radix tree."""
        return 0 if req is self._reusing_nothing else _max_reusable_prefix(self._in_bands(req))

    def would_compute_again(self, req: Req, hit: int) -> bool:
        """Whether a hit of so many tokens has nothing but anchors that are lost."""
        in_bands = self._in_bands(req)
        return 0 < hit <= in_bands[0].deep.num_anchors_before(hit) and not _reuses_anchors(in_bands)

    @contextmanager
    def reusing_nothing(self, req: Req) -> Iterator[None]:
        """Until the block ends, nothing of a request may come from the radix tree."""
        self._reusing_nothing = req
        try:
            yield
        finally:
            self._reusing_nothing = None

    def alloc(self, reqs: list[Req]) -> list[int] | None:
        new = [req for req in reqs if HOST.row_of(req) is None or HOST.row_of(req) in self.resting]
        rows = super().alloc(reqs)
        if rows is not None:
            self.resting.difference_update(rows)
            self._num_admitted += len(new)
            self._admit(new)
        return rows

    def free(self, req: Req) -> None:
        """Also of a session that ends between its turns."""
        row = HOST.row_of(req)
        assert row is not None, f"{req} has no row to free"
        for band in self.deep_bands:
            band.release(row)
        self.resting.discard(row)
        super().free(req)

    def rest(self, row: int) -> None:
        """A turn has ended whose session keeps the row; the next turn is admitted to the deep bands again."""
        for band in self.deep_bands:
            band.release(row)
        self.resting.add(row)

    def write(self, indices: Any, values: Any) -> None:
        """The radix tree replaces slots of a running request by its own: filled tokens lie where the tree says."""
        super().write(indices, values)
        row, columns = indices
        if isinstance(columns, slice):
            for band in self.deep_bands:
                band.fill(int(row), columns, values)

    def fill(self, rows: Sequence[int], seq_lens: Sequence[int]) -> None:
        """Let rows see what is filled in for them before an extend that ends at `seq_lens`: SGLang may write its table
        on the device, which `write` does not see."""
        for band in self.deep_bands:
            for row, seq_len in zip(rows, seq_lens, strict=True):
                band.fill(row, slice(0, seq_len), self.req_to_token[row, :seq_len])

    def clear(self) -> None:
        super().clear()
        self.resting.clear()
        for band in self.deep_bands:
            band.clear()

    def _in_bands(self, req: Req) -> list[_InBand]:
        deep = [(band, self.deep_tokens_of(req, band)) for band in self.deep_bands]
        return [_InBand(band, tokens, _anchor_key(req, band, tokens)) for band, tokens in deep]

    def _admit(self, reqs: list[Req]) -> None:
        seen = [self._in_bands(req) for req in reqs]
        for req, in_bands in zip(reqs, seen, strict=True):
            self._begin(req, in_bands)
        admissions = [_admissions(req, in_bands) for req, in_bands in zip(reqs, seen, strict=True)]
        for number, band in enumerate(self.deep_bands):
            band.admit([of_req[number] for of_req in admissions])

    def _begin(self, req: Req, in_bands: Sequence[_InBand]) -> None:
        # A longer hit would leave deep rows uncomputed: garbage, so it must never pass.
        longest = _max_reusable_prefix(in_bands)
        assert HOST.prefix_len(req) <= longest, (
            f"request {req.rid} reuses {HOST.prefix_len(req)} tokens, and {longest} at most leave its deep rows "
            "computed"
        )
        if req.retraction_count == 0 and req.to_finish is None:
            self._count(req, in_bands)

    def _count(self, req: Req, in_bands: Sequence[_InBand]) -> None:
        shallow, prompt_len, reused = self.counters[SHALLOW], len(req.origin_input_ids), _reuses_anchors(in_bands)
        shallow.prompt_tokens += prompt_len
        shallow.reused_tokens += HOST.prefix_len(req)
        for each in in_bands:
            counters = each.band.counters
            counters.prompt_tokens += each.deep.num_before(prompt_len)
            counters.reused_tokens += each.deep.num_anchors if reused else 0
            counters.anchor_misses += int(each.anchor_key is not None and not reused)
            counters.selected_tokens += each.deep.num_selected
            counters.filled_tokens += each.deep.num_shallow if each.deep.is_filled else 0

    def check_integrity(self) -> None:
        """Raise IntegrityError with both sides of every sum that does not hold, in this table or a deep band."""
        raise_violations("request table", self.violations())

    def violations(self) -> Iterator[str]:
        """Every row from 1 to size is free, kept by a session or owned by every deep band, once; row 0 is padding."""
        for band in self.deep_bands:
            free, owned = [*self.free_slots, *self.resting], band.rows
            if sorted([*free, *owned]) != list(range(1, self.size + 1)):
                yield f"{len(free)} free rows + {len(owned)} rows in the {band.name} band != rows 1..{self.size}"
                neither, both = {*range(1, self.size + 1)} - {*free, *owned}, {*free} & {*owned}
                yield f"neither: {sorted(neither)}, both: {sorted(both)}"
            yield from band.violations()
            yield from band.filled_violations(self.req_to_token)

    def check_idle(self) -> None:
        """Raise IntegrityError unless all sums hold and no row is in use.

        Looks once after the last admission: an idle server asks in a loop.
        """
        if self._idle_checked_at == self._num_admitted:
            return
        self.check_integrity()
        in_use = {band.name: sorted(band.rows) for band in self.deep_bands if band.rows}
        if in_use:
            raise IntegrityError(f"request table: idle, but rows are in use: {in_use}")
        self._idle_checked_at = self._num_admitted


def _anchor_key(req: Req, band: DeepBand, deep: DeepTokens) -> Hashable | None:
    """What the anchors' deep KV depends on: the namespace and the anchor tokens.

    None where anchors must not be shared: the policy says so, or the embeddings do not come from the token ids.
    """
    if req.input_embeds is not None or req.positional_embed_overrides is not None:
        return None
    tokens = band.policy.anchor_tokens(req.origin_input_ids, deep)
    return None if tokens is None else (HOST.namespace_of(req), tokens)


def _reuses_anchors(in_bands: Sequence[_InBand]) -> bool:
    """Shared anchors are taken in all bands or in none: a row that a band computes comes from the band below it."""
    return any(each.anchor_key is not None for each in in_bands) and all(each.finds_anchors for each in in_bands)


def _max_reusable_prefix(in_bands: Sequence[_InBand]) -> int:
    """Anchors that are not there are computed by themselves, where their token ids say what they are."""
    return min(each.band.policy.max_reusable_prefix(each.deep, each.anchor_key is not None) for each in in_bands)


def _admissions(req: Req, in_bands: Sequence[_InBand]) -> list[Admission]:
    """What a request asks of each band."""
    reused = _reuses_anchors(in_bands)
    row, num_tokens, first_chunk_end = HOST.row_of(req), len(req.full_untruncated_fill_ids), HOST.extend_end(req)
    assert row is not None, f"request {req.rid} is admitted without a row"
    prefix_len = 0 if reused else HOST.prefix_len(req)
    lost = [tuple(req.origin_input_ids[: each.deep.num_anchors_before(prefix_len)]) for each in in_bands]
    return [
        Admission(row, each.deep, num_tokens, first_chunk_end, each.anchor_key, reused, anchors)
        for each, anchors in zip(in_bands, lost, strict=True)
    ]

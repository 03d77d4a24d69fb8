"""SGLang's request table with the deep band beside it.

A request row is where the deep band's slots live and die: taken when SGLang gives a request its row, given
back when SGLang frees it, which covers finish, abort, retraction, preemption and flush in one place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from sglang.srt.mem_cache.memory_pool import KVCache, ReqToTokenPool

from sglang_speed.errors import IntegrityError, raise_violations
from sglang_speed.kv_pool.counters import BandCounters
from sglang_speed.kv_pool.deep_band import Admission, DeepBand
from sglang_speed.method.bands import SHALLOW
from sglang_speed.method.deep_tokens import DeepTokens
from sglang_speed.policies import DepthPolicy

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


def banded(pool: Any) -> BandedReqToTokenPool | None:
    """A request pool that has a deep band, None for any other."""
    return pool if isinstance(pool, BandedReqToTokenPool) else None


class BandedReqToTokenPool(ReqToTokenPool):
    """A request table whose rows own deep slots. `attach` comes before the first request.

    preempted: requests that the scheduling pass at hand has preempted. counters: by the name of the band.
    """

    deep: DeepBand
    policy: DepthPolicy
    deep_kv_pool: KVCache
    counters: dict[str, BandCounters]
    preempted: list[Req]
    _num_admitted: int
    _idle_checked_at: int

    @classmethod
    def adopt(cls, pool: ReqToTokenPool) -> BandedReqToTokenPool:
        """The same table under this class; `pool` must not be used any more."""
        adopted = cls.__new__(cls)
        adopted.__dict__.update(pool.__dict__)
        return adopted

    def attach(self, deep: DeepBand, policy: DepthPolicy, deep_kv_pool: KVCache) -> None:
        self.deep = deep
        self.policy = policy
        self.deep_kv_pool = deep_kv_pool
        self.counters = {SHALLOW: BandCounters(), deep.name: deep.counters}
        self.preempted = []
        self._num_admitted = 0
        self._idle_checked_at = -1

    def deep_tokens_of(self, req: Req) -> DeepTokens:
        """The deep tokens of a request, from its prompt's length and its scored span alone."""
        scored_from = req.logprob_start_len if req.return_logprob and req.logprob_start_len >= 0 else None
        return self.policy.deep_tokens(len(req.origin_input_ids), scored_from)

    def anchor_key_of(self, req: Req, deep: DeepTokens) -> Hashable | None:
        """What the anchors' deep KV depends on: the namespace and the anchor tokens.

        None where anchors must not be shared: the policy says so, or the embeddings do not come from the token ids.
        """
        if req.input_embeds is not None or req.positional_embed_overrides is not None:
            return None
        tokens = self.policy.anchor_tokens(req.origin_input_ids, deep)
        return None if tokens is None else (req.extra_key, tokens)

    def max_reusable_prefix(self, req: Req) -> int:
        """Longest prefix of a request that may come from the radix tree."""
        deep = self.deep_tokens_of(req)
        key = self.anchor_key_of(req, deep)
        return self.policy.max_reusable_prefix(deep, anchors_cached=key is not None and key in self.deep.anchors)

    def alloc(self, reqs: list[Req]) -> list[int] | None:
        new = [req for req in reqs if req.req_pool_idx is None]
        rows = super().alloc(reqs)
        if rows is not None:
            self._num_admitted += len(new)
            self.deep.admit([self._admission(req) for req in new])
        return rows

    def free(self, req: Req) -> None:
        self.deep.release(req.req_pool_idx)
        super().free(req)

    def clear(self) -> None:
        super().clear()
        self.deep.clear()

    def _admission(self, req: Req) -> Admission:
        deep = self.deep_tokens_of(req)
        key = self.anchor_key_of(req, deep)
        prefix_len = len(req.prefix_indices)
        cached = key is not None and key in self.deep.anchors
        # A longer hit would leave deep rows uncomputed: garbage, so it must never pass.
        assert prefix_len <= self.policy.max_reusable_prefix(deep, cached), (
            f"request {req.rid} reuses {prefix_len} tokens, {deep} with {cached=} anchors allows fewer"
        )
        if req.retraction_count == 0 and req.to_finish is None:
            self._count(req, deep, key, cached)
        return Admission(req.req_pool_idx, deep, len(req.full_untruncated_fill_ids), req.extend_range.end, key)

    def _count(self, req: Req, deep: DeepTokens, key: Hashable | None, cached: bool) -> None:
        prompt_len = len(req.origin_input_ids)
        shallow, mine = self.counters[SHALLOW], self.deep.counters
        shallow.prompt_tokens += prompt_len
        shallow.reused_tokens += len(req.prefix_indices)
        mine.prompt_tokens += deep.num_before(prompt_len)
        mine.reused_tokens += deep.num_anchors if cached else 0
        mine.anchor_misses += int(key is not None and not cached)

    def check_integrity(self) -> None:
        """Raise IntegrityError with both sides of every sum that does not hold, in this table or the deep band."""
        raise_violations("request table", self.violations())

    def violations(self) -> Iterator[str]:
        """Every row from 1 to size is free or owned by the deep band, once; row 0 is padding."""
        free, owned = self.free_slots, self.deep.rows
        if sorted([*free, *owned]) != list(range(1, self.size + 1)):
            yield f"{len(free)} free rows + {len(owned)} rows of requests != rows 1..{self.size}"
            yield f"neither: {sorted({*range(1, self.size + 1)} - {*free, *owned})}, both: {sorted({*free} & {*owned})}"
        yield from self.deep.violations()

    def check_idle(self) -> None:
        """Raise IntegrityError unless all sums hold and no row is in use.

        Looks once after the last admission: an idle server asks in a loop.
        """
        if self._idle_checked_at == self._num_admitted:
            return
        self.check_integrity()
        if self.deep.rows:
            raise IntegrityError(f"request table: idle, but rows {sorted(self.deep.rows)} are in use")
        self._idle_checked_at = self._num_admitted

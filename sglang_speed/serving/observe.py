"""SGLang's log lines and usage, which show both pools, and the checks that stop the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang.srt.managers.scheduler_components.pool_stats_observer import PoolStats, SchedulerPoolStatsObserver

from sglang_speed.errors import IntegrityError
from sglang_speed.kv_pool.request_pool import banded


@dataclass
class BandedPoolStats(PoolStats):
    """SGLang's pool statistics and the deep band's. What can be evicted does not count as used, in either band."""

    deep_num_used: int = 0
    deep_capacity: int = 1

    @property
    def deep_usage(self) -> float:
        return self.deep_num_used / self.deep_capacity

    def get_max_pool_usage(self) -> float:
        return max(super().get_max_pool_usage(), self.deep_usage)

    def get_prefill_usage_msg_parts(self) -> list[str]:
        return [*super().get_prefill_usage_msg_parts(), f"deep token usage: {self.deep_usage:.2f}"]

    def get_decode_usage_msg_parts(self) -> list[str]:
        deep = f"#deep token: {self.deep_num_used}, deep token usage: {self.deep_usage:.2f}"
        return [*super().get_decode_usage_msg_parts(), deep]


def add_deep_stats(stats: PoolStats, observer: SchedulerPoolStatsObserver) -> PoolStats | None:
    """Hook after SchedulerPoolStatsObserver.get_pool_stats."""
    pool = banded(observer.req_to_token_pool)
    if pool is None:
        return None
    return BandedPoolStats(**vars(stats), deep_num_used=pool.deep.num_in_use, deep_capacity=pool.deep.capacity)


def check_when_idle(_: Any, checker: Any) -> None:
    """Hook after SchedulerInvariantChecker._check_req_pool, which SGLang calls when it is idle and only then.

    Raises IntegrityError, which stops the server.
    """
    pool = banded(checker.req_to_token_pool)
    if pool is not None:
        pool.check_idle()


def check_when_busy(_: Any, checker: Any) -> None:
    """Hook after SchedulerInvariantChecker.self_check_during_busy (SGLang's strict mode)."""
    pool = banded(checker.req_to_token_pool)
    if pool is None:
        return
    pool.check_integrity()
    unknown = checker.pool_stats_observer.active_pool_idxs() - set(pool.deep.rows)
    if unknown:
        raise IntegrityError(
            f"request table: requests run in rows {sorted(unknown)}, which the deep band does not know"
        )

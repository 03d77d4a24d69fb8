"""SGLang's log lines and usage, which show both pools, and the checks that stop the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sglang.srt.managers.scheduler_components.pool_stats_observer import PoolStats, SchedulerPoolStatsObserver

from sglang_speed.errors import IntegrityError
from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.request_pool import banded


@dataclass
class BandedPoolStats(PoolStats):
    """SGLang's pool statistics and those of the deep bands. What can be evicted does not count as used, in any band.

    deep: for the name of each deep band, the tokens in use and its capacity.
    """

    deep: dict[str, tuple[int, int]] = field(default_factory=dict)

    def get_max_pool_usage(self) -> float:
        return max(super().get_max_pool_usage(), *(used / capacity for used, capacity in self.deep.values()))

    def get_prefill_usage_msg_parts(self) -> list[str]:
        return [*super().get_prefill_usage_msg_parts(), *self._usage_of_deep_bands()]

    def get_decode_usage_msg_parts(self) -> list[str]:
        tokens = [f"#{name} token: {used}" for name, (used, _) in self.deep.items()]
        return [*super().get_decode_usage_msg_parts(), *tokens, *self._usage_of_deep_bands()]

    def _usage_of_deep_bands(self) -> Iterator[str]:
        for name, (used, capacity) in self.deep.items():
            yield f"{name} token usage: {used / capacity:.2f}"


def add_deep_stats(stats: PoolStats, observer: SchedulerPoolStatsObserver) -> PoolStats | None:
    """Hook after SchedulerPoolStatsObserver.get_pool_stats."""
    pool = banded(observer.req_to_token_pool)
    if pool is None:
        return None
    deep = {band.name: (band.num_in_use, band.capacity) for band in pool.deep_bands}
    return BandedPoolStats(**vars(stats), deep=deep)


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
    in_use = HOST.rows_in_use(checker)
    for band in pool.deep_bands:
        unknown = in_use - set(band.rows)
        if unknown:
            raise IntegrityError(
                f"request table: requests run in rows {sorted(unknown)}, which the {band.name} band does not know"
            )

"""Which tokens of a request are deep, and where each stands in the deep sequence.

The deep band of a request is an ordinary causal sequence: its anchors, then every position from the deep
start on. All that follows is arithmetic on two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeepTokens:
    """The deep tokens of one request: positions `[0, num_anchors)` and `[deep_start, infinity)`.

    num_anchors: `a = min(k, deep_start)`.
    deep_start: first position of the decode phase.
    """

    num_anchors: int
    deep_start: int

    def __post_init__(self) -> None:
        assert 0 <= self.num_anchors <= self.deep_start, f"{self.num_anchors=} is not in [0, {self.deep_start=}]"

    @property
    def gap(self) -> int:
        """Prompt positions that never reach the deep band. In decode at length n the deep length is `n - gap`."""
        return self.deep_start - self.num_anchors

    def is_deep(self, position: int) -> bool:
        return position < self.num_anchors or position >= self.deep_start

    def index_of(self, position: int) -> int:
        """Place of a deep position in the deep sequence."""
        assert self.is_deep(position), f"{position=} is shallow-only in {self}"
        return position if position < self.num_anchors else position - self.gap

    def num_before(self, position: int, anchors_cached: bool = False) -> int:
        """Deep tokens before `position`, `D(p) = min(p, a) + max(0, p - deep_start)`.

        Cached anchors count from the start: another request has computed them.
        """
        anchors = self.num_anchors if anchors_cached else min(position, self.num_anchors)
        return anchors + max(0, position - self.deep_start)

    def computed_in(self, start: int, end: int, anchors_cached: bool = False) -> tuple[range, range]:
        """Deep positions that a forward over `[start, end)` must compute: (anchors, decode phase)."""
        anchors = range(0) if anchors_cached else range(min(start, self.num_anchors), min(end, self.num_anchors))
        return anchors, range(max(start, self.deep_start), max(end, self.deep_start))

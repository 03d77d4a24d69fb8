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
    is_filled: whether the positions between them are visible in the deep band too, with KV that is filled in.
    """

    num_anchors: int
    deep_start: int
    is_filled: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.num_anchors <= self.deep_start, f"{self.num_anchors=} is not in [0, {self.deep_start=}]"

    @property
    def num_shallow(self) -> int:
        """Prompt positions that are not computed in the deep band."""
        return self.deep_start - self.num_anchors

    @property
    def gap(self) -> int:
        """Prompt positions that are not visible in the deep band. In decode at length n it sees `n - gap`."""
        return 0 if self.is_filled else self.num_shallow

    def is_deep(self, position: int) -> bool:
        return position < self.num_anchors or position >= self.deep_start

    def index_of(self, position: int) -> int:
        """Number of a deep position among those that are computed."""
        assert self.is_deep(position), f"{position=} is shallow-only in {self}"
        return position if position < self.num_anchors else position - self.num_shallow

    def num_before(self, position: int, anchors_cached: bool = False) -> int:
        """Deep tokens before `position`, `D(p) = min(p, a) + max(0, p - deep_start)`.

        Cached anchors count from the start: another request has computed them.
        """
        anchors = self.num_anchors if anchors_cached else min(position, self.num_anchors)
        return anchors + max(0, position - self.deep_start)

    def num_visible_before(self, position: int, anchors_cached: bool = False) -> int:
        """What a row at `position` sees in the deep band, itself excluded: its place in the band's sequence."""
        return position if self.is_filled else self.num_before(position, anchors_cached)

    def computed_in(self, start: int, end: int, anchors_cached: bool = False) -> tuple[range, range]:
        """Deep positions that a forward over `[start, end)` must compute: (anchors, decode phase)."""
        anchors = range(0) if anchors_cached else range(min(start, self.num_anchors), min(end, self.num_anchors))
        return anchors, range(max(start, self.deep_start), max(end, self.deep_start))

"""Which tokens of a request are deep, and where each stands in the deep sequence.

The deep band of a request is an ordinary causal sequence: its deep tokens in the order of their positions. From the
deep start on every token is one, so all that the scheduler must know is arithmetic on a few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """Deep tokens of a prompt that are computed together, by the forward that reaches the context end, from the hidden
    states at the cutoff.

    end: `E`; what stands at or behind it is computed as it comes.
    chosen: positions below it that are deep by themselves, in ascending ranges that do not touch; from the deep start
        on all.
    num_deep: deep tokens below it, those that scores choose included.
    window_from: positions from here to the end score the others, where scores choose.
    whole_from: positions from here to the end belong in one forward, whose queries choose, or whose logits are read.
    """

    end: int
    chosen: tuple[range, ...]
    num_deep: int
    window_from: int
    whole_from: int

    def __post_init__(self) -> None:
        assert self.num_chosen <= self.num_deep <= self.end, f"{self} has too few or too many deep tokens"

    @property
    def num_chosen(self) -> int:
        return sum(map(len, self.chosen))

    @property
    def num_selected(self) -> int:
        """Tokens that scores choose."""
        return self.num_deep - self.num_chosen

    def is_cut_at(self, position: int) -> bool:
        """Whether a forward that ends before `position` takes what belongs together apart."""
        return self.whole_from < position < self.end


@dataclass(frozen=True)
class DeepTokens:
    """The deep tokens of one request: positions `[0, num_anchors)`, those of the context, and `[deep_start, infinity)`.

    num_anchors: `a = min(k, deep_start)`.
    deep_start: first position of the decode phase.
    is_filled: whether the other positions are visible in the deep band too, with KV that is filled in.
    context: what is computed from hidden states that the prefix cache keeps; None where it keeps none, and every deep
        token is computed in the forward that has it.
    """

    num_anchors: int
    deep_start: int
    is_filled: bool = False
    context: Context | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.num_anchors <= self.deep_start, f"{self.num_anchors=} is not in [0, {self.deep_start=}]"

    @property
    def num_shallow(self) -> int:
        """Prompt positions that are not computed in the deep band."""
        if self.context is not None:
            return self.context.end - self.context.num_deep
        return self.deep_start - self.num_anchors

    @property
    def num_selected(self) -> int:
        """Prompt positions that scores choose."""
        return 0 if self.context is None else self.context.num_selected

    @property
    def gap(self) -> int:
        """Prompt positions that are not visible in the deep band. In decode at length n it sees `n - gap`."""
        return 0 if self.is_filled else self.num_shallow

    @property
    def runs(self) -> tuple[range, ...]:
        """Deep positions before the deep start, as far as lengths and token ids say which they are."""
        chosen = (range(self.num_anchors),) if self.context is None else self.context.chosen
        return tuple(range(run.start, min(run.stop, self.deep_start)) for run in chosen if run.start < self.deep_start)

    def is_deep(self, position: int) -> bool:
        assert position >= self.deep_start or not self.num_selected, f"{position=} may be selected in {self}"
        return position >= self.deep_start or any(position in run for run in self.runs)

    def index_of(self, position: int) -> int:
        """Number of a deep position among those that are computed."""
        assert self.is_deep(position), f"{position=} is shallow-only in {self}"
        return self.num_before(position)

    def num_before(self, position: int, anchors_cached: bool = False) -> int:
        """Deep tokens before `position`; without a context `D(p) = min(p, a) + max(0, p - deep_start)`.

        Cached anchors count from the start: another request has computed them.
        """
        if anchors_cached:
            return self.num_anchors + max(0, position - self.deep_start)
        if position >= self.deep_start:
            return position - self.num_shallow
        assert not self.num_selected, f"what is selected before {position=} is not known in {self}"
        return sum(min(max(position - run.start, 0), len(run)) for run in self.runs)

    def num_visible_before(self, position: int, anchors_cached: bool = False) -> int:
        """What a row at `position` sees in the deep band, itself excluded: its place in the band's sequence."""
        return position if self.is_filled else self.num_before(position, anchors_cached)

    def computed_in(self, start: int, end: int, anchors_cached: bool = False) -> tuple[range, range]:
        """Deep positions that a forward over `[start, end)` must compute: (anchors, decode phase).

        With a context they are those that it computes from its own rows: what stands behind the context end.
        """
        if self.context is not None:
            return range(0), range(max(start, self.context.end), max(end, self.context.end))
        anchors = range(0) if anchors_cached else range(min(start, self.num_anchors), min(end, self.num_anchors))
        return anchors, range(max(start, self.deep_start), max(end, self.deep_start))

    def num_anchors_before(self, start: int) -> int:
        """Anchors that no forward computes which begins at `start`; none with a context, which computes its own."""
        return min(start, self.num_anchors) if self.context is None else 0

    def reaches_context_end(self, start: int, end: int) -> bool:
        """Whether a forward over `[start, end)` computes the deep tokens of the context."""
        return self.context is not None and start < self.context.end <= end

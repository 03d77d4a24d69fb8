"""Deep tokens that are computed from states, against their definition, enumerated position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.config import SpeedConfig
from sglang_speed.method import DeepTokens, depth_bands
from sglang_speed.method.deep_tokens import Context
from sglang_speed.method.messages import merged, short_messages
from sglang_speed.policies import DepthPolicy, policy_of
from sglang_speed.policy_config import ShortMessages

DELIMITERS = [[0], [1, 2]]


@dataclass(frozen=True)
class Request:
    """A prompt of a few token ids, and the settings of a checkpoint with two cutoffs, or one where it fills in."""

    token_ids: tuple[int, ...]
    scored_from: int | None
    policy_name: str
    anchor_tokens: int
    tail_tokens: int
    longest: int
    ratio: float = 1.0
    window: int = 1

    @property
    def config(self) -> SpeedConfig:
        selects = self.policy_name == "fastkv"
        return SpeedConfig.of_policy(
            12,
            6 if self.policy_name == "pop" else [4, 8],
            self.policy_name,
            anchor_tokens=self.anchor_tokens,
            tail_tokens=self.tail_tokens,
            select_ratio=[self.ratio, self.ratio / 2] if selects else None,
            select_window=self.window if selects else None,
            deep_message_tokens=self.longest,
            message_delimiters=DELIMITERS,
        )

    @property
    def policies(self) -> list[DepthPolicy]:
        return [policy_of(self.config, band) for band in depth_bands(self.config)[1:]]

    @property
    def deep(self) -> DeepTokens:
        return self.policies[0].deep_tokens(len(self.token_ids), self.scored_from, self.token_ids)

    @property
    def context(self) -> Context:
        context = self.deep.context
        assert context is not None
        return context

    @property
    def deep_start(self) -> int:
        scored_from = len(self.token_ids) if self.scored_from is None else self.scored_from
        return max(0, min(len(self.token_ids) - self.tail_tokens, scored_from))

    @property
    def end(self) -> int:
        return min(len(self.token_ids), self.deep_start + self.tail_tokens)

    def chosen(self) -> list[int]:
        """The definition: an anchor, in a short message, in the window, or in the decode phase."""
        window = self.end - (self.window if self.policy_name == "fastkv" else 0)
        messages = messages_of(self.token_ids[: self.end])
        short = {position for each in messages if len(each) <= self.longest for position in each}
        return [
            position
            for position in range(self.end)
            if position < min(self.anchor_tokens, self.deep_start)
            or position in short
            or position >= min(window, self.deep_start)
        ]


def messages_of(token_ids: Sequence[int]) -> list[list[int]]:
    """Positions of each message: cut before every delimiter but the first."""
    begins = [
        place
        for place in range(len(token_ids))
        if any(list(token_ids[place : place + len(each)]) == each for each in DELIMITERS)
    ]
    return [list(range(*ends)) for ends in pairwise([0, *begins[1:], len(token_ids)])] if begins else []


@st.composite
def requests(draw: st.DrawFn) -> Request:
    token_ids = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=40)))
    policy = draw(st.sampled_from(["speed", "pop", "fastkv"]))
    return Request(
        token_ids,
        draw(st.none() | st.integers(0, len(token_ids) - 1)),
        policy,
        anchor_tokens=draw(st.integers(0, 5)),
        tail_tokens=draw(st.integers(1, 12)),
        longest=draw(st.integers(1, 6)),
        ratio=draw(st.floats(0.01, 1)) if policy == "fastkv" else 1.0,
        window=draw(st.integers(1, 9)) if policy == "fastkv" else 1,
    )


@given(requests())
def test_what_is_deep_by_itself_is_that_of_the_definition(request: Request) -> None:
    assert request.context.end == request.end
    assert [position for run in request.context.chosen for position in run] == request.chosen()


@given(requests())
def test_so_many_are_deep_as_the_ratio_says_and_no_fewer_than_those(request: Request) -> None:
    chosen = len(request.chosen())
    wanted = int(request.ratio * request.end) if request.policy_name == "fastkv" else 0
    assert request.context.num_deep == max(chosen, wanted)
    assert request.context.num_selected == max(0, wanted - chosen)


@given(requests())
def test_a_higher_band_has_no_more_tokens_than_the_one_below(request: Request) -> None:
    contexts = [
        policy.deep_tokens(len(request.token_ids), None, request.token_ids).context for policy in request.policies
    ]
    for below, above in pairwise(contexts):
        assert above is not None
        assert below is not None
        assert above.num_deep <= below.num_deep
        assert above.chosen == below.chosen


@given(requests())
def test_from_the_deep_start_on_the_deep_length_is_the_length_less_the_gap(request: Request) -> None:
    deep, shown = request.deep, request.context.num_deep
    assert deep.gap == (0 if request.policy_name == "pop" else request.end - shown)
    for length in range(request.deep_start, len(request.token_ids) + 5):
        assert deep.num_visible_before(length) == length - deep.gap
        assert deep.num_before(length) == length - request.end + shown


@given(requests(), st.data())
def test_any_chunks_compute_a_context_once_and_what_is_behind_it_in_order(
    request: Request, data: st.DataObject
) -> None:
    """Behind any hit that is not longer than the longest, in chunks that take apart nothing that belongs together."""
    length, context = len(request.token_ids) + 4, request.context
    hit = data.draw(st.integers(0, request.policies[0].max_reusable_prefix(request.deep, has_anchors=False)))
    cuts = data.draw(st.sets(st.integers(hit, length)))
    spans = list(pairwise(sorted({hit, length, *(cut for cut in cuts if not context.is_cut_at(cut))})))
    ending = [span for span in spans if request.deep.reaches_context_end(*span)]
    assert len(ending) == 1
    assert ending[0][0] <= context.whole_from
    behind = [position for span in spans for position in request.deep.computed_in(*span)[1]]
    assert behind == list(range(context.end, length))


@given(requests())
def test_scored_rows_and_the_window_are_in_the_forward_that_ends_the_context(request: Request) -> None:
    scored = request.end if request.scored_from is None else request.scored_from
    window = request.end - request.window if request.context.num_selected else request.end
    assert request.context.whole_from == max(0, min(request.end, scored, window))


@given(requests())
def test_no_request_shares_anchors(request: Request) -> None:
    assert all(policy.anchor_tokens(request.token_ids, request.deep) is None for policy in request.policies)


@pytest.mark.parametrize(
    ("token_ids", "longest", "expected"),
    [
        ([3, 0, 4, 4, 0, 4], 3, [range(4, 6)]),
        ([3, 0, 4, 4, 0, 4], 4, [range(4), range(4, 6)]),
        ([0, 0, 1, 2, 3, 3, 3], 2, [range(1), range(1, 2)]),
        ([3, 3, 3], 9, []),
        ([3, 1, 2, 1], 9, [range(4)]),
        ([], 9, []),
    ],
)
def test_short_messages_of_a_prompt(token_ids: list[int], longest: int, expected: list[range]) -> None:
    messages = ShortMessages(longest, ((0,), (1, 2)))
    assert list(short_messages(token_ids, len(token_ids), messages)) == expected


def test_ranges_that_touch_are_one() -> None:
    assert merged([range(5, 7), range(0), range(0, 2), range(1, 5), range(9, 12)]) == (range(7), range(9, 12))

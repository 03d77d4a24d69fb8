"""Closed forms of DeepTokens against the definition of deep tokens, enumerated position by position."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.config import SpeedConfig
from sglang_speed.method import DeepTokens, depth_bands
from sglang_speed.policies import DepthPolicy, policy_of


@dataclass(frozen=True)
class Request:
    """A prompt, what was generated after it, and the policy's settings."""

    prompt_len: int
    num_generated: int
    anchor_tokens: int
    tail_tokens: int
    scored_from: int | None
    policy_name: str = "speed"

    @property
    def num_tokens(self) -> int:
        return self.prompt_len + self.num_generated

    @property
    def policy(self) -> DepthPolicy:
        config = SpeedConfig(4, 3, self.anchor_tokens, self.tail_tokens, policy=self.policy_name)
        return policy_of(config, depth_bands(config)[1])

    @property
    def deep_tokens(self) -> DeepTokens:
        return self.policy.deep_tokens(self.prompt_len, self.scored_from)

    @property
    def deep_positions(self) -> list[int]:
        """The definition: an anchor, in the tail, generated, or in the scored span."""
        scored_from = self.prompt_len if self.scored_from is None else self.scored_from
        return [
            position
            for position in range(self.num_tokens)
            if position < min(self.anchor_tokens, self.prompt_len)
            or position >= self.prompt_len - self.tail_tokens
            or position >= scored_from
        ]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    prompt_len = draw(st.integers(1, 40))
    return Request(
        prompt_len=prompt_len,
        num_generated=draw(st.integers(0, 8)),
        anchor_tokens=draw(st.integers(0, 6)),
        tail_tokens=draw(st.integers(1, 20)),
        scored_from=draw(st.none() | st.integers(0, prompt_len - 1)),
        policy_name=draw(st.sampled_from(["speed", "pop"])),
    )


def chunks(draw: st.DrawFn, start: int, end: int) -> list[tuple[int, int]]:
    """`[start, end)` cut at random places."""
    cuts = draw(st.sets(st.integers(start, end)))
    return list(pairwise(sorted({start, end, *cuts})))


def computed(request: Request, spans: list[tuple[int, int]], anchors_cached: bool = False) -> list[int]:
    """Deep positions that forwards over `spans` compute, in the order in which they are computed."""
    ranges = [request.deep_tokens.computed_in(start, end, anchors_cached) for start, end in spans]
    return [position for anchors, decode_phase in ranges for position in (*anchors, *decode_phase)]


@given(requests())
def test_deep_positions_are_those_of_the_definition(request: Request) -> None:
    deep = request.deep_tokens
    assert [position for position in range(request.num_tokens) if deep.is_deep(position)] == request.deep_positions


@given(requests())
def test_the_deep_sequence_numbers_the_deep_positions_in_order(request: Request) -> None:
    indices = [request.deep_tokens.index_of(position) for position in request.deep_positions]
    assert indices == list(range(len(request.deep_positions)))


@given(requests())
def test_deep_tokens_before_a_position_are_counted(request: Request) -> None:
    for position in range(request.num_tokens + 1):
        counted = sum(other < position for other in request.deep_positions)
        assert request.deep_tokens.num_before(position) == counted


@given(requests())
def test_the_gap_is_the_prompt_positions_that_the_deep_band_does_not_show(request: Request) -> None:
    shown = range(request.num_tokens) if request.policy_name == "pop" else request.deep_positions
    assert request.deep_tokens.gap == request.num_tokens - len(shown)
    for position in request.deep_positions:
        assert request.deep_tokens.num_visible_before(position) == sum(other < position for other in shown)


@given(requests())
def test_in_decode_the_deep_length_is_the_length_less_the_gap(request: Request) -> None:
    deep = request.deep_tokens
    for length in range(request.prompt_len, request.num_tokens + 1):
        assert deep.num_visible_before(length) == length - deep.gap


@given(st.data(), requests())
def test_any_chunking_computes_every_deep_token_once_and_in_order(data: st.DataObject, request: Request) -> None:
    spans = chunks(data.draw, 0, request.num_tokens)
    assert computed(request, spans) == request.deep_positions


@given(st.data(), requests())
def test_a_chunk_lengthens_the_deep_sequence_by_what_it_computes(data: st.DataObject, request: Request) -> None:
    deep = request.deep_tokens
    for start, end in chunks(data.draw, 0, request.num_tokens):
        assert deep.num_before(end) - deep.num_before(start) == len(computed(request, [(start, end)]))


@given(st.data(), requests())
def test_after_a_prefix_hit_cached_anchors_and_new_rows_are_the_deep_sequence(
    data: st.DataObject, request: Request
) -> None:
    deep = request.deep_tokens
    hit = data.draw(st.integers(0, deep.deep_start))
    new = computed(request, chunks(data.draw, hit, request.num_tokens), anchors_cached=True)
    assert [*range(deep.num_anchors), *new] == request.deep_positions
    assert deep.num_before(hit, anchors_cached=True) == deep.num_anchors
    assert deep.num_before(request.num_tokens, anchors_cached=True) == len(request.deep_positions)


@given(st.data(), requests())
def test_after_a_prefix_hit_lost_anchors_and_new_rows_are_the_deep_sequence(
    data: st.DataObject, request: Request
) -> None:
    deep = request.deep_tokens
    hit = data.draw(st.integers(0, request.policy.max_reusable_prefix(deep, has_anchors=True)))
    new = computed(request, chunks(data.draw, hit, request.num_tokens))
    assert [*range(deep.num_anchors_before(hit)), *new] == request.deep_positions


@given(requests())
def test_prefill_then_decode_steps_compute_what_a_prefill_after_a_retraction_computes(request: Request) -> None:
    steps = [(0, request.prompt_len), *pairwise(range(request.prompt_len, request.num_tokens + 1))]
    assert computed(request, steps) == computed(request, [(0, request.num_tokens)])


@given(requests())
def test_in_the_next_turn_generated_tokens_are_prompt(request: Request) -> None:
    next_turn = request.policy.deep_tokens(request.num_tokens)
    tail = range(request.num_tokens - request.tail_tokens, request.num_tokens)
    for position in range(request.prompt_len, request.num_tokens):
        assert next_turn.is_deep(position) == (position in tail or position < request.anchor_tokens)


@given(requests())
def test_the_last_prompt_token_is_always_deep(request: Request) -> None:
    assert request.deep_tokens.is_deep(request.prompt_len - 1)


@given(requests())
def test_a_scored_span_inside_the_tail_changes_nothing(request: Request) -> None:
    unscored = request.policy.deep_tokens(request.prompt_len)
    for scored_from in range(unscored.deep_start, request.prompt_len):
        assert request.policy.deep_tokens(request.prompt_len, scored_from) == unscored


@given(requests(), st.booleans())
def test_the_longest_reusable_prefix_loses_no_deep_row_and_one_more_would(
    request: Request, anchors_cached: bool
) -> None:
    deep = request.deep_tokens
    longest = request.policy.max_reusable_prefix(deep, anchors_cached)
    cached = list(range(deep.num_anchors)) if anchors_cached else []
    rest = [(longest, request.num_tokens)]
    assert cached + computed(request, rest, anchors_cached) == request.deep_positions
    rest = [(longest + 1, request.num_tokens)]
    assert cached + computed(request, rest, anchors_cached) != request.deep_positions

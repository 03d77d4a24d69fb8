"""Which requests are lookups, long prompts and tool calls, and what is missing for a recommendation."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.cutoff.cutoffs import MEASURES
from sglang_speed.lab.cutoff.evidence import (
    LONG,
    LONG_GAP,
    LOOKUPS,
    REQUIREMENTS,
    TOOLS,
    evidence_of,
    kinds_of,
    lacking,
)
from sglang_speed.lab.cutoff.policies import Setting
from sglang_speed.lab.cutoff.report import sentences
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.lab.cutoff.results import Measurements, results_of
from sglang_speed.method.cost import ModelShape
from sglang_speed.policies import SpeedPolicy

POLICY = SpeedPolicy(SpeedConfig(4, 4, anchor_tokens=1, tail_tokens=3))
PROMPT = tuple(range(20))  # the anchor is 0, the tail 17 to 19
END = 99


def request_of(*said: int, prompt: tuple[int, ...] = PROMPT, uses_tools: bool = False) -> Request:
    return Request((*prompt, *said, END), len(prompt), uses_tools)


@pytest.mark.parametrize(
    ("said", "prompt", "is_lookup"),
    [
        ((50, 5, 6, 7, 8, 51), PROMPT, True),
        ((50, 5, 6, 7, 51), PROMPT, False),
        ((5, 6), PROMPT, True),
        ((5,), PROMPT, False),
        ((16, 17, 18, 19), PROMPT, False),
        ((0, 1, 2, 3), PROMPT, False),
        ((18, 19), (*PROMPT[:9], 18, 19, *PROMPT[11:]), False),
        ((), PROMPT, False),
    ],
    ids=[
        "copied",
        "too short",
        "the whole answer",
        "one token",
        "into the tail",
        "from the anchor",
        "in both",
        "nothing",
    ],
)
def test_a_lookup_repeats_what_only_the_left_out_prompt_says(
    said: tuple[int, ...], prompt: tuple[int, ...], is_lookup: bool
) -> None:
    assert (LOOKUPS in kinds_of(request_of(*said, prompt=prompt), POLICY)) == is_lookup


def test_a_prompt_is_long_by_what_is_left_out_of_it() -> None:
    edge = tuple(range(1000, 1000 + LONG_GAP + 4))
    assert kinds_of(request_of(50, 51, prompt=edge), POLICY) == {LONG}
    assert kinds_of(request_of(50, 51, prompt=edge[1:], uses_tools=True), POLICY) == {TOOLS}


def requests_with(**found: int) -> list[Request]:
    """Long answers, that many of each kind and some of none."""
    fresh = count(10_000)
    said = [next(fresh) for _ in range(20)]
    long = tuple(next(fresh) for _ in range(LONG_GAP + 4))
    made = {LONG: request_of(*said, prompt=long), LOOKUPS: request_of(5, 6, 7, 8, *said)}
    made |= {TOOLS: request_of(*said, uses_tools=True), "answers": request_of(*said)}
    return [made[kind] for kind, num in found.items() for _ in range(num)]


ENOUGH = {LONG: 8, LOOKUPS: 8, TOOLS: 8, "answers": 8}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, []),
        ({"answers": 7}, ["31 of 32 answers"]),
        ({LONG: 0, "answers": 16}, ["none of 8 prompts with 512 tokens or more between anchors and tail"]),
        ({LOOKUPS: 7, "answers": 9}, ["7 of 8 lookups (answers that copy something from there)"]),
        ({TOOLS: 0, "answers": 16}, ["none of 8 tool calls (chats with tools)"]),
    ],
)
def test_what_is_missing_is_named(found: dict[str, int], words: list[str]) -> None:
    assert lacking(evidence_of(requests_with(**ENOUGH | found), POLICY)) == words


def test_ten_short_chats_lack_everything() -> None:
    evidence = evidence_of([request_of(50, 51, 52)] * 10, POLICY)
    assert list(evidence) == list(REQUIREMENTS)
    assert [words.split(" ")[0] for words in lacking(evidence)] == ["10", "40", "none", "none", "none"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            ENOUGH,
            [
                "without training: 7 of 8 layers",
                "of all policies, without training: fastkv, 6 of 8 layers saves most memory at rest; pop, 4 of 8 "
                "layers saves most time to the first token",
                "with training: 6 of 8 layers",
            ],
        ),
        (
            {"answers": 10},
            ["no recommendation: chats.jsonl: 10 of 32 answers, 210 of 512 tokens in answers, none of 8"],
        ),
    ],
    ids=["enough", "ten short chats"],
)
def test_lookups_that_a_cutoff_breaks_forbid_it_and_a_few_short_chats_allow_nothing(
    found: dict[str, int], said: list[str]
) -> None:
    """A mean over all would allow 6 of 8 layers without training."""
    requests = requests_with(**found)
    by_cutoff = torch.zeros(len(requests), 4, 3)
    for sums, request in zip(by_cutoff, requests, strict=True):
        per_token = [1.0, 0.3, 0.05, 0.0] if LOOKUPS in kinds_of(request, POLICY) else [0.5, 0.01, 0.01, 0.0]
        sums[:, MEASURES.index("divergence")] = torch.tensor(per_token) * request.response_len
    series = {"pop": (7, 4), "fastkv": (6, 4)}
    bands = [
        SpeedConfig.of_policy(8, cutoff, policy, anchor_tokens=1, tail_tokens=3)
        for policy, cutoffs in series.items()
        for cutoff in cutoffs
    ]
    settings = [Setting(each.policy, each) for each in bands]
    by_setting = 0.01 * torch.tensor([request.response_len for request in requests])[:, None, None].expand(-1, 4, 3)
    by_setting = by_setting + by_cutoff[:, [1]] * torch.tensor([0, 0, 0, 1])[None, :, None]  # fastkv at 4
    measured = Measurements(requests, [0, 6, 7, 8], settings, torch.ones(len(requests), 2, 8), by_cutoff, by_setting)
    shape = ModelShape(64, 128, num_heads=4, num_kv_heads=4, head_dim=16, vocab_size=99)
    results = results_of(measured, SpeedConfig(8, 8, anchor_tokens=1, tail_tokens=3), shape, max_kl=0.1)
    results["texts"] = {"source": "chats.jsonl", "samples": 64, "max_tokens": 1024}
    assert results["cutoffs"][1]["divergence"]["value"] < 0.1
    assert [one.startswith(words) for one, words in zip(sentences(results), said, strict=True)] == [True] * len(said)


def test_a_setting_is_judged_by_what_it_does_not_serve_at_full_depth() -> None:
    """A tail of 128 leaves nothing of short prompts out."""
    requests = requests_with(**ENOUGH)
    settings = [Setting(f"tail {tail}", SpeedConfig(8, 6, tail_tokens=tail)) for tail in (3, 128, 4096)]
    ones = torch.ones(len(requests), 3, 3) * torch.tensor([one.response_len for one in requests])[:, None, None]
    measured = Measurements(requests, [0, 6, 8], settings, torch.ones(len(requests), 2, 8), ones, ones)
    shape = ModelShape(64, 128, num_heads=4, num_kv_heads=4, head_dim=16, vocab_size=99)
    results = results_of(measured, SpeedConfig(8, 8, anchor_tokens=1, tail_tokens=3), shape, max_kl=9.0)
    short, long, whole = results["settings"]
    assert short["requests"] == len(requests) > long["requests"] > whole["requests"] == 0
    assert (short["lacking"], whole["divergence"]) == ([], None)
    assert long["lacking"], "too few prompts are long enough"
    assert long["divergence"]["value"] == 1.0

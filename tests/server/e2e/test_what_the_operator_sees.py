"""/server_info, /metrics, the log and the flush: they say what the model is and what the deep band holds."""

from __future__ import annotations

import re

import pytest
import requests

from tests.server.conftest import DEEP_TOKENS, MAX_TOTAL_TOKENS, SPEED
from tests.server.e2e.asking import Asker, long_prompt, wait_until

PROMPT = long_prompt(130)
BYTES_PER_LAYER = 2 * 2 * 16 * 4
"""Keys and values, two KV heads of 16 float32 numbers."""
PROMPT_BYTES, FULL_BYTES = 6 * BYTES_PER_LAYER, 8 * BYTES_PER_LAYER
FIXED = {
    **SPEED,
    "num_layers": 8,
    "kv_bytes_per_prompt_token": PROMPT_BYTES,
    "state_bytes_per_token": 0,
    "kv_bytes_read_per_prompt_token": PROMPT_BYTES,
    "kv_bytes_per_prompt_token_full_depth": FULL_BYTES,
    # each pool has one slot more than it offers: slot 0 is padding
    "kv_bytes_total": (MAX_TOTAL_TOKENS + 1) * PROMPT_BYTES + (DEEP_TOKENS + 1) * (FULL_BYTES - PROMPT_BYTES),
    "prompt_tokens_capacity": MAX_TOTAL_TOKENS,
    "deep_tokens_capacity": DEEP_TOKENS,
}


COUNTED_IN_BOTH = ("prompt_tokens", "reused_tokens", "evicted_tokens", "retracted_requests", "aborted_requests")
COUNTED = {f"{band}_{name}" for band in ("shallow", "deep") for name in COUNTED_IN_BOTH}
COUNTED |= {
    "deep_selected_tokens",
    "deep_filled_tokens",
    "deep_anchor_misses",
    "deep_refused_requests",
    "deep_clipped_requests",
}


def exported(asker: Asker) -> dict[str, float]:
    """The values of all `sglang_speed:*` metrics, under their names in /server_info."""
    text = requests.get(f"{asker.server.url}/metrics", timeout=60).text
    samples = re.findall(r"^sglang_speed:(\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    found = {}
    for name, labels, value in samples:
        band = re.search(r'band="(\w+)"', labels)
        own = name.removesuffix("_total").removeprefix("deep_")
        found[f"{band[1]}_{own}" if band else name] = float(value)
    return found


def counted_while(asker: Asker, *prompts: list[int]) -> dict[str, int]:
    """What the counters gain while prompts are answered, one after the other; those that gain nothing are left out."""
    before = asker.speed_state()
    for prompt in prompts:
        asker.require_exact(prompt)
    after = asker.speed_state()
    return {name: after[name] - before[name] for name in COUNTED if after[name] != before[name]}


def numbers_of(asker: Asker) -> dict[str, int]:
    """Of /server_info: a metric cannot be a name or an object."""
    return {name: value for name, value in asker.speed_state().items() if name not in ("policy", "config")}


def test_server_info_says_what_the_model_is(asker: Asker) -> None:
    asker.require_exact(PROMPT)
    state = asker.speed_state()
    facts = {name: value for name, value in state.items() if name not in COUNTED}
    assert facts == {"policy": "speed", "config": SPEED, **FIXED, "deep_tokens_used": 1, "deep_anchor_tokens": 1}
    assert state.keys() == facts.keys() | COUNTED


def test_server_info_counts_what_is_reused_in_each_band(asker: Asker) -> None:
    num_reused = len(PROMPT) - SPEED["tail_tokens"]
    assert counted_while(asker, PROMPT, PROMPT) == {
        "shallow_prompt_tokens": 2 * len(PROMPT),
        "shallow_reused_tokens": num_reused,
        "deep_prompt_tokens": 2 * 4,
        "deep_reused_tokens": 1,
        "deep_anchor_misses": 1,
    }
    assert "shallow_reused_tokens" not in counted_while(asker, [9] * 40, [10] * 40), "they share nothing"


def test_a_prompt_token_takes_three_quarters_of_the_bytes() -> None:
    assert PROMPT_BYTES * 4 == FULL_BYTES * 3


def test_metrics_have_the_values_of_server_info(asker: Asker) -> None:
    """SGLang logs statistics with each prefill, a moment before the answer."""
    asker.require_exact(PROMPT)
    found, state = exported(asker), numbers_of(asker)
    assert found.keys() == state.keys()
    assert {name: found[name] for name in FIXED} == FIXED
    assert found["deep_anchor_tokens"] == 1
    assert found["shallow_prompt_tokens"] == state["shallow_prompt_tokens"]


@pytest.mark.slow
def test_metrics_of_an_idle_server_catch_up(asker: Asker) -> None:
    """SGLang updates the metrics of an idle server every 30 seconds."""
    asker.require_exact(PROMPT)
    wait_until(lambda: exported(asker) == numbers_of(asker))


def test_an_idle_server_holds_nothing_deep_but_anchors(asker: Asker) -> None:
    asker.ask([long_prompt(40 + index, start=str(index)) for index in range(8)], 30)
    assert asker.is_idle()
    assert asker.speed_state()["deep_anchor_tokens"] == 1


def test_a_running_request_holds_its_deep_tokens(asker: Asker) -> None:
    """An anchor, a tail of three, and what was generated; the prompt's other tokens take nothing."""
    for event in asker.stream(PROMPT, 40):
        num_generated = event["meta_info"]["completion_tokens"]
        used = asker.speed_state()["deep_tokens_used"]
        assert used == 1 or 4 <= used <= 4 + 40, f"{num_generated=}"
        if num_generated > 20:
            break


def test_a_flush_forgets_the_anchors(asker: Asker) -> None:
    asker.require_exact(PROMPT)
    asker.server.flush_cache()
    state = asker.speed_state()
    assert (state["deep_tokens_used"], state["deep_anchor_tokens"]) == (0, 0)
    answer = asker.require_exact(PROMPT)
    assert answer["meta_info"]["cached_tokens"] == 0


def test_one_line_of_the_log_says_what_the_model_is(asker: Asker) -> None:
    lines = [line for line in asker.server.log.splitlines() if "sglang_speed: prompt tokens pass" in line]
    assert len(lines) == 1
    bands = "(policy=speed, anchor_tokens=1, tail_tokens=3)"
    assert f"sglang_speed: prompt tokens pass 6 of 8 layers {bands}, 25% less KV" in lines[0]
    assert f"{MAX_TOTAL_TOKENS} tokens in the shallow band and {DEEP_TOKENS} in the deep band" in lines[0]


@pytest.mark.parametrize("phase", ["Prefill", "Decode"])
def test_batch_lines_of_the_log_show_both_pools(asker: Asker, phase: str) -> None:
    asker.require_exact(PROMPT, 100)
    lines = [line for line in asker.server.log.splitlines() if f"{phase} batch" in line]
    assert lines
    for line in lines:
        assert re.search(r" token usage: \d\.\d\d, .*deep token usage: \d\.\d\d", line), line

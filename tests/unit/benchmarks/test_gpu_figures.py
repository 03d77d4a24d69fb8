"""The arithmetic of the GPU benchmark: ceilings, memory, and the table made of samples."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gpu"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmark's files import each other by name, as scripts do."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - known:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def samples(**values: float) -> list[dict[str, Any]]:
    return [
        {"contender": name, "start": 0, "figure": "TPOT, 131072, batch 4", "value": value}
        for name, value in values.items()
    ]


def test_the_published_ceilings_of_llama_8b_at_128k() -> None:
    """Decode 1.15 at batch 1 and 1.26 at batch 4; prefill a hair under four thirds."""
    from contenders import GPU, contenders

    from sglang_speed.method.cost import Rates, extend_of, step_floor, ttft_floor

    rates = Rates(7e14, 4e12)
    stock, speed = (contenders(GPU)[name].config for name in ("stock", "speed"))
    for batch_size, expected in ((1, 1.15), (4, 1.26)):
        slow, fast = (step_floor(GPU.shape, one, 131072, batch_size, rates) for one in (stock, speed))
        assert slow / fast == pytest.approx(expected, abs=0.005)
    slow, fast = (ttft_floor(GPU.shape, one, extend_of(one, 131072), rates) for one in (stock, speed))
    assert slow / fast == pytest.approx(4 / 3, abs=0.001)


def test_every_architecture_fits_one_gpu_with_the_same_ceiling() -> None:
    """141 GB: weights at full depth, all experts included, beside three prompts of 128K at least."""
    from bench import requests_at_full_depth
    from contenders import contenders, profile_of, prompt_tokens

    for arch, requests in (("llama", 6), ("qwen3", 3), ("qwen3_moe", 3)):
        profile = profile_of("gpu", arch)
        assert requests_at_full_depth(profile, 139.8 * 2**30) == requests
        stock, speed = (
            prompt_tokens(contenders(profile)[name].config, profile, requests) for name in ("stock", "speed")
        )
        assert 1.3 < speed / stock < 4 / 3


def test_a_cold_prompt_takes_its_tail_through_all_layers() -> None:
    from contenders import GPU, contenders

    from sglang_speed.method.cost import Extend, extend_of

    assert extend_of(contenders(GPU)["speed"].config, 8192) == Extend(8192, 16)


@pytest.mark.parametrize(("gib", "at_once"), [(139.8, (6, 8)), (79.1, (3, 4))], ids=["H200", "H100"])
def test_four_requests_at_three_quarters_fit_where_three_at_full_depth_do(gib: float, at_once: tuple[int, int]) -> None:
    from contenders import GPU, contenders, fitting, fitting_stock_requests, prompt_tokens

    requests = fitting_stock_requests(GPU, int(gib * 2**30), 16 * 10**9)
    found = [prompt_tokens(contenders(GPU)[name].config, GPU, requests) for name in ("stock", "speed")]
    assert tuple(fitting(num, GPU.context_len) for num in found) == at_once
    assert found[1] / found[0] > 1.30


def test_a_gain_is_judged_by_its_ceiling() -> None:
    from contenders import GPU
    from figures import gpu_rows

    from sglang_speed.method.cost import Rates

    speed, equal = gpu_rows(samples(stock=1.25, speed=1.0, equal=1.25), GPU, 6, Rates(7e14, 4e12))
    assert (speed.ratio, equal.ratio) == (1.25, 1.0)
    assert speed.figure.ceiling == pytest.approx(1.26, abs=0.005)
    assert speed.is_met
    (speed,) = gpu_rows(samples(stock=1.1, speed=1.0), GPU, 6, Rates(7e14, 4e12))
    assert speed.is_met is False


def test_a_contender_without_stock_beside_it_has_no_row() -> None:
    from contenders import GPU
    from figures import gpu_rows

    from sglang_speed.method.cost import Rates

    assert gpu_rows(samples(speed=1.0), GPU, 6, Rates(7e14, 4e12)) == []


def test_committed_results_give_the_rows_that_they_were_committed_with() -> None:
    from contenders import Profile
    from figures import gpu_rows

    from sglang_speed.method.cost import Rates

    results = json.loads((FOLDER.parent / "results" / "bench_gpu.json").read_text(encoding="utf-8"))
    configuration, rates = results["configuration"], results["rates"]
    table = gpu_rows(
        results["samples"],
        Profile.of_results(configuration),
        configuration["stock_requests"],
        Rates(rates["flops"], rates["bandwidth"]),
    )
    found = {(row.figure.name, row.figure.rival): row for row in table}
    for figure in results["figures"]:
        row = found[figure["figure"], "speed"]
        assert (row.ratio, row.is_met) == (pytest.approx(figure["gain"]), figure["is_met"])
        assert row.figure.ceiling == pytest.approx(figure["ceiling"])
        if figure["equal"] is not None:
            assert found[figure["figure"], "equal"].ratio == pytest.approx(figure["equal"])

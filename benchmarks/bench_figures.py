"""Write the figures of the README, docs/gpu.md and docs/benchmark.md from committed results, and draw their plots.

python benchmarks/bench_figures.py            # after a file of results/bench_*.json has changed
python benchmarks/bench_figures.py --check    # exit code 1 if a page differs from the results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "gpu")]

from contenders import Profile  # noqa: E402
from documents import write_figures  # noqa: E402
from figures import gpu_rows  # noqa: E402

from sglang_speed.config import SpeedConfig  # noqa: E402
from sglang_speed.kv_pool.capacity import DeepTables, deep_bytes, split_kv_bytes  # noqa: E402
from sglang_speed.lab.bench.facts import described_depth, model_name  # noqa: E402
from sglang_speed.lab.bench.plots import draw  # noqa: E402
from sglang_speed.lab.bench.report import name_of, value_of  # noqa: E402
from sglang_speed.lab.common.report import number  # noqa: E402
from sglang_speed.method.cost import Rates  # noqa: E402

ON_GPU = "benchmarks/results/bench_gpu.json"
README = ROOT / "README.md"
GPU_PAGE = ROOT / "docs" / "gpu.md"
ON_CPU = "benchmarks/results/bench_cpu.json"
PAGE = ROOT / "docs" / "benchmark.md"
SIDE_BY_SIDE = {
    "benchmarks/results/bench_cpu_policies.json": PAGE,
    "benchmarks/results/bench_cpu_agents.json": PAGE,
    "benchmarks/results/bench_cpu_agents_at_once.json": PAGE,
    "benchmarks/results/bench_cpu_lora.json": ROOT / "docs" / "lora.md",
}
"""Results with a column for each rival, and the page that shows them."""
PICTURES = ROOT / "docs" / "figures"
DRAWN = ("ttft", "turns")
SHOWN_OF_GPU = {
    "TTFT, 8192": "TTFT, 8K tokens",
    "TTFT, 32768": "TTFT, 32K tokens",
    "TTFT, 131072": "TTFT, 128K tokens",
    "TTFT of a hit, 131072": "TTFT of {follow_up_len} tokens after 128K in the radix tree",
    "TPOT, 131072, batch 1": "TPOT after 128K tokens, batch 1",
    "TPOT, 131072, batch 4": "TPOT after 128K tokens, batch 4",
    "prompt tokens": "prompt tokens in the pool",
    "requests at once, 131072": "requests of 128K that run at once",
    "output tokens/s, 32768, as many as fit": "output tokens/s after 32K, as many requests as fit",
    "output tokens/s, served": "output tokens/s, {served_requests} cold prompts of 8K, {served_new_tokens} new tokens",
}
"""Names of figures and their names in docs/gpu.md, with sizes of the profile."""
SHOWN_IN_README = {
    "TTFT, 131072": "time to first token, 128K tokens",
    "prompt tokens": "prompt tokens in the same KV memory",
    "TPOT, 131072, batch 4": "time per output token after 128K, batch 4",
}
SHOWN_OF_CPU = (
    ("prefill", "TTFT"),
    ("decode", "TPOT"),
    ("capacity", "prompt tokens in the pool"),
    ("capacity", "requests that run at once"),
    ("chat", "mean TTFT, working set 1.2x"),
    ("chat", "hit rate, working set 1.2x"),
    ("tree", "mean TTFT"),
    ("overhead", "T"),
    ("step", "decode step"),
)
"""Scenario and prefix of its figures' names."""


def main(check: bool = False) -> None:
    """Rewrite the text between the marks of the pages."""
    gpu, cpu = read(ON_GPU), read(ON_CPU)
    write_figures(README, ON_GPU, headline(gpu), check=check)
    write_figures(GPU_PAGE, ON_GPU, gpu_figures(gpu), check=check)
    write_figures(PAGE, ON_CPU, cpu_figures(cpu), check=check)
    for path, page in SIDE_BY_SIDE.items():
        write_figures(page, path, rival_figures(read(path), path), check=check)
    if check:
        return
    for path in draw(cpu, PICTURES):
        if path.stem not in DRAWN:
            path.unlink()


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def headline(results: Mapping[str, Any]) -> str:
    """Three figures with their ceilings."""
    gains = gpu_table(results, "speed")
    lines = ["| | gain | at most |", "|---|---|---|"]
    for name, called in SHOWN_IN_README.items():
        figure = gains[name].to_dict()
        lines.append(f"| {called} | **{figure['ratio']:.2f}x** | {figure['ceiling']:.2f}x |")
    profile, gpu = results["configuration"]["profile"], results["machine"]["gpu"].split(",")[0]
    where = (
        f"{gpu}, the shape of Llama 3.1 8B, prompts in {profile['prefill_layers']} of {profile['num_layers']} layers, "
        f"against stock SGLang {results['versions']['sglang']}, one run. By default the deep band takes more memory, "
        f"which leaves {default_gain(results['configuration']):.2f}x the prompt tokens ([all "
        "figures](docs/gpu.md#what-it-found))."
    )
    return "\n".join([*lines, "", where, ""])


def gpu_table(results: Mapping[str, Any], rival: str) -> dict[str, Any]:
    """Rows of one rival by the names of their figures."""
    configuration, rates = results["configuration"], results["rates"]
    profile = Profile.of_results(configuration)
    rates = Rates(rates["flops"], rates["bandwidth"])
    table = gpu_rows(results["samples"], profile, configuration["stock_requests"], rates)
    return {row.figure.name: row for row in table if row.figure.rival == rival}


def gpu_figures(results: Mapping[str, Any]) -> str:
    """A line for each figure, and where it was measured."""
    configuration = results["configuration"]
    profile = Profile.of_results(configuration)
    gains, equal = (gpu_table(results, rival) for rival in ("speed", "equal"))
    lines = ["| | stock SGLang | SPEED | ratio | ceiling | target | `Lc = L` |", "|---|---|---|---|---|---|---|"]
    lines += [
        gpu_line(gains[name].to_dict(), called.format(**asdict(profile)), equal[name].ratio if name in equal else None)
        for name, called in SHOWN_OF_GPU.items()
        if name in gains
    ]
    return "\n".join([*lines, "", where_on_gpu(results), deep_band_on_gpu(configuration, profile), ""])


def where_on_gpu(results: Mapping[str, Any]) -> str:
    machine, versions, profile = results["machine"], results["versions"], results["configuration"]["profile"]
    settings = profile["settings"]
    assert settings["disable_prefill_cuda_graph"], "the text says that there are none"
    assert profile.get("arch", "llama") == "llama", "the text says that it is the shape of Llama 3.1 8B"
    changed = " with uncommitted changes" if results["uncommitted_changes"] else ""
    return (
        f"Measured on {machine['gpu'].split(',')[0]} by [`benchmarks/gpu`](../benchmarks/gpu): the shape of Llama 3.1 "
        f"8B with random weights, prompts in {profile['prefill_layers']} of {profile['num_layers']} layers, "
        f"{profile['dtype']}, `--attention-backend {settings['attention_backend']}` and no prefill graphs on both "
        f"sides, the same bytes of KV, SGLang {versions['sglang']}, torch {versions['torch']}, commit "
        f"{results['commit'][:7]}{changed}. Medians; times in seconds; every sample is in [the results]"
        f"(../{ON_GPU}). `Lc = L`: the plugin with prompts in all layers against stock, in what is "
        "measured of it."
    )


def default_tokens(configuration: Mapping[str, Any]) -> int:
    """Prompt tokens in the same bytes where the deep band has its default size."""
    profile = Profile.of_results(configuration)
    speed = SpeedConfig(profile.num_layers, profile.prefill_layers)
    return split_kv_bytes(speed, configuration["kv_bytes"], profile.shape.kv_bytes_per_layer, 1).prompt_tokens


def default_gain(configuration: Mapping[str, Any]) -> float:
    return float(default_tokens(configuration) / configuration["prompt_tokens"]["stock"])


def deep_band_on_gpu(configuration: Mapping[str, Any], profile: Profile) -> str:
    """The deep band of the benchmark, and the pool with the default one."""
    kv_bytes, token_bytes = configuration["kv_bytes"], profile.shape.kv_bytes_per_layer
    speed = SpeedConfig(profile.num_layers, profile.prefill_layers)
    share = deep_bytes(speed, profile.deep_tokens, token_bytes, DeepTables()) / kv_bytes
    return (
        f"SPEED's deep band has {profile.deep_tokens} tokens, {share:.1%} of the bytes; by default it has 6%, which "
        f"leaves {default_gain(configuration):.2f} times the prompt tokens, and "
        f"{default_tokens(configuration) // profile.context_len} requests of 128K."
    )


def gpu_line(figure: Mapping[str, Any], called: str, equal: float | None) -> str:
    digits = 4 if figure["unit"] == "s" else 0
    values = (number(figure[side], digits) for side in ("stock", "speed"))
    cells = (called, *values, f"**{figure['ratio']:.3f}**", number(figure["ceiling"], 3), target_of(figure, 3))
    return f"| {' | '.join((*cells, number(equal, 3)))} |"


def cpu_figures(results: Mapping[str, Any]) -> str:
    """A line for each figure, and where it was measured."""
    machine, versions, speed = results["machine"], results["versions"], results["configuration"]["speed"]
    pool = results["configuration"]["sizes"]["cache_pool"]
    deep = (
        pool["deep_tokens"] * (speed["num_layers"] - speed["prefill_layers"]) / (pool["tokens"] * speed["num_layers"])
    )
    lines = ["| | stock SGLang | SPEED | ratio | ceiling | target |", "|---|---|---|---|---|---|"]
    lines += [line(figure) for scenario, begin in SHOWN_OF_CPU for figure in figures_of(results, scenario, begin)]
    where = (
        f"Measured by `make bench` on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB: {model_name(results)}, {described_depth(results)}, "
        f"{results['configuration']['sizes'].get('dtype', 'bfloat16')}, SGLang "
        f"{versions['sglang']}, torch {versions['torch']}, commit "
        f"{results['commit'][:7]}. Medians; the range of the samples is in "
        f"[the results](../{ON_CPU}). SPEED's tokens are those with a deep band of "
        f"{pool['deep_tokens']} tokens, {deep:.1%} of the bytes; by default it has 6%."
    )
    return "\n".join([*lines, "", where, ""])


def rival_figures(results: Mapping[str, Any], path: str) -> str:
    """A line for each figure with a column for each rival, and where it was measured."""
    rivals = results["configuration"]["rivals"]
    heads = [f"{name}, {config['prefill_layers']} of {config['num_layers']}" for name, config in rivals.items()]
    lines = [f"| | stock SGLang | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for scenario in results["scenarios"].values():
        for figure in scenario["figures"]:
            by_name.setdefault(name_of(figure), []).append(figure)
    for name, figures in by_name.items():
        cells = (name, value_of(figures[0], "stock"), *map(beside_ceiling, figures))
        lines.append(f"| {' | '.join(cells)} |")
    machine, versions = results["machine"], results["versions"]
    where = (
        f"In brackets: times as fast, or as many, as stock, of the most that the arithmetic allows. {machine['cpu']}, "
        f"{machine['cores']} cores, {model_name(results)}, SGLang {versions['sglang']}, torch {versions['torch']}, "
        f"commit {results['commit'][:7]}; samples in [the results](../{path})."
    )
    return "\n".join([*lines, "", where, ""])


def beside_ceiling(figure: Mapping[str, Any]) -> str:
    """A value, its ratio to stock's, and the ceiling of that."""
    value = value_of(figure, figure["rival"])
    if figure["ratio"] is None:
        return value
    most = "" if figure["ceiling"] is None else f" of {figure['ceiling']:.2f}"
    target = "" if figure["target"] is None else f"; target {target_of(figure, 3)}"
    return f"{value} (**{figure['ratio']:.3f}**{most}{target})"


def figures_of(results: Mapping[str, Any], scenario: str, begin: str) -> list[Mapping[str, Any]]:
    found = results["scenarios"].get(scenario, {}).get("figures", [])
    return [figure for figure in found if figure["figure"].startswith(begin)]


def line(figure: Mapping[str, Any]) -> str:
    ratio = "" if figure["ratio"] is None else f"**{figure['ratio']:.2f}**"
    values = (value_of(figure, side) for side in ("stock", figure["rival"]))
    cells = (name_of(figure), *values, ratio, number(figure["ceiling"], 2), target_of(figure, 2))
    return f"| {' | '.join(cells)} |"


def target_of(figure: Mapping[str, Any], digits: int) -> str:
    if figure["target"] is None:
        return ""
    return f"{figure['target']:.{digits}f} {'met' if figure['is_met'] else '**missed**'}"


if __name__ == "__main__":
    typer.run(main)

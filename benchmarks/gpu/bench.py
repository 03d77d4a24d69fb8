"""How much faster is SPEED than stock SGLang on one GPU, how much more fits, and what are the ceilings?

python benchmarks/gpu/bench.py --out build/gpu                            # 5 minutes on one H200
python benchmarks/gpu/bench.py --out build/rehearsal --profile rehearsal  # the same code on a CPU, no figures

Stock, SPEED at 24 of 32 layers and SPEED at 32 of 32 on the shape of Llama 3.1 8B with random weights, started one
after another, and again while time lasts. Each figure has its ceiling beside it. `--arch qwen3` takes the shape of
Qwen3 8B at 27 of 36 layers, `--arch qwen3_moe` that of Qwen3 30B A3B at 36 of 48. `--policy fastkv` adds a policy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout is what is measured

import typer  # noqa: E402
from contenders import Profile, contenders, deep_tokens, describe, fitting_stock_requests, profile_of  # noqa: E402
from figures import gpu_rows  # noqa: E402

from sglang_speed.config import SpeedConfig  # noqa: E402
from sglang_speed.errors import ConfigError  # noqa: E402
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE  # noqa: E402
from sglang_speed.lab.bench import Arch  # noqa: E402
from sglang_speed.lab.bench.facts import REHEARSAL, described_rates  # noqa: E402
from sglang_speed.lab.bench.report import figures_table  # noqa: E402
from sglang_speed.lab.bench.results import Row, by_scenario  # noqa: E402
from sglang_speed.lab.common.outputs import replace_json  # noqa: E402
from sglang_speed.lab.common.progress import wide_console  # noqa: E402
from sglang_speed.lab.common.provenance import provenance  # noqa: E402
from sglang_speed.method.cost import Rates, weight_bytes  # noqa: E402

SECONDS_PER_START = 75.0
"""Assumed duration of a contender before its first measurement."""

console = wide_console(126)


def bench(
    out: Annotated[Path, typer.Option(help="Folder for results.json, samples.jsonl and workers.log.")],
    profile: Annotated[Literal["gpu", "rehearsal"], typer.Option(help="Sizes.")] = "gpu",
    arch: Annotated[Arch, typer.Option(help="Architecture of the model.")] = "llama",
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A further policy, and settings behind it: fastkv,prefill_layers=16; may be repeated."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Time limit; contenders that would exceed it are not started.")
    ] = 330.0,
    commit: Annotated[str | None, typer.Option(help="Commit, for a checkout without history.")] = None,
) -> None:
    """Measure, print a table, write results; exit code 1 if a contender failed or was not measured."""
    deadline = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    try:
        sizes = profile_of(profile, arch, policy or ())
        contenders(sizes)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    machine = measure_machine(profile, out)
    rates = Rates(machine["flops"], machine["bandwidth"])
    print(described_rates(machine), flush=True)
    stock_requests = requests_at_full_depth(sizes, machine["memory"])
    head = {**provenance(commit), "rates": machine, "configuration": describe(sizes, stock_requests)}
    for name in ("samples.jsonl", "workers.log"):
        (out / name).write_text("", encoding="utf-8")
    failed: list[str] = []
    table: list[Row] = []
    for name, code in run_all((profile, arch, *(policy or ())), sizes, stock_requests, out, deadline):
        failed += [name] * (code != 0)
        table = write_results(out, head, sizes, stock_requests, rates, failed)
    console.print(figures_table(by_scenario(table), REHEARSAL if sizes.is_rehearsal else ""))
    console.print(f"written to {out / 'results.json'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    measured = {sample["contender"] for sample in read_samples(out)}
    raise typer.Exit(1 if failed or measured != set(sizes.order) else 0)


def measure_machine(profile: str, out: Path) -> dict[str, float]:
    path = out / "rates.json"
    subprocess.run([sys.executable, str(HERE / "rates.py"), profile, str(path)], check=True)
    measured: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def requests_at_full_depth(profile: Profile, memory: float) -> int:
    stock = SpeedConfig(profile.num_layers, profile.num_layers)
    embedding = profile.shape.vocab_size * profile.shape.hidden_size * profile.shape.weight_dtype_bytes
    return fitting_stock_requests(profile, int(memory), weight_bytes(profile.shape, stock) + embedding)


def run_all(
    named: Sequence[str], profile: Profile, stock_requests: int, out: Path, deadline: float
) -> Iterator[tuple[str, int]]:
    """Run the contenders one after another; yields name and exit code. The next one imports while one measures.

    named: the profile, the architecture, and further policies, as the user wrote them.
    """
    took: dict[str, float] = {}
    waiting = start_worker(named, profile, 0, stock_requests, out)
    try:
        for index, name in enumerate(profile.order):
            worker, began = waiting, time.monotonic()
            if began + took.get(name, SECONDS_PER_START) > deadline:
                return
            if index + 1 < len(profile.order):
                waiting = start_worker(named, profile, index + 1, stock_requests, out)
            release(worker, deadline - began)
            took[name] = time.monotonic() - began
            yield name, worker.returncode
    finally:
        stop(waiting)


def start_worker(
    named: Sequence[str], profile: Profile, index: int, stock_requests: int, out: Path
) -> subprocess.Popen[str]:
    """Start a worker, which imports and then waits for `release` before it uses the device."""
    name = profile.order[index]
    arguments = [name, str(index), str(stock_requests), str(out / "samples.jsonl"), *named]
    size = deep_tokens(contenders(profile)[name].config, profile, stock_requests)
    environment = {**os.environ, DEEP_TOKENS_VARIABLE: str(size)}
    with (out / "workers.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )


def release(worker: subprocess.Popen[str], seconds: float) -> None:
    """Let a worker measure until it ends; after `seconds` it is killed."""
    try:
        worker.communicate("go\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        stop(worker)


def stop(worker: subprocess.Popen[str]) -> None:
    if worker.poll() is None:
        worker.kill()
        worker.wait()


def read_samples(out: Path) -> list[dict[str, Any]]:
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_results(
    out: Path, head: Mapping[str, Any], profile: Profile, stock_requests: int, rates: Rates, failed: list[str]
) -> list[Row]:
    """Write the results so far, after every contender."""
    samples = read_samples(out)
    table = gpu_rows(samples, profile, stock_requests, rates)
    replace_json(out / "results.json", {**head, "failed": failed, "scenarios": by_scenario(table), "samples": samples})
    return table


if __name__ == "__main__":
    typer.run(bench)

"""Measure one contender in a separate process; samples are written to a file as they come.

Started by `bench.py`. Imports first, then waits for a line on standard input before it uses the device, so that the
next contender imports while one measures.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.scheduler_harness

import typer  # noqa: E402


def work(
    contender_name: str,
    start: int,
    stock_requests: int,
    samples: Path,
    profile_name: str,
    arch: str,
    policies: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    """start: number of this start within the run, for the samples."""
    from contenders import contenders, profile_of, server_settings, write_checkpoint
    from measurements import Measurements
    from sglang.srt.server_args import ServerArgs

    from tests.scheduler_harness import build_scheduler

    sys.stdin.readline()
    began = time.perf_counter()
    profile = profile_of(profile_name, arch, policies or ())
    with tempfile.TemporaryDirectory() as directory, samples.open("a", encoding="utf-8") as file:

        def write(name: str, value: float) -> None:
            sample = {"contender": contender_name, "start": start, "figure": name, "value": value}
            file.write(json.dumps(sample) + "\n")
            file.flush()
            print(f"{contender_name:6} {name:40} {value:12.4f}", flush=True)

        contender = contenders(profile, Path(directory))[contender_name]
        write_checkpoint(contender, profile)
        settings = server_settings(contender, profile, stock_requests)
        harness = build_scheduler(ServerArgs(model_path=str(contender.path), **settings))
        write("seconds to start", time.perf_counter() - began)
        for name, value in Measurements(harness, profile, seed=start).all_of_them(is_brief=contender_name == "equal"):
            write(name, value)


if __name__ == "__main__":
    typer.run(work)

"""Measure the rates behind the ceilings, in a separate process, which frees the device's memory when it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import typer  # noqa: E402
from contenders import PROFILES  # noqa: E402

from sglang_speed.lab.bench.rates import measure_rates  # noqa: E402


def main(profile_name: str, out: Path) -> None:
    profile = PROFILES[profile_name]
    dtype = torch.bfloat16 if profile.device == "cuda" else torch.float32
    rates = measure_rates(profile.device, profile.copy_bytes, profile.matrix_size, dtype)
    memory = torch.cuda.get_device_properties(0).total_memory if profile.device == "cuda" else 0
    out.write_text(json.dumps({"flops": rates.flops, "bandwidth": rates.bandwidth, "memory": memory}), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

"""Faults for one server only: a plugin of SGLang in a directory of its own, found through PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

LOSES_A_SLOT = """
import os
from pathlib import Path

def register():
    from sglang_speed.kv_pool.deep_band import DeepBand
    release = DeepBand.release

    def release_and_lose(band, row):
        was_admitted = row in band.rows
        release(band, row)
        if was_admitted and Path(os.environ["FAULT_ARMED"]).exists():
            band.allocator.alloc(1)

    DeepBand.release = release_and_lose
"""


def write_plugin(directory: Path, source: str) -> dict[str, str]:
    """Install `source` as a plugin named fault; what to add to a server's environment, and the file that arms it."""
    info = directory / "fault-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fault\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[sglang.srt.plugins]\nfault = fault:register\n")
    (directory / "fault.py").write_text(source)
    return {"PYTHONPATH": str(directory), "FAULT_ARMED": str(directory / "armed")}

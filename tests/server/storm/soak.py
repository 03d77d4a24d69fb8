"""A storm for hours: `python -m tests.server.storm.soak --minutes 120 --seed 1 --json build/soak.json`.

One server, round after round; a line for each, a table at the end. The exit code is 1 after any wrong answer, error,
leak or death. The figures are written however it ends.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from tests.server.storm.examiner import Examiner
from tests.server.storm.report import Report
from tests.server.storm.setups import SETUPS
from tests.server.storm.storm import Storm
from tests.server.storm.watch import late_growth

GROWTH_MIB = 16.0
"""Memory that hours may add; see the quarters that `late_growth` compares."""
MIN_ROUNDS = 4
"""Quarters of fewer rounds are mostly start-up."""
LOG_TAIL_CHARS = 6000
HEADER = " minute round answers  exact wrong errors retracted  RSS MiB  tokens/s   hits  deep peak"


@dataclass
class Soak:
    """The storm so far. before, after: the calm reports, whose throughput is that of one client."""

    storm: Storm
    started: float = field(default_factory=time.monotonic)
    rounds: list[Report] = field(default_factory=list)
    before: Report = field(default_factory=Report)
    after: Report = field(default_factory=Report)

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def run(self, minutes: float) -> None:
        """Play rounds for so long, or until something is wrong; print a line for each."""
        self.before = self.storm.calm()
        print(HEADER, flush=True)
        while self.minutes < minutes and self.storm.server.is_alive and all(each.is_clean for each in self.rounds):
            self.rounds.append(self.storm.round(len(self.rounds)))
            print(self.line(), flush=True)
        if self.storm.server.is_alive:
            self.after = self.storm.calm()

    def line(self) -> str:
        """The last round."""
        last = self.rounds[-1]
        return (
            f"{self.minutes:7.1f} {len(self.rounds):5} {last.num_answers:7} {last.num_exact:6} "
            f"{len(last.mismatches):5} {len(last.errors):6} {last.retractions:9} {max(last.rss_mib, default=0):8.0f} "
            f"{last.tokens_per_second:9.0f} {last.hit_rate:6.2f} {max(last.deep_usage, default=0):10.2f}"
        )

    def total(self) -> Report:
        total = Report()
        for each in self.rounds:
            total += each
        return total

    def faults(self) -> list[str]:
        """Everything that must not be."""
        total, calm = self.total(), [self.before, self.after]
        growth = late_growth(total.rss_mib)
        checks = {
            "the server died": not self.storm.server.is_alive,
            f"{len(total.mismatches)} wrong answers": bool(total.mismatches),
            f"{len(total.errors)} errors": bool(total.errors),
            f"memory grows: {growth:.1f} MiB": growth > GROWTH_MIB and len(self.rounds) >= MIN_ROUNDS,
            "calm requests are wrong": not all(each.is_clean for each in calm),
            "no retraction: nothing was pressed": not total.retractions,
        }
        return [words for words, is_so in checks.items() if is_so]

    def figures(self) -> dict[str, Any]:
        """The result as JSON."""
        calm = {"before": self.before.tokens_per_second, "after": self.after.tokens_per_second}
        return {
            "setup": asdict(self.storm.setup),
            "seed": self.storm.seed,
            "num_threads": self.storm.num_threads,
            "made_with": made_with(),
            "minutes": self.minutes,
            "faults": self.faults(),
            "calm_tokens_per_second": calm,
            "total": self.total().figures(),
            "rounds": [each.figures() for each in self.rounds],
        }


def made_with() -> dict[str, str]:
    """Commit, versions and machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    names = ("sglang", "torch", "transformers")
    return {"commit": commit, "machine": platform.platform()} | {name: version(name) for name in names}


def main(
    minutes: Annotated[float, typer.Option(help="How long; a round that has begun is played to its end.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Decides what is asked.")] = 1,
    setup: Annotated[str, typer.Option(help=f"The server: {', '.join(SETUPS)}.")] = "priorities",
    threads: Annotated[int, typer.Option(help="Clients at once.")] = 16,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
) -> None:
    """Serve a tiny checkpoint with pools that are too small, and storm it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        checkpoint = SETUPS[setup].checkpoint(Path(directory))
        with SETUPS[setup].served(checkpoint) as server:
            soak = Soak(Storm(SETUPS[setup], server, Examiner(checkpoint, SETUPS[setup].adapters), seed, threads))
            try:
                soak.run(minutes)
            finally:
                faults = conclude(soak, json_path)
    sys.exit(1 if faults else 0)


def conclude(soak: Soak, json_path: Path | None) -> list[str]:
    """Write and print the figures, and the end of the server's log where something is wrong; returns what is wrong."""
    console, figures = Console(width=140, highlight=False), soak.figures()
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if figures["faults"]:
        console.print(soak.storm.server.log[-LOG_TAIL_CHARS:], markup=False)
    title = f"{soak.storm.setup.name}, seed {soak.storm.seed}, {soak.minutes:.1f} minutes"
    console.print(soak.total().table(title))
    console.print(f"one client, tokens/s: {figures['calm_tokens_per_second']}", markup=False)
    console.print(f"faults: {figures['faults'] or 'none'}", markup=False)
    faults: list[str] = figures["faults"]
    return faults


if __name__ == "__main__":
    typer.run(main)

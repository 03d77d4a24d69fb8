"""Writes the sizing examples of README.md from what `sglang-speed plan` says: `python -m deploy.sizing`.

With --check it changes nothing, and fails where they differ; a test does that.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from benchmarks.documents import write_figures
from sglang_speed.lab.cli import app

README = Path(__file__).with_name("README.md")
SOURCE = "sglang-speed plan"
_HEAD = (
    "| | prompt tokens in the KV memory | requests at once | `SGLANG_SPEED_DEEP_TOKENS` | TTFT, at most "
    "| TPOT, at most |\n"
    "|---|---|---|---|---|---|\n"
)
_BFLOAT16 = {"dtype": "bfloat16", "rope_theta": 1000000.0}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-8B": _BFLOAT16
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 36,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    },
    "Llama-3.1-70B": _BFLOAT16
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 80,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
}
"""What of their config.json has to do with sizes."""


@dataclass(frozen=True)
class Example:
    title: str
    model: str
    options: str

    @property
    def command(self) -> str:
        return f"sglang-speed plan {self.model} {self.options}"


EXAMPLES = (
    Example(
        "Documents, short answers, one GPU",
        "Qwen3-8B",
        "--context 32k --answer 512 --memory 80G --prefill-layers 27",
    ),
    Example(
        "Short questions, long answers, one GPU",
        "Qwen3-8B",
        "--context 2k --answer 8192 --memory 80G --prefill-layers 27",
    ),
    Example(
        "Agents with long contexts, four GPUs",
        "Llama-3.1-70B",
        "--context 64k --answer 1024 --memory 80G --gpus 4 --prefill-layers 60 --policy speed --policy fastkv "
        "--policy fastkv,kv_keep=0.1",
    ),
)


def planned(example: Example) -> dict[str, Any]:
    """What the command says with --json."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODELS[example.model]), encoding="utf-8")
        arguments = ["plan", folder, "--json", *shlex.split(example.options)]
        found: dict[str, Any] = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
        return found


def text() -> str:
    return "".join(part for example in EXAMPLES for part in _parts(example)) + "\n"


def _parts(example: Example) -> Iterator[str]:
    plan = planned(example)
    full = plan["estimates"][0]
    yield f"\n**{example.title}** ({plan['setup']['kv_budget_bytes'] / 2**30:.1f} GiB for KV on each GPU)\n\n"
    yield f"    {example.command}\n\n{_HEAD}"
    for each in plan["estimates"]:
        deep = "" if each is full else f"{each['deep_tokens']:,}{' (default)' * each['is_default']}"
        counts = (f"{each[name]:,}{_times(each[name], full[name])}" for name in ("prompt_tokens", "requests"))
        ratios = (f"{each[name]:.2f}x" for name in ("ttft", "tpot_full"))
        yield f"| {' | '.join((each['name'], *counts, deep, *ratios))} |\n"


def _times(value: int, full: int) -> str:
    return f" ({value / full:.2f}x)" if full and value != full else ""


def main(check: Annotated[bool, typer.Option("--check", help="Change nothing.")] = False) -> None:
    write_figures(README, SOURCE, text(), check=check)


if __name__ == "__main__":
    typer.run(main)

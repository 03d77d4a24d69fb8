"""Does SGLang serve on this machine, and does the plugin load in its processes? A tiny random model, seconds.

python benchmarks/gpu/smoke.py [--arch qwen3]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sglang_speed.lab.bench import Arch  # noqa: E402

NEW_TOKENS = 16
SHAPE = {"num_layers": 8, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 1, "head_dim": 128}
SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}
SETTINGS = {
    "skip_tokenizer_init": True,
    "attention_backend": "flashinfer",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_prefill_cuda_graph": True,
    "cuda_graph_bs_decode": [4],
    "cuda_graph_max_bs_decode": 4,
    "max_running_requests": 4,
    "max_total_tokens": 8192,
    "log_level": "warning",
}


def main(arch: Arch = "llama") -> None:
    """Serve a plain and a SPEED model, each in separate processes; compare the latter with the reference."""
    import torch

    print(torch.__version__, torch.cuda.get_device_name(), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, speed in (("stock", None), ("speed", SPEED)):
            from tests.catalogue import MODELS
            from tests.tiny_models import make_tiny_model

            path = make_tiny_model(Path(directory) / name, speed=speed, **{**MODELS[arch], **SHAPE})
            answers = serve(name, path)
            if speed:
                compare(path, answers)


def prompts() -> list[list[int]]:
    return [[0, *((7 * i + 13 * j) % 95 + 34 for j in range(15 + i))] for i in range(4)]


def serve(name: str, path: Path) -> list[list[int]]:
    """Greedy tokens of a bfloat16 engine; prints its start and answer times."""
    import sglang

    began = time.monotonic()
    engine = sglang.Engine(model_path=str(path), dtype="bfloat16", **SETTINGS)
    try:
        print(f"{name}: up after {time.monotonic() - began:.1f} s", flush=True)
        sampling = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
        began = time.monotonic()
        outputs: list[dict[str, Any]] = engine.generate(input_ids=prompts(), sampling_params=sampling)
        print(f"{name}: answered after {time.monotonic() - began:.1f} s", flush=True)
        return [output["output_ids"] for output in outputs]
    finally:
        engine.shutdown()


def compare(path: Path, answers: list[list[int]]) -> None:
    """AssertionError if too few tokens agree; in bfloat16 some may differ."""
    from transformers import AutoModelForCausalLM

    import sglang_speed.reference.modeling  # noqa: F401  registers its models
    from sglang_speed.reference.generation import generate_greedy

    model = AutoModelForCausalLM.from_pretrained(path).eval()
    agreeing = 0
    for prompt, answer in zip(prompts(), answers, strict=True):
        expected = generate_greedy(model, prompt, NEW_TOKENS)
        assert len(answer) == NEW_TOKENS, answer
        agreeing += next(
            (i for i, pair in enumerate(zip(answer, expected, strict=True)) if len({*pair}) > 1), NEW_TOKENS
        )
    print(
        f"agrees with the float32 reference on {agreeing} of {NEW_TOKENS * len(answers)} tokens, up to each difference"
    )
    assert agreeing >= NEW_TOKENS, "at least a quarter: the rest may be rounding"


if __name__ == "__main__":  # SGLang starts processes that import this file
    typer.run(main)

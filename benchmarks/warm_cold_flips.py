"""How often does greedy output in bfloat16 differ between a prefix hit and a cold run, for SPEED and for stock SGLang?

python benchmarks/warm_cold_flips.py                          # 15 to 20 minutes on two idle cores
python benchmarks/warm_cold_flips.py --prompts 20 --tokens 8   # a first look

The ideal is 0, which float32 reaches: a hit changes only the shapes of the computation. In bfloat16 other shapes round
differently, also in stock SGLang. All models answer the same prompts, so the rates can be compared. The median change
of the log-probabilities is measured before answers diverge, so it does not depend on how close two tokens were.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import sglang
import typer
from realistic_prompts import follow_up, realistic_prompts
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from transformers import AutoTokenizer

from sglang_speed.checkpoints import smollm2
from sglang_speed.checkpoints.convert import convert
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE
from sglang_speed.lab.common.provenance import provenance

RESULT = Path(__file__).parent / "results" / "warm_cold_flips.json"
NUM_LAYERS = smollm2.NUM_LAYERS
BATCH_SIZE = 20
NUM_ALONE = 10
MAX_PROMPT_TOKENS = 600
TAIL = 16
ENGINE_ARGS = {
    "chunked_prefill_size": 16384,  # a batch is prefilled in one step, so chunking makes no difference
    "max_prefill_tokens": 16384,
    "max_total_tokens": 32768,
    "max_running_requests": BATCH_SIZE,
    "log_level": "error",
}
DEEP_TOKENS = 4096

console = Console()
Ids = list[int]


@dataclass(frozen=True)
class ServedModel:
    """A model and its serving settings. prefill_layers: None: the plain Llama, in SGLang's own model class."""

    prefill_layers: int | None = None
    tail_tokens: int = TAIL
    dtype: str = "bfloat16"
    answers_all: bool = False

    @property
    def name(self) -> str:
        kind = f"SPEED {self.prefill_layers}/{NUM_LAYERS}, tail {self.tail_tokens}" if self.prefill_layers else "stock"
        return kind if self.dtype == "bfloat16" else f"{kind}, {self.dtype}"

    @property
    def recomputed(self) -> int:
        """Prompt tokens that the longest hit computes again; without a deep band there is no tail."""
        return self.tail_tokens if self.prefill_layers not in (None, NUM_LAYERS) else 1


SERVED = (
    ServedModel(answers_all=True),
    ServedModel(24, answers_all=True),
    ServedModel(24, tail_tokens=1),
    ServedModel(NUM_LAYERS),
    ServedModel(dtype="float32"),
    ServedModel(24, dtype="float32"),
)


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, their log-probabilities, and the margins to the second most likely tokens."""

    tokens: Ids
    logprobs: list[float]
    margins: list[float]
    cached: int


@dataclass(frozen=True)
class Comparison:
    """Answers to the same prompts in two conditions. first_differences, margins: position and margin of the first
    difference of each pair that differs."""

    condition: str
    num_prompts: int
    num_tokens: int
    first_differences: list[int]
    margins: list[float]
    logprob_changes: list[float]
    cached_share: float

    @property
    def share(self) -> float:
        return len(self.margins) / self.num_prompts

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval."""
        found = binomtest(len(self.margins), self.num_prompts).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def compare(condition: str, before: Sequence[Answer], after: Sequence[Answer], num_prompt_tokens: int) -> Comparison:
    firsts, margins, changes = [], [], []
    for ours, theirs in zip(before, after, strict=True):
        pairs = enumerate(zip(ours.tokens, theirs.tokens, strict=True))
        first = next((index for index, (one, other) in pairs if one != other), None)
        if first is not None:
            firsts.append(first)
            margins.append(ours.margins[first])
        scores = zip(ours.logprobs[:first], theirs.logprobs[:first], strict=True)
        changes += [abs(one - other) for one, other in scores]
    cached = sum(answer.cached for answer in after)
    num_tokens = len(before[0].tokens)
    return Comparison(condition, len(before), num_tokens, firsts, margins, changes, cached / num_prompt_tokens)


class GreedyClient:
    """Greedy requests to one engine, batch by batch."""

    def __init__(self, engine: Any, num_tokens: int) -> None:
        self.engine, self.num_tokens = engine, num_tokens
        self.params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}

    def cold(self, batch: list[Ids]) -> list[Answer]:
        while not self.engine.flush_cache().success:  # a step may still be running after the last answer
            time.sleep(0.1)
        answers = self.ask(batch)
        assert not any(answer.cached for answer in answers)
        return answers

    def ask(self, batch: list[Ids], recompute: int = 0) -> list[Answer]:
        """recompute: score so many of the last prompt tokens, so that they are not taken from the cache."""
        starts = [len(prompt) - recompute if recompute else -1 for prompt in batch]
        options = {"return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": starts}
        found = self.engine.generate(input_ids=batch, sampling_params=self.params, **options)
        return [self._answer(each) for each in found]

    def _answer(self, found: Any) -> Answer:
        meta = found["meta_info"]
        assert len(found["output_ids"]) == self.num_tokens
        margins = [first[0] - second[0] for first, second in meta["output_top_logprobs"]]
        logprobs = [entry[0] for entry in meta["output_token_logprobs"]]
        return Answer(found["output_ids"], logprobs, margins, meta["cached_tokens"])


def measure(
    asker: GreedyClient, served: ServedModel, prompts: list[Ids], next_turns: list[Ids]
) -> Iterator[Comparison]:
    """Measure all conditions of one model."""
    batches = [prompts[start : start + BATCH_SIZE] for start in range(0, len(prompts), BATCH_SIZE)]
    found: dict[str, list[list[Answer]]] = {}
    lengths: dict[str, int] = {}

    def note(condition: str, before: list[Answer], after: list[Answer], batch: list[Ids]) -> None:
        pair = found.setdefault(condition, [[], []])
        pair[0].extend(before)
        pair[1].extend(after)
        lengths[condition] = lengths.get(condition, 0) + sum(map(len, batch))

    for index, batch in enumerate(batches):
        cold = asker.cold(batch)
        hits = asker.ask(batch)
        assert all(hit.cached == len(prompt) - served.recomputed for hit, prompt in zip(hits, batch, strict=True))
        note("hit", cold, hits, batch)
        if served.prefill_layers is None:
            note(f"hit, {TAIL} tokens again", cold, asker.ask(batch, recompute=TAIL), batch)
        longer = [
            prompt + answer.tokens + turn
            for prompt, answer, turn in zip(batch, cold, next_turns[index * BATCH_SIZE :], strict=False)
        ]
        later_hits = asker.ask(longer)
        note("next turn", asker.cold(longer), later_hits, longer)
        if index == 0:
            note("cold again", cold, asker.cold(batch), batch)
        if index == 0 and served.answers_all:
            few = batch[:NUM_ALONE]
            pairs = [(asker.cold([prompt])[0], asker.ask([prompt])[0]) for prompt in few]
            alone, hits = ([pair[side] for pair in pairs] for side in (0, 1))
            note("cold, one by one", cold[:NUM_ALONE], alone, few)
            note("hit, one by one", alone, hits, few)
        console.print(f"{served.name}: {index + 1} of {len(batches)} batches at {time.strftime('%H:%M:%S')}")
    for condition, (before, after) in found.items():
        yield compare(condition, before, after, lengths[condition])


def checkpoint(served: ServedModel, plain: Path) -> Path:
    """The plain Llama, or a SPEED checkpoint made from it."""
    if served.prefill_layers is None:
        return plain
    path = plain.parent / f"speed-{served.prefill_layers}-{served.tail_tokens}"
    if not path.exists():
        convert(plain, path, prefill_layers=served.prefill_layers, tail_tokens=served.tail_tokens)
    return path


def ask_all(tokenizer: Any, num_prompts: int) -> tuple[list[Ids], list[Ids]]:
    """Prompts and their follow-up turns."""
    random_ = random.Random(1)

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    prompts = [tokenizer.encode(text)[:MAX_PROMPT_TOKENS] for text in realistic_prompts(num_prompts, render)]
    turns = [f"<|im_end|>\n<|im_start|>user\n{follow_up(random_)}<|im_end|>\n<|im_start|>assistant\n" for _ in prompts]
    return prompts, [tokenizer.encode(turn) for turn in turns]


def show(results: list[dict[str, Any]], num_tokens: int) -> None:
    table = Table(title=f"greedy answers of {num_tokens} tokens that differ from a cold run; the ideal is 0")
    for heading in ("model", "condition", "cached", "differ", "share", "95%", "median margin", "median change"):
        table.add_column(heading, justify="left" if heading in ("model", "condition") else "right")
    for row in results:
        low, high = row["interval"]
        margin = f"{median(row['margins']):.3f}" if row["margins"] else ""
        share = [f"{len(row['margins'])} of {row['num_prompts']}", f"{row['share']:.0%}", f"{low:.0%} to {high:.0%}"]
        table.add_row(
            row["model"], row["condition"], f"{row['cached_share']:.0%}", *share, margin, f"{row['median_change']:.1e}"
        )
    console.print(table)


def summary(served: ServedModel, comparison: Comparison) -> dict[str, Any]:
    fields = asdict(comparison)
    changes = sorted(fields.pop("logprob_changes"))
    extra = {"median_change": median(changes), "change_p95": changes[int(0.95 * (len(changes) - 1))]}
    return {
        "model": served.name,
        **{key: [round(x, 4) for x in value] if key == "margins" else value for key, value in fields.items()},
        "share": comparison.share,
        "interval": comparison.interval,
        **extra,
    }


def main(
    prompts: Annotated[int, typer.Option(help="Prompts for stock and SPEED at 24 of 30 layers.")] = 100,
    control_prompts: Annotated[int, typer.Option(help="Prompts for the other models.")] = 40,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 32,
    only: Annotated[str, typer.Option(help="Measure only models whose names contain this.")] = "",
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULT,
) -> None:
    """Measure every model, print the table and write the results."""
    os.environ[DEEP_TOKENS_VARIABLE] = str(DEEP_TOKENS)
    out.parent.mkdir(parents=True, exist_ok=True)
    begin, results = time.monotonic(), []
    report = {**provenance(), "configuration": {"output_tokens": tokens}, "results": results}
    with TemporaryDirectory() as directory:
        plain = Path(directory) / "plain"
        plain.mkdir()
        smollm2.write_llama_checkpoint(smollm2.locate_gguf(), plain)
        asked, turns = ask_all(AutoTokenizer.from_pretrained(plain), prompts)
        report["configuration"] |= configuration(asked)
        for served in (each for each in SERVED if only in each.name):
            num_asked = prompts if served.answers_all else min(control_prompts, prompts)
            with sglang.Engine(model_path=str(checkpoint(served, plain)), dtype=served.dtype, **ENGINE_ARGS) as engine:
                comparisons = measure(GreedyClient(engine, tokens), served, asked[:num_asked], turns)
                results += [summary(served, comparison) for comparison in comparisons]
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            console.print(f"{served.name}: in {out} after {time.monotonic() - begin:.0f} s")
    show(results, tokens)


def configuration(asked: list[Ids]) -> dict[str, Any]:
    lengths = [len(prompt) for prompt in asked]
    return {
        "model": f"{smollm2.PACKAGE} {smollm2.PACKAGE_VERSION}",
        "prompt_tokens": {"min": min(lengths), "median": median(lengths), "max": max(lengths)},
        "batch_size": BATCH_SIZE,
        "deep_tokens": DEEP_TOKENS,
        "engine": ENGINE_ARGS,
    }


# The engine starts processes, which import this file again.
if __name__ == "__main__":
    typer.run(main)

"""`sglang-speed bench`: from options to a table, a results file, plots and an HTML page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from sglang_speed.checkpoints.convert import read_source_config
from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.config import decoder_config
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.adapter import with_adapter
from sglang_speed.lab.bench.facts import REHEARSAL, described_bands, described_rates
from sglang_speed.lab.bench.models import Model, model_of, random_model, with_bare
from sglang_speed.lab.bench.options import BenchOptions
from sglang_speed.lab.bench.plots import draw
from sglang_speed.lab.bench.profiles import PROFILES, QUESTION_TOKENS, Profile, of_architecture, of_dtype
from sglang_speed.lab.bench.rates import measure_rates
from sglang_speed.lab.bench.report import html_report, terminal_table
from sglang_speed.lab.bench.results import Reading, missed
from sglang_speed.lab.bench.rivals import rivals_of
from sglang_speed.lab.bench.run import Comparison, Finished, Starting
from sglang_speed.lab.bench.scenarios import SCENARIOS
from sglang_speed.lab.bench.servers import refuse_own_flags
from sglang_speed.lab.common.local_server import exit_on_sigterm
from sglang_speed.lab.common.machine import has_fast_bfloat16
from sglang_speed.lab.common.outputs import Outputs
from sglang_speed.lab.common.progress import print_written, progress_bars, wide_console
from sglang_speed.method.cost import Rates, kept_layers, prefill_ceiling

console = wide_console(126)


def bench(options: BenchOptions) -> None:
    """Compare, print the table, write the results.

    Raises ConfigError for a wrong name or a model that does not fit, before a server is started.
    """
    models = [local_checkpoint(model) for model in options.model or ()]
    flags, scenarios = options.flags or (), check_names(options.scenario or ())
    name = options.profile or ("gpu" if torch.cuda.is_available() else "cpu")
    dtype = "bfloat16" if has_fast_bfloat16() else "float32"
    sizes = of_dtype(of_architecture(PROFILES[name], options.arch or "llama"), dtype)
    sizes = replace(sizes, rivals=rivals_of(options.policy or ()))
    if options.length:
        sizes = with_lengths(sizes, options.length)
    elif models:
        sizes = within_context(sizes, context_of(models[0]))
    refuse_own_flags(flags)
    outputs = Outputs(options.json, options.plot, options.html)
    outputs.require_writable()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="sglang-speed-bench-") as directory:
        compared = prepare(models, options.full_depth, sizes, scenarios, Path(directory) / "models")
        if options.lora_rank is not None:
            compared = with_adapter(compared, options.lora_rank, Path(directory) / "adapter")
        compared = with_bare(compared) if options.bare else compared
        rates = measure_rates(sizes.device, sizes.copy_bytes, sizes.matrix_size, getattr(torch, sizes.dtype))
        print_ceilings(compared, rates)
        if sizes.is_rehearsal:
            console.print(f"[bold yellow]{REHEARSAL}[/]")
        named = {"model": ", ".join(compared.rivals)} if models else {"model": "random", "arch": sizes.arch}
        names = {**named, "profile": name}
        comparison = Comparison(compared, sizes, rates, names, flags, options.lora_rank)
        measure(comparison, scenarios, outputs.make_logs(), outputs)
    finish(comparison, outputs)


def check_names(scenarios: Sequence[str]) -> list[str]:
    """The chosen scenarios; all if none is named."""
    for name in scenarios:
        if name not in SCENARIOS:
            raise ConfigError(f"--scenario {name} is not one of {', '.join(SCENARIOS)}: choose some of these")
    return list(dict.fromkeys(scenarios)) or list(SCENARIOS)


def with_lengths(profile: Profile, lengths: Sequence[int]) -> Profile:
    """The profile with other prompt lengths, and a pool large enough for a batch of the longest."""
    ordered = tuple(sorted(set(lengths)))
    if ordered[0] < 64:
        raise ConfigError(f"--length {ordered[0]} is below 64: shorter prompts measure the scheduler only")
    most = max(profile.batch_sizes)
    pool = replace(profile.long_pool, tokens=most * (ordered[-1] + 4 * profile.decode_tokens + 64))
    return replace(
        profile, prompt_lens=ordered, prompt_repeats=(max(most, profile.repeats),) * len(ordered), long_pool=pool
    )


def within_context(profile: Profile, context_len: int) -> Profile:
    """The profile without the prompts that a model's context is too short for; as it is if it is for all."""
    room = context_len - max(QUESTION_TOKENS, profile.decode_tokens)
    fitting = [length for length in profile.prompt_lens if length <= room]
    if not fitting or len(fitting) == len(profile.prompt_lens):
        return profile
    console.print(f"the model's context is {context_len} tokens: prompts of at most {fitting[-1]} are measured")
    return with_lengths(profile, fitting)


def context_of(model: Path) -> int:
    """The most tokens of a request."""
    return int(decoder_config(read_source_config(model)).get("max_position_embeddings", 2048))


def prepare(
    models: Sequence[Path], full_depth: Path | None, profile: Profile, scenarios: Sequence[str], directory: Path
) -> Model:
    """The checkpoints. Raises ConfigError if the model's context is too short for a scenario."""
    if not models:
        return random_model(profile, directory)
    context_len = context_of(models[0])
    needed = {name: profile.longest_requests.get(name, 0) for name in scenarios}
    if max(needed.values()) > context_len:
        too_long = [f"{name} asks for {length}" for name, length in needed.items() if length > context_len]
        raise ConfigError(
            f"{models[0]} has a context of {context_len} tokens and {', '.join(too_long)}: choose other scenarios, or "
            f"for prefill and decode shorter prompts, e.g. --length {context_len // 4} --length {context_len // 2}"
        )
    is_dequantized = profile.device == "cpu"
    return model_of(models, full_depth, directory, profile.shape.kv_dtype_bytes, is_dequantized=is_dequantized)


def print_ceilings(model: Model, rates: Rates) -> None:
    """Print what is possible, before anything is measured."""
    for name, config in model.rivals.items():
        console.print(
            f"{name}: {described_bands(config)}: at most {prefill_ceiling(model.shape, config):.2f}x in prefill and "
            f"{config.num_layers / kept_layers(model.shape, config):.2f}x in prompt tokens per byte"
        )
    console.print(f"this machine: {described_rates(asdict(rates))}")


def measure(comparison: Comparison, names: Sequence[str], logs: Path, outputs: Outputs) -> None:
    """Run the scenarios under a progress bar. The results file is written after each of them."""
    with progress_bars(console) as progress:
        task = progress.add_task("", total=len(names))
        for event in comparison.run(names, logs):
            match event:
                case Starting(sides):
                    progress.update(task, description="starting servers")
                    progress.console.print(f"starting {', '.join(sides)}; their logs are in {logs}", soft_wrap=True)
                case Reading(figures, side):
                    figure = next(iter(figures.values()))
                    progress.update(task, description=f"{figure.scenario}: {figure.name}, {side}")
                case Finished():
                    progress.advance(task)
                    outputs.write_json(comparison.to_dict())


def finish(comparison: Comparison, outputs: Outputs) -> None:
    """Print the table and the missed targets; write files."""
    results = comparison.to_dict()
    console.print(terminal_table(results))
    for words in missed(results["scenarios"]):
        console.print(f"[red]below its target[/] {words}", highlight=False)
    outputs.write_json(results)
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw(results, outputs.plots or Path(folder))
        if outputs.html is not None:
            outputs.html.write_text(html_report(results, pictures), encoding="utf-8")
    print_written(console, outputs.named)

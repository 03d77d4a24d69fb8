"""`sglang-speed cutoff`: from options to a table, a recommendation, a results file and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TimeRemainingColumn

from sglang_speed.checkpoints.adapter import require_untrained
from sglang_speed.checkpoints.convert import read_source_config
from sglang_speed.checkpoints.describe import model_shape
from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.config import SpeedConfig, decoder_config
from sglang_speed.lab.common.chat import ChatFormat
from sglang_speed.lab.common.data import chats_file
from sglang_speed.lab.common.outputs import replace_json, require_folder
from sglang_speed.lab.common.progress import print_written, progress_bars, wide_console
from sglang_speed.lab.common.provenance import provenance
from sglang_speed.lab.cutoff.cutoffs import NO_CONTEXT, cutoff_sums
from sglang_speed.lab.cutoff.evidence import TOOLS
from sglang_speed.lab.cutoff.fisher import importance_sums
from sglang_speed.lab.cutoff.model import load_model
from sglang_speed.lab.cutoff.options import CutoffOptions
from sglang_speed.lab.cutoff.policies import Setting, setting_sums, settings_of
from sglang_speed.lab.cutoff.report import BUILT_IN, cutoffs_table, kinds_table, sentences, settings_table
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.lab.cutoff.results import Measurements, results_of
from sglang_speed.lab.cutoff.texts import Limits, built_in_prompts, generate_responses, requests_in_chats
from sglang_speed.reference.modeling import ReferenceModel

RESPONSE_LEN = 64

console = wide_console(110)


def measure_cutoffs(options: CutoffOptions) -> None:
    """Measure, print and write the results. Raises ConfigError before anything long begins."""
    checkpoint = local_checkpoint(options.checkpoint)
    data = None if options.data is None else chats_file(options.data)
    limits = Limits(options.samples, options.max_tokens, options.seed)
    for path in (options.json, options.plot):
        if path is not None:
            require_folder(path.parent, path)
    require_untrained(checkpoint, "measured")
    config = read_source_config(checkpoint)
    num_layers = decoder_config(config)["num_hidden_layers"]
    cutoffs = check_cutoffs(options.cutoff or (), num_layers)
    settings = settings_of(options.policy, options.cutoff or (), num_layers, checkpoint)
    model = load_model(checkpoint, options.anchor_tokens, options.tail_tokens)
    with progress_bars(console, TimeRemainingColumn()) as progress:
        requests = find_requests(model, ChatFormat.of_checkpoint(checkpoint), data, limits, progress)
        measured = measure(model, requests, cutoffs, settings, limits.seed, progress)
    results = {
        **provenance(),
        "model": checkpoint.name,
        "texts": {
            "source": BUILT_IN if data is None else data.name,
            "samples": limits.num,
            "seed": limits.seed,
            "max_tokens": limits.max_tokens,
        },
        **results_of(measured, model.config.speed_config, model_shape(config), options.max_kl),
    }
    show(results, options)


def check_cutoffs(cutoffs: Sequence[int], num_layers: int) -> list[int]:
    """The cutoffs in order, with the two extremes: no context, and full depth."""
    for cutoff in cutoffs:
        SpeedConfig(num_layers, cutoff)
    named = cutoffs or range(max(1, num_layers // 2), num_layers)
    return sorted({NO_CONTEXT, *named, num_layers})


def find_requests(
    model: ReferenceModel, chat_format: ChatFormat, data: Path | None, limits: Limits, progress: Progress
) -> Sequence[Request]:
    """From the user's chats, or sampled from the model."""
    if data is not None:
        return requests_in_chats(data, chat_format, model.policy, limits)
    prompts = built_in_prompts(chat_format, model.policy, limits, RESPONSE_LEN)
    task = progress.add_task("the model answers", total=len(prompts))
    said: list[Request] = []
    # at temperature 1, a small model seldom copies a value or calls a tool
    for is_greedy in (False, True):
        said += generate_responses(
            model,
            [prompt.token_ids for prompt in prompts if prompt.wants_exactness is is_greedy],
            sorted(chat_format.stop_ids),
            RESPONSE_LEN,
            limits.seed,
            advance=lambda count: progress.advance(task, count),
            is_greedy=is_greedy,
        )
    with_tools = {prompt.token_ids for prompt in prompts if TOOLS in prompt.kinds}
    return [replace(one, uses_tools=one.token_ids[: one.prompt_len] in with_tools) for one in said]


def measure(
    model: ReferenceModel,
    requests: Sequence[Request],
    cutoffs: Sequence[int],
    settings: Sequence[Setting],
    seed: int,
    progress: Progress,
) -> Measurements:
    """Measure importance, cutoffs and other policies on every request."""
    generator = torch.Generator(model.device).manual_seed(seed)
    importance, by_cutoff, by_setting = [], [], []
    for request in progress.track(requests, description="layers, cutoffs and policies"):
        importance.append(importance_sums(model, request, generator))
        by_cutoff.append(cutoff_sums(model, request, cutoffs))
        by_setting.append(setting_sums(model, request, settings))
    sums = map(torch.stack, (importance, by_cutoff, by_setting))
    return Measurements(requests, cutoffs, settings, *sums)


def show(results: dict[str, Any], options: CutoffOptions) -> None:
    """Print tables and sentences; write files."""
    console.print(cutoffs_table(results))
    if results["settings"]:
        console.print(settings_table(results))
    if results["cutoffs"][0]["divergence_by_kind"]:
        console.print(kinds_table(results))
    for sentence in sentences(results):
        console.print(sentence, highlight=False)
    if options.json is not None:
        replace_json(options.json, results)
    if options.plot is not None:
        from sglang_speed.lab.cutoff.plots import draw

        draw(results, options.plot)
    print_written(console, (options.json, options.plot))

"""The command `sglang-speed plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.convert import plain_model_config, read_source_config
from sglang_speed.checkpoints.describe import model_shape
from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.checkpoints.weights import read_weights
from sglang_speed.config import SpeedConfig, decoder_config, is_speed_model
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.rivals import rivals_of, usual_cutoffs
from sglang_speed.lab.common.outputs import require_folder
from sglang_speed.lab.plan.estimates import Setup, estimates_of, kv_budget_of
from sglang_speed.lab.plan.options import PlanOptions, bytes_in, tokens_in
from sglang_speed.lab.plan.report import draw_plan, notes, plan_dict, plan_table
from sglang_speed.method.cost import ModelShape, weight_bytes
from sglang_speed.policy_config import POLICY_TRAITS
from sglang_speed.quantization import quantization_at


def plan(options: PlanOptions) -> None:
    """Print the plan. Raises ConfigError for a model that cannot be served, or a wrong option."""
    from rich.console import Console

    if options.plot is not None:
        require_folder(options.plot.parent, options.plot)
    source = local_checkpoint(options.model)
    config = read_source_config(source)
    setup = setup_of(options, source, config)
    estimates = estimates_of(setup, choices_of(options, config, setup.num_layers))
    if options.plot is not None:
        draw_plan(estimates, options.plot)
    if options.json:
        print(json.dumps(plan_dict(options, setup, estimates), indent=2))
        return
    console = Console()
    console.print(plan_table(setup, estimates))
    console.print(*notes(setup, estimates), sep="\n", soft_wrap=True, highlight=False)


def setup_of(options: PlanOptions, source: Path, config: Mapping[str, Any]) -> Setup:
    """Sizes of the model, and what the user said of GPUs and traffic."""
    stock = plain_model_config(config)
    shape, num_layers = model_shape(stock), decoder_config(stock)["num_hidden_layers"]
    prompt_len = tokens_in("context", options.context)
    longest = decoder_config(stock).get("max_position_embeddings")
    if longest is not None and prompt_len + options.answer > longest:
        raise ConfigError(
            f"--context {options.context} and --answer {options.answer} make {prompt_len + options.answer} tokens, and "
            f"the model takes {longest}: lower one of them"
        )
    weights = _weight_bytes(options, source, shape, num_layers)
    memory = bytes_in("memory", options.memory)
    budget = kv_budget_of(memory, options.mem_fraction, weights, options.gpus)
    return Setup(shape, num_layers, budget, options.gpus, prompt_len, options.answer, options.requests)


def _weight_bytes(options: PlanOptions, source: Path, shape: ModelShape, num_layers: int) -> int:
    """Of all GPUs: as the user says, else of the files, else by the sizes, with an embedding of its own."""
    if options.weights is not None:
        return bytes_in("weights", options.weights)
    if any(source.glob("*.safetensors")):
        return read_weights(source).num_bytes
    if quantization_at(source) is not None:
        raise ConfigError(f"{source} is quantized and has no weights here: say how much they take with --weights 40G")
    embedding = shape.vocab_size * shape.hidden_size * shape.weight_dtype_bytes
    return round(weight_bytes(shape, SpeedConfig(num_layers, num_layers)) + embedding)


def choices_of(options: PlanOptions, config: Mapping[str, Any], num_layers: int) -> Iterator[tuple[str, SpeedConfig]]:
    """Each policy at each cutoff; of a SPEED checkpoint its own bands, where no others are named."""
    if is_speed_model(config) and not options.policy and not options.prefill_layers:
        yield "as converted", SpeedConfig.from_model_config(config)
        return
    cutoffs = options.prefill_layers or usual_cutoffs(num_layers)
    for rival in rivals_of(options.policy or POLICY_TRAITS):
        settings = dict(rival.settings)
        if "deep_message_tokens" in settings:
            raise ConfigError(
                f"--policy {rival.name} makes short messages deep, and how many there are is not known here: leave "
                "deep_message_tokens out, and measure with `sglang-speed bench`"
            )
        own = settings.pop("prefill_layers", None)
        for cutoff in cutoffs if own is None else [own]:
            bands = SpeedConfig.of_policy(num_layers, cutoff, rival.policy, **settings)
            if not bands.is_stock:
                yield f"{rival.name if own is None else rival.policy}, {cutoff} of {num_layers}", bands

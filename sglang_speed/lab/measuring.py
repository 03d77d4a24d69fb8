"""The commands that measure: `sglang-speed bench`, `cutoff` and `eval`.

Owns their arguments. Heavy imports stay inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench import PROFILE_NAMES, SCENARIO_NAMES
from sglang_speed.lab.common.extras import require_extra
from sglang_speed.lab.evaluation import NUM_SAMPLES, TASK_NAMES


def bench(
    model: Annotated[
        str | None, typer.Option(help="SPEED checkpoint, or `speed-llama`; default: a model with random weights.")
    ] = None,
    full_depth: Annotated[
        Path | None, typer.Option(help="The same model as a plain Llama; default: made from --model.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help=f"How large the run is: {', '.join(PROFILE_NAMES)}; default: gpu, or else cpu.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCENARIO_NAMES)}; may be given several times; default: all.")
    ] = None,
    length: Annotated[list[int] | None, typer.Option(help="Prompt tokens; may be given several times.")] = None,
    json: Annotated[Path | None, typer.Option(help="JSON file to write, with all figures and samples.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder to write the pictures to.")] = None,
    html: Annotated[Path | None, typer.Option(help="HTML page to write, with the table and the pictures.")] = None,
    flags: Annotated[list[str] | None, typer.Argument(help="After `--`: SGLang flags for all servers.")] = None,
) -> None:
    """Compare the speed of stock SGLang and SPEED: the same weights and KV memory, measured in turns."""
    if profile is not None and profile not in PROFILE_NAMES:
        raise ConfigError(f"--profile {profile} is not one of {', '.join(PROFILE_NAMES)}: choose one of these")
    require_extra("bench", "jinja2", "matplotlib")
    import torch

    from sglang_speed.checkpoints.default_model import resolve_model
    from sglang_speed.lab.bench.command import BenchOptions
    from sglang_speed.lab.bench.command import bench as compare
    from sglang_speed.lab.common.outputs import Outputs

    compare(
        BenchOptions(
            model=None if model is None else Path(resolve_model(model)),
            full_depth=full_depth,
            profile=profile or ("gpu" if torch.cuda.is_available() else "cpu"),
            scenarios=scenario or (),
            lengths=length or (),
            outputs=Outputs(json, plot, html),
            flags=flags or (),
        )
    )


def cutoff_(
    checkpoint: Annotated[str, typer.Argument(help="Llama checkpoint directory, or an untrained SPEED one.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Chats like those to be served: a JSONL file, a Parquet file, or OWNER/NAME on the Hub; left out: "
            "the model answers built-in prompts."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Answers to measure; each takes SmolLM2-135M about 10 s of one core.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    cutoff: Annotated[
        list[int] | None,
        typer.Option(help="Prefill layers to measure; may be given several times; default: the upper half."),
    ] = None,
    anchor_tokens: Annotated[
        int | None, typer.Option(help="First prompt tokens that pass all layers; default: as in the checkpoint, or 1.")
    ] = None,
    tail_tokens: Annotated[
        int | None, typer.Option(help="Last prompt tokens that pass all layers; default: as in the checkpoint, or 16.")
    ] = None,
    max_kl: Annotated[
        float, typer.Option(help="KL from full depth to accept without training, in nats per answer token.")
    ] = 0.1,
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens of a prompt and its answer; longer ones are left out.")
    ] = 1024,
    json: Annotated[Path | None, typer.Option(help="JSON file to write, with all figures.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to write, with a picture.")] = None,
) -> None:
    """Measure which cutoff suits a checkpoint: what each layer does, and what each cutoff costs without training."""
    if plot is not None:
        require_extra("train", "matplotlib")
    from sglang_speed.checkpoints.default_model import resolve_model
    from sglang_speed.lab.common.data import chats_file
    from sglang_speed.lab.cutoff.command import CutoffOptions, measure_cutoffs
    from sglang_speed.lab.cutoff.texts import Limits

    measure_cutoffs(
        CutoffOptions(
            checkpoint=Path(resolve_model(checkpoint)),
            data=None if data is None else chats_file(data),
            limits=Limits(samples, max_tokens, seed),
            anchor_tokens=anchor_tokens,
            tail_tokens=tail_tokens,
            cutoffs=cutoff or (),
            max_kl=max_kl,
            json=json,
            plot=plot,
        )
    )


def eval_(
    models: Annotated[
        list[str] | None, typer.Argument(help="Checkpoints, as DIR or NAME=DIR; after `--`: SGLang flags.")
    ] = None,
    full_depth: Annotated[
        str | None,
        typer.Option(help="The model to compare with, as DIR or URL; default: the weights of an untrained checkpoint."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running server to evaluate, instead of checkpoints.")] = None,
    tail_tokens: Annotated[
        list[int] | None, typer.Option(help="Tail tokens to serve SPEED checkpoints with; may be given several times.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(TASK_NAMES)}; may be given several times; default: all.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Questions in each task.")] = NUM_SAMPLES,
    length: Annotated[
        list[int] | None, typer.Option(help="Words in a text with a needle; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="JSON file to write; a later run does not ask again what is in it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder to write the pictures to.")] = None,
) -> None:
    """Compare the quality of checkpoints with full depth: perplexity, needles, tool calls, instructions, recall."""
    require_extra("eval", "jsonschema", "matplotlib", "requests")
    from itertools import takewhile

    from sglang_speed.lab.common.outputs import Outputs
    from sglang_speed.lab.evaluation.command import EvaluationOptions, evaluate

    named = list(takewhile(lambda word: not word.startswith("-"), models or ()))
    evaluate(
        EvaluationOptions(
            models=named,
            full_depth=full_depth,
            url=url,
            tails=tail_tokens or (),
            tasks=task or (),
            num_samples=samples,
            seed=seed,
            lengths=length or (),
            outputs=Outputs(json, plot),
            flags=(models or [])[len(named) :],
        )
    )

"""`sglang-speed doctor`: does this machine serve SPEED models, and how would it serve this one?

Asks what a server's processes ask when they start: the version of SGLang, whether every change to it fits and is in
place, what the arguments resolve to and whether they are refused. Loads no weights and starts nothing.
"""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.markup import escape
from rich.table import Table

from sglang_speed.errors import ConfigError, HostMismatch
from sglang_speed.policy_config import DEFAULT_POLICY

PACKAGES = ("sglang-speed", "sglang", "torch", "transformers", "flashinfer-python", "triton", "xgrammar")


@dataclass(frozen=True)
class Finding:
    """fits: None where there is nothing to judge."""

    subject: str
    found: str
    fits: bool | None = None


def findings(model: str | None) -> Iterator[Finding]:
    """From the ground up; what depends on something that does not fit is left out."""
    yield Finding("versions", ", ".join(_versions()))
    yield Finding("device", _device())
    try:
        from sglang_speed.host.versions import check_version

        yield Finding("SGLang", f"{check_version()} is supported", True)
        yield Finding("changes to SGLang", f"{_num_changes_in_place()} in place", True)
    except HostMismatch as error:
        yield Finding("SGLang", str(error), False)
        return
    if model is not None:
        yield from _model_findings(model)


def table_of(found: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    marks = {None: "", True: "[green]fits[/green]", False: "[red]does not fit[/red]"}
    for each in found:
        table.add_row(each.subject, escape(each.found), marks[each.fits])
    return table


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return "no accelerator: the CPU platform of this package serves"


def _num_changes_in_place() -> int:
    """Load SGLang's plugins as its processes do; HostMismatch unless ours is among them, and whole."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from sglang.srt.plugins import load_plugins

    from sglang_speed.host.check import num_installed, require_host

    load_plugins()
    require_host("serving")
    return num_installed()


def _model_findings(model: str) -> Iterator[Finding]:
    from sglang_speed.checkpoints.hub import local_checkpoint
    from sglang_speed.checkpoints.servable import NOT_FOUND
    from sglang_speed.host.adapter import HOST
    from sglang_speed.served import speed_of

    path = local_checkpoint(model)
    if not path.is_dir():
        yield Finding(model, NOT_FOUND, False)
        return
    try:
        args = HOST.resolve(model_path=model)
    except (ConfigError, HostMismatch) as error:
        yield Finding(model, str(error), False)
        return
    model_config = args.get_model_config()
    speed = speed_of(model_config.hf_config)
    name = model_config.hf_config.architectures[0]
    if speed is None:
        yield Finding(model, f"{name}, served by SGLang at full depth: it is not a SPEED checkpoint")
        return
    policy = "" if speed.policy == DEFAULT_POLICY else f", policy {speed.policy}"
    yield Finding(model, f"{name}, prompts in {speed.prefill_layers} of {speed.num_layers} layers{policy}", True)
    yield Finding("served with", ", ".join(_settings(args, model_config)))


def _settings(args: Any, model_config: Any) -> Iterator[str]:
    from sglang_speed.features.kv_cache_dtype import resolved_dtype

    yield f"attention {' / '.join(dict.fromkeys(args.get_attention_backends()))}"
    yield str(model_config.dtype if args.dtype == "auto" else args.dtype).removeprefix("torch.")
    if model_config.quantization:
        yield f"weights quantized by {model_config.quantization}"
    yield f"KV cache {resolved_dtype(args)}"
    yield f"pages of {args.page_size}"
    yield f"context {model_config.context_len}"

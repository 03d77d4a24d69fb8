"""What the user typed, completed before SGLang resolves it: the name `speed-llama`, which graphs are captured, and the
operator's settings, which travel with the arguments to every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_speed.served import speed_of
from sglang_speed.serving.fields import SETTINGS
from sglang_speed.serving.settings import Settings


def complete(args: Any) -> None:
    """Hook before ServerArgs.__post_init__."""
    SETTINGS.set(args, Settings.from_environment())
    _resolve_model_path(args)


def _resolve_model_path(args: Any) -> None:
    """An existing path wins; `speed-llama` is the default model."""
    if Path(args.model_path).exists():
        return
    from sglang_speed.checkpoints.default_model import resolve_model

    resolved = resolve_model(args.model_path)
    if resolved == args.model_path:
        return
    if args.served_model_name is None:
        args.served_model_name = args.model_path
    if args.tokenizer_path == args.model_path:
        args.tokenizer_path = resolved
    args.model_path = resolved


def leave_out_prefill_graphs(args: Any) -> None:
    """Hook before ServerArgs._handle_cuda_graph_config, when SGLang has read the model's configuration, wherever it is.

    SGLang captures them by default on CUDA; a graph cannot hold the selection of deep rows, which depends on the data.
    SGLang has not read the configuration yet where these graphs were asked for or left out explicitly; asking for them
    is refused, by `refusals`.
    """
    hf_config = getattr(getattr(args, "model_config", None), "hf_config", None)
    speed = speed_of(hf_config)
    if speed is not None and not speed.is_stock:
        args.disable_prefill_cuda_graph = True

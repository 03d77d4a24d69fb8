"""What tests need of SGLang that differs between its versions, beside the package's own `host.adapter`."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from sglang.srt import runtime_context
from sglang.srt.server_args import ServerArgs

from sglang_speed.host.adapter import HOST
from sglang_speed.host.versions import OLDEST, installed_version

IS_OLDEST = installed_version() == OLDEST


def publish(args: Any) -> None:
    """Make arguments those of this process, a scheduler."""
    if IS_OLDEST:
        runtime_context.publish(args, role="scheduler")
    else:
        ranks = runtime_context.SpawnRanks(world_rank=0, gpu_id=0)
        runtime_context.publish(args, role="scheduler", ranks=ranks)


def scheduler_arguments(args: Any, ports: Any) -> tuple[Any, ...]:
    """Of Scheduler, on the only rank."""
    return (args, ports, 0, 0, 0, 0, 0, 0, None) if IS_OLDEST else (args, ports)


def num_tree_tokens(tree: Any) -> int:
    size = tree.total_size()
    return size if IS_OLDEST else size[0]


def decode_graphs(model_runner: Any) -> Any:
    """The configuration of decode graphs, to be changed."""
    if IS_OLDEST:
        return model_runner.server_args.cuda_graph_config.decode
    return runtime_context.get_exec().graph.cuda_graph_config.decode


def cached_len(req: Any) -> int:
    """Tokens of a request whose slots belong to the prefix cache."""
    return req.cache_protected_len if IS_OLDEST else req.kv.cache_protected_len


def free_pages(allocator: Any) -> list[int]:
    if IS_OLDEST:
        return allocator.free_pages.tolist() + allocator.release_pages.tolist()
    return allocator.get_all_free_pages().tolist()


def leaves_out_prefill_graphs(scheduler: Any) -> bool:
    if IS_OLDEST:
        return scheduler.server_args.disable_prefill_cuda_graph
    return runtime_context.get_exec().graph.disable_prefill_cuda_graph


def typed_arguments(model: str, **more: Any) -> Any:
    """A model's name, and more, as arguments that SGLang has not resolved yet."""
    if IS_OLDEST:  # its own resolves as it is made
        return SimpleNamespace(model_path=model, tokenizer_path=None, served_model_name=None, **more)
    return ServerArgs(model_path=model, **more)


def resolve(args: Any) -> None:
    """What launchers do with arguments before they start a process."""
    if IS_OLDEST:
        args.check_server_args()
    else:
        args.resolve_once()


def resolved_with(args: Any, **values: Any) -> Any:
    """Resolved arguments with other values, past SGLang's own checks and its guard against changes."""
    changed = copy.copy(args) if IS_OLDEST else HOST.resolved(args)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed


def forget_model() -> None:
    """What SGLang keeps in the process of a model with experts."""
    resources = getattr(runtime_context, "get_resources", None)
    if resources is not None:
        resources().expert_location_metadata = None

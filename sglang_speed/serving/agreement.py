"""Ranks that share a model must serve the same: compared at start-up, before a request can tell the difference.

Every tensor-parallel rank schedules by itself, from the same requests. A rank with another size of a pool, or another
chunk, runs another batch than its peers: a hang, or wrong tokens. SGLang takes the least free memory of all ranks and
trusts the rest, which is the same by construction on one machine, and what somebody typed on several.

Owns what is compared, and when. The ranks meet in the key-value store with which their process group began: a rank that
does not come is named after a while, where a collective would pair with whatever that rank does instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

import sglang_speed
from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.checkpoints.weights import sample_digest
from sglang_speed.config import SpeedConfig, read_model_config
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.host.versions import installed_version
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE
from sglang_speed.serving.fields import SETTINGS
from sglang_speed.serving.settings import GUARD_VARIABLE

PATIENCE = timedelta(minutes=3)
"""For ranks that have left a collective of SGLang's together: they come within seconds of each other."""
LEAVE_TAKING = timedelta(seconds=10)
SETUP, MEMORY = "setup", "memory"
NO_SPEED_MODEL = {"a SPEED model": "no"}
OF_A_MACHINE = ("_name_or_path", "transformers_version")
"""Keys of config.json that decide nothing."""
MAX_CHARS = 80

Said = Mapping[str, str]
"""What a rank serves: names of settings, and values as text."""


def compare_setups(speed: SpeedConfig | None) -> None:
    """Before weights are loaded. A rank with another model says so, and asks for nothing.

    Only the first model of a process counts: a draft model follows it. Raises ConfigError on every rank, with the names
    and values that differ.
    """
    if _num_ranks() == 1 or _store().check([_key(SETUP, dist.get_rank())]):
        return
    _say(SETUP, NO_SPEED_MODEL if speed is None else _setup())
    if speed is not None:
        _compare(SETUP)


def compare_memory(args: Any, sizes: Any, deep_tokens: Mapping[str, int]) -> None:
    """When weights are loaded and pools are sized. sizes: of SGLang's pools. deep_tokens: by the name of a deep band.

    Raises ConfigError as `compare_setups` does.
    """
    if _num_ranks() == 1:
        return
    rooms = {f"tokens of the {band} band": str(room) for band, room in deep_tokens.items()}
    rooms["tokens of the main pool"] = str(sizes.max_total_num_tokens)
    rooms["running requests"] = str(sizes.max_running_requests)
    if args.load_format != "dummy":
        rooms["weights"] = f"digest {sample_digest(checkpoint_directory(args.model_path, args.revision))}"
    _say(MEMORY, rooms)
    _compare(MEMORY)


def _setup() -> Said:
    args = HOST.arguments_of_process()
    resolved, settings = HOST.resolved(args), SETTINGS.get(args, None)
    written = read_model_config(checkpoint_directory(resolved.model_path, resolved.revision)) or {}
    said = {
        "SGLang": installed_version(),
        "sglang_speed": sglang_speed.__version__,
        DEEP_TOKENS_VARIABLE: settings.deep_tokens,
        GUARD_VARIABLE: int(settings.has_guard),
        **{f"--{name.replace('_', '-')}": value for name, value in HOST.deciding_arguments(args).items()},
        **{f"`{key}` of config.json": value for key, value in written.items() if key not in OF_A_MACHINE},
    }
    return {name: str(value) for name, value in said.items()}


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _store() -> Any:
    assert dist.group.WORLD is not None
    return dist.group.WORLD.get_group_store()


def _key(topic: str, rank: int) -> str:
    return f"sglang_speed/{topic}/{rank}"


def _say(topic: str, said: Said) -> None:
    _store().set(_key(topic, dist.get_rank()), json.dumps(said))


def _compare(topic: str) -> None:
    heard = [_hear(topic, rank) for rank in range(_num_ranks())]
    found = [line for rank, said in enumerate(heard) for line in _differences(rank, said, heard[0])]
    if not found:
        return
    _take_leave(topic)
    raise ConfigError(
        f"sglang_speed: ranks that share a model must serve the same, but {'; '.join(found)}. Start every node with "
        "the same checkpoint, flags, SGLANG_SPEED_* variables and versions"
    )


def _hear(topic: str, rank: int) -> Said:
    try:
        _store().wait([_key(topic, rank)], PATIENCE)
    except dist.DistError as error:
        raise ConfigError(
            f"sglang_speed: {_named(rank)} has not said what it serves within {PATIENCE.seconds} s, or rank 0 has "
            "ended: look into their logs; every node needs this package, and no SGLANG_PLUGINS that leaves it out"
        ) from error
    said: Said = json.loads(_store().get(_key(topic, rank)))
    return said


def _differences(rank: int, said: Said, first: Said) -> Iterator[str]:
    """In the words of a message."""
    if NO_SPEED_MODEL in (said, first):
        names = set(NO_SPEED_MODEL) if said != first else set()
    else:
        names = {name for name in said.keys() | first.keys() if said.get(name) != first.get(name)}
    for name in sorted(names):
        yield f"{_named(rank)} has {name}: {_short(said, name)}, {_named(0)}: {_short(first, name)}"


def _short(said: Said, name: str) -> str:
    value = said.get(name, "yes" if name in NO_SPEED_MODEL else "nothing")
    return value if len(value) <= MAX_CHARS else f"{value[:MAX_CHARS]}..."


def _named(rank: int) -> str:
    num_nodes = HOST.resolved(HOST.arguments_of_process()).nnodes
    return f"rank {rank} (node {rank * num_nodes // _num_ranks()})"


def _take_leave(topic: str) -> None:
    """The store lives in rank 0, so it goes when the others have read it too."""
    with suppress(dist.DistError, RuntimeError):
        _say(f"{topic} read", {})
        if dist.get_rank() == 0:
            _store().wait([_key(f"{topic} read", rank) for rank in range(_num_ranks())], LEAVE_TAKING)

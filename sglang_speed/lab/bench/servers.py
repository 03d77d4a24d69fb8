"""The servers of a comparison: the same flags and bytes of KV for every side, checked after the start.

Both sides run with this package installed; a plain Llama is served by SGLang's own model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE, split_kv_bytes
from sglang_speed.lab.bench.adapter import ADAPTER
from sglang_speed.lab.bench.models import Contender, Model
from sglang_speed.lab.bench.profiles import Pool, Profile
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.local_server import LocalServer, start_server
from sglang_speed.method.bands import DEEP, THINNED
from sglang_speed.method.cost import ModelShape, kept_layers, state_layers

MEMORY_TOLERANCE = 0.01
OWN_FLAGS = frozenset(
    {
        "--model",
        "--model-path",
        "--tokenizer-path",
        "--load-format",
        "--dtype",
        "--kv-cache-dtype",
        "--host",
        "--port",
        "--nccl-port",
        "--page-size",
        "--max-total-tokens",
        "--max-running-requests",
        "--disable-radix-cache",
        "--skip-tokenizer-init",
        "--random-seed",
    }
)


@dataclass(frozen=True)
class Server:
    """prompt_tokens: capacity of the main pool. kv_bytes: of all pools."""

    contender: Contender
    process: LocalServer
    prompt_tokens: int
    kv_bytes: int

    @property
    def url(self) -> str:
        return self.process.url


@contextmanager
def running(
    model: Model, names: Sequence[str], pool: Pool, profile: Profile, logs: Path, flags: Sequence[str]
) -> Iterator[dict[str, Server]]:
    """Start the named sides; on a GPU one after another, since each looks at the free memory.

    Raises ConfigError if a side has other KV memory than intended, ServerFailed if one does not start.
    """
    logs.mkdir(parents=True, exist_ok=True)
    processes: dict[str, LocalServer] = {}
    try:
        for name in names:
            processes[name] = _start(model, model.contenders[name], pool, profile, logs / f"{name}.log", flags)
            if profile.device != "cpu":
                processes[name].wait()
        for process in processes.values():
            process.wait()
        servers = {name: _describe(model.shape, model.contenders[name], process) for name, process in processes.items()}
        _require_same_memory(servers, pool.tokens * model.num_layers * model.shape.kv_bytes_per_layer)
        yield servers
    finally:
        for process in processes.values():
            process.ask_to_stop()
        for process in processes.values():
            process.stop()


def prompt_tokens(shape: ModelShape, contender: Contender, pool: Pool) -> int:
    """Capacity of the main pool, without the deep band's bytes."""
    budget = pool.tokens * contender.config.num_layers * shape.kv_bytes_per_layer
    config, states = contender.config, state_layers(shape, contender.config)
    override = pool.deep_tokens_for(config)
    return split_kv_bytes(config, budget, shape.kv_bytes_per_layer, 1, override, state_layers=states).prompt_tokens


def server_flags(
    model: Model, contender: Contender, pool: Pool, profile: Profile, given: Sequence[str] = ()
) -> list[str]:
    """The flags of a side. Only the number of tokens differs, so that the bytes are the same; a bare side has no
    adapter, and none of those that the user has given."""
    adapters = () if model.adapter is None else ("--enable-lora", "--lora-paths", f"{ADAPTER}={model.adapter}")
    asked = () if contender.is_bare else (*adapters, *given)
    flags = {
        "--max-total-tokens": prompt_tokens(model.shape, contender, pool),
        "--max-running-requests": pool.running,
        "--load-format": "auto" if model.has_weights else "dummy",
        "--dtype": profile.dtype,
        "--random-seed": 0,
        "--load-snapshot-publish-interval": 1,  # at every step: running requests are counted by these reports
    }
    return [*(str(part) for flag in flags.items() for part in flag), "--enable-metrics", *profile.flags, *asked]


def server_environment(contender: Contender, pool: Pool, profile: Profile) -> dict[str, str]:
    """Environment variables of a side, added to this process's."""
    if contender.name != STOCK:
        return {DEEP_TOKENS_VARIABLE: str(pool.deep_tokens_for(contender.config))}
    # without our hooks; on a CPU SGLang cannot serve without them
    return {} if profile.device == "cpu" else {"SGLANG_PLUGINS": "none"}


def _start(
    model: Model, contender: Contender, pool: Pool, profile: Profile, log: Path, flags: Sequence[str]
) -> LocalServer:
    given = server_flags(model, contender, pool, profile, flags)
    return start_server(contender.path, log, given, server_environment(contender, pool, profile))


def _describe(shape: ModelShape, contender: Contender, process: LocalServer) -> Server:
    info = Client(process.url).info()
    tokens: int = info["max_total_num_tokens"]
    speed: Mapping[str, int] = info["internal_states"][0].get("speed", {})
    config = contender.config
    in_layers = tokens * kept_layers(shape, config) + layers_beside(config, speed, "tokens_capacity")
    return Server(contender, process, tokens, in_layers * shape.kv_bytes_per_layer)


def layers_beside(config: SpeedConfig, state: Mapping[str, int], name: str) -> int:
    """Tokens times layers in the pools beside the main one. state: of /server_info. name: tokens of which kind."""
    by_band = {DEEP: config.num_deep_layers, THINNED: config.num_layers}
    return sum(state.get(f"{band}_{name}", 0) * num_layers for band, num_layers in by_band.items())


def refuse_own_flags(flags: Sequence[str]) -> None:
    """Raise ConfigError for a flag that the comparison sets itself."""
    for flag in flags:
        if flag.split("=")[0] in OWN_FLAGS:
            raise ConfigError(
                f"{flag} cannot be given to the servers of a comparison: bench sets it, so that both sides have the "
                "same KV bytes, the same weights and a radix tree; leave it out"
            )


def _require_same_memory(servers: Mapping[str, Server], budget: int) -> None:
    """budget: the intended KV bytes of every side."""
    for name, server in servers.items():
        if abs(server.kv_bytes - budget) > MEMORY_TOLERANCE * budget:
            raise ConfigError(
                f"{name} has {server.kv_bytes} bytes of KV instead of {budget}, so the comparison would be unfair: see "
                f"its log, e.g. for too little memory: {server.process.log_path}"
            )

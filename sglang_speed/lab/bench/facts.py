"""The setup in words: tables at the end of the HTML page, made from the results file.

Shows the model's sizes, the scenarios, the machine and the servers' flags; contains no measured figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.rivals import EQUAL, STOCK
from sglang_speed.method.cost import ModelShape, kept_layers
from sglang_speed.policy_config import DEFAULT_POLICY

MIB = 2**20
REHEARSAL = "rehearsal: sizes too small, figures mean nothing"
TITLES = {"llama": "Llama", "qwen3": "Qwen3", "qwen3_moe": "Qwen3-MoE"}
SIDES = {STOCK: "stock SGLang", DEFAULT_POLICY: "SPEED", EQUAL: "SPEED, Lc = L"}
"""Sides whose names are not what the user wrote."""


@dataclass(frozen=True)
class Facts:
    """A table of names and values. is_code: the values are shell words."""

    title: str
    rows: tuple[tuple[str, str], ...]
    is_code: bool = False


def is_rehearsal(results: Mapping[str, Any]) -> bool:
    """Whether the sizes are too small for figures to mean anything."""
    return bool(results["configuration"]["sizes"].get("is_rehearsal"))


def model_name(results: Mapping[str, Any]) -> str:
    configuration = results["configuration"]
    name, arch = configuration["model"], configuration.get("arch", "llama")
    return f"a {TITLES[arch]} of random weights" if name == "random" else name


def rivals_in(results: Mapping[str, Any]) -> dict[str, SpeedConfig]:
    """What was compared with stock, by side. Results from before there could be several have one, `speed`."""
    configuration = results["configuration"]
    bands = configuration.get("rivals") or {DEFAULT_POLICY: configuration["speed"]}
    return {name: _bands(**speed) for name, speed in bands.items()}


def _bands(num_layers: int, **speed: Any) -> SpeedConfig:
    return SpeedConfig.from_dict(speed, num_layers)


def side_name(side: str) -> str:
    return SIDES.get(side, side)


def described_depth(results: Mapping[str, Any]) -> str:
    """For example: prompts in 24 of 32 layers; of several rivals: speed, prompts in 24 of 32 layers; pop, ..."""
    rivals = rivals_in(results)
    words = {name: described_bands(config) for name, config in rivals.items()}
    return (
        next(iter(words.values())) if len(words) == 1 else "; ".join(f"{name}, {each}" for name, each in words.items())
    )


def described_bands(config: SpeedConfig) -> str:
    layers = " and ".join(map(str, config.cutoffs))
    return f"prompts in {layers} of {config.num_layers} layers"


def kv_bytes(results: Mapping[str, Any], tokens: int) -> int:
    """KV bytes of this many tokens in all layers."""
    configuration = results["configuration"]
    per_layer = ModelShape.from_dict(configuration["shape"]).kv_bytes_per_layer
    num_layers = next(iter(rivals_in(results).values())).num_layers
    return int(tokens * num_layers * per_layer)


def all_facts(results: Mapping[str, Any]) -> list[Facts]:
    """Model, scenarios, machine and versions, and the servers of each group of scenarios."""
    return [
        Facts("Model", tuple(model_facts(results))),
        Facts("Scenarios", tuple(scenario_facts(results))),
        Facts("Machine and versions", tuple(machine_facts(results))),
        *server_facts(results["configuration"]),
    ]


def model_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    shape, rivals = results["configuration"]["shape"], rivals_in(results)
    return [
        ("model", model_name(results)),
        *((side_name(name), _policy(results, config)) for name, config in rivals.items()),
        ("hidden size, intermediate size", f"{shape['hidden_size']:,}, {shape['intermediate_size']:,}"),
        *_experts(shape),
        (
            "heads",
            f"{shape['num_heads']} of {shape['head_dim']} dimensions, {shape['num_kv_heads']} KV heads",
        ),
        ("vocabulary", f"{shape['vocab_size']:,} tokens"),
        ("KV of a prompt token at full depth", f"{kv_bytes(results, 1):,} bytes"),
    ]


def _policy(results: Mapping[str, Any], config: SpeedConfig) -> str:
    """What a prompt token passes and leaves behind."""
    shape = ModelShape.from_dict(results["configuration"]["shape"])
    kept = kv_bytes(results, 1) * kept_layers(shape, config) // config.num_layers
    settings = [
        f"{key} {value}"
        for part in (config.selection, config.messages)
        if part
        for key, value in part.to_dict().items()
    ]
    words = [
        f"policy {config.policy}",
        described_bands(config),
        f"first {config.anchor_tokens} and last {config.tail_tokens} tokens in all",
        *settings,
        f"{kept:,} bytes of KV a prompt token",
    ]
    return ", ".join(words)


def _experts(shape: Mapping[str, Any]) -> list[tuple[str, str]]:
    experts = shape.get("experts")
    words = "{count}, {per_token} for each token; intermediate size {intermediate_size:,}"
    return [("experts", words.format(**experts))] if experts else []


_POOL = "KV memory of {%s_pool[tokens]:,} tokens at full depth"
SCENARIO_SIZES = {
    "prefill": "prompts of {prompts}; " + _POOL % "long",
    "decode": (
        "{decode_tokens} tokens after {longest:,}, {batches} requests at once, {repeats} times; " + _POOL % "long"
    ),
    "overhead": "{decode_tokens} tokens after {overhead_len:,}, {overhead_repeats} times; " + _POOL % "cache",
    "capacity": (
        "more prompts of {capacity_prompt:,} tokens than fit, {capacity_tokens} new tokens each; " + _POOL % "cache"
    ),
    "chat": (
        "{chat[num_turns]} turns; a prompt of {chat[first_prompt]:,} tokens, {chat[user_tokens]} more in each turn, "
        "answers of {chat[answer_tokens]}; {repeats} times; " + _POOL % "cache"
    ),
    "tree": (
        "{tree[num_branches]} agents, {tree[num_steps]} steps; a system prompt of {tree[system_tokens]:,} tokens, "
        "observations of {tree[observation_tokens]}, actions of {tree[action_tokens]}; {repeats} times; "
        + _POOL
        % "cache"
    ),
    "agents": (
        "{agents[num_agents]} agents, {turns} turns each; a system prompt of {agents[system_tokens]:,} tokens, tasks "
        "of {agents[task_tokens]}, results of {results}, answers of {agents[answer_tokens]}; {repeats} times; "
        + _POOL
        % "agents"
    ),
    "step": (
        "a model of four tiny layers; {step_requests} requests at once, {decode_tokens} tokens each, "
        "{overhead_repeats} times; " + _POOL % "step"
    ),
}
"""The requests of each scenario, with fields of the profile."""


AGENTS = {"turns": "num_turns", "results": "result_tokens"}


def scenario_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The requests of each scenario that was run."""
    sizes = results["configuration"]["sizes"]
    each = zip(sizes["prompt_lens"], sizes["prompt_repeats"], strict=True)
    prompts = ", ".join(f"{length:,} tokens ({repeats} times)" for length, repeats in each)
    fields = {
        **sizes,
        "prompts": prompts,
        "batches": _listed(sizes["batch_sizes"]),
        "longest": sizes["prompt_lens"][-1],
        **{name: "{} to {}".format(*sizes["agents"][key]) for name, key in AGENTS.items() if "agents" in sizes},
    }
    return [(name, words.format(**fields)) for name, words in SCENARIO_SIZES.items() if name in results["scenarios"]]


def _listed(values: list[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def machine_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Hardware, measured rates and package versions; unknown ones are left out."""
    machine, commit = results["machine"], results["commit"]
    changed = " with uncommitted changes" if results["uncommitted_changes"] else ""
    rows = [
        ("GPU", machine["gpu"]),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"),
        ("measured rates", described_rates(results["rates"])),
        ("commit of sglang-speed", commit and f"{commit}{changed}"),
        *results["versions"].items(),
    ]
    return [(name, value) for name, value in rows if value]


def described_rates(rates: Mapping[str, float]) -> str:
    """The rates behind the ceilings."""
    flops, unit = (rates["flops"] / 1e12, "TFLOP/s") if rates["flops"] >= 1e12 else (rates["flops"] / 1e9, "GFLOP/s")
    return f"{flops:.0f} {unit} in a matrix product, {rates['bandwidth'] / 1e9:.0f} GB/s in a copy"


def server_facts(configuration: Mapping[str, Any]) -> list[Facts]:
    """The environment and flags of the servers of each group of scenarios."""
    return [
        Facts(
            f"Servers of {group.replace('-', ', ')}",
            tuple((side_name(side), " ".join(given)) for side, given in servers.items()),
            is_code=True,
        )
        for group, servers in configuration["servers"].items()
    ]

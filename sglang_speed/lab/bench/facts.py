"""The setup in words: tables at the end of the HTML page, made from the results file.

Shows the model's sizes, the scenarios, the machine and the servers' flags; contains no measured figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speed.config import SpeedConfig
from sglang_speed.method.cost import ModelShape, kept_layers

MIB = 2**20
REHEARSAL = "rehearsal: sizes too small, figures mean nothing"
TITLES = {"llama": "Llama", "qwen3": "Qwen3", "qwen3_moe": "Qwen3-MoE"}
SIDES = {"stock": "stock SGLang", "speed": "SPEED", "equal": "SPEED, Lc = L"}


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


def described_depth(results: Mapping[str, Any]) -> str:
    speed = results["configuration"]["speed"]
    return f"prompts in {speed['prefill_layers']} of {speed['num_layers']} layers"


def kv_bytes(results: Mapping[str, Any], tokens: int) -> int:
    """KV bytes of this many tokens in all layers."""
    configuration = results["configuration"]
    per_layer = ModelShape.from_dict(configuration["shape"]).kv_bytes_per_layer
    return int(tokens * configuration["speed"]["num_layers"] * per_layer)


def all_facts(results: Mapping[str, Any]) -> list[Facts]:
    """Model, scenarios, machine and versions, and the servers of each group of scenarios."""
    return [
        Facts("Model", tuple(model_facts(results))),
        Facts("Scenarios", tuple(scenario_facts(results))),
        Facts("Machine and versions", tuple(machine_facts(results))),
        *server_facts(results["configuration"]),
    ]


def model_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    speed, shape = results["configuration"]["speed"], results["configuration"]["shape"]
    full_bytes = kv_bytes(results, 1)
    keys = {key: value for key, value in speed.items() if key != "num_layers"}
    config = SpeedConfig.from_dict(keys, speed["num_layers"])
    prompt_bytes = full_bytes * kept_layers(ModelShape.from_dict(shape), config) // config.num_layers
    return [
        ("model", model_name(results)),
        ("policy", config.policy),
        ("layers", f"{speed['num_layers']}, of which prompts pass {speed['prefill_layers']}"),
        ("prompt tokens in all layers", f"first {speed['anchor_tokens']}, last {speed['tail_tokens']}"),
        ("hidden size, intermediate size", f"{shape['hidden_size']:,}, {shape['intermediate_size']:,}"),
        *_experts(shape),
        (
            "heads",
            f"{shape['num_heads']} of {shape['head_dim']} dimensions, {shape['num_kv_heads']} KV heads",
        ),
        ("vocabulary", f"{shape['vocab_size']:,} tokens"),
        ("KV of a prompt token", f"{prompt_bytes:,} bytes, at full depth {full_bytes:,} bytes"),
    ]


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
    "step": (
        "a model of four tiny layers; {step_requests} requests at once, {decode_tokens} tokens each, "
        "{overhead_repeats} times; " + _POOL % "step"
    ),
}
"""The requests of each scenario, with fields of the profile."""


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
            tuple((SIDES[side], " ".join(given)) for side, given in servers.items()),
            is_code=True,
        )
        for group, servers in configuration["servers"].items()
    ]

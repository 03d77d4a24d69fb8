"""What a SPEED checkpoint is: its bands, what a token costs in each, and what can be gained at most.

Reads config.json and safetensors headers only. Owns the table and the JSON of `sglang-speed inspect`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, UNTRAINED_COST, UNTRAINED_NEXT, Training, training_of
from sglang_speed.checkpoints.card import described_choice
from sglang_speed.checkpoints.servable import NOT_FOUND, require_servable
from sglang_speed.checkpoints.weights import Weights, read_weights, require_layers
from sglang_speed.config import SpeedConfig, decoder_config, is_speed_model, read_model_config
from sglang_speed.errors import ConfigError
from sglang_speed.method import DepthBand, ModelShape, depth_bands
from sglang_speed.method.bands import SHALLOW
from sglang_speed.method.cost import (
    Experts,
    Latent,
    Window,
    decode_ceiling,
    kv_bytes_per_generated_token,
    kv_bytes_per_prompt_token,
    prefill_ceiling,
    request_kv_bytes,
    state_layers,
)
from sglang_speed.models.architectures import architecture_of, known_architecture

if TYPE_CHECKING:
    from rich.table import Table

# SGLang serves float32 checkpoints as float16 unless told otherwise (`--dtype auto`)
_SERVED_AS = {"float32": "float16"}
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2}
_DECODE_BATCHES = (1, 8, 64)


@dataclass(frozen=True)
class Description:
    """A SPEED checkpoint.

    served_dtype: dtype of the KV cache under SGLang's defaults; byte counts assume it.
    context_len: longest request that the model was made for, in tokens.
    training: whether the weights were trained for the cutoff. note: what is special about the architecture.
    """

    path: Path
    config: SpeedConfig
    shape: ModelShape
    served_dtype: str
    context_len: int
    weights: Weights
    training: Training
    note: str

    @property
    def bands(self) -> tuple[DepthBand, ...]:
        return depth_bands(self.config)

    @property
    def full_depth_kv_bytes(self) -> int:
        """KV bytes of any token in the stock model."""
        return self.config.num_layers * self.shape.kv_bytes_per_layer

    @property
    def prompt_token_kv_bytes(self) -> int:
        return kv_bytes_per_prompt_token(self.shape, self.config)

    @property
    def generated_token_kv_bytes(self) -> int:
        return kv_bytes_per_generated_token(self.shape, self.config)

    @property
    def state_bytes(self) -> int:
        """What of a prompt token's KV is its state; 0 where none is kept."""
        return state_layers(self.shape, self.config) * self.shape.kv_bytes_per_layer

    @property
    def running_token_kv_bytes(self) -> int:
        """KV bytes of a prompt token while its request runs, on average; anchors, tail and short messages aside."""
        layers = self.config.selected_share * self.config.num_deep_layers
        if self.config.is_thinned:
            layers = self.config.read_layers
        return round(self.prompt_token_kv_bytes + layers * self.shape.kv_bytes_per_layer)

    @property
    def request_extra_kv_bytes(self) -> int:
        """KV bytes that a request's anchors and tail take in the deep band."""
        num_deep_tokens = self.config.anchor_tokens + self.config.tail_tokens
        return request_kv_bytes(self.shape, self.config, 0, num_deep_tokens)

    def decode_ceilings(self) -> dict[int, float]:
        """Decode ceiling at full context, by batch size."""
        return {size: decode_ceiling(self.shape, self.config, self.context_len, size) for size in _DECODE_BATCHES}

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON-serializable values."""
        bands = [{"name": b.name, "first_layer": b.first_layer, "end_layer": b.end_layer} for b in self.bands]
        return {
            "path": str(self.path),
            "num_layers": self.config.num_layers,
            "training": self.training.name.lower(),
            "speed": self.config.to_dict(),
            "bands": bands,
            "kv_bytes": {
                "dtype": self.served_dtype,
                "full_depth_token": self.full_depth_kv_bytes,
                "prompt_token": self.prompt_token_kv_bytes,
                "running_prompt_token": self.running_token_kv_bytes,
                "state": self.state_bytes,
                "generated_token": self.generated_token_kv_bytes,
                "extra_per_request": self.request_extra_kv_bytes,
            },
            "ceilings": {
                "prefill": prefill_ceiling(self.shape, self.config),
                "decode": {"context_len": self.context_len, "by_batch_size": self.decode_ceilings()},
            },
            "weights": {
                "num_parameters": self.weights.num_parameters,
                "num_bytes": self.weights.num_bytes,
                "dtype": self.weights.dtype,
                "quantization": None if self.weights.quantization is None else self.weights.quantization.name,
                "files": [path.name for path in self.weights.files],
            },
        }


def describe(directory: Path) -> Description:
    """Describe the SPEED checkpoint in `directory`; ConfigError where it is none or is not complete."""
    config = read_model_config(directory)
    if config is None or not is_speed_model(config):
        convert = "make one with `sglang-speed convert SOURCE DESTINATION --prefill-layers N`"
        problem = f"is not a SPEED checkpoint: {convert}" if directory.is_dir() else NOT_FOUND
        raise ConfigError(f"{directory} {problem}")
    require_servable(config, directory)
    weights = read_weights(directory)
    require_layers(weights, config, directory)
    dtype = config.get("dtype") or config.get("torch_dtype") or weights.dtype
    served_dtype = _SERVED_AS.get(dtype, dtype)
    dtype_bytes = kv_bytes = _DTYPE_BYTES.get(served_dtype, 2)
    speed = SpeedConfig.from_model_config(config)
    if weights.quantization is not None and weights.quantization.has_fp8_cache and not speed.stores_uncomputed:
        served_dtype, kv_bytes = "float8_e4m3fn", 1
    return Description(
        path=directory,
        config=speed,
        shape=replace(model_shape(config, kv_bytes), weight_dtype_bytes=weights.bytes_each or dtype_bytes),
        served_dtype=served_dtype,
        context_len=decoder_config(config).get("max_position_embeddings", 2048),
        weights=weights,
        training=training_of(directory),
        note=known_architecture(config).note,
    )


def model_shape(config: Mapping[str, Any], dtype_bytes: int = 2) -> ModelShape:
    """The sizes in a stock or SPEED config.json, with transformers' defaults for what may be left out."""
    architecture, config = architecture_of(config), decoder_config(config)
    missing = [key for key in ("hidden_size", "intermediate_size", "num_attention_heads") if key not in config]
    if missing:
        raise ConfigError(f"{missing[0]} is missing in config.json: make or download the checkpoint again")
    num_heads = config["num_attention_heads"]
    return ModelShape(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
        vocab_size=config.get("vocab_size", 32000),
        kv_dtype_bytes=dtype_bytes,
        weight_dtype_bytes=dtype_bytes,
        experts=_experts_of(config),
        latent=_latent_of(config),
        window=_window_of(config),
        is_gated=architecture is None or architecture.is_gated,
    )


def _experts_of(config: Mapping[str, Any]) -> Experts | None:
    """Names of the same number differ from model to model."""
    count = next(
        (config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(key)), 0
    )
    if not count:
        return None
    size = config.get("moe_intermediate_size") or config["intermediate_size"]
    shared = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * size
    return Experts(count, config.get("num_experts_per_tok", 2), size, shared)


def _latent_of(config: Mapping[str, Any]) -> Latent | None:
    if not config.get("kv_lora_rank"):
        return None
    return Latent(
        config["kv_lora_rank"],
        config["qk_rope_head_dim"],
        config.get("q_lora_rank") or 0,
        config["qk_nope_head_dim"],
        config["v_head_dim"],
    )


def _window_of(config: Mapping[str, Any]) -> Window | None:
    """In newer configurations every layer is named, in older ones every so many is without a window."""
    kinds, every = config.get("layer_types") or (), config.get("sliding_window_pattern")
    if not config.get("sliding_window"):
        return None
    share = 1 - 1 / every if isinstance(every, int) else 0
    if kinds:
        share = sum(kind == "sliding_attention" for kind in kinds) / len(kinds)
    return Window(config["sliding_window"], share) if share else None


def description_table(description: Description) -> Table:
    """The description as a rich table of two columns."""
    from rich import box
    from rich.table import Table

    table = Table(show_header=False, box=box.SIMPLE)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("checkpoint", str(description.path))
    for name, value in (*_method_rows(description), *_cost_rows(description), *_weight_rows(description)):
        table.add_row(name, value)
    return table


def _method_rows(description: Description) -> Iterator[tuple[str, str]]:
    config = description.config
    yield "policy", config.policy
    deep = "anchors, tail and generated tokens"
    if config.fills_deep_layers:
        deep += "; of all others keys and values only, filled in from the cutoff"
    deep += described_choice(config)
    for band in description.bands:
        layers = f"layers {band.first_layer} to {band.end_layer - 1} ({band.num_layers} of {config.num_layers})"
        yield f"{band.name} band", f"{layers}: {'every token' if band.name == SHALLOW else deep}"
    if config.is_stock:
        yield "", "no deep band: this is the stock model"
    elif description.training is Training.UNTRAINED:
        yield "training", f"none: {UNTRAINED_COST}"
        yield "", UNTRAINED_NEXT
    elif description.training is Training.NOT_NEEDED:
        yield "training", str(description.training)
    else:
        yield "training", f"{description.training} ({PROVENANCE_NAME})"
    if description.note:
        yield "note", description.note
    yield "anchors", f"{config.anchor_tokens} at the start of a prompt"
    yield "tail", f"{config.tail_tokens} at the end of a prompt"


def _cost_rows(description: Description) -> Iterator[tuple[str, str]]:
    full = description.full_depth_kv_bytes
    sizes = {
        "KV per prompt token": description.prompt_token_kv_bytes,
        "while it runs": description.running_token_kv_bytes,
        "its state at the cutoff": description.state_bytes,
        "KV per generated token": description.generated_token_kv_bytes,
    }
    if not description.state_bytes:
        del sizes["while it runs"], sizes["its state at the cutoff"]
    for name, size in sizes.items():
        yield name, f"{size:,} bytes, {size / full:.0%} of full depth ({description.served_dtype})"
    yield "KV per request", f"{description.request_extra_kv_bytes:,} bytes more, for anchors and tail"
    yield "prefill ceiling", f"{prefill_ceiling(description.shape, description.config):.2f}x"
    decode = ", ".join(f"{ceiling:.2f}x at batch {size}" for size, ceiling in description.decode_ceilings().items())
    yield "decode ceiling", f"{decode} ({description.context_len:,} tokens each)"


def _weight_rows(description: Description) -> Iterator[tuple[str, str]]:
    weights = description.weights
    kind = weights.dtype if weights.quantization is None else f"quantized by {weights.quantization.name}"
    yield "weights", f"{weights.num_parameters:,} parameters, {weights.num_bytes:,} bytes, {kind}"
    names = [path.name for path in weights.files]
    shown = names if len(names) <= 2 else [f"{names[0]} to {names[-1]} ({len(names)} files)"]
    yield "weight files", ", ".join(shown)

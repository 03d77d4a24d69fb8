"""Who is measured, on what shape, and with how much memory: the same bytes of KV for everyone.

Sequential starts, one contender at a time: on one GPU two servers side by side would each have half of the memory, too
little for several requests of 128K tokens. The starts alternate, so that a drift of the machine meets both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.convert import plain_model_config, speed_model_config
from sglang_speed.config import SpeedConfig
from sglang_speed.kv_pool.capacity import split_kv_bytes
from sglang_speed.lab.bench import profiles
from sglang_speed.lab.bench.models import llama_config
from sglang_speed.method.cost import ModelShape

SLACK_TOKENS = 128
"""Room beside each prompt for what it generates."""
BUDGET_SLACK_TOKENS = 1024
"""The like when the budget is made: with less, four requests at 3/4 depth and a deep band exceed three by a hair."""


@dataclass(frozen=True)
class Profile:
    """Sizes of a run. The memory is what `stock_requests` of the longest prompt take at full depth."""

    device: str
    dtype: str
    shape: ModelShape
    num_layers: int
    prefill_layers: int
    prompt_lens: tuple[int, int, int]
    new_tokens: int
    follow_up_len: int
    deep_tokens: int
    chunk: int
    served_requests: int
    served_new_tokens: int
    copy_bytes: int
    matrix_size: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def long_prompt(self) -> int:
        return self.prompt_lens[-1]

    @property
    def context_len(self) -> int:
        return self.long_prompt + self.follow_up_len + self.new_tokens + SLACK_TOKENS

    def kv_bytes(self, stock_requests: int) -> int:
        tokens = stock_requests * (self.long_prompt + BUDGET_SLACK_TOKENS)
        return tokens * self.num_layers * self.shape.kv_bytes_per_layer


# the model of `sglang-speed bench --profile gpu`: Llama 3.1 8B
GPU = Profile(
    device="cuda",
    dtype="bfloat16",
    shape=profiles.GPU.shape,
    num_layers=profiles.GPU.num_layers,
    prefill_layers=profiles.GPU.prefill_layers,
    prompt_lens=(8192, 32768, 131072),
    new_tokens=64,
    follow_up_len=512,
    deep_tokens=8192,
    chunk=8192,
    served_requests=16,
    served_new_tokens=256,
    copy_bytes=profiles.GPU.copy_bytes,
    matrix_size=profiles.GPU.matrix_size,
    # FA3, which SGLang would choose on this chip, does not travel; prefill graphs are refused with depth bands
    settings={
        "attention_backend": "flashinfer",
        "sampling_backend": "pytorch",
        "disable_prefill_cuda_graph": True,
        "mem_fraction_static": 0.88,
    },
)
# the same code on a CPU, in a minute
REHEARSAL = Profile(
    device="cpu",
    dtype="float32",
    shape=ModelShape(64, 128, 4, 2, 16, 512, kv_dtype_bytes=4, weight_dtype_bytes=4),
    num_layers=8,
    prefill_layers=6,
    prompt_lens=(64, 128, 512),
    new_tokens=8,
    follow_up_len=16,
    deep_tokens=1024,
    chunk=128,
    served_requests=4,
    served_new_tokens=8,
    copy_bytes=2**24,
    matrix_size=256,
)
PROFILES = {"gpu": GPU, "rehearsal": REHEARSAL}


@dataclass(frozen=True)
class Contender:
    """prefill_layers None: a plain Llama, served by SGLang's own model. brief: only what `Lc = L` must not change."""

    name: str
    prefill_layers: int | None
    brief: bool = False

    def config(self, profile: Profile) -> SpeedConfig:
        return SpeedConfig(profile.num_layers, self.prefill_layers or profile.num_layers)


def contenders(profile: Profile) -> dict[str, Contender]:
    three = (
        Contender("stock", None),
        Contender("speed", profile.prefill_layers),
        Contender("equal", profile.num_layers, brief=True),
    )
    return {contender.name: contender for contender in three}


def fitting_stock_requests(profile: Profile, memory_bytes: int, weights: int) -> int:
    """Longest prompts at full depth that fit beside the weights, in threes: where three fit, four of 3/4 depth do."""
    if profile.device == "cpu":
        return 3
    room = int(memory_bytes * profile.settings["mem_fraction_static"]) - weights - 3 * 2**30
    return 3 * (room // profile.kv_bytes(3))


def prompt_tokens(contender: Contender, profile: Profile, stock_requests: int) -> int:
    """Tokens that the shallow band, or the only one, has room for; the deep band's bytes are taken off."""
    budget = profile.kv_bytes(stock_requests)
    config = contender.config(profile)
    return split_kv_bytes(config, budget, profile.shape.kv_bytes_per_layer, 1, profile.deep_tokens).prompt_tokens


def write_checkpoint(contender: Contender, profile: Profile, directory: Path) -> Path:
    """A config.json without weights, for --load-format dummy."""
    config = plain_model_config(llama_config(profile.shape, profile.num_layers, profile.dtype, profile.context_len))
    config |= {"bos_token_id": 1, "eos_token_id": 2}
    if contender.prefill_layers is not None:
        config = speed_model_config(config, contender.config(profile))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return directory


def server_settings(contender: Contender, profile: Profile, stock_requests: int) -> dict[str, Any]:
    """Fields of ServerArgs. Decode graphs are captured for the batches that are measured, so that none is padded."""
    num_tokens = prompt_tokens(contender, profile, stock_requests)
    batches = {1, 2, 4, profile.served_requests, *(fitting(num_tokens, length) for length in profile.prompt_lens[1:])}
    graphs = {"cuda_graph_bs_decode": sorted(batches), "cuda_graph_max_bs_decode": max(batches)}
    return {
        "device": profile.device,
        "dtype": profile.dtype,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "grammar_backend": "none",
        "max_total_tokens": num_tokens,
        "max_running_requests": max(batches),
        "chunked_prefill_size": profile.chunk,
        "max_prefill_tokens": profile.chunk,
        "random_seed": 0,
        "log_level": "warning",
        **(graphs if profile.device == "cuda" else {}),
        **profile.settings,
    }


def fitting(num_tokens: int, prompt_len: int) -> int:
    """Requests of that length that fit at once."""
    return num_tokens // (prompt_len + SLACK_TOKENS)


def describe(profile: Profile, stock_requests: int) -> dict[str, Any]:
    """For the head of the results: the profile and what each contender was given."""
    named = contenders(profile)
    return {
        "profile": asdict(profile),
        "stock_requests": stock_requests,
        "kv_bytes": profile.kv_bytes(stock_requests),
        "prompt_tokens": {name: prompt_tokens(one, profile, stock_requests) for name, one in named.items()},
        "settings": {name: server_settings(one, profile, stock_requests) for name, one in named.items()},
    }

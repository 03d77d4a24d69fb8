"""The contenders, the model's shape, and the memory: the same bytes of KV for each.

One contender runs at a time: two servers side by side would have half of the GPU each, too little for several requests
of 128K tokens. The starts alternate, so that a drift of the machine affects all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.convert import plain_model_config, speed_model_config
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import num_layers_beside, split_kv_bytes
from sglang_speed.lab.bench import profiles
from sglang_speed.lab.bench.models import Contender, random_config
from sglang_speed.lab.bench.rivals import Rival, rivals_of
from sglang_speed.method.cost import ModelShape, kept_layers, state_layers

SLACK_TOKENS = 128
"""Room beside each prompt for generated tokens."""
BUDGET_SLACK_TOKENS = 1024
"""The same in the memory budget; with less, four requests at 3/4 depth and a deep band just miss the room of three."""


@dataclass(frozen=True, kw_only=True)
class Profile(profiles.Sizes):
    """Sizes of a run. The KV memory is what `stock_requests` of the longest prompt take at full depth.

    deep_tokens: of a deep band whose policy selects none. rivals: what is compared with stock beside SPEED.
    """

    dtype: str
    new_tokens: int
    follow_up_len: int
    deep_tokens: int
    chunk: int
    served_requests: int
    served_new_tokens: int
    settings: dict[str, Any] = field(default_factory=dict)
    rivals: tuple[Rival, ...] = ()

    @classmethod
    def of_results(cls, configuration: Mapping[str, Any]) -> Profile:
        """The profile of a results file."""
        sizes = configuration["profile"]
        shape, prompt_lens = ModelShape.from_dict(sizes["shape"]), tuple(sizes["prompt_lens"])
        rivals = rivals_of([one["name"] for one in sizes["rivals"]]) if sizes.get("rivals") else ()
        return cls(**{**sizes, "shape": shape, "prompt_lens": prompt_lens, "rivals": rivals})

    @property
    def order(self) -> tuple[str, ...]:
        """The contenders as they are started. Stock is first and last, so that a drift of the machine shows in the
        spread of its samples."""
        names = tuple(rival.name for rival in self.rivals)
        return ("stock", "speed", *names, "equal", *names, "speed", "stock")

    @property
    def model_len(self) -> int:
        """Context length of the model."""
        return self.context_len + self.follow_up_len + self.new_tokens + SLACK_TOKENS

    def kv_bytes(self, stock_requests: int) -> int:
        tokens = stock_requests * (self.context_len + BUDGET_SLACK_TOKENS)
        return tokens * self.num_layers * self.shape.kv_bytes_per_layer


# the model of `sglang-speed bench --profile gpu`
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
    # the bundle lacks FA3, SGLang's choice on this chip; prefill graphs are refused with depth bands
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
    is_rehearsal=True,
)
PROFILES = {"gpu": GPU, "rehearsal": REHEARSAL}


def profile_of(name: str, arch: str, policies: Sequence[str] = ()) -> Profile:
    """Raises KeyError for a name that is not known, ConfigError for a policy that is not."""
    rivals = rivals_of(policies) if policies else ()
    if "speed" in policies:
        raise ConfigError("--policy speed is compared in any case: leave it out, or add a setting behind it")
    return replace(profiles.of_architecture(PROFILES[name], arch), rivals=rivals)


def contenders(profile: Profile, directory: Path = Path()) -> dict[str, Contender]:
    """stock is a plain checkpoint, served by SGLang's own model. directory: of their checkpoints."""
    depths = {"stock": profile.num_layers, "speed": profile.prefill_layers, "equal": profile.num_layers}
    bands = {name: SpeedConfig(profile.num_layers, depth) for name, depth in depths.items()}
    bands |= {rival.name: rival.bands(profile.num_layers) for rival in profile.rivals}
    return {name: Contender(name, directory / name, config) for name, config in bands.items()}


def fitting_stock_requests(profile: Profile, memory_bytes: int, weights: int) -> int:
    """How many of the longest prompts fit beside the weights at full depth, rounded down to a multiple of three: where
    three fit, four at 3/4 depth do."""
    if profile.device == "cpu":
        return 3
    room = int(memory_bytes * profile.settings["mem_fraction_static"]) - weights - 3 * 2**30
    return 3 * (room // profile.kv_bytes(3))


def deep_tokens(config: SpeedConfig, profile: Profile, stock_requests: int) -> int:
    """Tokens in the deep band's pool: with what is selected of as many prompts as the memory holds beside it."""
    in_memory = config.num_layers * stock_requests * profile.model_len
    return profile.deep_tokens + int(config.selected_share * in_memory / running_layers(config, profile))


def running_layers(config: SpeedConfig, profile: Profile) -> float:
    """As many layers of KV as a prompt token takes while its request runs."""
    return kept_layers(profile.shape, config) + config.selected_share * num_layers_beside(config)


def prompt_tokens(config: SpeedConfig, profile: Profile, stock_requests: int) -> int:
    """Tokens in the shallow band's pool, after the deep band got its bytes."""
    return split_kv_bytes(
        config,
        profile.kv_bytes(stock_requests),
        profile.shape.kv_bytes_per_layer,
        1,
        deep_tokens(config, profile, stock_requests),
        state_layers=state_layers(profile.shape, config),
    ).prompt_tokens


def write_checkpoint(contender: Contender, profile: Profile) -> None:
    """Write a config.json without weights, for --load-format dummy."""
    config = plain_model_config(
        random_config(profile.arch, profile.shape, profile.num_layers, profile.dtype, profile.model_len)
    )
    if contender.name != "stock":
        config = speed_model_config(config, contender.config)
    contender.path.mkdir(parents=True, exist_ok=True)
    (contender.path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def server_settings(contender: Contender, profile: Profile, stock_requests: int) -> dict[str, Any]:
    """Fields of ServerArgs. Decode graphs are captured for exactly the measured batch sizes, so none is padded."""
    num_tokens = prompt_tokens(contender.config, profile, stock_requests)
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
    """How many requests of that length fit at once."""
    return num_tokens // (prompt_len + SLACK_TOKENS)


def describe(profile: Profile, stock_requests: int) -> dict[str, Any]:
    """For the head of the results: the profile and each contender's settings."""
    named = contenders(profile)
    return {
        "profile": asdict(profile),
        "stock_requests": stock_requests,
        "kv_bytes": profile.kv_bytes(stock_requests),
        "prompt_tokens": {name: prompt_tokens(one.config, profile, stock_requests) for name, one in named.items()},
        "settings": {name: server_settings(one, profile, stock_requests) for name, one in named.items()},
    }

"""The checkpoints of a comparison: stock, its rivals, and `Lc = L`, with the same weights or the same shape.

Writes only to the working directory, never to the user's checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.convert import (
    fill_checkpoint,
    fill_full_depth,
    plain_model_config,
    read_source_config,
    speed_model_config,
)
from sglang_speed.checkpoints.default_model import DEFAULT_MODEL, default_model_directory
from sglang_speed.checkpoints.describe import model_shape
from sglang_speed.checkpoints.weights import read_weights
from sglang_speed.config import SpeedConfig, decoder_config, is_speed_model
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.profiles import REHEARSAL, Profile, of_architecture, of_dtype
from sglang_speed.lab.bench.rivals import EQUAL, MESSAGE_ID, STOCK, Rival
from sglang_speed.method.cost import Experts, ModelShape
from sglang_speed.models.architectures import ARCHITECTURES

BOS_ID, EOS_ID = 0, 1
LONGEST_CONTEXT = 2**17 + 2**14
TINY = ModelShape(64, 128, 4, 2, 16, 512)
TINY_LAYERS = 4


@dataclass(frozen=True)
class Contender:
    """One side of a comparison. path: its checkpoint. is_bare: served without the user's flags."""

    name: str
    path: Path
    config: SpeedConfig
    is_bare: bool = False


@dataclass(frozen=True)
class Model:
    """Checkpoints of one shape, by side: stock, its rivals, and `Lc = L`. adapter: LoRA that all requests use."""

    shape: ModelShape
    contenders: Mapping[str, Contender]
    has_weights: bool = True
    adapter: Path | None = None

    @property
    def num_layers(self) -> int:
        return self.contenders[STOCK].config.num_layers

    @property
    def rivals(self) -> dict[str, SpeedConfig]:
        """What is compared with stock, by the name of its side."""
        return {name: one.config for name, one in self.contenders.items() if name not in (STOCK, EQUAL)}

    @property
    def message(self) -> tuple[int, ...]:
        """The tokens that begin a message, where a rival asks for them."""
        delimited = (rival.messages for rival in self.rivals.values() if rival.messages is not None)
        return next((messages.delimiters[0] for messages in delimited), ())


def model_of(
    checkpoints: Sequence[Path],
    full_depth: Path | None,
    directory: Path,
    dtype_bytes: int = 2,
    *,
    is_dequantized: bool = True,
) -> Model:
    """The user's model, once for each way to serve it. full_depth: the stock checkpoint; None: weights of the first.
    is_dequantized: servers keep quantized weights as plain ones.

    Raises ConfigError if one is no SPEED checkpoint, has no deep band, or differs from `full_depth` in shape.
    """
    first, rivals = checkpoints[0], {_side_of(path): _require_rival(path) for path in checkpoints}
    if len(rivals) < len(checkpoints):
        raise ConfigError(
            f"two of {', '.join(map(str, checkpoints))} have one name, which tables show: rename a folder"
        )
    if full_depth is None:
        full_depth = directory / STOCK
        full_depth.mkdir(parents=True)
        fill_full_depth(first, full_depth)
    for path in checkpoints:
        _require_same_shape(path, full_depth)
    equal = next(iter(rivals.values())).at_full_depth()
    (directory / EQUAL).mkdir(parents=True)
    fill_checkpoint(full_depth, directory / EQUAL, equal)
    contenders = (
        Contender(STOCK, full_depth, equal),
        *(Contender(_side_of(path), path, rivals[_side_of(path)]) for path in checkpoints),
        Contender(EQUAL, directory / EQUAL, equal),
    )
    shape = model_shape(read_source_config(first), dtype_bytes)
    bytes_each = None if is_dequantized else read_weights(first).bytes_each
    return Model(replace(shape, weight_dtype_bytes=bytes_each or dtype_bytes), {one.name: one for one in contenders})


def with_bare(model: Model) -> Model:
    """Each rival once more, without the user's flags."""
    rivals = (model.contenders[name] for name in model.rivals)
    bare = (replace(one, name=f"{one.name} bare", is_bare=True) for one in rivals)
    return replace(model, contenders={**model.contenders, **{one.name: one for one in bare}})


def _side_of(checkpoint: Path) -> str:
    """The name of the folder; of the default model, what its user calls it."""
    path = checkpoint.absolute()
    return DEFAULT_MODEL if path == default_model_directory() else path.name


def _require_rival(checkpoint: Path) -> SpeedConfig:
    config = read_source_config(checkpoint)
    if not is_speed_model(config) or SpeedConfig.from_model_config(config).is_stock:
        raise ConfigError(
            f"{checkpoint} is not a SPEED checkpoint with a deep band, so there is nothing to compare: make one with "
            "`sglang-speed convert SOURCE DESTINATION --prefill-layers N`"
        )
    if _side_of(checkpoint) in (STOCK, EQUAL):
        raise ConfigError(f"{checkpoint} has the name of another side of the comparison: rename the folder")
    return SpeedConfig.from_model_config(config)


def random_model(profile: Profile, directory: Path) -> Model:
    """A random model of the profile's architecture and shape."""
    has_weights = profile.load_format != "dummy"
    return make_random(
        profile.arch, profile.shape, profile.num_layers, profile.rivals, directory, has_weights=has_weights
    )


def tiny_model(directory: Path, profile: Profile) -> Model:
    """A model so small that the scheduler takes most of a decode step, of the profile's architecture and dtype."""
    sizes = of_dtype(of_architecture(replace(REHEARSAL, shape=TINY), profile.arch), profile.dtype)
    return make_random(profile.arch, sizes.shape, TINY_LAYERS, profile.tiny_rivals, directory, has_weights=True)


def make_random(
    arch: str, shape: ModelShape, num_layers: int, rivals: Sequence[Rival], directory: Path, *, has_weights: bool
) -> Model:
    """Checkpoints with the same random bfloat16 weights, or with none, for `--load-format dummy`."""
    bands = {rival.name: rival.bands(num_layers) for rival in rivals}
    equal = next(iter(bands.values())).at_full_depth()
    depths = {STOCK: equal, **bands, EQUAL: equal}
    contenders = {name: Contender(name, directory / name, depth) for name, depth in depths.items()}
    stock = contenders[STOCK].path
    stock.mkdir(parents=True)
    plain = random_config(arch, shape, num_layers)
    if has_weights:
        _draw_weights(plain, stock)
    _write_tokenizer(shape.vocab_size, stock)
    _write_config(plain_model_config(plain), stock)
    for one in contenders.values():
        if one.name == STOCK:
            continue
        one.path.mkdir()
        if has_weights:
            fill_checkpoint(stock, one.path, one.config)
        else:
            _write_tokenizer(shape.vocab_size, one.path)
            _write_config(speed_model_config(plain, one.config), one.path)
    return Model(shape, contenders, has_weights)


def _require_same_shape(speed: Path, full_depth: Path) -> None:
    ours, theirs = read_source_config(speed), read_source_config(full_depth)
    if is_speed_model(theirs):
        raise ConfigError(f"{full_depth} is a SPEED checkpoint: --full-depth is the stock one; omit it")
    for name, one, other in (
        ("num_hidden_layers", *(decoder_config(each)["num_hidden_layers"] for each in (ours, theirs))),
        ("the shape", model_shape(ours), model_shape(theirs)),
    ):
        if one != other:
            raise ConfigError(
                f"{name} of {speed} is {one} and of {full_depth} {other}: both must be the same model; omit "
                "--full-depth to use the weights of --model"
            )


def random_config(
    arch: str, shape: ModelShape, num_layers: int, dtype: str = "bfloat16", context_len: int = LONGEST_CONTEXT
) -> dict[str, Any]:
    """config.json of a model of this shape, with the defaults of its architecture for the rest."""
    return {
        "architectures": [ARCHITECTURES[arch].name],
        "model_type": arch,
        "dtype": dtype,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "num_hidden_layers": num_layers,
        "max_position_embeddings": context_len,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        **{name: getattr(shape, name) for name in ("hidden_size", "intermediate_size", "head_dim", "vocab_size")},
        **(_experts(shape.experts) if shape.experts else {}),
    }


def _experts(experts: Experts) -> dict[str, Any]:
    return {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": True,
    }


def _draw_weights(config: Mapping[str, Any], directory: Path) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**config))
    model.to(torch.bfloat16).save_pretrained(directory)


def _write_tokenizer(vocab_size: int, directory: Path) -> None:
    """One word per token: each generated token is text at once, and the text encodes to the same tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<bos>", "<eos>", "<message>", *(f"w{number}" for number in range(3, vocab_size))]
    assert words[MESSAGE_ID] == "<message>"
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", additional_special_tokens=["<message>"]
    ).save_pretrained(directory)


def _write_config(config: Mapping[str, Any], directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

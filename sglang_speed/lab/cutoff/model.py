"""The checkpoint as a frozen reference model at full depth, which can also run the deep band of any cutoff.

Owns loading, device and dtype.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sglang_speed.checkpoints.convert import read_source_config, speed_model_config
from sglang_speed.checkpoints.weights import read_weights, require_layers
from sglang_speed.config import SpeedConfig, decoder_config
from sglang_speed.lab.common.progress import silence_libraries
from sglang_speed.models.hf_config import config_of
from sglang_speed.policy_config import DEFAULT_POLICY
from sglang_speed.quantization import require_unquantized
from sglang_speed.reference.modeling import ReferenceModel, class_for


def load_model(checkpoint: Path, anchor_tokens: int | None = None, tail_tokens: int | None = None) -> ReferenceModel:
    """Load a stock or SPEED checkpoint with all layers in the shallow band; `policy` has the anchors and the tail.

    anchor_tokens, tail_tokens: None for those of a SPEED checkpoint, or the defaults. bfloat16 on a GPU, otherwise
    float32. Raises ConfigError for a checkpoint that cannot be served.
    """
    silence_libraries()
    config = read_source_config(checkpoint)
    require_unquantized(config, checkpoint, "measured at other depths")
    require_layers(read_weights(checkpoint), config, checkpoint)
    speed = visibility_of(checkpoint, decoder_config(config)["num_hidden_layers"], anchor_tokens, tail_tokens)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    in_bands = config_of(speed_model_config(config, speed))
    model: ReferenceModel = class_for(in_bands).from_pretrained(checkpoint, config=in_bands, dtype=dtype)
    return model.to(device).requires_grad_(False).eval()


def visibility_of(checkpoint: Path, num_layers: int, anchor_tokens: int | None, tail_tokens: int | None) -> SpeedConfig:
    """Anchors and tail of the user, else of a checkpoint for SPEED, else the defaults; all layers shallow."""
    own = SpeedConfig.from_checkpoint(checkpoint)
    if own is None or own.policy != DEFAULT_POLICY:
        own = SpeedConfig(num_layers, num_layers)
    return SpeedConfig(
        num_layers,
        num_layers,
        own.anchor_tokens if anchor_tokens is None else anchor_tokens,
        own.tail_tokens if tail_tokens is None else tail_tokens,
    )


def final_logits(model: ReferenceModel, hidden: Tensor) -> Tensor:
    """Logits of the last layer's output, at least in float32: [num_rows, vocab]. hidden: [num_rows, hidden_size]."""
    logits = model.head(hidden[None])[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

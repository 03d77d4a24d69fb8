"""The models of the table: the shallow band runs over all tokens, each deep band over its deep tokens only.

Owns the order of those two steps. Layers, rotary embedding, norms and weights' names are transformers' own.
Importing it registers the models with AutoModelForCausalLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NoReturn

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from sglang_speed.method import DeepTokens, DepthBand, depth_bands
from sglang_speed.models.architectures import ARCHITECTURES, Architecture
from sglang_speed.models.hf_config import architecture_of_class, config_class
from sglang_speed.policies import DepthPolicy, policy_of

IGNORED_LABEL = -100


@dataclass
class SpeedOutput(ModelOutput):
    """What a forward gives for its deep tokens.

    logits: [batch, num_deep, vocab], of the tokens that pass all layers.
    positions: [num_deep], the position of each row of `logits`; the anchors come first.
    loss: mean cross-entropy, where labels were given.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    positions: Tensor | None = None


class ReferenceModel(PreTrainedModel):
    """What is ours in a causal model of transformers whose prompt tokens stop at the cutoff; see `model_class`."""

    # the causal mask of `run_band` is a matrix, which these kernels do not take
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.bands = depth_bands(config.speed_config)
        self.policies = tuple(policy_of(config.speed_config, band) for band in self.bands[1:] or self.bands)

    @property
    def policy(self) -> DepthPolicy:
        """That of the highest deep band, which decides what passes all layers."""
        return self.policies[-1]

    def deep_tokens(self, prompt_len: int, scored_from: int | None = None) -> tuple[DeepTokens, ...]:
        """The deep tokens of a request, band by band from the bottom up."""
        return tuple(policy.deep_tokens(prompt_len, scored_from) for policy in self.policies)

    def forward(
        self,
        input_ids: Tensor,
        deep_tokens: DeepTokens | Sequence[DeepTokens] | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
    ) -> SpeedOutput:
        """Logits of the deep tokens among `input_ids`.

        input_ids: [batch, num_tokens], at the positions that follow those in the cache. The requests of a batch
            share their lengths; run others one after the other.
        deep_tokens: of these requests, for each deep band, or the same for all; without it all of `input_ids` is
            prompt and there is no cache.
        past_key_values: extended in place. Shallow layers hold every token, deep layers the deep tokens.
        labels: [batch, num_tokens], the token ids to learn, IGNORED_LABEL elsewhere; not shifted. Tokens that do
            not follow a deep token are not learned.
        """
        assert deep_tokens or past_key_values is None, "input_ids alone do not say where a cached prompt ends"
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        end = start + input_ids.shape[1]
        if deep_tokens is None or isinstance(deep_tokens, DeepTokens):
            deep_tokens = [deep_tokens] * len(self.policies) if deep_tokens else self.deep_tokens(end)
        positions = torch.arange(start, end, device=input_ids.device)

        shallow_band, *deep_bands = self.bands
        hidden = self.model.embed_tokens(input_ids)
        hidden = self.run_band(shallow_band, hidden, positions, past_key_values)
        for band, deep in zip_longest(deep_bands, deep_tokens):
            is_deep = torch.isin(positions, _positions_of(deep, start, end).to(positions.device))
            hidden, positions = hidden[:, is_deep], positions[is_deep]
            if band is not None:
                hidden = self.run_band(band, hidden, positions, past_key_values)
        logits = self.lm_head(self.model.norm(hidden))

        loss = None if labels is None else _next_token_loss(logits, labels, positions - start)
        return SpeedOutput(loss=loss, logits=logits, positions=positions)

    def run_band(self, band: DepthBand, hidden: Tensor, positions: Tensor, cache: Cache | None) -> Tensor:
        """Run a band's layers over rows that see each other causally, after the rows in the cache.

        hidden: [batch, num_rows, hidden_size], in position order. positions: [num_rows].
        """
        if not len(positions):
            return hidden
        num_cached = 0 if cache is None else cache.get_seq_length(band.first_layer)
        return self.run_layers(band, hidden, positions, _causal_mask(num_cached, hidden), cache)

    def run_layers(
        self, band: DepthBand, hidden: Tensor, positions: Tensor, mask: Any, cache: Cache | None = None
    ) -> Tensor:
        """Run a band's layers over rows that see what `mask` shows, in the form that the attention takes."""
        position_embeddings = self.model.rotary_emb(hidden, positions[None])
        for layer in self.model.layers[band.first_layer : band.end_layer]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=position_embeddings,
                past_key_values=cache,
            )
        return hidden

    def generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: transformers' generation does not tell prompt tokens from generated ones."""
        raise NotImplementedError("generate with sglang_speed.reference.generation.generate_greedy")


def _positions_of(deep_tokens: DeepTokens, start: int, end: int) -> Tensor:
    """Positions of the deep tokens in a forward over `[start, end)`."""
    anchors, decode_phase = deep_tokens.computed_in(start, end)
    return torch.tensor([*anchors, *decode_phase], dtype=torch.long)


def _causal_mask(num_cached: int, hidden: Tensor) -> Tensor:
    """[1, 1, num_rows, num_cached + num_rows]: row i sees the cached rows and rows 0 .. i; 0 visible, -inf not."""
    num_rows = hidden.shape[1]
    mask = hidden.new_full((num_rows, num_cached + num_rows), float("-inf"))
    return mask.triu(num_cached + 1)[None, None]


def _next_token_loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Mean cross-entropy of the labels that follow `rows`, where there are any."""
    labels = functional.pad(labels, (0, 1), value=IGNORED_LABEL)
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), labels[:, rows + 1].flatten(), ignore_index=IGNORED_LABEL
    )


@lru_cache
def model_class(architecture: Architecture, ours: Any = ReferenceModel) -> Any:
    """The class of an architecture's causal model in transformers, with depth bands."""
    bases = ours, getattr(transformers, architecture.name)
    return type(architecture.speed_name, bases, {"config_class": config_class(architecture)})


def class_for(config: PreTrainedConfig, ours: Any = ReferenceModel) -> Any:
    """The same for the configuration of a SPEED checkpoint."""
    return model_class(architecture_of_class(config), ours)


def register(architecture: Architecture) -> None:
    """Let AutoModelForCausalLM load SPEED checkpoints of an architecture."""
    AutoModelForCausalLM.register(config_class(architecture), model_class(architecture), exist_ok=True)


for each in ARCHITECTURES.values():
    register(each)
SpeedLlamaForCausalLM = model_class(ARCHITECTURES["llama"])

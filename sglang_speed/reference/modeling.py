"""The models of the table: the shallow band runs over all tokens, each deep band over its deep tokens only.

Owns which rows a layer is given. All else is transformers' own.
Importing it registers the models with AutoModelForCausalLM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NoReturn

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.utils import ModelOutput

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.method import DeepTokens, depth_bands
from sglang_speed.method.deep_tokens import Context
from sglang_speed.models.architectures import ARCHITECTURES, Architecture
from sglang_speed.models.hf_config import architecture_of_class, config_class
from sglang_speed.policies import DepthPolicy, policy_of
from sglang_speed.reference.filled import FilledRows, mask_of_rows
from sglang_speed.reference.selected import Recording, selected
from sglang_speed.reference.thinned import Thinned

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


class _NoRows(Exception):
    """A band that has none in a forward ends it, since the bands above have none either."""


@dataclass
class _DeepRows:
    """The rows of one forward that are deep.

    rows: for each deep band, those of `input_ids`, ascending. at_cutoff: hidden states of all rows where the deep band
    begins, while a policy fills KV in. contexts: for each deep band, until scores have said which of its tokens are
    deep; empty where none is selected. deep_tokens: the same, where rows behind a context see a part of it only.
    """

    rows: Sequence[Tensor]
    cache: Cache | None
    at_cutoff: Tensor | None = None
    contexts: Sequence[Context] = ()
    deep_tokens: Sequence[DeepTokens] = ()

    def in_band_below(self, band: int) -> Tensor:
        """The same among the rows that the band below has."""
        return self.rows[band] if band == 0 else torch.isin(self.rows[band - 1], self.rows[band])

    def num_seen(self, band: int, layer: int) -> int:
        """Tokens that the last row of a band sees in a layer."""
        return len(self.rows[band]) + (0 if self.cache is None else self.cache.get_seq_length(layer))


def of_rows(name: str, value: Any, rows: Tensor, num_seen: int) -> Any:
    """What some rows of a forward are given of a keyword argument of a layer, when they run as a sequence of their own.

    num_seen: tokens that the last of the rows sees, those in a cache included.
    """
    if value is None:
        return None
    if name == "attention_mask":
        # windows count places in that sequence: a mask depends on the distance of two places only
        return value[..., value.shape[-2] - len(rows) :, value.shape[-1] - num_seen :]
    if name == "position_embeddings":
        return tuple(part.index_select(-2, rows) for part in value)
    return value[..., rows] if name == "position_ids" else value


class ReferenceModel(PreTrainedModel):
    """What is ours in a causal model of transformers whose prompt tokens stop at the cutoff; see `model_class`.

    The forward is the stock model's. Its layers above a cutoff are given the deep rows only: of the hidden states where
    a band begins, and in each layer of positions and mask.
    """

    # layers above a cutoff are given a part of the mask, so it must be a matrix
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self._rows: _DeepRows | None = None
        self._hooks: list[RemovableHandle] = []
        self.run_in(config.speed_config)

    def run_in(self, speed: SpeedConfig) -> None:
        """From now on run the same layers in these bands."""
        for hook in self._hooks:
            hook.remove()
        self.config.speed = speed.to_dict()
        self.bands = depth_bands(speed)
        self.policies = tuple(policy_of(speed, band) for band in self.bands[1:] or self.bands)
        layers = self.get_decoder().layers
        self._recordings: dict[int, Recording] = {}
        if speed.selection is not None and not speed.is_stock:
            last = speed.prefill_layers - 1
            self._recordings = {layer: Recording() for layer in (range(len(layers)) if speed.is_thinned else [last])}
        self._hooks = []
        for number, band in enumerate(self.bands[1:]):
            for layer in range(band.first_layer, band.end_layer):
                choose = self._fill if self.policy.is_filled else partial(self._select, number)
                choose = partial(choose, layer == band.first_layer, layer)
                self._hooks.append(layers[layer].register_forward_pre_hook(choose, with_kwargs=True))
        for layer, recording in self._recordings.items():
            begin = partial(self._begin_recording, layer, recording)
            self._hooks.append(layers[layer].register_forward_pre_hook(begin))
            self._hooks.append(layers[layer].register_forward_hook(recording.end, always_call=True))

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers. ConfigError where a weight is missing, which would be drawn at random, or left over."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        num_layers = model.config.speed_config.num_layers
        ahead = re.compile(rf"layers\.({num_layers}|{num_layers + 1})\.|rotary_emb\.inv_freq$")
        left_over = {name for name in info["unexpected_keys"] if not ahead.search(name)}
        for problem, names in (("lacks", info["missing_keys"]), ("has, and the model does not,", left_over)):
            if names:
                raise ConfigError(f"{args[0]} {problem} {min(names)}: make or download the checkpoint again")
        return (model, info) if output_loading_info else model

    @property
    def policy(self) -> DepthPolicy:
        """That of the highest deep band, which decides what passes all layers."""
        return self.policies[-1]

    def deep_tokens(self, token_ids: Sequence[int], scored_from: int | None = None) -> tuple[DeepTokens, ...]:
        """The deep tokens of a request, band by band from the bottom up. token_ids: those of its prompt."""
        return tuple(policy.deep_tokens(len(token_ids), scored_from, token_ids) for policy in self.policies)

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
        is_whole = self.policy.is_filled or self.config.speed_config.is_thinned
        assert past_key_values is None or not is_whole, "what is filled in or thinned is computed without a cache"
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        end = start + input_ids.shape[1]
        if deep_tokens is None or isinstance(deep_tokens, DeepTokens):
            one = deep_tokens
            deep_tokens = [one] * len(self.policies) if one else self.deep_tokens(input_ids[0].tolist())
        rows = _DeepRows([_rows_of(deep, start, end).to(input_ids.device) for deep in deep_tokens], past_key_values)
        if start == 0 and any(deep.num_selected for deep in deep_tokens):
            rows.contexts = [deep.context for deep in deep_tokens if deep.context is not None]
        if self.config.speed_config.is_thinned:
            rows.deep_tokens = deep_tokens
        self._rows = rows
        try:
            use_cache = past_key_values is not None
            logits = super().forward(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache).logits
        except _NoRows:
            logits = self.lm_head.weight.new_empty(len(input_ids), 0, len(self.lm_head.weight))
        finally:
            self._rows = None
        if len(self.bands) == 1:
            logits = logits[:, rows.rows[-1]]
        loss = None if labels is None else _next_token_loss(logits, labels, rows.rows[-1])
        return SpeedOutput(loss=loss, logits=logits, positions=rows.rows[-1] + start)

    def _select(self, band: int, is_first: bool, layer: int, _: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What a layer above a cutoff is given; everything where no forward of `ReferenceModel` runs."""
        if self._rows is None:
            return None
        hidden, *rest = args
        if is_first:
            self._select_tokens(self._rows)
            hidden = hidden[:, self._rows.in_band_below(band)]
        rows, num_seen = self._rows.rows[band], self._rows.num_seen(band, layer)
        if not len(rows):
            raise _NoRows
        return (hidden, *rest), {name: of_rows(name, value, rows, num_seen) for name, value in kwargs.items()}

    def _fill(self, is_first: bool, index: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """The same where the other rows are filled in: the deep rows see them."""
        if self._rows is None:
            return None
        hidden, *rest = args
        assert not rest, "layers of transformers take all but the hidden states by name"
        (rows,) = self._rows.rows
        if is_first:
            self._rows.at_cutoff, hidden = hidden, hidden[:, rows]
        assert self._rows.at_cutoff is not None, "the deep band begins with its first layer"
        filled = FilledRows(layer, self._rows.at_cutoff, kwargs, rows)
        num_rows = self._rows.at_cutoff.shape[1]
        own = {name: of_rows(name, value, rows, num_rows) for name, value in kwargs.items() if name != "attention_mask"}
        mask = mask_of_rows(kwargs["attention_mask"], rows, num_rows)
        return (hidden,), {**own, "attention_mask": mask, "past_key_values": filled}

    def _select_tokens(self, rows: _DeepRows) -> None:
        """Let scores say which tokens of the contexts are deep; the layer below the lowest cutoff has just run."""
        if not rows.contexts:
            return
        speed = self.config.speed_config
        recording = self._recordings[speed.prefill_layers - 1]
        scores, num_rows = recording.scores(rows.contexts[0].end, speed.selection), recording.queries.shape[1]
        rows.rows = [
            torch.tensor([*selected(context, scores), *range(context.end, num_rows)], device=scores.device)
            for context in rows.contexts
        ]
        rows.contexts = ()

    def _begin_recording(self, layer: int, recording: Recording, *_: Any) -> None:
        """Before a layer whose queries and keys are kept: let rows behind the context see a part of it, if so asked."""
        recording.change = None
        if self._rows is not None and self._rows.deep_tokens:
            band = sum(layer >= each.first_layer for each in self.bands[1:]) - 1
            deep = self._rows.deep_tokens[band]
            assert deep.context is not None, "what is thinned is a context"
            boundary = deep.context.end if band < 0 else deep.context.num_deep
            recording.change = partial(self._thinned(deep, boundary).change, recording)
        recording.begin()

    def _thinned(self, deep: DeepTokens, boundary: int) -> Thinned:
        speed, text = self.config.speed_config, self.config.get_text_config()
        first = min(speed.anchor_tokens, deep.deep_start)
        assert deep.context is not None, "what is thinned is a context"
        chosen = len({*range(first), *range(deep.context.window_from, deep.context.end)})
        num_kept = max(chosen, int(speed.selection.kept * deep.context.end))
        num_groups = 1 if getattr(text, "kv_lora_rank", None) else text.num_key_value_heads
        return Thinned(boundary, first, num_kept, num_groups, speed.selection)

    def full_depth_logits(self, input_ids: Tensor, num_rows: int) -> Tensor:
        """Logits of the last rows, [batch, num_rows, vocab], when every token passes every layer."""
        logits: Tensor = super().forward(input_ids=input_ids, use_cache=False, logits_to_keep=num_rows).logits
        return logits

    def head(self, hidden: Tensor) -> Tensor:
        """Logits, [..., num_rows, vocab], of what the last layer gives: [batch, num_rows, hidden_size]."""
        decoder = self.get_decoder()
        layers, decoder.layers = decoder.layers, nn.ModuleList()
        replace = decoder.norm.register_forward_pre_hook(lambda *_: (hidden,))
        try:
            logits: Tensor = super().forward(inputs_embeds=hidden, use_cache=False).logits
        finally:
            decoder.layers = layers
            replace.remove()
        return logits

    def generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: transformers' generation does not tell prompt tokens from generated ones."""
        raise NotImplementedError("generate with sglang_speed.reference.generation.generate_greedy")


def _rows_of(deep_tokens: DeepTokens, start: int, end: int) -> Tensor:
    """The deep tokens in a forward over `[start, end)`, counted from `start`; without those that scores select."""
    parts: tuple[range, ...] = deep_tokens.computed_in(start, end)
    if deep_tokens.context is not None and start < deep_tokens.context.end:
        assert start == 0, "what is computed from the hidden states of a context is in one forward with it"
        assert end >= deep_tokens.context.end, "a context is computed whole"
        parts = *deep_tokens.context.chosen, *parts
    return torch.tensor([position for part in parts for position in part], dtype=torch.long) - start


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
    own = {"config_class": config_class(architecture), "_supports_sdpa": not architecture.needs_matrices}
    return type(architecture.speed_name, bases, own)


def class_for(config: PreTrainedConfig, ours: Any = ReferenceModel) -> Any:
    """The same for the configuration of a SPEED checkpoint."""
    return model_class(architecture_of_class(config), ours)


def stock_class(config: PreTrainedConfig) -> Any:
    """The class of the same model in transformers, without bands."""
    return getattr(transformers, architecture_of_class(config).name)


def register(architecture: Architecture) -> None:
    """Let AutoModelForCausalLM load SPEED checkpoints of an architecture."""
    AutoModelForCausalLM.register(config_class(architecture), model_class(architecture), exist_ok=True)
    for stock, ours in (
        (architecture.model_type, architecture.speed_model_type),
        (architecture.name, architecture.speed_name),
    ):
        # how the tensors of a checkpoint become those of the modules: experts lie apart in it
        mapping = get_checkpoint_conversion_mapping(stock)
        if mapping is not None:
            register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)


for each in ARCHITECTURES.values():
    register(each)
SpeedLlamaForCausalLM = model_class(ARCHITECTURES["llama"])

"""What a SPEED checkpoint says about itself: the `speed` object of its config.json.

Owns the validation of that object. Must not import torch, transformers or sglang.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import (
    DEFAULT_ANCHOR_TOKENS,
    DEFAULT_POLICY,
    DEFAULT_TAIL_TOKENS,
    POLICY_TRAITS,
    PolicyTraits,
    Selection,
    ShortMessages,
    require_int,
)

SPEED_MODEL_TYPE = "speed_"
"""Begins the `model_type` of a SPEED checkpoint: `speed_llama`."""
SPEED_ARCHITECTURE = "Speed"
"""Begins the name in its `architectures`: `SpeedLlamaForCausalLM`."""

_COUNTS = ("prefill_layers", "anchor_tokens", "tail_tokens")
_KEYS = (*_COUNTS, "policy", *Selection.KEYS, *ShortMessages.KEYS)


@dataclass(frozen=True)
class SpeedConfig:
    """The depth bands of a model and which prompt tokens reach the deep ones.

    num_layers: decoder layers of the model, `L`.
    prefill_layers: layers that every prompt token passes, `Lc`; equal to `num_layers` it is the stock model.
    anchor_tokens: first prompt positions that pass all layers, `k >= 0`.
    tail_tokens: last prompt positions that pass all layers, `m >= 1`.
    further_cutoffs: layers at which the deep layers are cut again, in ascending order; each begins another deep band.
        In config.json `prefill_layers` is then a list.
    policy: what the deep bands show beside the tokens that pass them, one of POLICY_TRAITS.
    selection: how prompt tokens are chosen for the deep layers; None where the policy chooses none.
    messages: which messages of a chat pass all layers; None where their length does not count.

    Raises ConfigError naming the key, the value, the rule and the fix.
    """

    num_layers: int
    prefill_layers: int
    anchor_tokens: int = DEFAULT_ANCHOR_TOKENS
    tail_tokens: int = DEFAULT_TAIL_TOKENS
    further_cutoffs: tuple[int, ...] = ()
    policy: str = DEFAULT_POLICY
    selection: Selection | None = None
    messages: ShortMessages | None = None

    def __post_init__(self) -> None:
        for key in ("num_layers", *_COUNTS):
            require_int(key, getattr(self, key))
        if self.num_layers < 1:
            raise ConfigError(f"num_layers={self.num_layers} is below 1: a model has at least one decoder layer")
        if not 1 <= self.prefill_layers <= self.num_layers:
            raise ConfigError(
                f"prefill_layers={self.prefill_layers} is not between 1 and {self.num_layers}: it is the number of "
                "layers that prompt tokens pass; `sglang-speed cutoff` measures which number suits a checkpoint (SPEED "
                "was published with 24 of 32 for Llama-3.1-8B)"
            )
        if self.anchor_tokens < 0:
            raise ConfigError(
                f"anchor_tokens={self.anchor_tokens} is negative: it is the number of first prompt tokens that pass "
                f"all layers; {DEFAULT_ANCHOR_TOKENS} (the BoS token) is the default"
            )
        if self.tail_tokens < 1:
            raise ConfigError(
                f"tail_tokens={self.tail_tokens} is below 1: the last prompt token must pass all layers, because the "
                f"first output token comes from it; {DEFAULT_TAIL_TOKENS} is the default"
            )
        self._check_further_cutoffs()
        self._check_policy()

    def _check_policy(self) -> None:
        if not isinstance(self.policy, str) or self.policy not in POLICY_TRAITS:
            raise ConfigError(f"policy={self.policy!r} is not known: the policies are {', '.join(POLICY_TRAITS)}")
        if self.fills_deep_layers and self.further_cutoffs:
            raise ConfigError(
                f"prefill_layers={self._prefill_layers_in_json()!r} has several cutoffs, and policy {self.policy!r} "
                "takes one, since its deep KV comes from the hidden state there; write one number"
            )
        if POLICY_TRAITS[self.policy].selects != (self.selection is not None):
            selecting = " or ".join(name for name, traits in POLICY_TRAITS.items() if traits.selects)
            raise ConfigError(
                f"{', '.join(Selection.KEYS)} belong to policy {selecting!r}, and the policy is {self.policy!r}: leave "
                "them out, or write the policy"
            )
        if self.selection is not None and len(self.selection.ratios) not in (1, 1 + len(self.further_cutoffs)):
            raise ConfigError(
                f"select_ratio={list(self.selection.ratios)} does not fit prefill_layers="
                f"{self._prefill_layers_in_json()!r}: write one share, or one for each cutoff"
            )

    def _check_further_cutoffs(self) -> None:
        for below, cutoff in pairwise((self.prefill_layers, *self.further_cutoffs)):
            require_int("prefill_layers", cutoff)
            if not below < cutoff < self.num_layers:
                raise ConfigError(
                    f"prefill_layers={self._prefill_layers_in_json()!r} is not an ascending list of cutoffs below "
                    f"{self.num_layers}, the number of layers: each of its numbers begins another depth band"
                )

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The first layer of each deep band, from the bottom up; none for the stock model."""
        return () if self.is_stock else (self.prefill_layers, *self.further_cutoffs)

    @property
    def num_deep_layers(self) -> int:
        return self.num_layers - self.prefill_layers

    @property
    def fills_deep_layers(self) -> bool:
        """Whether every token has KV in the deep layers, filled in where it is not computed."""
        return POLICY_TRAITS[self.policy].fills_deep_layers

    @property
    def keeps_states(self) -> bool:
        """Whether the radix tree keeps the hidden state at the lowest cutoff of every token, from which any of them can
        be computed in the deep layers later."""
        return not self.is_stock and (self.selection is not None or self.messages is not None)

    @property
    def stores_uncomputed(self) -> bool:
        """Whether the KV pools hold more than keys and values that a layer computed: what is filled in, states."""
        return not self.is_stock and (self.fills_deep_layers or self.keeps_states)

    @property
    def is_thinned(self) -> bool:
        """Whether tokens behind the context see a part of it only, in all layers."""
        return not self.is_stock and self.selection is not None and self.selection.kept < 1

    @property
    def stored_layers(self) -> int:
        """Layers whose KV the radix tree keeps of a token; its state is kept beside them."""
        return self.num_layers if self.fills_deep_layers else self.prefill_layers

    @property
    def selected_share(self) -> float:
        """Of prompt tokens those that scores choose for the deep layers, on average over these layers."""
        if self.selection is None or self.is_stock:
            return 0.0
        ends = (*self.further_cutoffs, self.num_layers)
        layers = [end - first for first, end in zip(self.cutoffs, ends, strict=True)]
        ratios = map(self.selection.ratio_of, range(len(layers)))
        return sum(ratio * count for ratio, count in zip(ratios, layers, strict=True)) / self.num_deep_layers

    @property
    def read_layers(self) -> float:
        """As many layers' worth of KV of a prompt as decode reads."""
        if self.is_thinned and self.selection is not None:
            return self.selection.kept * self.num_layers
        return self.stored_layers + self.selected_share * self.num_deep_layers

    @property
    def is_stock(self) -> bool:
        """True when every token passes every layer, so that there is no deep band."""
        return self.num_deep_layers == 0

    @classmethod
    def of_policy(
        cls, num_layers: int, prefill_layers: int | Sequence[int], policy: str = DEFAULT_POLICY, **settings: Any
    ) -> SpeedConfig:
        """A policy with its own defaults for those of the `speed` object's keys that are not given, or None."""
        named = {key: value for key, value in settings.items() if value is not None}
        return cls.from_dict({"prefill_layers": prefill_layers, "policy": policy, **named}, num_layers)

    def at_full_depth(self) -> SpeedConfig:
        """The stock model with the same anchors and tail."""
        one = None if self.selection is None else replace(self.selection, ratios=self.selection.ratios[:1])
        return replace(self, prefill_layers=self.num_layers, further_cutoffs=(), selection=one)

    def with_tail(self, tail_tokens: int) -> SpeedConfig:
        """The same bands under another tail."""
        return replace(self, tail_tokens=tail_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The `speed` object of config.json. SPEED's own does not name its policy, as those written before there were
        others."""
        written = {key: getattr(self, key) for key in _COUNTS} | {"prefill_layers": self._prefill_layers_in_json()}
        if self.policy != DEFAULT_POLICY:
            written["policy"] = self.policy
        for part in (self.selection, self.messages):
            written |= {} if part is None else part.to_dict()
        return written

    def _prefill_layers_in_json(self) -> int | list[int]:
        return [self.prefill_layers, *self.further_cutoffs] if self.further_cutoffs else self.prefill_layers

    @classmethod
    def from_dict(cls, speed: Any, num_layers: int) -> SpeedConfig:
        """Read the `speed` object of a config.json; ConfigError for a missing, unknown or wrong value."""
        if not isinstance(speed, Mapping):
            raise ConfigError(
                f"speed={speed!r} is not an object: config.json needs a `speed` object with {', '.join(_KEYS)}; make "
                "the checkpoint with `sglang-speed convert`"
            )
        unknown = sorted(set(speed) - set(_KEYS))
        if unknown:
            raise ConfigError(f"speed.{unknown[0]} is not known: the keys are {', '.join(_KEYS)}; remove it")
        if "prefill_layers" not in speed:
            raise ConfigError("speed.prefill_layers is missing: it is the number of layers that prompt tokens pass")
        traits = POLICY_TRAITS.get(str(speed.get("policy", DEFAULT_POLICY)), PolicyTraits())
        lowest, *further = cls._cutoffs_in(speed["prefill_layers"])
        return cls(
            num_layers=num_layers,
            prefill_layers=lowest,
            anchor_tokens=speed.get("anchor_tokens", traits.anchor_tokens),
            tail_tokens=speed.get("tail_tokens", traits.tail_tokens),
            further_cutoffs=tuple(further),
            policy=speed.get("policy", DEFAULT_POLICY),
            selection=Selection.from_dict(speed) if traits.selects or set(Selection.KEYS) & set(speed) else None,
            messages=ShortMessages.from_dict(speed),
        )

    @staticmethod
    def _cutoffs_in(prefill_layers: Any) -> Sequence[Any]:
        if not isinstance(prefill_layers, Sequence) or isinstance(prefill_layers, str):
            return [prefill_layers]
        if not prefill_layers:
            raise ConfigError("speed.prefill_layers=[] names no cutoff: write the number of layers that prompts pass")
        return prefill_layers

    @classmethod
    def from_model_config(cls, config: Mapping[str, Any]) -> SpeedConfig:
        """Read a whole config.json, given as a mapping."""
        return cls.from_dict(config.get("speed"), decoder_config(config).get("num_hidden_layers", 0))

    @classmethod
    def from_checkpoint(cls, directory: Path) -> SpeedConfig | None:
        """The SpeedConfig of a checkpoint directory, or None where it is not a SPEED checkpoint."""
        config = read_model_config(directory)
        if config is None or not is_speed_model(config):
            return None
        return cls.from_model_config(config)


def read_model_config(directory: Path) -> dict[str, Any] | None:
    """config.json of a checkpoint directory as a dict, or None where there is none."""
    path = directory / "config.json"
    try:
        if not path.is_file():
            return None
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read ({error.strerror}): name a checkpoint directory") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}): make the checkpoint again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object: make the checkpoint again")
    return config


def decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config.json says of the decoder: models that also see images keep it in `text_config`."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def is_speed_model(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a SPEED checkpoint."""
    names = config.get("architectures") or []
    is_named = isinstance(names, Sequence) and any(str(name).startswith(SPEED_ARCHITECTURE) for name in names)
    return is_named or str(config.get("model_type")).startswith(SPEED_MODEL_TYPE)

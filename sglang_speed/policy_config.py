"""What a checkpoint says of its policy: which there are, their defaults, and the parts of the `speed` object that only
some of them have.

Owns the validation of these parts; `config` owns the object. Must not import torch, transformers or sglang.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sglang_speed.errors import ConfigError

DEFAULT_POLICY = "speed"
DEFAULT_ANCHOR_TOKENS = 1
DEFAULT_TAIL_TOKENS = 16


@dataclass(frozen=True)
class PolicyTraits:
    """A policy as a checkpoint names it.

    anchor_tokens, tail_tokens: what a checkpoint means that leaves them out.
    fills_deep_layers: whether tokens that are not computed in the deep layers have KV there all the same, filled in
        from the hidden state at the cutoff; so there is one cutoff.
    selects: whether prompt tokens are chosen for the deep layers by attention scores.
    wants_training: whether a model loses much that was not trained for its cutoff.
    usual_share: of the layers those that prompts pass where none is said, as the policy was published.
    """

    anchor_tokens: int = DEFAULT_ANCHOR_TOKENS
    tail_tokens: int = DEFAULT_TAIL_TOKENS
    fills_deep_layers: bool = False
    selects: bool = False
    wants_training: bool = False
    usual_share: float = 3 / 4

    def usual_cutoff(self, num_layers: int) -> int:
        """prefill_layers for a model of so many layers; at least 1."""
        return max(1, int(self.usual_share * num_layers))


POLICY_TRAITS: Mapping[str, PolicyTraits] = {
    DEFAULT_POLICY: PolicyTraits(wants_training=True),
    "pop": PolicyTraits(anchor_tokens=0, tail_tokens=1, fills_deep_layers=True, usual_share=11 / 16),
    "fastkv": PolicyTraits(selects=True, usual_share=1 / 2),
}
"""The policies that there are; `policies` has a file for each."""


@dataclass(frozen=True)
class Selection:
    """How prompt tokens are chosen for the deep layers by attention scores.

    ratios: for each cutoff, the share of the context that is deep above it; a single one holds for all.
    window: last tokens of the context, whose queries score the others; they are deep themselves.
    kernel: positions over which scores are max-pooled, an odd number.
    kept: share of the context that tokens behind it see, in every layer and KV head the best by its scores; 1 for all.
    """

    ratios: tuple[float, ...] = (0.2,)
    window: int = 8
    kernel: int = 7
    kept: float = 1.0

    KEYS = ("select_ratio", "select_window", "select_kernel", "kv_keep")

    def __post_init__(self) -> None:
        for ratio in self.ratios:
            _require_share("select_ratio", ratio, "prompt tokens that pass the deep layers; 0.2 is the default")
        _require_share("kv_keep", self.kept, "a prompt that decode reads; 1 is the default, all of it")
        if min(self.ratios) < self.kept < 1:
            raise ConfigError(
                f"kv_keep={self.kept} is above select_ratio={self._ratios_in_json()}: deep layers have no more to keep "
                "than what was selected for them; lower it, raise select_ratio, or write 1 to keep all"
            )
        if any(above > below for below, above in pairwise(self.ratios)):
            raise ConfigError(
                f"select_ratio={self._ratios_in_json()} grows from one cutoff to the next: a band chooses from the "
                "tokens of the band below it, so write falling shares"
            )
        require_int("select_window", self.window)
        require_int("select_kernel", self.kernel)
        if self.window < 1:
            raise ConfigError(
                f"select_window={self.window} is below 1: the queries of so many last tokens choose; 8 is the default"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"select_kernel={self.kernel} is not an odd number from 1 up: scores are pooled over as many positions "
                "before a token as after it; 7 is the default, 1 pools nothing"
            )

    def ratio_of(self, band: int) -> float:
        """band: number of the deep band, from 0."""
        return self.ratios[band] if len(self.ratios) > 1 else self.ratios[0]

    def to_dict(self) -> dict[str, Any]:
        thinned = {"kv_keep": self.kept} if self.kept < 1 else {}
        own = {"select_ratio": self._ratios_in_json(), "select_window": self.window, "select_kernel": self.kernel}
        return {**own, **thinned}

    def _ratios_in_json(self) -> float | list[float]:
        return self.ratios[0] if len(self.ratios) == 1 else list(self.ratios)

    @classmethod
    def from_dict(cls, speed: Mapping[str, Any]) -> Selection:
        """Of a `speed` object; what is left out has its default."""
        ratios = speed.get("select_ratio", cls.ratios)
        if ratios in ([], ()):
            raise ConfigError("select_ratio=[] names no share: write one number, or one for each cutoff")
        given: dict[str, Any] = {"ratios": tuple(ratios) if isinstance(ratios, list | tuple) else (ratios,)}
        names = {"window": "select_window", "kernel": "select_kernel", "kept": "kv_keep"}
        given |= {field: speed[key] for field, key in names.items() if key in speed}
        return cls(**given)


@dataclass(frozen=True)
class ShortMessages:
    """Messages of a chat that pass all layers because they are short.

    max_tokens: length of the longest of them. delimiters: lists of token ids, each of which begins a message.
    """

    max_tokens: int
    delimiters: tuple[tuple[int, ...], ...]

    KEYS = ("deep_message_tokens", "message_delimiters")

    def __post_init__(self) -> None:
        require_int("deep_message_tokens", self.max_tokens)
        if self.max_tokens < 1:
            raise ConfigError(
                f"deep_message_tokens={self.max_tokens} is below 0: messages of at most so many tokens pass all "
                "layers; 0 is off"
            )
        if not self.delimiters:
            raise ConfigError(
                f"deep_message_tokens={self.max_tokens} needs message_delimiters, the token ids with which a message "
                "begins; `sglang-speed convert --deep-message-tokens` finds them in the chat template"
            )
        for delimiter in self.delimiters:
            if not delimiter or any(isinstance(each, bool) or not isinstance(each, int) for each in delimiter):
                raise ConfigError(
                    f"message_delimiters has {list(delimiter)!r}, which is no list of token ids: write one such list "
                    "for each way to begin a message"
                )

    def to_dict(self) -> dict[str, Any]:
        delimiters = [list(delimiter) for delimiter in self.delimiters]
        return {"deep_message_tokens": self.max_tokens, "message_delimiters": delimiters}

    @classmethod
    def from_dict(cls, speed: Mapping[str, Any]) -> ShortMessages | None:
        """Of a `speed` object; None where length does not count."""
        delimiters, max_tokens = speed.get("message_delimiters", ()), speed.get("deep_message_tokens", 0)
        if not isinstance(delimiters, list | tuple) or not all(isinstance(each, list | tuple) for each in delimiters):
            raise ConfigError(
                f"message_delimiters={delimiters!r} is not a list of lists of token ids: write one such list for each "
                "way to begin a message"
            )
        require_int("deep_message_tokens", max_tokens)
        return cls(max_tokens, tuple(map(tuple, delimiters))) if max_tokens else None


def _require_share(key: str, value: Any, of_what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{key}={value!r} is not above 0 and at most 1: it is the share of {of_what}")


def require_int(key: str, value: Any) -> None:
    """ConfigError unless a value of a `speed` object is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{key}={value!r} is not a whole number: write it as a JSON integer")

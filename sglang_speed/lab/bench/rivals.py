"""What is compared with stock SGLang: policies with their settings, as the user writes them.

`--policy fastkv,prefill_layers=16,kv_keep=0.1` is a policy and keys of the `speed` object. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import DEFAULT_POLICY, POLICY_TRAITS

STOCK, EQUAL = "stock", "equal"
"""The sides that are no rivals: stock SGLang, and this package with prompts in all layers."""
MESSAGE_ID = 2
"""The token of the random model that begins a message."""
_USUAL_EIGHTHS = (4, 5, 6, 7)


@dataclass(frozen=True)
class Rival:
    """name: as the user wrote it. settings: keys of the `speed` object beside the policy."""

    name: str = DEFAULT_POLICY
    policy: str = DEFAULT_POLICY
    settings: tuple[tuple[str, Any], ...] = ()

    def bands(self, num_layers: int) -> SpeedConfig:
        """Of a model of so many layers. Raises ConfigError for a key or a value that no checkpoint could have."""
        settings = dict(self.settings)
        prefill_layers = settings.pop("prefill_layers", POLICY_TRAITS[self.policy].usual_cutoff(num_layers))
        if settings.get("deep_message_tokens"):
            settings.setdefault("message_delimiters", [[MESSAGE_ID]])
        return SpeedConfig.of_policy(num_layers, prefill_layers, self.policy, **settings)


def usual_cutoffs(num_layers: int) -> list[int]:
    """Those that are compared where none is named, ascending: 1/2, 5/8, 3/4 and 7/8 of the layers."""
    return sorted({max(1, num_layers * eighths // 8) for eighths in _USUAL_EIGHTHS})


def at_usual_cutoff(rival: Rival) -> Rival:
    """The same policy for a model of another number of layers."""
    return replace(rival, settings=tuple(item for item in rival.settings if item[0] != "prefill_layers"))


def rivals_of(written: Iterable[str]) -> tuple[Rival, ...]:
    """One for each policy that was named; the default one if none was.

    Raises ConfigError for a policy that is not known, an item that is no setting, or one named twice.
    """
    rivals = tuple(map(_rival, written)) or (Rival(),)
    for rival in rivals:
        if sum(other.name == rival.name for other in rivals) > 1:
            raise ConfigError(f"--policy {rival.name} was given twice: a comparison measures it once; leave one out")
    return rivals


def _rival(written: str) -> Rival:
    policy, *items = written.split(",")
    if policy not in POLICY_TRAITS:
        raise ConfigError(f"--policy {written} is not one of {', '.join(POLICY_TRAITS)}: begin with one of these")
    return Rival(written, policy, tuple(_setting(written, item) for item in items))


def _setting(written: str, item: str) -> tuple[str, Any]:
    key, _, value = item.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        raise ConfigError(
            f"--policy {written} has {item!r}, which is no setting: write KEY=NUMBER after the policy, e.g. "
            "fastkv,prefill_layers=16,kv_keep=0.1"
        ) from None

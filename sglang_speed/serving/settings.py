"""The operator's settings, read from the environment here and nowhere else; `arguments` keeps them with the flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE

GUARD_VARIABLE = "SGLANG_SPEED_GUARD"


@dataclass(frozen=True)
class Settings:
    """deep_tokens: size of the deep band's pool in tokens; None lets `kv_pool.capacity` decide.

    has_guard: requests that would end or block the server are refused.
    """

    deep_tokens: int | None = None
    has_guard: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        return cls(_deep_tokens(environment), _has_guard(environment))


def _deep_tokens(environment: Mapping[str, str]) -> int | None:
    text = environment.get(DEEP_TOKENS_VARIABLE, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"{DEEP_TOKENS_VARIABLE}={text!r} is not a positive whole number: it is the size of the deep band's KV "
            "pool in tokens; unset it to have the size derived"
        )
    return int(text)


def _has_guard(environment: Mapping[str, str]) -> bool:
    text = environment.get(GUARD_VARIABLE, "").strip() or "1"
    if text not in ("0", "1"):
        raise ConfigError(f"{GUARD_VARIABLE}={text!r} is not 0 or 1: 0 leaves out the guard against hostile requests")
    return text == "1"

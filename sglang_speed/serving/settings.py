"""The operator's settings, read from the environment here and nowhere else; `arguments` keeps them with the flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE


@dataclass(frozen=True)
class Settings:
    """deep_tokens: size of the deep band's pool in tokens; None lets `kv_pool.capacity` decide."""

    deep_tokens: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        text = environment.get(DEEP_TOKENS_VARIABLE, "").strip()
        if not text:
            return cls()
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"{DEEP_TOKENS_VARIABLE}={text!r} is not a positive whole number: it is the size of the deep band's KV "
                "pool in tokens; unset it to have the size derived"
            )
        return cls(deep_tokens=int(text))

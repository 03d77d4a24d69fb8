"""Depth policies, one file each: which tokens of a request are deep, and what that means for caches.

base     what the pools, the attention and the reference ask of any policy
speed    SPEED

A new policy is a file here and a row in POLICIES. Plain Python. Must not import torch or sglang.
"""

from collections.abc import Callable, Mapping

from sglang_speed.config import SpeedConfig
from sglang_speed.policies.base import DepthPolicy
from sglang_speed.policies.speed import SpeedPolicy

POLICIES: Mapping[str, Callable[[SpeedConfig], DepthPolicy]] = {"speed": SpeedPolicy}


def policy_of(config: SpeedConfig) -> DepthPolicy:
    """The policy of a checkpoint. There is one kind today, and a checkpoint does not name it."""
    return POLICIES["speed"](config)


__all__ = ["POLICIES", "DepthPolicy", "SpeedPolicy", "policy_of"]

"""Depth policies, one file each: which tokens of a request are deep, and what that means for caches.

base     what the pools, the attention and the reference ask of any policy
speed    SPEED
pop      POP
fastkv   FastKV

A new policy is a file here and a row in POLICIES. Plain Python. Must not import torch or sglang.
"""

from collections.abc import Mapping

from sglang_speed.config import SpeedConfig
from sglang_speed.method.bands import DepthBand
from sglang_speed.policies.base import DepthPolicy
from sglang_speed.policies.fastkv import FastKvPolicy, ThinnedPolicy
from sglang_speed.policies.pop import PopPolicy
from sglang_speed.policies.speed import SpeedPolicy

POLICIES: Mapping[str, type[DepthPolicy]] = {"speed": SpeedPolicy, "pop": PopPolicy, "fastkv": FastKvPolicy}


def policy_of(config: SpeedConfig, band: DepthBand) -> DepthPolicy:
    """The policy of a checkpoint in one deep band."""
    return POLICIES[config.policy].for_band(config, band)


__all__ = ["POLICIES", "DepthPolicy", "FastKvPolicy", "PopPolicy", "SpeedPolicy", "ThinnedPolicy", "policy_of"]

"""Depth policies, one file each: which tokens of a request are deep, and what that means for caches.

base     what the pools, the attention and the reference ask of any policy
speed    SPEED

Plain Python. Must not import torch or sglang.
"""

from sglang_speed.policies.base import DepthPolicy
from sglang_speed.policies.speed import SpeedPolicy

__all__ = ["DepthPolicy", "SpeedPolicy"]

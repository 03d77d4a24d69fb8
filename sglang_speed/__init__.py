"""SPEED for SGLang: prompt tokens live in the lower layers only, generated tokens use them all.

This module imports neither torch nor sglang, so that it can be read by tools that have neither.
"""

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError, HostMismatch, IntegrityError

__version__ = "0.1.0"
SUPPORTED_SGLANG = ("0.5.17", "0.5.23")

__all__ = ["SUPPORTED_SGLANG", "ConfigError", "HostMismatch", "IntegrityError", "SpeedConfig", "__version__"]

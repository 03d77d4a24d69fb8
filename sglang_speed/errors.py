"""The errors that this package raises on purpose.

Owns a user's mistake (`ConfigError`), a host that is not supported (`HostMismatch`), a broken promise inside
the pools (`IntegrityError`), and nothing else.
"""

from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting, flag or checkpoint value that cannot be served; the text names the value, the rule and the fix."""


class HostMismatch(RuntimeError):
    """The installed SGLang is not supported, or a change to it is not in place."""


class IntegrityError(AssertionError):
    """A pool, table or registry lost count; the text carries both sides of each sum."""


def raise_violations(where: str, violations: Iterable[str]) -> None:
    """Raise one IntegrityError with all violations of an owner's invariants; nothing happens if there are none."""
    found = list(violations)
    if found:
        raise IntegrityError(f"{where}: " + "; ".join(found))

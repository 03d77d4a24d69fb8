"""Whether SGLang's arguments ask for a SPEED model, and for nothing that is not served with one.

Owns what happens at start-up. What is refused, and why, is said in `sglang_speed.features`.
"""

from __future__ import annotations

from typing import Any

from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.checkpoints.servable import require_servable
from sglang_speed.config import SpeedConfig, is_speed_model, read_model_config
from sglang_speed.errors import ConfigError
from sglang_speed.features import REFUSALS
from sglang_speed.host.adapter import HOST
from sglang_speed.host.versions import installed_version
from sglang_speed.served import speed_of


def refuse_unsupported(args: Any) -> None:
    """When SGLang has resolved its arguments; each scheduler process asks again when it builds its pools.

    Raises ConfigError naming the flag, the reason and the fix.
    """
    args = HOST.resolved(args)
    config = served_config(args)
    if config is None:
        return
    for refusal in REFUSALS:
        if installed_version() not in refusal.versions:
            continue
        if (refusal.at_full_depth or not config.is_stock) and refusal.is_set(args):
            raise ConfigError(f"sglang_speed: {refusal.explain(args)}")


def served_config(args: Any) -> SpeedConfig | None:
    """The SpeedConfig of the model to be served; None for any other model.

    Raises ConfigError for wrong values, and where what would be served is not what the checkpoint says.
    """
    config = speed_of(args.get_model_config().hf_config)
    directory = checkpoint_directory(args.model_path, args.revision)
    written = read_model_config(directory) or {}
    on_disk = SpeedConfig.from_model_config(written) if is_speed_model(written) else None
    if config is None and on_disk is None:
        return None
    if on_disk != config:
        raise ConfigError(
            f"sglang_speed: --json-model-override-args would serve {config}, the checkpoint says {on_disk}; leave it "
            "out, or convert the checkpoint again with `sglang-speed convert`"
        )
    require_servable(written, directory)
    return config

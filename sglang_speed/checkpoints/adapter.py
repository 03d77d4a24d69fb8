"""A trained difference small enough to ship: LoRA's factors in one safetensors file, with where they come from.

Owns that file's form. The factors are named as in peft; the metadata has `scale` and `provenance`, JSON both.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_speed.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

PROVENANCE_NAME = "speed_training.json"
"""The file in a trained checkpoint that says how it was made."""

_PREFIX = "base_model.model."
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"


def require_untrained(checkpoint: Path, role: str) -> None:
    """ConfigError for a checkpoint that was trained for a cutoff, in a role that wants it at full depth."""
    if (checkpoint / PROVENANCE_NAME).is_file():
        raise ConfigError(
            f"{checkpoint} was trained for its cutoff ({PROVENANCE_NAME} is in it): at full depth its weights are "
            f"nobody's model and cannot be {role}; name the model that it was made from (for `eval` with --full-depth; "
            "`sglang-speed default-model --full-depth DIR` writes that of speed-llama)"
        )


def pack_adapter(peft_folder: Path, provenance: Mapping[str, Any], path: Path) -> None:
    """Write what peft saved in `peft_folder` to `path`, in bfloat16; ConfigError where it is no plain LoRA."""
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((peft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    unknown = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or unknown:
        raise ConfigError(f"{peft_folder} is not a plain LoRA adapter ({unknown or config.get('peft_type')})")
    factors = load_file(peft_folder / "adapter_model.safetensors")
    metadata = {"scale": json.dumps(config["lora_alpha"] / config["r"]), "provenance": json.dumps(dict(provenance))}
    save_file({name: factor.to(torch.bfloat16) for name, factor in factors.items()}, path, metadata=metadata)
    # save_file writes mode 0600, whatever the umask
    shutil.copymode(peft_folder / "adapter_config.json", path)


def merge_adapter(weights: MutableMapping[str, Tensor], path: Path) -> None:
    """Add `scale * B A` to each weight that has factors, in its dtype (LoRA, arXiv 2106.09685).

    weights: by their names in a Llama checkpoint; replaced in place. In float64, whose sums round to the same 16 bits
    on every machine. ConfigError where a weight is missing.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        scale = json.loads(file.metadata()["scale"])
        for first in (name for name in file.keys() if name.endswith(_FIRST)):  # noqa: SIM118
            stem = first.removesuffix(_FIRST)
            name = f"{stem.removeprefix(_PREFIX)}.weight"
            if name not in weights:
                raise ConfigError(f"{path} changes {name}, which the checkpoint does not have: it is another model's")
            change = file.get_tensor(stem + _SECOND).double() @ file.get_tensor(first).double()
            weights[name] = (weights[name].double() + scale * change).to(weights[name].dtype)


def read_provenance(path: Path) -> dict[str, Any]:
    """How the adapter was made: what `sglang-speed train` wrote beside the weights."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        provenance: dict[str, Any] = json.loads(file.metadata()["provenance"])
    return provenance


def _pack_a_run(work: Path, checkpoint: Path, path: Path) -> None:
    provenance = json.loads((checkpoint / PROVENANCE_NAME).read_text(encoding="utf-8"))
    pack_adapter(work / "adapter", provenance, path)


if __name__ == "__main__":  # WORK CHECKPOINT FILE: of a run of `sglang-speed train`, and what to write
    _pack_a_run(*map(Path, sys.argv[1:4]))

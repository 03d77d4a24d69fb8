"""`python -m recipes.speed_llama.pack WORK CHECKPOINT FILE`: pack the LoRA factors of a training run as one small file.

WORK and CHECKPOINT: the outputs of `sglang-speed train`. `sglang_speed.checkpoints.adapter` reads the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME


def pack_adapter(peft_folder: Path, provenance: Mapping[str, Any], path: Path) -> None:
    """Write the adapter in `peft_folder` to `path`, in bfloat16; SystemExit if it is not plain LoRA."""
    config = json.loads((peft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    unknown = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or unknown:
        raise SystemExit(f"{peft_folder} is not a plain LoRA adapter ({unknown or config.get('peft_type')})")
    factors = load_file(peft_folder / "adapter_model.safetensors")
    metadata = {"scale": json.dumps(config["lora_alpha"] / config["r"]), "provenance": json.dumps(dict(provenance))}
    save_file({name: factor.to(torch.bfloat16) for name, factor in factors.items()}, path, metadata)


if __name__ == "__main__":
    work, checkpoint, file = map(Path, sys.argv[1:4])
    trained = json.loads((checkpoint / PROVENANCE_NAME).read_text(encoding="utf-8"))
    pack_adapter(work / "adapter", trained, file)

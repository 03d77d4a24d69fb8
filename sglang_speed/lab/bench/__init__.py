"""Stock SGLang and depth policies side by side: `sglang-speed bench`.

Each file in `scenarios/` sends the same requests to all servers and yields samples. `method.cost` computes ceilings,
`results` puts them beside the measurements, `plots` and `report` show both.
"""

from typing import Literal, get_args

Arch = Literal["llama", "qwen3", "qwen3_moe"]
PROFILE_NAMES = ("cpu", "gpu", "rehearsal")
ARCH_NAMES: tuple[str, ...] = get_args(Arch)
SCENARIO_NAMES = ("prefill", "decode", "overhead", "capacity", "chat", "tree", "agents", "step")
"""Repeated here, so that `--help` need not import the profiles, models and scenarios."""

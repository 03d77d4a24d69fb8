"""Stock SGLang and SPEED side by side: `sglang-speed bench`.

One scenario per file in `scenarios/`; each asks both servers the same and hands over samples. `method.cost` says
what the arithmetic allows, `results` puts it beside what was measured, `plots` and `report` show it.
"""

PROFILE_NAMES = ("cpu", "gpu", "rehearsal")
SCENARIO_NAMES = ("prefill", "decode", "overhead", "capacity", "chat", "tree", "step")
"""Known here too, so that `--help` need not import what they name."""

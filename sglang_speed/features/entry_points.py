"""Ways to start SGLang. The HTTP server and the Engine are served; what starts without this plugin is not."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

FEATURE = Feature(
    name="entry points",
    served=("HTTP server", "Engine"),
    proof=("tests/server/e2e/test_openai_api.py", "tests/server/examples/test_examples.py"),
    refusals=(
        Refusal("--use-ray", on("use_ray"), "its workers load no plugins"),
        Refusal("--smg-grpc-mode", on("smg_grpc_mode"), "it starts without this check"),
    ),
)

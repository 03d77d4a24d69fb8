"""Ways to start SGLang. The HTTP server and the Engine are served; what starts without this plugin is not."""

from __future__ import annotations

from typing import Any

from sglang.srt.environ import envs

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import NEWEST


def _has_rust_server(_: Any) -> bool:
    return bool(envs.SGLANG_RUST_SERVER.get())


FEATURE = Feature(
    name="entry points",
    served=("HTTP server", "Engine"),
    proof=("tests/server/e2e/test_openai_api.py", "tests/server/examples/test_examples.py"),
    gpu="HTTP server",
    refusals=(
        Refusal("--use-ray", on("use_ray"), "its workers load no plugins"),
        Refusal("SGLANG_RUST_SERVER", _has_rust_server, "requests come in without this check", versions=(NEWEST,)),
        Refusal("--smg-grpc-mode", on("smg_grpc_mode"), "it starts without this check"),
    ),
)

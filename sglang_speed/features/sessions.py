"""Conversations that the server remembers, as text, or as KV in a row of their own.

A session that keeps its row keeps no deep rows between turns (`serving/sessions.py`).
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import OLDEST

_OLDEST_DIFFERS = "sessions of SGLang 0.5.17 hold KV otherwise, and are not proven with the deep band"

FEATURE = Feature(
    name="sessions",
    served=("/open_session", "--enable-streaming-session"),
    proof=("tests/server/e2e/test_control.py", "tests/inprocess/parity/test_streaming_sessions.py"),
    refusals=(
        Refusal("--enable-streaming-session", on("enable_streaming_session"), _OLDEST_DIFFERS, versions=(OLDEST,)),
        Refusal("--enable-session-radix-cache", on("enable_session_radix_cache"), "not proven with the deep band"),
    ),
)

"""Conversations that the server remembers: as text, as KV in a row of their own, or as a mark on what the tree holds.

A session that keeps its row keeps no deep rows between turns (`serving/sessions.py`). What the tree holds is shallow
whoever asked for it.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, not_beside, on
from sglang_speed.host.versions import NEWEST, OLDEST

_OLDEST_DIFFERS = "sessions of SGLang 0.5.17 hold KV otherwise, and are not proven with the deep band"
_IN_TWO_PLACES = "the order of eviction is proven for the device's memory alone"

FEATURE = Feature(
    name="sessions",
    served=("/open_session", "--enable-streaming-session", "--enable-session-radix-cache"),
    proof=("tests/server/e2e/test_control.py", "tests/inprocess/parity/test_streaming_sessions.py"),
    refusals=(
        Refusal("--enable-streaming-session", on("enable_streaming_session"), _OLDEST_DIFFERS, versions=(OLDEST,)),
        Refusal("--enable-session-radix-cache", on("enable_session_radix_cache"), _OLDEST_DIFFERS, versions=(OLDEST,)),
        not_beside(
            "--enable-session-radix-cache",
            "--enable-hierarchical-cache",
            lambda args: bool(args.enable_session_radix_cache and args.enable_hierarchical_cache),
            _IN_TWO_PLACES,
            versions=(NEWEST,),
        ),
    ),
)

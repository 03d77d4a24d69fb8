"""Conversations that the server remembers. Plain sessions are served; those that keep KV outside the tree are not."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

FEATURE = Feature(
    name="sessions",
    served=("/open_session",),
    proof=("tests/server/e2e/test_control.py",),
    refusals=(
        Refusal("--enable-streaming-session", on("enable_streaming_session"), "a session would keep its deep rows"),
        Refusal("--enable-session-radix-cache", on("enable_session_radix_cache"), "not proven with the deep band"),
    ),
)

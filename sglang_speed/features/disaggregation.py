"""Prefill and decode on different servers. Refused: only the main pool's KV is transferred."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, is_not, on
from sglang_speed.host.versions import NEWEST

_REASON = "deep KV would not travel"

FEATURE = Feature(
    name="PD disaggregation",
    refusals=(
        Refusal("--disaggregation-mode", is_not("disaggregation_mode", "null"), _REASON),
        Refusal("--enable-pd-role-switch", on("enable_pd_role_switch"), _REASON, versions=(NEWEST,)),
        Refusal(
            "--disaggregation-decode-retraction-backup",
            on("disaggregation_decode_retraction_backup"),
            _REASON,
            versions=(NEWEST,),
        ),
    ),
)

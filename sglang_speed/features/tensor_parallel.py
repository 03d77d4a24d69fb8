"""Tensor and plain data parallelism on one machine. Served; several machines are not."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one

FEATURE = Feature(
    name="tensor and data parallelism",
    served=("--tp-size", "--dp-size"),
    proof=("tests/server/e2e/test_several_ranks.py",),
    refusals=(Refusal("--nnodes", above_one("nnodes"), "not proven over several machines"),),
)

"""Tensor and plain data parallelism, tensor parallelism over several machines too.

What ranks must have in common is compared when they start, by `serving.agreement`.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one
from sglang_speed.host.versions import OLDEST

FEATURE = Feature(
    name="tensor and data parallelism, several machines",
    served=("--tp-size", "--dp-size", "--nnodes"),
    proof=(
        "tests/server/e2e/test_several_ranks.py",
        "tests/server/e2e/test_two_nodes.py",
        "tests/inprocess/serving/test_agreement.py",
    ),
    refusals=(Refusal("--nnodes", above_one("nnodes"), "not proven with this version of SGLang", versions=(OLDEST,)),),
    note="[ranks, nodes, replicas](scaling.md)",
)

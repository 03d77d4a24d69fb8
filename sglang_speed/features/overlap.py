"""Work that runs at the same time. The overlap schedule (CPU beside device) is served; forwards cut in two are not."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

FEATURE = Feature(
    name="overlap",
    served=("overlap schedule", "--disable-overlap-schedule"),
    proof=("tests/inprocess/parity/test_every_setting.py", "tests/inprocess/parity/test_no_extra_waiting.py"),
    gpu="Triton",
    refusals=(
        Refusal("--enable-pdmux", on("enable_pdmux"), "it splits the forward by layers"),
        Refusal("--enable-two-batch-overlap", on("enable_two_batch_overlap"), "it splits the batch inside the forward"),
        Refusal("--enable-single-batch-overlap", on("enable_single_batch_overlap"), "not proven with the deep band"),
    ),
)

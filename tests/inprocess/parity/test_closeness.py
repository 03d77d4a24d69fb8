"""The tolerance of the GPU tests, without a GPU: 16-bit answers of the right model pass, those of another do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_speed.lab.bench import ARCH_NAMES
from tests.gpu.closeness import SPEED, TIE, Checked, Rounded, require_agreement
from tests.gpu.workload import Conversation
from tests.scheduler_harness import running_scheduler

SETTINGS = {"chunked_prefill_size": 64, "max_running_requests": 16}
OTHER_BANDS = [{"prefill_layers": 5}, {"prefill_layers": 8}, {"anchor_tokens": 0}]


@pytest.mark.parametrize("model", ARCH_NAMES)
def test_answers_in_bfloat16_pass(model: str, tmp_path: Path) -> None:
    rounded = Rounded(tmp_path, "bfloat16", model=model, head_dim=16)
    with running_scheduler(rounded.path, dtype="bfloat16", **SETTINGS) as engine:
        talk = Conversation(rounded, engine)
        talk.mixed()
        talk.turns(2)
    print(talk.checked)
    require_agreement(talk.checked)
    assert len(talk.checked.logprob_errors) == talk.checked.num_tokens
    # a gap is the difference of two errors, and is seen only where a race is as close: three standard deviations
    worst_expected = 3 * 2**0.5 * talk.checked.typical_error
    assert worst_expected < TIE["bfloat16"], "the tolerance leaves room for other orders of summation"


@pytest.mark.parametrize("bands", OTHER_BANDS, ids=str)
def test_answers_of_other_bands_fail(tmp_path: Path, bands: dict[str, int]) -> None:
    served = Rounded(tmp_path / "served", "bfloat16", SPEED | bands, head_dim=16)
    right = Rounded(tmp_path / "right", "bfloat16", head_dim=16)
    with running_scheduler(served.path, dtype="bfloat16", **SETTINGS) as engine:
        talk = Conversation(right, engine, Checked())
        with pytest.raises(AssertionError, match="behind the reference's best"):
            talk.mixed()

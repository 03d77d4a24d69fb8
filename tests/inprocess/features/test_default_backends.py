"""Where SGLang would choose an attention backend that bands cannot have, another takes its place without a trace."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sglang.srt.plugins import load_plugins

load_plugins()  # before SGLang's modules are imported by name, as its own processes do

from sglang.srt.platforms import current_platform  # noqa: E402

from sglang_speed.errors import ConfigError  # noqa: E402
from sglang_speed.host.adapter import HOST  # noqa: E402
from tests.catalogue import MODELS  # noqa: E402
from tests.host import IS_OLDEST  # noqa: E402
from tests.tiny_models import make_tiny_model  # noqa: E402

BLACKWELL = {"is_cuda": True, "is_sm100": True, "is_blackwell": True, "device_sm": 100, "has_flashinfer": True}
HOPPER = {
    "is_cuda": True,
    "is_sm90": True,
    "is_hopper_with_cuda_12_3": True,
    "device_sm": 90,
    "has_flashinfer": True,
    "is_sm100": False,
}
IN_SERVER_ARGS = {
    "is_sm100": "is_sm100_supported",
    "is_hopper_with_cuda_12_3": "is_hopper_with_cuda_12_3",
    "has_flashinfer": "is_flashinfer_available",
}
"""Facts of a machine by the functions that 0.5.17 asks."""
SPEED = {"prefill_layers": 6}


@contextmanager
def on(machine: Mapping[str, Any]) -> Iterator[None]:
    """SGLang resolves its arguments as on another machine, as far as attention backends go."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))  # SGLang's arguments write environment variables
        not_ours = {"is_out_of_tree": lambda _: False, "apply_server_args_defaults": lambda *_: None}
        stack.enter_context(mock.patch.multiple(type(current_platform), **not_ours))
        if IS_OLDEST:
            changes = {
                name: (lambda value: lambda: value)(machine[fact])
                for fact, name in IN_SERVER_ARGS.items()
                if fact in machine
            }
            stack.enter_context(mock.patch.multiple("sglang.srt.server_args", **changes))
            stack.enter_context(mock.patch("sglang_speed.host.v0_5_17.is_flashinfer_available", return_value=True))
        else:
            stack.enter_context(import_module("sglang.srt.runtime_context").override_platform(**machine))
        yield


def resolved(model: Path, machine: Mapping[str, Any], **flags: Any) -> Any:
    with on(machine):
        return HOST.resolve(model_path=str(model), device="cuda", **flags)


def tiny(directory: Path, model: str = "llama", speed: Mapping[str, Any] | None = SPEED) -> Path:
    return make_tiny_model(directory, **MODELS[model], speed=speed)


def test_flashinfer_takes_the_place_of_what_blackwell_would_get(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sglang_speed"):
        args = resolved(tiny(tmp_path), BLACKWELL)
    assert set(args.get_attention_backends()) == {"flashinfer"}
    assert args.page_size == 1
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("sglang_speed.features")]
    assert "attention backend flashinfer, since trtllm_mha" in said


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_it_takes_the_place_beside_a_backend_of_one_phase(tmp_path: Path, phase: str) -> None:
    args = resolved(tiny(tmp_path), BLACKWELL, **{f"{phase}_attention_backend": "triton"})
    assert set(args.get_attention_backends()) == {"triton", "flashinfer"}
    assert args.page_size == 1


def test_pages_that_the_user_asked_for_stay(tmp_path: Path) -> None:
    assert resolved(tiny(tmp_path), BLACKWELL, page_size=32).page_size == 32


@pytest.mark.parametrize("flag", ["attention_backend", "prefill_attention_backend", "decode_attention_backend"])
def test_a_backend_that_the_user_asked_for_is_refused_as_before(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match="--attention-backend trtllm_mha is not tested with depth bands"):
        resolved(tiny(tmp_path), BLACKWELL, **{flag: "trtllm_mha"})


@pytest.mark.skipif(IS_OLDEST, reason="these models are refused by their type there")
@pytest.mark.parametrize("model", ["gpt_oss", "exaone4", "olmo2"])
def test_triton_takes_the_place_where_flashinfer_cannot(tmp_path: Path, model: str) -> None:
    args = resolved(tiny(tmp_path, model), BLACKWELL, disable_hybrid_swa_memory=True)
    assert set(args.get_attention_backends()) == {"triton"}
    assert args.page_size == 1


@pytest.mark.parametrize("speed", [None, {"prefill_layers": 8}], ids=["another model", "full depth"])
def test_models_without_deep_bands_keep_what_sglang_chooses(tmp_path: Path, speed: Mapping[str, Any] | None) -> None:
    args = resolved(tiny(tmp_path, speed=speed), BLACKWELL)
    assert set(args.get_attention_backends()) == {"trtllm_mha"}
    assert args.page_size == 64


def test_a_choice_that_bands_can_have_stays(tmp_path: Path) -> None:
    assert set(resolved(tiny(tmp_path), HOPPER).get_attention_backends()) == {"fa3"}

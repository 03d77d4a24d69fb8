"""On a GPU: quantized checkpoints in both bands, against the reference with the weights that they stand for.

Where SGLang's kernels quantize activations too, the reference rounds what goes into each matrix in the same way.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.gpu.closeness import DTYPES, Rounded, require_agreement
from tests.gpu.workload import Conversation
from tests.quantized import (
    FORMATS,
    Format,
    awq,
    compressed,
    fp8_of_blocks,
    fp8_of_rows,
    gptq,
    int8_of_rows,
    is_matrix,
    nf4,
    packed_ints,
    quantize,
)
from tests.scheduler_harness import running_scheduler

E4M3_MAX = 448.0
SIZES = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
"""Kernels for four bits want matrices of some size."""


@dataclass(frozen=True)
class Row:
    """A format with sizes that kernels take. rounds: what they make of a matrix's input, [..., in].

    needs: a package that SGLang does not bring. flags: fields of ServerArgs.
    """

    form: Format
    rounds: Callable[[Tensor], Tensor] | None = None
    needs: str | None = None
    flags: tuple[tuple[str, Any], ...] = ()


def _to_fp8(values: Tensor) -> Tensor:
    scale = values.abs().amax(-1, keepdim=True).clamp_min(1e-10) / E4M3_MAX
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def _to_int8(values: Tensor) -> Tensor:
    scale = values.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 127
    return (values / scale).round() * scale


def _fp8_by_128(values: Tensor) -> Tensor:
    return _to_fp8(values.unflatten(-1, (-1, 128))).flatten(-2)


_DYNAMIC = {"type": "float", "num_bits": 8, "strategy": "token", "symmetric": True, "dynamic": True}
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}

ROWS = {
    "fp8 blocks": Row(Format(fp8_of_blocks(128, 128), _FP8), _fp8_by_128),
    "compressed fp8": Row(
        Format(fp8_of_rows, compressed(8, "float", "channel", "float-quantized", activations=_DYNAMIC)), _to_fp8
    ),
    "compressed int8": Row(
        Format(
            int8_of_rows,
            compressed(8, "int", "channel", "int-quantized", activations=_DYNAMIC | {"type": "int"}),
        ),
        _to_int8,
    ),
    "compressed int4": Row(
        Format(packed_ints(4, 128, True), compressed(4, "int", "group", "pack-quantized", group_size=128))
    ),
    "awq": Row(Format(lambda name, weight: awq(name, weight, 128), FORMATS["awq"].config | {"group_size": 128})),
    "gptq": Row(Format(gptq(4, 128, is_symmetric=True), _GPTQ)),
    "bitsandbytes": Row(
        Format(nf4, FORMATS["bitsandbytes"].config), needs="bitsandbytes", flags=(("load_format", "bitsandbytes"),)
    ),
}


class Quantized(Rounded):
    """A quantized checkpoint, and the reference with the weights that it stands for."""

    def __init__(self, directory: Path, row: Row, dtype: str, speed: dict[str, Any]) -> None:
        super().__init__(directory / "plain", dtype, speed, **SIZES)
        plain, self.path = self.path, quantize(self.path, directory / "quantized", row.form)
        self.model = AutoModelForCausalLM.from_pretrained(plain).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.to(DTYPES[dtype]))
        for name, module in self.model.named_modules():
            if row.rounds is not None and isinstance(module, nn.Linear) and is_matrix(f"{name}.weight"):
                module.register_forward_pre_hook(lambda _, given, rounds=row.rounds: (rounds(given[0]),))


@pytest.mark.parametrize("policy", ["speed", "pop", "fastkv"])
@pytest.mark.parametrize("name", ROWS)
def test_answers_are_the_references(
    settings: dict[str, Any], graphs: str, name: str, policy: str, tmp_path: Path
) -> None:
    row = ROWS[name]
    if row.needs is not None and importlib.util.find_spec(row.needs) is None:
        pytest.skip(f"needs the package {row.needs}")
    quantized = Quantized(tmp_path, row, "float16", {} if policy == "speed" else {"policy": policy})
    with running_scheduler(quantized.path, **settings | {"dtype": "float16"} | dict(row.flags)) as engine:
        talk = Conversation(quantized, engine)
        talk.mixed()
        talk.mixed()
        talk.turns(2)
        require_agreement(talk.checked)


def test_all_layers_in_the_shallow_band_answer_alike(settings: dict[str, Any], graphs: str, tmp_path: Path) -> None:
    """The same comparison without bands: where it fails, kernels round more than the reference of this file."""
    quantized = Quantized(tmp_path, ROWS["fp8 blocks"], "float16", {"prefill_layers": 8})
    with running_scheduler(quantized.path, **settings | {"dtype": "float16"}) as engine:
        talk = Conversation(quantized, engine)
        talk.mixed()
        require_agreement(talk.checked)

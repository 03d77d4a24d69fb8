"""SGLang's Triton backend on the CPU: its kernels run in Triton's interpreter.

TRITON_INTERPRET does this for a process that has not imported a kernel yet; here each kernel, and each function of
Triton's library that kernels call, is wrapped for as long as a test needs it.

The interpreter's own conversions to fp8 lose the carry of a rounding and do not saturate; here PyTorch converts.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tests.host import IS_OLDEST
from tests.inprocess.parity.attention_builder import attention_built_by

MODULES = (
    "triton.language",
    "triton.language.standard",
    "sglang.kernels.ops.attention.utils",
    "sglang.kernels.ops.attention.decode_attention",
    "sglang.kernels.ops.attention.extend_attention",
    "sglang.srt.layers.attention.triton_backend",
    *([] if IS_OLDEST else ["sglang.srt.mem_cache.kv_index_translator", "sglang.kernels.ops.attention.kv_indices"]),
)

FP8 = {tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
FLOATS = FP8 | {tl.float16: torch.float16, tl.bfloat16: torch.bfloat16, tl.float32: torch.float32}


def convert_float(values: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
    """In place of the interpreter's function: the bits of `values` as floats of another type, of the same shape.

    To fp8 as on a GPU: to the nearest, ties to even, and what is too large becomes the largest number.
    """
    if source not in FP8 and target not in FP8:
        return _CONVERT_FLOAT(values, source, target, rounding_mode)
    numbers = torch.from_numpy(np.ascontiguousarray(values).view(np.uint8)).view(FLOATS[source]).float()
    if target in FP8:
        largest = torch.finfo(FLOATS[target]).max
        numbers = numbers.clamp(-largest, largest)
    bits = numbers.to(FLOATS[target]).view(torch.uint8).numpy()
    return bits.view(f"uint{target.primitive_bitwidth}").reshape(values.shape)


_CONVERT_FLOAT = interpreter._convert_float


@contextmanager
def triton_interpreted() -> Iterator[type]:
    """Schedulers of the CPU platform run SGLang's Triton backend until the block ends."""
    interpreted: dict[int, InterpretedFunction] = {}
    with ExitStack() as stack:
        stack.enter_context(attention_built_by(TritonAttnBackend))
        stack.enter_context(mock.patch.object(interpreter, "_convert_float", convert_float))
        for module in map(importlib.import_module, MODULES):
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    function = interpreted.setdefault(id(value), InterpretedFunction(value.fn))
                    stack.enter_context(mock.patch.object(module, name, function))
        yield TritonAttnBackend

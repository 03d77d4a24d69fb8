"""SGLang's Triton backend on the CPU: its kernels run in Triton's interpreter.

TRITON_INTERPRET does this for a process that has not imported a kernel yet; here each kernel, and each function of
Triton's library that kernels call, is wrapped for as long as a test needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tests.parity.attention_builder import attention_built_by

MODULES = (
    "triton.language",
    "triton.language.standard",
    "sglang.kernels.ops.attention.utils",
    "sglang.kernels.ops.attention.decode_attention",
    "sglang.kernels.ops.attention.extend_attention",
    "sglang.srt.layers.attention.triton_backend",
)


@contextmanager
def triton_interpreted() -> Iterator[None]:
    """Schedulers of the CPU platform run SGLang's Triton backend until the block ends."""
    interpreted: dict[int, InterpretedFunction] = {}
    with ExitStack() as stack:
        stack.enter_context(attention_built_by(TritonAttnBackend))
        for module in map(importlib.import_module, MODULES):
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    function = interpreted.setdefault(id(value), InterpretedFunction(value.fn))
                    stack.enter_context(mock.patch.object(module, name, function))
        yield

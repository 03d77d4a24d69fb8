"""LoRA on a CPU: SGLang's own PyTorch backend, in ordinary memory, and with logits of some rows only.

Owns no weights. SGLang's backend takes the rows of the logits for those of the whole batch, and would give them the
adapters of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABackend
from sglang.srt.lora.torch_ops import sgemm_lora_a_fwd, sgemm_lora_b_fwd
from sglang.srt.lora.utils import get_lm_head_pruned_lens
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OrdinaryMemory(TorchFunctionMode):
    """Until the block ends, what asks for pinned memory gets ordinary memory: pinning needs a CUDA driver."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.pin_memory:
            return args[0]
        return func(*args, **{**(kwargs or {}), **({"pin_memory": False} if (kwargs or {}).get("pin_memory") else {})})


def start_in_ordinary_memory(original: Callable[..., None], manager: Any, *args: Any, **kwargs: Any) -> None:
    """Hook around LoRAManager.init_state, which builds all layers of LoRA."""
    with OrdinaryMemory():
        original(manager, *args, **kwargs)


class CpuLoRABackend(TorchNativeLoRABackend):
    """SGLang's PyTorch backend where there is no accelerator."""

    def prepare_lora_batch(
        self,
        forward_batch: Any,
        weight_indices: list[int],
        lora_ranks: list[int],
        scalings: list[float],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with OrdinaryMemory():
            super().prepare_lora_batch(forward_batch, weight_indices, lora_ranks, scalings, *args, **kwargs)
        lengths = get_lm_head_pruned_lens(forward_batch)
        passes = None if lengths is None else self._get_lm_head_pass_segments(weight_indices, lengths)
        self.lm_head_batch_info = None if lengths is None else self._of_segments(weight_indices, lengths)
        self.lm_head_pass_batch_infos = None if passes is None else [self._of_segments(*each) for each in passes]

    def run_lora_a_sgemm(
        self, x: Tensor, weights: Tensor, stack_num: int = 1, pruned_batch_info: Any = None, **kwargs: Any
    ) -> Tensor:
        out: Tensor = sgemm_lora_a_fwd(x, weights, pruned_batch_info or self.batch_info, stack_num)
        return out

    def run_lora_b_sgemm(
        self,
        x: Tensor,
        weights: Tensor,
        output_offset_cpu: Tensor,
        base_output: Tensor | None = None,
        pruned_batch_info: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        info = pruned_batch_info or self.batch_info
        out: Tensor = sgemm_lora_b_fwd(x, weights, info, output_offset_cpu, base_output)
        return out

    def _of_segments(self, weight_indices: Sequence[int], lengths: Sequence[int]) -> Any:
        """What the logits' rows read, one segment after the other."""
        return dataclasses.replace(
            self.batch_info,
            num_segments=len(lengths),
            weight_indices_cpu=torch.tensor(weight_indices, dtype=torch.int32),
            seg_lens_cpu=torch.tensor(lengths, dtype=torch.int32),
            expected_tokens=sum(lengths),
        )

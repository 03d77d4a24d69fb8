"""Which graphs SPEED leaves out by default."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import LlamaConfig

from sglang_speed.features.cuda_graphs import leave_out_prefill_graphs


def with_model(config: LlamaConfig) -> SimpleNamespace:
    """Arguments whose model's configuration SGLang has read; nothing is said of where it lies."""
    return SimpleNamespace(model_config=SimpleNamespace(hf_config=config), disable_prefill_cuda_graph=False)


@pytest.mark.parametrize(("prefill_layers", "left_out"), [(24, True), (30, False)])
def test_prefill_graphs_are_left_out_where_prompts_are_shallow(prefill_layers: int, left_out: bool) -> None:
    args = with_model(LlamaConfig(num_hidden_layers=30, speed={"prefill_layers": prefill_layers}))
    leave_out_prefill_graphs(args)
    assert args.disable_prefill_cuda_graph == left_out


def test_other_models_keep_their_prefill_graphs() -> None:
    for args in (with_model(LlamaConfig(num_hidden_layers=30)), SimpleNamespace(disable_prefill_cuda_graph=False)):
        leave_out_prefill_graphs(args)
        assert not args.disable_prefill_cuda_graph

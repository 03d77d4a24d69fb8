"""Claims about `sglang-speed plan`: what fits is what a server would make of the same memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_speed import ConfigError
from sglang_speed.config import SpeedConfig
from sglang_speed.kv_pool.capacity import DeepTables, split_kv_bytes
from sglang_speed.lab.cli import app
from sglang_speed.lab.plan.estimates import FULL_DEPTH, deep_slots
from sglang_speed.method.cost import ModelShape, state_layers

LAYERS, KV_HEADS, HEAD_DIM, WEIGHTS = 36, 8, 128, 16_381_378_560
SHAPE = ModelShape(4096, 12288, 32, KV_HEADS, HEAD_DIM, 151936)
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_hidden_layers": LAYERS,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}
GIB = 2**30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of which only config.json was downloaded."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def planned(model: Path, *options: str) -> dict[str, Any]:
    said = CliRunner().invoke(app, ["plan", str(model), "--json", *options], catch_exceptions=False)
    return json.loads(said.stdout)


def test_without_weights_their_size_is_reckoned_to_a_thousandth(model: Path) -> None:
    budget = planned(model)["setup"]["kv_budget_bytes"]
    assert 80 * GIB * 0.85 - budget == pytest.approx(WEIGHTS, rel=1e-3)


def test_full_depth_comes_first_and_each_policy_at_each_cutoff_after_it(model: Path) -> None:
    names = [each["name"] for each in planned(model)["estimates"]]
    policies, cutoffs = ("speed", "pop", "fastkv"), (18, 22, 27, 31)
    assert names == [FULL_DEPTH, *(f"{policy}, {cutoff} of 36" for policy in policies for cutoff in cutoffs)]
    chosen = planned(model, "--policy", "fastkv,prefill_layers=16,kv_keep=0.1", "--policy", "pop", "--prefill-layers=9")
    assert [each["name"] for each in chosen["estimates"][1:]] == ["fastkv, 16 of 36", "pop, 9 of 36"]
    assert chosen["estimates"][1]["settings"]["kv_keep"] == 0.1


@pytest.mark.parametrize("gpus", [1, 2, 16])
def test_at_full_depth_the_memory_holds_so_many_tokens(model: Path, gpus: int) -> None:
    plan = planned(model, "--gpus", str(gpus))
    on_a_gpu = LAYERS * 2 * max(1, KV_HEADS // gpus) * HEAD_DIM * 2
    assert plan["estimates"][0]["prompt_tokens"] == plan["setup"]["kv_budget_bytes"] // on_a_gpu
    assert plan["estimates"][0]["requests"] == min(256, plan["estimates"][0]["prompt_tokens"] // (32 * 1024 + 512))


@pytest.mark.parametrize(
    ("policy", "prefill_layers", "settings"),
    [("speed", 27, {}), ("pop", 22, {}), ("fastkv", 18, {}), ("fastkv", 18, {"kv_keep": 0.1})],
)
@pytest.mark.parametrize(("context", "answer"), [(16384, 512), (2048, 4096)])
def test_where_the_deep_band_would_be_full_first_no_other_size_lets_more_requests_run(
    model: Path, policy: str, prefill_layers: int, settings: dict[str, Any], context: int, answer: int
) -> None:
    written = ",".join([policy, f"prefill_layers={prefill_layers}", *(f"{key}={settings[key]}" for key in settings)])
    plan = planned(model, "--policy", written, "--context", str(context), "--answer", str(answer))
    budget, found = plan["setup"]["kv_budget_bytes"], plan["estimates"][1]
    config = SpeedConfig.of_policy(LAYERS, prefill_layers, policy, **settings)
    slots, states = deep_slots(config, context, answer), state_layers(SHAPE, config)
    tables = DeepTables(257, 256, context + answer)

    def running(deep_tokens: int | None) -> int:
        try:
            split = split_kv_bytes(config, budget, SHAPE.kv_bytes_per_layer, 1, deep_tokens, tables, states)
        except ConfigError:
            return 0
        return min(256, split.prompt_tokens // (context + answer), split.deep_tokens // slots)

    own = split_kv_bytes(config, budget, SHAPE.kv_bytes_per_layer, 1, None, tables, states)
    is_full_first = own.deep_tokens // slots < own.prompt_tokens // (context + answer)
    assert found["is_default"] == (not is_full_first)
    assert running(None if found["is_default"] else found["deep_tokens"]) == found["requests"]
    if is_full_first:
        assert found["requests"] == max(running(number * slots) for number in range(1, 257))


def test_ceilings_grow_with_the_layers_that_prompts_leave_out(model: Path) -> None:
    full, *speed = planned(model, "--policy", "speed")["estimates"]
    assert (full["ttft"], full["tpot"], full["tpot_full"]) == (1, 1, 1)
    for each, cutoff in zip(speed, (18, 22, 27, 31), strict=True):
        assert each["ttft"] == pytest.approx(LAYERS / cutoff, rel=0.01)
        assert 1 < each["tpot"] < each["tpot_full"] < LAYERS / cutoff


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "12G"], "the weights take 15.3 GiB, and 1 x 12 GiB x 0.85 leave nothing for KV"),
        (["--memory", "80X"], "--memory 80X is not a size"),
        (["--context", "80G"], "--context 80G is not a size"),
        (["--context", "40k"], "--context 40k and --answer 512 make 41472 tokens, and the model takes 40960"),
        (["--gpus", "0"], "--gpus 0 is below 1"),
        (["--mem-fraction", "85"], "--mem-fraction 85.0 is not between 0 and 1"),
        (["--policy", "none"], "--policy none is not one of speed, pop, fastkv"),
        (["--policy", "speed,deep_message_tokens=64"], "how many there are is not known here"),
        (["--prefill-layers", "40"], "prefill_layers=40 is not between 1 and 36"),
    ],
)
def test_what_makes_no_plan_is_refused(model: Path, options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(model, *options)


def test_quantized_weights_that_are_not_there_have_no_size(model: Path) -> None:
    quantized = CONFIG | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
    (model / "config.json").write_text(json.dumps(quantized), encoding="utf-8")
    with pytest.raises(ConfigError, match="say how much they take with --weights 40G"):
        planned(model)
    assert planned(model, "--weights", "8G")["setup"]["kv_budget_bytes"] == int(80 * GIB * 0.85) - 8 * GIB


def test_the_table_and_the_picture_show_the_same_plan(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    said = CliRunner().invoke(app, ["plan", str(model), "--plot", str(picture)], env={"COLUMNS": "80"})
    for each in planned(model)["estimates"]:
        (row,) = [line for line in said.stdout.splitlines() if line.strip().startswith(each["name"])]
        assert f"{each['prompt_tokens'] / 1000:,.0f}K" in row
        assert f"{each['ttft']:.2f}x" in row
    assert picture.read_text(encoding="utf-8").startswith("<?xml")

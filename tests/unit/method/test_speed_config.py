"""What a `speed` object may say, and what its owner is told where it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_speed import ConfigError, SpeedConfig
from sglang_speed.config import is_speed_model
from sglang_speed.policy_config import Selection, ShortMessages

# speed object, then what the message must name: the key, the value where there is one, and the rule or fix
MISTAKES: list[tuple[Any, tuple[str, ...]]] = [
    (None, ("speed=None", "not an object", "sglang-speed convert")),
    ([6], ("speed=[6]", "not an object")),
    ({}, ("speed.prefill_layers", "missing")),
    ({"anchor_tokens": 1}, ("speed.prefill_layers", "missing")),
    ({"prefill_layer": 6}, ("speed.prefill_layer ", "not known", "prefill_layers")),
    ({"prefill_layers": 6, "num_layers": 8}, ("speed.num_layers", "not known")),
    ({"prefill_layers": 0}, ("prefill_layers=0", "between 1 and 8", "`sglang-speed cutoff` measures")),
    ({"prefill_layers": 9}, ("prefill_layers=9", "between 1 and 8", "24 of 32 for Llama-3.1-8B")),
    ({"prefill_layers": -1}, ("prefill_layers=-1", "between 1 and 8")),
    ({"prefill_layers": 6.0}, ("prefill_layers=6.0", "whole number")),
    ({"prefill_layers": "6"}, ("prefill_layers='6'", "whole number")),
    ({"prefill_layers": True}, ("prefill_layers=True", "whole number")),
    ({"prefill_layers": None}, ("prefill_layers=None", "whole number")),
    ({"prefill_layers": []}, ("prefill_layers=[]", "names no cutoff")),
    ({"prefill_layers": [4, 4]}, ("prefill_layers=[4, 4]", "ascending", "below 8")),
    ({"prefill_layers": [4, 8]}, ("prefill_layers=[4, 8]", "ascending", "below 8")),
    ({"prefill_layers": [6, "7"]}, ("prefill_layers='7'", "whole number")),
    ({"prefill_layers": 6, "anchor_tokens": -1}, ("anchor_tokens=-1", "negative", "1 (the BoS token)")),
    ({"prefill_layers": 6, "anchor_tokens": 1.5}, ("anchor_tokens=1.5", "whole number")),
    ({"prefill_layers": 6, "tail_tokens": 0}, ("tail_tokens=0", "below 1", "16 is the default")),
    ({"prefill_layers": 6, "tail_tokens": -3}, ("tail_tokens=-3", "below 1")),
    ({"prefill_layers": 6, "tail_tokens": [1]}, ("tail_tokens=[1]", "whole number")),
    ({"prefill_layers": 6, "policy": "skip"}, ("policy='skip'", "speed, pop, fastkv")),
    ({"prefill_layers": 6, "policy": ["pop"]}, ("policy=['pop']", "speed, pop, fastkv")),
    (
        {"prefill_layers": [4, 6], "policy": "pop"},
        ("prefill_layers=[4, 6]", "policy 'pop' takes one", "write one number"),
    ),
    ({"prefill_layers": 6, "select_ratio": 0.2}, ("select_ratio", "belong to policy 'fastkv'", "leave them out")),
    ({"prefill_layers": 6, "policy": "pop", "select_window": 4}, ("select_window", "the policy is 'pop'")),
    ({"prefill_layers": 6, "kv_keep": 0.1}, ("kv_keep", "belong to policy 'fastkv'")),
    *(
        ({"prefill_layers": [4, 6], "policy": "fastkv", **selection}, named)
        for selection, named in (
            ({"select_ratio": 0}, ("select_ratio=0 ", "above 0 and at most 1", "0.2 is the default")),
            ({"select_ratio": 1.5}, ("select_ratio=1.5", "at most 1")),
            ({"select_ratio": "0.2"}, ("select_ratio='0.2'", "at most 1")),
            ({"select_ratio": True}, ("select_ratio=True", "at most 1")),
            ({"select_ratio": []}, ("select_ratio=[]", "names no share")),
            ({"select_ratio": [0.2, 0.3]}, ("select_ratio=[0.2, 0.3]", "grows", "falling shares")),
            ({"select_ratio": [0.3, 0.2, 0.1]}, ("[0.3, 0.2, 0.1]", "prefill_layers=[4, 6]", "one for each cutoff")),
            ({"select_window": 0}, ("select_window=0", "below 1", "8 is the default")),
            ({"select_window": 1.0}, ("select_window=1.0", "whole number")),
            ({"select_kernel": 4}, ("select_kernel=4", "odd", "7 is the default")),
            ({"select_kernel": -1}, ("select_kernel=-1", "odd")),
            ({"kv_keep": 0}, ("kv_keep=0 ", "above 0 and at most 1", "1 is the default")),
            ({"kv_keep": 0.3}, ("kv_keep=0.3", "above select_ratio=0.2", "write 1 to keep all")),
            ({"kv_keep": 0.2, "select_ratio": [0.3, 0.1]}, ("kv_keep=0.2", "select_ratio=[0.3, 0.1]")),
        )
    ),
    *(
        ({"prefill_layers": 6, **messages}, named)
        for messages, named in (
            (
                {"deep_message_tokens": 64},
                ("deep_message_tokens=64", "needs message_delimiters", "sglang-speed convert"),
            ),
            ({"deep_message_tokens": -1, "message_delimiters": [[1]]}, ("deep_message_tokens=-1", "0 is off")),
            ({"deep_message_tokens": 6.0, "message_delimiters": [[1]]}, ("deep_message_tokens=6.0", "whole number")),
            (
                {"deep_message_tokens": 6, "message_delimiters": [[]]},
                ("message_delimiters", "[]", "no list of token ids"),
            ),
            ({"deep_message_tokens": 6, "message_delimiters": [["a"]]}, ("message_delimiters", "['a']", "token ids")),
            ({"deep_message_tokens": 6, "message_delimiters": [1]}, ("message_delimiters=[1]", "list of lists")),
        )
    ),
]


@pytest.mark.parametrize(("speed", "named"), MISTAKES, ids=[str(speed) for speed, _ in MISTAKES])
def test_a_mistake_is_named_with_its_value_and_its_rule(speed: Any, named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        SpeedConfig.from_dict(speed, num_layers=8)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize("num_layers", [0, -1, None, "8"])
def test_a_model_without_a_layer_count_is_refused(num_layers: Any) -> None:
    with pytest.raises(ConfigError, match="num_layers="):
        SpeedConfig.from_dict({"prefill_layers": 1}, num_layers)


def test_one_anchor_and_a_tail_of_16_are_the_defaults() -> None:
    assert SpeedConfig.from_dict({"prefill_layers": 6}, 8) == SpeedConfig(8, 6, anchor_tokens=1, tail_tokens=16)


def test_each_policy_has_its_own_defaults() -> None:
    config = SpeedConfig.from_dict({"prefill_layers": 6, "policy": "pop"}, 8)
    assert config == SpeedConfig.of_policy(8, 6, "pop") == SpeedConfig(8, 6, 0, 1, policy="pop")
    assert SpeedConfig.of_policy(8, 6, "pop", tail_tokens=5) == SpeedConfig(8, 6, 0, 5, policy="pop")
    assert (config.stored_layers, SpeedConfig(8, 6).stored_layers) == (8, 6)
    assert SpeedConfig.of_policy(8, 4, "fastkv") == SpeedConfig(8, 4, 1, 16, policy="fastkv", selection=Selection())
    assert Selection() == Selection((0.2,), window=8, kernel=7)


def test_states_are_kept_where_tokens_become_deep_later() -> None:
    assert SpeedConfig.of_policy(8, 4, "fastkv").keeps_states
    assert SpeedConfig.of_policy(8, 4, deep_message_tokens=6, message_delimiters=[[1]]).keeps_states
    assert not SpeedConfig.of_policy(8, 4, deep_message_tokens=0, message_delimiters=[[1]]).keeps_states
    assert not SpeedConfig.of_policy(8, 4, "pop").keeps_states
    assert not SpeedConfig.of_policy(8, 8, "fastkv").keeps_states


def test_the_selected_share_is_that_of_the_average_deep_layer() -> None:
    config = SpeedConfig.of_policy(8, [2, 4], "fastkv", select_ratio=[0.6, 0.3])
    assert config.selected_share == pytest.approx((2 * 0.6 + 4 * 0.3) / 6)
    assert config.at_full_depth() == SpeedConfig(8, 8, policy="fastkv", selection=Selection((0.6,)))
    assert config.at_full_depth().selected_share == SpeedConfig(8, 4).selected_share == 0


def test_the_speed_object_survives_a_round_trip() -> None:
    selection = Selection((0.4, 0.2), window=4, kernel=3, kept=0.1)
    selecting = {"policy": "fastkv", "selection": selection, "further_cutoffs": (7,)}
    messages = {"messages": ShortMessages(64, ((1, 2), (3,)))}
    for more in ({}, {"further_cutoffs": (7,)}, {"policy": "pop"}, selecting, messages, selecting | messages):
        config = SpeedConfig(num_layers=8, prefill_layers=6, anchor_tokens=4, tail_tokens=2, **more)
        assert SpeedConfig.from_dict(json.loads(json.dumps(config.to_dict())), 8) == config


@pytest.mark.parametrize(("prefill_layers", "num_deep_layers"), [(1, 7), (6, 2), (8, 0)])
def test_layers_above_the_cutoff_are_deep(prefill_layers: int, num_deep_layers: int) -> None:
    config = SpeedConfig(8, prefill_layers)
    assert config.num_deep_layers == num_deep_layers
    assert config.is_stock == (num_deep_layers == 0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "speed_llama"}, True),
        ({"model_type": "llama", "architectures": ["SpeedLlamaForCausalLM"]}, True),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, False),
        ({"model_type": "llama", "architectures": None}, False),
        ({}, False),
    ],
)
def test_a_speed_model_says_so_by_type_or_architecture(config: dict[str, Any], expected: bool) -> None:
    assert is_speed_model(config) is expected


def write_config(directory: Path, config: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def test_a_speed_checkpoint_is_read_from_its_directory(tmp_path: Path) -> None:
    config = {"model_type": "speed_llama", "num_hidden_layers": 8, "speed": {"prefill_layers": 6}}
    assert SpeedConfig.from_checkpoint(write_config(tmp_path, config)) == SpeedConfig(8, 6)


def test_a_plain_checkpoint_and_an_empty_directory_are_no_speed_checkpoints(tmp_path: Path) -> None:
    assert SpeedConfig.from_checkpoint(tmp_path) is None
    assert SpeedConfig.from_checkpoint(write_config(tmp_path, {"model_type": "llama"})) is None


def test_a_speed_checkpoint_without_its_object_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, {"model_type": "speed_llama", "num_hidden_layers": 8})
    with pytest.raises(ConfigError, match="needs a `speed` object"):
        SpeedConfig.from_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json is not"):
        SpeedConfig.from_checkpoint(tmp_path)

"""What the tokenizer manager refuses before the scheduler sees it, and that other models are left alone."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sglang.srt.managers.io_struct import GenerateReqInput, SessionParams, TokenizedGenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams
from transformers import PreTrainedConfig

from sglang_speed.config import SpeedConfig
from sglang_speed.guard import parameters

ROW = [0.5] * 8


SPEED = SpeedConfig(num_layers=8, prefill_layers=6)


def manager(speed: SpeedConfig | None = SPEED, dtype: str = "torch.bfloat16") -> Any:
    hf_config = PreTrainedConfig(speed=speed and speed.to_dict(), num_hidden_layers=8)
    model_config = SimpleNamespace(hf_config=hf_config, vocab_size=100, hidden_size=8, dtype=dtype)
    server_args = SimpleNamespace(tokenizer_metrics_allowed_custom_labels=["team"])
    return SimpleNamespace(model_config=model_config, server_args=server_args, enable_metrics=True)


def tokenized(**fields: Any) -> TokenizedGenerateReqInput:
    params = SamplingParams(**fields.pop("params", {}))
    params.normalize(None)
    absent = dict.fromkeys(("input_text", "input_embeds", "mm_inputs", "token_type_ids", "token_ids_logprob"))
    defaults = {
        "input_ids": array("q", [1, 2]),
        "return_logprob": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
    }
    return TokenizedGenerateReqInput(**{**absent, **defaults, "stream": False, "sampling_params": params, **fields})


def create(made: TokenizedGenerateReqInput, by: Any = None) -> Any:
    return parameters.create_harmless(lambda *_: made, by or manager(), GenerateReqInput(text="a"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_embeds": [ROW[:7]]}, "has 7 numbers in a row, the model takes 8"),
        ({"input_embeds": [[1e30] * 8]}, r"exceeds 1e\+09"),
        ({"input_embeds": [ROW], "session_params": SessionParams(id="a")}, "needs tokens, not embeddings"),
        ({"input_ids": array("q", [])}, "is empty"),
        ({"input_ids": array("q", [100])}, "input_ids=100 is not between 0 and 99"),
        ({"params": {"logit_bias": {"5": float("nan")}}}, "logit_bias"),
        ({"return_logprob": "yes"}, "return_logprob: Expected `bool`, got `str`"),
        ({"params": {"stop_token_ids": [2**70]}}, "of the wrong kind"),
    ],
    ids=str,
)
def test_what_would_end_the_scheduler_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create(tokenized(**fields))


def test_embeddings_need_the_dtype_that_sglang_casts_them_to() -> None:
    made = tokenized(input_ids=None, input_embeds=[ROW])
    assert create(made) is made
    with pytest.raises(ValueError, match="needs --dtype bfloat16, and the model runs in float32"):
        create(made, manager(dtype="torch.float32"))


def test_what_custom_parameters_contain_is_left_to_logit_processors() -> None:
    made = tokenized(params={"custom_params": {"a": {"b": [[object()]]}}})
    assert create(made) is made


def test_a_bias_may_forbid_a_token() -> None:
    made = create(tokenized(params={"logit_bias": {"5": float("-inf"), "6": 1.0}}))
    assert made.sampling_params.logit_bias == {"5": -parameters.MAX_BIAS, "6": 1.0}


def test_stop_tokens_that_the_model_does_not_have_are_dropped() -> None:
    """SGLang makes indices of them for a whole batch as soon as one of its requests has a minimum length."""
    made = create(tokenized(params={"stop_token_ids": [5, 99, 100, 128009, -5]}))
    assert made.sampling_params.stop_token_ids == {5, 99}


def test_other_models_are_left_alone() -> None:
    other, made = manager(None), tokenized(input_ids=array("q", [-1]), logprob_start_len=-5)
    assert create(made, other) is made
    parameters.check_parameters(other, GenerateReqInput(text="a", sampling_params={"n": -1, "heat": "x"}))


def test_labels_that_the_metrics_know_and_numbers_for_switches_are_served() -> None:
    params = {"ignore_eos": 1, "stop_token_ids": [None, 5], "temperature": None, "max_new_tokens": 16.0}
    request = GenerateReqInput(text="a", sampling_params=params, custom_labels={"team": "red"})
    parameters.check_parameters(manager(), request)
    assert params["ignore_eos"] is True
    assert repr(params["max_new_tokens"]) == "16"
    with pytest.raises(ValueError, match="colour"):
        parameters.check_parameters(manager(), GenerateReqInput(text="a", custom_labels={"colour": "red"}))


def test_the_number_of_answers_is_bounded() -> None:
    parameters.check_parameters(manager(), GenerateReqInput(text="a", sampling_params={"n": parameters.MAX_CHOICES}))
    for bad in (0, -1, parameters.MAX_CHOICES + 1, 2**62):
        with pytest.raises(ValueError, match=rf"n={bad} is not between 1 and {parameters.MAX_CHOICES}"):
            parameters.check_parameters(manager(), GenerateReqInput(text="a", sampling_params=[{"n": bad}]))


def test_the_number_of_answers_is_bounded_over_a_batch_of_prompts() -> None:
    each = parameters.MAX_ANSWERS // 4
    for params in ({"n": 4}, [{"n": 4}] * each):
        parameters.check_parameters(manager(), GenerateReqInput(text=["a"] * each, sampling_params=params))
    words = rf"n=4 for {each + 1} prompts makes more than {parameters.MAX_ANSWERS} answers"
    for prompts in ({"text": ["a"] * (each + 1)}, {"input_ids": [[5]] * (each + 1)}):
        with pytest.raises(ValueError, match=words):
            parameters.check_parameters(manager(), GenerateReqInput(**prompts, sampling_params={"n": 4}))


def test_a_batch_of_any_size_may_have_one_answer_per_prompt() -> None:
    parameters.check_parameters(manager(), GenerateReqInput(text=["a"] * (2 * parameters.MAX_ANSWERS)))


def test_numbers_of_numpy_are_numbers() -> None:
    """The offline engine is given them; what goes to the scheduler knows Python's only."""
    numpys = {
        "temperature": np.float32(0.5),
        "max_new_tokens": np.int64(3),
        "n": np.int32(2),
        "ignore_eos": np.bool_(True),
        "stop_token_ids": [np.int64(5), 6],
        "logit_bias": {"7": np.float32(1.5)},
    }
    params = dict(numpys)
    parameters.check_parameters(manager(), GenerateReqInput(text="a", sampling_params=params))
    assert params == numpys
    plain = [params["temperature"], params["max_new_tokens"], params["n"], params["ignore_eos"]]
    assert [type(each) for each in plain] == [float, int, int, bool]
    assert {type(each) for each in params["stop_token_ids"]} == {int}
    assert type(params["logit_bias"]["7"]) is float
    made = create(tokenized(params={name: value for name, value in params.items() if name != "n"}))
    assert made.sampling_params.stop_token_ids == {5, 6}


@pytest.mark.parametrize("value", [np.array([1, 2]), np.str_("x"), np.complex64(1)], ids=repr)
def test_other_values_of_numpy_are_still_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_new_tokens=.* is of the wrong type"):
        parameters.check_parameters(manager(), GenerateReqInput(text="a", sampling_params={"max_new_tokens": value}))

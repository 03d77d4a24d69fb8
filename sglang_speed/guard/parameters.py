"""Requests that would end or block the server are refused with a reason.

Hooks on the tokenizer manager, which runs in the HTTP server and in the engine; they concern SPEED models only. What
raises ValueError here is answered with status 400. What SGLang refuses by itself is left to it.
"""

from __future__ import annotations

import collections
import copy
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
import numpy as np
from sglang.srt.managers import io_struct
from sglang.srt.managers.io_struct import GenerateReqInput, TokenizedGenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_speed.guard.grammars import require_compilable
from sglang_speed.host.adapter import HOST
from sglang_speed.served import speed_of

MAX_CHOICES = 16_384
"""Answers per prompt. SGLang's HTTP process makes all of them before it does anything else."""
MAX_ANSWERS = 65_536
"""Answers of a batch that asks for several per prompt."""

_HINTS = {name: hint for name, hint in get_type_hints(SamplingParams).items() if not name.startswith("_")}
_HINTS["custom_params"] = dict[str, Any]  # what is in it concerns custom logit processors alone
_INTERNAL = {"stop_strs", "stop_regex_strs", "stop_str_max_len", "stop_regex_max_len", "is_normalized"}
_SWITCHES = {name for name, hint in _HINTS.items() if hint is bool}
_COUNTS = {name for name, hint in _HINTS.items() if hint in (int, int | None)}
_WRONG_VALUE = (TypeError, OverflowError, RecursionError, re.error, msgspec.ValidationError)

RANGES = {
    # float32 knows no more: beyond these bounds logits become NaN or infinite, and drawing a token fails
    "temperature": (0, 1e6),
    "repetition_penalty": (1e-6, 2),
    # these become int32 and int64 tensors
    "top_k": (1, 2**31 - 1),
    "sampling_seed": (-(2**63), 2**63 - 1),
}
MAX_BIAS = 1e9
MAX_EMBEDDING = 1e9


def check_parameters(manager: Any, obj: Any, request: Any = None) -> None:
    """Hook before TokenizerManager.generate_request: sampling parameters are of their types, `n` is a sane number.

    SGLang computes with them before it looks at their types, and its metrics raise at labels that they do not know.
    """
    if not isinstance(obj, GenerateReqInput) or speed_of(manager.model_config.hf_config) is None:
        return
    params = obj.sampling_params
    for one in params if isinstance(params, list) else [params or {}]:
        one |= {name: _plain(value) for name, value in one.items()}
        one |= {name: bool(one[name]) for name in _SWITCHES & one.keys() if one[name] in (0, 1)}
        # JSON has one kind of number, and some clients write 16.0
        one |= {name: int(one[name]) for name in _COUNTS & one.keys() if _is_whole(one[name])}
        for name, value in one.items():
            _require_type(name, value)
        _require(1 <= one.get("n", 1) <= MAX_CHOICES, "n", one.get("n"), _within(1, MAX_CHOICES))
    _require_consistent(obj)
    if manager.enable_metrics:
        allowed = HOST.resolved(manager.server_args).tokenizer_metrics_allowed_custom_labels or []
        unknown = sorted(set(obj.custom_labels or {}) - set(allowed))
        _require(not unknown, "custom_labels", unknown, "is not in --tokenizer-metrics-allowed-custom-labels")


def create_harmless(original: Callable[..., Any], manager: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Hook around TokenizerManager._create_tokenized_object: what goes to the scheduler does not end it."""
    if not isinstance(obj, GenerateReqInput) or speed_of(manager.model_config.hf_config) is None:
        return original(manager, obj, *args, **kwargs)
    try:
        tokenized = original(manager, obj, *args, **kwargs)
        _require_readable(tokenized)
    except _WRONG_VALUE as error:
        raise ValueError(f"sglang_speed: a value of the request is of the wrong kind: {_with_names(error)}") from error
    _check_prompt(tokenized, manager.model_config)
    _check_log_probabilities(tokenized, manager.model_config.vocab_size)
    _check_sampling(tokenized.sampling_params, manager.model_config.vocab_size)
    return tokenized


def _require(holds: bool, name: str, value: Any, rule: str) -> None:
    if not holds:
        text = repr(value)
        raise ValueError(f"sglang_speed: {name}={text if len(text) < 100 else text[:100] + '...'} {rule}")


def _plain(value: Any) -> Any:
    """Convert NumPy scalars, nested ones too, to Python numbers, which messages know."""
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain_number, value))
    if type(value) is dict:
        return {_plain_number(key): _plain_number(each) for key, each in value.items()}
    return _plain_number(value)


def _plain_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 2**53  # exact up to there


def _require_type(name: str, value: Any) -> None:
    _require(name in _HINTS and name not in _INTERNAL, name, value, "is not a sampling parameter")
    if value is None and name != "n":
        return  # SGLang's default
    if name == "stop_token_ids" and isinstance(value, list | tuple | set):
        value = [token for token in value if token is not None]
    try:
        msgspec.convert(value, _HINTS[name])
    except (msgspec.ValidationError, RecursionError) as error:
        _require(False, name, value, f"is of the wrong type: {error}")


def _require_consistent(obj: GenerateReqInput) -> None:
    """Lists have the length of the batch and the like: SGLang's normalization, tried on a copy."""
    trial = copy.copy(obj)
    try:
        _require_few_answers(copy.copy(obj))
        trial.normalize_batch_and_arguments()
        if trial.is_single:
            _require(isinstance(trial.rid, str), "rid", trial.rid, "is not one text, and the request has one prompt")
        else:
            collections.deque((trial[index] for index in range(trial.batch_size)), maxlen=0)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"sglang_speed: the fields of the request do not fit together: {error}") from error


def _require_few_answers(trial: GenerateReqInput) -> None:
    """`n` multiplies the prompts of a batch, which normalization already does."""
    trial._validate_inputs()
    trial._determine_batch_size()
    trial._handle_parallel_sampling()
    num_each, num_prompts = trial.parallel_sample_num, trial.batch_size
    is_small = num_each == 1 or num_each * num_prompts <= MAX_ANSWERS
    rule = f"for {num_prompts} prompts makes more than {MAX_ANSWERS} answers; send fewer prompts at once"
    _require(is_small, "n", num_each, rule)


def _require_readable(tokenized: TokenizedGenerateReqInput) -> None:
    """The scheduler relies on the types that its messages declare, and pickled ones are not checked on the way."""
    plain = dict.fromkeys(("mm_inputs", "time_stats"))
    if io_struct._USE_PICKLE_IPC:  # custom parameters may then be anything
        plain["sampling_params"] = msgspec.structs.replace(tokenized.sampling_params, custom_params=None)
    HOST.require_readable(tokenized, plain)


def _with_names(error: Exception) -> str:
    """The message with the name of the field: the scheduler's messages are arrays, and msgspec names positions."""
    found = re.search(r"\$\[(\d+)\](?:\[(\d+)\])?", str(error))
    if not found:
        return str(error)
    name = TokenizedGenerateReqInput.__struct_fields__[int(found[1]) - 1]  # the first position is the type's name
    if name == "sampling_params" and found[2]:
        name = SamplingParams.__struct_fields__[int(found[2])]
    return f"{name}: {error}"


def _check_prompt(tokenized: TokenizedGenerateReqInput, model_config: Any) -> None:
    """Indices outside the embedding table and rows of another width fail in the forward."""
    ids, rows = tokenized.input_ids, tokenized.input_embeds
    if ids is not None:
        _require(len(ids) > 0, "input_ids", [], "is empty; send at least one token")
        for token in (min(ids), max(ids)):
            _require(0 <= token < model_config.vocab_size, "input_ids", token, _within(0, model_config.vocab_size - 1))
    if rows is None:
        return
    dtype, width = str(model_config.dtype).removeprefix("torch."), model_config.hidden_size
    _require(dtype == "bfloat16", "input_embeds", "...", f"needs --dtype bfloat16, and the model runs in {dtype}")
    _require(
        tokenized.session_params is None, "session_params", tokenized.session_params, "needs tokens, not embeddings"
    )
    for row in rows:
        _require(len(row) == width, "input_embeds", row, f"has {len(row)} numbers in a row, the model takes {width}")
        _require(all(abs(x) <= MAX_EMBEDDING for x in row), "input_embeds", row, f"exceeds {MAX_EMBEDDING:g}")


def _check_log_probabilities(tokenized: TokenizedGenerateReqInput, vocab_size: int) -> None:
    if tokenized.return_logprob:
        start, num = tokenized.logprob_start_len, tokenized.top_logprobs_num
        _require(start >= -1, "logprob_start_len", start, "is below -1, which scores no prompt tokens")
        _require(0 <= num <= vocab_size, "top_logprobs_num", num, _within(0, vocab_size))


def _check_sampling(params: SamplingParams, vocab_size: int) -> None:
    if params.stop_token_ids:  # others are never drawn, and min_new_tokens makes indices of them for a whole batch
        params.stop_token_ids = {token for token in params.stop_token_ids if token in range(vocab_size)}
    for name, (low, high) in RANGES.items():
        value = getattr(params, name)
        _require(value is None or low <= value <= high, name, value, _within(low, high))
    for token, bias in (params.logit_bias or {}).items():
        if bias == float("-inf"):  # forbids a token; a row of nothing else would make drawing one fail
            params.logit_bias[token] = bias = -MAX_BIAS
        _require(abs(bias) <= MAX_BIAS, "logit_bias", {token: bias}, f"is not within {MAX_BIAS:g}")
    for name in ("json_schema", "regex", "ebnf", "structural_tag"):
        require_compilable(name, getattr(params, name) or "")


def _within(low: float, high: float) -> str:
    return f"is not between {low} and {high}"

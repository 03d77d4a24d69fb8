"""Malformed and hostile requests, one per line: where it goes, what it says, and what the server must answer.

Owns the table. Where the status is 200, SGLang legitimately serves what looks wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from tests.host import IS_OLDEST
from tests.server.conftest import DEEP_TOKENS

PROMPT = [0, 74, 107, 99]
GREEDY = {"temperature": 0, "max_new_tokens": 2}
HIDDEN_SIZE, VOCAB_SIZE, CONTEXT = 64, 258, 2048
MEGABYTE = 2**20


@dataclass(frozen=True)
class Bad:
    """A request and its answer. body: a JSON value, or bytes as they are; words: part of the answer."""

    path: str
    body: Any
    words: str
    status: int = 400

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def generate(words: str, *, status: int = 400, **fields: Any) -> Bad:
    """/generate with a short prompt, unless the fields bring another."""
    has_prompt = fields.keys() & {"text", "input_ids", "input_embeds"}
    prompt = {} if has_prompt else {"input_ids": PROMPT}
    return Bad("/generate", {**prompt, "sampling_params": GREEDY, **fields}, words, status)


def sampling(words: str, **params: Any) -> Bad:
    return generate(words, sampling_params={**GREEDY, **params})


def drawn(words: str, **params: Any) -> Bad:
    """Served, with tokens drawn at random: a row of logits without a token to draw must not end the server."""
    return generate(words, status=200, sampling_params={**GREEDY, "temperature": 1, **params})


def scored(words: str, **fields: Any) -> Bad:
    return generate(words, return_logprob=True, **fields)


def chat(words: str, *, status: int = 400, **fields: Any) -> Bad:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 2, **fields}
    return Bad("/v1/chat/completions", body, words, status)


def completion(words: str, *, status: int = 400, **fields: Any) -> Bad:
    body = {"model": "default", "prompt": "Hi", "temperature": 0, "max_tokens": 2, **fields}
    return Bad("/v1/completions", body, words, status)


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


BODIES = {
    "no body": Bad("/generate", b"", ""),
    "no JSON": Bad("/generate", b"{]", ""),
    "not UTF-8": Bad("/generate", b'{"text": "\xff\xfe"}', ""),
    "a lone surrogate": Bad("/generate", b'{"text": "\\ud800"}', "surrogate"),
    "NaN as a bare word": Bad("/generate", b'{"text": "Hi", "sampling_params": {"temperature": NaN}}', ""),
    "an infinite number": Bad("/generate", b'{"text": "Hi", "sampling_params": {"temperature": 1e999}}', ""),
    "nesting without end": Bad("/generate", b"[" * MEGABYTE, ""),
    "a list in place of an object": Bad("/generate", [], ""),
    "a string in place of an object": Bad("/v1/completions", "Hi", ""),
    "10 MB that are no JSON": Bad("/generate", b"x" * 10 * MEGABYTE, ""),
    "a megabyte of text": Bad("/generate", {"text": "x" * MEGABYTE, "sampling_params": GREEDY}, "context length"),
    "10 MB of token ids": Bad("/generate", {"input_ids": [7] * 3 * MEGABYTE}, "context length"),
    "10 MB in an unknown field": generate("output_ids", status=200, padding="x" * 10 * MEGABYTE),
    "a path that is not there": Bad("/generate_more", {}, "Not Found", 404),
}

PROMPTS = {
    "nothing to continue": Bad("/generate", {"sampling_params": GREEDY}, "should be provided"),
    "an empty text": generate("cannot be empty", text=""),
    "no token ids": generate("cannot be empty", input_ids=[]),
    "an empty list of token ids in a batch": generate("is empty", input_ids=[PROMPT, []]),
    "an empty batch of texts": generate("[]", text=[], status=200),
    "text and token ids": generate("", text="Hi", input_ids=PROMPT, status=200),
    "a prompt beyond the context": generate("context length", input_ids=[7] * (CONTEXT + 1)),
    "a prompt that fills the context": generate("", input_ids=[7] * CONTEXT),
    "a token id that is negative": generate("input_ids=-1 is not between 0 and 257", input_ids=[0, -1, 5]),
    "a token id beyond the vocabulary": generate("input_ids=258 is not between 0 and 257", input_ids=[0, VOCAB_SIZE]),
    "a token id beyond 64 bits": generate("", input_ids=[2**64]),
    "one bad token id in a batch": generate("input_ids=9999 is not between", input_ids=[PROMPT, [9999]]),
    "token ids that are fractions": generate("", input_ids=[0.5]),
    "token ids that are words": generate("", input_ids=["a"]),
    "token ids and lists of them": generate("", input_ids=[1, [2]]),
    "texts and numbers": generate("", text=["Hi", 1]),
    "embeddings beside a radix cache": generate("disable-radix-cache", input_embeds=[[0.5] * HIDDEN_SIZE]),
    "embeddings that are no rows": generate("do not fit together", input_embeds=[]),
    "overrides of embeddings": generate("positional_embed_overrides", positional_embed_overrides=[[0.5] * HIDDEN_SIZE]),
    "an image for a text model": generate("", image_data="x", status=200),
    "NUL in a text": generate("", text="a\0b", status=200),
}

SAMPLING = {
    "a temperature that is text": sampling("temperature='hot' is of the wrong type", temperature="hot"),
    "a temperature below zero": sampling("temperature must be a non-negative", temperature=-1),
    "a temperature that float32 does not know": sampling("temperature=1e+300 is not between", temperature=1e300),
    "top_p of zero": sampling("top_p must be in", top_p=0),
    "top_k of zero": sampling("top_k must be", top_k=0, temperature=1),
    "top_k beyond int32": sampling("top_k=2147483648 is not between", top_k=2**31, temperature=1),
    "a repetition penalty of almost nothing": sampling("repetition_penalty=1e-300 is not", repetition_penalty=1e-300),
    "a negative count of tokens": sampling("max_new_tokens must be at least 0", max_new_tokens=-1),
    "a count of tokens that is text": sampling("max_new_tokens='2' is of the wrong type", max_new_tokens="2"),
    "a count of tokens that is a fraction": sampling("max_new_tokens=2.5 is of the wrong type", max_new_tokens=2.5),
    "a count of tokens beyond the context": sampling("", max_new_tokens=2**62),
    "more tokens at least than at most": sampling("min_new_tokens must be in", min_new_tokens=5),
    "no answers": sampling("n=0 is not between 1 and 16384", n=0),
    "minus one answers": sampling("n=-1 is not between", n=-1),
    "a million answers": sampling("n=1000000 is not between", n=10**6),
    "2**62 answers": sampling("n=4611686018427387904 is not between", n=2**62),
    "a number of answers that is text": sampling("n='2' is of the wrong type", n="2"),
    "a number of answers that is null": sampling("n=None is of the wrong type", n=None),
    "a parameter that does not exist": sampling("heat=1 is not a sampling parameter", heat=1),
    "a parameter of SGLang's own": sampling("is_normalized=True is not a sampling parameter", is_normalized=True),
    "parameters that are a number": generate("", sampling_params=7),
    "parameters for another number of prompts": generate(
        "do not fit together", input_ids=[PROMPT, PROMPT], sampling_params=[GREEDY]
    ),
    "a stop text that is a number": sampling("stop=5 is of the wrong type", stop=5),
    "a stop text that is a list of lists": sampling("stop=[['a']] is of the wrong type", stop=[["a"]]),
    "20000 stop texts": generate("output_ids", sampling_params={**GREEDY, "stop": ["~x"] * 20_000}, status=200),
    "stop tokens that are text": sampling("stop_token_ids='abc' is of the wrong type", stop_token_ids="abc"),
    "stop tokens beyond 64 bits": sampling("stop_token_ids", stop_token_ids=[2**70]),
    "stop tokens that do not exist": generate(
        "output_ids", sampling_params={**GREEDY, "stop_token_ids": [-5, 2**40]}, status=200
    ),
    "a stop pattern that is none": sampling("unterminated", stop_regex="("),
    "a stop pattern that takes forever": sampling(
        "took longer than", stop_regex=r"(?:(?:.|\n)?){60}\0", max_new_tokens=40, ignore_eos=True
    ),
    "an e-mail address as a stop pattern": generate(
        "output_ids", sampling_params={**GREEDY, "stop_regex": r"[\w.+-]+@[\w-]+\.[\w.]+"}, status=200
    ),
    "a bias for a token that does not exist": sampling("logit_bias must has keys", logit_bias={"99999": 1}),
    "a bias for a word": sampling("", logit_bias={"hello": 1}),
    "a bias that float32 does not know": sampling("logit_bias={'5': 1e+308} is not within", logit_bias={"5": 1e308}),
    "a bias that is text": sampling("logit_bias={'5': 'much'} is of the wrong type", logit_bias={"5": "much"}),
    "custom parameters that are a list": sampling("custom_params=[1] is of the wrong type", custom_params=[1]),
    "switches that are numbers": generate(
        "output_ids", sampling_params={**GREEDY, "ignore_eos": 1, "skip_special_tokens": 0}, status=200
    ),
    "a switch that is text": sampling("ignore_eos='yes' is of the wrong type", ignore_eos="yes"),
    "a seed beyond 64 bits": sampling("sampling_seed", sampling_seed=2**70),
}

GRAMMARS = {
    "a grammar with a dead end": drawn("abort", json_schema='{"$ref": "#"}'),
    "a grammar that ends too early": drawn("abort", regex="ab", min_new_tokens=10, max_new_tokens=12),
    "no token but stop tokens": drawn("stop", stop_token_ids=list(range(VOCAB_SIZE)), min_new_tokens=1),
    "two grammars": sampling("Only one of", regex="a", ebnf='root ::= "a"'),
    "a regex that is none": sampling("Failed to compile regex", regex="(a"),
    "a regex of NUL": sampling("regex has a text that starts with NUL", regex="\0"),
    "a regex that is a number": sampling("regex=5 is of the wrong type", regex=5),
    "a schema that is an object": sampling(
        "json_schema={'type': 'object'} is of the wrong type", json_schema={"type": "object"}
    ),
    "a schema that is no JSON": sampling("Failed to compile json", json_schema="{"),
    "a schema that is a list": sampling("Failed to compile json", json_schema="[]"),
    "a schema of an unknown type": sampling("Failed to compile json", json_schema='{"type": 1}'),
    "a schema that refers nowhere": sampling("Failed to compile json", json_schema='{"$ref": "#/nowhere"}'),
    "a schema with a pattern of NUL": sampling(
        "starts with NUL", json_schema='{"type": "string", "pattern": "\\u0000"}'
    ),
    "a schema 1000 levels deep": sampling("nested deeper than 100 levels", json_schema=nested(1000)),
    "a schema 100000 levels deep": sampling("nested deeper than 100 levels", json_schema=nested(100_000)),
    "a schema that refers to itself": generate(
        "output_ids", sampling_params={**GREEDY, "json_schema": '{"$ref": "#"}'}, status=200
    ),
    "a grammar without a root": sampling("Failed to compile ebnf", ebnf='a ::= "b"'),
    "a structural tag that is no JSON": sampling("Failed to compile structural_tag", structural_tag="{"),
    "a structural tag of brackets": sampling("nested deeper than", structural_tag="[" * 100_000),
}

LOG_PROBABILITIES = {
    "a start before the prompt": scored("logprob_start_len=-2 is below -1", logprob_start_len=-2),
    "a start behind the prompt": scored("logprob_start_len", logprob_start_len=500),
    "a start that is text": scored("", logprob_start_len="x"),
    "a negative number of alternatives": scored("top_logprobs_num=-1 is not between 0 and 258", top_logprobs_num=-1),
    "more alternatives than tokens": scored("top_logprobs_num=259 is not between 0 and 258", top_logprobs_num=259),
    "probabilities of tokens that do not exist": scored("out-of-vocabulary", token_ids_logprob=[999]),
    "probabilities of negative tokens": scored("out-of-vocabulary", token_ids_logprob=[-1]),
    "probabilities of words": scored("", token_ids_logprob=["a"]),
    "scores that the deep band cannot hold": scored(
        f"the deep band holds {DEEP_TOKENS}; raise logprob_start_len",
        input_ids=[7] * (DEEP_TOKENS + 100),
        logprob_start_len=0,
    ),
}

FEATURES = {
    "hidden states": generate("hidden states", return_hidden_states=True),
    "an adapter": generate("LoRA is not enabled", lora_path="adapter"),
    "a session that is not open": generate("does not exist", session_params={"id": "nobody"}),
    "a session of the wrong type": generate("", session_params={"id": 5}),
    "a label that the metrics do not know": generate(
        "custom_labels=['colour'] is not in", custom_labels={"colour": "x"}
    ),
    "an unknown session parameter": generate("wrong kind", session_params={"nobody": 1}),
    "a session id and a session": generate("cannot both be set", session_id="a", session_params={"id": "b"}),
    "a logit processor": generate("custom logit processor", custom_logit_processor="junk"),
    "a thinking budget": generate("enable-strict-thinking", max_thinking_tokens=5),
    "a rank that does not exist": generate("out of range", routed_dp_rank=7),
    "a negative rank": generate("out of range", routed_dp_rank=-1),
    "a priority that is text": generate("", priority="high"),
    "an id that is a number": generate("", rid=7),
    "two ids for one prompt": generate("is not one text", rid=["a", "b"]),
    "the same id twice in a batch": generate("Duplicate", input_ids=[PROMPT, PROMPT], rid=["a", "a"]),
    "an extra key that is a list": generate("", extra_key=["a", "b"]),
    "a port for disaggregation that is text": generate("", bootstrap_port="x"),
    "a room for disaggregation": generate("output_ids", bootstrap_room=5, bootstrap_host="127.0.0.1", status=200),
    "a stream of a bad request": Bad(
        "/generate", {"input_ids": [-1], "sampling_params": GREEDY, "stream": True}, "input_ids=-1 is not between", 200
    ),
}

CHATS = {
    "no messages": chat("", messages=[]),
    "messages that are text": chat("", messages="Hi"),
    "a role that does not exist": chat("role", messages=[{"role": "wizard", "content": "Hi"}]),
    "a message without content": chat("", messages=[{"role": "user"}]),
    "an image": chat("", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    "a chat beyond the context": chat("context length", messages=said("x" * 2 * CONTEXT)),
    "a tool without a name": chat("", tools=[{"type": "function", "function": {}}]),
    "a tool that was not offered": chat("", tool_choice={"type": "function", "function": {"name": "absent"}}),
    "a choice of tools that does not exist": chat("", tool_choice="maybe"),
    "a tool required and none offered": chat("", tool_choice="required"),
    "a tool whose schema is 300 levels deep": chat(
        "too deeply nested",
        tools=[{"type": "function", "function": {"name": "f", "parameters": json.loads(nested(300))}}],
        tool_choice="required",
    ),
    "a format that does not exist": chat("", response_format={"type": "poem"}),
    "a format without its schema": chat("", response_format={"type": "json_schema"}),
    "a schema that is wrong": chat(
        "", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}
    ),
    "a million choices": chat("n=1000000 is not between", n=10**6),
    "more alternatives than tokens in a chat": chat("top_logprobs_num=9999", logprobs=True, top_logprobs=9999),
    "a model with an adapter": chat("", model="default:adapter"),
    "a negative length of an answer": chat("", max_tokens=-5),
    "a stream with a bad bias": chat("", logit_bias={"5": 1e300}, stream=True),
}

COMPLETIONS = {
    "an empty prompt": completion("", prompt=""),
    "an empty list of prompts": completion("", prompt=[]),
    "a prompt of numbers and texts": completion("", prompt=[1, "a"]),
    "a prompt of bad token ids": completion("input_ids=-7 is not between", prompt=[0, -7]),
    "a completion of no tokens": completion("max_tokens must be positive", max_tokens=0),
    "an echo with too many alternatives": completion("top_logprobs_num=500", echo=True, logprobs=500),
    "an echo with negative alternatives": completion("top_logprobs_num=-2", echo=True, logprobs=-2),
    "a suffix": completion("", suffix="x", status=200),
    "a stream of a bad completion": completion("", prompt=[VOCAB_SIZE], stream=True),
}

OTHERS = {
    "embeddings of a text": Bad("/v1/embeddings", {"model": "default", "input": "text"}, "embedding model"),
    "embeddings of SGLang's own": Bad("/encode", {"text": "text"}, "embedding model"),
    "a score of nothing": Bad("/v1/score", {"query": "", "items": [], "label_token_ids": []}, '"scores":[]', 200),
    "a score of tokens that do not exist": Bad(
        "/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [99999], "model": "default"}, ""
    ),
    "a score of bad token ids": Bad(
        "/v1/score", {"query": [-1], "items": [[5]], "label_token_ids": [5], "model": "default"}, ""
    ),
    "tokens of a number": Bad("/v1/tokenize", {"model": "default", "prompt": 7}, ""),
    "a session of text": Bad("/open_session", {"capacity_of_str_len": "x"}, ""),
    "the end of a session that is not open": Bad("/close_session", {"session_id": "nobody"}, "", 200),
    "an abort of a number": Bad("/abort_request", {"rid": 7}, ""),
    "an abort of what does not run": Bad("/abort_request", {"rid": "nobody"}, "", 200),
}

NEWER = {
    "beams": sampling("beam_width=2 is not supported with a SPEED model", beam_width=2),
    "logits inside the prompt": generate(
        "token_indices_to_pool",
        token_indices_to_pool=[1],
        return_logprob=True,
        logprob_start_len=0,
        token_ids_logprob=[5],
        sampling_params={"max_new_tokens": 0},
    ),
    "a score at a token inside the prompt": Bad(
        "/v1/score",
        {"query": "a", "items": ["bc"], "label_token_ids": [5], "score_extraction_token": "b", "model": "default"},
        "requires --disable-radix-cache",
    ),
}
"""What the oldest version of SGLang does not know."""

ANSWERED_OTHERWISE: dict[str, tuple[str, int]] = {
    # the tokenizer's BOS is a prompt
    "an empty text": ("output_ids", 200),
    # sampling parameters are decoded by their types, before anything of ours sees them; huge numbers as floats
    "a temperature that is text": ("expected f64", 400),
    "a count of tokens that is text": ("expected i64", 400),
    "a count of tokens that is a fraction": ("expected i64", 400),
    "a number of answers that is text": ("expected i64", 400),
    "a parameter that does not exist": ("unknown field `heat`", 400),
    "a parameter of SGLang's own": ("unknown field `is_normalized`", 400),
    "a stop text that is a number": ("expected a value or an array", 400),
    "a stop text that is a list of lists": ("expected a string", 400),
    "20000 stop texts": ("at most 32 stop strings", 400),
    "stop tokens that are text": ("expected a sequence", 400),
    "stop tokens beyond 64 bits": ("expected i64", 400),
    "a bias that is text": ("expected f64", 400),
    "switches that are numbers": ("expected a boolean", 400),
    "a switch that is text": ("expected a boolean", 400),
    "a seed beyond 64 bits": ("expected i64", 400),
    "a regex that is a number": ("expected a string", 400),
    "a schema that is an object": ("expected a string", 400),
    # a token that a grammar rejects is the server's error
    "a grammar with a dead end": ("Grammar accept_token failed", 500),
    "a grammar that ends too early": ("Grammar accept_token failed", 500),
    "a schema that refers to itself": ("Grammar accept_token failed", 500),
}
"""By versions of SGLang after the oldest: words and status."""

BAD_REQUESTS: dict[str, Bad] = {
    **BODIES,
    **PROMPTS,
    **SAMPLING,
    **GRAMMARS,
    **LOG_PROBABILITIES,
    **FEATURES,
    **CHATS,
    **COMPLETIONS,
    **OTHERS,
}
if not IS_OLDEST:
    for name, (words, status) in ANSWERED_OTHERWISE.items():
        BAD_REQUESTS[name] = replace(BAD_REQUESTS[name], words=words, status=status)
    BAD_REQUESTS |= NEWER

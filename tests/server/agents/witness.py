"""Every request that a program or an agent makes, held against the reference and against what the cache must hold.

Owns the record of requests and answers. What is asked, and in what order, is the program's business.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import xgrammar
from openai import OpenAI

from sglang_speed.reference.generation import score
from tests.host import IS_OLDEST
from tests.server.conftest import SPEED
from tests.server.e2e.asking import require_close
from tests.server.e2e.reference_answers import Reference, within
from tests.tiny_models import EOS_ID, VOCAB_SIZE, ids_of

BOTH_IDS = {"return_token_ids": True, "return_prompt_token_ids": True}


@dataclass(frozen=True)
class Call:
    """One prompt and what was answered. sent, finished: places in the order of all that happened."""

    prompt: list[int]
    output: list[int]
    cached: int
    max_tokens: int
    sent: int
    finished: int
    scored_from: int | None = None
    scores: list[float] = field(default_factory=list)
    stop: Sequence[str] = ()
    grammar: xgrammar.CompiledGrammar | None = None

    @property
    def reusable(self) -> int:
        """Prompt tokens that need not be computed again: the tail and what is scored must be."""
        before_tail = max(0, len(self.prompt) - SPEED["tail_tokens"])
        return before_tail if self.scored_from is None else min(before_tail, self.scored_from)

    def shares(self, other: Call, num_output: int) -> int:
        """Prompt tokens that need not be computed where `other` left its prompt and `num_output` generated tokens."""
        known = other.prompt + other.output[:num_output]
        pairs = enumerate(zip(self.prompt, known, strict=False))
        shared = next((index for index, (ours, theirs) in pairs if ours != theirs), min(len(self.prompt), len(known)))
        return min(self.reusable, shared)


class Witness:
    """The calls of one test, in the order in which they finished."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.calls: list[Call] = []
        self._ticks = itertools.count()
        self._lock = threading.Lock()
        info = xgrammar.TokenizerInfo.from_huggingface(reference.tokenizer, vocab_size=VOCAB_SIZE)
        self.compiler = xgrammar.GrammarCompiler(info)

    def watch(self, http_request: Callable[..., Any]) -> Callable[..., Any]:
        """A stand-in for the function by which SGLang's frontend sends all of its requests."""

        def watched(url: str, json: Any = None, **options: Any) -> Any:
            sent = next(self._ticks)
            answer = http_request(url, json=json, **options)
            if url.endswith("/generate") and "text" in json:
                self._note_generate(json, answer.json(), sent)
            return answer

        return watched

    def chat(self, client: OpenAI, messages: list[Any], schema: Any = None, **options: Any) -> str:
        """Ask for a chat completion and return its text. schema: what the answer follows, where tools are forced."""
        sent = next(self._ticks)
        answer = client.chat.completions.create(
            model="default", messages=messages, temperature=0, extra_body=BOTH_IDS, **options
        )
        choice, usage = answer.choices[0], answer.usage
        assert choice.prompt_token_ids == self.templated(messages)
        self._note(
            prompt=choice.prompt_token_ids,
            output=choice.token_ids if IS_OLDEST else choice.response_token_ids,
            cached=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0,
            max_tokens=options["max_tokens"],
            sent=sent,
            stop=[options["stop"]] if "stop" in options else [],
            grammar=schema and self.compiler.compile_json_schema(schema, any_whitespace=False),
        )
        return str(choice.message.content)

    def templated(self, messages: list[Any]) -> list[int]:
        text = self.reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return ids_of(text.removeprefix("<bos>"))

    def require_exact(self) -> None:
        """Every call was answered with the reference's tokens, and scored with its log-probabilities."""
        assert self.calls
        for call in self.calls:
            require_answer(self.reference, call)
            if call.scored_from is not None:
                require_close(call.scores, score(self.reference.model, call.prompt, call.scored_from))

    def require_reuse(self) -> None:
        """Each call took from the cache all that calls finished before it had left there, and no more than can be.

        The last generated token is left there only if another step was under way when it ended the answer. Calls side
        by side may share what they compute, or come too early for that.
        """
        for call in self.calls:
            before = [other for other in self.calls if other.finished < call.sent]
            ever = [other for other in self.calls if other.sent < call.finished and other is not call]
            least = max((call.shares(other, len(other.output) - 1) for other in before), default=0)
            most = max((call.shares(other, len(other.output)) for other in ever), default=0)
            assert least <= call.cached <= most, f"{call.cached} cached, not {least} to {most}, of {len(call.prompt)}"

    def _note_generate(self, payload: Any, answers: Any, sent: int) -> None:
        is_batch = isinstance(answers, list)
        params, start = payload["sampling_params"], payload.get("logprob_start_len", -1)
        texts = payload["text"] if is_batch else [payload["text"]]
        for text, answer in zip(texts, answers if is_batch else [answers], strict=True):
            is_scored = payload.get("return_logprob") and start >= 0
            entries = answer["meta_info"]["input_token_logprobs"] if is_scored else []
            self._note(
                prompt=ids_of(text),
                output=answer["output_ids"],
                cached=answer["meta_info"]["cached_tokens"],
                max_tokens=params["max_new_tokens"],
                sent=sent,
                scored_from=start if is_scored else None,
                scores=[entry[0] for entry in entries[1:]],
                stop=params.get("stop", ()),
                grammar=self.compiler.compile_regex(params["regex"]) if params.get("regex") else None,
            )

    def _note(self, **fields: Any) -> None:
        with self._lock:
            self.calls.append(Call(finished=next(self._ticks), **fields))


def require_answer(reference: Reference, call: Call) -> None:
    """The reference's tokens, until a stop string, the end of the grammar or the last token asked for."""
    if call.grammar is not None:
        assert call.output == reference.adjusted(call.prompt, call.max_tokens, within(call.grammar))
        return
    reference.require(call.prompt, call.output, call.scored_from)
    text = reference.tokenizer.decode(call.output)
    is_stopped = any(stop in text for stop in call.stop)
    assert is_stopped or EOS_ID in call.output or len(call.output) == call.max_tokens, text

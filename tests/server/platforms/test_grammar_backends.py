"""Claims about constrained answers on a CPU: each grammar backend obeys, in a SPEED model and in a plain Llama.

SGLang's own scheduler runs in this process; what the grammars say is checked by Python, not by the backend's library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sglang.srt.platforms import current_platform

from sglang_speed.platforms.cpu import CpuPlatform
from tests.one_thread import one_thread  # noqa: F401
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler
from tests.server.conftest import SPEED
from tests.tiny_models import EOS_ID, ids_of, make_tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(
    not isinstance(current_platform, CpuPlatform), reason="the CPU platform stands down where there is an accelerator"
)

PROMPT = ids_of("one two")
PATTERN = "[0-9]{4}-[a-f]{3}"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "word": {"enum": ["ab", "cd"]}},
    "required": ["ok", "word"],
    "additionalProperties": False,
}
LISTED_TYPES = {**SCHEMA, "properties": {**SCHEMA["properties"], "ok": {"type": ["boolean", "null"]}}}
WORDS = 'root ::= ("yes" | "no") " " [0-9] [0-9]'
NOT_OF_OUTLINES = ("ebnf", "a list of types")


def fits_the_schema(text: str) -> bool:
    answer = json.loads(text)
    return set(answer) == {"ok", "word"} and answer["ok"] in (True, False, None) and answer["word"] in ("ab", "cd")


GRAMMARS: dict[str, tuple[dict[str, Any], Callable[[str], Any]]] = {
    "regex": ({"regex": PATTERN}, re.compile(PATTERN).fullmatch),
    "schema": ({"json_schema": json.dumps(SCHEMA)}, fits_the_schema),
    "a list of types": ({"json_schema": json.dumps(LISTED_TYPES)}, fits_the_schema),
    "ebnf": ({"ebnf": WORDS}, re.compile("(yes|no) [0-9]{2}").fullmatch),
}


@pytest.fixture(scope="module", params=["speed", "plain"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp(request.param), speed=SPEED if request.param == "speed" else None)


@pytest.fixture
def scheduler(checkpoint: Path, backend: str) -> Iterator[SchedulerHarness]:
    settings = {"grammar_backend": backend, "constrained_json_disable_any_whitespace": True}
    with running_scheduler(checkpoint, skip_tokenizer_init=False, **settings) as scheduler:
        yield scheduler


def text_of(answer: Answer) -> str:
    return str(tiny_tokenizer().decode(answer.output_ids, skip_special_tokens=True))


def require_refused(scheduler: SchedulerHarness, sampling: dict[str, Any], words: str) -> None:
    """The request is answered with the words, and the next one is served."""
    answer = scheduler.ask(PROMPT, sampling=sampling)
    assert answer.was_aborted
    assert words in answer.finish_reason["message"]
    assert len(scheduler.ask(PROMPT, 12).output_ids) == 12


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
def test_constrained_requests_obey_and_the_free_one_in_their_batch_stays_free(
    scheduler: SchedulerHarness, backend: str
) -> None:
    kinds = [kind for kind in GRAMMARS if backend != "outlines" or kind not in NOT_OF_OUTLINES]
    alone = scheduler.ask(PROMPT, 12)
    names = {kind: scheduler.submit(PROMPT, 100, sampling=GRAMMARS[kind][0]) for kind in kinds}
    free = scheduler.submit(PROMPT, 12)
    answers = scheduler.run()
    for kind, name in names.items():
        assert answers[name].finish_reason == {"type": "stop", "matched": EOS_ID}, kind
        assert GRAMMARS[kind][1](text_of(answers[name])), (kind, text_of(answers[name]))
    assert answers[free].output_ids == alone.output_ids


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
def test_what_a_backend_does_not_know_is_refused(scheduler: SchedulerHarness, backend: str) -> None:
    require_refused(scheduler, {"regex": "[0-9"}, "Failed to compile regex")
    for kind in NOT_OF_OUTLINES if backend == "outlines" else ():
        require_refused(scheduler, GRAMMARS[kind][0], "Failed to compile")


@pytest.mark.parametrize("backend", ["none"])
def test_without_a_grammar_backend_a_constraint_is_refused_by_the_flag(scheduler: SchedulerHarness) -> None:
    for sampling, _ in GRAMMARS.values():
        require_refused(scheduler, sampling, "--grammar-backend none")


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
def test_a_reasoning_parser_leaves_constraints_as_they_are(checkpoint: Path, backend: str) -> None:
    settings = {"grammar_backend": backend, "reasoning_parser": "deepseek-r1"}
    with running_scheduler(checkpoint, skip_tokenizer_init=False, **settings) as scheduler:
        answer = scheduler.ask(PROMPT, sampling={"regex": PATTERN})
        assert re.fullmatch(PATTERN, text_of(answer)), answer
        assert len(scheduler.ask(PROMPT, 12).output_ids) == 12

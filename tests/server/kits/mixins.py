"""SGLang's test kits as test cases for a running server.

Owns how a kit becomes a case, mixins where a kit has none or asks for a model that knows the answers, and how outcomes
are read. Knows no servers and no expectations.
"""

from __future__ import annotations

import random
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from unittest import mock

from tests.tiny_models import FIRST_BYTE_ID

SEED = 1
TAIL = 16
SHORT_QUESTION = 4
COMPARED_CHARS = 16


@dataclass(frozen=True)
class Kit:
    """A mixin of `sglang.test.kits.<module>_kit`, or one of this file.

    settings: class attributes of the mixin. only: its tests that these servers get, where others get the rest.
    """

    servers: str
    module: str
    mixin: str | type
    settings: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()


class ConcurrentRequests:
    """The concurrent requests of `basic_scheduler_stress`, which want of each what the server says to it alone."""

    flush_cache: Callable[[], None]
    _stress_generate: Callable[[str, int], str]

    def test_concurrent_requests(self) -> None:
        kit = kit_module("basic_scheduler_stress")
        suffixes = [suffix for suffix, _ in kit._CONCURRENT_QA]
        alone = [self._stress_generate(kit._CONCURRENT_PREFIX + suffix, COMPARED_CHARS).lower() for suffix in suffixes]
        assert len(set(alone)) == len(alone), "the answers must differ to show whose they are"
        self.flush_cache()
        with mock.patch.object(kit, "_CONCURRENT_QA", list(zip(suffixes, alone, strict=True))):
            kit.BasicSchedulerStressMixin.test_concurrent_requests(self)


class RadixCacheServer:
    """The random tree of prompts of `radix_cache_server`, its token ids brought into the tiny vocabulary."""

    base_url: str

    def test_radix_attention(self) -> None:
        kit = kit_module("radix_cache_server")
        random.seed(SEED)
        nodes = kit.gen_radix_tree()
        for node in nodes:
            node["input_ids"] = [FIRST_BYTE_ID + token % 256 for token in node["input_ids"]]
        with mock.patch.object(kit, "gen_radix_tree", return_value=nodes):
            kit.run_radix_attention_test(self.base_url)


class CacheHit:
    """The chats of several turns of `cache_hit`, with other lengths of the questions after the first.

    A turn hits all of the one before it but `miss_tolerance` tokens, or the test fails. A SPEED hit ends where the tail
    begins, so with short questions it misses `TAIL - SHORT_QUESTION` tokens, no more and no fewer.
    """

    base_url: str
    model: str
    texts: str

    def test_long_questions(self) -> None:
        self._chat()

    def test_short_questions(self) -> None:
        self._chat(SHORT_QUESTION)

    def test_short_questions_less_the_tail(self) -> None:
        self._chat(SHORT_QUESTION, miss_tolerance=TAIL - SHORT_QUESTION)

    def test_short_questions_less_the_tail_but_one(self) -> None:
        self._chat(SHORT_QUESTION, miss_tolerance=TAIL - SHORT_QUESTION - 1)

    def _chat(self, question_len: int = 0, miss_tolerance: int = 1) -> None:
        kit_module("cache_hit").run_multiturn_cache_hit_test(
            self.base_url,
            self.model,
            miss_tolerance=miss_tolerance,
            sub_question_input_length=question_len,
            dataset_path=self.texts,
        )


class Outcomes(unittest.TestResult):
    """Outcomes by the names of tests; that of a failed test has the last line of its traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.of[test._testMethodName] = "passed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.of[test._testMethodName] = f"skipped: {reason}"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.of[test._testMethodName] = f"failed: {self.failures[-1][1].strip().splitlines()[-1]}"

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.of[test._testMethodName] = f"failed: {self.errors[-1][1].strip().splitlines()[-1]}"


def kit_module(name: str) -> Any:
    return import_module(f"sglang.test.kits.{name}_kit")


def case_name(kit: Kit) -> str:
    return kit.mixin if isinstance(kit.mixin, str) else kit.mixin.__name__


def case_of(kit: Kit, **attributes: Any) -> type[unittest.TestCase]:
    """A test case of the kit. attributes: what the mixin is told of a server."""
    module = kit_module(kit.module)
    bases = [getattr(module, kit.mixin)] if isinstance(kit.mixin, str) else [kit.mixin]
    if kit.mixin is ConcurrentRequests:
        bases.append(module.BasicSchedulerStressMixin)
    return type(case_name(kit), (*bases, unittest.TestCase), {**attributes, **kit.settings})

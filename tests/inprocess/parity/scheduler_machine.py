"""A random history of one scheduler: everything that may be asked of it, in any order, checked after every turn.

Owns the rules and a stage, which keeps one scheduler for as many histories as it survives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sglang.srt.managers import io_struct
from sglang.srt.managers import scheduler as scheduler_module
from sglang.srt.mem_cache.base_prefix_cache import EvictParams

from sglang_speed.served import active_pool
from tests.catalogue import Bands
from tests.inprocess.parity.expected import Ask, Expected, prompt, tokens
from tests.inprocess.parity.held_loop import HeldLoop, held_loop
from tests.inprocess.parity.shadow import Limits, Sent, Shadow
from tests.scheduler_harness import running_scheduler
from tests.tiny_models import FIRST_BYTE_ID

TRUNKS = [prompt(48, seed=1), prompt(48, seed=2), prompt(48, seed=2)[:9] + tokens(39), prompt(48, first=70)]
LONGEST_CHAT = 60
EVERY_TOKEN = list(range(FIRST_BYTE_ID, FIRST_BYTE_ID + 256))


@dataclass(frozen=True)
class Scene:
    """The settings of one scheduler."""

    bands: Bands
    deep_tokens: int = 36
    max_total_tokens: int = 96
    page_size: int = 1
    chunked_prefill_size: int = 16
    disable_overlap_schedule: bool = False
    disable_radix_cache: bool = False
    schedule_conservativeness: float = 0.01
    max_running_requests: int = 4
    enable_priority_scheduling: bool = False
    schedule_policy: str = "fcfs"
    enable_hierarchical_cache: bool = False
    hicache_ratio: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "bands"}

    @property
    def limits(self) -> Limits:
        return Limits(self.deep_tokens, self.max_total_tokens, self.page_size)


def _late_loads() -> AbstractContextManager[Any]:
    from tests.inprocess.parity.late_loads import late_loads  # of parts that 0.5.17 has not

    return late_loads()


class Stage:
    """A scheduler that is built when first needed, and again after a history that went wrong."""

    def __init__(self, expected: Expected, scene: Scene) -> None:
        self.expected = expected
        self.scene = scene
        self.seen: Counter[str] = Counter()
        self._stack = ExitStack()
        self._loop: HeldLoop | None = None

    @property
    def loop(self) -> HeldLoop:
        if self._loop is None:
            if self.scene.enable_hierarchical_cache:
                self._stack.enter_context(_late_loads())
            engine = self._stack.enter_context(running_scheduler(self.expected.path, **self.scene.settings))
            self._loop = self._stack.enter_context(held_loop(engine))
        return self._loop

    def still_has(self, loop: HeldLoop) -> bool:
        return self._loop is loop

    def close(self) -> None:
        self._loop = None
        self._stack.close()

    @contextmanager
    def intact(self) -> Iterator[None]:
        """A scheduler that something went wrong with is not used again."""
        try:
            yield
        except BaseException:
            self.close()
            raise


@dataclass(frozen=True)
class Wish:
    """A request in a few numbers. The prompts are few, so that requests share prefixes and the reference is asked
    little. scored: from which part of its prompt on, None for no log-probabilities."""

    trunk: int
    length: int
    extra: int = 0
    max_new_tokens: int = 5
    scored: float | None = None
    priority: int = 0
    extra_key: str | None = None

    @property
    def ask(self) -> Ask:
        question = TRUNKS[self.trunk][: self.length] + tokens(self.extra)
        scored_from = None if self.scored is None else int(self.scored * len(question))
        fields = {"priority": self.priority, "extra_key": self.extra_key}
        return Ask(question, self.max_new_tokens, scored_from, fields=fields)


WISHES = st.builds(
    Wish,
    trunk=st.integers(0, len(TRUNKS) - 1),
    length=st.sampled_from([9, 1, 2, 4, 5, 16, 17, 33]),
    extra=st.sampled_from([0, 0, 1, 6]),
    max_new_tokens=st.sampled_from([9, 12, 10, 14, 9, 5, 1, 0, 16, 60]),
    scored=st.sampled_from([None, None, None, 0.0, 0.5, 0.9, 1.0]),
    priority=st.sampled_from([0, 0, 20, 40]),
    extra_key=st.sampled_from([None, None, None, "another"]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """One history. What is sent arrives at the next turn of the loop; `step` turns it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.loop, self.engine = stage.loop, stage.loop.engine
        self.shadow = Shadow(stage.expected, self.engine, stage.scene.limits)
        self.first_turn, self.first_forward = self.loop.num_turns, self.engine.scheduler.forward_ct

    # Requests come

    @rule(wish=WISHES, is_streamed=st.booleans())
    def submit(self, wish: Wish, is_streamed: bool) -> None:
        self._send(Sent(wish.ask), stream=is_streamed)

    @rule(wishes=st.lists(WISHES, min_size=2, max_size=5))
    def submit_several(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            self._send(Sent(wish.ask))

    @rule(wish=WISHES)
    def submit_one_that_stops_at_its_first_token(self, wish: Wish) -> None:
        self._send(Sent(wish.ask, stops_at_once=True), sampling={"stop_token_ids": EVERY_TOKEN})

    @precondition(lambda self: self.shadow.answered)
    @rule(which=st.integers(0, 3), extra=st.sampled_from([0, 1, 6]), max_new_tokens=st.sampled_from([9, 12, 1]))
    def go_on_with_a_chat(self, which: int, extra: int, max_new_tokens: int) -> None:
        """The next prompt holds the last one and its answer."""
        ask, answer = self.shadow.answered[-1 - which % len(self.shadow.answered)]
        question = [*ask.prompt, *answer.output_ids, *tokens(extra)][:LONGEST_CHAT]
        self._send(Sent(Ask(question, max_new_tokens, fields=ask.fields)))

    def _send(self, sent: Sent, **fields: Any) -> None:
        ask = sent.ask
        arguments = {**ask.fields, **fields}
        name = self.engine.submit(ask.prompt, ask.max_new_tokens, logprob_start_len=ask.scored_from, **arguments)
        self.shadow.sent[name] = sent

    # Time passes

    @rule(num_turns=st.integers(1, 3))
    def step(self, num_turns: int) -> None:
        for _ in range(num_turns):
            self._turn()

    @rule(num_turns=st.integers(4, 12))
    def run_for_a_while(self, num_turns: int) -> None:
        self.step(num_turns)

    def _turn(self) -> None:
        """Everything is checked after every turn."""
        with self.stage.intact():
            self.loop.turn()
            self.shadow.check()

    # Requests are stopped, for ever or for a while

    @precondition(lambda self: self.shadow.unanswered)
    @rule(which=st.integers(0, 7))
    def abort(self, which: int) -> None:
        """One of those under way, now and then all of them."""
        unanswered = self.shadow.unanswered
        names = unanswered if which == 7 else [unanswered[which % len(unanswered)]]
        self.shadow.may_abort(names)
        self.engine.send(io_struct.AbortReq(rid="" if which == 7 else names[0], abort_all=which == 7))

    @precondition(lambda self: self.engine.scheduler.running_batch.reqs)
    @rule()
    def retract(self) -> None:
        """As SGLang does when a pool is full: if the next turn decodes, the last request goes back to the queue."""
        with mock.patch.multiple(scheduler_module, TEST_RETRACT=True, TEST_RETRACT_INTERVAL=1):
            self._turn()

    @rule(mode=st.sampled_from(["retract", "in_place"]), num_turns=st.integers(1, 4))
    def pause(self, mode: str, num_turns: int) -> None:
        """For some turns from the next one on; requests come and go meanwhile."""
        self.engine.send(io_struct.PauseGenerationReqInput(mode=mode))
        until = self.engine.feed.step + 1 + num_turns
        self.engine.send(io_struct.ContinueGenerationReqInput(torch_empty_cache=False), when=until)

    # Caches are emptied

    @rule(cache=st.sampled_from(["prefixes", "anchors", "all"]), num_tokens=st.integers(1, 40))
    def empty(self, cache: str, num_tokens: int) -> None:
        """What any allocation may evict, or a flush."""
        if cache == "prefixes":
            self.engine.scheduler.tree_cache.evict(EvictParams(num_tokens=num_tokens))
        elif cache == "anchors":
            active_pool().deep_bands[0].reclaim(num_tokens)
        else:
            self._flush()

    def _flush(self) -> None:
        """SGLang refuses it while there is anything to do."""
        is_idle = self.engine.scheduler.is_fully_idle() and not self.engine.feed.messages
        self.engine.send(io_struct.FlushCacheReqInput())
        self._turn()
        assert not is_idle or active_pool().deep_bands[0].num_used == 0

    # What must be true

    @invariant()
    def check(self) -> None:
        self.stage.seen["steps"] += 1
        with self.stage.intact():
            self.shadow.check()

    def teardown(self) -> None:
        """Whatever the history was, all that waits is answered, and an empty scheduler is left."""
        if not self.stage.still_has(self.loop):
            return
        with self.stage.intact():
            self.loop.drain(self.shadow.check)
            assert not self.shadow.unanswered
            self.engine.check_pools()
            self.engine.send(io_struct.FlushCacheReqInput())
            self.loop.turn()
            assert active_pool().deep_bands[0].num_used == 0
            assert self.engine.scheduler.tree_cache.evictable_size() == 0
        self._count()

    def _count(self) -> None:
        self.stage.seen.update(self.shadow.seen)
        self.stage.seen["turns"] += self.loop.num_turns - self.first_turn
        self.stage.seen["forwards"] += self.engine.scheduler.forward_ct - self.first_forward

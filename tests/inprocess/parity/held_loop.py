"""SGLang's event loop, one turn at a time.

Owns the thread that the loop runs in. The thread waits whenever SGLang asks for requests, and runs only while a test
waits for it, so what a test sees between two turns stands still. What the loop raises is raised in the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.scheduler_harness import Feed, SchedulerHarness

TURN_TIMEOUT_S = 600
"""A turn takes milliseconds; one that never ends must not hold the test for ever."""


class _LoopLeft(BaseException):
    """Raised inside the loop to end it; no handler of SGLang's may catch it."""


class HeldFeed(Feed):
    """Hands over what is due when a test lets the loop turn; never ends the loop."""

    def __init__(self, feed: Feed, wait_for_turn: Callable[[], None]) -> None:
        super().__init__(feed.scheduler)
        self.messages = feed.messages
        self.wait_for_turn = wait_for_turn

    def recv_requests(self, *args: Any, **kwargs: Any) -> list[Any]:
        self.wait_for_turn()
        return self.take_due()


class HeldLoop:
    """The event loop of one scheduler, held between two turns. `SchedulerHarness.submit` and the like go on working."""

    def __init__(self, engine: SchedulerHarness) -> None:
        self.engine = engine
        self.num_turns = 0
        self._error: BaseException | None = None
        self._leaving = False
        self._may_turn, self._has_turned = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="event loop", daemon=True)
        engine.feed = engine.scheduler.request_receiver = HeldFeed(engine.feed, self._wait_for_turn)
        self._thread.start()
        self._wait_until_turned()

    def turn(self) -> None:
        """One turn: SGLang takes what was sent, schedules, runs a forward and checks its pools."""
        assert self._thread.is_alive(), "the event loop has ended"
        self.num_turns += 1
        self._may_turn.release()
        self._wait_until_turned()

    def drain(self, check: Callable[[], None] = lambda: None) -> None:
        """Turn until nothing is left and SGLang has done its idle checks; `check` after every turn.

        Raises SchedulerStuck.
        """
        feed, scheduler = self.engine.feed, self.engine.scheduler
        feed.idle_steps = 0
        while feed.messages or not scheduler.is_fully_idle():
            num_messages = len(feed.messages)
            self.turn()
            check()
            feed.require_progress(moved=len(feed.messages) < num_messages)
        self.turn()

    def leave(self) -> None:
        """End the thread, wherever the requests are, and give the scheduler an ordinary feed again."""
        self._leaving = True
        self._may_turn.release()
        self._thread.join(TURN_TIMEOUT_S)
        self.engine.feed = self.engine.scheduler.request_receiver = Feed(self.engine.scheduler)

    def _wait_until_turned(self) -> None:
        if not self._has_turned.acquire(timeout=TURN_TIMEOUT_S):
            raise TimeoutError(f"a turn of the event loop did not end within {TURN_TIMEOUT_S} s")
        if self._error is not None:
            raise self._error

    def _wait_for_turn(self) -> None:
        self._has_turned.release()
        self._may_turn.acquire()
        if self._leaving:
            raise _LoopLeft

    def _run(self) -> None:
        try:
            self.engine.scheduler.gracefully_exit = False
            self.engine.scheduler.run_event_loop()
        except _LoopLeft:
            pass
        except BaseException as error:  # whatever it is, it is the test's
            self._error = error
            self._has_turned.release()


@contextmanager
def held_loop(engine: SchedulerHarness) -> Iterator[HeldLoop]:
    """A scheduler's event loop, turned by hand until the block ends."""
    loop = HeldLoop(engine)
    try:
        yield loop
    finally:
        loop.leave()

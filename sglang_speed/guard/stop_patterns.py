"""Stop patterns of users: a search that takes too long ends its own request and nobody else's.

SGLang searches the output after every token, in the scheduler. Python's `re` stays the engine, because every other one
reads some patterns differently: `regex`, which has a timeout, takes the `{i}` of `x_{i}` for fuzzy matching and stops
too early. What is bounded is processor time, so a busy machine ends no innocent request.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import torch
from sglang.srt.distributed import get_tp_group
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req

from sglang_speed.served import served

SEARCH_SECONDS = 0.1
"""For all patterns of a request after one token. Ordinary ones take less than a millisecond."""


class SearchTooLong(Exception):
    """A search used up its processor time."""


def end_long_search(original: Callable[..., bool], req: Req, *args: Any, **kwargs: Any) -> bool:
    """Hook around Req._check_str_based_finish: abort a request whose search takes longer than SEARCH_SECONDS."""
    patterns, model = req.sampling_params.stop_regex_strs, served()
    if not patterns or model is None:
        return original(req, *args, **kwargs)
    try:
        with processor_time(SEARCH_SECONDS):
            is_finished, is_long = original(req, *args, **kwargs), False
    except SearchTooLong:
        is_finished, is_long = True, True
    if not is_long_on_any_rank(is_long, model.num_ranks):
        return is_finished
    req.finished_len = None
    req.finished_reason = FINISH_ABORT(
        f"sglang_speed: searching the output for stop_regex={patterns!r:.200} took longer than {SEARCH_SECONDS} s; "
        "simplify the pattern: usually it repeats something that is itself a repetition",
        HTTPStatus.BAD_REQUEST,
        "BadRequestError",
    )
    return True


def is_long_on_any_rank(is_long: bool, num_ranks: int) -> bool:
    """Tensor-parallel ranks search the same texts in the same order, and must end the same requests."""
    if num_ranks == 1:
        return is_long
    votes = torch.tensor([int(is_long)])
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, group=get_tp_group().cpu_group)
    return bool(votes)


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise SearchTooLong in the block once this thread has computed for so long. Main thread only.

    `re` looks for signals while it matches, except between two starting points of a search; a search that is slow for
    that reason alone is slower by little than the one before, a token ago, which was not too long.
    """
    end, is_searching = time.thread_time() + seconds, True

    def look(*_: Any) -> None:
        left = end - time.thread_time()  # the timer counts other threads of the process too
        if not is_searching:
            return
        if left <= 0:
            raise SearchTooLong
        signal.setitimer(signal.ITIMER_VIRTUAL, left)

    # the handler stays: a signal that is on its way when the block ends must find one that ignores it
    signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        is_searching = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

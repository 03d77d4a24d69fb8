"""SGLang's real Scheduler in this process: no HTTP, no child processes, nothing sent over a socket.

Owns building one scheduler after another, feeding its own event loop, collecting what it would send, and checking
that every pool is clean when nothing is left to do. Says nothing about what the answers should be.

The loop is SGLang's: `request_receiver` is replaced by a feed that hands over what is due and, when all is done,
sets `gracefully_exit`. A step is one turn of that loop.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch._dynamo
from sglang.srt.plugins import load_plugins

load_plugins()  # before SGLang's modules are imported by name, as its own processes do

from sglang.srt.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: E402
from sglang.srt.managers import io_struct  # noqa: E402
from sglang.srt.managers import scheduler as scheduler_module  # noqa: E402
from sglang.srt.managers.scheduler import Scheduler  # noqa: E402
from sglang.srt.managers.scheduler_components.ipc_channels import SchedulerIpcChannels  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402
from sglang.srt.server_args import PortArgs, ServerArgs  # noqa: E402
from sglang.srt.utils.network import get_free_port  # noqa: E402

from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE  # noqa: E402
from sglang_speed.served import active_pool, end_serving  # noqa: E402
from tests import host  # noqa: E402

STRICT_CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
}
DEFAULTS: Mapping[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "skip_tokenizer_init": True,
    "max_total_tokens": 8192,
}
ABSENT_FIELDS: Mapping[str, Any] = dict.fromkeys(
    ("input_text", "input_embeds", "mm_inputs", "token_type_ids", "token_ids_logprob")
) | {"top_logprobs_num": 0, "stream": False}
MAX_IDLE_STEPS = 50
"""Steps without any forward after which waiting requests count as stuck."""
COPIES_UNDER_WAY = ("ongoing_write_through", "ongoing_load_back", "ongoing_prefetch", "ongoing_backup")
"""What SGLang's hierarchical cache leaves to its threads, for whom the scheduler waits."""

When = int | Callable[[Scheduler], bool]
"""A step number of the next run, or a condition on the scheduler."""


class SchedulerStuck(RuntimeError):
    """Requests wait and nothing runs; the text says which."""


@dataclass
class Answer:
    """What the scheduler sent for one request. Log-probabilities are there where they were asked for.

    num_verified: forwards that verified drafts.
    """

    output_ids: list[int] = field(default_factory=list)
    finish_reason: dict[str, Any] | None = None
    cached_tokens: int = 0
    num_retractions: int = 0
    num_verified: int = 0
    input_logprobs: list[float | None] = field(default_factory=list)
    output_logprobs: list[float] = field(default_factory=list)
    input_top_logprobs: list[dict[int, float]] = field(default_factory=list)
    hidden_states: Any = None
    embedding: list[float] = field(default_factory=list)

    @property
    def was_aborted(self) -> bool:
        return self.finish_reason is not None and self.finish_reason["type"] == "abort"


@dataclass(eq=False)
class Message:
    """Something to hand to the scheduler."""

    when: When
    payload: Any

    def is_due(self, step: int, scheduler: Scheduler) -> bool:
        return self.when(scheduler) if callable(self.when) else step >= self.when


class Feed:
    """Stands in for SGLang's request receiver: one call per step of the event loop."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.messages: list[Message] = []
        self.start()

    def start(self) -> None:
        self.step = -1
        self.idle_steps = 0
        self.last_forward = self.scheduler.forward_ct

    def recv_requests(self, *args: Any, **kwargs: Any) -> list[Any]:
        due = self.take_due()
        if not due and not self.messages and self.scheduler.is_fully_idle():
            self.scheduler.gracefully_exit = True  # after this step, which runs SGLang's idle checks
        self.require_progress(moved=bool(due))
        return due

    def take_due(self) -> list[Any]:
        self.step += 1
        due = [message for message in self.messages if message.is_due(self.step, self.scheduler)]
        self.messages = [message for message in self.messages if message not in due]
        return [message.payload for message in due]

    def require_progress(self, moved: bool) -> None:
        if any(getattr(self.scheduler.tree_cache, name, None) for name in COPIES_UNDER_WAY):
            moved = True
            time.sleep(0.001)
        moved |= self.scheduler.forward_ct != self.last_forward
        self.last_forward = self.scheduler.forward_ct
        self.idle_steps = 0 if moved else self.idle_steps + 1
        if self.idle_steps > MAX_IDLE_STEPS:
            waiting = [req.rid for req in self.scheduler.waiting_queue]
            raise SchedulerStuck(f"{waiting=}, {len(self.messages)} messages never became due")


class Outbox:
    """Stands in for a socket to the detokenizer or the tokenizer."""

    def __init__(self) -> None:
        self.receive: Callable[[Any], None] = lambda _: None

    def send_output(self, output: Any, _: Any = None) -> None:
        self.receive(output)


class InProcessScheduler(Scheduler):
    """SGLang's scheduler, without sockets and without sleeping on them."""

    def init_ipc_channels(self, port_args: PortArgs) -> None:
        self.ipc_channels = SchedulerIpcChannels(
            recv_from_tokenizer=None,
            recv_from_rpc=None,
            send_to_tokenizer=Outbox(),
            send_to_detokenizer=Outbox(),
            send_metrics_from_scheduler=None,
        )
        self.recv_from_tokenizer = None
        self.load_snapshot_writer = None

    def init_idle_sleeper(self) -> None:
        self.idle_sleeper = None


class SchedulerHarness:
    """One scheduler. Requests are token ids; `run` answers all that was submitted since the last run."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.answers: dict[str, Answer] = {}
        self.feed = Feed(scheduler)
        self._names = itertools.count()
        scheduler.request_receiver = self.feed
        scheduler.ipc_channels.send_to_detokenizer.receive = self._collect_tokens
        scheduler.ipc_channels.send_to_tokenizer.receive = self._collect_control

    def submit(
        self,
        prompt: Sequence[int],
        max_new_tokens: int = 8,
        *,
        when: When = 0,
        logprob_start_len: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Queue a greedy request and return its name.

        logprob_start_len: asks for log-probabilities, from that position on; -1 for those of the output only.
        sampling: further sampling parameters. fields: further fields of TokenizedGenerateReqInput.
        """
        name = f"request-{next(self._names):05}"  # SGLang aborts every request whose name begins like the given one
        params = SamplingParams(max_new_tokens=max_new_tokens, **{"temperature": 0.0, **(sampling or {})})
        params.normalize(None)
        request = io_struct.TokenizedGenerateReqInput(
            rid=name,
            input_ids=array("q", prompt),
            sampling_params=params,
            return_logprob=logprob_start_len is not None,
            logprob_start_len=-1 if logprob_start_len is None else logprob_start_len,
            **{**ABSENT_FIELDS, **fields},
        )
        self.answers[name] = Answer()
        self.send(request, when)
        return name

    def submit_to_embed(self, prompt: Sequence[int], *, when: When = 0) -> str:
        """Queue a request for an embedding and return its name."""
        name = f"request-{next(self._names):05}"
        params = SamplingParams(max_new_tokens=0)
        params.normalize(None)
        absent = dict.fromkeys(("input_text", "mm_inputs", "token_type_ids"))
        self.answers[name] = Answer()
        self.send(
            io_struct.TokenizedEmbeddingReqInput(
                rid=name, input_ids=array("q", prompt), sampling_params=params, **absent
            ),
            when,
        )
        return name

    def send(self, payload: Any, when: When = 0) -> None:
        """Queue any message that SGLang's scheduler dispatches."""
        self.feed.messages.append(Message(when, payload))

    def abort(self, name: str, when: When = 0) -> None:
        self.send(io_struct.AbortReq(rid=name), when)

    def run(self) -> dict[str, Answer]:
        """Turn SGLang's event loop until nothing is left; then check every pool. Returns all answers so far.

        Raises SchedulerStuck where requests wait and nothing runs, and whatever SGLang's own checks raise.
        """
        self.feed.start()
        self.scheduler.gracefully_exit = False
        self.scheduler.run_event_loop()
        self.check_pools()
        return self.answers

    def ask(self, prompt: Sequence[int], max_new_tokens: int = 8, **fields: Any) -> Answer:
        """Submit one request, run, and return its answer."""
        name = self.submit(prompt, max_new_tokens, **fields)
        return self.run()[name]

    def flush(self) -> None:
        self.send(io_struct.FlushCacheReqInput())
        self.run()

    def check_pools(self) -> None:
        """Every slot of the main pool is free or in the tree; the deep band holds anchors only."""
        tree, allocator = self.scheduler.tree_cache, self.scheduler.token_to_kv_pool_allocator
        free, cached = allocator.available_size(), tree.evictable_size()
        assert (tree.protected_size(), free + cached) == (0, allocator.size), f"{free=} {cached=} {allocator.size=}"
        assert self.scheduler.req_to_token_pool.available_size() == self.scheduler.req_to_token_pool.size
        pool = active_pool()
        if pool is not None:
            pool.check_idle()
            assert pool.deep_bands[0].num_in_use == 0

    def _collect_tokens(self, output: io_struct.BatchTokenIDOutput | io_struct.BatchEmbeddingOutput) -> None:
        for index, name in enumerate(output.rids):
            answer = self.answers[name]
            if isinstance(output, io_struct.BatchEmbeddingOutput):
                answer.embedding, answer.finish_reason = output.embeddings[index], output.finished_reasons[index]
                answer.cached_tokens = output.cached_tokens[index]
                continue
            if output.output_hidden_states:
                answer.hidden_states = output.output_hidden_states[index]
            answer.output_ids += output.output_ids[index]
            answer.finish_reason = output.finished_reasons[index]
            answer.cached_tokens = output.cached_tokens[index]
            answer.num_retractions = output.retraction_counts[index]
            answer.num_verified = output.spec_verify_ct[index] if output.spec_verify_ct else 0
            if output.input_token_logprobs_val:
                answer.input_logprobs += output.input_token_logprobs_val[index]
                answer.output_logprobs += output.output_token_logprobs_val[index]
                ids, values = output.input_top_logprobs_idx[index], output.input_top_logprobs_val[index]
                top = zip(ids or [], values or [], strict=True)
                answer.input_top_logprobs += [dict(zip(*one, strict=True)) if all(one) else {} for one in top]

    def _collect_control(self, output: Any) -> None:
        if isinstance(output, io_struct.AbortReq):
            self.answers[output.rid].finish_reason = output.finished_reason or {"type": "abort", "message": "Aborted"}


@contextmanager
def running_scheduler(
    model_path: Path,
    *,
    deep_tokens: int | None = None,
    retract_every: int | None = None,
    is_checked: bool = True,
    **settings: Any,
) -> Iterator[SchedulerHarness]:
    """A scheduler for a checkpoint until the block ends; its pools are checked by every run.

    deep_tokens: size of the deep band's pool. retract_every: retract requests every so many forwards.
    is_checked: check every slot after each step, which waits for the device. settings: fields of ServerArgs.
    """
    variables = (STRICT_CHECKS if is_checked else {}) | (
        {} if deep_tokens is None else {DEEP_TOKENS_VARIABLE: str(deep_tokens)}
    )
    changes = {
        "TEST_RETRACT": retract_every is not None,
        "TEST_RETRACT_INTERVAL": retract_every or 1,
        "create_scheduler_watchdog": lambda *args, **kwargs: None,  # its thread would keep the scheduler for ever
    }
    # what the CPU platform tells SGLang's processes through TORCH_COMPILE_DISABLE; here torch has been imported already
    nothing_is_compiled = torch._dynamo.config.patch(disable=True)
    with mock.patch.dict(os.environ, variables), mock.patch.multiple(scheduler_module, **changes), nothing_is_compiled:
        args = ServerArgs(model_path=str(model_path), **{**DEFAULTS, **settings})
        with _process_as_it_was():
            harness = build_scheduler(args)
            _keep_modules_out_of_collections()
            yield harness


@cache
def _keep_modules_out_of_collections() -> None:
    """SGLang collects garbage twice for each scheduler, among all that its modules hold: 0.7 s each time.

    What the first scheduler of a process has loaded by now is never looked at again.
    """
    gc.freeze()


def build_scheduler(args: ServerArgs) -> SchedulerHarness:
    """A scheduler that stays, as one of SGLang's own processes would have it; `running_scheduler` cleans up."""
    host.publish(args)
    return SchedulerHarness(InProcessScheduler(*host.scheduler_arguments(args, _port_args())))


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Undo what a scheduler changes in its process, so that the next one can be built."""
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        end_serving()
        host.forget_model()
        cleanup_dist_env_and_memory()
        torch.set_num_threads(num_threads)


def _port_args() -> PortArgs:
    """A port for torch.distributed; nothing is sent under any of the names."""
    names = {each.name: "" for each in dataclasses.fields(PortArgs)}
    return PortArgs(**names | {"nccl_port": get_free_port(), "decoupled_spec_ipc_config": None})

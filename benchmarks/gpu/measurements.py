"""The measurements of one contender: SGLang's own scheduler in this process, with its event loop and overlap.

Times end when the scheduler outputs a token; the HTTP server and the detokenizer, equal for all, are left out. Prompts
are random token ids.

Decoding after long prompts does not wait for their prefill: random KV is put into the radix tree, in separate slots, so
that a step reads as many bytes as after real prompts.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from contenders import Profile, fitting
from sglang.srt.mem_cache.base_prefix_cache import InsertParams
from sglang.srt.mem_cache.radix_cache import RadixKey

from sglang_speed.lab.bench.models import BOS_ID, EOS_ID
from tests.scheduler_harness import SchedulerHarness

FIRST_STEADY_STEP = 4
"""Earlier steps overlap with the prefill of the batch."""

Sample = tuple[str, float]
"""Name of a figure and value, in seconds, tokens, requests, or tokens per second."""


@dataclass
class Clock:
    """Records when each output leaves the scheduler, and for how many requests."""

    harness: SchedulerHarness
    times: list[float] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        outbox = self.harness.scheduler.ipc_channels.send_to_detokenizer
        collect = outbox.receive

        def receive(output: Any) -> None:
            self.times.append(time.perf_counter())
            self.batch_sizes.append(len(output.rids))
            collect(output)

        outbox.receive = receive

    def run(self) -> float:
        """Run the submitted requests; returns the start time."""
        self.times.clear()
        self.batch_sizes.clear()
        start = time.perf_counter()
        self.harness.run()
        return start


class Measurements:
    """All figures of one contender, one sample at a time."""

    def __init__(self, harness: SchedulerHarness, profile: Profile, seed: int) -> None:
        self.harness = harness
        self.profile = profile
        self.clock = Clock(harness)
        self.random = random.Random(seed)
        self.num_tokens: int = harness.scheduler.max_total_num_tokens

    def all_of_them(self, *, is_brief: bool) -> Iterator[Sample]:
        """Cheap ones first, in case the run is cut short. is_brief: only what `Lc = L` must not change."""
        self.warm_up()
        self.fill_pools()
        yield "prompt tokens", float(self.num_tokens)
        yield from self.decode_figures()
        yield from self.follow_ups(3)
        for index, length in enumerate(self.profile.prompt_lens[: 2 if is_brief else 3]):
            for _ in range((5, 3, 1)[index]):
                yield f"TTFT, {length}", self.ttft(length)
        if not is_brief:
            yield "output tokens/s, served", self.served()

    def decode_figures(self) -> Iterator[Sample]:
        length = self.profile.context_len
        most = fitting(self.num_tokens, length)
        for batch_size in sorted({1, min(4, most), most}):
            for _ in range(3):
                step, running = self.decode(length, batch_size)
                name = "as many as fit" if batch_size == most else f"batch {batch_size}"
                yield f"TPOT, {length}, {name}", step
        yield f"requests at once, {length}", float(running)
        middle = self.profile.prompt_lens[1]
        for _ in range(3):
            step, running = self.decode(middle, fitting(self.num_tokens, middle))
            yield f"output tokens/s, {middle}, as many as fit", running / step

    def warm_up(self) -> None:
        """Run every timed kernel once."""
        for length in self.profile.prompt_lens[:2]:
            self.ttft(length)
        self.decode(self.profile.prompt_lens[0], 2)

    def ttft(self, length: int) -> float:
        """TTFT of a cold prompt."""
        self.harness.flush()
        return self.time_to_first_token(self.prompt(length))

    def follow_ups(self, count: int) -> Iterator[Sample]:
        """TTFT of a second turn: a question after the longest prompt, which is in the tree."""
        self.start_over()
        first = self.prompt(self.profile.context_len)
        self.put_in_tree(first)
        for _ in range(count):
            question = self.prompt(self.profile.follow_up_len)[1:]
            yield f"TTFT of a hit, {self.profile.context_len}", self.time_to_first_token([*first, *question])

    def decode(self, length: int, batch_size: int) -> tuple[float, int]:
        """Seconds of a decode step, and the number of running requests."""
        self.start_over()
        for _ in range(batch_size):
            prompt = self.prompt(length)
            self.put_in_tree(prompt)
            self.submit(prompt, self.profile.new_tokens)
        self.clock.run()
        full = max(self.clock.batch_sizes)
        times = [at for at, size in zip(self.clock.times, self.clock.batch_sizes, strict=True) if size == full]
        assert len(times) >= self.profile.new_tokens // 2, f"{full} requests ran together for {len(times)} steps only"
        steps = [after - before for before, after in pairwise(times)]
        return median(steps[min(FIRST_STEADY_STEP, len(steps) // 2) :]), full

    def served(self) -> float:
        """Output tokens per second of cold prompts of the shortest length, prefill included."""
        self.harness.flush()
        profile = self.profile
        for _ in range(profile.served_requests):
            self.submit(self.prompt(profile.prompt_lens[0]), profile.served_new_tokens)
        start = self.clock.run()
        return profile.served_requests * profile.served_new_tokens / (self.clock.times[-1] - start)

    def time_to_first_token(self, prompt: Sequence[int]) -> float:
        self.submit(prompt, 1)
        start = self.clock.run()
        return self.clock.times[0] - start

    def submit(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Submit a streaming request for exactly `max_new_tokens`."""
        self.harness.submit(prompt, max_new_tokens, stream=True, sampling={"ignore_eos": True})

    def start_over(self) -> None:
        """Empty the tree and cache the anchors, without which no prefix is reused."""
        self.harness.flush()
        self.harness.ask(self.prompt(64), 2)

    def prompt(self, length: int) -> list[int]:
        vocabulary = range(EOS_ID + 1, self.profile.shape.vocab_size)
        return [BOS_ID, *self.random.choices(vocabulary, k=length - 1)]

    def put_in_tree(self, prompt: Sequence[int]) -> None:
        """Insert the prompt as if it had been prefilled; its first token may be cached already."""
        scheduler = self.harness.scheduler
        allocator = scheduler.token_to_kv_pool_allocator
        slots = allocator.alloc(len(prompt))
        assert slots is not None, f"no room for {len(prompt)} tokens beside {scheduler.tree_cache.evictable_size()}"
        key = RadixKey(array("q", prompt))
        available = allocator.available_size()
        known = scheduler.tree_cache.insert(InsertParams(key=key, value=slots)).prefix_len
        if allocator.available_size() == available:  # newer trees free by themselves what they have already
            allocator.free(slots[:known])

    def fill_pools(self) -> None:
        """Fill all slots with random keys and values: zeros multiply faster."""
        pool = self.harness.scheduler.token_to_kv_pool_allocator.get_kvcache()
        for buffer in (*pool.k_buffer, *pool.v_buffer):
            buffer.normal_()

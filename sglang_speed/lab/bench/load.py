"""Timed requests, by SGLang's own load generator, `sglang.bench_serving`, which measures times and counts."""

from __future__ import annotations

import random
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from sglang_speed.lab.bench.servers import Server, layers_beside
from sglang_speed.lab.common.client import GENERATION_SECONDS, Client, RequestFailed
from sglang_speed.method.cost import ModelShape, kept_layers

# command-line options that bench_serving's request function reads
_COMMAND_LINE = {
    "temperature": 0.0,
    "top_p": 1.0,
    "disable_ignore_eos": False,
    "disable_stream": False,
    "return_logprob": False,
    "return_routed_experts": False,
    "logprob_start_len": -1,
    "top_logprobs_num": 0,
    "token_ids_logprob": None,
    "cache_report": True,
    "header": None,
}


_GREEDY = {"temperature": 0.0, "ignore_eos": True, "skip_special_tokens": False}


@dataclass(frozen=True)
class Load:
    """running, waiting: requests that decode, and requests in the queue; one in prefill is neither. used_tokens: slots
    of the KV cache that requests hold."""

    running: int
    waiting: int
    used_tokens: int


@dataclass(frozen=True)
class Answer:
    """sent, times: when the request was sent and each token arrived, in seconds of one clock for all answers.

    The tokens of a chunk share its time evenly; those of the first have the same. ids: the generated tokens.
    """

    sent: float
    times: tuple[float, ...]
    prompt_len: int
    cached_len: int
    ids: tuple[int, ...]

    @property
    def ttft(self) -> float:
        return self.times[0] - self.sent


class LoadClient(Client):
    """Sends timed requests to a server. tokenizer: turns its text back into tokens, as a chat client does. adapter:
    LoRA that they name."""

    def __init__(self, server: Server, tokenizer: Any, adapter: str | None = None) -> None:
        super().__init__(server.url)
        with warnings.catch_warnings(action="ignore"):  # features that this machine lacks
            from sglang.benchmark import serving

        serving.set_global_args(Namespace(**_COMMAND_LINE))
        self._serving = serving
        self._tokenizer = tokenizer
        self._adapter = adapter
        self.server = server

    async def ask(self, prompt: Sequence[int], max_new_tokens: int) -> Answer:
        """Generate exactly `max_new_tokens` greedily. Raises RequestFailed otherwise."""
        request = self._serving.RequestFuncInput(
            prompt=list(prompt),
            api_url=f"{self.url}/generate",
            prompt_len=len(prompt),
            output_len=max_new_tokens,
            model="default",
            lora_name=self._adapter,
            image_data=None,
            extra_request_body={"sampling_params": {**_GREEDY, "max_new_tokens": max_new_tokens}},
        )
        output = await self._serving.async_request_sglang_generate(request)
        # after a stream error or an empty answer, bench_serving's times are zero
        if not output.success or output.ttft <= 0 or output.output_len != max_new_tokens:
            self.server.process.require_alive()
            raise RequestFailed(
                f"{self.url} answered a prompt of {len(prompt)} tokens with {output.output_len} of {max_new_tokens}: "
                f"{output.error or 'it ended early'}; its log is {self.server.process.log_path}"
            )
        ids = self._tokenizer.encode(output.generated_text, add_special_tokens=False)
        times = arrivals(output.start_time + output.ttft, output.itl, max_new_tokens)
        return Answer(output.start_time, times, len(prompt), output.cached_tokens, tuple(ids))

    def ask_together(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Send all prompts as one request: they enter the queue in this order, however busy the machine is."""
        sampling = {**_GREEDY, "max_new_tokens": max_new_tokens}
        payload = {"input_ids": [list(prompt) for prompt in prompts], "sampling_params": sampling}
        payload |= {} if self._adapter is None else {"lora_path": self._adapter}
        self.post("/generate", payload, GENERATION_SECONDS)

    def flush(self) -> None:
        """Empty the radix tree."""
        self.post("/flush_cache?timeout=60")

    def load(self) -> Load:
        """As the scheduler reported it after its last step."""
        ranks = self.get("/v1/loads?include=core").json()["loads"]
        names = ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")
        return Load(*(sum(rank[name] for rank in ranks) for name in names))

    def tokens_in_a_step(self) -> float | None:
        """What a decode step gave of a request on average, None where nothing is drafted."""
        length: float | None = self.info()["internal_states"][0].get("avg_spec_accept_length")
        return length

    def delay_steps(self, seconds: float) -> None:
        """Make the scheduler sleep before each step; 0 ends it."""
        self.post("/slow_down", {"forward_sleep_time": seconds})

    def kv_bytes_held(self, shape: ModelShape) -> int:
        """KV bytes in use by running requests, the radix tree and the deep band."""
        metrics = read_metrics(self.get("/metrics").text)
        config = self.server.contender.config
        shallow = metrics["sglang:kv_used_tokens"] + metrics["sglang:kv_evictable_tokens"]
        state = self.info()["internal_states"][0].get("speed", {})
        in_layers = shallow * kept_layers(shape, config) + layers_beside(config, state, "tokens_used")
        return int(in_layers * shape.kv_bytes_per_layer)


def arrivals(first: float, gaps: Sequence[float], num_tokens: int) -> tuple[float, ...]:
    """When each token came. gaps: between tokens, those left out that came with the first."""
    return tuple(accumulate([0.0] * (num_tokens - 1 - len(gaps)) + list(gaps), initial=first))


def read_metrics(text: str) -> dict[str, float]:
    """The metrics of a Prometheus page, each summed over its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


class Prompts:
    """Random token ids, the same for every side: `prompt("long", 3, 8192)` always has the same tokens, and shares only
    the first with any other prompt. vocab_size: of the model. message: the tokens that begin a message, if any."""

    def __init__(self, tokenizer: Any, vocab_size: int, message: Sequence[int] = ()) -> None:
        self.message = list(message)
        special = set(tokenizer.all_special_ids)
        self._ids = [token for token in range(min(len(tokenizer), vocab_size)) if token not in special]
        first = tokenizer.bos_token_id
        self._first = self._ids[0] if first is None else first

    def prompt(self, name: str, index: int, length: int) -> list[int]:
        """BoS, then `length - 1` random tokens."""
        return [self._first, *self.tokens(name, index, length - 1)]

    def tokens(self, name: str, index: int, length: int) -> list[int]:
        # without the length in the seed, a short prompt would be a prefix of a long one
        return random.Random(f"{name} {index} {length}").choices(self._ids, k=length)


def load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)

"""lm-eval's `speed-completions`: log-likelihoods of the model as it is served.

lm-eval's own clients request log-probabilities of the whole prompt. Scored tokens pass all layers, so for a SPEED model
they measure full depth. This one scores the continuation only; its context is prefill. Generation is lm-eval's.

`python -m sglang_speed.lab.evaluation.harness run ...` is `lm-eval run ...` with this additional model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.openai_completions import LocalCompletionsAPI

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.evaluation.subjects import served_speed

COMPLETIONS = "/v1/completions"
Pair = tuple[Any, list[int], list[int]]
"""lm-eval's cache key, context and continuation."""


@register_model("speed-completions")
class SpeedCompletions(LocalCompletionsAPI):
    """base_url: `http://HOST:PORT/v1/completions`, as for `local-completions`. Raises ConfigError if no SGLang server
    answers."""

    def __init__(self, base_url: str, **settings: Any) -> None:
        super().__init__(base_url=base_url, **settings)
        self._client = Client(base_url.removesuffix(COMPLETIONS), self._concurrent)
        speed = served_speed(self._client.info())
        self._tail_tokens = 1 if speed is None else speed.tail_tokens

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Sum of log-probabilities, and whether greedy decoding gives the same tokens."""
        return list(self._client.each(self._score, requests))

    def _score(self, pair: Pair) -> tuple[float, bool]:
        key, context, continuation = pair
        context = self._fitting(context, len(continuation))
        score = self._client.score(context, continuation, self._tail_tokens)
        answer = sum(score.logprobs), list(score.best) == list(continuation)
        if key is not None:
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return answer

    def _fitting(self, context: list[int], num_scored: int) -> list[int]:
        """Truncate the context on the left, as lm-eval does. Raises ConfigError if the continuation leaves no room."""
        room = self.max_length - num_scored  # lm-eval has subtracted one from the user's value
        if room < 1:
            raise ConfigError(
                f"{self.max_length} tokens leave no room for a context before a continuation of {num_scored}: raise "
                "max_length, up to the server's --context-length"
            )
        if len(context) > room:
            warnings.warn(
                f"contexts that exceed, with their continuation, {self.max_length} tokens lose their beginning and "
                "with it BoS, which is SPEED's anchor: raise max_length, up to the server's --context-length",
                stacklevel=1,
            )
        return context[-room:]


if __name__ == "__main__":
    cli_evaluate()

"""lm-eval's `speed-completions`: log-likelihoods of the model as it is served.

lm-eval's own clients ask for the log-probabilities of the whole prompt and keep those of the continuation. A scored
token passes all layers, so what they measure of a SPEED model is the model at full depth. This one scores the
continuation only, behind a context that is prefill. Generation is lm-eval's.

`python -m sglang_speed.lab.evaluation.harness run ...` is `lm-eval run ...` with this model beside lm-eval's own.
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
"""What lm-eval keeps an answer under, context and continuation."""


@register_model("speed-completions")
class SpeedCompletions(LocalCompletionsAPI):
    """base_url: `http://HOST:PORT/v1/completions`, as for `local-completions`. Raises ConfigError where no SGLang
    server is there."""

    def __init__(self, base_url: str, **settings: Any) -> None:
        super().__init__(base_url=base_url, **settings)
        self._client = Client(base_url.removesuffix(COMPLETIONS), self._concurrent)
        speed = served_speed(self._client.info())
        self._tail_tokens = 1 if speed is None else speed.tail_tokens

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Sum of log-probabilities, and whether greedy decoding would say the same."""
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
        """The end of the context, as lm-eval does it. Raises ConfigError where the continuation leaves no room."""
        room = self.max_length - num_scored  # lm-eval takes one off what the user gave
        if room < 1:
            raise ConfigError(
                f"{self.max_length} tokens are no room for a context before a continuation of {num_scored}: raise "
                "max_length, up to the server's --context-length"
            )
        if len(context) > room:
            warnings.warn(
                f"contexts that have, with their continuation, more than {self.max_length} tokens lose their beginning "
                "and with it BoS, which is SPEED's anchor: raise max_length, up to the server's --context-length",
                stacklevel=1,
            )
        return context[-room:]


if __name__ == "__main__":
    cli_evaluate()

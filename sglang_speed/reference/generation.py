"""What the model says: greedy generation and log-probabilities of one request.

Owns no model code. With or without a KV cache the tokens are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from sglang_speed.method import DeepTokens
from sglang_speed.reference.modeling import ReferenceModel


@dataclass(frozen=True, eq=False)
class GreedyStep:
    """One generated token and the logits it was chosen from, [vocab]."""

    token_id: int
    logits: Tensor

    @property
    def margin(self) -> float:
        """How far the chosen token is ahead of the second, in logits. Rounding can turn a step below it."""
        first, second = self.logits.topk(2).values
        return float(first - second)


def greedy_steps(
    model: ReferenceModel,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    scored_from: int | None = None,
    eos_token_id: int | None = None,
    use_cache: bool = True,
) -> Iterator[GreedyStep]:
    """Generate token by token; `eos_token_id` is the last token given.

    scored_from: first position whose log-probabilities were asked for; the prompt is deep from there on.
    use_cache: False computes the whole request again for every token.
    """
    deep_tokens = model.deep_tokens(prompt_ids, scored_from)
    is_whole = model.policy.is_filled or model.config.speed_config.is_thinned
    cache = DynamicCache() if use_cache and not is_whole else None
    tokens = list(prompt_ids)
    for _ in range(max_new_tokens):
        logits = _last_logits(model, tokens, deep_tokens, cache)
        step = GreedyStep(int(logits.argmax()), logits)
        yield step
        if step.token_id == eos_token_id:
            return
        tokens.append(step.token_id)


def generate_greedy(
    model: ReferenceModel,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    scored_from: int | None = None,
    eos_token_id: int | None = None,
    use_cache: bool = True,
) -> list[int]:
    """The generated token ids; the arguments are those of `greedy_steps`."""
    steps = greedy_steps(
        model, prompt_ids, max_new_tokens, scored_from=scored_from, eos_token_id=eos_token_id, use_cache=use_cache
    )
    return [step.token_id for step in steps]


@torch.no_grad()
def steps_along(
    model: ReferenceModel, prompt_ids: Sequence[int], output_ids: Sequence[int], *, scored_from: int | None = None
) -> list[GreedyStep]:
    """The model's greedy choice at each place of a given output, in one forward.

    They are those of `greedy_steps` up to the first place where the output has another token.
    """
    if not output_ids:
        return []
    deep_tokens = model.deep_tokens(prompt_ids, scored_from)
    ids = torch.tensor([[*prompt_ids, *output_ids[:-1]]], device=model.device)
    first_row = deep_tokens[-1].index_of(len(prompt_ids) - 1)
    logits = model(ids, deep_tokens).logits[0, first_row:].float()
    return [GreedyStep(int(one.argmax()), one) for one in logits]


@torch.no_grad()
def score(model: ReferenceModel, input_ids: Sequence[int], scored_from: int) -> list[float]:
    """Log-probabilities of the tokens at positions `scored_from + 1 .. n - 1`.

    Each comes from the logits one position earlier, so positions from `scored_from` on are deep; this is SGLang's
    `logprob_start_len = scored_from`, whose first entry has no value.
    """
    assert 0 <= scored_from < len(input_ids), f"{scored_from=} is not a position of {len(input_ids)} tokens"
    deep_tokens = model.deep_tokens(input_ids, scored_from)
    ids = torch.tensor([input_ids], device=model.device)
    first_row = deep_tokens[-1].index_of(scored_from)
    logprobs = model(ids, deep_tokens).logits[0, first_row:-1].float().log_softmax(-1)
    scores: list[float] = logprobs.gather(1, ids[0, scored_from + 1 :, None])[:, 0].tolist()
    return scores


@torch.no_grad()
def _last_logits(
    model: ReferenceModel, tokens: list[int], deep_tokens: Sequence[DeepTokens], cache: Cache | None
) -> Tensor:
    """Logits after the last token, [vocab]; computes what the cache lacks and puts it there."""
    num_cached = 0 if cache is None else cache.get_seq_length()
    ids = torch.tensor([tokens[num_cached:]], device=model.device)
    logits: Tensor = model(ids, deep_tokens, cache).logits
    return logits[0, -1].float()

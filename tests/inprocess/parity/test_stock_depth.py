"""Where no token is shallow-only the stock model answers: the same weights, served by SGLang's own Llama."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.served import active_pool, served
from tests.catalogue import NUM_LAYERS, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, require_close, submit, tokens
from tests.scheduler_harness import Answer, running_scheduler
from tests.tiny_models import BOS_ID

SETTINGS: list[Mapping[str, Any]] = [
    {},
    {"chunked_prefill_size": 17},
    {"page_size": 16, "disable_overlap_schedule": True},
]
FULL_DEPTH = {
    "all layers are prefill layers": Bands(NUM_LAYERS, 1, 16),
    "the tail is longer than every prompt": Bands(4, 0, 1000),
    "the anchors are more than every prompt has": Bands(4, 1000, 1),
    "all tokens are selected": Bands(4, 0, 1, "fastkv", select_ratio=1.0),
    "every message is short": Bands(4, 0, 1, deep_message_tokens=1000, message_delimiters=((BOS_ID,),)),
}


def conversation(path: Path, settings: Mapping[str, Any]) -> list[Answer]:
    """Cold and warm requests, with and without scores, and a second turn."""
    opening = [Ask(prompt(length, seed=7), 9, scored_from=length // 3) for length in (1, 2, 16, 17, 55)]
    opening += [Ask(prompt(length, seed=8), 9) for length in (1, 4, 33, 60)]
    with running_scheduler(path, deep_tokens=4096, **settings) as engine:
        first = [submit(engine, ask) for ask in opening]
        engine.run()
        asks = [
            Ask([*ask.prompt, *engine.answers[name].output_ids, *tokens(4)], 9, len(ask.prompt))
            for ask, name in zip(opening, first, strict=True)
        ]
        second = [submit(engine, ask) for ask in asks]
        engine.run()
        return [engine.answers[name] for name in first + second]


@pytest.mark.parametrize("bands", FULL_DEPTH.values(), ids=FULL_DEPTH)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_full_depth_is_the_stock_model(
    checkpoints: Checkpoints, plain_checkpoint: Path, settings: Mapping[str, Any], bands: Bands
) -> None:
    stock = conversation(plain_checkpoint, settings)
    ours = conversation(checkpoints(bands).path, settings)
    for one, other in zip(ours, stock, strict=True):
        assert one.output_ids == other.output_ids
        require_close(one.output_logprobs, other.output_logprobs, settings)
        require_close(one.input_logprobs[1:], other.input_logprobs[1:], settings)


def test_the_stock_model_has_no_deep_band(checkpoints: Checkpoints) -> None:
    with running_scheduler(checkpoints(Bands(NUM_LAYERS, 1, 16)).path) as engine:
        assert active_pool() is None
        assert engine.ask(prompt(40), 3).cached_tokens == 0
        assert engine.ask(prompt(40), 3).cached_tokens == 39, "no tail to recompute"


def test_another_model_is_served_as_it_is(expected: Expected, plain_checkpoint: Path) -> None:
    """The hooks of a process that has served a SPEED model change nothing for the next one."""
    with running_scheduler(expected.path) as engine:
        expected.answered(engine, [Ask(prompt(30))])
    with running_scheduler(plain_checkpoint) as engine:
        assert served() is None
        assert engine.ask(prompt(40), 3).cached_tokens == 0
        assert engine.ask(prompt(40), 3).cached_tokens == 39


@pytest.mark.parametrize(("prefill_layers", "share"), [(6, 3 / 4), (4, 1 / 2), (8, 1)])
def test_a_prompt_token_takes_its_share_of_the_kv_bytes(
    checkpoints: Checkpoints, plain_checkpoint: Path, prefill_layers: int, share: float
) -> None:
    """Bytes that are there: the tensors of the pool that holds prompt tokens, for the same number of tokens."""
    sizes = []
    for path in (checkpoints(Bands(prefill_layers)).path, plain_checkpoint):
        with running_scheduler(path, disable_overlap_schedule=True) as engine:
            pool = engine.scheduler.token_to_kv_pool_allocator.get_kvcache()
            sizes.append(sum(pool.get_kv_size_bytes()))
            engine.ask(prompt(100), 1)
            assert engine.scheduler.tree_cache.evictable_size() == 100
    assert sizes[0] / sizes[1] == share

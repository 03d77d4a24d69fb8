"""States survive their pseudo-layers, and tokens are selected as FastKV says; each on one rank, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.configs.model_config import AttentionArch
from torch import Tensor

from sglang_speed.attention import selection
from sglang_speed.kv_pool import states
from sglang_speed.kv_pool.states import StateStore, num_state_layers
from sglang_speed.method.deep_tokens import Context

NUM_SLOTS, FIRST_LAYER = 40, 3


@pytest.fixture(autouse=True, scope="module")
def one_rank() -> Iterator[None]:
    with (
        mock.patch.object(states, "tensor_model_parallel_all_gather", lambda part, dim: part),
        mock.patch.object(selection, "tensor_model_parallel_all_gather", lambda part, dim: part),
    ):
        yield


def model(hidden_size: int, num_heads: int, head_dim: int, latent: int = 0) -> SimpleNamespace:
    """What SGLang says of a model, whose keys and values are of one size, or a latent."""
    return SimpleNamespace(
        attention_arch=AttentionArch.MLA if latent else AttentionArch.MHA,
        hidden_size=hidden_size,
        get_num_kv_heads=lambda num_ranks: max(1, num_heads // num_ranks),
        head_dim=head_dim,
        v_head_dim=head_dim,
        kv_lora_rank=latent,
        qk_rope_head_dim=8,
    )


def pool_of(config: SimpleNamespace, num_layers: int, num_ranks: int) -> SimpleNamespace:
    """Of one rank; values of latents are a part of the keys."""
    if config.attention_arch == AttentionArch.MLA:
        buffers = [torch.zeros(NUM_SLOTS, 1, config.kv_lora_rank + 8) for _ in range(num_layers)]
        values = [buffer[..., : config.kv_lora_rank] for buffer in buffers]
    else:
        shape = NUM_SLOTS, config.get_num_kv_heads(num_ranks), config.head_dim
        buffers, values = ([torch.zeros(shape) for _ in range(num_layers)] for _ in range(2))
    return SimpleNamespace(get_key_buffer=buffers.__getitem__, get_value_buffer=values.__getitem__)


@pytest.mark.parametrize(
    ("config", "num_layers"),
    [
        (model(576, 3, 64), 2),  # the last of four pieces stays empty
        (model(4096, 8, 128), 2),
        (model(64, 2, 16), 1),
        (model(100, 1, 16), 4),
        (model(96, 4, 8, latent=16), 4),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_states_are_read_as_they_were_written(config: SimpleNamespace, num_layers: int, num_ranks: int) -> None:
    if num_ranks == 1:
        assert num_state_layers(config, num_ranks) == num_layers
    num_layers = num_state_layers(config, num_ranks)
    share, given = config.hidden_size // num_ranks, torch.randn(9, config.hidden_size)
    slots = torch.randperm(NUM_SLOTS)[:9]
    for rank in range(num_ranks):
        pool = pool_of(config, FIRST_LAYER + num_layers, num_ranks)
        store = StateStore(pool, FIRST_LAYER, num_layers, config.hidden_size, num_ranks, rank)
        store.write(slots, given)
        assert torch.equal(store.read(slots.flip(0)), given.flip(0)[:, rank * share : (rank + 1) * share])
        untouched = torch.ones(NUM_SLOTS, dtype=torch.bool).index_fill(0, slots, False)
        for layer in range(FIRST_LAYER + num_layers):
            keys = pool.get_key_buffer(layer)
            assert not keys[untouched].any()
            assert layer >= FIRST_LAYER or not keys.any(), "a layer of the model was written"


@given(
    num_slots=st.integers(2, 30),
    window=st.integers(1, 9),
    kernel=st.sampled_from([1, 3, 7]),
    cap=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 1000),
)
def test_scores_are_those_of_the_definition(num_slots: int, window: int, kernel: int, cap: float, seed: int) -> None:
    """Row by row and head by head. Keys are read in blocks."""
    window = min(window, num_slots - 1)
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(rows, heads, 6, generator=generator) for rows, heads in ((window, 4), (NUM_SLOTS, 2)))
    slots = torch.randperm(NUM_SLOTS, generator=generator)[:num_slots]
    with mock.patch.object(selection, "BLOCK_KEYS", 7):
        found = selection.scores_of_heads(queries, keys, slots, 0.3, cap, kernel)
    expected = by_definition(queries, keys[slots], 0.3, cap, kernel)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(selection.summed(found), expected.sum(0), atol=1e-5)


def by_definition(queries: Tensor, keys: Tensor, scaling: float, cap: float, kernel: int) -> Tensor:
    """Of each of two KV heads."""
    window, num_rows = len(queries), len(keys)
    total = torch.zeros(2, num_rows - window)
    for head in range(queries.shape[1]):
        received = torch.zeros(num_rows - window)
        for row in range(window):
            seen = keys[: num_rows - window + row + 1, head // 2]
            logits = seen @ queries[row, head] * scaling
            logits = cap * torch.tanh(logits / cap) if cap else logits
            received += logits.softmax(0)[: num_rows - window]
        for position in range(num_rows - window):
            total[head // 2, position] += received[max(0, position - kernel // 2) : position + kernel // 2 + 1].max()
    return total


def test_the_best_are_selected_beside_the_chosen_and_of_equal_ones_the_first() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0, 0.5, 0.2, 0.9])
    chosen = (range(0, 1), range(4, 5), range(8, 10))
    contexts = [Context(10, chosen, num_deep, window_from=8, whole_from=8) for num_deep in (8, 7, 4)]
    found = [each.tolist() for each in selection.select(scores, contexts)]
    assert found == [[0, 1, 2, 3, 4, 7, 8, 9], [0, 1, 2, 4, 7, 8, 9], [0, 4, 8, 9]]


def test_each_kv_head_keeps_its_best_beside_the_first_and_the_window() -> None:
    scores = torch.tensor([[0.0, 0.5, 0.9, 0.5, 0.5], [0.9, 0.1, 0.0, 0.3, 0.9]])
    assert selection.keep(scores, num_first=1, num_kept=5, num_places=7).tolist() == [[0, 1, 2, 5, 6], [0, 3, 4, 5, 6]]

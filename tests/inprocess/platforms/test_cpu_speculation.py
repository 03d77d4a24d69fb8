"""Trees of drafts on a CPU: who stands where, what is accepted, and by what chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sglang_speed.platforms.cpu import speculation
from sglang_speed.platforms.cpu.attention import trees_in
from tests import host

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="drafts are refused there")

PARENTS = [[-1, 0, 1, 2, 3], [-1, 0, 0, 1, 2], [-1, 0, 0, 0, 0], [-1, 0, 1, 1, 0]]
"""A chain, two branches, leaves only, and a mixture."""
NUM_NODES = 5


def mask_of(parents: list[int]) -> np.ndarray:
    mask = np.eye(NUM_NODES, dtype=bool)
    for node, parent in enumerate(parents[1:], 1):
        mask[node] |= mask[parent]
    return mask


def described(seq_lens: list[int]) -> tuple[Tensor, ...]:
    """Positions, places, first children and next siblings of all nodes of PARENTS."""
    mask = torch.from_numpy(np.stack([mask_of(parents) for parents in PARENTS])).flatten()
    found = tuple(torch.full((len(PARENTS), NUM_NODES), -7) for _ in range(4))
    speculation.describe_tree(mask, torch.tensor(seq_lens), found[0].view(-1), *found[1:], len(PARENTS), NUM_NODES)
    return found


def test_a_chain_is_described_like_the_tree_that_it_is() -> None:
    seq_lens = torch.tensor([4, 7])
    mask = torch.ones(int(NUM_NODES * (seq_lens + NUM_NODES).sum()), dtype=torch.bool)
    places, children, siblings = (torch.full((2, NUM_NODES), -7) for _ in range(3))
    positions = torch.zeros(2 * NUM_NODES, dtype=torch.int64)
    speculation.describe_chain(
        torch.empty(0), torch.empty(0), seq_lens, mask, positions, places, children, siblings, 1, 4, NUM_NODES, 0
    )
    for number, tree in enumerate(trees_in(mask, seq_lens.tolist(), NUM_NODES)):
        assert np.array_equal(tree, mask_of(PARENTS[0]))
        assert children[number].tolist() == [1, 2, 3, 4, -1]
    assert positions.tolist() == [4, 5, 6, 7, 8, 7, 8, 9, 10, 11]
    assert siblings.unique().tolist() == [-1]
    assert places.flatten().tolist() == list(range(10))


def verified(tokens: list[list[int]], said: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Nodes on the way of each tree, and what is said behind each of them."""
    _, places, children, siblings = described([0] * len(PARENTS))
    shape = (len(PARENTS), NUM_NODES)
    predicts, accepted = torch.zeros(shape, dtype=torch.int32).flatten(), torch.full(shape, -1, dtype=torch.int32)
    counts = torch.empty(len(PARENTS), dtype=torch.int32)
    speculation.verify_greedy_tree(
        predicts, accepted, counts, torch.tensor(tokens), places, children, siblings, torch.tensor(said)
    )
    ways = [line[: count + 1].tolist() for line, count in zip(accepted, counts.tolist(), strict=True)]
    return ways, [predicts[way].tolist() for way in ways]


def test_the_way_of_a_greedy_answer_goes_on_where_a_child_is_what_is_said() -> None:
    tokens = [[9, 1, 2, 3, 4], [9, 1, 2, 3, 4], [9, 1, 2, 3, 4], [9, 1, 2, 3, 4]]
    said = [[1, 2, 7, 0, 0], [2, 0, 4, 0, 5], [3, 0, 0, 8, 0], [6, 0, 0, 0, 0]]
    ways, answers = verified(tokens, said)
    assert ways == [[0, 1, 2], [5, 7, 9], [10, 13], [15]]
    assert answers == [[1, 2, 7], [2, 4, 5], [3, 8], [6]]


def test_drawn_answers_are_distributed_as_without_drafts() -> None:
    """Of the first token, whatever is drafted; and of the second one behind each of them."""
    torch.manual_seed(0)
    num_draws, vocab = 40000, 4
    parents = PARENTS[1]
    probs = torch.tensor(
        [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.0, 0.5], [0.0, 1, 0, 0], [1, 0, 0, 0]]
    )
    tokens = torch.tensor([3, 1, 2, 0, 3]).expand(num_draws, -1)
    mask = torch.from_numpy(mask_of(parents)).expand(num_draws, -1, -1).flatten()
    links: tuple[Any, ...] = tuple(torch.empty((num_draws, NUM_NODES), dtype=torch.int64) for _ in range(4))
    speculation.describe_tree(mask, torch.zeros(num_draws), links[0].view(-1), *links[1:], num_draws, NUM_NODES)
    predicts = torch.zeros(num_draws * NUM_NODES, dtype=torch.int32)
    accepted, counts = torch.full((num_draws, NUM_NODES), -1), torch.empty(num_draws, dtype=torch.int64)
    target = probs.expand(num_draws, -1, -1)
    speculation.verify_sampled_tree(
        predicts,
        accepted,
        counts,
        tokens,
        *links[1:],
        torch.rand(num_draws, NUM_NODES),
        torch.rand(num_draws),
        target,
        target,
    )
    first = predicts.view(num_draws, NUM_NODES)[:, 0]
    assert torch.allclose(torch.bincount(first, minlength=vocab) / num_draws, probs[0], atol=0.01)
    assert (counts > 0).float().mean() == pytest.approx(0.5, abs=0.01)
    for node, token in ((1, 1), (2, 2)):
        second = predicts.view(num_draws, NUM_NODES)[first == token, node]
        assert torch.allclose(torch.bincount(second, minlength=vocab) / len(second), probs[node], atol=0.02)


def test_the_most_likely_tokens_are_kept() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.7, 0.1, 0.15, 0.05]])
    assert torch.allclose(
        speculation.keep_top_k(probs, torch.tensor([2, 1])), torch.tensor([[0, 4 / 7, 3 / 7, 0], [1, 0, 0, 0]])
    )
    assert torch.allclose(
        speculation.keep_top_p(probs, torch.tensor([0.6, 0.5])), torch.tensor([[0, 4 / 7, 3 / 7, 0], [1, 0, 0, 0]])
    )


def test_slots_of_accepted_drafts_come_first() -> None:
    slots, accepted = torch.tensor([5, 6, 7, 8, 9, 10]), torch.tensor([[0, 2, -1], [3, 4, 5]])
    front, source = torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)
    speculation.fill_first_slots(torch.tensor([2, 3]), slots, front)
    speculation.fill_accepted_slots(accepted, slots, source, 6)
    assert front.tolist() == [5, 6, 8, 9, 10, 0]
    assert source.tolist() == [5, 7, 8, 9, 10, 0]


def test_slots_are_written_and_read_by_line() -> None:
    table = torch.zeros((3, 8), dtype=torch.int32)
    rows, starts, ends = torch.tensor([2, 1]), torch.tensor([1, 3]), torch.tensor([4, 5])
    speculation.write_slots(rows, table, starts, ends, torch.tensor([11, 12, 13, 21, 22]), 2)
    assert table.tolist() == [[0] * 8, [0, 0, 0, 21, 22, 0, 0, 0], [0, 11, 12, 13, 0, 0, 0, 0]]
    found = torch.zeros(4, dtype=torch.int64)
    speculation.slots_of_steps(rows, table, torch.tensor([1, 3]), found, 1, 2)
    assert found.tolist() == [11, 12, 21, 22]


def test_the_last_accepted_token_of_each_request() -> None:
    found = torch.zeros(2, dtype=torch.int32)
    speculation.last_accepted(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([2, 3]), found, 3, 2)
    assert found.tolist() == [2, 6]

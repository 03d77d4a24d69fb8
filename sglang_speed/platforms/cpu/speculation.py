"""Speculative decoding on a CPU: what SGLang has as kernels for accelerators, in PyTorch.

A verified batch has `num_nodes` tokens of each request: the last one that is known and the drafts, a tree whose first
node is the root. Owns no state; everything works on the tensors that it is given, as the kernels do.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sglang_speed.host.field import Field

SAMPLERS = tuple(
    Field(
        owner="sglang.srt.speculative.eagle_utils",
        name=name,
        is_new=False,
        reason="None where SGLang has no kernel for a device, and sampled answers are verified with it",
    )
    for name in ("tree_speculative_sampling_target_only", "top_k_renorm_prob", "top_p_renorm_prob")
)
KERNEL_MODULE = "sgl_kernel.speculative"
"""A module of a package that cannot be imported without a GPU driver; SGLang's n-gram worker asks it for a function."""


def provide_kernels() -> None:
    """Put the functions of this module where SGLang looks for kernels, and finds none on this platform."""
    kernels: Any = ModuleType(KERNEL_MODULE)
    kernels.reconstruct_indices_from_tree_mask = describe_tree
    sys.modules.setdefault(KERNEL_MODULE, kernels)
    from sglang.srt.speculative import eagle_utils

    for field, function in zip(SAMPLERS, (verify_sampled_tree, keep_top_k, keep_top_p), strict=True):
        field.check()
        field.set(eagle_utils, function)


def describe_tree(
    tree_mask: Tensor,
    verified_seq_len: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Positions, first children and next siblings of all nodes, from who is whose ancestor; in place.

    tree_mask: bool, [batch_size * num_nodes * num_nodes]: whether a node (line) sees another one (column); parents come
    before their children. positions: [batch_size * num_nodes]. retrieve_*: [batch_size, num_nodes]; -1 for none.
    """
    nodes = torch.arange(draft_token_num, device=tree_mask.device)
    is_above = tree_mask.view(batch_size, draft_token_num, draft_token_num) & (nodes < nodes[:, None])
    positions.view(batch_size, draft_token_num).copy_(is_above.sum(-1) + verified_seq_len[:, None])
    retrieve_index.copy_(torch.arange(batch_size * draft_token_num).view(batch_size, draft_token_num))
    parents = torch.where(is_above, nodes, -1).amax(-1)
    retrieve_next_token.copy_(_first(is_above))
    is_later_sibling = (parents[:, :, None] == parents[:, None]) & (nodes < nodes[:, None]) & (parents >= 0)[:, None]
    retrieve_next_sibling.copy_(_first(is_later_sibling))


def _first(found: Tensor) -> Tensor:
    """The first line of each column that is set, -1 where none is. found: bool, [batch_size, num_nodes, num_nodes]."""
    return torch.where(found.any(1), found.int().argmax(1), -1)


def describe_chain(
    parent_list: Tensor,
    top_scores_index: Tensor,
    seq_lens: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    topk: int,
    spec_steps: int,
    num_verify_tokens: int,
    tree_mask_mode: int,
) -> None:
    """The same where each draft stands behind the one before it, and the mask too; in place.

    tree_mask: flat, of each request [num_nodes, seq_len + num_nodes], all True; only later drafts are hidden.
    """
    assert topk == 1, f"{topk=}: a CPU drafts chains only"
    num_nodes, nodes = num_verify_tokens, torch.arange(num_verify_tokens)
    positions.view(-1, num_nodes).copy_(seq_lens[:, None] + nodes)
    retrieve_index.copy_(torch.arange(retrieve_index.numel()).view(-1, num_nodes))
    retrieve_next_token.copy_(torch.where(nodes + 1 < num_nodes, nodes + 1, -1).expand_as(retrieve_next_token))
    retrieve_next_sibling.fill_(-1)
    first = 0
    for seq_len in seq_lens.tolist():
        end = first + num_nodes * (seq_len + num_nodes)
        tree_mask[first:end].view(num_nodes, -1)[:, seq_len:] = nodes <= nodes[:, None]
        first = end


def verify_greedy_tree(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    target_predict: Tensor,
    topk: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow each tree from its root for as long as a child is the token that the model says behind its parent.

    Written to: predicts, [batch_size * num_nodes], what the model says behind each node on the way; accept_index,
    [batch_size, most], these nodes; accept_token_num, [batch_size], how many they are without the root.
    candidates, target_predict: [batch_size, num_nodes], tokens of the nodes and what the model says behind them.
    """
    said, tokens = target_predict.tolist(), candidates.tolist()
    children, siblings, places = retrieve_next_token.tolist(), retrieve_next_sibling.tolist(), retrieve_index.tolist()
    most = accept_index.shape[1]
    for line in range(len(tokens)):
        way, child = [0], children[line][0]
        while child != -1 and len(way) < most:
            if tokens[line][child] == said[line][way[-1]]:
                way.append(child)
                child = children[line][child]
            else:
                child = siblings[line][child]
        _accept(line, way, [said[line][node] for node in way], places[line], predicts, accept_index, accept_token_num)
    return predicts, accept_index, accept_token_num


def verify_sampled_tree(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """The same for tokens that are drawn: at each node one draw decides between its children and all other tokens.

    target_probs: [batch_size, num_nodes, vocab_size]. uniform_samples: [batch_size, num_nodes], the draws;
    uniform_samples_for_final_sampling: [batch_size], the draw of the token behind the last node on the way.
    threshold_single: a child that is at least as likely is taken; threshold_acc: what all draws are multiplied by.
    """
    tokens, draws = candidates.tolist(), uniform_samples.tolist()
    children, siblings = retrive_next_token.tolist(), retrive_next_sibling.tolist()
    places, most = retrive_index.tolist(), accept_index.shape[1]
    for line in range(len(tokens)):
        way, child, passed = [0], children[line][0], list[int]()
        mass = 0.0
        while child != -1 and len(way) < most:
            token = tokens[line][child]
            likely = float(target_probs[line, way[-1], token])
            mass += likely
            if draws[line][way[-1]] * threshold_acc < mass or likely >= threshold_single:
                way.append(child)
                child, passed, mass = children[line][child], [], 0.0
            else:
                passed.append(token)
                child = siblings[line][child]
        rest = target_probs[line, way[-1]].clone()
        rest[passed] = 0.0
        last = _draw(rest, float(uniform_samples_for_final_sampling[line]))
        said = [*(tokens[line][node] for node in way[1:]), last]
        _accept(line, way, said, places[line], predicts, accept_index, accept_token_num)


def _draw(weights: Tensor, draw: float) -> int:
    """A token by its weight; one of weight 0 never is."""
    ends = weights.double().cumsum(-1)
    found = int(torch.searchsorted(ends, draw * ends[-1], right=True))
    return min(found, int(weights.nonzero()[-1]))


def _accept(
    line: int,
    way: list[int],
    said: list[int],
    places: list[int],
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
) -> None:
    nodes = torch.tensor([places[node] for node in way])
    predicts[nodes] = torch.tensor(said, dtype=predicts.dtype)
    accept_index[line, : len(way)] = nodes.to(accept_index.dtype)
    accept_token_num[line] = len(way) - 1


def keep_top_k(probs: Tensor, top_ks: Tensor) -> Tensor:
    """Probabilities of the `top_ks` most likely tokens of each line, which add up to 1. probs: [lines, vocab_size]."""
    places = (top_ks.clamp(max=probs.shape[-1]) - 1).long()[:, None]
    least = probs.sort(dim=-1, descending=True).values.gather(-1, places)
    return _normed(probs.masked_fill(probs < least, 0.0))


def keep_top_p(probs: Tensor, top_ps: Tensor) -> Tensor:
    """The same of as many of the most likely tokens as have `top_ps` together, and one at least."""
    ranked, order = probs.sort(dim=-1, descending=True)
    is_out = ranked.cumsum(-1) - ranked >= top_ps[:, None]
    is_out[:, 0] = False
    return _normed(probs.masked_fill(torch.zeros_like(is_out).scatter(-1, order, is_out), 0.0))


def _normed(probs: Tensor) -> Tensor:
    return probs / probs.sum(-1, keepdim=True)


def slots_of_drafts(
    *,
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    batch_size: int,
    draft_token_num: int,
    device: Any,
) -> Tensor:
    """Slots of the places `[start, end)` of each request, all of which have `draft_token_num`; int64, flat."""
    places = start_offset.long()[:, None] + torch.arange(draft_token_num, device=device)
    return req_to_token[req_pool_indices.long()[:, None], places].long().flatten()


def slots_of_steps(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    topk: int,
    num_cols: int,
    positions: Tensor | None = None,
    mrope: Tensor | None = None,
) -> None:
    """Write the slots of the `num_cols` places behind each request into `out_cache_loc`, flat; in place."""
    assert topk == 1, f"{topk=}: a CPU drafts chains only"
    found = slots_of_drafts(
        req_pool_indices=req_pool_indices,
        req_to_token=req_to_token,
        start_offset=seq_lens,
        end_offset=seq_lens + num_cols,
        batch_size=len(seq_lens),
        draft_token_num=num_cols,
        device=seq_lens.device,
    )
    out_cache_loc.copy_(found)


def last_accepted(
    accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int, batch_size: int
) -> None:
    """Write the last accepted token of each request into `bonus_tokens`; in place."""
    tokens = accept_tokens.view(batch_size, accept_stride).gather(1, accept_lens.long()[:, None] - 1)
    bonus_tokens.copy_(tokens[:, 0])


def fill_first_slots(num_front: Tensor, out_cache_loc: Tensor, front_out_cache_loc: Tensor) -> None:
    """Write the first `num_front` of each request's equally many slots, request by request; in place."""
    slots = out_cache_loc.view(len(num_front), -1)
    is_first = torch.arange(slots.shape[1], device=slots.device) < num_front[:, None]
    found = slots[is_first].to(front_out_cache_loc.dtype)
    front_out_cache_loc[: len(found)] = found


def fill_accepted_slots(accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor, size: int) -> None:
    """Write the slots of accepted tokens in their order, leaving out the places that have none (-1); in place."""
    accepted = accept_index.flatten()
    found = out_cache_loc[accepted[accepted >= 0].long()]
    accept_out_cache_loc[: len(found)] = found.to(accept_out_cache_loc.dtype)


def write_slots(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor | None,
    batch_size: int,
) -> None:
    """Write slots, request by request, into the places `[start, end)` of each request's line of the table; in place."""
    done = 0
    lines = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for row, start, end in lines:
        if end > start and out_cache_loc is not None:
            req_to_token[row, start:end] = out_cache_loc[done : done + end - start].to(req_to_token.dtype)
            done += end - start

"""Claims about the CPU attention backend: SGLang's stock backend is the reference, on the same table and pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from torch import Tensor

from sglang_speed.platforms.cpu.attention import BLOCK_ROWS, MIN_RUN, CpuAttnBackend, split_runs

HEAD_DIM = 16
NUM_KV_HEADS = 2
NUM_SLOTS = 4096
LAYER_ID = 5
FLOAT32_TOLERANCE = 2e-6
"""Outputs are means of standard normal values; merging pieces changes the order of float32 sums."""

LENGTHS = {
    "cold": [(0, 7)],
    "hit": [(9, 4)],
    "whole prompt cached": [(40, 1)],
    "long hit": [(2 * MIN_RUN + 30, 6)],
    "chunk": [(MIN_RUN + 10, MIN_RUN + 20)],
    "mixed": [(0, 5), (3, 1), (MIN_RUN + 50, 9), (0, 1), (12, 3)],
}


class Pool:
    """A KV pool of one layer, as a backend uses one."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (NUM_SLOTS, NUM_KV_HEADS, HEAD_DIM)
        self.keys, self.values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))

    def set_kv_buffer(self, layer: RadixAttention, where: KVWriteLoc, keys: Tensor, values: Tensor) -> None:
        self.keys[where.loc], self.values[where.loc] = keys, values

    def get_key_buffer(self, layer_id: int) -> Tensor:
        assert layer_id == LAYER_ID
        return self.keys

    def get_value_buffer(self, layer_id: int) -> Tensor:
        assert layer_id == LAYER_ID
        return self.values


@dataclass
class Case:
    """A batch with its table, its pool and its rows."""

    batch: SimpleNamespace
    runner: SimpleNamespace
    layer: RadixAttention
    rows: tuple[Tensor, Tensor, Tensor]

    def run(self, backend_class: type[TorchNativeAttnBackend], **more: Tensor) -> Tensor:
        backend = backend_class(self.runner)
        backend.init_forward_metadata(self.batch)
        return backend.forward(*self.rows, self.layer, self.batch, **more)


def slots_of(num_tokens: int, layout: str, first: int) -> Tensor:
    """Slots of one request. first: where its own region of the pool begins."""
    if layout == "in a row":
        return torch.arange(first, first + num_tokens)
    if layout == "scattered":
        generator = torch.Generator().manual_seed(first)
        return first + torch.randperm(num_tokens, generator=generator)
    half = num_tokens // 2  # two runs in the wrong order
    return torch.cat([torch.arange(first + half, first + num_tokens), torch.arange(first, first + half)])


def make_case(
    lengths: Sequence[tuple[int, int]],
    *,
    mode: ForwardMode = ForwardMode.EXTEND,
    group: int = 3,
    layout: str = "in a row",
    dtype: torch.dtype = torch.float32,
    **layer_options: object,
) -> Case:
    """lengths: (cached tokens, new tokens) of each request."""
    generator = torch.Generator().manual_seed(1)
    num_heads, num_rows = group * NUM_KV_HEADS, sum(new for _, new in lengths)
    table = torch.zeros(len(lengths) + 1, 1024, dtype=torch.int32)
    new_slots, first = [], 1
    for row, (cached, new) in enumerate(lengths, start=1):
        slots = slots_of(cached + new, layout, first)
        table[row, : len(slots)] = slots.int()
        new_slots.append(slots[cached:])
        first += len(slots) + 3
    batch = SimpleNamespace(
        forward_mode=mode,
        req_pool_indices=torch.arange(1, len(lengths) + 1),
        seq_lens=torch.tensor([cached + new for cached, new in lengths]),
        extend_prefix_lens=torch.tensor([cached for cached, _ in lengths], dtype=torch.int32),
        extend_seq_lens=torch.tensor([new for _, new in lengths], dtype=torch.int32),
        out_cache_loc=torch.cat(new_slots),
        encoder_lens=None,
    )
    pools = {"req_to_token_pool": SimpleNamespace(req_to_token=table), "token_to_kv_pool": Pool(dtype)}
    rows = tuple(
        torch.randn(num_rows, heads * HEAD_DIM, generator=generator).to(dtype)
        for heads in (num_heads, NUM_KV_HEADS, NUM_KV_HEADS)
    )
    shape = (num_rows, NUM_KV_HEADS, HEAD_DIM)
    layer = RadixAttention(num_heads, HEAD_DIM, HEAD_DIM**-0.5, NUM_KV_HEADS, LAYER_ID, **layer_options)
    runner = SimpleNamespace(device="cpu", **pools)
    return Case(batch, runner, layer, (rows[0], rows[1].view(shape), rows[2].view(shape)))


@pytest.mark.parametrize("layout", ["in a row", "scattered", "two runs"])
@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_an_extend_equals_stock(lengths: list[tuple[int, int]], group: int, layout: str) -> None:
    case = make_case(lengths, group=group, layout=layout)
    torch.testing.assert_close(
        case.run(CpuAttnBackend), case.run(TorchNativeAttnBackend), atol=FLOAT32_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("layout", ["in a row", "scattered", "two runs"])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_a_decode_step_equals_stock(group: int, layout: str) -> None:
    lengths = [(0, 1), (17, 1), (3 * MIN_RUN, 1), (MIN_RUN - 1, 1)]
    case = make_case(lengths, mode=ForwardMode.DECODE, group=group, layout=layout)
    torch.testing.assert_close(
        case.run(CpuAttnBackend), case.run(TorchNativeAttnBackend), atol=FLOAT32_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.DECODE])
@pytest.mark.parametrize("layout", ["in a row", "two runs"])
def test_bfloat16_is_as_exact_as_stock(mode: ForwardMode, layout: str) -> None:
    new_len = 1 if mode.is_decode() else 40
    case = make_case([(3 * MIN_RUN, new_len)], mode=mode, layout=layout, dtype=torch.bfloat16)
    stock, ours = case.run(TorchNativeAttnBackend).float(), case.run(CpuAttnBackend).float()
    case.runner.token_to_kv_pool.keys = case.runner.token_to_kv_pool.keys.float()
    case.runner.token_to_kv_pool.values = case.runner.token_to_kv_pool.values.float()
    case.rows = tuple(row.float() for row in case.rows)
    exact = case.run(TorchNativeAttnBackend)
    # A merged output is rounded once more than a plain one, by half a unit in the last place.
    rounding = torch.finfo(torch.bfloat16).eps * exact.abs().max()
    assert (ours - exact).abs().max() <= (stock - exact).abs().max() + rounding


def test_a_prompt_in_two_chunks_equals_the_prompt_at_once() -> None:
    total, cut = 2 * MIN_RUN + 7, MIN_RUN + 3
    whole = make_case([(0, total)])
    chunks = [make_case([(0, cut)]), make_case([(cut, total - cut)])]
    for chunk, rows in zip(chunks, (slice(0, cut), slice(cut, total)), strict=True):
        chunk.rows = tuple(row[rows] for row in whole.rows)
        chunk.runner = whole.runner
    outputs = torch.cat([chunk.run(CpuAttnBackend) for chunk in chunks])
    torch.testing.assert_close(outputs, whole.run(CpuAttnBackend), atol=FLOAT32_TOLERANCE, rtol=0)


def test_each_instance_reads_the_table_and_the_pool_it_was_built_with() -> None:
    first, second = make_case([(20, 2)]), make_case([(20, 2)], layout="scattered")
    second.runner.token_to_kv_pool = Pool(torch.float32, seed=9)
    backends = [CpuAttnBackend(case.runner) for case in (first, second)]
    for backend, case in zip(backends, (first, second), strict=True):
        backend.init_forward_metadata(case.batch)
    for backend, case in zip(backends, (first, second), strict=True):
        output = backend.forward(*case.rows, case.layer, case.batch)
        torch.testing.assert_close(output, case.run(TorchNativeAttnBackend), atol=FLOAT32_TOLERANCE, rtol=0)


def test_new_keys_are_stored_unless_told_otherwise() -> None:
    case = make_case([(4, 3)])
    pool, loc = case.runner.token_to_kv_pool, case.batch.out_cache_loc
    before = pool.keys[loc].clone()
    backend = CpuAttnBackend(case.runner)
    backend.init_forward_metadata(case.batch)
    backend.forward(*case.rows, case.layer, case.batch, save_kv_cache=False)
    assert torch.equal(pool.keys[loc], before)
    backend.forward(*case.rows, case.layer, case.batch)
    assert torch.equal(pool.keys[loc], case.rows[1])


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.DECODE])
def test_an_encoder_is_left_to_stock(mode: ForwardMode) -> None:
    lengths = [(6, 1), (9, 1)] if mode.is_decode() else [(0, 8)]
    case = make_case(lengths, mode=mode, attn_type=AttentionType.ENCODER_ONLY)
    assert torch.equal(case.run(CpuAttnBackend), case.run(TorchNativeAttnBackend))


@pytest.mark.parametrize("layout", ["in a row", "scattered"])
@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.DECODE])
@pytest.mark.parametrize("window", [0, 3, BLOCK_ROWS, 5000])
def test_a_window_sees_what_stock_sees(window: int, mode: ForwardMode, layout: str) -> None:
    """Prompts of several blocks, cold and behind a prefix."""
    lengths = [(6, 1), (700, 1), (50, 1)] if mode.is_decode() else [(0, 8), (0, 2 * BLOCK_ROWS + 5), (300, 40), (9, 1)]
    case = make_case(lengths, mode=mode, layout=layout, sliding_window_size=window)
    torch.testing.assert_close(
        case.run(CpuAttnBackend), case.run(TorchNativeAttnBackend), atol=FLOAT32_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.DECODE])
@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_sinks_and_capped_scores_are_those_of_the_formula(
    has_sinks: bool, cap: float, window: int, mode: ForwardMode
) -> None:
    """SGLang's class for CPUs has neither."""
    lengths = [(12, 1), (0, 1)] if mode.is_decode() else [(0, 9), (7, 5)]
    case = make_case(lengths, mode=mode, sliding_window_size=window, logit_cap=cap)
    sinks = torch.randn(case.layer.tp_q_head_num, generator=torch.Generator().manual_seed(3)) if has_sinks else None
    found = case.run(CpuAttnBackend, **({"sinks": sinks} if has_sinks else {}))
    torch.testing.assert_close(found, by_the_formula(case, sinks), atol=FLOAT32_TOLERANCE, rtol=0)


def by_the_formula(case: Case, sinks: Tensor | None) -> Tensor:
    """Softmax over all that a row sees, row by row and head by head, in float64."""
    table, layer = case.runner.req_to_token_pool.req_to_token, case.layer
    pool, outputs = case.runner.token_to_kv_pool, []
    queries = case.rows[0].view(-1, layer.tp_q_head_num, HEAD_DIM).double()
    row = 0
    for request, seq_len in enumerate(case.batch.seq_lens.tolist(), start=1):
        new_len = 1 if case.batch.forward_mode.is_decode() else int(case.batch.extend_seq_lens[request - 1])
        for position in range(seq_len - new_len, seq_len):
            first = 0 if layer.sliding_window_size < 0 else max(0, position - layer.sliding_window_size)
            slots = table[request, first : position + 1].long()
            for head in range(layer.tp_q_head_num):
                kv_head = head // (layer.tp_q_head_num // NUM_KV_HEADS)
                scores = pool.keys[slots, kv_head].double() @ queries[row, head] * layer.scaling
                scores = layer.logit_cap * torch.tanh(scores / layer.logit_cap) if layer.logit_cap else scores
                beside = scores[:0] if sinks is None else sinks[head : head + 1].double()
                weights = torch.cat([scores, beside]).softmax(0)[: len(scores)]
                outputs.append(weights @ pool.values[slots, kv_head].double())
            row += 1
    return torch.stack(outputs).view(row, -1).float()


def test_an_idle_batch_plans_nothing() -> None:
    case = make_case([(4, 3)])
    backend = CpuAttnBackend(case.runner)
    backend.init_forward_metadata(case.batch)
    backend.init_forward_metadata(SimpleNamespace(forward_mode=ForwardMode.IDLE, out_cache_loc=None))
    assert backend.plans == []


def test_runs_are_read_in_place_and_the_rest_is_gathered_once() -> None:
    run, other = torch.arange(100, 100 + MIN_RUN), torch.arange(2000, 2000 + MIN_RUN + 5)
    short = torch.tensor([5, 9, 7, 50, 51])
    pieces = split_runs(torch.cat([run, short[:2], other, short[2:]]).int().numpy())
    assert pieces[:2] == (slice(100, 100 + MIN_RUN), slice(2000, 2000 + MIN_RUN + 5))
    assert len(pieces) == 3
    assert pieces[2].tolist() == short.tolist()


@pytest.mark.parametrize("num_slots", [0, 1, MIN_RUN - 1, MIN_RUN])
def test_one_run_is_one_piece_of_any_length(num_slots: int) -> None:
    expected = (slice(3, 3 + num_slots),) if num_slots else ()
    assert split_runs(np.arange(3, 3 + num_slots, dtype=np.int32)) == expected

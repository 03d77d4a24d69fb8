"""A deep band's view of a batch: the same requests as shorter sequences.

Builds, from a ForwardBatch and a deep band's table, the child ForwardBatch that a second instance of the
same attention backend runs on. Reads the band's bookkeeping, changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.attention.adapters import RowAdapters, has_prompts
from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.deep_band import DeepBand

REQUEST_ROWS = "speed_request_rows"
"""Key in `ForwardBatch.model_specific_states`: request rows of the batch, [batch_size], int64, on the CPU."""


@dataclass(frozen=True)
class DeepBatch:
    """What a deep band runs on.

    forward_batch: the child batch; None where no row is deep.
    rows: [num_deep_rows], int64: lines of the batch's hidden states that are deep; None where all are.
    rows_below: the same among the lines that the band below has.
    sees_itself: whether rows of a request are several sequences of the batch, with a filled gap between them, which no
        attention backend has within a sequence of new rows; so what one of them puts into the pool another one sees.
    adapters: those of its rows, where adapters are served and the rows are not those of the whole batch.
    """

    forward_batch: ForwardBatch | None
    rows: Tensor | None = None
    rows_below: Tensor | None = None
    sees_itself: bool = False
    adapters: RowAdapters | None = None


@dataclass(frozen=True)
class DeepExtent:
    """New deep rows of one request in a row: `length` of them, which see `prefix_len` tokens before them."""

    row: int
    prefix_len: int
    length: int


def request_rows(forward_batch: ForwardBatch) -> list[int]:
    """Request rows of a batch, known on the CPU without asking the device."""
    states = forward_batch.model_specific_states or {}
    assert REQUEST_ROWS in states, "the batch carries no request rows: it was not built by ForwardBatch.init_new"
    rows: list[int] = states[REQUEST_ROWS].tolist()
    return rows


def is_step(forward_batch: ForwardBatch) -> bool:
    """Whether all rows of a batch stand behind their prompts: the next token of each request, or drafts of it."""
    mode = forward_batch.forward_mode
    return bool(mode.is_decode() or mode.is_target_verify())


def lost_anchors_of(forward_batch: ForwardBatch, band: DeepBand) -> dict[int, tuple[int, ...]]:
    """Request rows of a batch whose anchors are to be computed in front of it, and the token ids of these; lost in one
    band, they are computed in all."""
    if not has_prompts(forward_batch.forward_mode):
        return {}
    states = ((row, band.rows[row]) for row in request_rows(forward_batch))
    return {row: state.lost_anchors for row, state in states if state.lost_anchors}


def build_deep_batches(forward_batch: ForwardBatch, bands: Sequence[DeepBand]) -> list[DeepBatch]:
    """What each deep band, from the bottom up, sees of a batch in any forward mode."""
    if forward_batch.forward_mode.is_idle():
        return [DeepBatch(forward_batch=None) for _ in bands]
    rows = request_rows(forward_batch)
    if forward_batch.forward_mode.is_decode():
        return [DeepBatch(_decode_view(forward_batch, band, rows)) for band in bands]
    if forward_batch.forward_mode.is_target_verify():
        return [DeepBatch(_verify_view(forward_batch, band, rows)) for band in bands]
    batches, below = [], None
    for band in bands:
        extents, lines = _deep_extents(forward_batch, band, rows)
        batches.append(_on_lines(extend_batch(forward_batch, band, extents), lines, below))
        below = lines
    return batches


def _on_lines(batch: DeepBatch, lines: np.ndarray, below: np.ndarray | None) -> DeepBatch:
    """lines, below: those that are deep in this band and in the one below, ascending; None for the shallow band."""
    if batch.forward_batch is None:
        return batch
    view, device = batch.forward_batch, batch.forward_batch.seq_lens.device
    index = index_below = _to_device(lines, device)
    if below is not None:
        assert np.isin(lines, below).all(), "a deep band wants rows that the band below does not compute"
        index_below = _to_device(np.searchsorted(below, lines), device)
    view.positions = view.positions[index]
    view.input_ids = view.input_ids if view.input_ids is None else view.input_ids[index]
    return replace(batch, rows=index, rows_below=index_below)


def _decode_view(forward_batch: ForwardBatch, deep: DeepBand, rows: Sequence[int]) -> ForwardBatch:
    """Every row is deep; the deep length is the length less the gap, computed where each copy lives."""
    return _decode_child(forward_batch, deep, rows, *_lengths_and_slots(forward_batch, deep))


def _lengths_and_slots(forward_batch: ForwardBatch, deep: DeepBand) -> tuple[Tensor, Tensor]:
    """Deep lengths of a decode batch and the slots of its new tokens, [batch_size] each, int64, on the device."""
    table_rows = forward_batch.req_pool_indices
    seq_lens = forward_batch.seq_lens - deep.gap[table_rows]
    return seq_lens, deep.table[table_rows, seq_lens - 1].long()


def _decode_child(
    forward_batch: ForwardBatch, deep: DeepBand, rows: Sequence[int], seq_lens: Tensor, slots: Tensor
) -> ForwardBatch:
    """A decode batch with the deep band's lengths and slots; backends that need no lengths on the CPU get none."""
    seq_lens_cpu = forward_batch.seq_lens_cpu
    if seq_lens_cpu is not None:
        seq_lens_cpu = seq_lens_cpu - deep.gap_cpu[list(rows)]
    return _with(
        forward_batch,
        seq_lens=seq_lens,
        seq_lens_cpu=seq_lens_cpu,
        seq_lens_sum=None if seq_lens_cpu is None else int(seq_lens_cpu.sum()),
        orig_seq_lens=seq_lens,
        out_cache_loc=slots,
    )


def _verify_view(forward_batch: ForwardBatch, deep: DeepBand, rows: Sequence[int]) -> ForwardBatch:
    """Every row is deep, the drafts that will be rejected too."""
    return _verify_child(forward_batch, deep, rows, *_lengths_and_slots_of_drafts(forward_batch, deep))


def _lengths_and_slots_of_drafts(forward_batch: ForwardBatch, deep: DeepBand) -> tuple[Tensor, Tensor]:
    """Deep lengths of a verified batch before its drafts, [batch_size], and the slots of these, [num_rows]; int64, on
    the device."""
    table_rows = forward_batch.req_pool_indices
    seq_lens = forward_batch.seq_lens - deep.gap[table_rows]
    places = seq_lens[:, None] + torch.arange(forward_batch.spec_info.draft_token_num, device=seq_lens.device)
    return seq_lens, deep.table[table_rows[:, None], places].long().flatten()


def _verify_child(
    forward_batch: ForwardBatch, deep: DeepBand, rows: Sequence[int], seq_lens: Tensor, slots: Tensor
) -> ForwardBatch:
    view = _decode_child(forward_batch, deep, rows, seq_lens, slots)
    view.spec_info = copy.copy(forward_batch.spec_info)
    if view.spec_info.custom_mask is not None:
        num_padding = getattr(forward_batch, "num_padding", 0)  # requests of which the mask has nothing
        lengths = forward_batch.seq_lens_cpu[: len(rows) - num_padding].tolist()
        view.spec_info.custom_mask = _without_gaps(view.spec_info, lengths, deep.gap_cpu[list(rows)].tolist())
    return view


def _without_gaps(spec_info: Any, seq_lens: Sequence[int], gaps: Sequence[int]) -> Tensor:
    """A mask of drafts without the columns of tokens that a band has not.

    It is flat: of each request [num_drafts, seq_len + num_drafts], what its drafts see; all tokens before them.
    """
    num_drafts, mask = spec_info.draft_token_num, spec_info.custom_mask
    lengths = [num_drafts * (seq_len + num_drafts) for seq_len in seq_lens]
    parts = torch.split(mask[: sum(lengths)], lengths)
    cut = [part.view(num_drafts, -1)[:, gap:].flatten() for part, gap in zip(parts, gaps, strict=False)]
    return torch.cat(cut) if cut else mask[:0]


class DecodeBuffers:
    """Tensors that decode graphs read: deep lengths and slots, at addresses that stay.

    seq_lens: [max_batch_size], slots: [max_num_rows], int64, on the device.
    """

    def __init__(self, max_batch_size: int, max_num_rows: int, deep: DeepBand) -> None:
        self.deep = deep
        self.seq_lens = torch.ones(max_batch_size, dtype=torch.int64, device=deep.table.device)
        self.slots = torch.zeros(max_num_rows, dtype=torch.int64, device=deep.table.device)

    def fill(self, forward_batch: ForwardBatch) -> ForwardBatch:
        """The deep view of a padded batch of one token or of drafts each, on these buffers; no copy to the CPU is made.

        Padding requests have row 0, whose gap and slots are 0: they read and write the padding slot only.
        """
        is_verified = forward_batch.forward_mode.is_target_verify()
        found = (_lengths_and_slots_of_drafts if is_verified else _lengths_and_slots)(forward_batch, self.deep)
        seq_lens, slots = self.seq_lens[: len(found[0])], self.slots[: len(found[1])]
        for buffer, values in zip((seq_lens, slots), found, strict=True):
            buffer.copy_(values)
        child = _verify_child if is_verified else _decode_child
        return child(forward_batch, self.deep, _padded_rows(forward_batch), seq_lens, slots)


def _padded_rows(forward_batch: ForwardBatch) -> list[int]:
    """Request rows of a batch that a graph runs on; in a capture all of them are padding."""
    rows = request_rows(forward_batch) if getattr(forward_batch, "model_specific_states", None) else []
    return rows + [0] * (forward_batch.batch_size - len(rows))


def _with(forward_batch: ForwardBatch, **changes: Any) -> ForwardBatch:
    """A shallow copy with other values; SGLang plans graphs on a namespace that has some of a ForwardBatch's fields."""
    changed = copy.copy(forward_batch)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _deep_extents(
    forward_batch: ForwardBatch, deep: DeepBand, rows: Sequence[int]
) -> tuple[list[DeepExtent], np.ndarray]:
    """What is deep in an extend, request by request, and its lines."""
    extents, lines = list[DeepExtent](), [np.empty(0, dtype=np.int64)]
    offset = 0
    lengths = zip(forward_batch.extend_prefix_lens_cpu, forward_batch.extend_seq_lens_cpu, strict=True)
    for row, (start, length) in zip(rows, lengths, strict=True):
        state = deep.rows[row]
        computed = state.deep.computed_in(start, start + length, state.anchors_cached)
        runs = [np.arange(part.start, part.stop) for part in computed]
        if not state.deep.is_filled or state.deep.num_shallow == 0:
            runs = [np.concatenate(runs)]
        for positions in filter(len, runs):
            seen, end = (state.num_visible_before(int(place)) for place in (positions[0], positions[-1] + 1))
            assert seen + len(positions) == end <= state.length, f"{positions} of {state} must end at {end}"
            extents.append(DeepExtent(row, seen, len(positions)))
            lines.append(offset + positions - start)
        offset += length
    return extents, np.concatenate(lines)


def extend_batch(forward_batch: ForwardBatch, deep: DeepBand, extents: Sequence[DeepExtent]) -> DeepBatch:
    """What a band runs extents on. Positions and token ids are still those of the whole batch."""
    if not extents:
        return DeepBatch(forward_batch=None)
    sees_itself = len({extent.row for extent in extents}) < len(extents)
    return DeepBatch(_extend_view(forward_batch, deep, extents), sees_itself=sees_itself)


def _extend_view(forward_batch: ForwardBatch, deep: DeepBand, extents: Sequence[DeepExtent]) -> ForwardBatch:
    device = forward_batch.seq_lens.device
    prefix_lens, lengths = [e.prefix_len for e in extents], [e.length for e in extents]
    seq_lens_cpu = torch.tensor([p + n for p, n in zip(prefix_lens, lengths, strict=True)], dtype=torch.int64)
    slots = [deep.table[e.row, e.prefix_len : e.prefix_len + e.length] for e in extents]
    lora_ids = forward_batch.lora_ids or [None] * forward_batch.batch_size
    adapters = dict(zip(request_rows(forward_batch), lora_ids, strict=True))
    view = _with(
        forward_batch,
        batch_size=len(extents),
        lora_ids=[adapters.get(e.row) for e in extents],
        req_pool_indices=_to_device([e.row for e in extents], device),
        seq_lens=seq_lens_cpu.to(device, non_blocking=True),
        seq_lens_cpu=seq_lens_cpu,
        seq_lens_sum=int(seq_lens_cpu.sum()),
        orig_seq_lens=seq_lens_cpu.to(device, torch.int32, non_blocking=True),
        out_cache_loc=torch.cat(slots).long(),
        extend_num_tokens=sum(lengths),
        extend_seq_lens=_to_device(lengths, device, torch.int32),
        extend_prefix_lens=_to_device(prefix_lens, device, torch.int32),
        extend_start_loc=_to_device(np.cumsum([0, *lengths[:-1]]), device, torch.int32),
        extend_prefix_lens_cpu=prefix_lens,
        extend_seq_lens_cpu=lengths,
    )
    HOST.set_num_rows(view, sum(lengths))
    return view


def _to_device(values: Sequence[int] | np.ndarray, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)

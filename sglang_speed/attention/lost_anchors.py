"""Anchors whose deep KV is gone while the prefix that begins with them is still there: computed by themselves, in front
of the forward that reuses the prefix.

They see nothing but themselves, so they are short sequences of their own, through all layers. Their shallow KV lies in
the tree and stays as it is: what is computed of it again goes to the padding slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.attention.banded import BandedAttnBackend
from sglang_speed.attention.deep_batch import DeepBatch, DeepExtent, extend_batch, lost_anchors_of

Run = Callable[[Tensor, Tensor, ForwardBatch], object]
"""Runs all layers on token ids, [num_tokens], positions, [..., num_tokens], and a batch of these."""


def compute_lost_anchors(backend: BandedAttnBackend, forward_batch: ForwardBatch, positions: Tensor, run: Run) -> None:
    """Write the deep KV of anchors that requests of a batch have lost. Then nothing is lost, and the batch is planned
    again.

    positions: of the whole batch, [..., num_rows].
    """
    bands = [each.band for each in backend.deep]
    lost = lost_anchors_of(forward_batch, bands[0])
    if not lost:
        return
    assert all(lost_anchors_of(forward_batch, band) == lost for band in bands), "bands have lost different anchors"
    extents = [DeepExtent(row, 0, len(tokens)) for row, tokens in lost.items()]
    ids, places = _tokens_and_positions(lost, positions)
    alone, *deep = [
        _with_tokens(extend_batch(forward_batch, band, extents), ids, places) for band in (bands[0], *bands)
    ]
    for band in bands:
        for row in lost:
            band.rows[row].lost_anchors = ()
    batch = alone.forward_batch
    assert batch is not None, "there are anchors to compute"
    batch.out_cache_loc = torch.zeros_like(batch.out_cache_loc)
    with backend.running_before(forward_batch, alone, deep):
        run(ids, places, batch)


def _tokens_and_positions(lost: Mapping[int, tuple[int, ...]], positions: Tensor) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([token for tokens in lost.values() for token in tokens])
    places = torch.cat([torch.arange(len(tokens)) for tokens in lost.values()])
    ids, places = (each.to(positions.device, non_blocking=True) for each in (ids, places))
    return ids, places.expand(*positions.shape[:-1], -1)


def _with_tokens(batch: DeepBatch, ids: Tensor, positions: Tensor) -> DeepBatch:
    assert batch.forward_batch is not None, "there are anchors to compute"
    batch.forward_batch.input_ids, batch.forward_batch.positions = ids, positions
    return batch

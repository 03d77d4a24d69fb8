"""Deep bands that begin with states, in an extend: the deep tokens of contexts that end in it, and what stands behind.

How many rows each request has in each band is known before the forward; which tokens of a context they are may be known
in its midst, and on the device only. Rows run in pieces, since a context has more of them than a forward has tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.attention.deep_batch import DeepExtent, extend_batch, request_rows
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.method.deep_tokens import Context, DeepTokens

Selected = Callable[[int], Sequence[Tensor]]
"""Deep positions of a context in each band, ascending, int64 on the device; for the number of a request."""


@dataclass(frozen=True)
class BandedRequest:
    """A request with rows in the deep bands of an extend.

    row: in the request table. first_line: of its tokens in the batch.
    start, end: positions that the extend computes. deep: in each band. thinned: as what stands behind the context sees
        it, where it is thinned; what stands there is in no deep band then.
    """

    row: int
    first_line: int
    start: int
    end: int
    deep: tuple[DeepTokens, ...]
    thinned: DeepTokens | None = None

    @property
    def contexts(self) -> list[Context]:
        return [deep.context for deep in self.deep if deep.context is not None]

    @property
    def ends_context(self) -> bool:
        return self.deep[0].reaches_context_end(self.start, self.end)

    @property
    def behind(self) -> range:
        """Positions behind the context."""
        return self.deep[0].computed_in(self.start, self.end)[1]

    @property
    def lines(self) -> range:
        """Lines of the batch whose tokens are in the decode phase: what the deep bands give for them is wanted."""
        end = self.end if self.thinned is None else min(self.end, self.contexts[0].end)
        return self._lines_of(range(max(self.start, self.deep[0].deep_start), end))

    @property
    def lines_behind(self) -> range:
        """Lines whose tokens see a thinned context."""
        return self._lines_of(self.behind if self.thinned is not None else range(0))

    def _lines_of(self, positions: range) -> range:
        shift = self.first_line - self.start
        return range(positions.start + shift, positions.stop + shift) if positions else range(0)

    @property
    def window(self) -> range:
        """Lines of the batch whose queries choose; none where no token is chosen by scores."""
        context = self.contexts[0]
        num_selected = context.num_selected + (0 if self.thinned is None else self.thinned.num_selected)
        if not self.ends_context or not num_selected:
            return range(0)
        assert self.start <= context.window_from, (
            f"a forward from {self.start} on has a part of the window of {context}"
        )
        return self._lines_of(range(context.window_from, context.end))

    def runs(self, band: int) -> list[tuple[int, int]]:
        """What each run of its rows in a band sees before it, and its length."""
        deep = self.deep[band]
        before = [*self.contexts[band].chosen] if self.ends_context else []
        if not deep.is_filled:
            # one sequence, whichever tokens it has
            first = 0 if self.ends_context else self.behind.start - deep.gap
            return [(first, self.num_rows(band))] if self.num_rows(band) else []
        runs = [(run.start, len(run)) for run in before]
        if len(self.behind):
            if runs and sum(runs[-1]) == self.behind.start:
                runs[-1] = runs[-1][0], runs[-1][1] + len(self.behind)
            else:
                runs.append((self.behind.start, len(self.behind)))
        return runs

    def num_rows(self, band: int) -> int:
        behind = len(self.behind) if self.thinned is None else 0
        return (self.contexts[band].num_deep if self.ends_context else 0) + behind


@dataclass(frozen=True)
class Piece:
    """Rows of a band that run together. rows: their places among all rows of the band. extents: whose they are."""

    rows: slice
    extents: tuple[DeepExtent, ...]


class DeepRows:
    """All that an extend computes in the deep bands.

    requests: those with deep rows, in the order of the batch. pieces, batches: of each band, and what its backend runs
    each piece on; positions and token ids there are not those of the rows yet. behind: the same of what stands behind
    thinned contexts.
    """

    def __init__(
        self, forward_batch: ForwardBatch, bands: Sequence[DeepBand], max_rows: int, thinned: DeepBand | None = None
    ) -> None:
        """max_rows: of a piece. thinned: the band behind contexts, where they are thinned."""
        self._bands = bands
        self.requests = list(_requests_in(forward_batch, bands, thinned))
        self.behind = None if thinned is None else extend_batch(forward_batch, thinned, list(self._extents_behind()))
        self.pieces = [list(self._pieces_of(band, max_rows)) for band in range(len(bands))]
        self.batches = [
            [extend_batch(forward_batch, band, piece.extents) for piece in pieces]
            for band, pieces in zip(bands, self.pieces, strict=True)
        ]

    @property
    def lines(self) -> Tensor:
        """Lines of the batch that get what the deep bands give, int64, on the CPU."""
        return torch.from_numpy(_joined(request.lines for request in self.requests))

    @property
    def window(self) -> np.ndarray:
        """Lines of the batch whose queries choose, of all requests."""
        return _joined(request.window for request in self.requests)

    @property
    def lines_behind(self) -> Tensor:
        """Lines of the batch that run behind thinned contexts, int64, on the CPU."""
        return torch.from_numpy(_joined(request.lines_behind for request in self.requests))

    def window_in(self, band: int, piece: Piece) -> Tensor:
        """Which rows of a piece of a band choose what is kept, int64, on the CPU."""
        ends, windows = 0, list[range]()
        for request in self.requests:
            num_deep = request.contexts[band].num_deep if request.ends_context else 0
            windows.append(range(ends + num_deep - len(request.window), ends + num_deep))
            ends += request.num_rows(band)
        return _rows_in(piece, _joined(windows))

    def wanted_in(self, piece: Piece) -> Tensor:
        """Which rows of a piece of the top band belong to `lines`, int64, on the CPU."""
        ends = np.cumsum([request.num_rows(len(self._bands) - 1) for request in self.requests]).tolist()
        wanted = _joined(range(end - len(each.lines), end) for end, each in zip(ends, self.requests, strict=True))
        return _rows_in(piece, wanted)

    def positions(self, selected: Selected, device: torch.device) -> list[list[Tensor]]:
        """Positions of the rows of each band, request by request, int64 [num_rows] each."""
        found: list[list[Tensor]] = [[] for _ in self._bands]
        for number, request in enumerate(self.requests):
            positions_behind = request.behind if request.thinned is None else range(0)
            behind = torch.arange(positions_behind.start, positions_behind.stop, device=device)
            of_bands: Sequence[Tensor | None] = [None] * len(self._bands)
            if request.ends_context:
                is_selected = request.contexts[0].num_selected > 0
                of_bands = selected(number) if is_selected else _known(request.contexts, device)
            for positions, of_context in zip(found, of_bands, strict=True):
                positions.append(behind if of_context is None else torch.cat([of_context, behind]))
        return found

    def _extents_behind(self) -> Iterator[DeepExtent]:
        for request in self.requests:
            if request.thinned is not None and request.behind:
                seen = request.behind.start - request.thinned.gap
                yield DeepExtent(request.row, seen, len(request.behind))

    def _pieces_of(self, band: int, max_rows: int) -> Iterator[Piece]:
        rows, extents = 0, list[DeepExtent]()
        first = 0
        for request in self.requests:
            for seen, length in request.runs(band):
                while length:
                    taken = min(length, max_rows - rows)
                    extents.append(DeepExtent(request.row, seen, taken))
                    rows, seen, length = rows + taken, seen + taken, length - taken
                    if rows == max_rows or len(extents) == self._bands[band].num_rows:
                        yield Piece(slice(first, first + rows), tuple(extents))
                        first, rows, extents = first + rows, 0, []
        if rows:
            yield Piece(slice(first, first + rows), tuple(extents))


def _rows_in(piece: Piece, rows: np.ndarray) -> Tensor:
    """Places in a piece of those of its band's rows that are in it."""
    return torch.from_numpy(rows[(rows >= piece.rows.start) & (rows < piece.rows.stop)] - piece.rows.start)


def _requests_in(
    forward_batch: ForwardBatch, bands: Sequence[DeepBand], thinned: DeepBand | None
) -> Iterator[BandedRequest]:
    first_line = 0
    lengths = zip(forward_batch.extend_prefix_lens_cpu, forward_batch.extend_seq_lens_cpu, strict=True)
    for row, (start, length) in zip(request_rows(forward_batch), lengths, strict=True):
        deep = tuple(band.rows[row].deep for band in bands)
        seen = None if thinned is None else thinned.rows[row].deep
        request = BandedRequest(row, first_line, start, start + length, deep, seen)
        if request.ends_context or request.behind:
            yield request
        first_line += length


def _known(contexts: Sequence[Context], device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(_joined(each.chosen)).to(device, non_blocking=True) for each in contexts]


def _joined(ranges: Iterator[range] | Sequence[range]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(each.start, each.stop) for each in ranges)])

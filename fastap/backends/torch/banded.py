"""The dynamic program of the paper, on few columns: the engine of last resort for rows in conflict.

    h_0 = 0;   h_i(a) = max over a' <= a of [h_{i-1}(a') + g_i(a')]

A block of few cells keeps every ``h_i`` and reads its rows back. A larger one is halved first: the program run from
its first row down and from its last row up says by the sum of the two where the middle row stands in an optimum
(Hirschberg, CACM 1975), which leaves two smaller blocks. That is twice the cells of one run, in the memory of a few
columns a block, however many rows it has.

Of equally good optima the least is found: those with the fewest negatives above every row (both the least and the
greatest of two of them are optima).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastap.backends.torch.layout import pick
from fastap.backends.torch.monotone import Segments
from fastap.backends.torch.terms import Terms, term

# Blocks whose frames differ less than fourfold in width are solved together, padded to the widest.
_WIDTH_BITS = 2
# Cells that are held at a time, unless one line of one block has more: 2 MiB an array.
_CELLS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class _Frames:
    """Blocks to be solved, each in one frame of columns, wide enough for the bands of all its rows."""

    first: Tensor  # the first row
    last: Tensor  # the last
    low: Tensor  # the first column
    high: Tensor  # the last

    @property
    def rows(self) -> Tensor:
        return self.last - self.first + 1

    @property
    def width(self) -> Tensor:
        return self.high - self.low + 1

    def take(self, which: Tensor) -> _Frames:
        return _Frames(self.first[which], self.last[which], self.low[which], self.high[which])


def solve_blocks(terms: Terms, blocks: Segments, left: Tensor, right: Tensor) -> Tensor:
    """The best non-decreasing ``a`` of each block, given that some optimum has ``left <= a <= right``."""
    a = torch.empty_like(left)
    starts = blocks.first == torch.arange(terms.count, device=left.device)
    frames = _Frames(
        blocks.first[starts], blocks.last[starts], blocks.least(left)[starts], blocks.greatest(right)[starts]
    )
    small = []
    while frames.first.shape[0]:
        is_small = frames.rows * frames.width <= _CELLS_AT_ONCE
        small.append(frames.take(is_small))
        frames = frames.take(~is_small)
        at_middle = torch.empty_like(frames.low)
        for part in _parts(frames, torch.full_like(frames.low, 2)):
            at_middle[part] = _middle_rows(terms, frames.take(part))
        frames = _halves(frames, at_middle, a)
    # Together, for fewer steps one after another.
    frames = _Frames(*(torch.cat([getattr(each, name) for each in small]) for name in frames.__dataclass_fields__))
    for part in _parts(frames, frames.rows):
        _solve_rows(terms, frames.take(part), a)
    return a


def _parts(frames: _Frames, lines: Tensor) -> Iterator[Tensor]:
    """The numbers of blocks to be solved together, longest first; each holds that many lines of its width."""
    if not frames.first.shape[0]:
        return
    bucket = (frames.width.to(torch.float64).log2() / _WIDTH_BITS).to(torch.int64)
    for value in bucket.unique().tolist():
        members = (bucket == value).nonzero().view(-1)
        members = members[torch.argsort(frames.rows[members], descending=True, stable=True)]
        cells = lines[members].cumsum(0).mul_(frames.width[members].max())
        part = torch.div(cells - 1, _CELLS_AT_ONCE, rounding_mode="floor")
        yield from members.split(part.unique_consecutive(return_counts=True)[1].tolist())


def _halves(frames: _Frames, at_middle: Tensor, a: Tensor) -> _Frames:
    """Write the middle rows of the blocks to ``a``; what is left above and below them."""
    middle = (frames.first + frames.last) >> 1
    a[middle] = at_middle
    above, below = middle > frames.first, middle < frames.last
    return _Frames(
        torch.cat([frames.first[above], middle[below] + 1]),
        torch.cat([middle[above] - 1, frames.last[below]]),
        torch.cat([frames.low[above], at_middle[below]]),
        torch.cat([at_middle[above], frames.high[below]]),
    )


def _solve_rows(terms: Terms, frames: _Frames, a: Tensor) -> None:
    """Write all rows of the blocks, which come longest first, to ``a``: every ``h`` is kept and read back."""
    width = int(frames.width.max())
    # Frames narrower than the widest repeat their last column, which changes nothing.
    columns = torch.minimum(frames.low[:, None] + torch.arange(width, device=a.device), frames.high[:, None])
    kept = list(_program(terms, frames.first, torch.ones_like(frames.first), frames.rows, columns))
    place = frames.high - frames.low
    for step in range(len(kept) - 1, -1, -1):
        h = kept.pop()
        working = h.shape[0]
        here = place[:working, None]
        # The first column that reaches what the row below starts from; NaN, which none reaches, stays where it is.
        here = torch.minimum(torch.searchsorted(h, h.gather(1, here)), here)[:, 0]
        place[:working] = here
        a[frames.first[:working] + step] = frames.low[:working] + here


def _middle_rows(terms: Terms, frames: _Frames) -> Tensor:
    """The ``a`` of each block's middle row.

    Two lines a block: one goes from the first row down to the middle, its columns ascending; the other from the last
    row up to the one below the middle, its columns descending. Both are then the same running maximum.
    """
    blocks, width = frames.first.shape[0], int(frames.width.max())
    middle = (frames.first + frames.last) >> 1
    length, order = torch.sort(torch.cat([middle - frames.first + 1, frames.last - middle]), descending=True)
    row = torch.cat([frames.first, frames.last])[order]
    onward = torch.where(order < blocks, 1, -1)
    across = torch.minimum(torch.arange(width, device=row.device), (frames.high - frames.low)[:, None])
    columns = torch.cat([frames.low[:, None] + across, frames.high[:, None] - across]).index_select(0, order)
    best = torch.zeros(columns.shape, dtype=torch.float64, device=row.device)
    reached = best[:0]
    for h in _program(terms, row, onward, length, columns):
        if h.shape[0] < reached.shape[0]:
            best.index_copy_(0, order[h.shape[0] : reached.shape[0]], reached[h.shape[0] :])
        reached = h
    best.index_copy_(0, order[: reached.shape[0]], reached)
    upper, lower = best[:blocks], best[blocks:]
    # Of equal sums the first: there the middle row itself stands, not one before it that was better.
    return frames.low + upper.add_(lower.gather(1, (frames.high - frames.low)[:, None] - across)).argmax(1)


def _program(terms: Terms, row: Tensor, onward: Tensor, length: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """``h`` of every line after 1, 2, ... rows, for the lines that have so many; the longest comes first.

    A line starts at ``row``, goes ``onward`` by one row a step (1 or -1), and has the same ``columns`` in all of them.
    """
    a = columns.to(torch.float64)
    sums = pick(terms.layout.prefix, columns + pick(terms.rows.base, row)[:, None])
    task = pick(terms.task, row)[:, None]  # the same in all rows of a ranking
    h = torch.zeros_like(a)
    lengths = length.tolist()
    working = len(lengths)
    for step in range(lengths[0]):
        while lengths[working - 1] <= step:
            working -= 1
        if working < h.shape[0]:
            row, onward, a, sums, task, h = (each[:working] for each in (row, onward, a, sums, task, h))
        score, index = pick(terms.rows.score, row)[:, None], pick(terms.rows.index, row)[:, None]
        h = torch.cummax(term(sums, a, score, index, task).add_(h), 1).values
        yield h
        row = row + onward

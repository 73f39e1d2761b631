"""The dynamic program of the paper, on few columns: the engine of last resort for rows in conflict.

    h_0 = 0;   h_i(a) = max over a' <= a of [h_{i-1}(a') + g_i(a')]

Beside each value travels the ``a`` of the block's middle row on the path to it. That fixes the middle row and leaves
two smaller blocks, solved in the next pass: twice the arithmetic of keeping back pointers, but no more memory than a
few columns a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.torch.monotone import Segments
from fastap.backends.torch.terms import Terms

# Blocks whose frames differ less than fourfold in width are solved together, padded to the widest.
_WIDTH_BITS = 2
# Cells of one padded row of blocks, at most: 2 MiB an array.
_CELLS_AT_ONCE = 1 << 18


def solve_blocks(terms: Terms, blocks: Segments, left: Tensor, right: Tensor) -> Tensor:
    """The best non-decreasing ``a`` of each block, given that some optimum has ``left <= a <= right``."""
    a = torch.empty_like(left)
    starts = blocks.first == torch.arange(terms.count, device=left.device)
    first, last = blocks.first[starts], blocks.last[starts]
    # One frame of columns a block, wide enough for the bands of all its rows.
    low, high = blocks.least(left)[starts], blocks.greatest(right)[starts]
    while first.shape[0]:
        width = (high - low + 1).to(torch.float64)
        bucket = (width.log2() / _WIDTH_BITS).to(torch.int64)
        middle = (first + last) >> 1
        at_middle = torch.empty_like(low)
        for value in bucket.unique().tolist():
            members = (bucket == value).nonzero().squeeze(1)
            # Longest first, so that the blocks still at work are a leading slice.
            members = members[torch.argsort(last[members] - first[members], descending=True, stable=True)]
            widest = int(width[members].max())
            for part in members.split(max(1, _CELLS_AT_ONCE // widest)):
                at_middle[part] = _middle_row(terms, first[part], last[part], low[part], high[part], widest)
        a[middle] = at_middle
        above, below = middle > first, middle < last
        first, last, low, high = (
            torch.cat([first[above], middle[below] + 1]),
            torch.cat([middle[above] - 1, last[below]]),
            torch.cat([low[above], at_middle[below]]),
            torch.cat([at_middle[above], high[below]]),
        )
    return a


def _middle_row(terms: Terms, first: Tensor, last: Tensor, low: Tensor, high: Tensor, width: int) -> Tensor:
    """The ``a`` of each block's middle row in an optimum of the block; blocks come longest first."""
    # Frames narrower than the widest repeat their last column, which changes nothing.
    columns = torch.minimum(low[:, None] + torch.arange(width, device=low.device), high[:, None])
    length = last - first + 1
    middle = (length - 1) >> 1
    best = torch.zeros_like(columns, dtype=torch.float64)
    crossing = columns
    result = torch.empty_like(low)
    finished = first.shape[0]
    lengths = length.tolist()
    for step in range(lengths[0]):
        while lengths[finished - 1] <= step:
            finished -= 1
        if finished < best.shape[0]:
            result[finished : best.shape[0]] = crossing[finished:, -1]
            best, crossing, columns = best[:finished], crossing[:finished], columns[:finished]
        row = terms.take(first[:finished] + step).upright()
        best, came_from = torch.cummax(best + row.term(columns), 1)
        onward = crossing.gather(1, came_from)
        here = columns.gather(1, came_from)
        crossing = torch.where((middle[:finished] < step)[:, None], onward, here)
    result[:finished] = crossing[:, -1]
    return result

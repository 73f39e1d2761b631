"""From the best ``a`` of each row alone to the best non-decreasing ``a``: conflict blocks, and pooling inside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastap.backends.torch.layout import pick
from fastap.backends.torch.terms import Terms


@dataclass(frozen=True)
class Segments:
    """Consecutive rows grouped: for every row the first and the last row of its group."""

    first: Tensor
    last: Tensor

    def least(self, values: Tensor) -> Tensor:
        """For every row the least value of its segment."""
        return pick(values.scatter_reduce(0, self.first, values, "amin", include_self=False), self.first)

    def greatest(self, values: Tensor) -> Tensor:
        """For every row the greatest value of its segment."""
        return pick(values.scatter_reduce(0, self.first, values, "amax", include_self=False), self.first)


def single_rows(terms: Terms) -> Segments:
    """Every row by itself."""
    row = torch.arange(terms.count, device=terms.rows.base.device)
    return Segments(row, row)


def whole_rankings(terms: Terms) -> Segments:
    """All rows of a ranking together."""
    ranking = terms.rows.ranking
    return Segments(torch.searchsorted(ranking, ranking), torch.searchsorted(ranking, ranking, right=True) - 1)


def in_order(terms: Terms, a: Tensor) -> bool:
    """Whether ``a`` does not fall from one row of a ranking to the next."""
    choice = _across_rankings(terms, a)
    return bool((choice[1:] >= choice[:-1]).all())


def _across_rankings(terms: Terms, a: Tensor) -> Tensor:
    """``a`` with each ranking shifted above the one before, so that rows of different rankings never conflict."""
    return a + terms.rows.ranking * (terms.layout.items + 1)


def merge_conflicts(terms: Terms, blocks: Segments, a: Tensor) -> Segments:
    """Merge neighbouring blocks until all before a cut choose at most what all after it choose; the fewest merges.

    Blocks are never split.
    """
    choice = _across_rankings(terms, a)
    highest_before = torch.cummax(choice, 0).values
    lowest_after = torch.cummin(choice.flip(0), 0).values.flip(0)
    row = torch.arange(terms.count, device=a.device)
    starts = blocks.first == row
    starts[1:] &= highest_before[:-1] <= lowest_after[1:]
    ends = torch.ones_like(starts)
    ends[:-1] = starts[1:]
    first = torch.cummax(torch.where(starts, row, 0), 0).values
    last = torch.cummin(torch.where(ends, row, terms.count).flip(0), 0).values.flip(0)
    return Segments(first, last)


def select(segments: Segments, rows: Tensor) -> Segments:
    """The segments of these rows, renumbered; of a segment all rows are given or none."""
    rank = torch.empty_like(segments.first)
    rank[rows] = torch.arange(rows.shape[0], device=rows.device)
    return Segments(pick(rank, pick(segments.first, rows)), pick(rank, pick(segments.last, rows)))


def embed(segments: Segments, rows: Tensor, inside: Segments) -> Segments:
    """``segments`` with those of these rows replaced by ``inside``: the inverse of :func:`select`."""
    first = segments.first.index_copy(0, rows, pick(rows, inside.first))
    return Segments(first, segments.last.index_copy(0, rows, pick(rows, inside.last)))


class RankingSums:
    """Prefix sums over the rows of each ranking apart, so that no ranking's rounding depends on its neighbours."""

    def __init__(self, terms: Terms) -> None:
        ranking = terms.rows.ranking
        starts = torch.ones_like(ranking, dtype=torch.bool)
        torch.ne(ranking[1:], ranking[:-1], out=starts[1:])
        line = starts.cumsum(0) - 1
        row = torch.arange(ranking.shape[0], device=ranking.device)
        column = row - torch.cummax(torch.where(starts, row, 0), 0).values
        self.shape = (int(line[-1]) + 1, int(column.max()) + 1)
        self.slot = line * self.shape[1] + column

    def __call__(self, values: Tensor) -> Tensor:
        if self.shape[0] == 1:
            return values.cumsum(0)
        table = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        table.view(-1).index_copy_(0, self.slot, values)
        return pick(table.cumsum_(1).view(-1), self.slot)


def pool(terms: Terms, blocks: Segments, low: Tensor, high: Tensor) -> tuple[Tensor, Segments]:
    """The best non-decreasing ``a`` in ``[low, high]`` (one range a block) for terms that are concave there.

    Returns it with its level sets, the runs of rows of one block that end at one value. Divide and conquer by value:
    the rows that choose ``a >= t`` are those from the cut on whose marginals ``d_i(t)`` sum to the most, so each block
    halves its range and splits at the cut, ``log2(range)`` times, every row once a level, whatever the conflicts.
    """
    row = torch.arange(terms.count, device=low.device)
    sums = RankingSums(terms)
    segments = blocks
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high + 1) >> 1
        marginal = terms.marginal(middle.clamp(min=1))
        through = sums(marginal)
        before = through - marginal
        lowest = segments.least(before)
        # The last of equal cuts: fewest rows rise, as in the search of one row.
        cut = segments.greatest(torch.where(before == lowest, row, -1))
        splits = (lowest < pick(through, segments.last)) & (low < high)
        rises = splits & (row >= cut)
        low = torch.where(rises, middle, low)
        high = torch.where(rises, high, torch.maximum(middle - 1, low))
        segments = Segments(
            torch.where(rises, cut, segments.first), torch.where(splits & ~rises, cut - 1, segments.last)
        )
    return low, segments

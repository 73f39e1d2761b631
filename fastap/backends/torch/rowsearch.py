"""Each row alone: ``argmax_a g_i(a)``, by bisection where the terms are concave, by branch and bound where not."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.torch.terms import Terms

_FIRST_SPLIT = 16
_SPLIT = 8
# Rows are searched in groups whose first tables (rows x 17 float64, a dozen alive at a time) stay in a core's cache
# and small beside the scores.
_ROWS_AT_ONCE = 4096


def concave_argmax(terms: Terms) -> Tensor:
    """The smallest ``a`` of largest ``g_i(a)`` for the positive update, whose marginals fall with ``a``."""
    low, high = terms.rows.above, terms.rows.n_negative
    steps = int((high - low).max()).bit_length() if terms.count else 0
    for _ in range(steps):
        middle = (low + high + 1) >> 1
        # Once low == high the row must stay; the marginal at a = 0 does not exist.
        rises = (terms.marginal(middle.clamp(min=1)) > 0) & (low < high)
        low = torch.where(rises, middle, low)
        high = torch.where(rises, high, torch.maximum(middle - 1, low))
    return low


def argmax(terms: Terms) -> tuple[Tensor, Tensor]:
    """Some ``a`` in ``[0, #{n >= p_i}]`` of largest ``g_i(a)``, and that value, for the negative update."""
    found = [_Search(terms[first : first + _ROWS_AT_ONCE]).argmax() for first in range(0, terms.count, _ROWS_AT_ONCE)]
    if not found:
        return terms.rows.above, terms.rows.score
    return torch.cat([a for a, _ in found]), torch.cat([value for _, value in found])


def band(terms: Terms, inside: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest ``a`` with ``g_i(a) >= floor_i``, given one such ``a``."""
    parts = [
        _Search(terms[part]).band(inside[part], floor[part])
        for part in (slice(first, first + _ROWS_AT_ONCE) for first in range(0, terms.count, _ROWS_AT_ONCE))
    ]
    return torch.cat([left for left, _ in parts]), torch.cat([right for _, right in parts])


class _Search:
    """Branch and bound over intervals of ``a`` for rows with ``s = -1``.

    ``g_i = A + B`` with ``A(a) = S[a] - a p_i`` concave and ``B(a) = -w a / (i + a)`` convex. On an interval
    ``[u, v]``, ``A`` lies under its tangents at both ends and ``B`` under its chord, so ``g_i`` lies under the value
    at the point where the tangents cross, or under its larger end. Tight to second order in the width: at most 64
    evaluations a row on every distribution tried, N = 100 to 1,000,000.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        rows = terms.rows
        row = torch.arange(terms.count, device=rows.base.device)
        # Intervals spaced evenly in log(i + a).
        last = rows.at_or_above[:, None]
        share = torch.arange(_FIRST_SPLIT + 1, device=row.device, dtype=torch.float64) / _FIRST_SPLIT
        index = rows.index[:, None]
        grid = (torch.log1p(last / index) * share).expm1_().mul_(index).round_().to(torch.int64)
        grid = torch.minimum(grid, last)
        grid[:, -1:] = last
        self.row, self.grid = row, grid

    def argmax(self) -> tuple[Tensor, Tensor]:
        n_rows, device = self.terms.count, self.row.device
        best = torch.full((n_rows,), -torch.inf, dtype=torch.float64, device=device)
        where = torch.zeros(n_rows, dtype=torch.int64, device=device)
        while self.row.shape[0]:
            value, bound = self._evaluate()
            top, column = value.max(1)
            at = self.grid.gather(1, column[:, None]).squeeze(1)
            better = torch.full_like(best, -torch.inf).scatter_reduce_(0, self.row, top, "amax")
            improved = better > best
            best = torch.maximum(best, better)
            # Of several intervals that attain a new best, the leftmost: the result does not hang on their order.
            nowhere = torch.iinfo(torch.int64).max
            candidate = torch.where(top == best[self.row], at, nowhere)
            leftmost = torch.full_like(where, nowhere).scatter_reduce_(0, self.row, candidate, "amin")
            where = torch.where(improved, leftmost, where)
            self._split(bound > best[self.row][:, None])
        return where, best

    def band(self, inside: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        left, right = inside.clone(), inside.clone()
        while self.row.shape[0]:
            value, bound = self._evaluate()
            enough = value >= floor[self.row][:, None]
            a = torch.where(enough, self.grid, torch.iinfo(torch.int64).max).amin(1)
            left.scatter_reduce_(0, self.row, a, "amin")
            a = torch.where(enough, self.grid, -1).amax(1)
            right.scatter_reduce_(0, self.row, a, "amax")
            outside = (self.grid[:, :-1] < left[self.row][:, None]) | (self.grid[:, 1:] > right[self.row][:, None])
            self._split((bound >= floor[self.row][:, None]) & outside)
        return left, right

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """``g`` on the grid and an upper bound of ``g`` strictly inside each interval (-inf where it is empty)."""
        rows, layout = self.terms.rows, self.terms.layout
        row, grid = self.row, self.grid
        score, index = rows.score[row][:, None], rows.index[row][:, None]
        place = rows.base[row][:, None] + grid
        concave = layout.prefix[place] - grid * score
        convex = self.terms.task[row][:, None] * (grid / (index + grid))
        value = concave + convex
        width = grid[:, 1:] - grid[:, :-1]
        slope_left = layout.values[place[:, :-1] + (width > 0)] - score
        slope_right = layout.values[place[:, 1:]] - score
        run = width.to(torch.float64)
        bend = slope_left - slope_right
        cross = (concave[:, 1:] - concave[:, :-1] - run * slope_right) / bend
        cross = torch.where(bend > 0, torch.minimum(cross.clamp_(min=0.0), run), 0.0)
        chord = (convex[:, 1:] - convex[:, :-1]) / run
        bound = value[:, :-1] + cross * (slope_left + chord)
        bound = torch.maximum(bound, torch.maximum(value[:, :-1], value[:, 1:]))
        return value, bound.masked_fill_(width < 2, -torch.inf)

    def _split(self, keep: Tensor) -> None:
        """Go on with the marked intervals, each cut into eight."""
        which, column = keep.nonzero(as_tuple=True)
        left, right = self.grid[which, column], self.grid[which, column + 1]
        eighths = torch.arange(_SPLIT + 1, device=left.device)
        self.row = self.row[which]
        self.grid = left[:, None] + ((right - left)[:, None] * eighths >> 3)

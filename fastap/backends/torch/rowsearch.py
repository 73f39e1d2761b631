"""Each row alone: ``argmax_a g_i(a)``, by bisection where the terms are concave, by branch and bound where not."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.torch.layout import pick
from fastap.backends.torch.terms import Terms

_TINY = torch.finfo(torch.float64).tiny
_NOWHERE = torch.iinfo(torch.int64).max
# Rows searched together: one for so many scores, so that the tables of a search (rows x 9 float64, a dozen alive at a
# time) stay small beside the scores, but enough for the some 50 operations a level to be worth their start.
_SCORES_A_ROW = 16
_LEAST_ROWS, _MOST_ROWS = 1 << 10, 1 << 14


def concave_argmax(terms: Terms) -> Tensor:
    """The smallest ``a`` of largest ``g_i(a)`` for the positive update, whose marginals fall with ``a``."""
    a, most = terms.rows.above, terms.rows.n_negative
    for power in reversed(range(int((most - a).max()).bit_length() if terms.count else 0)):
        further = torch.minimum(a + (1 << power), most)
        a = torch.where(terms.marginal(further) > 0, further, a)
    return a


def argmax(terms: Terms) -> tuple[Tensor, Tensor]:
    """Some ``a`` in ``[0, #{n >= p_i}]`` of largest ``g_i(a)``, and that value, for the negative update."""
    found = [_Search(terms.part(first, last)).argmax() for first, last in _parts(terms)]
    return torch.cat([a for a, _ in found]), torch.cat([value for _, value in found])


def band(terms: Terms, inside: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest ``a`` with ``g_i(a) >= floor_i``, given one such ``a``."""
    found = [
        _Search(terms.part(first, last)).band(inside[first:last], floor[first:last]) for first, last in _parts(terms)
    ]
    return torch.cat([left for left, _ in found]), torch.cat([right for _, right in found])


def _parts(terms: Terms) -> list[tuple[int, int]]:
    step = max(_LEAST_ROWS, min(_MOST_ROWS, terms.layout.keys.shape[0] // _SCORES_A_ROW))
    return [(first, min(first + step, terms.count)) for first in range(0, terms.count, step)]


def _pieces(intervals: int) -> int:
    """Into how many pieces to cut each interval: few intervals cost their operations, not their points."""
    return 8 if intervals > 512 else 64


class _Search:
    """Branch and bound over intervals of ``a`` for rows with ``s = -1``.

    ``g_i = A + B`` with ``A(a) = S[a] - a p_i`` concave and ``B(a) = -w a / (i + a)`` convex. On an interval
    ``[u, v]``, ``A`` lies under its tangents at both ends and ``B`` under its chord, so ``g_i`` lies under its larger
    end or the bound where the tangents cross. Tight to second order in the width.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        rows = terms.rows
        row = torch.arange(terms.count, device=rows.base.device)
        # Intervals spaced evenly in log(i + a).
        last = rows.at_or_above[:, None]
        pieces = _pieces(terms.count)
        share = torch.arange(pieces + 1, device=row.device, dtype=torch.float64) / pieces
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
            goal = pick(best, self.row)
            # Of several intervals that attain a new best, the leftmost: the result does not hang on their order.
            candidate = at.masked_fill_(top != goal, _NOWHERE)
            leftmost = torch.full_like(where, _NOWHERE).scatter_reduce_(0, self.row, candidate, "amin")
            where = torch.where(improved, leftmost, where)
            self._split(bound > goal[:, None])
        return where, best

    def band(self, inside: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        left, right = inside.clone(), inside.clone()
        while self.row.shape[0]:
            value, bound = self._evaluate()
            least = pick(floor, self.row)[:, None]
            enough = value >= least
            left.scatter_reduce_(0, self.row, self.grid.masked_fill(~enough, _NOWHERE).amin(1), "amin")
            right.scatter_reduce_(0, self.row, self.grid.masked_fill(~enough, -1).amax(1), "amax")
            outside = self.grid[:, :-1] < pick(left, self.row)[:, None]
            outside |= self.grid[:, 1:] > pick(right, self.row)[:, None]
            # Beside an end that is high enough others may be, wherever the bound has its top.
            possible = (bound >= least) | enough[:, :-1] | enough[:, 1:]
            self._split(outside & possible & (bound > -torch.inf))
        return left, right

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """``g`` on the grid and an upper bound of ``g`` strictly inside each interval (-inf where it is empty)."""
        rows, layout, grid = self.terms.rows, self.terms.layout, self.grid
        score, index, base, task = (
            pick(field, self.row)[:, None] for field in (rows.score, rows.index, rows.base, self.terms.task)
        )
        a = grid.to(torch.float64)
        convex = (a / (a + index)).mul_(task)
        concave = pick(layout.prefix, grid + base).addcmul_(a, score, value=-1.0)
        value = concave + convex
        left, right = grid[:, :-1], grid[:, 1:]
        inside = right - left > 1
        slope_left = pick(layout.values, left + base + inside).sub_(score)
        slope_right = pick(layout.values, right + base).sub_(score)
        run = a[:, 1:] - a[:, :-1]
        # Where the tangents cross; parallel tangents (A is linear) are met at an end.
        cross = concave[:, 1:] - concave[:, :-1]
        del a, concave  # what is not held here is not in the peak of memory
        cross.addcmul_(run, slope_right, value=-1.0)
        cross.div_(torch.sub(slope_left, slope_right, out=slope_right).clamp_(min=_TINY))
        torch.minimum(cross.clamp_(min=0.0), run, out=cross)
        slope_left += (convex[:, 1:] - convex[:, :-1]).div_(run.clamp_(min=1.0))
        bound = cross.mul_(slope_left).add_(value[:, :-1])
        return value, bound.masked_fill_(~inside, -torch.inf)

    def _split(self, keep: Tensor) -> None:
        """Go on with the marked intervals, each cut into pieces."""
        intervals = keep.shape[1]
        which = keep.view(-1).nonzero().view(-1)
        row = torch.div(which, intervals, rounding_mode="floor")
        left_end = which + row  # the grid has one column more than there are intervals
        grid = self.grid.view(-1)
        left, right = grid.index_select(0, left_end), grid.index_select(0, left_end + 1)
        pieces = _pieces(row.shape[0])
        steps = torch.arange(pieces + 1, device=left.device) * (right - left)[:, None]
        self.row = self.row.index_select(0, row)
        self.grid = left[:, None] + steps // pieces

"""Loss-augmented inference: the exact ``argmax F + s epsilon L`` for all rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.torch import rowsearch
from fastap.backends.torch.banded import solve_blocks
from fastap.backends.torch.layout import pick
from fastap.backends.torch.monotone import (
    RankingSums,
    Segments,
    embed,
    in_order,
    merge_conflicts,
    pool,
    select,
    single_rows,
    whole_rankings,
)
from fastap.backends.torch.terms import Terms
from fastap.types import Method

_ULPS = 8 * torch.finfo(torch.float64).eps


def augmented(terms: Terms, sign: int, method: Method = "auto") -> Tensor:
    """``a``, the number of negatives above each row in a loss-augmented ranking; ``sign`` is that of the update."""
    if terms.count == 0:
        return terms.rows.above
    if method == "dp":
        return _program(terms)
    return _positive_update(terms) if sign > 0 else _negative_update(terms)


def _program(terms: Terms) -> Tensor:
    """The dynamic program over every cell of every ranking: it asks nothing of the terms, nor of their sign."""
    n_negative = terms.rows.n_negative
    return solve_blocks(terms, whole_rankings(terms), torch.zeros_like(n_negative), n_negative)


def _positive_update(terms: Terms) -> Tensor:
    """Concave terms: search the rows, then pool the blocks in conflict."""
    a = rowsearch.concave_argmax(terms)
    if in_order(terms, a):
        return a
    blocks = merge_conflicts(terms, single_rows(terms), a)
    conflict = (blocks.first < blocks.last).nonzero().view(-1)
    inside, chosen = select(blocks, conflict), pick(a, conflict)
    a[conflict], _ = pool(terms.take(conflict), inside, inside.least(chosen), inside.greatest(chosen))
    return a


def _negative_update(terms: Terms) -> Tensor:
    """Search the rows; where they conflict, pool them as if their terms were concave; prove that, or solve outright.

    The sum of the optima of any blocks of rows bounds the optimum from above, so blocks whose optima, side by side,
    do not decrease are the optimum. Pooling cuts a block into level sets, which are tried first; those whose optima
    meet their neighbours are merged for good and solved again.
    """
    a, _ = rowsearch.argmax(terms)
    solved = single_rows(terms)
    first_round = True
    while not in_order(terms, a):
        blocks = merge_conflicts(terms, solved, a)
        grown = ((blocks.first != solved.first) | (blocks.last != solved.last)).nonzero().view(-1)
        part, inside, chosen = terms.take(grown), select(blocks, grown), pick(a, grown)
        pooled, levels = pool(part, inside, inside.least(chosen), inside.greatest(chosen))
        if first_round:
            inside = levels
        a[grown] = _prove_or_solve(part, inside, pooled, levels)
        solved = embed(blocks, grown, inside)
        first_round = False
    return a


def _prove_or_solve(terms: Terms, blocks: Segments, pooled: Tensor, levels: Segments) -> Tensor:
    """The optimum of each block; ``pooled`` is one, with its level sets, if the terms are concave where it matters."""
    a = torch.minimum(pooled, terms.rows.at_or_above)  # never worse for any row, and still non-decreasing
    priced = terms.priced(_prices(terms, a, levels))
    favourite, bound = rowsearch.argmax(priced)
    # Rounding of g is that of its largest part.
    rounding = _ULPS * (priced.standard(a).abs() + (a * priced.rows.score).abs() + terms.task.abs())
    shortfall = (bound - priced.term(a)).clamp_(min=0.0)
    unproved = (blocks.greatest(shortfall - rounding) > 0).nonzero().view(-1)
    if unproved.shape[0]:
        rest, inside, short = priced.take(unproved), select(blocks, unproved), shortfall[unproved]
        # In an optimum no row falls short of its bound by more than the block as a whole does now.
        total = RankingSums(rest)(short)
        slack = (total - (total - short)[inside.first])[inside.last]
        floor = bound[unproved] - slack - rounding[unproved]
        left, right = rowsearch.band(rest, favourite[unproved], floor)
        a[unproved] = solve_blocks(terms.take(unproved), inside, left, right)
    return a


def _prices(terms: Terms, a: Tensor, levels: Segments) -> Tensor:
    """Lagrange prices: what each row must be paid for one more negative so that it would choose ``a`` by itself.

    With multipliers ``l_i >= 0`` for ``a_i <= a_{i+1}``, the sum of the priced terms
    ``g_i(a) + (l_{i-1} - l_i) a`` bounds the optimum of the block from above. ``l_i`` is as large as the marginals
    of the rows above it in its level set allow, and those below it; for concave terms the bound is then attained.
    """
    # At the ends of the range there is no next marginal; any of the right sign will do.
    inner = a >= 1
    fall = terms.marginal(a.clamp(min=1))
    fall = torch.where(inner, fall, fall.clamp(min=0.0))
    inner = a < terms.rows.n_negative
    rise = terms.marginal(torch.where(inner, a + 1, a))
    rise = torch.where(inner, rise, rise.clamp(max=0.0))
    sums = RankingSums(terms)
    fallen, risen = sums(fall), sums(rise)
    from_above = fallen - (fallen - fall)[levels.first]
    from_below = risen - risen[levels.last]
    multiplier = torch.minimum(from_above, from_below).clamp_(min=0.0)
    multiplier = torch.where(levels.last == torch.arange(terms.count, device=a.device), 0.0, multiplier)
    price = -multiplier
    price[1:] += multiplier[:-1]
    return price

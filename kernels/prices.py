"""A price for every row, by which a bound of its block is the sum of what the rows make of it each for itself.

State is that of :mod:`kernels.pool`.
"""

import triton
import triton.language as tl

from .scans import add_in_segment
from .terms import count_above, marginal

# Rounding of g is that of its largest part: 8 units in the last place of float64.
_ROUNDING = tl.constexpr(8 * 2.220446049250313e-16)


@triton.jit
def set_prices(
    v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, task,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The candidate into ``work`` and Lagrange multipliers ``l_i >= 0`` for ``a_i <= a_{i+1}`` into ``x``.

    The sum of the priced terms ``g_i(a) + (l_{i-1} - l_i) a`` bounds the optimum of the block from above. ``l_i`` is as
    large as the marginals of the rows above it in its level set allow, and those below it; for concave terms the bound
    is then attained.
    """
    lane = tl.arange(0, BLOCK)
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        p = tl.load(v_ptr + row, mask=mask, other=0.0)
        last = tl.load(last_ptr + row, mask=mask, other=-1)
        # Beyond #{n >= p} no row gains; a choice that falls there stays non-decreasing.
        a = tl.minimum(tl.load(low_ptr + row, mask=mask, other=0), count_above(n_ptr, n_negative, p, mask, True))
        tl.store(work_ptr + row, a, mask=mask)
        # At the ends of the range there is no next marginal; any of the right sign will do.
        fall = marginal(n_ptr, tl.maximum(a, 1), p, row + 1, task, mask)
        fall = tl.where(a >= 1, fall, tl.maximum(fall, 0.0))
        rise = marginal(n_ptr, tl.minimum(a + 1, n_negative), p, row + 1, task, mask)
        rise = tl.where(a < n_negative, rise, tl.minimum(rise, 0.0))
        carries = (lane == 0) & (row > first)
        joined = carries & (tl.load(last_ptr + row - 1, mask=carries, other=-2) == last)
        fall = fall + tl.load(x_ptr + row - 1, mask=joined, other=0.0)
        rise = rise + tl.load(y_ptr + row - 1, mask=joined, other=0.0)
        _, fallen = tl.associative_scan((last, fall), 0, add_in_segment)
        _, risen = tl.associative_scan((last, rise), 0, add_in_segment)
        tl.store(x_ptr + row, fallen, mask=mask)
        tl.store(y_ptr + row, risen, mask=mask)
        tl.debug_barrier()
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        last = tl.load(last_ptr + row, mask=mask, other=0)
        from_above = tl.load(x_ptr + row, mask=mask, other=0.0)
        from_below = tl.load(y_ptr + row, mask=mask, other=0.0) - tl.load(y_ptr + last, mask=mask, other=0.0)
        multiplier = tl.maximum(tl.minimum(from_above, from_below), 0.0)
        tl.store(x_ptr + row, tl.where(last == row, 0.0, multiplier), mask=mask)
    tl.debug_barrier()


@triton.jit
def price_of(x_ptr, row, is_inside, mask):
    """What a row is paid for one more negative above it; ``is_inside`` where it is not the first of its block."""
    above = tl.load(x_ptr + row - 1, mask=is_inside, other=0.0)
    return above - tl.load(x_ptr + row, mask=mask, other=0.0)


@triton.jit
def rounding_of(by_score, a, pc, task):
    """What rounding may add to a term."""
    return (tl.abs(by_score) + tl.abs(a.to(tl.float64) * pc) + tl.abs(task)) * _ROUNDING

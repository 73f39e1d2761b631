"""Is a block's value the optimum? A price for every row that proves a candidate, and what to do if it does not.

The terms are not concave, so a pooled block is but a candidate. Lagrange prices give a bound of the block from above,
row by row; where the candidate attains it, it is an optimum. Else an optimum of the block keeps every row close to its
bound, which leaves a band of a few columns for the dynamic program.

State is that of :mod:`kernels.pool`.
"""

import triton
import triton.language as tl

from .pool import copy, find_last, pool
from .program import solve_block
from .scans import add_in_segment, next_set, running_max, running_min
from .search import search_band, search_free
from .terms import count_above, marginal, standard, task_loss

_HIGHEST = tl.constexpr(2**31 - 1)
# Rounding of g is that of its largest part: 8 units in the last place of float64.
_ROUNDING = tl.constexpr(8 * 2.220446049250313e-16)


@triton.jit
def settle(
    v_ptr, n_ptr, s_ptr,
    choice_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task, stage,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One step of the negative update, into ``choice``.

    Stage 0 searches each row by itself. Later ones take the optimum of each block that :func:`mark` left: pooling gives
    a candidate, and prices a bound that proves it; blocks it does not prove are solved by the dynamic program in the
    bands that the bound leaves. Stage 1 takes the level sets of the pooled blocks as blocks of their own, and leaves
    their ends in ``last``; merged blocks are never split again.
    """
    if stage != 0:
        find_last(starts_ptr, last_ptr, first, end, BLOCK)
        pool(
            v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
            first, end, n_negative, task,
            BLOCK,
        )  # fmt: skip
        set_prices(
            v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr,
            first, end, n_negative, task,
            BLOCK,
        )  # fmt: skip
    unproved = search_priced(
        v_ptr, n_ptr, s_ptr, starts_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
        first, end, n_negative, centre, task, 1 - tl.minimum(stage, 1),
        ROWS, PIECES,
    )  # fmt: skip
    # A pointer chosen at run time is beyond AMD's compiler (triton-lang/triton#10701): so two copies.
    if stage == 0:
        copy(high_ptr, choice_ptr, first, end, BLOCK)
    else:
        if stage > 1:
            find_last(starts_ptr, last_ptr, first, end, BLOCK)
        if unproved != 0:
            solve_unproved(
                v_ptr, n_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
                first, end, n_negative, centre, task,
                BLOCK, ROWS, PIECES, COLUMNS,
            )  # fmt: skip
        copy(work_ptr, choice_ptr, first, end, BLOCK)


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
def search_priced(
    v_ptr, n_ptr, s_ptr, starts_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task, anew,
    ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """The choice each row in company would make at its price, into ``high``; whether the candidates are unproved.

    ``y`` gets how far each candidate falls short of its row's bound, ``low`` becomes a mark on the rows where that is
    more than rounding. With ``anew`` all rows are searched at no price, nothing but ``high`` is of meaning.
    """
    unproved = 0
    for base in range(first, end, ROWS):
        row = base + tl.arange(0, ROWS)
        mask = row < end
        old = mask & (anew == 0)
        searched = (mask & (anew != 0)) | _in_company(starts_ptr, row, first, end, old)
        a = tl.load(work_ptr + row, mask=old, other=0)
        shortfall = tl.zeros([ROWS], tl.float64)
        beyond = tl.zeros([ROWS], tl.int32)
        favourite = a
        if tl.max(searched.to(tl.int32), axis=0) > 0:
            p = tl.load(v_ptr + row, mask=mask, other=0.0)
            top = count_above(n_ptr, n_negative, p, searched, True)
            price = _price(x_ptr, row, first, searched & old)
            pc = p - centre - price
            favourite, bound = search_free(s_ptr, n_ptr, p - price, pc, row + 1, top, task, searched, PIECES)
            favourite = tl.where(searched, favourite, a)
            by_score = standard(s_ptr, a, pc, searched)
            shortfall = tl.maximum(bound - (by_score + task * task_loss(a, row + 1)), 0.0)
            shortfall = tl.where(searched, shortfall, 0.0)
            beyond = (shortfall > _rounding(by_score, a, pc, task)).to(tl.int32)
        tl.store(y_ptr + row, shortfall, mask=mask)
        tl.store(high_ptr + row, favourite, mask=mask)
        tl.store(low_ptr + row, beyond, mask=mask)
        unproved = tl.maximum(unproved, tl.max(beyond, axis=0))
    tl.debug_barrier()
    return unproved


@triton.jit
def _price(x_ptr, row, first, mask):
    """What a row is paid for one more negative above it."""
    above = tl.load(x_ptr + row - 1, mask=mask & (row > first), other=0.0)
    return above - tl.load(x_ptr + row, mask=mask, other=0.0)


@triton.jit
def _rounding(by_score, a, pc, task):
    return (tl.abs(by_score) + tl.abs(a.to(tl.float64) * pc) + tl.abs(task)) * _ROUNDING


@triton.jit
def _in_company(starts_ptr, row, first, end, mask):
    """Whether the row's block has more rows than this."""
    begins = tl.load(starts_ptr + row, mask=mask, other=1) != 0
    alone = begins & (tl.load(starts_ptr + row + 1, mask=mask & (row + 1 < end), other=1) != 0)
    return mask & (alone == 0)


@triton.jit
def solve_unproved(
    v_ptr, n_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Each block with a marked row, one after the other: bands from the bound, then the dynamic program."""
    row = next_set(low_ptr, first, end, BLOCK)
    while row < end:
        block_end = tl.load(last_ptr + row)
        # The first row of the block: `last` never falls.
        block_first = first
        beyond = row
        while block_first < beyond:
            middle = (block_first + beyond) // 2
            inside = tl.load(last_ptr + middle) >= block_end
            beyond = tl.where(inside, middle, beyond)
            block_first = tl.where(inside, block_first, middle + 1)
        # All threads have read the marks, which bands replace.
        tl.debug_barrier()
        set_bands(
            v_ptr, n_ptr, s_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
            block_first, block_end + 1, n_negative, centre, task,
            BLOCK, ROWS, PIECES,
        )  # fmt: skip
        solve_block(
            v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
            block_first, block_end + 1, centre, task,
            BLOCK, COLUMNS,
        )  # fmt: skip
        row = next_set(low_ptr, block_end + 1, end, BLOCK)


@triton.jit
def set_bands(
    v_ptr, n_ptr, s_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Where an optimum of the block must lie, into ``low`` and ``high``, both non-decreasing.

    In an optimum no row falls short of its bound by more than the block as a whole does now.
    """
    slack = tl.full([], 0.0, tl.float64)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        slack += tl.sum(tl.load(y_ptr + row, mask=row < end, other=0.0), axis=0)
    for base in range(first, end, ROWS):
        row = base + tl.arange(0, ROWS)
        mask = row < end
        p = tl.load(v_ptr + row, mask=mask, other=0.0)
        price = _price(x_ptr, row, first, mask)
        pc = p - centre - price
        p = p - price
        top = count_above(n_ptr, n_negative, p + price, mask, True)
        favourite = tl.load(high_ptr + row, mask=mask, other=0)
        at_candidate = standard(s_ptr, tl.load(work_ptr + row, mask=mask, other=0), pc, mask)
        rounding = _rounding(at_candidate, tl.load(work_ptr + row, mask=mask, other=0), pc, task)
        bound = standard(s_ptr, favourite, pc, mask) + task * task_loss(favourite, row + 1)
        floor = bound - slack - rounding
        low, high = search_band(s_ptr, n_ptr, p, pc, row + 1, top, task, favourite, floor, mask, PIECES)
        tl.store(low_ptr + row, low, mask=mask)
        tl.store(high_ptr + row, high, mask=mask)
    tl.debug_barrier()
    lane = tl.arange(0, BLOCK)
    highest = 0
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        low = tl.maximum(running_max(tl.load(low_ptr + row, mask=mask, other=0)), highest)
        tl.store(low_ptr + row, low, mask=mask)
        highest = tl.max(low, axis=0)
    lowest = n_negative
    stop = end
    while stop > first:
        row = stop - 1 - lane
        mask = row >= first
        high = tl.minimum(running_min(tl.load(high_ptr + row, mask=mask, other=_HIGHEST)), lowest)
        tl.store(high_ptr + row, high, mask=mask)
        lowest = tl.min(high, axis=0)
        stop = stop - BLOCK
    tl.debug_barrier()

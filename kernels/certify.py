"""Is a block's value the optimum? A price for every row that proves a candidate, and what to do if it does not.

The terms are not concave, so a pooled block is but a candidate. Lagrange prices give a bound of the block from above,
row by row; where the candidate attains it, it is an optimum. Else an optimum of the block keeps every row close to its
bound, which leaves a band of a few columns for the dynamic program.

State is that of :mod:`kernels.pool`.
"""

import triton
import triton.language as tl

from .pool import copy, find_last, pool
from .prices import price_of, rounding_of, set_prices
from .program import solve_bands
from .scans import next_set
from .search import search_band, search_free
from .terms import count_above, highest_power, standard, task_loss, term


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
            first, end, task,
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
        searched = mask
        a = tl.zeros([ROWS], tl.int32)
        if anew == 0:
            a = tl.load(work_ptr + row, mask=mask, other=0)
            searched = in_company(starts_ptr, row, end, mask)
        shortfall = tl.zeros([ROWS], tl.float64)
        beyond = tl.zeros([ROWS], tl.int1)
        favourite = a
        if tl.max(searched.to(tl.int32), axis=0) > 0:
            favourite, shortfall, beyond = price_rows(
                v_ptr, n_ptr, s_ptr, starts_ptr, x_ptr,
                row, a, anew, n_negative, centre, task, searched,
                PIECES,
            )  # fmt: skip
        tl.store(y_ptr + row, shortfall, mask=mask)
        tl.store(high_ptr + row, favourite, mask=mask)
        tl.store(low_ptr + row, beyond.to(tl.int32), mask=mask)
        unproved = tl.maximum(unproved, tl.max(beyond.to(tl.int32), axis=0))
    tl.debug_barrier()
    return unproved


@triton.jit
def price_rows(
    v_ptr, n_ptr, s_ptr, starts_ptr, x_ptr,
    row, a, anew, n_negative, centre, task, searched,
    PIECES: tl.constexpr,
):  # fmt: skip
    """Of a tile of rows the choice at their price, and how far that of ``a`` falls short, and if by more than rounding.

    ``a`` itself and nothing where a row is not searched. With ``anew`` at no price, and only the choice is of meaning.
    """
    p = tl.load(v_ptr + row, mask=searched, other=0.0)
    top = count_above(n_ptr, n_negative, p, searched, True)
    priced = searched & (anew == 0)
    is_inside = priced & (tl.load(starts_ptr + row, mask=priced, other=1) == 0)
    price = price_of(x_ptr, row, is_inside, priced)
    pc = p - centre - price
    favourite, bound = search_free(s_ptr, n_ptr, p - price, pc, row + 1, top, task, searched, PIECES)
    by_score = standard(s_ptr, a, pc, searched)
    shortfall = tl.maximum(bound - (by_score + task * task_loss(a, row + 1)), 0.0)
    shortfall = tl.where(searched, shortfall, 0.0)
    return tl.where(searched, favourite, a), shortfall, shortfall > rounding_of(by_score, a, pc, task)


@triton.jit
def in_company(starts_ptr, row, end, mask):
    """Whether the row's block has more rows than this."""
    begins = tl.load(starts_ptr + row, mask=mask, other=1) != 0
    alone = begins & (tl.load(starts_ptr + row + 1, mask=mask & (row + 1 < end), other=1) != 0)
    return mask & (alone == 0)


@triton.jit
def first_of_level(last_ptr, row, mask):
    """The first row of a row's level set, from 0 on: ``last`` never falls."""
    end = tl.load(last_ptr + row, mask=mask, other=0)
    first = tl.zeros_like(row)
    step = highest_power(tl.max(row, axis=0))
    while step > 0:
        further = tl.minimum(first + step, row)
        before = tl.load(last_ptr + further - 1, mask=mask & (further > 0), other=0) < end
        first = tl.where(mask & (further > 0) & before, further, first)
        step = step // 2
    return first


@triton.jit
def solve_unproved(
    v_ptr, n_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Each block with a marked row, one after the other: bands from the bound, then the dynamic program."""
    row = next_set(low_ptr, first, end, BLOCK)
    while row < end:
        block_end = tl.load(last_ptr + row) + 1
        marked = row + tl.arange(0, 1)
        block_first = tl.max(first_of_level(last_ptr, marked, marked < end), axis=0)
        # All threads have read the marks, which bands replace.
        tl.debug_barrier()
        set_bands(
            v_ptr, n_ptr, s_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
            block_first, block_end, n_negative, centre, task,
            BLOCK, ROWS, PIECES,
        )  # fmt: skip
        solve_bands(
            v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
            block_first, block_end, centre, task,
            BLOCK, COLUMNS,
        )  # fmt: skip
        row = next_set(low_ptr, block_end, end, BLOCK)


@triton.jit
def set_bands(
    v_ptr, n_ptr, s_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, centre, task,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Where an optimum of the block must lie, into ``low`` and ``high``.

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
        price = price_of(x_ptr, row, mask & (row > first), mask)
        pc = p - centre - price
        p = p - price
        top = count_above(n_ptr, n_negative, p + price, mask, True)
        favourite = tl.load(high_ptr + row, mask=mask, other=0)
        at_candidate = standard(s_ptr, tl.load(work_ptr + row, mask=mask, other=0), pc, mask)
        rounding = rounding_of(at_candidate, tl.load(work_ptr + row, mask=mask, other=0), pc, task)
        bound = term(s_ptr, favourite, pc, row + 1, task, mask)
        floor = bound - slack - rounding
        low, high = search_band(s_ptr, n_ptr, p, pc, row + 1, top, task, favourite, floor, mask, PIECES)
        tl.store(low_ptr + row, low, mask=mask)
        tl.store(high_ptr + row, high, mask=mask)
    tl.debug_barrier()

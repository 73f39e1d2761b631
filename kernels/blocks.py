"""From the best ``a`` of each row alone to the best non-decreasing ``a``: conflict blocks, merged until none conflict.

Functions over the rows ``first <= row < end`` of one ranking (counted from 0), called by one program each and working
through them in tiles of BLOCK. What a pass leaves for other rows goes through memory, with a barrier after the pass.
State, one number a row: ``choice`` (int32) is ``a``; ``starts`` (int32) says that a block begins here; ``last``
(int32) is the last row of the row's block or level set; ``low``, ``high`` (int32) are a range of ``a``; ``work``
(int32), ``x``, ``y`` (float64) are scratch.
"""

import triton
import triton.language as tl

from .pool import pool
from .proof import search_priced, set_prices, solve_unproved
from .scans import running_max, running_min

_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def mark(
    choice_ptr, starts_ptr, low_ptr, high_ptr,
    first, end, highest_before, lowest_after,
    anew,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Merge blocks until all before a start choose at most what all from it on choose; whether any merged.

    ``highest_before`` and ``lowest_after`` are the extremes of ``choice`` outside the range. ``anew`` begins from
    single rows, else blocks that were merged before stay so. Leaves the running maximum in ``high`` and the running
    minimum from the end in ``low``.
    """
    lane = tl.arange(0, BLOCK)
    lowest = lowest_after
    stop = end
    while stop > first:
        row = stop - 1 - lane
        mask = row >= first
        choice = tl.load(choice_ptr + row, mask=mask, other=_HIGHEST)
        running = tl.minimum(running_min(choice), lowest)
        tl.store(low_ptr + row, running, mask=mask)
        lowest = tl.min(running, axis=0)
        stop = stop - BLOCK
    tl.debug_barrier()
    highest = highest_before
    merged = 0
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        choice = tl.load(choice_ptr + row, mask=mask, other=-1)
        running = tl.maximum(running_max(choice), highest)
        tl.store(high_ptr + row, running, mask=mask)
        before = tl.maximum(tl.load(choice_ptr + row - 1, mask=mask & (row > first), other=-1), highest_before)
        # All rows before: those of this tile before this row, and those of the tiles before.
        before = tl.maximum(running_max(tl.where(lane == 0, tl.maximum(before, highest), before)), highest)
        clear = before <= tl.load(low_ptr + row, mask=mask, other=0)
        stands = mask & (tl.load(starts_ptr + row, mask=mask & (anew == 0), other=1) != 0)
        merged = tl.maximum(merged, tl.max((stands & (clear == 0)).to(tl.int32), axis=0))
        tl.store(starts_ptr + row, (stands & clear).to(tl.int32), mask=mask)
        highest = tl.max(running, axis=0)
    tl.debug_barrier()
    return merged


@triton.jit
def find_last(starts_ptr, last_ptr, first, end, BLOCK: tl.constexpr):
    """``last`` from ``starts``."""
    lane = tl.arange(0, BLOCK)
    upcoming = end
    stop = end
    while stop > first:
        row = stop - 1 - lane
        mask = row >= first
        # The row after this one, if a block begins there; after the range one always does.
        begins = tl.load(starts_ptr + row + 1, mask=mask & (row + 1 < end), other=1) != 0
        running = tl.minimum(running_min(tl.where(begins & mask, row + 1, _HIGHEST)), upcoming)
        tl.store(last_ptr + row, running - 1, mask=mask)
        upcoming = tl.min(running, axis=0)
        stop = stop - BLOCK
    tl.debug_barrier()


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
def copy(from_ptr, to_ptr, first, end, BLOCK: tl.constexpr):
    """One number a row to another place."""
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        tl.store(to_ptr + row, tl.load(from_ptr + row, mask=row < end, other=0), mask=row < end)
    tl.debug_barrier()


@triton.jit
def begin_levels(starts_ptr, last_ptr, first, end, BLOCK: tl.constexpr):
    """``starts`` from ``last``."""
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        ended = tl.load(last_ptr + row - 1, mask=mask & (row > first), other=-1) < row
        tl.store(starts_ptr + row, ended.to(tl.int32), mask=mask)
    tl.debug_barrier()

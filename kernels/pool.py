"""Rows in conflict: blocks, merged until none conflict, and their best non-decreasing ``a`` where terms are concave.

Functions over the rows ``first <= row < end`` of one ranking (counted from 0), called by one program each and working
through them in tiles of BLOCK. What a pass leaves for other rows goes through memory, with a barrier after the pass.
State, one number a row: ``choice`` (int32) is ``a``; ``starts`` (int32) says that a block begins here; ``last``
(int32) is the last row of the row's block or level set; ``low``, ``high`` (int32) are a range of ``a``; ``work``
(int32), ``x``, ``y`` (float64) are scratch.
"""

import triton
import triton.language as tl

from .scans import lowest_before, running_max, running_min
from .terms import marginal

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
def begin_levels(starts_ptr, last_ptr, first, end, BLOCK: tl.constexpr):
    """``starts`` from ``last``."""
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        ended = tl.load(last_ptr + row - 1, mask=mask & (row > first), other=-1) < row
        tl.store(starts_ptr + row, ended.to(tl.int32), mask=mask)
    tl.debug_barrier()


@triton.jit
def pool(
    v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, task,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The best non-decreasing ``a`` of each block, for terms that are concave between its least and greatest choice.

    Expects :func:`mark`; leaves the result in ``low`` and the last row of each level set, the rows of a block that end
    at one value, in ``last``. Divide and conquer by value: the rows that choose ``a >= t`` are those from the cut on
    whose marginals ``d_i(t)`` sum to the most, so each block halves its range and splits at the cut, every row once a
    level, ``log2(range)`` times, whatever the conflicts.
    """
    lane = tl.arange(0, BLOCK)
    widest = 0
    lowest = 0
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        begins = tl.load(starts_ptr + row, mask=mask, other=0) != 0
        # The least choice from a row on and the greatest up to it never fall, so that of the block is that at its
        # first row (the last start so far has the greatest) and that at its last.
        low = tl.load(low_ptr + row, mask=mask, other=0)
        low = tl.maximum(running_max(tl.where(begins & mask, low, 0)), lowest)
        last = tl.load(last_ptr + row, mask=mask, other=0)
        high = tl.load(high_ptr + last, mask=mask, other=0)
        tl.store(low_ptr + row, low, mask=mask)
        # The last row has it already, and others may be about to read it there.
        tl.store(high_ptr + row, high, mask=mask & (row != last))
        widest = tl.maximum(widest, tl.max(tl.where(mask, high - low, 0), axis=0))
        lowest = tl.max(low, axis=0)
    tl.debug_barrier()

    while widest > 0:
        for base in range(first, end, BLOCK):
            row = base + lane
            mask = row < end
            middle = _middle(low_ptr, high_ptr, row, mask)
            p = tl.load(v_ptr + row, mask=mask, other=0.0)
            gain = marginal(n_ptr, tl.maximum(middle, 1), p, row + 1, task, mask)
            gain = tl.where(mask, gain, 0.0)
            segment = tl.load(last_ptr + row, mask=mask, other=-1)
            # The tile goes on where the one before it ended: its first row takes that end in.
            carries = (lane == 0) & (row > first)
            before = row - 1
            joined = carries & (tl.load(last_ptr + before, mask=carries, other=-2) == segment)
            carried = tl.load(y_ptr + before, mask=joined, other=0.0)
            carried_low = tl.load(x_ptr + before, mask=joined, other=0.0)
            keeps = joined & (carried_low < carried)
            place = tl.where(keeps, tl.load(work_ptr + before, mask=joined, other=0), row)
            start_low = tl.where(keeps, carried_low, carried)
            _, through, low, place = tl.associative_scan((segment, gain + carried, start_low, place), 0, lowest_before)
            tl.store(x_ptr + row, low, mask=mask)
            tl.store(y_ptr + row, through, mask=mask)
            tl.store(work_ptr + row, place, mask=mask)
            tl.debug_barrier()
        for base in range(first, end, BLOCK):
            row = base + lane
            mask = row < end
            last = tl.load(last_ptr + row, mask=mask, other=0)
            cut = tl.load(work_ptr + last, mask=mask, other=0)
            low = tl.load(low_ptr + row, mask=mask, other=0)
            high = tl.load(high_ptr + row, mask=mask, other=0)
            lowest_sum = tl.load(x_ptr + last, mask=mask, other=0.0)
            splits = mask & (low < high) & (lowest_sum < tl.load(y_ptr + last, mask=mask, other=0.0))
            middle = (low + high + 1) >> 1
            rises = splits & (row >= cut)
            tl.store(low_ptr + row, tl.where(rises, middle, low), mask=mask)
            tl.store(high_ptr + row, tl.where(rises, high, tl.maximum(middle - 1, low)), mask=mask)
            # Own rows only, and the next level reads them after the barrier.
            tl.store(last_ptr + row, tl.where(splits & (row < cut), cut - 1, last), mask=mask)
        tl.debug_barrier()
        widest = widest // 2


@triton.jit
def _middle(low_ptr, high_ptr, row, mask):
    low = tl.load(low_ptr + row, mask=mask, other=0)
    return (low + tl.load(high_ptr + row, mask=mask, other=0) + 1) >> 1


@triton.jit
def copy(from_ptr, to_ptr, first, end, BLOCK: tl.constexpr):
    """One number a row to another place."""
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        tl.store(to_ptr + row, tl.load(from_ptr + row, mask=row < end, other=0), mask=row < end)
    tl.debug_barrier()

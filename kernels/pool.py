"""Pooling: the best non-decreasing choice of blocks of rows whose terms are concave."""

import triton
import triton.language as tl

from .scans import lowest_before, running_max
from .terms import marginal


@triton.jit
def pool(
    v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, task,
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

"""The dynamic program of the paper over a block of rows and a band of columns for each: the engine of last resort.

    h_0 = 0;   h_i(a) = max over a' <= a of [h_{i-1}(a') + g_i(a')]

Columns are taken in tiles, all rows of a tile one after the other with ``h`` in registers, and one running maximum a
row is carried to the next tile: no memory grows with the width. Beside each value travels the ``a`` of the block's
middle row on the path to it. That fixes the middle row and leaves two smaller blocks for the next pass: twice the
arithmetic of keeping back pointers, and no memory but a few numbers a row.
"""

import triton
import triton.language as tl

from .scans import greatest_first, running_max, running_min

_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def solve_all(
    v_ptr, s_ptr, choice_ptr, last_ptr, low_ptr, high_ptr, x_ptr, y_ptr,
    n_positive, n_negative, centre, task,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The choices of all rows of a ranking, over all columns."""
    for base in range(0, n_positive, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < n_positive
        tl.store(low_ptr + row, row * 0, mask=mask)
        tl.store(high_ptr + row, row * 0 + n_negative, mask=mask)
        tl.store(last_ptr + row, row * 0 + n_positive - 1, mask=mask)
    tl.debug_barrier()
    solve_block(
        v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, choice_ptr, x_ptr, y_ptr,
        0, n_positive, centre, task,
        BLOCK, COLUMNS,
    )  # fmt: skip


@triton.jit
def solve_bands(
    v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, centre, task,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """:func:`solve_block` of bands that may fall from row to row: no choice that does not fall leaves what is here."""
    lane = tl.arange(0, BLOCK)
    highest = 0
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        low = tl.maximum(running_max(tl.load(low_ptr + row, mask=mask, other=0)), highest)
        tl.store(low_ptr + row, low, mask=mask)
        highest = tl.max(low, axis=0)
    lowest = _HIGHEST
    stop = end
    while stop > first:
        row = stop - 1 - lane
        mask = row >= first
        high = tl.minimum(running_min(tl.load(high_ptr + row, mask=mask, other=_HIGHEST)), lowest)
        tl.store(high_ptr + row, high, mask=mask)
        lowest = tl.min(high, axis=0)
        stop = stop - BLOCK
    tl.debug_barrier()
    solve_block(
        v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
        first, end, centre, task,
        BLOCK, COLUMNS,
    )  # fmt: skip


@triton.jit
def solve_block(
    v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    first, end, centre, task,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The best non-decreasing ``a`` of rows ``first <= row < end``, given that some optimum has ``low <= a <= high``.

    Into ``work``. ``low`` and ``high`` do not fall from row to row; ``last`` is ``end - 1`` for all these rows, before
    and after. ``low`` and ``high`` are used up, and so are ``x`` and ``y``, which hold what is carried from one tile of
    columns to the next. One program with at most COLUMNS threads.
    """
    lane = tl.arange(0, BLOCK)
    rows = end - first
    while rows > 0:
        start = first
        while start < end:
            finish = tl.load(last_ptr + start)
            if tl.load(low_ptr + start) < tl.load(high_ptr + finish):
                middle = (start + finish) // 2
                column = _middle_choice(
                    v_ptr, s_ptr, low_ptr, high_ptr, x_ptr, y_ptr,
                    start, finish, middle, centre, task,
                    COLUMNS,
                )  # fmt: skip
                for base in range(start, finish + 1, BLOCK):
                    row = base + lane
                    mask = row <= finish
                    low = tl.load(low_ptr + row, mask=mask, other=0)
                    high = tl.load(high_ptr + row, mask=mask, other=0)
                    tl.store(low_ptr + row, tl.where(row >= middle, tl.maximum(low, column), low), mask=mask)
                    tl.store(high_ptr + row, tl.where(row <= middle, tl.minimum(high, column), high), mask=mask)
                    ends = tl.where(row < middle, middle - 1, tl.where(row == middle, middle, finish))
                    tl.store(last_ptr + row, ends, mask=mask)
                tl.debug_barrier()
            start = finish + 1
        rows = rows // 2
    # All threads are through with the loop, which goes by `last`.
    tl.debug_barrier()
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        tl.store(work_ptr + row, tl.load(low_ptr + row, mask=mask, other=0), mask=mask)
        tl.store(last_ptr + row, end - 1, mask=mask)
    tl.debug_barrier()


@triton.jit
def _middle_choice(
    v_ptr, s_ptr, low_ptr, high_ptr, x_ptr, y_ptr,
    first, last, middle, centre, task,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """The ``a`` of row ``middle`` in an optimum of rows ``first`` to ``last``."""
    lane = tl.arange(0, COLUMNS)
    left = tl.load(low_ptr + first)
    right = tl.load(high_ptr + last)
    base = left
    while base <= right:
        column = base + lane
        inside = column <= right
        sums = tl.load(s_ptr + column, mask=inside, other=0.0)
        a = column.to(tl.float64)
        best = tl.zeros([COLUMNS], tl.float64)
        crossing = column
        for row in range(first, last + 1):
            pc = tl.load(v_ptr + row) - centre
            allowed = inside & (column >= tl.load(low_ptr + row)) & (column <= tl.load(high_ptr + row))
            value = best + (sums - a * pc + task * (a / (a + (row + 1))))
            value = tl.where(allowed, value, float("-inf"))
            payload = tl.where(row <= middle, column, crossing)
            # Only the first lane takes in what is carried, only the last one passes it on, and that depends on it.
            carries = (lane == 0) & (base > left)
            carried = tl.load(x_ptr + row + lane * 0, mask=carries, other=float("-inf"))
            carried_payload = tl.load(y_ptr + row + lane * 0, mask=carries, other=0.0).to(tl.int32)
            later = value > carried
            best, crossing = tl.associative_scan(
                (
                    tl.where(carries & (later == 0), carried, value),
                    tl.where(carries & (later == 0), carried_payload, payload),
                ),
                0,
                greatest_first,
            )
            tl.store(x_ptr + row + lane * 0, best, mask=lane == COLUMNS - 1)
            tl.store(y_ptr + row + lane * 0, crossing.to(tl.float64), mask=lane == COLUMNS - 1)
        tl.debug_barrier()
        base = base + COLUMNS
    result = tl.load(y_ptr + last).to(tl.int32)
    tl.debug_barrier()
    return result

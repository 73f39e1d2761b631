"""The dynamic program over all columns of long rows, by many programs at once.

    h_0 = 0;   h_i(a) = max over a' <= a of [h_{i-1}(a') + g_i(a')]

Rows are cut into stripes and columns into tiles. A tile needs ``h`` on its upper edge and one running maximum a row
on its left edge, so all tiles of an anti-diagonal, a *wave*, can go together: one launch a wave, no waiting inside.
Instead of back pointers the column where a path crossed the last of a few checkpoint rows travels with its value. That
gives the choices at the checkpoints, and between them segments that know nothing of each other, each with a part of
the columns: 1 / SEGMENTS of the work for the next level, all of them in parallel. After two levels each segment is
one program's work.

Level ``l`` has ``SEGMENTS**l`` segments; segment ``j`` holds the rows from ``cut(l, j) = P j // SEGMENTS**l`` on.
Column ``a`` of a segment has its numbers at ``a + cut(l, j)``, so that segments, which share a column at their ends,
share no memory.
"""

import triton
import triton.language as tl

from .program import solve_block
from .scans import greatest_first
from .split import load_ranking
from .terms import task_scale


@triton.jit(do_not_specialize=["n_items", "plane", "wave", "epsilon_bits"])
def advance_wave(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, plane, wave, epsilon_bits,
    SIGN: tl.constexpr, LEVEL: tl.constexpr, SEGMENTS: tl.constexpr, STRIPES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of each stripe: the one on the anti-diagonal ``wave``.

    One program owns one stripe of one ranking, each next segment being cut into STRIPES stripes, and COLUMNS columns.

    v_ptr, s_ptr, counts_ptr, centre_ptr: see :mod:`kernels.tiled`.
    rows_ptr: (6, rankings, n_items) int32: choice, a plane for each checkpoint but the first and the last of a segment
    (by column), what the running maxima carry (by row), what ``h`` carries (by column).
    sums_ptr: (2, rankings, n_items) float64: ``h`` (by column), running maxima (by row).
    """
    plane = plane.to(tl.int64)
    parts: tl.constexpr = SEGMENTS ** (LEVEL + 1)
    program = tl.program_id(0).to(tl.int64)
    ranking = program // (parts * STRIPES)
    stripe = (program % (parts * STRIPES)).to(tl.int32)
    part = stripe // STRIPES
    segment = part // SEGMENTS
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    rows_ptr += ranking * n_items
    sums_ptr += ranking * n_items
    tile = wave - stripe % (SEGMENTS * STRIPES)
    if solvable & (n_positive >= parts) & (tile >= 0):
        segment_first = _cut(n_positive, segment, LEVEL, SEGMENTS)
        least, most = _columns(rows_ptr, n_positive, n_negative, segment, LEVEL, SEGMENTS)
        base = least + tile * COLUMNS
        if base <= most:
            part_first = _cut(n_positive, part, LEVEL + 1, SEGMENTS)
            part_rows = _cut(n_positive, part + 1, LEVEL + 1, SEGMENTS) - part_first
            first = part_first + _share(part_rows, stripe % STRIPES, STRIPES)
            end = part_first + _share(part_rows, stripe % STRIPES + 1, STRIPES)
            # The last row of a segment has its choice from the level before, unless it is the last of all.
            segment_last = _cut(n_positive, segment + 1, LEVEL, SEGMENTS) - 1
            known_row = tl.where(segment_last + 1 < n_positive, segment_last, -1)
            checkpoint = part % SEGMENTS
            # The last row of the part, if it is a checkpoint at all: the last of the segment is known.
            checkpoint_row = tl.where(checkpoint < SEGMENTS - 1, part_first + part_rows - 1, -1)

            lane = tl.arange(0, COLUMNS)
            column = base + lane
            inside = column <= most
            slot = column + segment_first
            h_ptr = sums_ptr + slot
            maxima_ptr = sums_ptr + plane
            crossed_ptr = rows_ptr + 5 * plane + slot
            carried_ptr = rows_ptr + 4 * plane
            # The first row of a segment starts from h = 0, whatever is there.
            begun = inside & (first > segment_first)
            best = tl.load(h_ptr, mask=begun, other=0.0)
            crossing = tl.load(crossed_ptr, mask=begun, other=0)
            v_ptr += ranking * n_items
            sums = tl.load(s_ptr + ranking * n_items + n_positive - 1 + column, mask=inside, other=0.0)
            a = column.to(tl.float64)
            task = task_scale(epsilon_bits, n_negative, SIGN)
            for row in range(first, end):
                pc = tl.load(v_ptr + row) - centre
                value = best + (sums - a * pc + task * (a / (a + (row + 1))))
                value = tl.where(inside & ((row != known_row) | (column == most)), value, float("-inf"))
                if row == checkpoint_row:
                    if checkpoint > 0:
                        tl.store(rows_ptr + checkpoint * plane + slot, crossing, mask=inside)
                    crossing = column
                # Only the first lane takes in what is carried, only the last one passes it on, and that depends on it.
                carries = (lane == 0) & (tile > 0)
                carried = tl.load(maxima_ptr + row + lane * 0, mask=carries, other=float("-inf"))
                payload = tl.load(carried_ptr + row + lane * 0, mask=carries, other=0)
                takes = carries & (value <= carried)
                best, crossing = tl.associative_scan(
                    (tl.where(takes, carried, value), tl.where(takes, payload, crossing)), 0, greatest_first
                )
                tl.store(maxima_ptr + row + lane * 0, best, mask=lane == COLUMNS - 1)
                tl.store(carried_ptr + row + lane * 0, crossing, mask=lane == COLUMNS - 1)
            if first < end:
                tl.store(h_ptr, best, mask=inside)
                tl.store(crossed_ptr, crossing, mask=inside)


@triton.jit(do_not_specialize=["n_items", "plane"])
def trace_checkpoints(
    counts_ptr, centre_ptr,
    rows_ptr,
    n_items, plane,
    LEVEL: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """The choices at the checkpoints of a level, once its waves are through. One program owns one segment.

    rows_ptr: as in :func:`advance_wave`.
    """
    plane = plane.to(tl.int64)
    segments: tl.constexpr = SEGMENTS**LEVEL
    program = tl.program_id(0).to(tl.int64)
    ranking = program // segments
    segment = (program % segments).to(tl.int32)
    n_positive, _, _, _, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    if solvable & (n_positive >= segments * SEGMENTS):
        rows_ptr += ranking * n_items
        segment_first = _cut(n_positive, segment, LEVEL, SEGMENTS)
        last = _cut(n_positive, segment + 1, LEVEL, SEGMENTS) - 1
        choice = tl.load(rows_ptr + 4 * plane + last)
        for back in range(SEGMENTS - 1):
            checkpoint = SEGMENTS - 2 - back
            row = _cut(n_positive, segment * SEGMENTS + checkpoint + 1, LEVEL + 1, SEGMENTS) - 1
            tl.store(rows_ptr + row, choice)
            choice = tl.load(rows_ptr + checkpoint * plane + segment_first + choice, mask=checkpoint > 0, other=0)


@triton.jit(do_not_specialize=["n_items", "plane", "epsilon_bits"])
def solve_segments(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, plane, epsilon_bits,
    SIGN: tl.constexpr, LEVELS: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The choices of all rows, once the last level is traced. One program owns one segment of one ranking.

    A ranking with too few rows for a level is left in fewer segments. rows_ptr: choice, starts, last, low, high, work,
    sums_ptr: x, y, see :mod:`kernels.pool`; ``choice`` holds those of the checkpoints, which stay.
    """
    plane = plane.to(tl.int64)
    most_segments: tl.constexpr = SEGMENTS**LEVELS
    program = tl.program_id(0).to(tl.int64)
    ranking = program // most_segments
    segment = (program % most_segments).to(tl.int32)
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    segments = 1
    for _ in range(LEVELS):
        segments = tl.where(n_positive >= segments * SEGMENTS, segments * SEGMENTS, segments)
    if solvable & (segment < segments):
        rows_ptr += ranking * n_items
        sums_ptr += ranking * n_items
        first = _share(n_positive, segment, segments)
        end = _share(n_positive, segment + 1, segments)
        least = tl.load(rows_ptr + first - 1, mask=segment > 0, other=0)
        most = tl.load(rows_ptr + end - 1, mask=end < n_positive, other=0)
        most = tl.where(end < n_positive, most, n_negative)
        last_ptr = rows_ptr + 2 * plane
        low_ptr = rows_ptr + 3 * plane
        high_ptr = rows_ptr + 4 * plane
        for base in range(first, end, BLOCK):
            row = base + tl.arange(0, BLOCK)
            known = (row == end - 1) & (end < n_positive)
            tl.store(low_ptr + row, tl.where(known, most, least), mask=row < end)
            tl.store(high_ptr + row, row * 0 + most, mask=row < end)
            tl.store(last_ptr + row, row * 0 + end - 1, mask=row < end)
        tl.debug_barrier()
        solve_block(
            v_ptr + ranking * n_items, s_ptr + ranking * n_items + n_positive - 1, last_ptr,
            low_ptr, high_ptr, rows_ptr, sums_ptr, sums_ptr + plane,
            first, end, centre, task_scale(epsilon_bits, n_negative, SIGN),
            BLOCK, COLUMNS,
        )  # fmt: skip


@triton.jit
def _share(rows, number, parts):
    """``rows * number // parts`` without leaving the type."""
    return (rows.to(tl.int64) * number // parts).to(tl.int32)


@triton.jit
def _cut(n_positive, number, LEVEL: tl.constexpr, SEGMENTS: tl.constexpr):
    """The first row of a segment of a level."""
    parts: tl.constexpr = SEGMENTS**LEVEL
    return _share(n_positive, number, parts)


@triton.jit
def _columns(rows_ptr, n_positive, n_negative, segment, LEVEL: tl.constexpr, SEGMENTS: tl.constexpr):
    """The least and the greatest column of a segment: the choices at the checkpoints around it."""
    before = _cut(n_positive, segment, LEVEL, SEGMENTS) - 1
    last = _cut(n_positive, segment + 1, LEVEL, SEGMENTS) - 1
    least = tl.load(rows_ptr + before, mask=segment > 0, other=0)
    most = tl.load(rows_ptr + last, mask=last + 1 < n_positive, other=0)
    return least, tl.where(last + 1 < n_positive, most, n_negative)

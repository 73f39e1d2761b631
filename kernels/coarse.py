"""The optimum of a block of rows, coarse to fine (Raphael, PAMI 2001), where prices do not prove the pooled one.

Every row keeps a list of intervals of columns. A path takes one interval of every row, none wholly left of the one
before. With a bound of every row's term in each of its intervals, the best path bounds the optimum from above, the best
candidate so far from below. Intervals are dropped when no path through them has a bound as high as the candidate; of
the rest those with loose bounds are cut. What is left falls with the square of the width, so a level takes about as
long as the one before. Prices (:mod:`kernels.prices`) apply near the candidate only, as far as its rows still rise;
where the gap stalls half as far, and so on. The C engine does the same, see its ``coarse.c``.

Functions of one program for rows ``first <= row < end`` of one ranking. State of the rows is that of
:mod:`kernels.pool`: planes 0 to 4 of ``rows`` are the candidate, where a row's list begins, the ends of level sets, and
two numbers of the path. Lists lie where rows have no use for the planes, one number an interval from ``room`` on:

=======  =======================================================
plane    of the intervals
=======  =======================================================
0, 1     first and last column, or the halves of the bounds
2, 5     the halves of the bounds, or first and last column
3        the best interval of the row below, then how loose
4        the best interval of the row above
sums     best path from the first row, best path to the last row
=======  =======================================================
"""

import triton
import triton.language as tl

from .pool import copy, find_last, pool
from .prices import price_of, rounding_of, set_prices
from .scans import greater, running_max
from .search import bound_between
from .terms import count_above, highest_power, marginal, standard, term

FEWEST = tl.constexpr(8)  # that a row must have room for
_PIECES = tl.constexpr(4)  # that an interval is cut into
# An interval is cut if its bound is loose by more than this part of gap / rows.
_LOOSE = tl.constexpr(0.25)
# A bound may be exact at one end while the optimum takes the other: this part of the ends' difference is added.
_STEEP = tl.constexpr(1e-3)
# A gap above this part of the last one halves the reach of prices.
_STALLED = tl.constexpr(0.25)
_THRESHOLDS = tl.constexpr(8)  # tried before everything is cut
_UNPRICED = tl.constexpr(31)  # halvings that leave prices no reach
# In place of an interval of another row: there is no other row; there is none that a path may take.
_OUTSIDE = tl.constexpr(-1)
_NONE = tl.constexpr(-2)


@triton.jit
def refine(
    v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, plane,
    first, end, room, most, n_negative, centre, task,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The optimum into ``choice``, which has a candidate with prices in ``x``; or bands that the program has to solve.

    There is room for ``most`` intervals. Returns whether there are bands, in ``low`` and ``high``: where no interval
    can be cut any more.
    """
    rows = end - first
    from_ptr = rows_ptr + plane
    last_ptr = rows_ptr + 2 * plane
    total = _begin(v_ptr, n_ptr, rows_ptr, plane, first, end, room, most, n_negative, BLOCK, LANES)
    rounding = tl.full([], 0.0, tl.float64)
    before = rounding
    reach = 0
    halvings = 0
    flip = 0
    has_bands = 0
    moved = 1
    working = 1
    while working != 0:
        if moved != 0:
            rounding, reach = _reach(
                v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, first, end, n_negative, centre, task, BLOCK
            )
        near = reach >> halvings
        _set_bounds(
            v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, plane,
            first, end, room, total, flip, near, centre, task,
            BLOCK, LANES,
        )  # fmt: skip
        # A step takes 0.4 us, whatever it takes in: 16 intervals at once are more than most rows have.
        top = _sum_paths(rows_ptr, sums_ptr, plane, first, end, room, total, flip, 2 * LANES)
        _find_path(rows_ptr, sums_ptr, plane, first, end, room, total, flip, BLOCK, LANES)
        gain = _follow(v_ptr, s_ptr, rows_ptr, sums_ptr, plane, first, end, near, centre, task, BLOCK)
        gain = tl.maximum(gain, 0.0)
        gap = top - gain
        if (before > 0.0) & (gap > _STALLED * before):
            halvings = tl.minimum(halvings + 1, _UNPRICED)
        before = gap
        kept = total
        finer = 0
        loose = _LOOSE * gap / rows
        if gap > rounding:
            _judge(
                v_ptr, s_ptr, rows_ptr, sums_ptr, plane,
                first, end, room, total, flip, near, centre, task, gain - rounding,
                BLOCK, LANES,
            )  # fmt: skip
            # A level is not worth it for few cuts: down with the threshold; up where there is no room.
            tried = 0
            raised = 0
            searching = 1
            while searching != 0:
                kept, finer = _count(rows_ptr, plane, first, end, room, total, flip, loose, BLOCK, LANES)
                if finer > most:
                    raised = 1
                    loose = 4.0 * tl.maximum(loose, rounding / rows)
                else:
                    tried += 1
                    is_few = (finer > 0) & (finer <= kept + kept // 2) & (loose >= 0.0)
                    searching = (is_few & (raised == 0)).to(tl.int32)
                    if searching != 0:
                        loose = tl.where(tried < _THRESHOLDS, loose / 16.0, -1.0)
        # Where a row has no interval left the candidate is the optimum.
        working = (finer > 0).to(tl.int32)
        moved = (gain > 0.0).to(tl.int32)
        if moved != 0:
            copy(last_ptr, rows_ptr, first, end, BLOCK)
        if working != 0:
            _place(rows_ptr, plane, first, end, room, BLOCK)
            _cut(rows_ptr, plane, first, end, room, total, flip, loose, BLOCK, LANES)
            flip = 1 - flip
            total = finer
            if finer > kept:
                better = _pool_path(
                    v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, plane, first, end, room, n_negative, centre, task, BLOCK
                )
                moved = tl.maximum(moved, better)
            if moved != 0:
                _mark_levels(rows_ptr, from_ptr, first, end, BLOCK)
                find_last(from_ptr, last_ptr, first, end, BLOCK)
                set_prices(
                    v_ptr, n_ptr, last_ptr, rows_ptr, rows_ptr, sums_ptr, sums_ptr + plane,
                    first, end, n_negative, task,
                    BLOCK,
                )  # fmt: skip
            copy(rows_ptr + 4 * plane + room - first, from_ptr, first, end, BLOCK)
            if finer == kept:
                # Single columns are left, and without prices the best path is the optimum; or there is no room.
                has_bands = (loose >= 0.0).to(tl.int32)
                working = ((has_bands == 0) & (halvings < _UNPRICED)).to(tl.int32)
                halvings = tl.maximum(halvings, _UNPRICED)
    if has_bands != 0:
        _set_bands(rows_ptr, plane, first, end, room, total, flip, BLOCK)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        tl.store(last_ptr + row, row * 0 + end - 1, mask=row < end)
    tl.debug_barrier()
    return has_bands


@triton.jit
def _list_of(rows_ptr, plane, room, flip):
    """Where first and last columns lie, and the other pair of planes."""
    left_ptr = rows_ptr + room + 2 * flip * plane
    right_ptr = rows_ptr + room + (1 + 4 * flip) * plane
    high_ptr = rows_ptr + room + 2 * (1 - flip) * plane
    low_ptr = rows_ptr + room + (5 - 4 * flip) * plane
    return left_ptr, right_ptr, high_ptr, low_ptr


@triton.jit
def _range_of(from_ptr, row, first, end, total):
    """Where the lists of a tile of rows begin and end; empty of rows outside."""
    inside = (row >= first) & (row < end)
    start = tl.load(from_ptr + row, mask=inside, other=0)
    stop = tl.load(from_ptr + row + 1, mask=inside & (row + 1 < end), other=total)
    return start, tl.where(inside, stop, start)


@triton.jit
def _load_halves(high_ptr, low_ptr, place, mask):
    """A float64 from two int32."""
    high = tl.load(high_ptr + place, mask=mask, other=0).to(tl.int64)
    low = tl.load(low_ptr + place, mask=mask, other=0).to(tl.int64)
    return ((high << 32) | (low & 0xFFFFFFFF)).to(tl.float64, bitcast=True)


@triton.jit
def _terms_of(v_ptr, s_ptr, rows_ptr, x_ptr, row, first, mask, centre, task):
    """Score, score less the centre, price and candidate of a tile of rows, and their terms there."""
    p = tl.load(v_ptr + row, mask=mask, other=0.0)
    at = tl.load(rows_ptr + row, mask=mask, other=0)
    price = price_of(x_ptr, row, mask & (row > first), mask)
    pc = p - centre
    return p, pc, price, at, term(s_ptr, at, pc, row + 1, task, mask)


@triton.jit
def _reach(v_ptr, n_ptr, s_ptr, rows_ptr, x_ptr, first, end, n_negative, centre, task, BLOCK: tl.constexpr):
    """What rounding may add to a sum over the rows, and how far some row keeps rising on one side of the candidate."""
    rounding = tl.zeros([BLOCK], tl.float64)
    furthest = tl.full([BLOCK], 1, tl.int32)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        p, pc, price, at, _ = _terms_of(v_ptr, s_ptr, rows_ptr, x_ptr, row, first, mask, centre, task)
        top = count_above(n_ptr, n_negative, p, mask, True)
        paid = pc - price
        largest = tl.maximum(
            rounding_of(standard(s_ptr, at, paid, mask), at, paid, task),
            rounding_of(standard(s_ptr, top, paid, mask), top, paid, task),
        )
        rounding += tl.where(mask, largest, 0.0)
        climbs = mask & (at < top)
        climbs = climbs & (marginal(n_ptr, tl.minimum(at + 1, n_negative), p, row + 1, task, climbs) > 0.0)
        step = tl.full([BLOCK], 1, tl.int32)
        rising = mask
        while tl.max(rising.to(tl.int32), axis=0) > 0:
            place = tl.where(climbs, at + step, at - step)
            rising = rising & (place > 0) & ((place < top) | (climbs == 0))
            slope = marginal(n_ptr, tl.maximum(place, 1), p, row + 1, task, rising)
            rising = rising & tl.where(climbs, slope > 0.0, slope < 0.0)
            step = tl.where(rising, step * 2, step)
        furthest = tl.maximum(furthest, step)
    tl.debug_barrier()
    # No further than there are columns, so that sums stay below 2**31.
    return tl.sum(rounding, axis=0), tl.minimum(tl.max(furthest, axis=0), n_negative)


@triton.jit
def _begin(v_ptr, n_ptr, rows_ptr, plane, first, end, room, most, n_negative, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """The first intervals: cut at the same columns for all rows, evenly on the scale of ``log(i + a)``; how many."""
    TALL: tl.constexpr = BLOCK // LANES
    from_ptr = rows_ptr + plane
    left_ptr, right_ptr, _, _ = _list_of(rows_ptr, plane, room, 0)
    pieces = tl.minimum(most // (2 * (end - first)), LANES)
    furthest = count_above(n_ptr, n_negative, tl.load(v_ptr + end - 1 + tl.arange(0, 1)), tl.arange(0, 1) < 1, True)
    furthest = tl.max(furthest, axis=0)
    index = (first + (end - first) // 2 + 1).to(tl.float32)
    lane = tl.arange(0, LANES)
    power = tl.log2(1.0 + furthest.to(tl.float32) / index) / pieces.to(tl.float32)
    # A column further each, so that all of them differ.
    most_columns = furthest.to(tl.float32)
    after = tl.minimum(index * tl.exp2(power * lane.to(tl.float32)) - index, most_columns).to(tl.int32)
    after = (tl.minimum(running_max(after), furthest) + lane)[None, :]
    until = tl.minimum(index * tl.exp2(power * (lane + 1).to(tl.float32)) - index, most_columns).to(tl.int32)
    until = (tl.minimum(running_max(until), furthest) + lane + 1)[None, :]
    lane = lane[None, :]
    total = 0
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        mask = row < end
        top = count_above(n_ptr, n_negative, tl.load(v_ptr + row, mask=mask, other=0.0), mask, True)[:, None]
        taken = mask[:, None] & (lane < pieces) & (after <= top)
        count = tl.sum(taken.to(tl.int32), axis=1)
        start = total + tl.cumsum(count, axis=0) - count
        tl.store(from_ptr + row, start, mask=mask)
        right = tl.where((lane == pieces - 1) | (until > top), top, until - 1)
        tl.store(left_ptr + start[:, None] + lane, tl.broadcast_to(after, right.shape), mask=taken)
        tl.store(right_ptr + start[:, None] + lane, right, mask=taken)
        total += tl.sum(count, axis=0)
    tl.debug_barrier()
    return total


@triton.jit
def _gain(s_ptr, a, pc, price, index, at, base, near, task, mask):
    """``g_i(a) - g_i(at) + price (a' - at)``, where ``a'`` is ``a`` clipped to ``near`` columns of ``at``."""
    clipped = tl.minimum(tl.maximum(a - at, -near), near)
    return term(s_ptr, a, pc, index, task, mask) - base + price * clipped.to(tl.float64)


@triton.jit
def _most_of(s_ptr, n_ptr, left, right, p, pc, price, index, at, base, near, task, mask):
    """The most that rows gain in intervals, see :func:`_gain`, or a little more."""
    low = tl.maximum(at - near, 0)
    high = at + near
    most = price * -at.to(tl.float64) + _most_between(
        s_ptr, n_ptr, tl.maximum(left, low), tl.minimum(right, high), p - price, pc - price, index, task, mask
    )
    # Most intervals are near.
    if tl.max(tl.max((mask & ((left < low) | (right > high))).to(tl.int32), axis=1), axis=0) > 0:
        below = _most_between(s_ptr, n_ptr, left, tl.minimum(right, low), p, pc, index, task, mask & (left < low))
        above = _most_between(s_ptr, n_ptr, tl.maximum(left, high), right, p, pc, index, task, mask & (right > high))
        most = tl.maximum(most, below + price * (low - at).to(tl.float64))
        most = tl.maximum(most, above + price * (high - at).to(tl.float64))
    return most - base


@triton.jit
def _most_between(s_ptr, n_ptr, left, right, p, pc, index, task, mask):
    at_left, at_right, inside = bound_between(s_ptr, n_ptr, left, right, p, pc, index, task, mask & (left <= right))
    return tl.maximum(tl.maximum(at_left, at_right), inside)


@triton.jit
def _set_bounds(
    v_ptr, n_ptr, s_ptr, rows_ptr, x_ptr, plane,
    first, end, room, total, flip, near, centre, task,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The bound of every interval, the last one of the row above and the first of the row below that may join it."""
    TALL: tl.constexpr = BLOCK // LANES
    from_ptr = rows_ptr + plane
    left_ptr, right_ptr, high_ptr, low_ptr = _list_of(rows_ptr, plane, room, flip)
    below_ptr = rows_ptr + 3 * plane + room
    above_ptr = rows_ptr + 4 * plane + room
    lane = tl.arange(0, LANES)[None, :]
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        inside = row < end
        p, pc, price, at, by_candidate = _terms_of(v_ptr, s_ptr, rows_ptr, x_ptr, row, first, inside, centre, task)
        start, stop = _range_of(from_ptr, row, first, end, total)
        start_above, stop_above = _range_of(from_ptr, row - 1, first, end, total)
        start_below, stop_below = _range_of(from_ptr, row + 1, first, end, total)
        count_of_above = (stop_above - start_above)[:, None]
        count_of_below = (stop_below - start_below)[:, None]
        longest = highest_power(tl.max(tl.maximum(stop_above - start_above, stop_below - start_below), axis=0))
        for step_of in range(0, tl.max(stop - start, axis=0), LANES):
            place = start[:, None] + step_of + lane
            mask = place < stop[:, None]
            left = tl.load(left_ptr + place, mask=mask, other=0)
            right = tl.load(right_ptr + place, mask=mask, other=0)
            most = _most_of(
                s_ptr, n_ptr, left, right, p[:, None], pc[:, None], price[:, None], (row + 1)[:, None], at[:, None],
                by_candidate[:, None], near, task, mask,
            )  # fmt: skip
            bits = most.to(tl.int64, bitcast=True)
            tl.store(high_ptr + place, (bits >> 32).to(tl.int32), mask=mask)
            tl.store(low_ptr + place, bits.to(tl.int32), mask=mask)
            above = tl.zeros_like(left)
            below = tl.zeros_like(left)
            step = longest
            while step > 0:
                further = tl.minimum(above + step, count_of_above)
                inside_ = mask & (further > 0)
                joins = tl.load(left_ptr + start_above[:, None] + further - 1, mask=inside_, other=0) <= right
                above = tl.where(inside_ & joins, further, above)
                further = tl.minimum(below + step, count_of_below)
                inside_ = mask & (further > 0)
                passed = tl.load(right_ptr + start_below[:, None] + further - 1, mask=inside_, other=0) < left
                below = tl.where(inside_ & passed, further, below)
                step = step // 2
            to_above = tl.where(above > 0, start_above[:, None] + above - 1, _NONE)
            to_above = tl.where((row > first)[:, None], to_above, _OUTSIDE)
            to_below = tl.where(below < count_of_below, start_below[:, None] + below, _NONE)
            to_below = tl.where((row + 1 < end)[:, None], to_below, _OUTSIDE)
            tl.store(above_ptr + place, to_above, mask=mask)
            tl.store(below_ptr + place, to_below, mask=mask)
    tl.debug_barrier()


@triton.jit
def _best_at(sums_ptr, place, mask):
    """The best path to an interval of another row."""
    best = tl.load(sums_ptr + place, mask=mask & (place >= 0), other=0.0)
    return tl.where(place == _NONE, float("-inf"), best)


@triton.jit
def _sum_paths(rows_ptr, sums_ptr, plane, first, end, room, total, flip, LANES: tl.constexpr):
    """The best path to each interval or one before it in its row, downwards, upwards likewise; the best of all.

    A step takes up to LANES intervals of one row on the way down and of another on the way up.
    """
    from_ptr = rows_ptr + plane
    _, _, high_ptr, low_ptr = _list_of(rows_ptr, plane, room, flip)
    lane = tl.arange(0, LANES)[:, None]
    upwards = tl.arange(0, 2)[None, :] != 0
    # A pointer chosen at run time is beyond AMD's compiler, an offset is not.
    further = tl.where(upwards, plane, 0)
    link_ptr = rows_ptr + room + 4 * plane - further
    sums_ptr = sums_ptr + room + further
    row = first
    down = 0
    down_stop = tl.load(from_ptr + first + 1, mask=first + 1 < end, other=total)
    up_row = end - 1
    up = total
    up_start = tl.load(from_ptr + end - 1)
    best = tl.full([1, 2], float("-inf"), tl.float64)
    top = best
    while row < end:
        place = tl.where(upwards, up - 1 - lane, down + lane)
        mask = lane < tl.where(upwards, up - up_start, down_stop - down)
        link = tl.load(link_ptr + place, mask=mask, other=_NONE)
        sums = _load_halves(high_ptr, low_ptr, place, mask) + _best_at(sums_ptr, link, mask)
        sums = tl.maximum(tl.associative_scan(tl.where(mask, sums, float("-inf")), 0, greater), best)
        tl.store(sums_ptr + place, sums, mask=mask)
        # Most rows take one step.
        if (down + LANES < down_stop) | (up - LANES > up_start) | (row + 1 == end):
            best = tl.max(sums, axis=0)[None, :]
            top = best
        # The next rows read these.
        tl.debug_barrier()
        down += LANES
        if down >= down_stop:
            row += 1
            down = down_stop
            down_stop = tl.load(from_ptr + row + 1, mask=row + 1 < end, other=total)
            best = tl.where(upwards, best, float("-inf"))
        up -= LANES
        if up <= up_start:
            up_row -= 1
            up = up_start
            up_start = tl.load(from_ptr + up_row, mask=up_row >= first, other=0)
            best = tl.where(upwards, float("-inf"), best)
    return tl.max(tl.max(tl.where(upwards, float("-inf"), top), axis=1), axis=0)


@triton.jit
def _through(rows_ptr, sums_ptr, plane, room, flip, place, mask):
    """The best path through an interval."""
    _, _, high_ptr, low_ptr = _list_of(rows_ptr, plane, room, flip)
    above = tl.load(rows_ptr + 4 * plane + room + place, mask=mask, other=_NONE)
    below = tl.load(rows_ptr + 3 * plane + room + place, mask=mask, other=_NONE)
    through = _load_halves(high_ptr, low_ptr, place, mask)
    through += _best_at(sums_ptr + room, above, mask) + _best_at(sums_ptr + plane + room, below, mask)
    return tl.where(mask, through, float("-inf"))


@triton.jit
def _find_path(rows_ptr, sums_ptr, plane, first, end, room, total, flip, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """The interval of every row on the best path, into planes 3 and 4; the leftmost of equals."""
    TALL: tl.constexpr = BLOCK // LANES
    from_ptr = rows_ptr + plane
    left_ptr, right_ptr, _, _ = _list_of(rows_ptr, plane, room, flip)
    lane = tl.arange(0, LANES)[None, :]
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        start, stop = _range_of(from_ptr, row, first, end, total)
        best = tl.full([TALL], float("-inf"), tl.float64)
        found = start
        for step in range(0, tl.max(stop - start, axis=0), LANES):
            place = start[:, None] + step + lane
            through = _through(rows_ptr, sums_ptr, plane, room, flip, place, place < stop[:, None])
            highest = tl.max(through, axis=1)
            leftmost = tl.min(tl.where(through == highest[:, None], place, 2**31 - 1), axis=1)
            found = tl.where(highest > best, leftmost, found)
            best = tl.maximum(best, highest)
        mask = row < end
        tl.store(rows_ptr + 3 * plane + row, tl.load(left_ptr + found, mask=mask, other=0), mask=mask)
        tl.store(rows_ptr + 4 * plane + row, tl.load(right_ptr + found, mask=mask, other=0), mask=mask)
    tl.debug_barrier()


@triton.jit
def _follow(v_ptr, s_ptr, rows_ptr, x_ptr, plane, first, end, near, centre, task, BLOCK: tl.constexpr):
    """What the better ends of the path, made non-decreasing, gain over the candidate; themselves into ``last``."""
    total = tl.zeros([BLOCK], tl.float64)
    highest = 0
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        _, pc, price, at, by_candidate = _terms_of(v_ptr, s_ptr, rows_ptr, x_ptr, row, first, mask, centre, task)
        left = tl.load(rows_ptr + 3 * plane + row, mask=mask, other=0)
        right = tl.load(rows_ptr + 4 * plane + row, mask=mask, other=0)
        at_left = _gain(s_ptr, left, pc, price, row + 1, at, by_candidate, near, task, mask)
        at_right = _gain(s_ptr, right, pc, price, row + 1, at, by_candidate, near, task, mask)
        chosen = tl.where(at_left >= at_right, left, right)
        chosen = tl.maximum(running_max(tl.where(mask, chosen, 0)), highest)
        highest = tl.max(chosen, axis=0)
        by_path = term(s_ptr, chosen, pc, row + 1, task, mask)
        total += tl.where(mask, by_path - by_candidate, 0.0)
        tl.store(rows_ptr + 2 * plane + row, chosen, mask=mask)
    tl.debug_barrier()
    return tl.sum(total, axis=0)


@triton.jit
def _judge(
    v_ptr, s_ptr, rows_ptr, sums_ptr, plane,
    first, end, room, total, flip, near, centre, task, least,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """How loose the bound of every interval is, into plane 3, as float32; -1 where no path is as good as ``least``."""
    TALL: tl.constexpr = BLOCK // LANES
    from_ptr = rows_ptr + plane
    left_ptr, right_ptr, high_ptr, low_ptr = _list_of(rows_ptr, plane, room, flip)
    lane = tl.arange(0, LANES)[None, :]
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        _, pc, price, at, by_candidate = _terms_of(
            v_ptr, s_ptr, rows_ptr, sums_ptr, row, first, row < end, centre, task
        )
        index = (row + 1)[:, None]
        start, stop = _range_of(from_ptr, row, first, end, total)
        for step in range(0, tl.max(stop - start, axis=0), LANES):
            place = start[:, None] + step + lane
            mask = place < stop[:, None]
            stays = _through(rows_ptr, sums_ptr, plane, room, flip, place, mask) >= least
            left = tl.load(left_ptr + place, mask=mask, other=0)
            right = tl.load(right_ptr + place, mask=mask, other=0)
            at_left = _gain(
                s_ptr, left, pc[:, None], price[:, None], index, at[:, None], by_candidate[:, None], near, task, mask
            )
            at_right = _gain(
                s_ptr, right, pc[:, None], price[:, None], index, at[:, None], by_candidate[:, None], near, task, mask
            )
            known = tl.maximum(at_left, at_right)
            known = tl.where((left <= at[:, None]) & (at[:, None] <= right), tl.maximum(known, 0.0), known)
            most = _load_halves(high_ptr, low_ptr, place, mask)
            loose = tl.maximum(most - known, 0.0) + _STEEP * tl.abs(at_left - at_right)
            loose = tl.where(stays, loose, -1.0).to(tl.float32)
            tl.store(rows_ptr + 3 * plane + room + place, loose.to(tl.int32, bitcast=True), mask=mask)
    tl.debug_barrier()


@triton.jit
def _pieces_of(rows_ptr, plane, room, flip, place, mask, loose):
    """Into how many pieces an interval is cut, 0 where it is dropped; its first column and how many it has."""
    left_ptr, right_ptr, _, _ = _list_of(rows_ptr, plane, room, flip)
    left = tl.load(left_ptr + place, mask=mask, other=0)
    width = tl.load(right_ptr + place, mask=mask, other=-1) - left + 1
    judged = tl.load(rows_ptr + 3 * plane + room + place, mask=mask, other=0).to(tl.float32, bitcast=True)
    pieces = tl.where(judged > loose, tl.minimum(width, _PIECES), 1)
    return tl.where(mask & (judged >= 0.0), pieces, 0), left, width


@triton.jit
def _count(rows_ptr, plane, first, end, room, total, flip, loose, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """How many intervals stay, and how many there are once the loose ones are cut; 0 where a row has none.

    Those of each row go to plane 4, one number a row from ``room`` on.
    """
    TALL: tl.constexpr = BLOCK // LANES
    lane = tl.arange(0, LANES)[None, :]
    kept = tl.zeros([TALL], tl.int32)
    finer = tl.zeros([TALL], tl.int32)
    fewest = tl.full([TALL], 2**31 - 1, tl.int32)
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        start, stop = _range_of(rows_ptr + plane, row, first, end, total)
        stay = tl.zeros([TALL], tl.int32)
        count = tl.zeros([TALL], tl.int32)
        for step in range(0, tl.max(stop - start, axis=0), LANES):
            place = start[:, None] + step + lane
            pieces, _, _ = _pieces_of(rows_ptr, plane, room, flip, place, place < stop[:, None], loose)
            count += tl.sum(pieces, axis=1)
            stay += tl.sum((pieces > 0).to(tl.int32), axis=1)
        tl.store(rows_ptr + 4 * plane + room + row - first, count, mask=row < end)
        kept += stay
        finer += count
        fewest = tl.where(row < end, tl.minimum(fewest, stay), fewest)
    tl.debug_barrier()
    return tl.sum(kept, axis=0), tl.where(tl.min(fewest, axis=0) > 0, tl.sum(finer, axis=0), 0)


@triton.jit
def _place(rows_ptr, plane, first, end, room, BLOCK: tl.constexpr):
    """Where the lists of the rows will begin, from how long :func:`_count` found them."""
    counts_ptr = rows_ptr + 4 * plane + room
    total = 0
    for base in range(0, end - first, BLOCK):
        number = base + tl.arange(0, BLOCK)
        mask = number < end - first
        count = tl.load(counts_ptr + number, mask=mask, other=0)
        tl.store(counts_ptr + number, total + tl.cumsum(count, axis=0) - count, mask=mask)
        total += tl.sum(count, axis=0)
    tl.debug_barrier()


@triton.jit
def _cut(rows_ptr, plane, first, end, room, total, flip, loose, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """The finer lists, into the other pair of planes."""
    TALL: tl.constexpr = BLOCK // LANES
    _, _, left_ptr, right_ptr = _list_of(rows_ptr, plane, room, flip)
    counts_ptr = rows_ptr + 4 * plane + room - first
    lane = tl.arange(0, LANES)[None, :]
    for base in range(first, end, TALL):
        row = base + tl.arange(0, TALL)
        start, stop = _range_of(rows_ptr + plane, row, first, end, total)
        to = tl.load(counts_ptr + row, mask=row < end, other=0)
        for step in range(0, tl.max(stop - start, axis=0), LANES):
            place = start[:, None] + step + lane
            pieces, left, width = _pieces_of(rows_ptr, plane, room, flip, place, place < stop[:, None], loose)
            target = to[:, None] + tl.cumsum(pieces, axis=1) - pieces
            wide = width.to(tl.int64)
            for piece in tl.static_range(_PIECES):
                begin = left + (wide * piece // tl.maximum(pieces, 1)).to(tl.int32)
                finish = left + (wide * (piece + 1) // tl.maximum(pieces, 1)).to(tl.int32) - 1
                tl.store(left_ptr + target + piece, begin, mask=piece < pieces)
                tl.store(right_ptr + target + piece, finish, mask=piece < pieces)
            to += tl.sum(pieces, axis=1)
    tl.debug_barrier()


@triton.jit
def _pool_path(
    v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, plane, first, end, room, n_negative, centre, task, BLOCK: tl.constexpr
):
    """Rows pooled around the path, as far as it has no gap; whether that is better than the candidate, and so is it."""
    low_ptr = rows_ptr + 3 * plane
    high_ptr = rows_ptr + 4 * plane
    starts_ptr = rows_ptr + plane
    lane = tl.arange(0, BLOCK)
    lowest = 0
    highest = 0
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        left = tl.load(low_ptr + row, mask=mask, other=0)
        right = tl.load(high_ptr + row, mask=mask, other=0)
        width = right - left + 1
        low = tl.maximum(running_max(tl.maximum(left - width, 0)), lowest)
        high = tl.maximum(running_max(tl.where(mask, tl.minimum(right + width, n_negative), 0)), highest)
        tl.store(low_ptr + row, low, mask=mask)
        tl.store(high_ptr + row, high, mask=mask)
        lowest = tl.max(low, axis=0)
        highest = tl.max(high, axis=0)
    tl.debug_barrier()
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        before = tl.load(high_ptr + row - 1, mask=mask & (row > first), other=-1)
        begins = before < tl.load(low_ptr + row, mask=mask, other=0)
        tl.store(starts_ptr + row, begins.to(tl.int32), mask=mask)
    tl.debug_barrier()
    last_ptr = rows_ptr + 2 * plane
    find_last(starts_ptr, last_ptr, first, end, BLOCK)
    pool(
        v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, rows_ptr + 3 * plane + room - first,
        sums_ptr + room - first, sums_ptr + plane + room - first,
        first, end, task,
        BLOCK,
    )  # fmt: skip
    gain = tl.zeros([BLOCK], tl.float64)
    for base in range(first, end, BLOCK):
        row = base + lane
        mask = row < end
        pc = tl.load(v_ptr + row, mask=mask, other=0.0) - centre
        at = tl.load(rows_ptr + row, mask=mask, other=0)
        pooled = tl.load(low_ptr + row, mask=mask, other=0)
        by_candidate = term(s_ptr, at, pc, row + 1, task, mask)
        by_pool = term(s_ptr, pooled, pc, row + 1, task, mask)
        gain += tl.where(mask, by_pool - by_candidate, 0.0)
    better = (tl.sum(gain, axis=0) > 0.0).to(tl.int32)
    if better != 0:
        copy(low_ptr, rows_ptr, first, end, BLOCK)
    return better


@triton.jit
def _mark_levels(choice_ptr, starts_ptr, first, end, BLOCK: tl.constexpr):
    """Where a level set of the candidate begins."""
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        before = tl.load(choice_ptr + row - 1, mask=mask & (row > first), other=-1)
        begins = before != tl.load(choice_ptr + row, mask=mask, other=0)
        tl.store(starts_ptr + row, begins.to(tl.int32), mask=mask)
    tl.debug_barrier()


@triton.jit
def _set_bands(rows_ptr, plane, first, end, room, total, flip, BLOCK: tl.constexpr):
    """The outermost columns of every row, the candidate within, into ``low`` and ``high``."""
    left_ptr, right_ptr, _, _ = _list_of(rows_ptr, plane, room, flip)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        mask = row < end
        start, stop = _range_of(rows_ptr + plane, row, first, end, total)
        at = tl.load(rows_ptr + row, mask=mask, other=0)
        left = tl.load(left_ptr + start, mask=mask, other=0)
        right = tl.load(right_ptr + stop - 1, mask=mask, other=0)
        tl.store(rows_ptr + 3 * plane + row, tl.minimum(left, at), mask=mask)
        tl.store(rows_ptr + 4 * plane + row, tl.maximum(right, at), mask=mask)
    tl.debug_barrier()

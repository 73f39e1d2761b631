"""Each row alone: ``argmax_a g_i(a)``, by bisection where the terms are concave, by branch and bound where not.

Functions for a tile of rows, called by other kernels. Branch and bound: with ``s = -1``, ``g_i = A + B``, where
``A(a) = S[a] - a p_i`` is concave and ``B(a) = -w a / (i + a)`` convex. On an interval ``[u, v]``, ``A`` lies under
its tangents at both ends and ``B`` under its chord, so inside ``g_i`` lies under the value where the tangents cross.

A tile of rows looks at ``PIECES`` consecutive intervals a row at a time, a *window*. Its intervals are of one length in
``log(i + a)``, the ``spread``: the coarsest window spans all of ``[0, top]``, each finer one an interval of the
coarser. The tile is (PIECES, ROWS), which Triton lays out a warp a row: no reduction of a row leaves its warp. That
needs no list of open intervals: the cursor passes what a bound settles and goes finer where it does not.
"""

import triton
import triton.language as tl

from .scans import highest_of, upper_of
from .sort import key_of
from .terms import count_above, highest_power, marginal, standard, task_loss

_NOWHERE = tl.constexpr(2**31 - 1)
_TINY = tl.constexpr(2.2250738585072014e-308)


@triton.jit
def search_rows(
    v_ptr, n_ptr, s_ptr, choice_ptr,
    row, n_positive, n_negative, centre, task,
    SIGN: tl.constexpr, METHOD: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """The best choice of each row of a tile by itself, which it returns, too."""
    mask = row < n_positive
    p = tl.load(v_ptr + row, mask=mask, other=0.0)
    if METHOD == "auto" and SIGN < 0:
        top = count_above(n_ptr, n_negative, p, mask, True)
        choice, _ = search_free(s_ptr, n_ptr, p, p - centre, row + 1, top, task, mask, PIECES)
    else:
        choice = count_above(n_ptr, n_negative, p, mask, False)
        if METHOD == "auto":
            choice = search_concave(n_ptr, choice, n_negative, p, row + 1, task, mask)
    tl.store(choice_ptr + row, choice, mask=mask)
    return choice


@triton.jit
def search_concave(n_ptr, low, n_negative, p, index, task, mask):
    """The smallest ``a >= low`` of largest ``g_i(a)`` for terms whose marginals fall: one choice a row; bisection."""
    a = low
    step = highest_power(n_negative)
    while step > 0:
        further = tl.minimum(a + step, n_negative)
        rises = (further > a) & mask
        rises = rises & (marginal(n_ptr, further, p, index, task, rises) > 0.0)
        a = tl.where(rises, further, a)
        step = step // 2
    return a


@triton.jit
def search_free(s_ptr, n_ptr, p, pc, index, top, task, active, PIECES: tl.constexpr):
    """Some ``a`` in ``[0, top]`` of largest ``g_i(a)`` and that value, for each active row, whatever the update.

    ``p``, ``pc``, ``index``, ``top``, ``active``: (ROWS,). First down the most promising intervals for a good value,
    then once over everything that may beat it.
    """
    lane = tl.arange(0, PIECES)[:, None]
    coarsest = _coarsest(index, top, PIECES)
    best = tl.full(p.shape, float("-inf"), tl.float64)
    where = tl.zeros_like(index)

    # Of the best interval of each window the next: then from 0 on again, past all that cannot beat what was found.
    descending = active
    cursor = tl.zeros_like(index)
    spread = coarsest
    searching = active
    while tl.max(searching.to(tl.int32), axis=0) > 0:
        left, right = _window(cursor, spread, index, top, lane, 1)
        at_left, at_right, bound = _evaluate(s_ptr, n_ptr, left, right, p, pc, index, task, searching)
        best, where = _improve(best, where, left, right, at_left, at_right, searching)
        # To 20 binary digits: any other would do, too.
        upper = upper_of(key_of(bound))
        promising = tl.min(tl.where(upper == tl.min(upper, axis=0)[None, :], lane, PIECES - 1), axis=0)
        first = tl.min(tl.where(bound > best[None, :], lane, PIECES), axis=0)
        cursor_below = _at(left, lane, promising)
        cursor_on, spread_on = _proceed(left, right, lane, first, spread, coarsest, PIECES)
        starts_over = descending & (first == PIECES)
        cursor = tl.where(starts_over, 0, tl.where(descending, cursor_below, cursor_on))
        spread = tl.where(starts_over, coarsest, tl.where(descending, spread / PIECES, spread_on))
        descending = descending & (starts_over == 0)
        searching = searching & (descending | starts_over | (cursor < top))
    return where, best


@triton.jit
def search_band(s_ptr, n_ptr, p, pc, index, top, task, inside, floor, active, PIECES: tl.constexpr):
    """The least and the greatest ``a`` in ``[0, top]`` with ``g_i(a) >= floor``, given one such ``inside``.

    All but the constant are (ROWS,). Walks towards ``inside``, first up from 0, then down from ``top``.
    """
    lane = tl.arange(0, PIECES)[:, None]
    coarsest = _coarsest(index, top, PIECES)
    low = inside
    high = inside
    for down in range(2):
        way = 1 - 2 * down
        cursor = top * down
        spread = coarsest
        searching = active & (cursor != inside)
        while tl.max(searching.to(tl.int32), axis=0) > 0:
            near, far = _window(cursor, spread, index, top, lane, way)
            left = tl.minimum(near, far)
            right = tl.maximum(near, far)
            at_left, at_right, bound = _evaluate(s_ptr, n_ptr, left, right, p, pc, index, task, searching)
            at_near = tl.where(way > 0, at_left, at_right)
            hit = tl.min(tl.where(at_near >= floor[None, :], lane, PIECES), axis=0)
            # Beside a far end that is high enough others may be, wherever the bound has its top.
            at_far = tl.where(way > 0, at_right, at_left)
            possible = (bound >= floor[None, :]) | ((at_far >= floor[None, :]) & (bound > float("-inf")))
            first = tl.min(tl.where(possible, lane, PIECES), axis=0)
            found = searching & (hit <= first) & (hit < PIECES)
            end = _at(near, lane, hit)
            low = tl.where(found & (way > 0), tl.minimum(low, end), low)
            high = tl.where(found & (way < 0), tl.maximum(high, end), high)
            cursor, spread = _proceed(near, far, lane, first, spread, coarsest, PIECES)
            searching = searching & (found == 0) & ((inside - cursor) * way > 0)
    return low, high


@triton.jit
def _coarsest(index, top, PIECES: tl.constexpr):
    """The spread (in powers of two) of a window over all of ``[0, top]``."""
    return tl.log2(1.0 + top.to(tl.float32) / index.to(tl.float32)) / PIECES


@triton.jit
def _window(cursor, spread, index, top, lane, way):
    """Both ends of the intervals from the cursor on, upwards (``way`` 1) or downwards (-1), clipped to ``[0, top]``."""
    near = _mark(cursor[None, :], spread[None, :], index[None, :], top[None, :], lane, way)
    far = _mark(cursor[None, :], spread[None, :], index[None, :], top[None, :], lane + 1, way)
    return near, far


@triton.jit
def _mark(cursor, spread, index, top, number, way):
    """Where interval ``number`` begins: ``i + a`` grows ``2**spread``-fold from one to the next, ``a`` by 1 or more."""
    power = spread * (number * way).to(tl.float32)
    # 2**power - 1; of small powers the difference would leave no digits.
    slope = power * 0.6931471805599453
    share = tl.where(tl.abs(power) < 0.01, slope + 0.5 * slope * slope, tl.exp2(power) - 1.0)
    length = tl.abs((index + cursor).to(tl.float32) * share)
    length = tl.maximum(tl.minimum(length, top.to(tl.float32)).to(tl.int32), number)
    # No further than the end of the range on that side, so that the sum stays below 2**31.
    return cursor + way * tl.minimum(length, tl.where(way > 0, top - cursor, cursor))


@triton.jit
def _evaluate(s_ptr, n_ptr, left, right, p, pc, index, task, active):
    """``g`` at both ends and a bound strictly inside (-inf where there is nothing), (PIECES, ROWS)."""
    mask = active[None, :] & (right >= left)
    return bound_between(s_ptr, n_ptr, left, right, p[None, :], pc[None, :], index[None, :], task, mask)


@triton.jit
def bound_between(s_ptr, n_ptr, left, right, p, pc, index, task, mask):
    """``g`` at both ends and a bound strictly inside, -inf where there is nothing; all of one shape."""
    concave_left = standard(s_ptr, left, pc, mask)
    concave_right = standard(s_ptr, right, pc, mask)
    left_loss = task_loss(left, index)
    right_loss = task_loss(right, index)
    at_left = concave_left + task * left_loss
    at_right = concave_right + task * right_loss
    inside = mask & (right - left > 1)
    slope_left = tl.load(n_ptr + left + 1, mask=inside, other=0.0) - p
    slope_right = tl.load(n_ptr + right, mask=inside, other=0.0) - p
    run = tl.where(inside, right - left, 1).to(tl.float64)
    # Where the tangents cross; parallel tangents (A is linear) are met at an end.
    cross = (concave_right - concave_left - run * slope_right) / tl.maximum(slope_left - slope_right, _TINY)
    cross = tl.minimum(tl.maximum(cross, 0.0), run)
    # From end to end the task loss grows by i / ((i + left) (i + right)) a place. The differences lose digits where the
    # interval is many times as long as i + left: the bound is right to some (right - left) / (i + left) units of the
    # task's last place, of windows one or two, coarse to fine less in all than the rounding that is allowed for.
    inverse = 1.0 / index.to(tl.float64)  # the same throughout a loop
    chord = task * (1.0 - left_loss) * (1.0 - right_loss) * inverse
    bound = at_left + cross * (slope_left + chord)
    at_left = tl.where(mask, at_left, float("-inf"))
    at_right = tl.where(mask, at_right, float("-inf"))
    return at_left, at_right, tl.where(inside, bound, float("-inf"))


@triton.jit
def _improve(best, where, left, right, at_left, at_right, active):
    """The best value so far and the leftmost place of a window that attains a new best."""
    value = tl.maximum(at_left, at_right)
    place = tl.where(at_left >= at_right, left, right)
    highest = highest_of(value)
    leftmost = tl.min(tl.where(value == highest[None, :], place, _NOWHERE), axis=0)
    better = active & (highest > best)
    return tl.where(better, highest, best), tl.where(better, leftmost, where)


@triton.jit
def _proceed(near, far, lane, first, spread, coarsest, PIECES: tl.constexpr):
    """To the first interval that is open and finer there, or past the window and coarser."""
    open_ = first < PIECES
    last = tl.minimum(first, PIECES - 1)
    cursor = tl.where(open_, _at(near, lane, last), _at(far, lane, last))
    return cursor, tl.where(open_, spread / PIECES, tl.minimum(spread * PIECES, coarsest))


@triton.jit
def _at(values, lane, number):
    """``values[number, :]``."""
    return tl.sum(tl.where(lane == number[None, :], values, 0), axis=0)

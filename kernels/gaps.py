"""Scores that span so many epsilons that their sums have lost what is small against one: the gaps are cut.

AP does not pay a row for one negative more or less above it at a gap of ``w = epsilon N / 2`` or more, so that no
larger gap between neighbouring scores, of whatever class, is ever crossed, and one of ``2 w`` does as well: the same
optimum, in sums that keep their digits. A ranking is solved on these *near* scores, which stand where its scores did;
what depends on which scores are equal waits until those are back.

Functions for one ranking, called by one program; names as in :mod:`kernels.terms`.
"""

import triton
import triton.language as tl

from .keys import FAR, NOT_FINITE
from .scans import running_max
from .terms import count_above, count_above_in, sum_negatives

# Sums of scores that span so many epsilons have lost what is small against one.
_FAR_SPAN = tl.constexpr(2.0**20)


@triton.jit
def span_flags(v_ptr, n_positive, n_negative, epsilon_bits):
    """Whether gaps are to be cut, and whether a sum over all pairs, of gaps or of what AP pays, may overflow."""
    epsilon = epsilon_bits.to(tl.float64, bitcast=True)
    negatives = n_negative.to(tl.float64)
    pairs = n_positive.to(tl.float64) * negatives
    lowest = tl.load(v_ptr + n_positive - 1)
    highest = tl.maximum(tl.load(v_ptr), tl.load(v_ptr + n_positive))
    last = tl.minimum(lowest, tl.load(v_ptr + n_positive + n_negative - 1))
    span = highest - lowest
    is_far = (span > epsilon * _FAR_SPAN) & (span > epsilon * negatives)
    can_sum = (16.0 * pairs * (highest - last) < float("inf")) & (8.0 * pairs * epsilon < float("inf"))
    return tl.where(is_far, FAR, 0) + tl.where(can_sum, 0, NOT_FINITE)


@triton.jit
def cut_gaps(
    v_ptr, s_ptr, first_ptr, sorted_ptr, near_ptr,
    n_positive, n_negative, epsilon_bits,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Near scores in place of the scores and their sums in place of the sums; from where these count.

    first_ptr (int32), sorted_ptr, near_ptr (float64): scratch, one number an item.
    """
    lane = tl.arange(0, BLOCK)
    n_taken = n_positive + n_negative
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        is_positive = place < n_positive
        score = tl.load(v_ptr + place, mask=mask, other=0.0)
        own_start = tl.where(is_positive, 0, n_positive)
        own = tl.where(is_positive, n_positive, n_negative)
        other_start = tl.where(is_positive, n_positive, 0)
        other = tl.where(is_positive, n_negative, n_positive)
        above = count_above_in(v_ptr, other_start, other, score, mask, False)
        # Of equal scores positives go first. All of them get what the first of them gets, so that they stay equal.
        before = tl.where(is_positive, above, count_above_in(v_ptr, other_start, other, score, mask, True))
        first = above + count_above_in(v_ptr, own_start, own, score, mask, False)
        tl.store(sorted_ptr + (place - own_start) + before, score, mask=mask)
        tl.store(first_ptr + place, first, mask=mask)
    tl.debug_barrier()
    largest = epsilon_bits.to(tl.float64, bitcast=True) * n_negative.to(tl.float64)
    fallen = tl.full([], 0.0, tl.float64)
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        has_gap = mask & (place > 0)
        score = tl.load(sorted_ptr + place, mask=has_gap, other=0.0)
        gap = tl.load(sorted_ptr + place - 1, mask=has_gap, other=0.0) - score
        # Sums of a scan may fall by their rounding, scores must not rise.
        below = tl.maximum(running_max(fallen + tl.cumsum(tl.minimum(gap, largest), axis=0)), fallen)
        tl.store(near_ptr + place, -below, mask=mask)
        fallen = tl.max(below, axis=0)
    tl.debug_barrier()
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        first = tl.load(first_ptr + place, mask=mask, other=0)
        tl.store(v_ptr + place, tl.load(near_ptr + first, mask=mask, other=0.0), mask=mask)
    tl.debug_barrier()
    centre = tl.load(v_ptr + n_positive // 2)
    sum_negatives(v_ptr + n_positive, s_ptr + 1, n_negative, centre, BLOCK)
    return centre


@triton.jit
def restore_scores(v_ptr, scores_ptr, order_ptr, stride, place, n_items):
    """The scores of a tile of places, from where the user has them."""
    mask = place < n_items
    item = tl.load(order_ptr + place, mask=mask, other=0)
    score = tl.load(scores_ptr + item.to(tl.int64) * stride, mask=mask, other=0.0)
    tl.store(v_ptr + place, score.to(tl.float64), mask=mask)


@triton.jit
def value_by_score(
    v_ptr, n_ptr, s_ptr, n_positive, n_negative, centre, LOSS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """What makes up the value beside what ``F`` of the chosen ranking is above ``F(y_w)``, of the ranking by score.

    That is ``F(y_w)`` for "ranking", ``F(y_w) - F(y*)`` for "hinge", all positives being above all negatives in ``y*``,
    and nothing for "direct".
    """
    value = tl.full([], 0.0, tl.float64)
    if LOSS != "direct":
        total = tl.zeros([BLOCK], tl.float64)
        for base in range(0, tl.maximum(n_positive, n_negative), BLOCK):
            total += standard_gaps(v_ptr, n_ptr, base + tl.arange(0, BLOCK), n_positive, n_negative)
        value = 2.0 * tl.sum(total, axis=0) / (n_positive.to(tl.float64) * n_negative.to(tl.float64))
    if LOSS == "ranking":
        total = tl.zeros([BLOCK], tl.float64)
        for base in range(0, n_positive, BLOCK):
            row = base + tl.arange(0, BLOCK)
            mask = row < n_positive
            total += tl.where(mask, tl.load(v_ptr + row, mask=mask, other=0.0) - centre, 0.0)
        value += tl.sum(total, axis=0) / n_positive.to(tl.float64)
        value -= tl.load(s_ptr + n_negative) / n_negative.to(tl.float64)
    return value


@triton.jit
def standard_gaps(v_ptr, n_ptr, number, n_positive, n_negative):
    """What a tile of rows and the negatives of the same numbers, from 0, add to ``sum_i (S[w_i] - w_i p_i)``.

    ``w_i = #{n > p_i}``: the gaps of all pairs that the ranking by score has the wrong way round, a sum of nothing
    negative, from gap to gap, which loses no digits to scores far away. Each gap between neighbours counts for all
    negatives above it and all positives below it: a row has the gaps of the row before, ``w (p_before - p)`` more, and
    those of the negatives between the two.
    """
    mask = (number > 0) & (number < n_positive)
    p = tl.load(v_ptr + number, mask=mask, other=0.0)
    before = tl.load(v_ptr + number - 1, mask=mask, other=0.0)
    above = count_above(n_ptr, n_negative, before, mask, False).to(tl.float64)
    total = tl.where(mask, above * (before - p) * (n_positive - number).to(tl.float64), 0.0)
    mask = number < n_negative
    n = tl.load(n_ptr + 1 + number, mask=mask, other=0.0)
    row = count_above(v_ptr - 1, n_positive, n, mask, True)
    mask = mask & (row < n_positive)
    p = tl.load(v_ptr + row, mask=mask, other=0.0)
    return total + tl.where(mask, (n - p) * (n_positive - row).to(tl.float64), 0.0)

"""From chosen rankings back to the items, and to numbers: value, gradient, ranks, AP. Counting, no pairs.

Functions for a tile of rows or of places of one ranking; a *place* is a position in its sorted order, positives first,
then negatives, then ignored items.
"""

import triton
import triton.language as tl

from .sort import FAR, WRONG
from .terms import count_above, count_above_in, count_choices_below, standard, task_loss


@triton.jit
def takes_part(n_positive, n_negative, flags):
    """Whether a ranking counts in the mean: it has both classes, or a wrong target makes the mean NaN."""
    return ((n_positive > 0) & (n_negative > 0)) | ((flags & WRONG) != 0)


@triton.jit
def value_unsolved(n_positive, n_negative, flags, LOSS: tl.constexpr):
    """The value of a ranking that is not solvable."""
    value = tl.full([], float("nan"), tl.float64)
    if LOSS != "ap" and LOSS != "ranking":
        value = tl.where(takes_part(n_positive, n_negative, flags), value, 0.0)
    return value


@triton.jit
def row_sums(
    v_ptr, n_ptr, s_ptr, choice_ptr, second_ptr,
    row, n_positive, n_negative, centre, flags,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a tile of rows: of what makes up the score of the ranking, and its task loss or precision.

    ==========  ============================================================  =====================
    LOSS        first sum                                                     second sum
    ==========  ============================================================  =====================
    direct      ``S[a] - a p`` of the chosen ranking less of that by score    ``a / (i + a)``
    symmetric   ``S[a] - a p`` of the chosen ranking less of the second       that of both
    hinge       ``S[a] - a p``, of scores far apart less of that by score     ``a / (i + a)``
    perceptron  that of the ranking by score, see :func:`standard_gaps`       ``a / (i + a)``
    ranking     ``2 / N (S[a] - a p) + p``, of scores far apart as the hinge  ``a / (i + a)``
    ap          none                                                          precision at threshold
    ==========  ============================================================  =====================

    "symmetric" is "direct" with SIGN 0. The tile of "perceptron" is also one of negatives: :func:`summed` says how many
    numbers are to be summed.
    """
    mask = row < n_positive
    p = tl.load(v_ptr + row, mask=mask, other=0.0)
    if LOSS == "ap":
        at_or_above = count_above(v_ptr - 1, n_positive, p, mask, True)
        both = at_or_above + count_above(n_ptr, n_negative, p, mask, True)
        score = tl.zeros([BLOCK], tl.float64)
        task = at_or_above.to(tl.float64) / both.to(tl.float64)
    else:
        pc = p - centre
        a = tl.load(choice_ptr + row, mask=mask, other=0)
        task = task_loss(a, row + 1)
        if LOSS == "perceptron":
            score = standard_gaps(v_ptr, n_ptr, row, n_positive, n_negative)
        else:
            score = standard(s_ptr, a, pc, mask)
            is_far = (flags & FAR) != 0
            is_difference = is_far
            if LOSS == "direct":
                is_difference = is_far | True
            if SIGN == 0:
                second = tl.load(second_ptr + row, mask=mask, other=0)
                score = score - standard(s_ptr, second, pc, mask)
                task = task + task_loss(second, row + 1)
            elif is_difference:
                score = score - standard(s_ptr, count_above(n_ptr, n_negative, p, mask, False), pc, mask)
            if LOSS == "ranking":
                score = score * (2.0 / n_negative.to(tl.float64)) + tl.where(is_far, 0.0, pc)
            score = tl.where(mask, score, 0.0)
    return tl.sum(score, axis=0), tl.sum(tl.where(mask, task, 0.0), axis=0)


@triton.jit
def summed(n_positive, n_negative, LOSS: tl.constexpr):
    """How many numbers :func:`row_sums` is to see: all rows, of "perceptron" all negatives too."""
    number = n_positive
    if LOSS == "perceptron":
        number = tl.maximum(n_positive, n_negative)
    return number


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


@triton.jit
def ranking_value(
    score_sum, task_sum, last_sum, by_score, epsilon_bits, n_positive, n_negative,
    LOSS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """The loss of a ranking that takes part, from the sums of its rows. NaN if not finite.

    ``last_sum`` is ``S[N]`` and ``by_score`` 0, but of scores far apart it is the other way round, and ``by_score`` is
    that of :func:`value_by_score`.
    """
    positives = n_positive.to(tl.float64)
    negatives = n_negative.to(tl.float64)
    epsilon = epsilon_bits.to(tl.float64, bitcast=True)
    task = task_sum / positives
    if LOSS == "ap":
        value = task
    elif LOSS == "ranking":
        value = by_score + score_sum / positives - last_sum / negatives + SIGN * epsilon * task
    else:
        value = by_score + 2.0 * score_sum / (positives * negatives)
        if LOSS == "direct":
            value = 0.5 * (value / epsilon + task) if SIGN == 0 else SIGN * value / epsilon + task
        if LOSS == "hinge":
            value = value + epsilon * task
        # No loss is below 0, and no direct loss above 1, but for rounding; NaN stays.
        value = tl.where(value < 0.0, 0.0, value)
        if LOSS == "direct":
            value = tl.where(value > 1.0, 1.0, value)
    # Scores too large to be summed are as good as infinite.
    return tl.where(tl.abs(value) < float("inf"), value, float("nan"))


@triton.jit
def result_at(
    v_ptr, choice_ptr, before_ptr, plane,
    place, n_positive, n_negative, flags, value, solvable, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """The gradient at a tile of places, NaN where the value is; for LOSS "ranking" the ranks, -1 for ignored items."""
    taken = place < n_positive + n_negative
    if LOSS == "ranking":
        # Where there is nothing to rank against, by score.
        rank = place
        if solvable:
            rank = rank_at(choice_ptr, place, n_positive, n_negative)
        result = tl.where(taken, rank, -1)
    else:
        result = tl.where(taken | ((flags & WRONG) != 0), value, 0.0)
        if solvable & (value == value):
            result = gradient_at(
                v_ptr, choice_ptr, before_ptr, plane, place, n_positive, n_negative, epsilon_bits, LOSS, SIGN
            )
    return result


@triton.jit
def gradient_at(
    v_ptr, choice_ptr, before_ptr, plane,
    place, n_positive, n_negative, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """The gradient at a tile of places; 0 beyond the negatives.

    ``before_ptr[i]`` (float64) is the sum of the choices of the rows before row ``i``. Items of equal score that the
    ranking tells apart get the mean of their group, which is a gradient as much as any other, and the same however the
    items came in. In the standard ranking half of the equal items of the other class stand above: sign(0) = 0. With
    SIGN 0 the second ranking stands for it, whose choices and their sums are one ``plane`` further.
    """
    is_positive = place < n_positive
    is_negative = (place >= n_positive) & (place < n_positive + n_negative)
    taken = is_positive | is_negative
    score = tl.load(v_ptr + place, mask=taken, other=0.0)
    twice = tl.zeros_like(place).to(tl.float64)
    if LOSS != "perceptron":
        chosen = _chosen_pairs(v_ptr, choice_ptr, before_ptr, place, score, n_positive, n_negative)
        twice = 2.0 * chosen
    if SIGN == 0:
        twice = chosen - _chosen_pairs(
            v_ptr, choice_ptr + plane, before_ptr + plane, place, score, n_positive, n_negative
        )
    elif LOSS != "hinge":
        start = tl.where(is_positive, n_positive, 0)
        others = tl.where(is_positive, n_negative, n_positive)
        above = count_above_in(v_ptr, start, others, score, taken, False)
        at_or_above = count_above_in(v_ptr, start, others, score, taken, True)
        # Of a positive, the negatives above it; of a negative, the positives below it.
        pairs = tl.where(is_positive, above + at_or_above, 2 * n_positive - above - at_or_above).to(tl.float64)
        twice = pairs if LOSS == "perceptron" else twice - pairs
    scale = 1.0 / (n_positive.to(tl.float64) * n_negative.to(tl.float64))
    if LOSS == "direct":
        # Half the difference of twice the pairs: the mean of both updates.
        scale = scale * (1 if SIGN == 0 else SIGN) / epsilon_bits.to(tl.float64, bitcast=True)
    return tl.where(taken, tl.where(is_positive, -twice, twice) * scale, 0.0)


@triton.jit
def rank_at(choice_ptr, place, n_positive, n_negative):
    """The rank, 0 for the first, of a tile of places."""
    is_positive = place < n_positive
    is_negative = (place >= n_positive) & (place < n_positive + n_negative)
    above = tl.load(choice_ptr + place, mask=is_positive, other=0)
    number = place - n_positive + 1
    before = count_choices_below(choice_ptr, n_positive, number, is_negative)
    return tl.where(is_positive, place + above, number - 1 + before)


@triton.jit
def _chosen_pairs(v_ptr, choice_ptr, before_ptr, place, score, n_positive, n_negative):
    """``a`` of positives, ``b_j = #{i : a_i >= j}`` of negatives: its mean over equal scores."""
    is_positive = place < n_positive
    is_negative = (place >= n_positive) & (place < n_positive + n_negative)
    own = tl.load(choice_ptr + place, mask=is_positive, other=0)
    number = place - n_positive + 1
    counted = tl.where(is_positive, own, n_positive - count_choices_below(choice_ptr, n_positive, number, is_negative))
    pairs = counted.to(tl.float64)
    has_above = (is_positive & (place > 0)) | (is_negative & (number > 1))
    above = tl.load(v_ptr + place - 1, mask=has_above, other=0.0)
    has_below = (is_positive & (place + 1 < n_positive)) | (is_negative & (number < n_negative))
    below = tl.load(v_ptr + place + 1, mask=has_below, other=0.0)
    tied = (has_above & (above == score)) | (has_below & (below == score))
    if tl.max(tied.to(tl.int32), axis=0) > 0:
        own_start = tl.where(is_positive, 0, n_positive)
        own_count = tl.where(is_positive, n_positive, n_negative)
        first = count_above_in(v_ptr, own_start, own_count, score, tied, False)
        end = count_above_in(v_ptr, own_start, own_count, score, tied, True)
        size = tl.maximum(end - first, 1).to(tl.float64)
        # Rows [start, stop): of positives those of the group; of negatives those that choose a place inside it.
        start = count_choices_below(choice_ptr, n_positive, first + 1, tied & is_negative)
        stop = count_choices_below(choice_ptr, n_positive, end, tied & is_negative)
        start = tl.where(is_positive, first, start)
        stop = tl.where(is_positive, end, stop)
        total = tl.load(before_ptr + stop, mask=tied, other=0.0) - tl.load(before_ptr + start, mask=tied, other=0.0)
        inside = total - (stop - start).to(tl.float64) * first.to(tl.float64)
        total = tl.where(is_positive, total, inside + (n_positive - stop).to(tl.float64) * size)
        pairs = tl.where(tied, total / size, pairs)
    return pairs


@triton.jit(do_not_specialize=["n_rankings"])
def reduce_losses(
    value_ptr, takes_part_ptr,
    total_ptr, share_ptr,
    n_rankings,
    MEAN: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """The sum of the losses, or their mean over the rankings that take part. One program owns all.

    value_ptr: (n_rankings,) float64. takes_part_ptr: (n_rankings,) int8. total_ptr: (), of any floating type.
    share_ptr: (1,), of the same type: what a ranking counts in the mean; not written for a sum.
    """
    total = tl.zeros([BLOCK_R], tl.float64)
    number = tl.zeros([BLOCK_R], tl.int32)
    for base in range(0, n_rankings, BLOCK_R):
        ranking = base + tl.arange(0, BLOCK_R).to(tl.int64)
        mask = ranking < n_rankings
        total += tl.load(value_ptr + ranking, mask=mask, other=0.0)
        number += tl.load(takes_part_ptr + ranking, mask=mask, other=0).to(tl.int32)
    result = tl.sum(total, axis=0)
    if MEAN:
        share = 1.0 / tl.maximum(tl.sum(number, axis=0), 1).to(tl.float64)
        result = result * share
        tl.store(share_ptr, share.to(share_ptr.dtype.element_ty))
    tl.store(total_ptr, result.to(total_ptr.dtype.element_ty))

"""From chosen rankings back to the items: value and gradient. Counting, no pairs.

Functions for a tile of rows or of places of one ranking; a *place* is a position in its sorted order, positives first,
then negatives, then ignored items.
"""

import triton
import triton.language as tl

from .gaps import standard_gaps
from .keys import FAR, WRONG
from .terms import count_above, count_above_in, highest_power, standard, task_loss


@triton.jit
def row_sums(
    v_ptr, n_ptr, s_ptr, choice_ptr,
    row, n_positive, n_negative, centre, flags,
    LOSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a tile of rows: of what makes up the score of the ranking, and its task loss or precision.

    ==========  ============================================================  =====================
    LOSS        first sum                                                     second sum
    ==========  ============================================================  =====================
    direct      ``S[a] - a p`` of the chosen ranking less of that by score    ``a / (i + a)``
    hinge       ``S[a] - a p``, of scores far apart less of that by score     ``a / (i + a)``
    perceptron  that of the ranking by score, see :func:`standard_gaps`       ``a / (i + a)``
    ranking     ``2 / N (S[a] - a p) + p``, of scores far apart as the hinge  ``a / (i + a)``
    ap          none                                                          precision at threshold
    ==========  ============================================================  =====================

    The tile of "perceptron" is also one of negatives: :func:`summed` says how many numbers are to be summed.
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
            if is_difference:
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
def ranking_value(
    score_sum, task_sum, last_sum, by_score, epsilon_bits, n_positive, n_negative,
    LOSS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """The loss of a ranking that takes part, from the sums of its rows. NaN if not finite.

    ``last_sum`` is ``S[N]`` and ``by_score`` 0, but of scores far apart it is the other way round, and ``by_score`` is
    that of :func:`kernels.gaps.value_by_score`.
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
            value = SIGN * value / epsilon + task
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
    v_ptr, choice_ptr, before_ptr,
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
            result = gradient_at(v_ptr, choice_ptr, before_ptr, place, n_positive, n_negative, epsilon_bits, LOSS, SIGN)
    return result


@triton.jit
def gradient_at(
    v_ptr, choice_ptr, before_ptr,
    place, n_positive, n_negative, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """The gradient at a tile of places; 0 beyond the negatives.

    ``before_ptr[i]`` (float64) is the sum of the choices of the rows before row ``i``. Items of equal score that the
    ranking tells apart get the mean of their group, which is a gradient as much as any other, and the same however the
    items came in. In the standard ranking half of the equal items of the other class stand above: sign(0) = 0.
    """
    is_positive = place < n_positive
    is_negative = (place >= n_positive) & (place < n_positive + n_negative)
    taken = is_positive | is_negative
    score = tl.load(v_ptr + place, mask=taken, other=0.0)
    twice = tl.zeros_like(place).to(tl.float64)
    if LOSS != "perceptron":
        chosen = _chosen_pairs(v_ptr, choice_ptr, before_ptr, place, score, n_positive, n_negative)
        twice = 2.0 * chosen
    if LOSS != "hinge":
        start = tl.where(is_positive, n_positive, 0)
        others = tl.where(is_positive, n_negative, n_positive)
        above = count_above_in(v_ptr, start, others, score, taken, False)
        at_or_above = count_above_in(v_ptr, start, others, score, taken, True)
        # Of a positive, the negatives above it; of a negative, the positives below it.
        pairs = tl.where(is_positive, above + at_or_above, 2 * n_positive - above - at_or_above).to(tl.float64)
        twice = pairs if LOSS == "perceptron" else twice - pairs
    scale = 1.0 / (n_positive.to(tl.float64) * n_negative.to(tl.float64))
    if LOSS == "direct":
        scale = scale * SIGN / epsilon_bits.to(tl.float64, bitcast=True)
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


@triton.jit
def count_choices_below(choice_ptr, n_positive, bound, mask):
    """``#{i : a_i < bound}``: ``a`` does not fall."""
    count = tl.zeros_like(bound)
    step = highest_power(n_positive)
    while step > 0:
        further = tl.minimum(count + step, n_positive)
        below = mask & (tl.load(choice_ptr + further - 1, mask=mask, other=0) < bound)
        count = tl.where(below, further, count)
        step = step // 2
    return count

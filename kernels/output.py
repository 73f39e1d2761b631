"""From chosen rankings back to the items, and to numbers: value, gradient, ranks, AP. Counting, no pairs.

Functions for a tile of rows or of places of one ranking; a *place* is a position in its sorted order, positives first,
then negatives, then ignored items.
"""

import triton
import triton.language as tl

from .sort import FAR, WRONG
from .terms import choices_around, count_above, count_choices_below, equals_around, standard, task_loss


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
def weigh_gaps(gap, positives, negatives, n_positive, n_negative, LOSS: tl.constexpr):
    """What gaps between neighbours in the order by score, with so many of each class above, add to its value.

    All together are what :func:`value_by_score` finds where the classes lie apart: ``F(y_w)`` is the mean of all pairs'
    ``|p - n|``, ``F(y_w) - F(y*)`` twice that of ``n - p`` over pairs that are the wrong way round, and the difference
    of a pair is all gaps between the two.
    """
    # More than fit into 32 bits.
    all_positives = n_positive.to(tl.float64)
    all_negatives = n_negative.to(tl.float64)
    pairs = negatives.to(tl.float64) * (all_positives - positives.to(tl.float64))
    if LOSS == "hinge":
        pairs *= 2.0
    else:
        pairs += positives.to(tl.float64) * (all_negatives - negatives.to(tl.float64))
    return gap * (pairs / (all_positives * all_negatives))


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
def n_tiles_of(n_positive, n_items, BLOCK: tl.constexpr):
    """How many tiles :func:`tile_of` knows, at most one more than ``n_items`` fill."""
    return tl.cdiv(n_positive, BLOCK) + tl.cdiv(n_items - n_positive, BLOCK)


@triton.jit
def tile_of(number, n_positive, n_items, BLOCK: tl.constexpr):
    """A tile of at most BLOCK places, where it starts and ends: first those of the positives, then the others'."""
    others = number - tl.cdiv(n_positive, BLOCK)
    is_positive = others < 0
    first = tl.where(is_positive, number * BLOCK, n_positive + others * BLOCK)
    return first, tl.minimum(first + BLOCK, tl.where(is_positive, n_positive, n_items))


@triton.jit
def result_at(
    v_ptr, choice_ptr, before_ptr, plane,
    first, end, n_positive, n_negative, flags, value, solvable, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BY_ENDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient at a tile of places, NaN where the value is; for LOSS "ranking" the ranks, -1 for ignored items.

    The tile is of :func:`tile_of`: its places are those of neighbours in the order by score, and what is counted for
    them lies between what is counted for the first and the last: BY_ENDS bisects for these first. At 10,100,000 items
    a bisection of all there is for each place took 870 us of 2,215. For a few hundred, which take few steps, the ends
    would only be waited for.
    """
    place = first + tl.arange(0, BLOCK)
    is_positive = first < n_positive
    end = tl.minimum(end, n_positive + n_negative)
    taken = place < end
    if LOSS == "ranking":
        # Where there is nothing to rank against, by score.
        rank = place
        if solvable & (first < end):
            rank = (
                _counted(choice_ptr, place, first, end, n_positive, taken, BY_ENDS)
                + place
                - tl.where(is_positive, 0, n_positive)
            )
        result = tl.where(taken, rank, -1)
    else:
        result = tl.where(taken | ((flags & WRONG) != 0), value, 0.0)
        if solvable & (value == value):
            result = tl.zeros([BLOCK], tl.float64)
            if first < end:
                result = gradient_at(
                    v_ptr, choice_ptr, before_ptr, plane,
                    place, first, end, taken, n_positive, n_negative, epsilon_bits,
                    LOSS, SIGN, BY_ENDS,
                )  # fmt: skip
    return result


@triton.jit
def gradient_at(
    v_ptr, choice_ptr, before_ptr, plane,
    place, first, end, taken, n_positive, n_negative, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BY_ENDS: tl.constexpr,
):  # fmt: skip
    """The gradient at a tile of places of one class, from ``first`` to before ``end``; 0 beyond.

    ``before_ptr[i]`` (float64) is the sum of the choices of the rows before row ``i``. Items of equal score that the
    ranking tells apart get the mean of their group, which is a gradient as much as any other, and the same however the
    items came in. In the standard ranking half of the equal items of the other class stand above: sign(0) = 0. With
    SIGN 0 the second ranking stands for it, whose choices and their sums are one ``plane`` further.
    """
    is_positive = first < n_positive
    score = tl.load(v_ptr + place, mask=taken, other=0.0)
    twice = tl.zeros_like(score)
    if LOSS != "perceptron":
        chosen = _chosen_pairs(
            v_ptr, choice_ptr, before_ptr, place, first, end, taken, score, n_positive, n_negative, BY_ENDS
        )
        twice = 2.0 * chosen
    if SIGN == 0:
        twice = chosen - _chosen_pairs(
            v_ptr, choice_ptr + plane, before_ptr + plane,
            place, first, end, taken, score, n_positive, n_negative, BY_ENDS,
        )  # fmt: skip
    elif LOSS != "hinge":
        others_ptr = v_ptr + tl.where(is_positive, n_positive, 0) - 1
        others = tl.where(is_positive, n_negative, n_positive)
        least = 0
        most = others
        if BY_ENDS:
            least = count_above(others_ptr, others, tl.load(v_ptr + first), True, False)
            most = count_above(others_ptr, others, tl.load(v_ptr + end - 1), True, True)
        above = least + count_above(others_ptr + least, most - least, score, taken, False)
        at_or_above = above
        has_other = taken & (above < others)
        tied = has_other & (tl.load(others_ptr + above + 1, mask=has_other, other=0.0) == score)
        if tl.max(tied.to(tl.int32), axis=0) > 0:
            at_or_above = least + count_above(others_ptr + least, most - least, score, taken, True)
        # Of a positive, the negatives above it; of a negative, the positives below it.
        pairs = tl.where(is_positive, above + at_or_above, 2 * n_positive - above - at_or_above).to(tl.float64)
        twice = pairs if LOSS == "perceptron" else twice - pairs
    scale = 1.0 / (n_positive.to(tl.float64) * n_negative.to(tl.float64))
    if LOSS == "direct":
        # Half the difference of twice the pairs: the mean of both updates.
        scale = scale * (1 if SIGN == 0 else SIGN) / epsilon_bits.to(tl.float64, bitcast=True)
    return tl.where(taken, tl.where(is_positive, -twice, twice) * scale, 0.0)


@triton.jit
def _counted(choice_ptr, place, first, end, n_positive, taken, BY_ENDS: tl.constexpr):
    """Of a tile of positives their choices, of negatives ``#{i : a_i < j}``."""
    is_positive = first < n_positive
    own = tl.load(choice_ptr + place, mask=taken & is_positive, other=0)
    least = 0
    most = tl.where(is_positive, 0, n_positive)
    if BY_ENDS:
        least = count_choices_below(choice_ptr, most, first - n_positive + 1, True)
        most = count_choices_below(choice_ptr, most, end - n_positive, True)
    below = least + count_choices_below(choice_ptr + least, most - least, place - n_positive + 1, taken)
    return tl.where(is_positive, own, below)


@triton.jit
def _chosen_pairs(
    v_ptr, choice_ptr, before_ptr, place, first, end, taken, score, n_positive, n_negative, BY_ENDS: tl.constexpr
):
    """``a`` of positives, ``b_j = #{i : a_i >= j}`` of negatives: its mean over equal scores."""
    is_positive = first < n_positive
    counted = _counted(choice_ptr, place, first, end, n_positive, taken, BY_ENDS)
    pairs = tl.where(is_positive, counted, n_positive - counted).to(tl.float64)
    own_start = tl.where(is_positive, 0, n_positive)
    own_count = tl.where(is_positive, n_positive, n_negative)
    has_above = taken & (place > own_start)
    above = tl.load(v_ptr + place - 1, mask=has_above, other=0.0)
    has_below = taken & (place + 1 < own_start + own_count)
    below = tl.load(v_ptr + place + 1, mask=has_below, other=0.0)
    tied = (has_above & (above == score)) | (has_below & (below == score))
    if tl.max(tied.to(tl.int32), axis=0) > 0:
        group, group_end = equals_around(v_ptr, own_start, own_start + own_count, place, score, tied)
        group -= own_start
        group_end -= own_start
        size = tl.maximum(group_end - group, 1).to(tl.float64)
        # Rows [start, stop): of positives those of the group; of negatives those that choose a place inside it.
        in_group = tied & (first >= n_positive)
        start, stop = choices_around(choice_ptr, n_positive, counted, group + 1, group_end, in_group)
        start = tl.where(is_positive, group, start)
        stop = tl.where(is_positive, group_end, stop)
        total = tl.load(before_ptr + stop, mask=tied, other=0.0) - tl.load(before_ptr + start, mask=tied, other=0.0)
        inside = total - (stop - start).to(tl.float64) * group.to(tl.float64)
        total = tl.where(is_positive, total, inside + (n_positive - stop).to(tl.float64) * size)
        pairs = tl.where(tied, total / size, pairs)
    return pairs


@triton.jit(do_not_specialize=["n_rankings", "n_items"])
def reduce_losses(
    value_ptr, takes_part_ptr,
    total_ptr, gradient_ptr,
    n_rankings, n_items,
    MEAN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The sum of the losses, or their mean over the rankings that take part, and the gradient divided by their number.

    Each program counts those rankings and owns every so-manieth tile of BLOCK_N items. The first one sums the losses.

    value_ptr: (n_rankings,) float64. takes_part_ptr: (n_rankings,) int8. total_ptr: (), of any floating type.
    gradient_ptr: (n_items,) float32 or float64, of all rankings; not looked at for a sum, nor with ``n_items`` of 0.
    """
    program = tl.program_id(0)
    total = tl.zeros([BLOCK_R], tl.float64)
    number = tl.zeros([BLOCK_R], tl.int32)
    for base in range(0, n_rankings, BLOCK_R):
        ranking = base + tl.arange(0, BLOCK_R).to(tl.int64)
        mask = ranking < n_rankings
        total += tl.load(value_ptr + ranking, mask=mask & (program == 0), other=0.0)
        number += tl.load(takes_part_ptr + ranking, mask=mask, other=0).to(tl.int32)
    result = tl.sum(total, axis=0)
    if MEAN:
        share = 1.0 / tl.maximum(tl.sum(number, axis=0), 1).to(tl.float64)
        result = result * share
        item = program.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
        for _ in range(program, tl.cdiv(n_items, BLOCK_N), tl.num_programs(0)):
            mask = item < n_items
            gradient = tl.load(gradient_ptr + item, mask=mask, other=0.0)
            tl.store(gradient_ptr + item, gradient * share.to(gradient.dtype), mask=mask)
            item += tl.num_programs(0).to(tl.int64) * BLOCK_N
    if program == 0:
        tl.store(total_ptr, result.to(total_ptr.dtype.element_ty))

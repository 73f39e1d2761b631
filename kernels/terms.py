"""The separable terms of the ranking problem, as kernels see them: one formula in one place.

With ``S[a]`` the sum of the ``a`` largest negatives, ``w = epsilon * N / 2`` and ``s`` the sign of the update::

    g_i(a) = S[a] - a p_i + s w a / (i + a)                                     the term row i maximises
    d_i(a) = g_i(a) - g_i(a - 1) = (n_a - p_i) + s w i / ((i + a)(i + a - 1))   its marginal, a >= 1

Names that all kernels share: a ranking has its sorted scores at ``v_ptr`` (positives, then negatives), so negative
``a`` (counted from 1) stands at ``n_ptr + a``, ``n_ptr = v_ptr + P - 1``; ``S[a]`` stands at ``s_ptr + a``. ``p`` is
a positive's score as it is, ``pc`` the same less ``centre``, from where ``S`` counts; ``index`` is its number ``i``,
``task`` is ``s w``. Scores and all arithmetic are float64.
"""

import triton
import triton.language as tl


@triton.jit
def task_scale(epsilon_bits, n_negative, SIGN: tl.constexpr):
    """``s w`` from the bits of a float64 epsilon: kernels would take a Python float as float32."""
    epsilon = epsilon_bits.to(tl.float64, bitcast=True)
    return epsilon * (0.5 * SIGN) * n_negative.to(tl.float64)


@triton.jit
def standard(s_ptr, a, pc, mask):
    """``S[a] - a p_i``."""
    return tl.load(s_ptr + a, mask=mask, other=0.0) - a.to(tl.float64) * pc


@triton.jit
def task_loss(a, index):
    """``a / (i + a)``: what row i adds to ``P (1 - AP)``."""
    return a.to(tl.float64) / (index + a).to(tl.float64)


@triton.jit
def term(s_ptr, a, pc, index, task, mask):
    """``g_i(a)``."""
    return standard(s_ptr, a, pc, mask) + task * task_loss(a, index)


@triton.jit
def marginal(n_ptr, a, p, index, task, mask):
    """``d_i(a)`` for ``1 <= a <= N``."""
    below = (index + a).to(tl.float64)
    gap = tl.load(n_ptr + a, mask=mask, other=0.0) - p
    return gap + task * index.to(tl.float64) / (below * (below - 1.0))


@triton.jit
def count_above(n_ptr, n_negative, p, mask, EQUAL: tl.constexpr):
    """``#{n > p_i}``, with ``EQUAL`` ``#{n >= p_i}``, by bisection of the sorted negatives."""
    count = tl.zeros_like(p).to(tl.int32)
    step = highest_power(n_negative)
    while step > 0:
        further = tl.minimum(count + step, n_negative)
        n = tl.load(n_ptr + further, mask=mask, other=0.0)
        higher = (n >= p) if EQUAL else (n > p)
        count = tl.where(higher & mask, further, count)
        step = step // 2
    return count


@triton.jit
def count_above_in(v_ptr, start, size, score, mask, EQUAL: tl.constexpr):
    """Of each item's own stretch of ``size`` sorted scores from place ``start`` on, how many are higher."""
    count = tl.zeros_like(size)
    step = highest_power(tl.max(size, axis=0))
    while step > 0:
        further = tl.minimum(count + step, size)
        more = mask & (further > count)
        other = tl.load(v_ptr + start + further - 1, mask=more, other=0.0)
        higher = (other >= score) if EQUAL else (other > score)
        count = tl.where(higher & more, further, count)
        step = step // 2
    return count


@triton.jit
def equals_around(v_ptr, start, end, place, score, mask):
    """From which place to before which sorted scores are equal to that of each place, between ``start`` and ``end``.

    In steps that double, then by bisection of the last: most groups are small, and few of millions of scores alone.
    """
    reach = 1
    reaches = 0
    while reaches == 0:
        up = mask & (place - reach >= start)
        down = mask & (place + reach < end)
        above = tl.load(v_ptr + place - reach, mask=up, other=0.0)
        below = tl.load(v_ptr + place + reach, mask=down, other=0.0)
        further = (up & (above == score)) | (down & (below == score))
        reaches = 1 - tl.max(further.to(tl.int32), axis=0)
        reach = tl.minimum(reach * 2, 1 << 30)
    low = tl.maximum(place - reach, start)
    first = low + count_above_in(v_ptr, low, tl.where(mask, place - low, 0), score, mask, False)
    size = tl.where(mask, tl.minimum(reach, end - place), 0)
    return first, place + count_above_in(v_ptr, place, size, score, mask, True)


@triton.jit
def choices_around(choice_ptr, n_positive, number, low, high, mask):
    """``#{i : a_i < low}`` and ``#{i : a_i < high}``, given ``number``, the same for something between the two."""
    reach = 1
    reaches = 0
    while reaches == 0:
        up = mask & (number >= reach)
        down = mask & (number + reach <= n_positive)
        above = tl.load(choice_ptr + number - reach, mask=up, other=0)
        below = tl.load(choice_ptr + number + reach - 1, mask=down, other=0)
        further = (up & (above >= low)) | (down & (below < high))
        reaches = 1 - tl.max(further.to(tl.int32), axis=0)
        reach = tl.minimum(reach * 2, 1 << 30)
    start = tl.maximum(number - reach, 0)
    first = start + _count_choices_in(choice_ptr, start, tl.where(mask, number - start, 0), low, mask)
    size = tl.where(mask, tl.minimum(reach, n_positive - number), 0)
    return first, number + _count_choices_in(choice_ptr, number, size, high, mask)


@triton.jit
def _count_choices_in(choice_ptr, start, size, bound, mask):
    """Of each item's own stretch of ``size`` choices from row ``start`` on, how many are below the bound."""
    count = tl.zeros_like(size)
    step = highest_power(tl.max(size, axis=0))
    while step > 0:
        further = tl.minimum(count + step, size)
        more = mask & (further > count)
        below = more & (tl.load(choice_ptr + start + further - 1, mask=more, other=0) < bound)
        count = tl.where(below, further, count)
        step = step // 2
    return count


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


@triton.jit
def highest_power(number):
    """The largest power of two that is at most ``number``; 0 for 0."""
    step = 1
    while step <= number // 2:
        step = step * 2
    return tl.minimum(step, number)

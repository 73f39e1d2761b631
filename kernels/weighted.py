"""Average precision of weighted items: prefix sums of the weights in float64, always in the same order.

    sum over positives i of w_i / T * T_i / (T_i + F_i)

``T_i`` and ``F_i`` are the weights of the positives and of the negatives that score as much as positive ``i`` or more,
``T`` those of all positives. Equal scores form one threshold; an item of weight 0 changes nothing.
"""

import triton
import triton.language as tl

from .ragged import take_in
from .split import is_solvable
from .terms import count_above


@triton.jit(do_not_specialize=["n_items"])
def weigh_rankings(
    v_ptr, order_ptr, counts_ptr, weight_ptr,
    value_ptr, sums_ptr,
    n_items,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted AP of rankings that lie sorted and split by class, see :mod:`kernels.split`. One program owns one.

    weight_ptr: (rankings, n_items) float64, by item. value_ptr: (rankings,) float64. sums_ptr: scratch, as weights.
    """
    ranking = tl.program_id(0).to(tl.int64)
    start = ranking * n_items
    n_positive = tl.load(counts_ptr + ranking * 4)
    n_negative = tl.load(counts_ptr + ranking * 4 + 1)
    flags = tl.load(counts_ptr + ranking * 4 + 2)
    value = weighted_precision(
        v_ptr + start, order_ptr + start, weight_ptr + start, sums_ptr + start, n_positive, n_negative, flags, BLOCK
    )
    tl.store(value_ptr + ranking, value)


@triton.jit(do_not_specialize=["n_items", "n_rankings"])
def weigh_ragged(
    scores_ptr, offsets_ptr, groups_ptr, order_ptr, weight_ptr,
    value_ptr, v_ptr, sums_ptr,
    n_items, n_rankings,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted AP of rankings end to end. Programs share them, and inputs are, as in :mod:`kernels.ragged`.

    weight_ptr: (n_items,) float64, by item. value_ptr: (n_rankings,) float64. v_ptr, sums_ptr: scratch, as weights.
    """
    ranking = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets_ptr + ranking)
    while start < n_items:
        size = (tl.load(offsets_ptr + ranking + 1) - start).to(tl.int32)
        n_positive, n_negative, flags = take_in(
            scores_ptr, groups_ptr + start, order_ptr + start, v_ptr + start, size, BLOCK
        )
        value = weighted_precision(
            v_ptr + start, order_ptr + start, weight_ptr, sums_ptr + start, n_positive, n_negative, flags, BLOCK
        )
        tl.store(value_ptr + ranking, value)
        ranking = tl.minimum(ranking + tl.num_programs(0), n_rankings)
        start = tl.load(offsets_ptr + ranking)


@triton.jit
def weighted_precision(
    v_ptr, order_ptr, weight_ptr, sums_ptr,
    n_positive, n_negative, flags,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The AP of one ranking.

    NaN without a positive of any weight, with a wrong target, with a NaN score or a weight that is negative, infinite
    or NaN at an item that takes part, and where the weights of the positives add up to infinity.
    """
    value = tl.full([], float("nan"), tl.float64)
    if is_solvable(n_positive, n_negative, flags, "ap"):
        wrong = _sum_weights(order_ptr, weight_ptr, sums_ptr, 0, n_positive, BLOCK)
        wrong |= _sum_weights(order_ptr, weight_ptr, sums_ptr, n_positive, n_positive + n_negative, BLOCK)
        tl.debug_barrier()
        whole = tl.load(sums_ptr + n_positive - 1)
        if (wrong == 0) & (whole > 0.0) & (whole < float("inf")):
            total = tl.full([], 0.0, tl.float64)
            for base in range(0, n_positive, BLOCK):
                row = base + tl.arange(0, BLOCK)
                mask = row < n_positive
                item = tl.load(order_ptr + row, mask=mask, other=0)
                weight = tl.load(weight_ptr + item, mask=mask, other=0.0)
                mask = mask & (weight > 0.0)
                p = tl.load(v_ptr + row, mask=mask, other=0.0)
                above = count_above(v_ptr - 1, n_positive, p, mask, True)
                above_too = count_above(v_ptr + n_positive - 1, n_negative, p, mask, True)
                true = tl.load(sums_ptr + above - 1, mask=mask, other=1.0)
                false = tl.load(sums_ptr + n_positive - 1 + above_too, mask=mask & (above_too > 0), other=0.0)
                # A sum beyond the largest number is taken of halves.
                fits = true + false < float("inf")
                precision = tl.where(fits, true, 0.5 * true) / tl.where(fits, true + false, 0.5 * true + 0.5 * false)
                total += tl.sum(tl.where(mask, weight / whole * precision, 0.0), axis=0)
            value = tl.minimum(total, 1.0)
    return value


@triton.jit
def _sum_weights(order_ptr, weight_ptr, sums_ptr, first, end, BLOCK: tl.constexpr):
    """Prefix sums of the weights at places ``first <= place < end``; 1 if one of them is no weight, else 0."""
    wrong = 0
    above = tl.full([], 0.0, tl.float64)
    for base in range(first, end, BLOCK):
        place = base + tl.arange(0, BLOCK)
        mask = place < end
        item = tl.load(order_ptr + place, mask=mask, other=0)
        weight = tl.load(weight_ptr + item, mask=mask, other=0.0)
        right = (weight >= 0.0) & (weight < float("inf"))
        wrong = tl.maximum(wrong, tl.max((right == 0).to(tl.int32), axis=0))
        weight = tl.where(right, weight, 0.0)
        tl.store(sums_ptr + place, above + tl.cumsum(weight, axis=0), mask=mask)
        above += tl.sum(weight, axis=0)
    return wrong

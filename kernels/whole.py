"""A ranking that lies sorted and split by class, by one program: choices, value, and back to the items."""

import triton
import triton.language as tl

from .gaps import cut_gaps, restore_scores, span_flags, value_by_score
from .keys import FAR, is_solvable, takes_part, value_unsolved
from .outcome import ranking_value, result_at, row_sums, summed
from .resolve import solve_ranking
from .terms import task_scale


@triton.jit
def finish_ranking(
    scores_ptr, v_ptr, order_ptr, s_ptr,
    out_ptr, value_ptr, takes_part_ptr,
    rows_ptr, sums_ptr,
    ranking, n_items, stride_sn, plane, n_positive, n_negative, flags, centre, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, METHOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The value of a ranking, and the gradient, or for LOSS "ranking" the ranks, at its items.

    v_ptr, s_ptr: (n_items,) float64, scores and prefix sums of the negatives. order_ptr: the same in int32, the item at
    each place, which is where it stands in ``scores_ptr``, ``stride_sn`` apart, and in ``out_ptr``; that is not written
    for LOSS "ap".
    value_ptr: (rankings,) float32 or float64. takes_part_ptr: (rankings,) int8, not written for LOSS "ap" and
    "ranking".
    rows_ptr: (6, n_items) int32, sums_ptr: (2, n_items) float64, ``plane`` apart: scratch, one number a row; of no use
    to LOSS "ap".
    """
    if LOSS != "ap":
        if is_solvable(n_positive, n_negative, flags, LOSS):
            flags |= span_flags(v_ptr, n_positive, n_negative, epsilon_bits)
    active = is_solvable(n_positive, n_negative, flags, LOSS)
    value = value_unsolved(n_positive, n_negative, flags, LOSS)
    choice_ptr = rows_ptr
    before_ptr = sums_ptr
    if active:
        task = task_scale(epsilon_bits, n_negative, SIGN)
        n_ptr = v_ptr + n_positive - 1
        # S[0] = 0 stands at the last positive.
        s_ptr += n_positive - 1
        # No row uses the number after the last, and nothing is to stay in a register meanwhile.
        by_score_ptr = sums_ptr + plane + n_positive
        if LOSS != "ap" and LOSS != "perceptron":
            if (flags & FAR) != 0:
                by_score = value_by_score(v_ptr, n_ptr, s_ptr, n_positive, n_negative, centre, LOSS, BLOCK)
                centre = cut_gaps(
                    v_ptr, s_ptr, rows_ptr, sums_ptr, sums_ptr + plane,
                    n_positive, n_negative, epsilon_bits,
                    BLOCK,
                )  # fmt: skip
                tl.store(by_score_ptr, by_score)
        if LOSS != "ap":
            solve_ranking(
                v_ptr, n_ptr, s_ptr,
                choice_ptr, rows_ptr + plane, rows_ptr + 2 * plane, rows_ptr + 3 * plane,
                rows_ptr + 4 * plane, rows_ptr + 5 * plane, sums_ptr, sums_ptr + plane,
                n_positive, n_negative, centre, task,
                SIGN, METHOD, BLOCK, ROWS, PIECES, COLUMNS,
            )  # fmt: skip
            tl.debug_barrier()
        score_sum = tl.full([], 0.0, tl.float64)
        task_sum = tl.full([], 0.0, tl.float64)
        last_sum = tl.full([], 0.0, tl.float64)
        above = tl.full([], 0.0, tl.float64)
        for base in range(0, summed(n_positive, n_negative, LOSS), BLOCK):
            row = base + tl.arange(0, BLOCK)
            score_part, task_part = row_sums(
                v_ptr, n_ptr, s_ptr, choice_ptr, row, n_positive, n_negative, centre, flags, LOSS, BLOCK
            )
            score_sum += score_part
            task_sum += task_part
            if LOSS != "ap" and LOSS != "ranking":
                choice = tl.load(choice_ptr + row, mask=row < n_positive, other=0).to(tl.float64)
                through = above + tl.cumsum(choice, axis=0)
                tl.store(before_ptr + row, through - choice, mask=row < n_positive)
                above += tl.sum(choice, axis=0)
        if LOSS != "ap" and LOSS != "ranking":
            tl.store(before_ptr + n_positive, above)
        by_score = tl.full([], 0.0, tl.float64)
        if LOSS != "ap" and LOSS != "perceptron":
            is_far = (flags & FAR) != 0
            by_score = tl.load(by_score_ptr, mask=is_far, other=0.0)
            if LOSS == "ranking":
                last_sum = tl.load(s_ptr + n_negative, mask=is_far == 0, other=0.0)
        value = ranking_value(score_sum, task_sum, last_sum, by_score, epsilon_bits, n_positive, n_negative, LOSS, SIGN)
        tl.debug_barrier()
        if LOSS == "direct" or LOSS == "hinge":
            if (flags & FAR) != 0:
                for base in range(0, n_items, BLOCK_W):
                    restore_scores(v_ptr, scores_ptr, order_ptr, stride_sn, base + tl.arange(0, BLOCK_W), n_items)
                tl.debug_barrier()
    tl.store(value_ptr + ranking, value)
    if LOSS != "ap" and LOSS != "ranking":
        tl.store(takes_part_ptr + ranking, takes_part(n_positive, n_negative, flags).to(tl.int8))

    if LOSS != "ap":
        for base in range(0, n_items, BLOCK_W):
            o_place = base + tl.arange(0, BLOCK_W)
            m_place = o_place < n_items
            o_item = tl.load(order_ptr + o_place, mask=m_place, other=0)
            result = result_at(
                v_ptr, choice_ptr, before_ptr,
                o_place, n_positive, n_negative, flags, value, active, epsilon_bits,
                LOSS, SIGN,
            )  # fmt: skip
            tl.store(out_ptr + o_item, result.to(out_ptr.dtype.element_ty), mask=m_place)

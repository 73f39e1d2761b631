"""Short rankings whole: one launch does everything, one program a ranking, with the row sorted in registers.

No number is specialised on: a variant takes up to 20 s to compile, and vector loads of the row would gain nothing.
"""

import triton
import triton.language as tl

from .certify import settle
from .output import ranking_value, result_at, row_sums, summed, takes_part, value_by_score, value_unsolved
from .pool import begin_levels, copy, find_last, mark, pool
from .program import solve_all
from .search import search_rows
from .sort import FAR, IGNORED, NEGATIVE, POSITIVE, class_of, flags_of, key_of, ranking_start, score_of
from .split import cut_gaps, is_solvable, restore_scores, span_flags
from .terms import task_scale

# A sort key: class, score (32 bits), index. All differ, so the sort is stable.
_INDEX_BITS = tl.constexpr(13)
_INDEX_MASK = tl.constexpr((1 << 13) - 1)
_PADDING = tl.constexpr(3)
_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit(
    do_not_specialize=[
        "n_items",
        "n_inner",
        "plane",
        "stride_so",
        "stride_si",
        "stride_sn",
        "stride_to",
        "stride_ti",
        "stride_tn",
        "ignore_index",
        "epsilon_bits",
    ]
)
def short_rankings(
    scores_ptr, targets_ptr,
    out_ptr, value_ptr, takes_part_ptr,
    v_ptr, order_ptr, s_ptr, rows_ptr, sums_ptr,
    n_items, n_inner, plane,
    stride_so, stride_si, stride_sn, stride_to, stride_ti, stride_tn,
    ignore_index, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, METHOD: tl.constexpr, HAS_IGNORE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Value and gradient of a whole ranking, or its metric.

    One program owns one ranking, in all arrays. Rankings are numbered along two axes, (outer, inner).

    scores_ptr, targets_ptr: (outer, inner, n_items), any strides; scores of at most 32 bits.
    out_ptr: (rankings, n_items) float32, the gradient; not written for LOSS "ap".
    value_ptr: (rankings,) float32 or float64. takes_part_ptr: (rankings,) int8.
    v_ptr, s_ptr: (rankings, n_items) float64, order_ptr: the same in int32: scratch.
    rows_ptr: (6, rankings, n_items) int32, with SIGN 0, the symmetric update, 7 planes of them, sums_ptr: (2, rankings,
    n_items) float64: scratch, one number a row.
    plane: rankings * n_items, int64.
    """
    plane = plane.to(tl.int64)
    ranking = tl.program_id(0).to(tl.int64)
    start = ranking * n_items
    v_ptr += start
    order_ptr += start
    s_ptr += start
    out_ptr += start

    item = tl.arange(0, BLOCK_N)
    mask = item < n_items
    score_start = ranking_start(ranking, n_inner, stride_so, stride_si)
    target_start = ranking_start(ranking, n_inner, stride_to, stride_ti)
    score = tl.load(scores_ptr + score_start + item.to(tl.int64) * stride_sn, mask=mask, other=0.0).to(tl.float32)
    target = tl.load(targets_ptr + target_start + item.to(tl.int64) * stride_tn, mask=mask, other=0)
    group, wrong = class_of(target, ignore_index, mask, HAS_IGNORE)
    flags = flags_of(score, group != IGNORED, wrong)
    n_positive = tl.sum((group == POSITIVE).to(tl.int32), axis=0)
    n_negative = tl.sum((group == NEGATIVE).to(tl.int32), axis=0)

    group = tl.where(mask, group, _PADDING)
    key = key_of(score).to(tl.int64) + 0x80000000
    packed = tl.sort((((group.to(tl.int64) << 32) | key) << _INDEX_BITS) | item)
    place = item
    tl.store(order_ptr + place, (packed & _INDEX_MASK).to(tl.int32), mask=mask)
    score = score_of((((packed >> _INDEX_BITS) & 0xFFFFFFFF) - 0x80000000).to(tl.int32))
    score = score.to(tl.float64)
    tl.store(v_ptr + place, score, mask=mask)
    # F sees differences of scores only. Counted from the middle positive, the sums of the negatives around the
    # positives keep their digits, whatever the offset of all scores, and however far below many negatives lie.
    centre = tl.sum(tl.where(place == n_positive // 2, score, 0.0), axis=0)
    is_negative = (place >= n_positive) & (place < n_positive + n_negative)
    sums = tl.cumsum(tl.where(is_negative, score - centre, 0.0), axis=0)
    tl.store(s_ptr + place, sums, mask=mask)
    tl.debug_barrier()

    finish_ranking(
        scores_ptr + score_start, v_ptr, order_ptr, s_ptr,
        out_ptr, value_ptr, takes_part_ptr,
        rows_ptr + start, sums_ptr + start,
        ranking, n_items, stride_sn, plane, n_positive, n_negative, flags, centre, epsilon_bits,
        LOSS, SIGN, METHOD, BLOCK, ROWS, PIECES, COLUMNS, BLOCK_W,
    )  # fmt: skip


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
    rows_ptr: (6, n_items) int32, with SIGN 0 (7, n_items), sums_ptr: (2, n_items) float64, ``plane`` apart: scratch,
    one number a row; of no use to LOSS "ap".
    """
    if LOSS != "ap":
        if is_solvable(n_positive, n_negative, flags, LOSS):
            flags |= span_flags(v_ptr, n_positive, n_negative, epsilon_bits)
    active = is_solvable(n_positive, n_negative, flags, LOSS)
    value = value_unsolved(n_positive, n_negative, flags, LOSS)
    choice_ptr = rows_ptr
    before_ptr = sums_ptr
    if active:
        FIRST: tl.constexpr = -1 if SIGN < 0 else 1
        task = task_scale(epsilon_bits, n_negative, FIRST)
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
                FIRST, METHOD, BLOCK, ROWS, PIECES, COLUMNS,
            )  # fmt: skip
            tl.debug_barrier()
            if SIGN == 0:
                solve_ranking(
                    v_ptr, n_ptr, s_ptr,
                    rows_ptr + plane, rows_ptr + 2 * plane, rows_ptr + 3 * plane, rows_ptr + 4 * plane,
                    rows_ptr + 5 * plane, rows_ptr + 6 * plane, sums_ptr, sums_ptr + plane,
                    n_positive, n_negative, centre, -task,
                    -1, METHOD, BLOCK, ROWS, PIECES, COLUMNS,
                )  # fmt: skip
                tl.debug_barrier()
        score_sum = tl.full([], 0.0, tl.float64)
        task_sum = tl.full([], 0.0, tl.float64)
        last_sum = tl.full([], 0.0, tl.float64)
        above = tl.full([], 0.0, tl.float64)
        above_second = tl.full([], 0.0, tl.float64)
        for base in range(0, summed(n_positive, n_negative, LOSS), BLOCK):
            row = base + tl.arange(0, BLOCK)
            score_part, task_part = row_sums(
                v_ptr, n_ptr, s_ptr, choice_ptr, choice_ptr + plane,
                row, n_positive, n_negative, centre, flags,
                LOSS, SIGN, BLOCK,
            )  # fmt: skip
            score_sum += score_part
            task_sum += task_part
            if LOSS != "ap" and LOSS != "ranking":
                choice = tl.load(choice_ptr + row, mask=row < n_positive, other=0).to(tl.float64)
                through = above + tl.cumsum(choice, axis=0)
                tl.store(before_ptr + row, through - choice, mask=row < n_positive)
                above += tl.sum(choice, axis=0)
            if SIGN == 0:
                second = tl.load(choice_ptr + plane + row, mask=row < n_positive, other=0).to(tl.float64)
                through = above_second + tl.cumsum(second, axis=0)
                tl.store(before_ptr + plane + row, through - second, mask=row < n_positive)
                above_second += tl.sum(second, axis=0)
        if LOSS != "ap" and LOSS != "ranking":
            tl.store(before_ptr + n_positive, above)
        if SIGN == 0:
            tl.store(before_ptr + plane + n_positive, above_second)
        by_score = tl.full([], 0.0, tl.float64)
        if LOSS != "ap" and LOSS != "perceptron" and SIGN != 0:
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
                v_ptr, choice_ptr, before_ptr, plane,
                o_place, n_positive, n_negative, flags, value, active, epsilon_bits,
                LOSS, SIGN,
            )  # fmt: skip
            tl.store(out_ptr + o_item, result.to(out_ptr.dtype.element_ty), mask=m_place)


@triton.jit
def solve_ranking(
    v_ptr, n_ptr, s_ptr,
    choice_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    n_positive, n_negative, centre, task,
    SIGN: tl.constexpr, METHOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Exact ``argmax F + s epsilon L``: into ``choice`` for every row how many negatives stand above it.

    METHOD "standard" is ``argmax F`` alone, "dp" the dynamic program over all columns, "auto" the search.
    """
    if METHOD == "dp":
        solve_all(
            v_ptr, s_ptr, choice_ptr, last_ptr, low_ptr, high_ptr, x_ptr, y_ptr,
            n_positive, n_negative, centre, task,
            BLOCK, COLUMNS,
        )  # fmt: skip
    elif METHOD == "auto" and SIGN < 0:
        stage = 0
        conflict = 1
        while conflict != 0:
            settle(
                v_ptr, n_ptr, s_ptr,
                choice_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
                0, n_positive, n_negative, centre, task, stage,
                BLOCK, ROWS, PIECES, COLUMNS,
            )  # fmt: skip
            if stage == 1:
                begin_levels(starts_ptr, last_ptr, 0, n_positive, BLOCK)
            anew = (stage == 0).to(tl.int32)
            conflict = mark(choice_ptr, starts_ptr, low_ptr, high_ptr, 0, n_positive, -1, _HIGHEST, anew, BLOCK)
            stage = stage + 1
    else:
        for base in range(0, n_positive, BLOCK):
            search_rows(
                v_ptr, n_ptr, s_ptr, choice_ptr,
                base + tl.arange(0, BLOCK), n_positive, n_negative, centre, task,
                SIGN, METHOD, PIECES,
            )  # fmt: skip
        tl.debug_barrier()
        if METHOD == "auto":
            conflict = mark(choice_ptr, starts_ptr, low_ptr, high_ptr, 0, n_positive, -1, _HIGHEST, 1, BLOCK)
            if conflict != 0:
                find_last(starts_ptr, last_ptr, 0, n_positive, BLOCK)
                pool(
                    v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
                    0, n_positive, n_negative, task,
                    BLOCK,
                )  # fmt: skip
                copy(low_ptr, choice_ptr, 0, n_positive, BLOCK)

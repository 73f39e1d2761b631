"""Short rankings: a launch sorts each in registers and splits it, another one does the rest; one program a ranking.

Two, because the first is compiled for each size and the second for each loss: together they took three times as long
to compile. No number is specialised on: vector loads of the row would gain nothing.
"""

import triton
import triton.language as tl

from .certify import settle
from .output import (
    n_tiles_of,
    ranking_value,
    result_at,
    row_sums,
    summed,
    takes_part,
    tile_of,
    value_by_score,
    value_unsolved,
)
from .pool import begin_levels, copy, find_last, mark, pool
from .program import solve_all
from .scans import add_before
from .search import search_rows
from .sort import (
    FAR,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    apart,
    class_of,
    flags_of,
    key_of,
    neighbours,
    ranking_start,
    sorted_row,
)
from .split import cut_gaps, is_solvable, load_ranking, restore_scores, span_flags
from .terms import task_scale

# A sort key is 31 bits: class and the score's upper half, or its lower half, and then a place, which makes the sort
# stable.
_PLACE_BITS = tl.constexpr(13)
_PLACE_MASK = tl.constexpr((1 << 13) - 1)
_LOWER = tl.constexpr((1 << 16) - 1)
_PADDING = tl.constexpr(3)
_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit(
    do_not_specialize=[
        "n_items",
        "n_inner",
        "stride_so",
        "stride_si",
        "stride_sn",
        "stride_to",
        "stride_ti",
        "stride_tn",
        "ignore_index",
    ]
)
def sort_short(
    scores_ptr, targets_ptr,
    v_ptr, order_ptr, s_ptr, counts_ptr, centre_ptr,
    n_items, n_inner,
    stride_so, stride_si, stride_sn, stride_to, stride_ti, stride_tn,
    ignore_index,
    HAS_IGNORE: tl.constexpr, BLOCK_N: tl.constexpr, PER_THREAD: tl.constexpr,
):  # fmt: skip
    """Positives, then negatives, then ignored items, each by falling score; prefix sums of the negatives.

    One program owns one ranking. Rankings are numbered along two axes, (outer, inner).

    Class, score and place are more than 32 bits: they are sorted by the lower half of the score, then by class and
    upper half, which keeps the order of what is equal. Two sorts of 32 bits take 298 instructions an item where one of
    64 takes 489 (sm_90, 1,024 items, one warp), half of the registers, and a third of the cycles.

    scores_ptr, targets_ptr: (outer, inner, n_items), any strides; scores of at most 32 bits.
    v_ptr, s_ptr: (rankings, n_items) float64, scores and sums of the negatives up to a place, 0 at positives.
    order_ptr: the same in int32, the item at each place.
    counts_ptr: (rankings, 4) int32: positives, negatives, flags, nothing. centre_ptr: (rankings,) float64, from where
    sums count.
    """
    ranking = tl.program_id(0).to(tl.int64)
    v_ptr += ranking * n_items
    order_ptr += ranking * n_items
    s_ptr += ranking * n_items

    place = tl.arange(0, BLOCK_N)
    mask = place < n_items
    score_start = ranking_start(ranking, n_inner, stride_so, stride_si)
    target_start = ranking_start(ranking, n_inner, stride_to, stride_ti)
    scores_ptr += score_start
    score = tl.load(scores_ptr + place.to(tl.int64) * stride_sn, mask=mask, other=0.0).to(tl.float32)
    target = tl.load(targets_ptr + target_start + place.to(tl.int64) * stride_tn, mask=mask, other=0)
    group, wrong = class_of(target, ignore_index, mask, HAS_IGNORE)
    flags = flags_of(score, group != IGNORED, wrong)
    # Both numbers fit into one.
    counts = tl.sum(tl.where(group == POSITIVE, 1, tl.where(group == NEGATIVE, 1 << 16, 0)), axis=0)
    n_positive = counts & _LOWER
    n_negative = counts >> 16

    key = key_of(score)
    upper = (tl.where(mask, group, _PADDING) << 16) | ((key >> 16) + 0x8000)
    lower = tl.where(mask, key & _LOWER, _LOWER)
    # Until scores and items come, their memory serves to look up what stands at a place. In 64 bits: pairs of smaller
    # ones would be stored together, and a thread's items stand otherwise than the sort wants them.
    upper_ptr = v_ptr.to(tl.pointer_type(tl.int64), bitcast=True)
    tl.store(upper_ptr + place, upper.to(tl.int64), mask=mask)
    first = sorted_row((lower << _PLACE_BITS) | place, PER_THREAD) & _PLACE_MASK
    tl.store(order_ptr + place, first, mask=mask)
    tl.debug_barrier()
    # As a load has its items, so that none moves.
    o_place = apart(place, PER_THREAD)
    m_place = o_place < n_items
    upper = tl.load(upper_ptr + apart(first, PER_THREAD), mask=m_place, other=_PADDING << 16).to(tl.int32)
    second = sorted_row((upper << _PLACE_BITS) | o_place, PER_THREAD) & _PLACE_MASK
    item = tl.load(order_ptr + apart(second, PER_THREAD), mask=m_place, other=0)
    score = tl.load(scores_ptr + item.to(tl.int64) * stride_sn, mask=m_place, other=0.0).to(tl.float32)
    # 0.0 for -0.0.
    score += 0.0
    tl.debug_barrier()
    tl.store(v_ptr + place, neighbours(score, PER_THREAD).to(tl.float64), mask=mask)
    tl.store(order_ptr + place, neighbours(item, PER_THREAD), mask=mask)
    # F sees differences of scores only. Counted from the middle positive, the sums of the negatives around the
    # positives keep their digits, whatever the offset of all scores, and however far below many negatives lie.
    middle = tl.where(o_place == n_positive // 2, score.to(tl.int32, bitcast=True), 0)
    centre = tl.sum(middle, axis=0).to(tl.float32, bitcast=True).to(tl.float64)
    is_negative = (o_place >= n_positive) & (o_place < n_positive + n_negative)
    gap = tl.where(is_negative, score.to(tl.float64) - centre, 0.0)
    # (PER_THREAD, threads): a thread's items are neighbours.
    gap = tl.reshape(gap, (PER_THREAD, BLOCK_N // PER_THREAD))
    of_thread = tl.sum(gap, axis=0)
    _, before = tl.associative_scan((of_thread, tl.zeros_like(of_thread)), 0, add_before)
    sums = tl.reshape(before[None, :] + tl.cumsum(gap, axis=0), (BLOCK_N,))
    tl.store(s_ptr + place, neighbours(sums, PER_THREAD), mask=mask)
    tl.store(counts_ptr + 4 * ranking, n_positive)
    tl.store(counts_ptr + 4 * ranking + 1, n_negative)
    tl.store(counts_ptr + 4 * ranking + 2, flags)
    tl.store(centre_ptr + ranking, centre)


@triton.jit(do_not_specialize=["n_items", "n_inner", "plane", "stride_so", "stride_si", "stride_sn", "epsilon_bits"])
def solve_short(
    scores_ptr, v_ptr, order_ptr, s_ptr, counts_ptr, centre_ptr,
    out_ptr, value_ptr, takes_part_ptr,
    rows_ptr, sums_ptr,
    n_items, n_inner, plane, stride_so, stride_si, stride_sn, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, METHOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Value and gradient of a whole ranking, or its metric. One program owns one ranking, in all arrays.

    scores_ptr: (outer, inner, n_items), any strides. v_ptr to centre_ptr: as :func:`sort_short` leaves them.
    out_ptr: (rankings, n_items) float32, the gradient; not written for LOSS "ap".
    value_ptr: (rankings,) float32 or float64. takes_part_ptr: (rankings,) int8.
    rows_ptr: (6, rankings, n_items) int32, with SIGN 0, the symmetric update, 7 planes of them, sums_ptr: (2, rankings,
    n_items) float64: scratch, one number a row.
    plane: rankings * n_items, int64.
    """
    ranking = tl.program_id(0).to(tl.int64)
    start = ranking * n_items
    n_positive, n_negative, flags, centre, _ = load_ranking(counts_ptr, centre_ptr, ranking, LOSS)
    finish_ranking(
        scores_ptr + ranking_start(ranking, n_inner, stride_so, stride_si),
        v_ptr + start, order_ptr + start, s_ptr + start,
        out_ptr + start, value_ptr, takes_part_ptr,
        rows_ptr + start, sums_ptr + start,
        ranking, n_items, stride_sn, plane.to(tl.int64), n_positive, n_negative, flags, centre, epsilon_bits,
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
            highest = tl.maximum(tl.load(v_ptr), tl.load(v_ptr + n_positive))
            lowest = tl.load(v_ptr + n_positive - 1)
            last = tl.minimum(lowest, tl.load(v_ptr + n_positive + n_negative - 1))
            flags |= span_flags(highest, lowest, last, n_positive, n_negative, epsilon_bits)
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
        for number in range(0, n_tiles_of(n_positive, n_items, BLOCK_W)):
            first, end = tile_of(number, n_positive, n_items, BLOCK_W)
            o_place = first + tl.arange(0, BLOCK_W)
            m_place = o_place < end
            o_item = tl.load(order_ptr + o_place, mask=m_place, other=0)
            result = result_at(
                v_ptr, choice_ptr, before_ptr, plane,
                first, end, n_positive, n_negative, flags, value, active, epsilon_bits,
                LOSS, SIGN, False, BLOCK_W,
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
                    0, n_positive, task,
                    BLOCK,
                )  # fmt: skip
                copy(low_ptr, choice_ptr, 0, n_positive, BLOCK)

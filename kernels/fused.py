"""Short rows: one launch does everything, with the row sorted in registers.

No number is specialised on: a variant takes up to 20 s to compile, and vector loads of the row would gain nothing.
"""

import triton
import triton.language as tl

from .keys import IGNORED, NEGATIVE, POSITIVE, class_of, flags_of, key_of, ranking_start, score_of
from .whole import finish_ranking

# A sort key: class, score (32 bits), index. All differ, so the sort is stable.
_INDEX_BITS = tl.constexpr(13)
_INDEX_MASK = tl.constexpr((1 << 13) - 1)
_PADDING = tl.constexpr(3)


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
    rows_ptr: (6, rankings, n_items) int32, sums_ptr: (2, rankings, n_items) float64: scratch, one number a row.
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

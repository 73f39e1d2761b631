"""Rankings of different lengths, end to end: keys before the sorts, and all that comes after them in one launch.

Offsets say where rankings begin: ranking ``r`` has the items from ``offsets[r]`` to before ``offsets[r + 1]``. They are
(rankings + 1,) int64, from 0 to n_items, and never fall.

No number is specialised on, as for short rows.
"""

import triton
import triton.language as tl

from .short import finish_ranking
from .sort import IGNORED, NEGATIVE, POSITIVE, class_of, flags_of, key_of
from .split import sum_negatives
from .terms import count_choices_below

# A group: ranking and class, of which there is one more here than elsewhere, so that a ranking knows of wrong targets.
_WRONG_TARGET = tl.constexpr(3)
_CLASS_MASK = tl.constexpr(3)
_FIRST_RANKING = tl.constexpr(-(2**29))


@triton.jit(do_not_specialize=["n_items", "n_targets", "n_rankings", "ignore_index"])
def encode_ragged(
    scores_ptr, targets_ptr, offsets_ptr,
    keys_ptr, groups_ptr,
    n_items, n_targets, n_rankings, ignore_index,
    HAS_IGNORE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sort keys of the items, and the groups that go before them. One program owns BLOCK_N consecutive items.

    scores_ptr: (n_items,). targets_ptr: (n_targets,), which serve the next as many items again. keys_ptr: (n_items,)
    int32, int64 for float64 scores. groups_ptr: (n_items,) int32, which ascend from ranking to ranking and in each from
    class to class.
    """
    item = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    mask = item < n_items
    score = tl.load(scores_ptr + item, mask=mask, other=0.0)
    if score.dtype != tl.float64:
        score = score.to(tl.float32)
    target = tl.load(targets_ptr + item % n_targets, mask=mask, other=0)
    group, wrong = class_of(target, ignore_index, mask, HAS_IGNORE)
    # As many rankings end before the item or with the one before it.
    ranking = count_choices_below(offsets_ptr + 1, n_rankings, item + 1, mask)
    tl.store(keys_ptr + item, key_of(score), mask=mask)
    group = (ranking + _FIRST_RANKING) * 4 + tl.where(wrong, _WRONG_TARGET, group)
    tl.store(groups_ptr + item, group.to(tl.int32), mask=mask)


@triton.jit(do_not_specialize=["n_items", "n_rankings", "epsilon_bits"])
def ragged_rankings(
    scores_ptr, offsets_ptr, groups_ptr, order_ptr,
    out_ptr, value_ptr, takes_part_ptr,
    v_ptr, s_ptr, rows_ptr, sums_ptr,
    n_items, n_rankings, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, METHOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Value and gradient of every ranking, its metric, or for LOSS "ranking" its ranks.

    One program owns a ranking at a time, every num_programs-th, and is done when those left are empty: any number of
    empty rankings at the end costs nothing, and they are not written. A ranking of millions keeps one program busy.

    scores_ptr: (n_items,). groups_ptr: (n_items,) int32, sorted. order_ptr: the same, the item at each place.
    out_ptr: (n_items,) float32 or float64, the gradient; int64 ranks for LOSS "ranking", -1 for ignored items; not
    written for LOSS "ap".
    value_ptr: (n_rankings,) float32 or float64. takes_part_ptr: (n_rankings,) int8, of losses only.
    v_ptr: (n_items,) float64: scratch. s_ptr: the same, rows_ptr: (6, n_items) int32, with SIGN 0 (7, n_items),
    sums_ptr: (2, n_items) float64: scratch, of no use to LOSS "ap".
    """
    plane = n_items.to(tl.int64)
    ranking = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets_ptr + ranking)
    while start < n_items:
        size = (tl.load(offsets_ptr + ranking + 1) - start).to(tl.int32)
        n_positive, n_negative, flags = take_in(
            scores_ptr, groups_ptr + start, order_ptr + start, v_ptr + start, size, BLOCK_W
        )
        # From where sums count: see kernels/short.py.
        centre = tl.load(v_ptr + start + n_positive // 2, mask=n_positive > 0, other=0.0)
        if LOSS != "ap":
            if n_positive > 0:
                sum_negatives(v_ptr + start + n_positive, s_ptr + start + n_positive, n_negative, centre, BLOCK_W)
        finish_ranking(
            scores_ptr, v_ptr + start, order_ptr + start, s_ptr + start,
            out_ptr, value_ptr, takes_part_ptr,
            rows_ptr + start, sums_ptr + start,
            ranking, size, 1, plane, n_positive, n_negative, flags, centre, epsilon_bits,
            LOSS, SIGN, METHOD, BLOCK, ROWS, PIECES, COLUMNS, BLOCK_W,
        )  # fmt: skip
        # Past the last ranking stands the number of items.
        ranking = tl.minimum(ranking + tl.num_programs(0), n_rankings)
        start = tl.load(offsets_ptr + ranking)


@triton.jit
def take_in(scores_ptr, groups_ptr, order_ptr, v_ptr, size, BLOCK_W: tl.constexpr):
    """The scores of a ranking into ``v``; how many of its items are of either class, and the flags."""
    positives = tl.zeros([BLOCK_W], tl.int32)
    negatives = tl.zeros([BLOCK_W], tl.int32)
    flags = 0
    for base in range(0, size, BLOCK_W):
        place = base + tl.arange(0, BLOCK_W)
        mask = place < size
        group = tl.load(groups_ptr + place, mask=mask, other=IGNORED) & _CLASS_MASK
        item = tl.load(order_ptr + place, mask=mask, other=0)
        score = tl.load(scores_ptr + item, mask=mask, other=0.0).to(tl.float64)
        tl.store(v_ptr + place, score, mask=mask)
        is_positive = group == POSITIVE
        is_negative = group == NEGATIVE
        positives += is_positive.to(tl.int32)
        negatives += is_negative.to(tl.int32)
        flags |= flags_of(score, is_positive | is_negative, group == _WRONG_TARGET)
    tl.debug_barrier()
    return tl.sum(positives, axis=0), tl.sum(negatives, axis=0), flags

"""Long rows before and after their sort: items to keys, counts, the split by class, prefix sums of the negatives.

Reduce, then scan: a program sums its tile, another adds up the tiles before its own, always in the same order.
"""

import triton
import triton.language as tl

from .keys import IGNORED, NEGATIVE, POSITIVE, class_of, either, flags_of, key_of, ranking_start, score_of


@triton.jit(do_not_specialize=["n_tiles", "ignore_index"])
def encode_items(
    scores_ptr, targets_ptr,
    keys_ptr, classes_ptr, counts_ptr,
    n_items, n_tiles, n_inner,
    stride_so, stride_si, stride_sn, stride_to, stride_ti, stride_tn,
    ignore_index,
    HAS_IGNORE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sort keys and classes of the items, and what each tile holds.

    One program owns BLOCK_N consecutive items of one ranking. Rankings are numbered along two axes, (outer, inner).

    scores_ptr, targets_ptr: (outer, inner, n_items), any strides.
    keys_ptr: (rankings, n_items) int32, int64 for float64 scores. classes_ptr: the same in int8.
    counts_ptr: (rankings, n_tiles, 4) int32: positives, negatives, flags, nothing.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_tiles
    tile = program % n_tiles
    item = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = item < n_items
    score_start = ranking_start(ranking, n_inner, stride_so, stride_si)
    target_start = ranking_start(ranking, n_inner, stride_to, stride_ti)
    score = tl.load(scores_ptr + score_start + item * stride_sn, mask=mask, other=0.0)
    if score.dtype != tl.float64:
        score = score.to(tl.float32)
    target = tl.load(targets_ptr + target_start + item * stride_tn, mask=mask, other=0)
    group, wrong = class_of(target, ignore_index, mask, HAS_IGNORE)
    flags = flags_of(score, group != IGNORED, wrong)
    key = key_of(score)
    # Ignored items go last, so that the middle of the others is where their number says.
    last = 0x7FFFFFFFFFFFFFFF if key.dtype == tl.int64 else 0x7FFFFFFF
    key = tl.where(group == IGNORED, last, key)
    tl.store(keys_ptr + ranking * n_items + item, key, mask=mask)
    tl.store(classes_ptr + ranking * n_items + item, group.to(tl.int8), mask=mask)
    counts_ptr += 4 * program
    tl.store(counts_ptr, tl.sum((group == POSITIVE).to(tl.int32), axis=0))
    tl.store(counts_ptr + 1, tl.sum((group == NEGATIVE).to(tl.int32), axis=0))
    tl.store(counts_ptr + 2, flags)


@triton.jit(do_not_specialize=["n_tiles"])
def count_classes(
    tile_counts_ptr,
    counts_ptr,
    n_tiles,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The tiles of each ranking together. One program owns one ranking.

    tile_counts_ptr: (rankings, n_tiles, 4) int32. counts_ptr: (rankings, 4) int32.
    """
    ranking = tl.program_id(0).to(tl.int64)
    tile_counts_ptr += ranking * n_tiles * 4
    positives = tl.zeros([BLOCK_T], tl.int32)
    negatives = tl.zeros([BLOCK_T], tl.int32)
    flags = tl.zeros([BLOCK_T], tl.int32)
    for base in range(0, n_tiles, BLOCK_T):
        tile = base + tl.arange(0, BLOCK_T)
        mask = tile < n_tiles
        positives += tl.load(tile_counts_ptr + tile * 4, mask=mask, other=0)
        negatives += tl.load(tile_counts_ptr + tile * 4 + 1, mask=mask, other=0)
        flags |= tl.load(tile_counts_ptr + tile * 4 + 2, mask=mask, other=0)
    counts_ptr += ranking * 4
    tl.store(counts_ptr, tl.sum(positives, axis=0))
    tl.store(counts_ptr + 1, tl.sum(negatives, axis=0))
    tl.store(counts_ptr + 2, tl.reduce(flags, 0, either))


@triton.jit(do_not_specialize=["n_tiles"])
def sum_tiles(
    keys_ptr, index_ptr, classes_ptr, counts_ptr,
    tile_counts_ptr, tile_sums_ptr, centre_ptr,
    n_items, n_tiles,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """How many of each class a tile of the sorted order holds, and the sum of its negatives, less the centre.

    One program owns BLOCK_N consecutive places in the sorted order of one ranking.

    keys_ptr: (rankings, n_items) sorted keys. index_ptr: the same in int32, the item at each place.
    classes_ptr: (rankings, n_items) int8, by item. counts_ptr: (rankings, 4) int32.
    tile_counts_ptr: (rankings, n_tiles, 2) int32. tile_sums_ptr: (rankings, n_tiles) float64.
    centre_ptr: (rankings,) float64, from where sums count: F sees differences of scores only. The score as many places
    from the top as half the positives are: however far below many negatives lie, the others keep their digits.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_tiles
    place = (program % n_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    centre = _centre(keys_ptr, counts_ptr, ranking, n_items)
    _, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
    tl.store(tile_counts_ptr + 2 * program, tl.sum(is_positive.to(tl.int32), axis=0))
    tl.store(tile_counts_ptr + 2 * program + 1, tl.sum(is_negative.to(tl.int32), axis=0))
    tl.store(tile_sums_ptr + program, tl.sum(tl.where(is_negative, score.to(tl.float64) - centre, 0.0), axis=0))
    tl.store(centre_ptr + ranking, centre, mask=program % n_tiles == 0)


@triton.jit(do_not_specialize=["n_tiles"])
def split_classes(
    keys_ptr, index_ptr, classes_ptr, counts_ptr, tile_counts_ptr, tile_sums_ptr,
    v_ptr, order_ptr, s_ptr,
    n_items, n_tiles,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Positives, then negatives, then ignored items, each in the order they come in; prefix sums of the negatives.

    One program owns BLOCK_N consecutive places in the sorted order of one ranking. Inputs are as in :func:`sum_tiles`.

    v_ptr: (rankings, n_items) float64 scores. order_ptr: the same in int32, the item at each place. s_ptr: the same in
    float64: sum of the negatives up to a place, 0 at positives; not written where items are ignored.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_tiles
    tile = program % n_tiles
    place = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    centre = _centre(keys_ptr, counts_ptr, ranking, n_items)
    item, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
    mask = place < n_items

    tile_counts_ptr += ranking * n_tiles * 2
    tile_sums_ptr += ranking * n_tiles
    positives = tl.zeros([BLOCK_T], tl.int32)
    negatives = tl.zeros([BLOCK_T], tl.int32)
    sums = tl.zeros([BLOCK_T], tl.float64)
    for base in range(0, tile.to(tl.int32), BLOCK_T):
        before = base + tl.arange(0, BLOCK_T)
        earlier = before < tile
        positives += tl.load(tile_counts_ptr + before * 2, mask=earlier, other=0)
        negatives += tl.load(tile_counts_ptr + before * 2 + 1, mask=earlier, other=0)
        sums += tl.load(tile_sums_ptr + before, mask=earlier, other=0.0)
    n_positive = tl.load(counts_ptr + ranking * 4)
    n_negative = tl.load(counts_ptr + ranking * 4 + 1)
    positives = tl.sum(positives, axis=0) + tl.cumsum(is_positive.to(tl.int32), axis=0)
    negatives = tl.sum(negatives, axis=0) + tl.cumsum(is_negative.to(tl.int32), axis=0)
    sums = tl.sum(sums, axis=0) + tl.cumsum(tl.where(is_negative, score.to(tl.float64) - centre, 0.0), axis=0)
    ignored = place.to(tl.int32) - positives - negatives
    to = tl.where(is_negative, n_positive + negatives - 1, n_positive + n_negative + ignored)
    to = ranking * n_items + tl.where(is_positive, positives - 1, to)
    tl.store(v_ptr + to, score.to(tl.float64), mask=mask)
    tl.store(order_ptr + to, item, mask=mask)
    tl.store(s_ptr + to, tl.where(is_negative, sums, 0.0), mask=is_positive | is_negative)


@triton.jit
def _centre(keys_ptr, counts_ptr, ranking, n_items):
    n_positive = tl.load(counts_ptr + ranking * 4)
    return score_of(tl.load(keys_ptr + ranking * n_items + n_positive // 2)).to(tl.float64)


@triton.jit
def _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items):
    mask = place < n_items
    item = tl.load(index_ptr + ranking * n_items + place, mask=mask, other=0)
    group = tl.load(classes_ptr + ranking * n_items + item, mask=mask, other=IGNORED)
    score = score_of(tl.load(keys_ptr + ranking * n_items + place, mask=mask, other=0))
    return item, score, mask & (group == POSITIVE), mask & (group == NEGATIVE)

"""A sorted ranking by class: positives, negatives, ignored items, the prefix sums of the negatives, and cut gaps.

Of long rows reduce, then scan: a program sums its span, another adds up the spans before its own, in the same order.
As many programs as keep a GPU busy share the places: each with a tile alone, at 10,100,000 items they had 19,700 sums
to add up, and took 977 us for it all.

Scores that span so many epsilons that their sums have lost what is small against one have their gaps cut. AP does not
pay a row for one negative more or less above it at a gap of ``w = epsilon N / 2`` or more, so that no larger gap
between neighbouring scores, of whatever class, is ever crossed, and one of ``2 w`` does as well: the same optimum, in
sums that keep their digits. A ranking is solved on these *near* scores, which stand where its scores did; what depends
on which scores are equal waits until those are back. Names as in :mod:`kernels.terms`.
"""

import triton
import triton.language as tl

from .scans import running_max
from .sort import (
    FAR,
    IGNORED,
    NAN,
    NEGATIVE,
    NOT_FINITE,
    POSITIVE,
    WRONG,
    either,
    score_of,
)
from .terms import count_above_in

# Sums of scores that span so many epsilons have lost what is small against one.
_FAR_SPAN = tl.constexpr(2.0**20)


@triton.jit
def _count_classes(tile_counts_ptr, n_tiles, BLOCK_T: tl.constexpr):
    """Positives, negatives and flags of the tiles of a ranking together."""
    positives = tl.zeros([BLOCK_T], tl.int32)
    negatives = tl.zeros([BLOCK_T], tl.int32)
    flags = tl.zeros([BLOCK_T], tl.int32)
    for base in range(0, n_tiles, BLOCK_T):
        tile = base + tl.arange(0, BLOCK_T)
        mask = tile < n_tiles
        positives += tl.load(tile_counts_ptr + tile * 4, mask=mask, other=0)
        negatives += tl.load(tile_counts_ptr + tile * 4 + 1, mask=mask, other=0)
        flags |= tl.load(tile_counts_ptr + tile * 4 + 2, mask=mask, other=0)
    return tl.sum(positives, axis=0), tl.sum(negatives, axis=0), tl.reduce(flags, 0, either)


@triton.jit(do_not_specialize=["n_tiles", "n_spans", "span"])
def sum_spans(
    keys_ptr, index_ptr, classes_ptr, tile_counts_ptr,
    counts_ptr, span_counts_ptr, span_sums_ptr, centre_ptr,
    n_items, n_tiles, n_spans, span,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """How many of each class rankings hold, and spans of their sorted order; sums of negatives, less the centre.

    One program owns a span: ``span`` tiles of BLOCK_N consecutive places in the sorted order of one ranking.

    keys_ptr: (rankings, n_items) sorted keys. index_ptr: the same in int64, the item at each place.
    classes_ptr: (rankings, n_items) int8, by item. tile_counts_ptr: (rankings, n_tiles, 4) int32.
    counts_ptr: (rankings, 4) int32: positives, negatives, flags, nothing.
    span_counts_ptr: (rankings, n_spans, 2) int32. span_sums_ptr: (rankings, n_spans) float64.
    centre_ptr: (rankings,) float64, from where sums count: F sees differences of scores only. The score as many places
    from the top as half the positives are: however far below many negatives lie, the others keep their digits.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_spans
    place = (program % n_spans) * span * BLOCK_N + tl.arange(0, BLOCK_N)
    n_positive, n_negative, flags = _count_classes(tile_counts_ptr + ranking * n_tiles * 4, n_tiles, BLOCK_T)
    centre = _centre(keys_ptr, n_positive, ranking, n_items)
    positives = tl.zeros([BLOCK_N], tl.int32)
    negatives = tl.zeros([BLOCK_N], tl.int32)
    sums = tl.zeros([BLOCK_N], tl.float64)
    for _ in range(0, span):
        _, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
        positives += is_positive.to(tl.int32)
        negatives += is_negative.to(tl.int32)
        sums += tl.where(is_negative, score.to(tl.float64) - centre, 0.0)
        place += BLOCK_N
    tl.store(span_counts_ptr + 2 * program, tl.sum(positives, axis=0))
    tl.store(span_counts_ptr + 2 * program + 1, tl.sum(negatives, axis=0))
    tl.store(span_sums_ptr + program, tl.sum(sums, axis=0))
    if program % n_spans == 0:
        tl.store(centre_ptr + ranking, centre)
        tl.store(counts_ptr + ranking * 4, n_positive)
        tl.store(counts_ptr + ranking * 4 + 1, n_negative)
        tl.store(counts_ptr + ranking * 4 + 2, flags)


@triton.jit(do_not_specialize=["n_spans", "span"])
def split_classes(
    keys_ptr, index_ptr, classes_ptr, counts_ptr, span_counts_ptr, span_sums_ptr,
    v_ptr, order_ptr, s_ptr,
    n_items, n_spans, span,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Positives, then negatives, then ignored items, each in the order they come in; prefix sums of the negatives.

    One program owns a span. Inputs are as in :func:`sum_spans`.

    v_ptr: (rankings, n_items) float64 scores. order_ptr: the same in int32, the item at each place. s_ptr: the same in
    float64: sum of the negatives up to a place, 0 at positives; not written where items are ignored.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_spans
    number = (program % n_spans).to(tl.int32)
    place = (program % n_spans) * span * BLOCK_N + tl.arange(0, BLOCK_N)
    n_positive = tl.load(counts_ptr + ranking * 4)
    n_negative = tl.load(counts_ptr + ranking * 4 + 1)
    centre = _centre(keys_ptr, n_positive, ranking, n_items)

    span_counts_ptr += ranking * n_spans * 2
    span_sums_ptr += ranking * n_spans
    positives_of = tl.zeros([BLOCK_T], tl.int32)
    negatives_of = tl.zeros([BLOCK_T], tl.int32)
    sums_of = tl.zeros([BLOCK_T], tl.float64)
    for base in range(0, number, BLOCK_T):
        before = base + tl.arange(0, BLOCK_T)
        earlier = before < number
        positives_of += tl.load(span_counts_ptr + before * 2, mask=earlier, other=0)
        negatives_of += tl.load(span_counts_ptr + before * 2 + 1, mask=earlier, other=0)
        sums_of += tl.load(span_sums_ptr + before, mask=earlier, other=0.0)
    positives_before = tl.sum(positives_of, axis=0)
    negatives_before = tl.sum(negatives_of, axis=0)
    sum_before = tl.sum(sums_of, axis=0)
    for _ in range(0, span):
        item, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
        # Both numbers of a tile fit into one.
        both = tl.where(is_positive, 1, tl.where(is_negative, 1 << 16, 0))
        through = tl.cumsum(both, axis=0)
        positives = positives_before + (through & 0xFFFF)
        negatives = negatives_before + (through >> 16)
        gap = tl.where(is_negative, score.to(tl.float64) - centre, 0.0)
        sums = sum_before + tl.cumsum(gap, axis=0)
        ignored = place.to(tl.int32) - positives - negatives
        to = tl.where(is_negative, n_positive + negatives - 1, n_positive + n_negative + ignored)
        to = ranking * n_items + tl.where(is_positive, positives - 1, to)
        mask = place < n_items
        tl.store(v_ptr + to, score.to(tl.float64), mask=mask)
        tl.store(order_ptr + to, item, mask=mask)
        tl.store(s_ptr + to, tl.where(is_negative, sums, 0.0), mask=is_positive | is_negative)
        total = tl.sum(both, axis=0)
        positives_before += total & 0xFFFF
        negatives_before += total >> 16
        sum_before += tl.sum(gap, axis=0)
        place += BLOCK_N


@triton.jit
def _centre(keys_ptr, n_positive, ranking, n_items):
    return score_of(tl.load(keys_ptr + ranking * n_items + n_positive // 2)).to(tl.float64)


@triton.jit
def _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items):
    mask = place < n_items
    item = tl.load(index_ptr + ranking * n_items + place, mask=mask, other=0).to(tl.int32)
    group = tl.load(classes_ptr + ranking * n_items + item, mask=mask, other=IGNORED)
    score = score_of(tl.load(keys_ptr + ranking * n_items + place, mask=mask, other=0))
    return item, score, mask & (group == POSITIVE), mask & (group == NEGATIVE)


@triton.jit
def load_ranking(counts_ptr, centre_ptr, ranking, LOSS: tl.constexpr):
    """Positives, negatives, flags and centre of a ranking, and whether there is anything to solve.

    A ranking without negatives has a metric, and there a score may be infinite.
    """
    n_positive = tl.load(counts_ptr + ranking * 4)
    n_negative = tl.load(counts_ptr + ranking * 4 + 1)
    flags = tl.load(counts_ptr + ranking * 4 + 2)
    centre = tl.load(centre_ptr + ranking)
    return n_positive, n_negative, flags, centre, is_solvable(n_positive, n_negative, flags, LOSS)


@triton.jit
def is_solvable(n_positive, n_negative, flags, LOSS: tl.constexpr):
    """Whether there is a ranking problem, with numbers to solve it."""
    if LOSS == "ap":
        solvable = (n_positive > 0) & ((flags & (WRONG | NAN)) == 0)
    else:
        solvable = (n_positive > 0) & (n_negative > 0) & ((flags & (WRONG | NOT_FINITE)) == 0)
    return solvable


@triton.jit
def sum_negatives(n_ptr, s_ptr, n_negative, centre, BLOCK: tl.constexpr):
    """``S`` by one program; here ``n_ptr`` and ``s_ptr`` are the places of the first negative and of ``S[1]``."""
    above = tl.full([], 0.0, tl.float64)
    tl.store(s_ptr - 1, above)
    for base in range(0, n_negative, BLOCK):
        number = base + tl.arange(0, BLOCK)
        mask = number < n_negative
        gap = tl.where(mask, tl.load(n_ptr + number, mask=mask, other=0.0) - centre, 0.0)
        tl.store(s_ptr + number, above + tl.cumsum(gap, axis=0), mask=mask)
        above += tl.sum(gap, axis=0)
    tl.debug_barrier()


@triton.jit
def span_flags(v_ptr, n_positive, n_negative, epsilon_bits):
    """Whether gaps are to be cut, and whether a sum over all pairs, of gaps or of what AP pays, may overflow."""
    epsilon = epsilon_bits.to(tl.float64, bitcast=True)
    negatives = n_negative.to(tl.float64)
    pairs = n_positive.to(tl.float64) * negatives
    lowest = tl.load(v_ptr + n_positive - 1)
    highest = tl.maximum(tl.load(v_ptr), tl.load(v_ptr + n_positive))
    last = tl.minimum(lowest, tl.load(v_ptr + n_positive + n_negative - 1))
    span = highest - lowest
    is_far = (span > epsilon * _FAR_SPAN) & (span > epsilon * negatives)
    can_sum = (16.0 * pairs * (highest - last) < float("inf")) & (8.0 * pairs * epsilon < float("inf"))
    return tl.where(is_far, FAR, 0) + tl.where(can_sum, 0, NOT_FINITE)


@triton.jit
def cut_gaps(
    v_ptr, s_ptr, first_ptr, sorted_ptr, near_ptr,
    n_positive, n_negative, epsilon_bits,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Near scores in place of the scores and their sums in place of the sums; from where these count.

    first_ptr (int32), sorted_ptr, near_ptr (float64): scratch, one number an item.
    """
    lane = tl.arange(0, BLOCK)
    n_taken = n_positive + n_negative
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        is_positive = place < n_positive
        score = tl.load(v_ptr + place, mask=mask, other=0.0)
        own_start = tl.where(is_positive, 0, n_positive)
        own = tl.where(is_positive, n_positive, n_negative)
        other_start = tl.where(is_positive, n_positive, 0)
        other = tl.where(is_positive, n_negative, n_positive)
        above = count_above_in(v_ptr, other_start, other, score, mask, False)
        # Of equal scores positives go first. All of them get what the first of them gets, so that they stay equal.
        before = tl.where(is_positive, above, count_above_in(v_ptr, other_start, other, score, mask, True))
        first = above + count_above_in(v_ptr, own_start, own, score, mask, False)
        tl.store(sorted_ptr + (place - own_start) + before, score, mask=mask)
        tl.store(first_ptr + place, first, mask=mask)
    tl.debug_barrier()
    largest = epsilon_bits.to(tl.float64, bitcast=True) * n_negative.to(tl.float64)
    fallen = tl.full([], 0.0, tl.float64)
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        has_gap = mask & (place > 0)
        score = tl.load(sorted_ptr + place, mask=has_gap, other=0.0)
        gap = tl.load(sorted_ptr + place - 1, mask=has_gap, other=0.0) - score
        # Sums of a scan may fall by their rounding, scores must not rise.
        below = tl.maximum(running_max(fallen + tl.cumsum(tl.minimum(gap, largest), axis=0)), fallen)
        tl.store(near_ptr + place, -below, mask=mask)
        fallen = tl.max(below, axis=0)
    tl.debug_barrier()
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        first = tl.load(first_ptr + place, mask=mask, other=0)
        tl.store(v_ptr + place, tl.load(near_ptr + first, mask=mask, other=0.0), mask=mask)
    tl.debug_barrier()
    centre = tl.load(v_ptr + n_positive // 2)
    sum_negatives(v_ptr + n_positive, s_ptr + 1, n_negative, centre, BLOCK)
    return centre


@triton.jit
def cut_sorted_gaps(
    keys_ptr, index_ptr, classes_ptr,
    v_ptr, s_ptr, n_positive, n_negative, epsilon_bits,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """:func:`cut_gaps` where the sorted keys of both classes are at hand, with nothing to look up; ``s_ptr``: S[0].

    16 ns an item became 6 (estimates for an H100).
    """
    largest = epsilon_bits.to(tl.float64, bitcast=True) * n_negative.to(tl.float64)
    # From where sums count: see sum_spans.
    middle = n_positive // 2
    centre = tl.full([], 0.0, tl.float64)
    fallen = tl.full([], 0.0, tl.float64)
    for base in range(0, middle + 1, BLOCK):
        place = base + tl.arange(0, BLOCK)
        near = _near_scores(keys_ptr, place, n_positive + n_negative, largest, fallen)
        fallen = -tl.min(near, axis=0)
        centre += tl.sum(tl.where(place == middle, near, 0.0), axis=0)
    # All threads have read the scores, which near ones replace.
    tl.debug_barrier()
    fallen = tl.full([], 0.0, tl.float64)
    above = tl.full([], 0.0, tl.float64)
    positives = 0
    for base in range(0, n_positive + n_negative, BLOCK):
        place = base + tl.arange(0, BLOCK)
        mask = place < n_positive + n_negative
        near = _near_scores(keys_ptr, place, n_positive + n_negative, largest, fallen)
        fallen = -tl.min(near, axis=0)
        item = tl.load(index_ptr + place, mask=mask, other=0)
        is_positive = mask & (tl.load(classes_ptr + item, mask=mask, other=IGNORED) == POSITIVE)
        is_negative = mask & (is_positive == 0)
        number = tl.cumsum(is_positive.to(tl.int32), axis=0)
        # Of a positive those before it, of a negative all positives and the negatives before it.
        to = tl.where(is_positive, positives + number - 1, n_positive + place - positives - number)
        tl.store(v_ptr + to, near, mask=mask)
        gap = tl.where(is_negative, near - centre, 0.0)
        tl.store(s_ptr + 1 - n_positive + to, above + tl.cumsum(gap, axis=0), mask=is_negative)
        positives += tl.sum(is_positive.to(tl.int32), axis=0)
        above += tl.sum(gap, axis=0)
    tl.debug_barrier()
    return centre


@triton.jit
def _near_scores(keys_ptr, place, n_taken, largest, fallen):
    """Of a tile of places, the near score of the one before the tile being ``-fallen``."""
    has_gap = (place > 0) & (place < n_taken)
    score = score_of(tl.load(keys_ptr + place, mask=has_gap, other=0)).to(tl.float64)
    gap = tl.where(has_gap, score_of(tl.load(keys_ptr + place - 1, mask=has_gap, other=0)).to(tl.float64) - score, 0.0)
    # Sums of a scan may fall by their rounding: scores must not rise, and equal ones must stay equal.
    through = fallen + tl.cumsum(tl.minimum(gap, largest), axis=0)
    return -tl.maximum(running_max(tl.where(gap > 0.0, through, fallen)), fallen)


@triton.jit
def restore_scores(v_ptr, scores_ptr, order_ptr, stride, place, n_items):
    """The scores of a tile of places, from where the user has them."""
    mask = place < n_items
    item = tl.load(order_ptr + place, mask=mask, other=0)
    score = tl.load(scores_ptr + item.to(tl.int64) * stride, mask=mask, other=0.0)
    tl.store(v_ptr + place, score.to(tl.float64), mask=mask)

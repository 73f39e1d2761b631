"""A sorted ranking by class: positives, negatives, ignored items, the prefix sums of the negatives, and cut gaps.

Of long rows reduce, then scan: a program sums its span, another adds up the spans before its own, in the same order.
As many programs as keep a GPU busy share the places: each with a tile alone, at 10,100,000 items they had 19,700 sums
to add up, and took 977 us for it all.

Scores that span so many epsilons that their sums have lost what is small against one have their gaps cut. AP does not
pay a row for one negative more or less above it at a gap of ``w = epsilon N / 2`` or more, so that no larger gap
between neighbouring scores, of whatever class, is ever crossed, and one of ``2 w`` does as well: the same optimum, in
sums that keep their digits. A ranking is solved on these *near* scores, which stand where its scores did; what depends
on which scores are equal waits until those are back. A near score is 0 less all gaps above it, each cut: of long rows,
too, programs reduce, then scan. Names as in :mod:`kernels.terms`.
"""

import triton
import triton.language as tl

from .output import weigh_gaps
from .scans import add_three, fallen_by
from .sort import (
    FAR,
    IGNORED,
    NAN,
    NEGATIVE,
    NOT_FINITE,
    POSITIVE,
    WRONG,
    either,
    last_key,
    one_of,
    score_of,
)
from .terms import count_above_in

# Sums of scores that span so many epsilons have lost what is small against one.
_FAR_SPAN = tl.constexpr(2.0**20)


@triton.jit
def _count_classes(tile_counts_ptr, tile_lowest_ptr, n_tiles, BLOCK_T: tl.constexpr):
    """Positives, negatives and flags of the tiles of a ranking together, and the key of its lowest positive."""
    positives = tl.zeros([BLOCK_T], tl.int32)
    negatives = tl.zeros([BLOCK_T], tl.int32)
    flags = tl.zeros([BLOCK_T], tl.int32)
    first: tl.constexpr = -1 - last_key(tile_lowest_ptr.dtype.element_ty)
    lowest = tl.full([BLOCK_T], first, tile_lowest_ptr.dtype.element_ty)
    for base in range(0, n_tiles, BLOCK_T):
        tile = base + tl.arange(0, BLOCK_T)
        mask = tile < n_tiles
        both = tl.load(tile_counts_ptr + tile * 2, mask=mask, other=0)
        positives += both & 0xFFFF
        negatives += both >> 16
        flags |= tl.load(tile_counts_ptr + tile * 2 + 1, mask=mask, other=0)
        lowest = tl.maximum(lowest, tl.load(tile_lowest_ptr + tile, mask=mask, other=first))
    return tl.sum(positives, axis=0), tl.sum(negatives, axis=0), tl.reduce(flags, 0, either), tl.max(lowest, axis=0)


@triton.jit(do_not_specialize=["n_tiles", "n_spans", "span", "epsilon_bits"])
def sum_spans(
    keys_ptr, index_ptr, classes_ptr, tile_counts_ptr, tile_lowest_ptr,
    counts_ptr, span_counts_ptr, span_sums_ptr, span_falls_ptr, centre_ptr,
    n_items, n_tiles, n_spans, span, epsilon_bits,
    LOSS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """How many of each class rankings hold, and spans of their sorted order; sums of negatives, less the centre.

    One program owns a span: ``span`` tiles of BLOCK_N consecutive places in the sorted order of one ranking.

    keys_ptr: (rankings, n_items) sorted keys. index_ptr: the same in int64, the item at each place.
    classes_ptr: (rankings, n_items) int8, by item. tile_counts_ptr, tile_lowest_ptr: see
    :func:`kernels.sort.encode_items`.
    counts_ptr: (rankings, 4) int32: positives, negatives, flags, nothing.
    span_counts_ptr: (rankings, n_spans, 2) int32. span_sums_ptr: (rankings, n_spans) float64; of rankings that are cut
    sums of near scores, less the one before the span.
    span_falls_ptr: (rankings, n_spans + 1) float64, of rankings that are cut: how far near scores fall to the end of a
    span from the one before it, and at last from there to the place of the centre.
    centre_ptr: (rankings,) float64, from where sums count: F sees differences of scores only. The score as many places
    from the top as half the positives are: however far below many negatives lie, the others keep their digits.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_spans
    place = (program % n_spans) * span * BLOCK_N + tl.arange(0, BLOCK_N)
    n_positive, n_negative, flags, lowest = _count_classes(
        tile_counts_ptr + ranking * n_tiles * 2, tile_lowest_ptr + ranking * n_tiles, n_tiles, BLOCK_T
    )
    middle = n_positive // 2
    centre = _score_at(keys_ptr, ranking, middle, n_items)
    if LOSS != "ap":
        highest = _score_at(keys_ptr, ranking, 0, n_items)
        last = _score_at(keys_ptr, ranking, tl.maximum(n_positive + n_negative - 1, 0), n_items)
        far = span_flags(highest, score_of(lowest).to(tl.float64), last, n_positive, n_negative, epsilon_bits)
        flags |= tl.where(is_solvable(n_positive, n_negative, flags, LOSS), far, 0)
    cuts = is_cut(flags, LOSS)
    fallen = tl.full([], 0.0, tl.float64)
    to_middle = tl.full([], 0.0, tl.float64)
    positives = tl.zeros([BLOCK_N], tl.int32)
    negatives = tl.zeros([BLOCK_N], tl.int32)
    sums = tl.zeros([BLOCK_N], tl.float64)
    for _ in range(0, span):
        _, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
        positives += is_positive.to(tl.int32)
        negatives += is_negative.to(tl.int32)
        gap = score - centre
        if cuts:
            fall = _gaps(keys_ptr, ranking, place, score, n_positive + n_negative, n_items)
            fall = tl.minimum(fall, _largest_gap(n_negative, epsilon_bits))
            through = fallen + tl.cumsum(fall, axis=0)
            to_middle += tl.sum(tl.where(place == middle, through, 0.0), axis=0)
            fallen += tl.sum(fall, axis=0)
            gap = -through
        sums += tl.where(is_negative, gap, 0.0)
        place += BLOCK_N
    tl.store(span_counts_ptr + 2 * program, tl.sum(positives, axis=0))
    tl.store(span_counts_ptr + 2 * program + 1, tl.sum(negatives, axis=0))
    tl.store(span_sums_ptr + program, tl.sum(sums, axis=0))
    if cuts:
        span_falls_ptr += ranking * (n_spans + 1)
        tl.store(span_falls_ptr + program % n_spans, fallen)
        if program % n_spans == middle // (span * BLOCK_N):
            tl.store(span_falls_ptr + n_spans, to_middle)
    if program % n_spans == 0:
        tl.store(centre_ptr + ranking, centre)
        tl.store(counts_ptr + ranking * 4, n_positive)
        tl.store(counts_ptr + ranking * 4 + 1, n_negative)
        tl.store(counts_ptr + ranking * 4 + 2, flags)


@triton.jit(do_not_specialize=["n_spans", "span", "epsilon_bits"])
def split_classes(
    keys_ptr, index_ptr, classes_ptr, counts_ptr, span_counts_ptr, span_sums_ptr, span_falls_ptr,
    v_ptr, order_ptr, s_ptr, centre_ptr, by_score_ptr,
    n_items, n_spans, span, epsilon_bits,
    LOSS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Positives, then negatives, then ignored items, each in the order they come in; prefix sums of the negatives.

    One program owns a span. Inputs are as in :func:`sum_spans`.

    v_ptr: (rankings, n_items) float64 scores, near ones of rankings that are cut. order_ptr: the same in int32, the
    item at each place. s_ptr: the same in float64: sum of the negatives up to a place, 0 at positives; not written
    where items are ignored.
    centre_ptr: written of rankings that are cut. by_score_ptr: (rankings, n_spans) float64, of these too, and for LOSS
    "hinge" and "ranking": see :func:`kernels.output.weigh_gaps`.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_spans
    number = (program % n_spans).to(tl.int32)
    place = (program % n_spans) * span * BLOCK_N + tl.arange(0, BLOCK_N)
    n_positive = tl.load(counts_ptr + ranking * 4)
    n_negative = tl.load(counts_ptr + ranking * 4 + 1)
    cuts = is_cut(tl.load(counts_ptr + ranking * 4 + 2), LOSS)
    n_taken = n_positive + n_negative
    centre = _score_at(keys_ptr, ranking, n_positive // 2, n_items)

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
    fallen = tl.full([], 0.0, tl.float64)
    end = tl.full([], 0.0, tl.float64)
    last = tl.full([], 0.0, tl.float64)
    by_score = tl.full([], 0.0, tl.float64)
    if cuts:
        fallen, end, centre, further = _join_spans(
            span_counts_ptr, span_falls_ptr + ranking * (n_spans + 1),
            number, n_positive // 2 // (span * BLOCK_N), n_spans, BLOCK_T,
        )  # fmt: skip
        sum_before += further
        last = _score_at(keys_ptr, ranking, tl.minimum((number + 1) * span * BLOCK_N, n_taken) - 1, n_items)
    for _ in range(0, span):
        item, score, is_positive, is_negative = _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items)
        both = one_of(is_positive, is_negative)
        through = tl.cumsum(both, axis=0)
        positives = positives_before + (through & 0xFFFF)
        negatives = negatives_before + (through >> 16)
        if cuts:
            gap = _gaps(keys_ptr, ranking, place, score, n_taken, n_items)
            if LOSS == "hinge" or LOSS == "ranking":
                # Those of the item itself are no more than the gap has above.
                above = through - both
                weighed = weigh_gaps(
                    gap, positives_before + (above & 0xFFFF), negatives_before + (above >> 16), n_positive, n_negative,
                    LOSS,
                )  # fmt: skip
                by_score += tl.sum(weighed, axis=0)
            # What is equal to the last of the span may go on in the next one, which begins at ``end``.
            fall = fallen_by(tl.minimum(gap, _largest_gap(n_negative, epsilon_bits)), fallen)
            fall = tl.where(score == last, end, tl.minimum(fall, end))
            fallen = tl.max(fall, axis=0)
            score = -fall
        gap = tl.where(is_negative, score - centre, 0.0)
        sums = sum_before + tl.cumsum(gap, axis=0)
        ignored = place.to(tl.int32) - positives - negatives
        to = tl.where(is_negative, n_positive + negatives - 1, n_taken + ignored)
        to = ranking * n_items + tl.where(is_positive, positives - 1, to)
        mask = place < n_items
        tl.store(v_ptr + to, score, mask=mask)
        tl.store(order_ptr + to, item, mask=mask)
        tl.store(s_ptr + to, tl.where(is_negative, sums, 0.0), mask=is_positive | is_negative)
        total = tl.sum(both, axis=0)
        positives_before += total & 0xFFFF
        negatives_before += total >> 16
        sum_before += tl.sum(gap, axis=0)
        place += BLOCK_N
    if cuts:
        if LOSS == "hinge" or LOSS == "ranking":
            tl.store(by_score_ptr + program, by_score)
        if number == 0:
            tl.store(centre_ptr + ranking, centre)


@triton.jit
def _join_spans(span_counts_ptr, span_falls_ptr, number, middle, n_spans, BLOCK_T: tl.constexpr):
    """How far near scores have fallen before a span and at its end, the centre, and what sums before the span lack.

    ``middle`` is the span of the centre. All programs add up the same numbers in the same order, with 0 for spans that
    come later: so one span ends where the next one starts, to the bit, no span ends above its start, as rounding keeps
    the order, and without a fall it ends there. The centre is the near score at its place but for rounding, and the
    same number for all. Sums of spans count each from its start; they lack what the centre is below that, once for
    every negative.
    """
    start = tl.zeros([BLOCK_T], tl.float64)
    end = tl.zeros([BLOCK_T], tl.float64)
    to_middle = tl.zeros([BLOCK_T], tl.float64)
    for base in range(0, n_spans, BLOCK_T):
        each = base + tl.arange(0, BLOCK_T)
        fall = tl.load(span_falls_ptr + each, mask=each < n_spans, other=0.0)
        start += tl.where(each < number, fall, 0.0)
        end += tl.where(each <= number, fall, 0.0)
        to_middle += tl.where(each < middle, fall, 0.0)
    start, end, to_middle = tl.reduce((start, end, to_middle), 0, add_three)
    to_centre = to_middle + tl.load(span_falls_ptr + n_spans)
    lacking = tl.zeros([BLOCK_T], tl.float64)
    fallen = tl.full([], 0.0, tl.float64)
    for base in range(0, number, BLOCK_T):
        each = base + tl.arange(0, BLOCK_T)
        mask = each < number
        fall = tl.load(span_falls_ptr + each - 1, mask=mask & (each > 0), other=0.0)
        negatives = tl.load(span_counts_ptr + each * 2 + 1, mask=mask, other=0).to(tl.float64)
        lacking += negatives * (to_centre - (fallen + tl.cumsum(fall, axis=0)))
        fallen += tl.sum(fall, axis=0)
    return start, end, -to_centre, tl.sum(lacking, axis=0)


@triton.jit
def _largest_gap(n_negative, epsilon_bits):
    """``2 w``."""
    return epsilon_bits.to(tl.float64, bitcast=True) * n_negative.to(tl.float64)


@triton.jit
def _gaps(keys_ptr, ranking, place, score, n_taken, n_items):
    """How far the score at each of a tile of places is below the one before; 0 at the first, and if ignored."""
    has_gap = (place > 0) & (place < n_taken)
    before = score_of(tl.load(keys_ptr + ranking * n_items + place - 1, mask=has_gap, other=0)).to(tl.float64)
    return tl.where(has_gap, before - score, 0.0)


@triton.jit
def _score_at(keys_ptr, ranking, place, n_items):
    return score_of(tl.load(keys_ptr + ranking * n_items + place)).to(tl.float64)


@triton.jit
def _sorted_items(keys_ptr, index_ptr, classes_ptr, ranking, place, n_items):
    mask = place < n_items
    item = tl.load(index_ptr + ranking * n_items + place, mask=mask, other=0).to(tl.int32)
    group = tl.load(classes_ptr + ranking * n_items + item, mask=mask, other=IGNORED)
    score = score_of(tl.load(keys_ptr + ranking * n_items + place, mask=mask, other=0))
    return item, score.to(tl.float64), mask & (group == POSITIVE), mask & (group == NEGATIVE)


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
def span_flags(highest, lowest, last, n_positive, n_negative, epsilon_bits):
    """Whether gaps are to be cut, and whether a sum over all pairs, of gaps or of what AP pays, may overflow.

    ``lowest`` is the lowest positive, ``last`` the lowest item of all.
    """
    epsilon = epsilon_bits.to(tl.float64, bitcast=True)
    negatives = n_negative.to(tl.float64)
    pairs = n_positive.to(tl.float64) * negatives
    span = highest - lowest
    is_far = (span > epsilon * _FAR_SPAN) & (span > epsilon * negatives)
    can_sum = (16.0 * pairs * (highest - last) < float("inf")) & (8.0 * pairs * epsilon < float("inf"))
    return tl.where(is_far, FAR, 0) + tl.where(can_sum, 0, NOT_FINITE)


@triton.jit
def is_cut(flags, LOSS: tl.constexpr):
    """Whether a ranking has near scores. The metric and the perceptron solve nothing, and keep those there are."""
    cuts = (flags & (FAR | NOT_FINITE)) == FAR
    if LOSS == "ap" or LOSS == "perceptron":
        cuts = cuts & False
    return cuts


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
    largest = _largest_gap(n_negative, epsilon_bits)
    fallen = tl.full([], 0.0, tl.float64)
    for base in range(0, n_taken, BLOCK):
        place = base + lane
        mask = place < n_taken
        has_gap = mask & (place > 0)
        score = tl.load(sorted_ptr + place, mask=has_gap, other=0.0)
        gap = tl.load(sorted_ptr + place - 1, mask=has_gap, other=0.0) - score
        below = fallen_by(tl.minimum(gap, largest), fallen)
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
def restore_scores(v_ptr, scores_ptr, order_ptr, stride, place, n_items):
    """The scores of a tile of places, from where the user has them."""
    mask = place < n_items
    item = tl.load(order_ptr + place, mask=mask, other=0)
    score = tl.load(scores_ptr + item.to(tl.int64) * stride, mask=mask, other=0.0)
    tl.store(v_ptr + place, score.to(tl.float64), mask=mask)

"""Keys and classes, and the order of short rows: scores and targets as integers, and a network that sorts them.

A key is the score's bits, mapped so that ascending signed integers are descending scores; -0.0 and 0.0 have one key.
"""

import triton
import triton.language as tl

POSITIVE = tl.constexpr(0)
NEGATIVE = tl.constexpr(1)
IGNORED = tl.constexpr(2)

# Flags of a ranking. A wrong target or a lost score makes a loss NaN, a NaN score the metric; scores too large to be
# summed are as good as infinite. Of scores that are far apart the gaps are cut, see kernels/split.py.
WRONG = tl.constexpr(1)
NOT_FINITE = tl.constexpr(2)
NAN = tl.constexpr(4)
FAR = tl.constexpr(8)


@triton.jit
def ranking_start(ranking, n_inner, stride_outer, stride_inner):
    """Where a ranking begins in a tensor whose leading axes make up (outer, inner)."""
    return (ranking // n_inner) * stride_outer + (ranking % n_inner) * stride_inner


@triton.jit
def key_of(score):
    """float32 to int32, float64 to int64: lower for higher scores. Finite scores never have the greatest integer."""
    if score.dtype == tl.float64:
        bits = score.to(tl.int64, bitcast=True)
        sign = bits >> 63
        magnitude = bits & 0x7FFFFFFFFFFFFFFF
    else:
        bits = score.to(tl.int32, bitcast=True)
        sign = bits >> 31
        magnitude = bits & 0x7FFFFFFF
    return -1 - ((magnitude ^ sign) - sign)


@triton.jit
def score_of(key):
    """The score of a key, 0.0 for -0.0."""
    ascending = -1 - key
    if key.dtype == tl.int64:
        lowest = -0x7FFFFFFFFFFFFFFF - 1
        score = tl.where(ascending < 0, (-ascending) | lowest, ascending).to(tl.float64, bitcast=True)
    else:
        lowest = -0x7FFFFFFF - 1
        score = tl.where(ascending < 0, (-ascending) | lowest, ascending).to(tl.float32, bitcast=True)
    return score


@triton.jit
def class_of(target, ignore_index, mask, HAS_IGNORE: tl.constexpr):
    """The class of a tile of items and which targets are wrong; what lies outside the mask is ignored."""
    is_positive = mask & (target == 1)
    is_negative = mask & (target == 0)
    wrong = mask & (is_positive == 0) & (is_negative == 0)
    if HAS_IGNORE:
        wrong = wrong & (target != ignore_index)
    return tl.where(is_positive, POSITIVE, tl.where(is_negative, NEGATIVE, IGNORED)), wrong


@triton.jit
def flags_of(score, taken, wrong):
    """The flags that a tile of items raises, a scalar."""
    is_nan = taken & (score != score)
    not_finite = taken & ((tl.abs(score) < float("inf")) == 0)
    flags = tl.where(wrong, WRONG, 0) + tl.where(not_finite, NOT_FINITE, 0) + tl.where(is_nan, NAN, 0)
    return tl.reduce(flags, 0, either)


@triton.jit
def either(left, right):
    """The flags of both."""
    return left | right


@triton.jit(do_not_specialize=["n_tiles", "ignore_index"])
def encode_items(
    scores_ptr, targets_ptr,
    keys_ptr, classes_ptr, counts_ptr, lowest_ptr,
    n_items, n_tiles, n_inner,
    stride_so, stride_si, stride_sn, stride_to, stride_ti, stride_tn,
    ignore_index,
    HAS_IGNORE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sort keys and classes of the items, and what each tile holds.

    One program owns BLOCK_N consecutive items of one ranking. Rankings are numbered along two axes, (outer, inner).

    scores_ptr, targets_ptr: (outer, inner, n_items), any strides.
    keys_ptr: (rankings, n_items) int32, int64 for float64 scores. classes_ptr: the same in int8.
    counts_ptr: (rankings, n_tiles, 2) int32: positives and, from bit 16 on, negatives; flags.
    lowest_ptr: (rankings, n_tiles), of the type of the keys: that of the lowest positive, or below all keys.
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
    key = tl.where(group == IGNORED, last_key(key.dtype), key)
    tl.store(keys_ptr + ranking * n_items + item, key, mask=mask)
    tl.store(classes_ptr + ranking * n_items + item, group.to(tl.int8), mask=mask)
    tl.store(counts_ptr + 2 * program, tl.sum(one_of(group == POSITIVE, group == NEGATIVE), axis=0))
    tl.store(counts_ptr + 2 * program + 1, flags)
    tl.store(lowest_ptr + program, tl.max(tl.where(group == POSITIVE, key, -1 - last_key(key.dtype)), axis=0))


@triton.constexpr_function
def last_key(dtype):
    """The greatest of that type."""
    return 2 ** (dtype.primitive_bitwidth - 1) - 1


@triton.jit
def one_of(is_positive, is_negative):
    """Both numbers of a tile fit into one: positives, and from bit 16 on negatives."""
    return tl.where(is_positive, 1, tl.where(is_negative, 1 << 16, 0))


@triton.jit
def sorted_row(x, PER_THREAD: tl.constexpr):
    """``tl.sort(x)`` in 6/10 of the instructions, of int32: a bitonic network.

    Low places are exchanged most often. ``x`` comes from loads whose ``PER_THREAD`` items of a thread stand in the high
    places. The order at the start is of no matter, so the two are swapped, see :func:`neighbours`: half of the steps
    then stay inside a thread, nearly all in its warp. And a step takes a minimum or a maximum where ``tl.sort``
    compares and selects. Another ``PER_THREAD`` sorts as well, only slower.
    """
    LEVELS: tl.constexpr = _log2(x.shape[0])
    y = tl.reshape(neighbours(x, PER_THREAD), [2] * LEVELS)
    for level in tl.static_range(1, LEVELS + 1):
        for step in tl.static_range(1, level + 1):
            y = _compare_exchange(y, level, level - step, LEVELS)
    return tl.reshape(y, (x.shape[0],))


@triton.jit
def neighbours(x, PER_THREAD: tl.constexpr):
    """The items of a thread, which loads leave far apart, side by side: other places, and nothing moves."""
    return tl.reshape(tl.trans(tl.reshape(x, (PER_THREAD, x.shape[0] // PER_THREAD))), (x.shape[0],))


@triton.jit
def apart(x, PER_THREAD: tl.constexpr):
    """The reverse of :func:`neighbours`."""
    return neighbours(x, x.shape[0] // PER_THREAD)


@triton.jit
def _compare_exchange(x, level: tl.constexpr, bit: tl.constexpr, LEVELS: tl.constexpr):
    """Sort every two items whose places differ in ``bit``: up or down by ``level``'s bit of their place, at last up."""
    other = x ^ tl.xor_sum(x, LEVELS - 1 - bit, True)
    takes_larger = _bit_of_place(bit, LEVELS)
    if level < LEVELS:
        takes_larger = takes_larger ^ _bit_of_place(level, LEVELS)
    return tl.where(takes_larger, tl.maximum(x, other), tl.minimum(x, other))


@triton.jit
def _bit_of_place(bit: tl.constexpr, LEVELS: tl.constexpr):
    return tl.reshape(tl.arange(0, 2), [1] * (LEVELS - 1 - bit) + [2] + [1] * bit) != 0


@triton.constexpr_function
def _log2(number):
    return number.bit_length() - 1

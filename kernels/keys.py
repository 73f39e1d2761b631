"""Scores and targets as integers: what the sorts order and the split by class reads.

A key is the score's bits, mapped so that ascending signed integers are descending scores; -0.0 and 0.0 have one key.
"""

import triton
import triton.language as tl

POSITIVE = tl.constexpr(0)
NEGATIVE = tl.constexpr(1)
IGNORED = tl.constexpr(2)

# Flags of a ranking. A wrong target or a lost score makes a loss NaN, a NaN score the metric; scores too large to be
# summed are as good as infinite. Of scores that are far apart the gaps are cut, see kernels/gaps.py.
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
def takes_part(n_positive, n_negative, flags):
    """Whether a ranking counts in the mean: it has both classes, or a wrong target makes the mean NaN."""
    return ((n_positive > 0) & (n_negative > 0)) | ((flags & WRONG) != 0)


@triton.jit
def value_unsolved(n_positive, n_negative, flags, LOSS: tl.constexpr):
    """The value of a ranking that is not solvable."""
    value = tl.full([], float("nan"), tl.float64)
    if LOSS != "ap" and LOSS != "ranking":
        value = tl.where(takes_part(n_positive, n_negative, flags), value, 0.0)
    return value

"""The binary operations of the scans, and scans of a tile that goes on from where the tile before it ended."""

import triton
import triton.language as tl

from .sort import key_of, score_of

_SIGN = tl.constexpr(-(2**31))


@triton.jit
def greater(left, right):
    """The greater."""
    return tl.maximum(left, right)


@triton.jit
def smaller(left, right):
    """The smaller."""
    return tl.minimum(left, right)


@triton.jit
def add_three(left_first, left_second, left_third, right_first, right_second, right_third):
    """Three sums, each in the same order."""
    return left_first + right_first, left_second + right_second, left_third + right_third


@triton.jit
def add_before(left, left_before, right, right_before):
    """What stands before an item, of whom it is value and 0. The sum with the item less it would lose digits."""
    return right, (left_before + left) + right_before


@triton.jit
def add_in_segment(left_segment, left_sum, right_segment, right_sum):
    """Sums that start anew with every segment."""
    same = left_segment == right_segment
    return right_segment, tl.where(same, left_sum + right_sum, right_sum)


@triton.jit
def lowest_before(
    left_segment, left_sum, left_low, left_place, right_segment, right_sum, right_low, right_place
):  # fmt: skip
    """The least sum of what stands before an item of its segment, and the last place that attains it.

    An item by itself: its segment, its value, 0 and its place. ``low`` counts from the start of the stretch.
    """
    same = left_segment == right_segment
    low = left_sum + right_low
    left_wins = same & (left_low < low)
    return (
        right_segment,
        tl.where(same, left_sum + right_sum, right_sum),
        tl.where(left_wins, left_low, tl.where(same, low, right_low)),
        tl.where(left_wins, left_place, right_place),
    )


@triton.jit
def greatest_first(left_value, left_payload, right_value, right_payload):
    """The greatest value so far with what the first to attain it carries."""
    later = right_value > left_value
    return tl.where(later, right_value, left_value), tl.where(later, right_payload, left_payload)


@triton.jit
def highest_of(x):
    """``tl.max(x, axis=0)`` of float64 without NaN, 0.0 for -0.0: of either half of the bits in turn, for which warps
    have an instruction.
    """
    key = key_of(x)
    upper = upper_of(key)
    lower = key.to(tl.int32) ^ _SIGN
    first = tl.min(upper, axis=0)
    second = tl.min(tl.where(upper == first[None, :], lower, _SIGN ^ -1), axis=0) ^ _SIGN
    return score_of((first.to(tl.int64) << 32) | (second.to(tl.int64) & 0xFFFFFFFF))


@triton.jit
def upper_of(key):
    """The upper half of 64 bits: of a float64's key sign, exponent and 20 binary digits."""
    return (key >> 32).to(tl.int32)


@triton.jit
def running_max(x):
    """``torch.cummax(x, 0).values``."""
    return tl.associative_scan(x, 0, greater)


@triton.jit
def running_min(x):
    """``torch.cummin(x, 0).values``."""
    return tl.associative_scan(x, 0, smaller)


@triton.jit
def fallen_by(falls, fallen):
    """How far a tile of falls leads, none of them negative, that goes on from ``fallen``.

    Sums of a scan may fall by their rounding. These do not, and they stay where there is no fall.
    """
    through = fallen + tl.cumsum(falls, axis=0)
    return tl.maximum(running_max(tl.where(falls > 0.0, through, fallen)), fallen)


@triton.jit
def next_set(marks_ptr, first, end, BLOCK: tl.constexpr):
    """The first place from ``first`` on where the mark is not 0, or ``end``."""
    found = end
    base = first
    while base < found:
        place = base + tl.arange(0, BLOCK)
        is_set = tl.load(marks_ptr + place, mask=place < end, other=0) != 0
        found = tl.minimum(found, tl.min(tl.where(is_set, place, end), axis=0))
        base = base + BLOCK
    return found

"""Keys, and the order of long rows: scores and targets as integers, and a radix sort of them.

A key is the score's bits, mapped so that ascending signed integers are descending scores; -0.0 and 0.0 have one key.

The sort is stable, least significant digit first, three launches a digit. Rows are cut into tiles. The place of an item
after the pass over one digit is the number of

    items of its row with a smaller digit                 (``totals``)
    + items with its digit in the tiles before its own    (``table``)
    + items with its digit before it in its tile          (the sort in ``scatter``)

A pass counts the digits of every tile (``count_digits``), sums the counts along the tiles (``scan_tiles``) and moves
the items (``scatter``). No program waits for another one and every sum is one of whole numbers, so the order in which
programs run cannot show. No size is specialised: one binary serves all passes over rows of any length and alignment.
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


@triton.jit(do_not_specialize=["n_items", "n_tiles", "shift", "flip"])
def count_digits(
    keys_ptr,
    table_ptr,
    n_items,
    n_tiles,
    shift,
    flip,
    TILE: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """One program counts the digits of one tile.

    ``keys`` (rows, n_items), int32 or int64, to ``table`` (rows, n_tiles, DIGITS), int32. Digits are the last axis, so
    that a program writes and later reads its counts side by side.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // n_tiles
    start = (program - row * n_tiles) * TILE
    o_item = tl.arange(0, TILE)
    m_item = o_item < (n_items - start).to(tl.int32)
    key = tl.load(keys_ptr + (row * n_items + start) + o_item, mask=m_item, other=0)
    count = tl.histogram(_digit(key, shift, flip, DIGITS), DIGITS, mask=m_item)
    tl.store(table_ptr + program * DIGITS + tl.arange(0, DIGITS), count)


@triton.jit(do_not_specialize=["n_tiles"])
def scan_tiles(
    table_ptr,
    totals_ptr,
    n_tiles,
    DIGITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program sums ``BLOCK_D`` digits of one row through all tiles, ``BLOCK_T`` tiles at a time.

    ``table`` (rows, n_tiles, DIGITS) changes in place from counts to counts in earlier tiles; the counts of the whole
    row go to ``totals`` (rows, DIGITS). The sum over smaller digits is left to ``scatter``: digits then have nothing to
    do with each other, and ``DIGITS / BLOCK_D`` programs share the scan even of a single row.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // (DIGITS // BLOCK_D)
    o_digit = (program % (DIGITS // BLOCK_D)) * BLOCK_D + tl.arange(0, BLOCK_D)
    column_ptr = table_ptr + row * n_tiles * DIGITS + o_digit[None, :]
    before = tl.zeros((BLOCK_D,), tl.int32)
    first = 0
    while first < n_tiles:
        o_tile = first + tl.arange(0, BLOCK_T)[:, None]
        m_tile = o_tile < n_tiles
        entry_ptr = column_ptr + o_tile.to(tl.int64) * DIGITS
        count = tl.load(entry_ptr, mask=m_tile, other=0)
        tl.store(entry_ptr, before[None, :] + tl.cumsum(count, 0) - count, mask=m_tile)
        before += tl.sum(count, 0)
        first += BLOCK_T
    tl.store(totals_ptr + row * DIGITS + o_digit, before)


@triton.jit(do_not_specialize=["n_items", "n_tiles", "shift", "flip"])
def scatter(
    keys_ptr,
    index_ptr,
    table_ptr,
    totals_ptr,
    out_keys_ptr,
    out_index_ptr,
    n_items,
    n_tiles,
    shift,
    flip,
    FIRST: tl.constexpr,
    TILE: tl.constexpr,
    DIGITS: tl.constexpr,
    PER_THREAD: tl.constexpr,
):
    """One program sorts one tile by its digit and writes it out.

    ``keys`` and ``index`` (rows, n_items), with ``table`` (rows, n_tiles, DIGITS) and ``totals`` (rows, DIGITS) as
    ``scan_tiles`` left them, to ``out_keys`` and ``out_index`` (rows, n_items). With ``FIRST`` the index is made here
    and ``index`` is not read.

    Why a sort, where a place among equal digits is all that is asked for: counting them by a running sum of one-hot
    digits, four 16-bit counts to an int64, takes 277 instructions an item for 4-bit digits (sm_90); this whole kernel
    takes 227 for 8-bit digits, so in half the passes, launches and traffic. And sorted items leave in runs, of random
    digits 8 on average: a warp's 32 items fill about 7 sectors of 32 bytes. Unsorted, 4-bit digits would hit 14.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // n_tiles
    tile = program - row * n_tiles
    start = tile * TILE
    row_start = row * n_items
    o_item = tl.arange(0, TILE)
    m_item = o_item < (n_items - start).to(tl.int32)
    key = tl.load(keys_ptr + (row_start + start) + o_item, mask=m_item, other=0)
    # What lies beyond the row sorts behind every digit, so after the sort it is the same places that are masked.
    digit = tl.where(m_item, _digit(key, shift, flip, DIGITS), DIGITS)
    packed = _sorted(digit * TILE + o_item, TILE, PER_THREAD)
    digit = tl.minimum(packed // TILE, DIGITS - 1)
    place = packed % TILE

    o_digit = tl.arange(0, DIGITS)
    total = tl.load(totals_ptr + row * DIGITS + o_digit)
    entry_ptr = table_ptr + program * DIGITS + o_digit
    earlier = tl.load(entry_ptr)
    is_last = tile + 1 == n_tiles
    through = tl.where(is_last, total, tl.load(entry_ptr + DIGITS, mask=(o_digit < DIGITS) & (not is_last), other=0))
    # Item k of the sorted tile is item k - (items of smaller digits in the tile) of those with its digit.
    elsewhere = total - (through - earlier)
    base = tl.cumsum(elsewhere, 0) - elsewhere + earlier

    o_out = tl.gather(base, digit, 0) + o_item
    tl.store(out_keys_ptr + row_start + o_out, tl.gather(key, place, 0), mask=m_item)
    if FIRST:
        index = start.to(tl.int32) + place
    else:
        index = tl.gather(tl.load(index_ptr + (row_start + start) + o_item, mask=m_item, other=0), place, 0)
    tl.store(out_index_ptr + row_start + o_out, index, mask=m_item)


@triton.jit
def _digit(key, shift, flip, DIGITS: tl.constexpr):
    """The digit from bit ``shift`` on; ``flip`` is ``DIGITS / 2`` at the last digit, whose top bit is the sign, else 0.

    The shift is arithmetic: a last digit that reaches beyond the key is filled with the sign and needs no other rule.
    """
    return ((key >> shift) & (DIGITS - 1)).to(tl.int32) ^ flip


@triton.jit
def _sorted(x, TILE: tl.constexpr, PER_THREAD: tl.constexpr):
    """``tl.sort(x)`` in 6/10 of the instructions (204 an item for 347: sm_90, 2,048 items, 4 warps).

    The same bitonic network, in which low places are exchanged most often. ``x`` comes from loads whose
    ``PER_THREAD = TILE / threads`` items of a thread stand in the high places. The order at the start is of no matter,
    so the two are swapped: half of the 66 steps then stay inside a thread, nearly all in its warp. And a step takes a
    minimum or a maximum where ``tl.sort`` compares and selects. Another ``PER_THREAD`` sorts as well, only slower.
    """
    LEVELS: tl.constexpr = _log2(TILE)
    x = tl.reshape(tl.trans(tl.reshape(x, (PER_THREAD, TILE // PER_THREAD))), [2] * LEVELS)
    for level in tl.static_range(1, LEVELS + 1):
        for step in tl.static_range(1, level + 1):
            x = _compare_exchange(x, level, level - step, LEVELS)
    return tl.reshape(x, (TILE,))


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

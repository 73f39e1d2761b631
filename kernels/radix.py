"""A stable radix sort of long rows, least significant digit first: three launches a digit.

Rows are cut into tiles. The place of an item after the pass over one digit is the number of

    items of its row with a smaller digit                 (``totals``)
    + items with its digit in the tiles before its own    (``table``)
    + items with its digit before it in its tile          (the sort in ``scatter``)

A pass counts the digits of every tile (``count_digits``), sums the counts along the tiles (``scan_tiles``) and moves
the items (``scatter``). No program waits for another one and every sum is one of whole numbers, so the order in which
programs run cannot show.

No size is specialised: one binary serves all passes over rows of any length and alignment.
"""

import triton
import triton.language as tl


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

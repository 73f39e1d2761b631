"""Long rankings whole, after the split: each stage a launch over tiles of all rankings.

All arrays are those of :mod:`kernels.split`, and

counts_ptr: (rankings, 4) int32: positives, negatives, flags. centre_ptr: (rankings,) float64.
v_ptr, s_ptr: (rankings, n_items) float64, sorted scores and prefix sums of the negatives.
rows_ptr: (6, rankings, n_items) int32: choice, starts, last, low, high, work; sums_ptr: (2, rankings, n_items) float64:
x, y: one number a row, see :mod:`kernels.pool`. plane: rankings * n_items. With SIGN 0, the symmetric update, the
second ranking is solved one plane further, so that its choices are the second plane, once both are there.

No number is specialised on: variants take up to 20 s to compile, and tiles of one row a thread load no vectors.
"""

import triton
import triton.language as tl

from .certify import first_of_level, in_company, price_rows, set_bands, settle
from .coarse import FEWEST, refine
from .output import ranking_value, result_at, row_sums, summed, takes_part, tile_of, value_unsolved
from .pool import begin_levels, copy, find_last, mark, pool
from .prices import set_prices
from .program import solve_all, solve_bands
from .scans import next_set
from .search import search_rows
from .sort import FAR, ranking_start
from .split import load_ranking, restore_scores
from .terms import task_scale

_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit(do_not_specialize=["n_items", "n_programs", "n_chunks", "epsilon_bits"])
def search_rankings(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, extremes_ptr,
    n_items, n_programs, n_chunks, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, METHOD: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """The best choice of each row by itself. One program owns every n_programs-th chunk of rows of one ranking.

    extremes_ptr: (2, rankings, n_chunks) int32, the greatest and the least choice of each chunk of CHUNK rows; not
    written beyond the last positive. Written for METHOD "auto".
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, LOSS)
    v_ptr += ranking * n_items
    s_ptr += ranking * n_items + n_positive - 1
    task = task_scale(epsilon_bits, n_negative, SIGN)
    greatest_ptr = extremes_ptr + ranking * n_chunks
    least_ptr = greatest_ptr + tl.num_programs(0).to(tl.int64) // n_programs * n_chunks
    chunk = (program % n_programs).to(tl.int32)
    while solvable & (chunk * CHUNK < n_positive):
        greatest = tl.full([ROWS], -1, tl.int32)
        least = tl.full([ROWS], _HIGHEST, tl.int32)
        for step in range(0, CHUNK, ROWS):
            row = chunk * CHUNK + step + tl.arange(0, ROWS)
            choice = search_rows(
                v_ptr, v_ptr + n_positive - 1, s_ptr, rows_ptr + ranking * n_items,
                row, n_positive, n_negative, centre, task,
                SIGN, METHOD, PIECES,
            )  # fmt: skip
            greatest = tl.maximum(greatest, tl.where(row < n_positive, choice, -1))
            least = tl.minimum(least, tl.where(row < n_positive, choice, _HIGHEST))
        if METHOD == "auto":
            tl.store(greatest_ptr + chunk, tl.max(greatest, axis=0))
            tl.store(least_ptr + chunk, tl.min(least, axis=0))
        chunk = chunk + n_programs


@triton.jit(do_not_specialize=["n_items", "n_programs", "n_chunks", "plane"])
def mark_rankings(
    counts_ptr, centre_ptr, extremes_ptr,
    rows_ptr,
    n_items, n_programs, n_chunks, plane,
    BLOCK: tl.constexpr, BLOCK_T: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Where blocks of rows that conflict begin. One program owns every n_programs-th tile of BLOCK rows of a ranking.

    extremes_ptr: see :func:`search_rankings`.
    """
    plane = plane.to(tl.int64)
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, _, _, _, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    rows_ptr += ranking * n_items
    greatest_ptr = extremes_ptr + ranking * n_chunks
    least_ptr = greatest_ptr + tl.num_programs(0).to(tl.int64) // n_programs * n_chunks
    first = (program % n_programs).to(tl.int32) * BLOCK
    while solvable & (first < n_positive):
        end = tl.minimum(first + BLOCK, n_positive)
        highest = tl.full([BLOCK_T], -1, tl.int32)
        for base in range(0, first // CHUNK, BLOCK_T):
            other = base + tl.arange(0, BLOCK_T)
            highest = tl.maximum(highest, tl.load(greatest_ptr + other, mask=other < first // CHUNK, other=-1))
        lowest = tl.full([BLOCK_T], _HIGHEST, tl.int32)
        for base in range((first + BLOCK) // CHUNK, tl.cdiv(n_positive, CHUNK), BLOCK_T):
            other = base + tl.arange(0, BLOCK_T)
            inside = other * CHUNK < n_positive
            lowest = tl.minimum(lowest, tl.load(least_ptr + other, mask=inside, other=_HIGHEST))
        mark(
            rows_ptr, rows_ptr + plane, rows_ptr + 3 * plane, rows_ptr + 4 * plane,
            first, end, tl.max(highest, axis=0), tl.min(lowest, axis=0), 1,
            BLOCK,
        )  # fmt: skip
        row = first + tl.arange(0, BLOCK)
        tl.store(rows_ptr + 2 * plane + row, row, mask=row < end)
        first = first + n_programs * BLOCK


@triton.jit(do_not_specialize=["n_items", "n_programs", "plane", "epsilon_bits"])
def pool_rankings(
    v_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, n_programs, plane, epsilon_bits,
    SIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The pooled choices of each block of rows, and of the negative update their prices.

    One program owns the blocks that begin in every n_programs-th tile of BLOCK rows of one ranking. A block may span
    all rows: tiles are wide, and nothing but pooling is left to one program.
    """
    plane = plane.to(tl.int64)
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, _, _, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    v_ptr += ranking * n_items
    n_ptr = v_ptr + n_positive - 1
    rows_ptr += ranking * n_items
    sums_ptr += ranking * n_items
    starts_ptr = rows_ptr + plane
    task = task_scale(epsilon_bits, n_negative, SIGN)
    tile_first = (program % n_programs).to(tl.int32) * BLOCK
    while solvable & (tile_first < n_positive):
        tile_end = tl.minimum(tile_first + BLOCK, n_positive)
        first = next_set(starts_ptr, tile_first, tile_end, BLOCK)
        end = first
        if first < tile_end:
            end = next_set(starts_ptr, tile_end, n_positive, BLOCK)
        begun = 0
        for base in range(first, end, BLOCK):
            row = base + tl.arange(0, BLOCK)
            begun += tl.sum(tl.load(starts_ptr + row, mask=row < end, other=0), axis=0)
        if begun < end - first:
            find_last(starts_ptr, rows_ptr + 2 * plane, first, end, BLOCK)
            pool(
                v_ptr, n_ptr, starts_ptr, rows_ptr + 2 * plane, rows_ptr + 3 * plane,
                rows_ptr + 4 * plane, rows_ptr + 5 * plane, sums_ptr, sums_ptr + plane,
                first, end, task,
                BLOCK,
            )  # fmt: skip
            if SIGN < 0:
                set_prices(
                    v_ptr, n_ptr, rows_ptr + 2 * plane, rows_ptr + 3 * plane, rows_ptr + 5 * plane,
                    sums_ptr, sums_ptr + plane,
                    first, end, n_negative, task,
                    BLOCK,
                )  # fmt: skip
            else:
                copy(rows_ptr + 3 * plane, rows_ptr, first, end, BLOCK)
        tile_first = tile_first + n_programs * BLOCK


@triton.jit(do_not_specialize=["n_items", "n_programs", "plane", "epsilon_bits"])
def price_rankings(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, n_programs, plane, epsilon_bits,
    ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Which of the pooled choices the prices prove. One program owns every n_programs-th tile of ROWS rows.

    Choices of rows in company are the pooled ones from here on; ``work`` becomes 0, of a row that is not proved 1 more
    than the first row of its level set.
    """
    plane = plane.to(tl.int64)
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    v_ptr += ranking * n_items
    n_ptr = v_ptr + n_positive - 1
    s_ptr += ranking * n_items + n_positive - 1
    rows_ptr += ranking * n_items
    sums_ptr += ranking * n_items
    last_ptr = rows_ptr + 2 * plane
    task = task_scale(epsilon_bits, n_negative, -1)
    base = (program % n_programs).to(tl.int32) * ROWS
    while solvable & (base < n_positive):
        row = base + tl.arange(0, ROWS)
        company = in_company(rows_ptr + plane, row, n_positive, row < n_positive)
        a = tl.load(rows_ptr + 5 * plane + row, mask=company, other=0)
        first = tl.zeros([ROWS], tl.int32)
        if tl.max(company.to(tl.int32), axis=0) > 0:
            favourite, shortfall, beyond = price_rows(
                v_ptr, n_ptr, s_ptr, rows_ptr + plane, sums_ptr,
                row, a, 0, n_negative, centre, task, company,
                PIECES,
            )  # fmt: skip
            tl.store(sums_ptr + plane + row, shortfall, mask=company)
            tl.store(rows_ptr + 4 * plane + row, favourite, mask=company)
            tl.store(rows_ptr + row, a, mask=company)
            first = tl.where(beyond, 1 + first_of_level(last_ptr, row, beyond), 0)
        tl.store(rows_ptr + 5 * plane + row, first, mask=row < n_positive)
        base = base + n_programs * ROWS


@triton.jit(do_not_specialize=["n_items", "n_programs", "plane", "epsilon_bits"])
def settle_rankings(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, n_programs, plane, epsilon_bits,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The optimum of level sets that are not proved. A program owns those whose first unproved row is in its tiles.

    Its tiles are every n_programs-th of BLOCK rows of one ranking.
    """
    plane = plane.to(tl.int64)
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    v_ptr += ranking * n_items
    n_ptr = v_ptr + n_positive - 1
    s_ptr += ranking * n_items + n_positive - 1
    rows_ptr += ranking * n_items
    sums_ptr += ranking * n_items
    low_ptr = rows_ptr + 3 * plane
    high_ptr = rows_ptr + 4 * plane
    mark_ptr = rows_ptr + 5 * plane
    task = task_scale(epsilon_bits, n_negative, -1)
    tile_first = (program % n_programs).to(tl.int32) * BLOCK
    while solvable & (tile_first < n_positive):
        tile_end = tl.minimum(tile_first + BLOCK, n_positive)
        row = next_set(mark_ptr, tile_first, tile_end, BLOCK)
        while row < tile_end:
            first = tl.load(mark_ptr + row) - 1
            after = row + 1
            if next_set(mark_ptr, first, row, BLOCK) == row:
                after = tl.load(rows_ptr + 2 * plane + row) + 1
                # Each level set has its share of what is beyond the rows.
                begin = n_negative.to(tl.int64) * first // n_positive
                most = n_negative.to(tl.int64) * after // n_positive - begin
                most = tl.minimum(most, 1 << 28).to(tl.int32)  # cut in four they are int32
                has_bands = 1
                if most // FEWEST >= after - first:
                    has_bands = refine(
                        v_ptr, n_ptr, s_ptr, rows_ptr, sums_ptr, plane,
                        first, after, n_positive + begin, most, n_negative, centre, task,
                        BLOCK, LANES,
                    )  # fmt: skip
                else:
                    set_bands(
                        v_ptr, n_ptr, s_ptr, low_ptr, high_ptr, rows_ptr, sums_ptr, sums_ptr + plane,
                        first, after, n_negative, centre, task,
                        BLOCK, ROWS, PIECES,
                    )  # fmt: skip
                if has_bands != 0:
                    solve_bands(
                        v_ptr, s_ptr, rows_ptr + 2 * plane, low_ptr, high_ptr, rows_ptr, sums_ptr, sums_ptr + plane,
                        first, after, centre, task,
                        BLOCK, COLUMNS,
                    )  # fmt: skip
            row = next_set(mark_ptr, after, tile_end, BLOCK)
        tile_first = tile_first + n_programs * BLOCK


@triton.jit(do_not_specialize=["n_items", "plane", "epsilon_bits"])
def finish_rankings(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, plane, epsilon_bits,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Further rounds of the negative update, should settled blocks conflict, which is rare. One program a ranking."""
    plane = plane.to(tl.int64)
    ranking = tl.program_id(0).to(tl.int64)
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    rows_ptr += ranking * n_items
    fallen = tl.zeros([BLOCK_W], tl.int32)
    base = 0
    while solvable & (base < n_positive):
        row = base + tl.arange(0, BLOCK_W)
        mask = (row > 0) & (row < n_positive)
        choice = tl.load(rows_ptr + row, mask=mask, other=0)
        above = tl.load(rows_ptr + row - 1, mask=mask, other=0)
        fallen = tl.maximum(fallen, (choice < above).to(tl.int32))
        base = base + BLOCK_W
    if tl.max(fallen, axis=0) != 0:
        v_ptr += ranking * n_items
        n_ptr = v_ptr + n_positive - 1
        s_ptr += ranking * n_items + n_positive - 1
        sums_ptr += ranking * n_items
        task = task_scale(epsilon_bits, n_negative, -1)
        starts_ptr = rows_ptr + plane
        low_ptr = rows_ptr + 3 * plane
        high_ptr = rows_ptr + 4 * plane
        begin_levels(starts_ptr, rows_ptr + 2 * plane, 0, n_positive, BLOCK)
        conflict = 1
        while conflict != 0:
            conflict = mark(rows_ptr, starts_ptr, low_ptr, high_ptr, 0, n_positive, -1, _HIGHEST, 0, BLOCK)
            if conflict != 0:
                settle(
                    v_ptr, n_ptr, s_ptr,
                    rows_ptr, starts_ptr, rows_ptr + 2 * plane, low_ptr,
                    high_ptr, rows_ptr + 5 * plane, sums_ptr, sums_ptr + plane,
                    0, n_positive, n_negative, centre, task, 2,
                    BLOCK, ROWS, PIECES, COLUMNS,
                )  # fmt: skip


@triton.jit(do_not_specialize=["n_items", "plane", "epsilon_bits"])
def solve_whole(
    v_ptr, s_ptr, counts_ptr, centre_ptr,
    rows_ptr, sums_ptr,
    n_items, plane, epsilon_bits,
    SIGN: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The dynamic program over all columns. One program owns one ranking."""
    plane = plane.to(tl.int64)
    ranking = tl.program_id(0).to(tl.int64)
    n_positive, n_negative, _, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, "direct")
    if solvable:
        rows_ptr += ranking * n_items
        sums_ptr += ranking * n_items
        solve_all(
            v_ptr + ranking * n_items, s_ptr + ranking * n_items + n_positive - 1,
            rows_ptr, rows_ptr + 2 * plane, rows_ptr + 3 * plane, rows_ptr + 4 * plane, sums_ptr, sums_ptr + plane,
            n_positive, n_negative, centre, task_scale(epsilon_bits, n_negative, SIGN),
            BLOCK, COLUMNS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n_items", "n_tiles", "n_programs"])
def sum_rows(
    v_ptr, s_ptr, counts_ptr, centre_ptr, rows_ptr,
    parts_ptr,
    n_items, n_tiles, n_programs,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the rows of a tile add to the value, and the sum of their choices.

    One program owns every n_programs-th tile of BLOCK rows of one ranking: the host does not know of how many rows, and
    a tile each for all items started 78,900 programs at 10,100,000, of which 780 had work.

    parts_ptr: (3, rankings, n_tiles) float64, with SIGN 0 (4, rankings, n_tiles); tiles beyond the last positive are
    not written, for LOSS "perceptron" those beyond the last negative too.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, flags, centre, solvable = load_ranking(counts_ptr, centre_ptr, ranking, LOSS)
    v_ptr += ranking * n_items
    s_ptr += ranking * n_items + n_positive - 1
    choice_ptr = rows_ptr + ranking * n_items
    second_ptr = choice_ptr + _plane(n_items, n_programs)
    stride = _plane(n_tiles, n_programs)
    parts_ptr += ranking * n_tiles
    tile = (program % n_programs).to(tl.int32)
    while solvable & (tile * BLOCK < summed(n_positive, n_negative, LOSS)):
        row = tile * BLOCK + tl.arange(0, BLOCK)
        score_sum, task_sum = row_sums(
            v_ptr, v_ptr + n_positive - 1, s_ptr, choice_ptr, second_ptr,
            row, n_positive, n_negative, centre, flags,
            LOSS, SIGN, BLOCK,
        )  # fmt: skip
        tl.store(parts_ptr + tile, score_sum)
        tl.store(parts_ptr + stride + tile, task_sum)
        if LOSS != "ap":
            choice = tl.load(choice_ptr + row, mask=row < n_positive, other=0).to(tl.float64)
            tl.store(parts_ptr + 2 * stride + tile, tl.sum(choice, axis=0))
        if SIGN == 0:
            choice = tl.load(second_ptr + row, mask=row < n_positive, other=0).to(tl.float64)
            tl.store(parts_ptr + 3 * stride + tile, tl.sum(choice, axis=0))
        tile = tile + n_programs


@triton.jit
def _plane(number, n_programs):
    """How many there are in all of what each ranking has so many of, which so many programs share."""
    return tl.num_programs(0).to(tl.int64) // n_programs * number


@triton.jit(
    do_not_specialize=[
        "n_items", "n_spans", "n_tiles", "n_programs", "n_inner", "stride_so", "stride_si", "stride_sn", "epsilon_bits"
    ]
)  # fmt: skip
def sum_rankings(
    scores_ptr, s_ptr, order_ptr, counts_ptr, centre_ptr, rows_ptr, parts_ptr, by_score_ptr,
    value_ptr, takes_part_ptr, before_ptr, v_ptr,
    n_items, n_spans, n_tiles, n_programs, n_inner, stride_so, stride_si, stride_sn, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The value of each ranking, and the sum of the choices before each row. Programs own what they own in sum_rows.

    value_ptr: (rankings,) float32 or float64. takes_part_ptr: (rankings,) int8.
    before_ptr: (rankings, n_items) float64, rows 0 to the number of positives; not written for LOSS "ap" and "ranking";
    with SIGN 0 (2, rankings, n_items).
    scores_ptr, order_ptr: where scores that were cut come back from to ``v_ptr``, for LOSS "direct" and "hinge".
    by_score_ptr: see :func:`kernels.split.split_classes`.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_programs
    n_positive, n_negative, flags, _, solvable = load_ranking(counts_ptr, centre_ptr, ranking, LOSS)
    tile = (program % n_programs).to(tl.int32)
    stride = _plane(n_tiles, n_programs)
    parts_ptr += ranking * n_tiles
    if tile == 0:
        value = value_unsolved(n_positive, n_negative, flags, LOSS)
        if solvable:
            used = tl.cdiv(summed(n_positive, n_negative, LOSS), BLOCK)
            score_sum = _sum_of_tiles(parts_ptr, used, BLOCK_T)
            task_sum = _sum_of_tiles(parts_ptr + stride, used, BLOCK_T)
            by_score = tl.full([], 0.0, tl.float64)
            last_sum = tl.full([], 0.0, tl.float64)
            if LOSS == "hinge" or LOSS == "ranking":
                if (flags & FAR) != 0:
                    by_score = _sum_of_tiles(by_score_ptr + ranking * n_spans, n_spans, BLOCK_T)
                elif LOSS == "ranking":
                    last_sum = tl.load(s_ptr + ranking * n_items + n_positive - 1 + n_negative)
            value = ranking_value(
                score_sum, task_sum, last_sum, by_score, epsilon_bits, n_positive, n_negative, LOSS, SIGN
            )
        tl.store(value_ptr + ranking, value)
        if LOSS != "ap" and LOSS != "ranking":
            tl.store(takes_part_ptr + ranking, takes_part(n_positive, n_negative, flags).to(tl.int8))
    end = n_positive + 1
    if LOSS == "direct" or LOSS == "hinge":
        end = tl.where((flags & FAR) != 0, n_items, end)
    if LOSS != "ap" and LOSS != "ranking":
        while solvable & (tile * BLOCK < end):
            row = tile * BLOCK + tl.arange(0, BLOCK)
            mask = row <= n_positive
            if tile * BLOCK <= n_positive:
                choice = tl.load(rows_ptr + ranking * n_items + row, mask=row < n_positive, other=0).to(tl.float64)
                before = _sum_of_tiles(parts_ptr + 2 * stride, tile, BLOCK_T) + tl.cumsum(choice, axis=0) - choice
                tl.store(before_ptr + ranking * n_items + row, before, mask=mask)
                if SIGN == 0:
                    further = _plane(n_items, n_programs) + ranking * n_items + row
                    choice = tl.load(rows_ptr + further, mask=row < n_positive, other=0).to(tl.float64)
                    before = _sum_of_tiles(parts_ptr + 3 * stride, tile, BLOCK_T) + tl.cumsum(choice, axis=0) - choice
                    tl.store(before_ptr + further, before, mask=mask)
            if LOSS == "direct" or LOSS == "hinge":
                if (flags & FAR) != 0:
                    restore_scores(
                        v_ptr + ranking * n_items,
                        scores_ptr + ranking_start(ranking, n_inner, stride_so, stride_si),
                        order_ptr + ranking * n_items, stride_sn, row, n_items,
                    )  # fmt: skip
            tile = tile + n_programs


@triton.jit
def _sum_of_tiles(parts_ptr, n_tiles, BLOCK_T: tl.constexpr):
    total = tl.zeros([BLOCK_T], tl.float64)
    for base in range(0, n_tiles, BLOCK_T):
        tile = base + tl.arange(0, BLOCK_T)
        total += tl.load(parts_ptr + tile, mask=tile < n_tiles, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["n_items", "n_tiles", "epsilon_bits"])
def write_items(
    v_ptr, order_ptr, counts_ptr, centre_ptr, rows_ptr, before_ptr, value_ptr,
    out_ptr,
    n_items, n_tiles, epsilon_bits,
    LOSS: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient, or the ranks, back at the items. One program owns a tile of one ranking, see :func:`tile_of`.

    n_tiles: one more than the places fill.
    order_ptr: (rankings, n_items) int32, the item at each place. out_ptr: (rankings, n_items): the gradient, or for
    LOSS "ranking" the ranks in int64, -1 for ignored items.
    """
    program = tl.program_id(0).to(tl.int64)
    ranking = program // n_tiles
    start = ranking * n_items
    n_positive, n_negative, flags, _, solvable = load_ranking(counts_ptr, centre_ptr, ranking, LOSS)
    first, end = tile_of((program % n_tiles).to(tl.int32), n_positive, n_items.to(tl.int32), BLOCK)
    place = first + tl.arange(0, BLOCK)
    mask = place < end
    item = tl.load(order_ptr + start + place, mask=mask, other=0)
    value = tl.full([], 0.0, tl.float64)
    if LOSS != "ranking":
        value = tl.load(value_ptr + ranking).to(tl.float64)
    result = result_at(
        v_ptr + start, rows_ptr + start, before_ptr + start, _plane(n_items, n_tiles),
        first, end, n_positive, n_negative, flags, value, solvable, epsilon_bits,
        LOSS, SIGN, True, BLOCK,
    )  # fmt: skip
    tl.store(out_ptr + start + item, result.to(out_ptr.dtype.element_ty), mask=mask)

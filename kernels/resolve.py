"""Loss-augmented inference for one ranking by one program: search, conflicts, or the dynamic program of the paper."""

import triton
import triton.language as tl

from .blocks import begin_levels, copy, find_last, mark, settle
from .pool import pool
from .program import solve_block
from .search import search_concave, search_free
from .terms import count_above

_HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def solve_ranking(
    v_ptr, n_ptr, s_ptr,
    choice_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
    n_positive, n_negative, centre, task,
    SIGN: tl.constexpr, METHOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Exact ``argmax F + s epsilon L``: into ``choice`` for every row how many negatives stand above it.

    METHOD "standard" is ``argmax F`` alone, "dp" the dynamic program over all columns, "auto" the search.
    """
    lane = tl.arange(0, BLOCK)
    if METHOD == "dp":
        for base in range(0, n_positive, BLOCK):
            row = base + lane
            mask = row < n_positive
            tl.store(low_ptr + row, row * 0, mask=mask)
            tl.store(high_ptr + row, row * 0 + n_negative, mask=mask)
            tl.store(last_ptr + row, row * 0 + n_positive - 1, mask=mask)
        tl.debug_barrier()
        solve_block(
            v_ptr, s_ptr, last_ptr, low_ptr, high_ptr, choice_ptr, x_ptr, y_ptr,
            0, n_positive, centre, task,
            BLOCK, COLUMNS,
        )  # fmt: skip
    elif METHOD == "auto" and SIGN < 0:
        stage = 0
        conflict = 1
        while conflict != 0:
            settle(
                v_ptr, n_ptr, s_ptr,
                choice_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
                0, n_positive, n_negative, centre, task, stage,
                BLOCK, ROWS, PIECES, COLUMNS,
            )  # fmt: skip
            if stage == 1:
                begin_levels(starts_ptr, last_ptr, 0, n_positive, BLOCK)
            anew = (stage == 0).to(tl.int32)
            conflict = mark(choice_ptr, starts_ptr, low_ptr, high_ptr, 0, n_positive, -1, _HIGHEST, anew, BLOCK)
            stage = stage + 1
    else:
        for base in range(0, n_positive, BLOCK):
            search_rows(
                v_ptr, n_ptr, s_ptr, choice_ptr,
                base, n_positive, n_negative, centre, task,
                SIGN, METHOD, BLOCK, PIECES,
            )  # fmt: skip
        tl.debug_barrier()
        if METHOD == "auto":
            conflict = mark(choice_ptr, starts_ptr, low_ptr, high_ptr, 0, n_positive, -1, _HIGHEST, 1, BLOCK)
            if conflict != 0:
                find_last(starts_ptr, last_ptr, 0, n_positive, BLOCK)
                pool(
                    v_ptr, n_ptr, starts_ptr, last_ptr, low_ptr, high_ptr, work_ptr, x_ptr, y_ptr,
                    0, n_positive, n_negative, task,
                    BLOCK,
                )  # fmt: skip
                copy(low_ptr, choice_ptr, 0, n_positive, BLOCK)


@triton.jit
def search_rows(
    v_ptr, n_ptr, s_ptr, choice_ptr,
    base, n_positive, n_negative, centre, task,
    SIGN: tl.constexpr, METHOD: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """The best choice of each of ROWS rows from ``base`` on, by itself."""
    row = base + tl.arange(0, ROWS)
    mask = row < n_positive
    p = tl.load(v_ptr + row, mask=mask, other=0.0)
    if METHOD == "auto" and SIGN < 0:
        top = count_above(n_ptr, n_negative, p, mask, True)
        choice, _ = search_free(s_ptr, n_ptr, p, p - centre, row + 1, top, task, mask, PIECES)
    else:
        choice = count_above(n_ptr, n_negative, p, mask, False)
        if METHOD == "auto":
            choice = search_concave(n_ptr, choice, n_negative, p, row + 1, task, mask)
    tl.store(choice_ptr + row, choice, mask=mask)

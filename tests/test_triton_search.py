"""Kernels that find the ranking: search, blocks in conflict, the dynamic program; each against its twin."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from fastap.kernels import blocks, long, program, proof
from fastap.kernels.proof import set_prices
from fastap.kernels.search import search_band
from fastap.kernels.terms import count_above, task_scale
from torch import Tensor

from fastap.backends.triton import solve, twins
from fastap.backends.triton.launch import Waves
from tests.kernel_batches import (
    ITEMS,
    SCAN,
    SEARCH,
    SMALL,
    UNPROVED,
    Batch,
    bits_of,
    both,
    choices,
    counted,
    everything,
    memory,
    ranking,
    same_optimum,
    some,
)
from tests.kernels import DEVICE, TILE, interpreted, quiet, small_long_launch
from tests.problems import KINDS

pytestmark = quiet


def search_both(batch: Batch, loss: str, sign: int, method: str, epsilon: float) -> list[Tensor]:
    """The choices of kernel and twin, (rankings, items); what nobody is to write is the same."""
    programs = 2
    (result,) = both(
        long, "search_rankings", batch.rankings * programs, batch.problem, (batch.rows(),),
        (batch.items, programs, bits_of(epsilon)), loss, sign, method,
        LOSS=loss, SIGN=sign, METHOD=method, ROWS=4, PIECES=8, num_warps=1,
    )  # fmt: skip
    ours, theirs = result
    assert torch.equal(ours[1:], theirs[1:])
    for number, (positives, *_) in enumerate(batch.counts.tolist()):
        assert torch.equal(ours[0, number, positives:], theirs[0, number, positives:])
    return [ours[0], theirs[0]]


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_search_rankings(sign: int, epsilon: float) -> None:
    batch = Batch.of(*everything(torch.float64) if epsilon == 1.0 else some(torch.float32))
    ours, theirs = search_both(batch, "direct", sign, "auto", epsilon)
    solved = batch.terms(sign, epsilon)
    assert len(solved) > (len(KINDS) + 8 if epsilon == 1.0 else 4)
    for number, terms in solved:
        positives = terms.shape[0]
        largest = terms.abs().amax(1)
        reached = terms.gather(1, ours[number, :positives].long()[:, None])[:, 0]
        assert (reached >= terms.amax(1) - 1e-14 * largest).all()
        # What later stages count on.
        p, n = batch.v[number, :positives, None], batch.v[number, positives : int(batch.counts[number, :2].sum())]
        if sign > 0:
            assert (ours[number, :positives] >= (n > p).sum(1)).all()
        else:
            assert (ours[number, :positives] <= (n >= p).sum(1)).all()
    for number in {*range(batch.rankings)} - {number for number, _ in solved}:
        assert torch.equal(ours[number], theirs[number])


def test_search_by_score() -> None:
    batch = Batch.of(*everything(torch.float32))
    ours, theirs = search_both(batch, "perceptron", 1, "standard", 1.0)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("items", [1, 2, 3, 500])
def test_search_of_rows_of_many_lengths(items: int) -> None:
    """Windows that are clipped at once, and those that go several levels down."""
    rng = np.random.default_rng(items)
    scores, targets = torch.tensor(rng.standard_cauchy((3, items + 2))), torch.zeros(3, items + 2, dtype=torch.int64)
    targets[:, :2] = 1
    scores[:, :2] = scores.quantile(torch.tensor([0.02, 0.5], dtype=torch.float64), dim=1).T
    batch = Batch.of(scores.to(DEVICE), targets.to(DEVICE))
    for epsilon in (1e-3, 1.0, 30.0):
        ours, _ = search_both(batch, "direct", -1, "auto", epsilon)
        for number, terms in batch.terms(-1, epsilon):
            reached = terms.gather(1, ours[number, :2].long()[:, None])[:, 0]
            assert (reached >= terms.amax(1) - 1e-14 * terms.abs().amax(1)).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_find_extremes_and_mark_tiles(seed: int) -> None:
    batch = Batch.of(*everything(torch.float32))
    rows, programs = choices(batch, seed), batch.rankings * batch.row_tiles
    inputs = batch.counts, batch.centre
    (extremes,) = both(
        long, "find_extremes", programs, (*inputs, rows), (memory(2, programs, dtype=torch.int32),),
        (batch.items, batch.row_tiles), TILE, **SMALL,
    )  # fmt: skip
    assert torch.equal(*extremes)
    ((ours, theirs),) = both(
        long, "mark_tiles", programs, (*inputs, extremes[1]), (rows,), (batch.items, batch.row_tiles, batch.plane),
        **SMALL, BLOCK_T=SCAN,
    )  # fmt: skip
    assert torch.equal(ours, theirs)
    starts = ours[1][ours[1] != rows[1]]
    assert {*starts.tolist()} == {0, 1}


def marked(batch: Batch, sign: int, epsilon: float) -> Tensor:
    """``rows`` as the settling finds it."""
    rows = batch.searched(sign, epsilon)
    extremes = memory(2, batch.rankings * batch.row_tiles, dtype=torch.int32)
    twins.find_extremes(batch.counts, batch.centre, rows, extremes, batch.items, batch.row_tiles, TILE)
    twins.mark_tiles(batch.counts, batch.centre, extremes, rows, batch.items, batch.row_tiles, batch.plane)
    return rows


def runs(starts: list[int]) -> list[tuple[int, int]]:
    """First row and row past the last of each block."""
    firsts = [row for row, start in enumerate(starts) if start]
    return list(zip(firsts, [*firsts[1:], len(starts)], strict=True))


def settle_both(batch: Batch, sign: int, epsilon: float) -> tuple[Tensor, int]:
    """``rows`` as the kernel settles it, checked, and how many blocks had several rows."""
    rows = marked(batch, sign, epsilon)
    (ours, theirs), _ = both(
        long, "settle_tiles", batch.rankings * batch.row_tiles, batch.problem, (rows, batch.sums()),
        (batch.items, batch.row_tiles, batch.plane, bits_of(epsilon)), sign, SIGN=sign, **SEARCH,
    )  # fmt: skip
    several = 0
    for number, terms in batch.terms(sign, epsilon):
        positives = terms.shape[0]
        choice, _, last = ours[:3, number, :positives]
        assert ((choice >= 0) & (choice < terms.shape[1])).all()
        for first, end in runs(rows[1, number, :positives].tolist()):
            best = theirs[0, number, first:end]
            if end - first == 1:
                assert choice[first] == best[0]
                continue
            several += 1
            if sign > 0:
                assert (choice[first:end].diff() >= 0).all()
                same_optimum(terms[first:end], choice[first:end], best)
                continue
            # Level sets: each at its optimum, which may leave them in conflict.
            row = first
            while row < end:
                stop = int(last[row]) + 1
                assert row < stop <= end
                assert (last[row:stop] == stop - 1).all()
                assert (choice[row:stop].diff() >= 0).all()
                same_optimum(terms[row:stop], choice[row:stop], twins._best(terms[row:stop]).to(DEVICE))
                row = stop
        # Rows beyond are nobody's.
        assert torch.equal(ours[:, number, positives:], rows[:, number, positives:])
    return ours, several


# Kind, seed, positives of 45 items, epsilon. One block of all rows, over two tiles; one of most; several.
POOLED = [
    ("tied", 88723, 29, 2.931),
    ("two-valued", 15526, 26, 2.546),
    ("saturated", 65304, 25, 1.877),
    ("gaussian", 33557, 20, 0.511),
    ("cauchy", 44955, 27, 0.668),
]


def hard(kind: str, seed: int, n_positive: int, dtype: torch.dtype = torch.float64) -> Batch:
    scores, targets = ranking(kind, seed, n_positive, 45 - n_positive, 45)
    return Batch.of(scores[None].to(DEVICE, dtype), targets[None].to(DEVICE))


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), POOLED)
def test_settle_tiles_of_the_positive_update(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    ours, several = settle_both(hard(kind, seed, n_positive), 1, epsilon)
    assert several
    assert (ours[0, 0, :n_positive].diff() >= 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_settle_tiles_of_a_batch(sign: int) -> None:
    """Rankings with nothing to do beside one that is a single block."""
    scores, targets = some(torch.float32)
    scores[0], targets[0] = (each[:ITEMS].to(scores.device) for each in ranking("tied", 88723, TILE + 4, 20))
    _, several = settle_both(Batch.of(scores, targets), sign, 2.9)
    assert several or sign < 0


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_settle_tiles_and_finish_rankings(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    batch, another_round = hard(kind, seed, n_positive), seed == UNPROVED[0][1]
    with counted(proof, "solve_block") as programs, counted(program, "_middle_choice") as steps:
        settled, several = settle_both(batch, -1, epsilon)
        falls = bool((settled[0, 0, :n_positive].diff() < 0).any())
        once = programs.call_count
        finish_both(batch, settled, epsilon)
    assert several
    assert falls == another_round
    if DEVICE == "cpu":
        assert once >= 1
        assert programs.call_count > once or not another_round
        assert steps.call_count >= 8


def finish_both(batch: Batch, rows: Tensor, epsilon: float) -> None:
    (ours, theirs), _ = both(
        long, "finish_rankings", batch.rankings, batch.problem, (rows, batch.sums()),
        (batch.items, batch.plane, bits_of(epsilon)), **SEARCH, BLOCK_W=2 * TILE,
    )  # fmt: skip
    for number, terms in batch.terms(-1, epsilon):
        choice = ours[0, number, : terms.shape[0]]
        assert (choice.diff() >= 0).all()
        same_optimum(terms, choice, theirs[0, number, : terms.shape[0]])


@triton.jit
def _without_prices(
    v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, task,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Prices of nothing are prices too, but prove little."""
    set_prices(v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr, first, end, n_negative, task, BLOCK)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        tl.store(x_ptr + row, row * 0.0, mask=row < end)


@interpreted
@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_blocks_are_solved_whatever_is_proved(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    """Wide bands, and more of them."""
    batch = hard(kind, seed, n_positive, torch.float32)
    with (
        mock.patch.object(blocks, "set_prices", _without_prices),
        counted(proof, "search_band") as bands,
    ):
        settled, several = settle_both(batch, -1, epsilon)
        finish_both(batch, settled, epsilon)
    assert several
    assert bands.call_count >= 2


@pytest.mark.parametrize("sign", [1, -1])
def test_solve_whole(sign: int) -> None:
    batch = Batch.of(*some(torch.float32 if sign > 0 else torch.float64))
    (ours, theirs), _ = both(
        long, "solve_whole", batch.rankings, batch.problem, (batch.rows(), batch.sums()),
        (batch.items, batch.plane, bits_of(0.7)), sign, SIGN=sign, **SMALL, COLUMNS=TILE,
    )  # fmt: skip
    check_solution(batch, ours[0], theirs[0], sign, 0.7)


def check_solution(batch: Batch, ours: Tensor, theirs: Tensor, sign: int, epsilon: float) -> None:
    solved = batch.terms(sign, epsilon)
    assert solved
    for number, terms in solved:
        positives = terms.shape[0]
        assert (ours[number, :positives].diff() >= 0).all()
        same_optimum(terms, ours[number, :positives], theirs[number, :positives])
    for number in {*range(batch.rankings)} - {number for number, _ in solved}:
        assert torch.equal(ours[number], theirs[number])


@pytest.mark.parametrize(("segments", "stripes"), [(2, (2, 1)), (3, (1,)), (5, (1,))])
@pytest.mark.parametrize("sign", [1, -1])
def test_waves(sign: int, segments: int, stripes: tuple[int, ...]) -> None:
    """The same, cut across rows and columns: with fewer rows than segments, and many more."""
    batch = Batch.of(*some(torch.float32))
    rows, theirs = batch.rows(), batch.rows()
    task = solve.Task("direct", sign, "dp", 0.7)
    launch = replace(small_long_launch(), waves=Waves(segments, stripes, TILE, 1, None))
    inputs = SimpleNamespace(rankings=batch.rankings, items=batch.items)
    solve.solve(inputs, task, launch, solve.Sorted(*batch.arrays), rows, batch.sums())
    twins.solve_whole(*batch.problem, theirs, batch.sums(), batch.items, batch.plane, task.epsilon_bits, sign)
    check_solution(batch, rows[0], theirs[0], sign, 0.7)


@triton.jit
def _find_bands(
    v_ptr, s_ptr, centre_ptr, inside_ptr, floor_ptr,
    low_ptr, high_ptr,
    n_positive, n_negative, epsilon_bits,
    ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    n_ptr = v_ptr + n_positive - 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_positive
    p = tl.load(v_ptr + row, mask=mask, other=0.0).to(tl.float64)
    top = count_above(n_ptr, n_negative, p, mask, True)
    task = task_scale(epsilon_bits, n_negative, -1)
    low, high = search_band(
        s_ptr + n_positive - 1, n_ptr, p, p - tl.load(centre_ptr), row + 1, top, task,
        tl.load(inside_ptr + row, mask=mask, other=0), tl.load(floor_ptr + row, mask=mask, other=0.0), mask, PIECES,
    )  # fmt: skip
    tl.store(low_ptr + row, low, mask=mask)
    tl.store(high_ptr + row, high, mask=mask)


@pytest.mark.parametrize("kind", ["gaussian", "cauchy", "tied", "conflicting"])
def test_search_band(kind: str) -> None:
    """The least and the greatest ``a`` that is high enough, wherever between them others are not."""
    for seed, epsilon in ((1, 0.05), (2, 3.0), (3, 40.0)):
        n_positive, n_negative = 8, 70
        batch = Batch.of(*(each[None].to(DEVICE) for each in ranking(kind, seed, n_positive, n_negative, 78)))
        ((_, terms),) = batch.terms(-1, epsilon)
        p, n = batch.v[0, :n_positive, None], batch.v[0, n_positive:]
        reachable = torch.arange(n_negative + 1, device=DEVICE) <= (n >= p).sum(1)[:, None]
        terms = terms.where(reachable, -torch.inf)
        best, inside = terms.max(1)
        generator = torch.Generator().manual_seed(seed)
        lowest = terms.where(reachable, torch.inf).amin(1)
        slack = torch.tensor([0.0, 1e-6, 0.05, 0.5])[torch.randint(4, (n_positive,), generator=generator)].to(DEVICE)
        largest = terms.where(reachable, 0.0).abs().amax(1)
        floor = best - slack * (best - lowest) - 1e-12 * largest
        low, high = (memory(n_positive, dtype=torch.int32) for _ in range(2))
        _find_bands[(2,)](
            batch.v, batch.s, batch.centre, inside.int(), floor, low, high, n_positive, n_negative, bits_of(epsilon),
            ROWS=4, PIECES=8, num_warps=1,
        )  # fmt: skip
        for number in range(n_positive):
            # Within rounding of the floor either answer is right.
            surely, perhaps = (
                (terms[number] >= floor[number] + sign * 1e-13 * largest[number]).nonzero()[:, 0] for sign in (1, -1)
            )
            assert perhaps[0] <= low[number] <= surely[0]
            assert surely[-1] <= high[number] <= perhaps[-1]

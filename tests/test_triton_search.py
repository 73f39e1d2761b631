"""Kernels that find the ranking: search, blocks in conflict, the dynamic program; each against its definition."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from fastap.kernels import program, tiled
from fastap.kernels.certify import set_prices
from fastap.kernels.search import search_band
from fastap.kernels.terms import count_above, task_scale
from torch import Tensor

from emulator import Device
from fastap.backends.triton.inputs import Task
from fastap.backends.triton.launch import Waves
from fastap.backends.triton.plan import Plan, place_of
from fastap.backends.triton.split import Sorted
from fastap.backends.triton.tiled import LANES, solve
from tests.kernel_batches import (
    ITEMS,
    POOLED,
    SEARCH,
    SMALL,
    UNPROVED,
    Split,
    bits_of,
    check_optimum,
    hard,
    memory,
    ranking,
    some,
)
from tests.kernels import DEVICE, TILE, often, small_tiled_launch
from tests.problems import KINDS
from tests.rewritten import rewritten

CHUNK = 4

pytestmark = pytest.mark.usefixtures("gpu")


def searched(batch: Split, loss: str, sign: int, method: str, epsilon: float) -> tuple[Tensor, Tensor]:
    """``rows`` after the search, and the extremes of its chunks; what nobody is to write is as it was."""
    rows, chunks = batch.rows(), triton.cdiv(batch.items, CHUNK)
    extremes = memory(2, batch.rankings, chunks, dtype=torch.int32)
    before = rows.clone()
    tiled.search_rankings[(batch.rankings * 2,)](
        *batch.problem, rows, extremes, batch.items, 2, chunks, bits_of(epsilon),
        LOSS=loss, SIGN=sign, METHOD=method, ROWS=4, PIECES=8, CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    solved = {number: terms.shape[0] for number, terms in batch.terms(sign, epsilon)}
    for number in range(batch.rankings):
        rows_of = solved.get(number, 0)
        assert torch.equal(rows[0, number, rows_of:], before[0, number, rows_of:])
        if method == "auto" and rows_of:
            parts = rows[0, number, :rows_of].split(CHUNK)
            assert extremes[0, number, : len(parts)].tolist() == [int(part.max()) for part in parts]
            assert extremes[1, number, : len(parts)].tolist() == [int(part.min()) for part in parts]
    assert torch.equal(rows[1:], before[1:])
    return rows, extremes


def check_rows(batch: Split, choices: Tensor, sign: int, epsilon: float) -> int:
    """Every row at its best, and what later stages count on; how many rankings there were."""
    solved = batch.terms(sign, epsilon)
    for number, terms in solved:
        p, n = batch.classes(number)
        choice = choices[number, : len(p)].cpu().long()
        reached = terms.gather(1, choice[:, None])[:, 0]
        assert (reached >= terms.amax(1) - 1e-14 * terms.abs().amax(1)).all()
        if sign > 0:
            assert (choice >= (n > p[:, None]).sum(1)).all()
        else:
            assert (choice <= (n >= p[:, None]).sum(1)).all()
    return len(solved)


@pytest.mark.parametrize(
    ("sign", "epsilon"), often((1, 0.01), (-1, 100.0), full=[(1, 100.0), (-1, 0.01), (1, 1.0), (-1, 1.0)])
)
def test_search_rankings(sign: int, epsilon: float) -> None:
    batch = Split.of_everything(torch.float64) if epsilon == 1.0 else Split.of(*some(torch.float32))
    rows, _ = searched(batch, "direct", sign, "auto", epsilon)
    assert check_rows(batch, rows[0], sign, epsilon) > (len(KINDS) + 8 if epsilon == 1.0 else 4)


def test_search_by_score() -> None:
    batch = Split.of(*some(torch.float32))
    rows, _ = searched(batch, "perceptron", 1, "standard", 1.0)
    for number, _ in batch.terms(1, 1.0):
        p, n = batch.classes(number)
        assert torch.equal(rows[0, number, : len(p)].cpu().long(), (n > p[:, None]).sum(1))


@pytest.mark.parametrize("items", often(1, 300, full=[2, 3]))
def test_search_of_rows_of_many_lengths(items: int) -> None:
    """Windows that are clipped at once, and those that go several levels down."""
    rng = np.random.default_rng(items)
    scores, targets = torch.tensor(rng.standard_cauchy((2, items + 2))), torch.zeros(2, items + 2, dtype=torch.int64)
    targets[:, :2] = 1
    scores[:, :2] = scores.quantile(torch.tensor([0.02, 0.5], dtype=torch.float64), dim=1).T
    batch = Split.of(scores.to(DEVICE), targets.to(DEVICE))
    for epsilon in (1e-3, 30.0):
        check_rows(batch, searched(batch, "direct", -1, "auto", epsilon)[0][0], -1, epsilon)


def marked(batch: Split, rows: Tensor, extremes: Tensor) -> Tensor:
    """``rows`` with blocks, which end where all rows before choose at most what all rows after do."""
    tiled.mark_rankings[(batch.rankings * 2,)](
        batch.sorted.counts, batch.sorted.centre, extremes, rows, batch.items, 2, extremes.shape[2], batch.plane,
        **SMALL, BLOCK_T=2, CHUNK=CHUNK,
    )  # fmt: skip
    return rows


@pytest.mark.parametrize("seed", often(1, full=[2]))
def test_mark_rankings(seed: int) -> None:
    batch = Split.of_everything(torch.float64) if seed == 2 else Split.of(*some(torch.float32))
    rows, generator = batch.rows(), torch.Generator().manual_seed(seed)
    # Choices that climb, not without falls.
    for number, terms in batch.terms(1, 1.0):
        climb = torch.arange(len(terms)) * (0.1 + number % 3) + torch.randint(4, (len(terms),), generator=generator)
        rows[0, number, : len(terms)] = climb.int().clamp(max=terms.shape[1] - 1).to(DEVICE)
    before = rows.clone()
    extremes = memory(2, batch.rankings, triton.cdiv(batch.items, CHUNK), dtype=torch.int32)
    for number, terms in batch.terms(1, 1.0):
        for chunk, part in enumerate(rows[0, number, : len(terms)].split(CHUNK)):
            extremes[:, number, chunk] = torch.stack([part.max(), part.min()])
    marked(batch, rows, extremes)
    found = set()
    for number, terms in batch.terms(1, 1.0):
        choice = rows[0, number, : len(terms)].tolist()
        starts = [row == 0 or max(choice[:row]) <= min(choice[row:]) for row in range(len(choice))]
        assert rows[1, number, : len(terms)].tolist() == starts
        assert rows[2, number, : len(terms)].tolist() == list(range(len(terms)))
        assert torch.equal(rows[:, number, len(terms) :], before[:, number, len(terms) :])
        found.update(starts)
    assert found == {True, False}


def settled(batch: Split, sign: int, epsilon: float) -> tuple[Tensor, int]:
    """``rows`` after the settling, each block at its optimum, and how many blocks had several rows.

    Of the negative update level sets are: each at its optimum, which may leave them in conflict.
    """
    rows = marked(batch, *searched(batch, "direct", sign, "auto", epsilon))
    before, sums = rows.clone(), batch.sums()
    v, s, counts, centre = batch.problem
    sizes = batch.items, 2, batch.plane, bits_of(epsilon)
    grid = (2 * batch.rankings,)
    tiled.pool_rankings[grid](v, counts, centre, rows, sums, *sizes, SIGN=sign, **SMALL)
    if sign < 0:
        tiled.price_rankings[grid](v, s, counts, centre, rows, sums, *sizes, ROWS=1, PIECES=8, num_warps=1)
        tiled.settle_rankings[grid](v, s, counts, centre, rows, sums, *sizes, **SEARCH, LANES=LANES)
    several = 0
    for number, terms in batch.terms(sign, epsilon):
        rows_of = rows[:3, number, : len(terms)].cpu()
        firsts = before[1, number, : len(terms)].nonzero()[:, 0].tolist()
        for first, end in zip(firsts, [*firsts[1:], len(terms)], strict=True):
            if end - first == 1:
                assert rows_of[0, first] == before[0, number, first]
                continue
            several += 1
            start = first
            while start < end:
                stop = end if sign > 0 else int(rows_of[2, start]) + 1
                assert start < stop <= end
                assert sign > 0 or (rows_of[2, start:stop] == stop - 1).all()
                check_optimum(terms[start:stop], rows_of[0, start:stop])
                start = stop
        # Rows beyond are nobody's.
        assert torch.equal(rows[:, number, len(terms) :], before[:, number, len(terms) :])
    return rows, several


@pytest.mark.parametrize(
    "case", often(*POOLED[:4:3], full=[(case,) for case in POOLED if case not in POOLED[:4:3]]), ids=str
)
def test_settle_of_the_positive_update(case: tuple[str, int, int, float]) -> None:
    batch = Split.of(*hard(case))
    rows, several = settled(batch, 1, case[3])
    assert several
    ((_, terms),) = batch.terms(1, case[3])
    check_optimum(terms, rows[0, 0, : case[2]])


@pytest.mark.full
@pytest.mark.parametrize("sign", [1, -1])
def test_settle_of_a_batch(sign: int) -> None:
    """Rankings with nothing to do beside one that is a single block."""
    scores, targets = some(torch.float32)
    scores[0], targets[0] = (each[:ITEMS].to(scores.device) for each in ranking("tied", 88726, TILE + 4, 20))
    _, several = settled(Split.of(scores, targets), sign, 2.9)
    assert several or sign < 0


def finished(batch: Split, rows: Tensor, epsilon: float) -> None:
    tiled.finish_rankings[(batch.rankings,)](
        *batch.problem, rows, batch.sums(), batch.items, batch.plane, bits_of(epsilon), **SEARCH, BLOCK_W=2 * TILE
    )  # fmt: skip
    for number, terms in batch.terms(-1, epsilon):
        check_optimum(terms, rows[0, number, : len(terms)])


@pytest.mark.parametrize("case", often(UNPROVED[0], full=[(case,) for case in UNPROVED[1:]]), ids=str)
def test_settle_and_finish_rankings(case: tuple[str, int, int, float], gpu: Device | None) -> None:
    batch, another_round = Split.of(*hard(case)), case == UNPROVED[0]
    rows, several = settled(batch, -1, case[3])
    falls = bool((rows[0, 0, : case[2]].diff() < 0).any())
    finished(batch, rows, case[3])
    assert several
    assert falls == another_round
    if gpu:
        settle, finish = gpu.launches[-2:]
        assert settle.reaches(program.solve_block)
        assert finish.reaches(program.solve_block) == another_round


@pytest.mark.full
@pytest.mark.parametrize("case", UNPROVED, ids=str)
def test_blocks_are_solved_whatever_is_proved(case: tuple[str, int, int, float], gpu: Device | None) -> None:
    """Wide bands, and more of them: prices of nothing are prices too, but prove little."""
    batch = Split.of(*hard(case, dtype=torch.float32))
    bands = []
    for prices in ("multiplier", "0 * multiplier"):
        with rewritten(set_prices, "0.0, multiplier)", f"0.0, {prices})"):
            rows, several = settled(batch, -1, case[3])
            finished(batch, rows, case[3])
        assert several
        bands.append(gpu and sum(launch.runs(search_band) for launch in gpu.launches[-2:]))
    assert not gpu or bands[1] > bands[0]


def check_solution(batch: Split, rows: Tensor, before: Tensor, sign: int) -> None:
    solved = batch.terms(sign, 0.7)
    assert solved
    for number, terms in solved:
        check_optimum(terms, rows[0, number, : len(terms)])
    for number in {*range(batch.rankings)} - {number for number, _ in solved}:
        assert torch.equal(rows[0, number], before[0, number])


@pytest.mark.parametrize("sign", often(-1, full=[1]))
def test_solve_whole(sign: int) -> None:
    batch = Split.of(*some(torch.float32 if sign > 0 else torch.float64))
    rows = batch.rows()
    before = rows.clone()
    tiled.solve_whole[(batch.rankings,)](
        *batch.problem, rows, batch.sums(), batch.items, batch.plane, bits_of(0.7), SIGN=sign, **SMALL, COLUMNS=TILE
    )  # fmt: skip
    check_solution(batch, rows, before, sign)


@pytest.mark.parametrize(
    ("segments", "stripes", "sign"),
    often((2, (2, 1), -1), full=[(2, (2, 1), 1), *((segments, (1,), sign) for segments in (3, 5) for sign in (1, -1))]),
)
def test_waves(sign: int, segments: int, stripes: tuple[int, ...]) -> None:
    """The same, cut across rows and columns: with fewer rows than segments, and many more."""
    batch = Split.of(*some(torch.float32))
    rows = batch.rows()
    before = rows.clone()
    launch = replace(small_tiled_launch(), waves=Waves(segments, stripes, TILE, 1, None))
    inputs = SimpleNamespace(rankings=batch.rankings, items=batch.items)
    given = *batch.sorted, rows, batch.sums()
    *sorted_, rows_place, sums_place = (place_of(number, each) for number, each in enumerate(given, 1))
    plan = Plan(rows.device, len(given))
    solve(plan, inputs, Task("direct", sign, "dp", 0.7), launch, Sorted(*sorted_), rows_place, sums_place)
    plan.end()
    plan.run(given)
    check_solution(batch, rows, before, sign)


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


@pytest.mark.parametrize("kind", often("conflicting", full=["tied", "gaussian", "cauchy"]))
def test_search_band(kind: str) -> None:
    """The least and the greatest ``a`` that is high enough, wherever between them others are not."""
    for seed, epsilon in ((1, 0.05), (2, 3.0), (3, 40.0)):
        n_positive, n_negative = 8, 70
        batch = Split.of(*(each[None].to(DEVICE) for each in ranking(kind, seed, n_positive, n_negative, 78)))
        ((_, terms),) = batch.terms(-1, epsilon)
        p, n = batch.classes(0)
        reachable = torch.arange(n_negative + 1) <= (n >= p[:, None]).sum(1)[:, None]
        terms = terms.where(reachable, -torch.inf)
        best, inside = terms.max(1)
        generator = torch.Generator().manual_seed(seed)
        lowest = terms.where(reachable, torch.inf).amin(1)
        slack = torch.tensor([0.0, 1e-6, 0.05, 0.5])[torch.randint(4, (n_positive,), generator=generator)]
        largest = terms.where(reachable, 0.0).abs().amax(1)
        floor = best - slack * (best - lowest) - 1e-12 * largest
        low, high = (memory(n_positive, dtype=torch.int32) for _ in range(2))
        _find_bands[(2,)](
            batch.sorted.v, batch.sorted.s, batch.sorted.centre, inside.int().to(DEVICE), floor.to(DEVICE), low, high,
            n_positive, n_negative, bits_of(epsilon), ROWS=4, PIECES=8, num_warps=1,
        )  # fmt: skip
        for number in range(n_positive):
            # Within rounding of the floor either answer is right.
            surely, perhaps = (
                (terms[number] >= floor[number] + sign * 1e-13 * largest[number]).nonzero()[:, 0] for sign in (1, -1)
            )
            assert perhaps[0] <= low[number] <= surely[0]
            assert surely[-1] <= high[number] <= perhaps[-1]

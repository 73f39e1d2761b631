"""The parts of the torch backend, each against a plain computation that shows what it claims."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

import fastap
from fastap import reference
from fastap.backends.torch import augment, banded, rowsearch
from fastap.backends.torch.banded import solve_blocks
from fastap.backends.torch.layout import Layout, rows_of, score_order, sort_batch
from fastap.backends.torch.monotone import (
    Segments,
    embed,
    merge_conflicts,
    pool,
    select,
    single_rows,
    whole_rankings,
)
from fastap.backends.torch.terms import Terms
from fastap.types import Problem
from tests.losses import random_batch
from tests.problems import random_batch as random_problems

Floats = npt.NDArray[np.float64]


def problem_of(scores: Tensor, targets: Tensor) -> Problem:
    return Problem(scores, targets == 1, targets == 0)


def terms_of(scores: Tensor, targets: Tensor, task_scale: float) -> Terms:
    layout = sort_batch(problem_of(scores, targets))
    return Terms.of(layout, rows_of(layout, layout.takes_part), task_scale)


def plain_tables(scores: Tensor, targets: Tensor, task_scale: float) -> list[Floats]:
    """For every row of every ranking, in order, ``g_i(a)`` for a = 0..N, from its definition."""
    tables = []
    for score, target in zip(scores.double().numpy(), targets.numpy(), strict=True):
        p, n = (np.sort(score[target == which])[::-1] for which in (1, 0))
        if p.size == 0 or n.size == 0:
            continue
        a = np.arange(n.size + 1)
        for i, positive in enumerate(p, 1):
            gaps = np.concatenate([[0.0], np.cumsum(n - positive)])
            tables.append(gaps + task_scale * n.size / 2 * a / (i + a))
    return tables


def best_monotone(tables: list[Floats], low: int, high: int) -> float:
    """The most that rows with these terms reach with a non-decreasing ``a`` in ``[low, high]``."""
    h = np.zeros(high - low + 1)
    for table in tables:
        h = np.maximum.accumulate(h + table[low : high + 1])
    return float(h[-1])


def hostile(seed: int) -> tuple[Tensor, Tensor, float]:
    """A few rankings of a random kind, not too long, some with ignored items, and epsilon."""
    batch = random_problems(np.random.default_rng(seed), 60)
    return torch.tensor(batch.scores), torch.tensor(batch.targets), batch.epsilon


def blocks_of(terms: Terms, starts: npt.NDArray[np.bool_]) -> Segments:
    """Segments of the rows that begin where ``starts`` says, and wherever a ranking does."""
    starts = starts.copy()
    ranking = terms.rows.ranking.numpy()
    starts[0] = True
    starts[1:] |= ranking[1:] != ranking[:-1]
    first = np.flatnonzero(starts)
    last = np.append(first[1:], starts.size) - 1
    number = np.cumsum(starts) - 1
    return Segments(torch.tensor(first[number]), torch.tensor(last[number]))


def spans(blocks: Segments) -> list[tuple[int, int]]:
    """First row and row past the last of every block."""
    return sorted({(f, x + 1) for f, x in zip(blocks.first.tolist(), blocks.last.tolist(), strict=True)})


# Sorting


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_score_order(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    generator = torch.Generator().manual_seed(1)
    scores = torch.cat(
        [
            torch.tensor([0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, finfo.max, finfo.min], dtype=dtype),
            torch.tensor(
                [finfo.tiny, -finfo.tiny, finfo.smallest_normal / 2, 1 + finfo.eps, 1 - finfo.eps], dtype=dtype
            ),
            torch.randn(60, generator=generator).to(dtype),
            torch.randint(-3, 4, (30,), generator=generator).to(dtype),
        ]
    )
    order = score_order(scores).to(torch.int64) & (2**32 - 1)
    descending = scores.double()
    assert ((order[:, None] < order) == (descending[:, None] > descending)).all()
    assert ((order[:, None] == order) == (descending[:, None] == descending)).all()


def test_float64_ranks_are_dense() -> None:
    scores = torch.tensor([[0.5, 2.0, 0.5], [-1e300, 0.5, 2.0]], dtype=torch.float64)
    assert score_order(scores).tolist() == [[1, 0, 1], [2, 1, 0]]


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sort_batch(dtype: torch.dtype, levels: int) -> None:
    scores, targets = random_batch(2, 5, 30, ignored=0.2, levels=levels, dtype=dtype)
    targets[3] = 0
    layout = sort_batch(problem_of(scores, targets))
    group = np.where(targets == 1, 0, np.where(targets == 0, 1, 2))
    values, order = layout.values.view(5, 30).numpy(), layout.order.view(5, 30).numpy()
    for row in range(5):
        expected = np.lexsort((np.arange(30), -scores[row].double().numpy(), group[row]))
        np.testing.assert_array_equal(order[row] - 30 * row, expected)
        given = scores[row].double().numpy()[expected]
        n_positive, n_negative = int((targets[row] == 1).sum()), int((targets[row] == 0).sum())
        assert (layout.n_positive[row], layout.n_negative[row]) == (n_positive, n_negative)
        centre = given[n_positive // 2]
        np.testing.assert_array_equal(values[row], given - centre)
        sums = np.cumsum(values[row, n_positive : n_positive + n_negative])
        prefix = layout.prefix.view(5, 30)[row, n_positive : n_positive + n_negative].numpy()
        np.testing.assert_allclose(prefix, sums, rtol=0, atol=1e-13)
    keys, both = layout.keys, torch.arange(150) // 30 * 3 + torch.tensor(np.sort(group, 1)).flatten()
    assert (keys.diff() >= 0).all()
    same = (layout.values.diff() == 0) & (both.diff() == 0)
    assert ((keys.diff() == 0) == same).all()
    assert layout.takes_part.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rankings_that_are_not_finite_are_found(dtype: torch.dtype, bad: float) -> None:
    for place in range(8):
        scores, targets = random_batch(3, 3, 8, dtype=dtype)
        targets[:, 5:7] = -1
        scores[1, place] = bad
        finite = sort_batch(problem_of(scores, targets)).finite
        assert finite.tolist() == [True, bool(targets[1, place] == -1), True]


def test_rows_of() -> None:
    scores, targets = random_batch(4, 4, 25, ignored=0.2, levels=6)
    targets[1] = 1
    layout = sort_batch(problem_of(scores, targets))
    rows = rows_of(layout, layout.takes_part)
    assert rows.ranking.unique().tolist() == [0, 2, 3]
    row = 0
    for ranking in (0, 2, 3):
        p, n = (scores[ranking, targets[ranking] == which].sort(descending=True).values for which in (1, 0))
        for i, positive in enumerate(p.tolist(), 1):
            assert rows.ranking[row] == ranking
            assert rows.index[row] == i
            assert rows.above[row] == (n > positive).sum()
            assert rows.at_or_above[row] == (n >= positive).sum()
            assert rows.n_negative[row] == n.numel()
            assert scores.flatten()[layout.order[rows.place[row]]] == positive
            assert [float(layout.values[rows.base[row] + j] - rows.score[row]) for j in (1, n.numel())] == [
                float(n[0] - positive),
                float(n[-1] - positive),
            ]
            row += 1
    assert row == rows.count


@pytest.mark.parametrize("sign", [1, -1])
def test_terms(sign: int) -> None:
    for seed in range(20):
        scores, targets, epsilon = hostile(seed)
        terms = terms_of(scores, targets, sign * epsilon)
        tables = plain_tables(scores, targets, sign * epsilon)
        assert terms.count == len(tables)
        for a in range(int(terms.rows.n_negative.max()) + 1):
            which = (terms.rows.n_negative >= a).nonzero().view(-1)
            part = terms.take(which)
            at = torch.full((part.count,), a)
            largest = np.array([np.abs(tables[row]).max() for row in which.tolist()])
            expected = np.array([tables[row][a] for row in which.tolist()])
            assert (np.abs(part.term(at).numpy() - expected) <= 1e-12 * largest).all()
            if a:
                step = expected - np.array([tables[row][a - 1] for row in which.tolist()])
                assert (np.abs(part.marginal(at).numpy() - step) <= 1e-12 * largest).all()


# Each row alone


def near_best(table: Floats, a: int) -> bool:
    return bool(table[a] >= table.max() - 1e-12 * np.abs(table).max())


@pytest.mark.parametrize("seed", range(40))
def test_concave_argmax(seed: int) -> None:
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, epsilon)
    given = rowsearch.concave_argmax(terms)
    for a, table in zip(given.tolist(), plain_tables(scores, targets, epsilon), strict=True):
        assert near_best(table, a)
        assert a == 0 or table[a] > table[a - 1] - 1e-12 * np.abs(table).max()


@pytest.mark.parametrize("seed", range(40))
def test_branch_and_bound_argmax(seed: int) -> None:
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, -epsilon)
    where, value = rowsearch.argmax(terms)
    assert (where <= terms.rows.at_or_above).all()
    tables = plain_tables(scores, targets, -epsilon)
    for a, best, table in zip(where.tolist(), value.tolist(), tables, strict=True):
        assert near_best(table, a)
        assert best == pytest.approx(table.max(), rel=1e-12, abs=1e-12 * np.abs(table).max())


@pytest.mark.parametrize("n_negative", [7, 64, 65, 513, 5000])
def test_branch_and_bound_of_long_rows(n_negative: int) -> None:
    rng = np.random.default_rng(n_negative)
    for draw in (rng.standard_normal, rng.standard_cauchy, lambda size: 1 / (1 + np.exp(-30 * rng.normal(size=size)))):
        scores = torch.tensor(draw(n_negative + 20))[None]
        targets = (torch.arange(n_negative + 20) < 20).long()[None]
        for epsilon in (0.01, 1.0, 30.0):
            where, _ = rowsearch.argmax(terms_of(scores, targets, -epsilon))
            for a, table in zip(where.tolist(), plain_tables(scores, targets, -epsilon), strict=True):
                assert near_best(table, a)


@pytest.mark.parametrize("seed", range(40))
def test_band(seed: int) -> None:
    """The least and the greatest ``a`` up to ``#{n >= p_i}`` that is high enough."""
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, -epsilon)
    where, value = rowsearch.argmax(terms)
    tables = plain_tables(scores, targets, -epsilon)
    rng = np.random.default_rng(seed)
    spread = np.array([table.max() - table.min() for table in tables])
    slack = spread * rng.choice([1e-6, 0.01, 0.3, 2.0], spread.size) + 1e-9 * spread.max() + 1e-9
    left, right = rowsearch.band(terms, where, value - torch.tensor(slack))
    ends = terms.rows.at_or_above.tolist()
    for row, table in enumerate(tables):
        reachable = table[: ends[row] + 1]
        rounding = 1e-12 * np.abs(table).max()
        surely = np.flatnonzero(reachable >= table.max() - slack[row] + rounding)
        perhaps = np.flatnonzero(reachable >= table.max() - slack[row] - rounding)
        assert perhaps[0] <= left[row] <= surely[0]
        assert surely[-1] <= right[row] <= perhaps[-1]


def test_rows_are_searched_in_parts() -> None:
    scores, targets = random_batch(5, 40, 60)
    terms = terms_of(scores, targets, -0.5)
    whole = rowsearch.argmax(terms)
    with mock.patch.object(rowsearch, "_LEAST_ROWS", 7), mock.patch.object(rowsearch, "_SCORES_A_ROW", 1 << 20):
        assert len(rowsearch._parts(terms)) > 20
        parts = rowsearch.argmax(terms)
    for given, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=0)


# From rows to blocks


def test_merge_conflicts() -> None:
    rng = np.random.default_rng(6)
    merges = 0
    for seed in range(60):
        scores, targets, epsilon = hostile(seed)
        terms = terms_of(scores, targets, -epsilon)
        ranking = terms.rows.ranking.numpy()
        blocks = blocks_of(terms, rng.random(terms.count) < 0.6)
        climb = np.arange(terms.count) * rng.choice([0.1, 0.5])
        choice = np.minimum(climb + rng.integers(0, 4, terms.count), terms.rows.n_negative.numpy()).astype(np.int64)
        merged = merge_conflicts(terms, blocks, torch.tensor(choice))
        cuts = {0}
        for row in range(1, terms.count):
            before = choice[:row][ranking[:row] == ranking[row]]
            after = choice[row:][ranking[row:] == ranking[row]]
            free = before.size == 0 or before.max() <= after.min()
            if free and int(blocks.first[row]) == row:
                cuts.add(row)
        assert {first for first, _ in spans(merged)} == cuts
        assert [end for _, end in spans(merged)] == [*sorted(cuts - {0}), terms.count]
        merges += len(spans(blocks)) - len(cuts)
    assert merges > 100


def test_select_and_embed_are_inverse() -> None:
    terms = terms_of(*random_batch(7, 6, 30), 1.0)
    rng = np.random.default_rng(7)
    blocks = blocks_of(terms, rng.random(terms.count) < 0.4)
    kept = [span for number, span in enumerate(spans(blocks)) if number % 3]
    rows = torch.cat([torch.arange(*span) for span in kept])
    inside = select(blocks, rows)
    assert [end - first for first, end in spans(inside)] == [end - first for first, end in kept]
    assert spans(inside)[0][0] == 0
    again = embed(blocks, rows, inside)
    assert (again.first == blocks.first).all()
    assert (again.last == blocks.last).all()
    values = torch.tensor(rng.integers(0, 100, terms.count))
    for first, end in spans(blocks):
        assert (blocks.least(values)[first:end] == values[first:end].min()).all()
        assert (blocks.greatest(values)[first:end] == values[first:end].max()).all()


@pytest.mark.parametrize("seed", range(40))
def test_pool_is_the_best_monotone_choice_for_concave_terms(seed: int) -> None:
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, epsilon)
    tables = plain_tables(scores, targets, epsilon)
    rng = np.random.default_rng(seed)
    blocks = blocks_of(terms, rng.random(terms.count) < 0.1)
    low, high = torch.zeros(terms.count, dtype=torch.int64), torch.zeros(terms.count, dtype=torch.int64)
    for first, end in spans(blocks):
        ends = np.sort(rng.integers(0, int(terms.rows.n_negative[first]) + 1, 2))
        low[first:end], high[first:end] = int(ends[0]), int(ends[1])
    a, levels = pool(terms, blocks, low, high)
    for first, end in spans(blocks):
        chosen = a[first:end].numpy()
        assert (np.diff(chosen) >= 0).all()
        assert low[first] <= chosen[0]
        assert chosen[-1] <= high[first]
        given = sum(table[at] for table, at in zip(tables[first:end], chosen, strict=True))
        best = best_monotone(tables[first:end], int(low[first]), int(high[first]))
        scale = sum(np.abs(table).max() for table in tables[first:end])
        assert given == pytest.approx(best, rel=1e-12, abs=1e-12 * scale)
    # Level sets: the runs of equal choices inside a block.
    changes = np.ones(terms.count, dtype=bool)
    changes[1:] = np.diff(a.numpy()) != 0
    expected = blocks_of(terms, changes | (blocks.first.numpy() == np.arange(terms.count)))
    assert spans(levels) == spans(expected)


def check_blocks(a: Tensor, tables: list[Floats], blocks: Segments, low: Tensor, high: Tensor) -> None:
    """Within every block ``a`` is monotone, inside the frame, and the best there is."""
    for first, end in spans(blocks):
        chosen = a[first:end].numpy()
        assert (np.diff(chosen) >= 0).all()
        bottom, top = int(low[first:end].min()), int(high[first:end].max())
        assert bottom <= chosen[0]
        assert chosen[-1] <= top
        given = sum(table[at] for table, at in zip(tables[first:end], chosen, strict=True))
        scale = sum(np.abs(table[: top + 1]).max() for table in tables[first:end])
        best = best_monotone(tables[first:end], bottom, top)
        assert given == pytest.approx(best, rel=1e-12, abs=1e-12 * scale)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(25))
def test_solve_blocks_over_whole_rankings_is_the_dynamic_program(seed: int, sign: int) -> None:
    """Bands as wide as the table; the rankings differ in length and width."""
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, sign * epsilon)
    blocks = whole_rankings(terms)
    assert spans(blocks) == spans(blocks_of(terms, np.zeros(terms.count, dtype=bool)))
    left, right = torch.zeros_like(terms.rows.above), terms.rows.n_negative
    with mock.patch.object(banded, "_CELLS_AT_ONCE", [1, 300, 1 << 18][seed % 3]):
        a = solve_blocks(terms, blocks, left, right)
    check_blocks(a, plain_tables(scores, targets, sign * epsilon), blocks, left, right)


@pytest.mark.parametrize("cells", [1, 50, 1 << 18])
@pytest.mark.parametrize("seed", range(12))
def test_solve_blocks_of_every_length_and_width(seed: int, cells: int) -> None:
    scores, targets, epsilon = hostile(seed)
    terms = terms_of(scores, targets, -epsilon)
    rng = np.random.default_rng(seed)
    blocks = blocks_of(terms, rng.random(terms.count) < rng.choice([0.05, 0.3]))
    middle = (rng.random(terms.count) * (terms.rows.n_negative.numpy() + 1)).astype(np.int64)
    left = torch.tensor(np.maximum(middle - rng.integers(0, 20, terms.count), 0))
    right = torch.minimum(torch.tensor(middle + rng.integers(0, 20, terms.count)), terms.rows.n_negative)
    with mock.patch("fastap.backends.torch.banded._CELLS_AT_ONCE", cells):
        a = solve_blocks(terms, blocks, left, right)
    check_blocks(a, plain_tables(scores, targets, -epsilon), blocks, left, right)


@pytest.mark.parametrize("cells", [1, 40, 1 << 18])
def test_solve_blocks_finds_the_least_of_equal_optima(cells: int) -> None:
    """Scores and task weights that add without rounding; against all monotone choices."""
    rng = np.random.default_rng(9)
    several = 0
    for _ in range(40):
        n_positive, n_negative = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        scores = torch.tensor(rng.integers(0, 3, n_positive + n_negative) * 1.0)[None]
        targets = (torch.arange(scores.shape[1]) < n_positive).long()[None]
        terms = terms_of(scores, targets, 0.0)
        blocks = whole_rankings(terms)
        choices = [
            choice
            for choice in itertools.product(range(n_negative + 1), repeat=n_positive)
            if list(choice) == sorted(choice)
        ]
        tables = plain_tables(scores, targets, 0.0)
        values = [sum(table[a] for table, a in zip(tables, choice, strict=True)) for choice in choices]
        best = np.array([choice for choice, value in zip(choices, values, strict=True) if value == max(values)])
        several += len(best) > 1
        with mock.patch.object(banded, "_CELLS_AT_ONCE", cells):
            a = solve_blocks(terms, blocks, torch.zeros_like(terms.rows.above), terms.rows.n_negative)
        np.testing.assert_array_equal(a.numpy(), best.min(0))
    assert several > 10


def test_solve_blocks_of_one_row_and_of_one_column() -> None:
    scores, targets = random_batch(8, 3, 40)
    terms = terms_of(scores, targets, -1.0)
    tables = plain_tables(scores, targets, -1.0)
    none, all_of_them = torch.zeros(terms.count, dtype=torch.int64), terms.rows.n_negative
    a = solve_blocks(terms, single_rows(terms), none, all_of_them)
    check_blocks(a, tables, single_rows(terms), none, all_of_them)
    three = torch.full_like(none, 3)
    whole = blocks_of(terms, np.zeros(terms.count, dtype=bool))
    assert (solve_blocks(terms, whole, three, three) == 3).all()


# The whole inference


def check_augmented(scores: Tensor, targets: Tensor, task_scale: float) -> None:
    terms = terms_of(scores, targets, task_scale)
    tables = plain_tables(scores, targets, task_scale)
    whole = blocks_of(terms, np.zeros(terms.count, dtype=bool))
    a = augment.augmented(terms, 1 if task_scale > 0 else -1)
    check_blocks(a, tables, whole, torch.zeros_like(a), terms.rows.n_negative)


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_the_method_says_what_runs(update: str) -> None:
    """A ranking in no conflict needs no program, and gets one only on request: of all cells."""
    scores = torch.tensor([3.0, 1.0, 2.0, 0.5, 0.1], dtype=torch.float64)
    targets = torch.tensor([1, 1, 0, 0, 0])
    with (
        mock.patch.object(augment, "solve_blocks", wraps=solve_blocks) as program,
        mock.patch.object(rowsearch, "argmax", wraps=rowsearch.argmax) as branch_and_bound,
        mock.patch.object(rowsearch, "concave_argmax", wraps=rowsearch.concave_argmax) as bisection,
    ):
        for method, programs in (("auto", 0), ("dp", 1)):
            options = {"update": update, "method": method, "backend": "torch"}
            fastap.loss_augmented_ranking(scores, targets, **options)
            assert program.call_count == programs
            assert branch_and_bound.call_count + bisection.call_count == 1
    _, blocks, left, right = program.call_args.args
    assert spans(blocks) == [(0, 2)]
    assert left.tolist() == [0, 0]
    assert right.tolist() == [3, 3]


class LiveCells(TorchDispatchMode):
    """The most elements that were held at a time in tensors made under it; views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.made = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.made[each] = None
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in self.made}
        self.peak = max(self.peak, sum(storages.values()) // 8)
        return result


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_the_program_holds_no_table(update: str) -> None:
    """Fifty times the rows, nearly the same memory."""
    peaks = []
    for n_positive in (4, 200):
        generator = torch.Generator().manual_seed(12)
        scores = torch.randn(1, n_positive + 3000, generator=generator, dtype=torch.float64)
        targets = (torch.arange(scores.shape[1]) < n_positive).long()[None]
        terms = terms_of(scores, targets, 0.5 if update == "positive" else -0.5)
        with mock.patch.object(banded, "_CELLS_AT_ONCE", 4000), LiveCells() as cells:
            augment.augmented(terms, 1 if update == "positive" else -1, "dp")
        peaks.append(cells.peak)
    assert peaks[0] > 2 * 3000  # the measure measures
    assert peaks[1] < peaks[0] + 100 * 200 + 12 * 4000
    assert peaks[1] < 200 * 3000 / 4


def uncertain(seed: int) -> tuple[Tensor, Tensor, float]:
    """A problem of the negative update whose pooled solution cannot be proved best (see the test below)."""
    rng = np.random.default_rng(seed)
    while True:
        batch = random_problems(rng, 150)
        if batch.kind != "conflicting":
            continue
        scores, targets = torch.tensor(batch.scores), torch.tensor(batch.targets)
        with mock.patch.object(augment, "solve_blocks", wraps=solve_blocks) as program:
            augment.augmented(terms_of(scores, targets, -batch.epsilon), -1)
        if program.call_count:
            return scores, targets, batch.epsilon


@pytest.mark.parametrize("seed", range(15))
def test_augmented_where_the_certificate_fails(seed: int) -> None:
    scores, targets, epsilon = uncertain(seed)
    check_augmented(scores, targets, -epsilon)
    ranks, value = fastap.loss_augmented_ranking(scores, targets, epsilon=epsilon, update="negative", ignore_index=-1)
    for row in range(scores.shape[0]):
        taken = targets[row] >= 0
        score, target = scores[row, taken].numpy(), targets[row, taken].numpy()
        _, best = reference.augmented_ranking(score, target, epsilon, "negative")
        order = np.argsort(ranks[row, taken].numpy())
        attained = reference.ranking_score(score, target, order) - epsilon * (1 - reference.ap_of_order(target[order]))
        for given in (float(value[row]), attained):
            assert given == pytest.approx(best, rel=1e-9, abs=1e-14 * (np.abs(score).max() + epsilon))


@pytest.mark.parametrize("seed", range(10))
def test_augmented_is_right_whatever_the_certificate_says(seed: int) -> None:
    """Nothing proved: every block in conflict goes through bands and the dynamic program."""
    scores, targets, epsilon = uncertain(seed)
    with mock.patch.object(augment, "_ULPS", -1e-9):
        check_augmented(scores, targets, -epsilon)


@pytest.mark.parametrize("sign", [1, -1])
def test_augmented_of_no_rows(sign: int) -> None:
    terms = terms_of(torch.randn(2, 4), torch.zeros(2, 4), 1.0)
    assert augment.augmented(terms, sign).shape == (0,)


def test_layout_counts_rankings() -> None:
    layout: Layout = sort_batch(problem_of(*random_batch(10, 3, 4)))
    assert layout.rankings == 3

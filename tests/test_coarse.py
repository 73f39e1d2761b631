"""Long rankings: the library's answer is proved to be the optimum, by bounds of its own kind in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastap
from fastap.backends import reference
from tests.coarse import Terms, solve
from tests.problems import KINDS, ORDINARY, draw


@pytest.mark.parametrize("seed", range(4))
def test_the_proof_finds_the_optimum_by_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        kind = str(rng.choice([*KINDS, *ORDINARY]))
        scores, targets = draw(rng, kind, int(rng.integers(1, 30)), int(rng.integers(1, 80)))
        task_scale = float(rng.choice([-1, 1]) * np.exp(rng.uniform(-5, 4)))
        terms = Terms.of(scores, targets == 1, task_scale)
        rows = np.arange(terms.positives.size)
        _, expected = reference.augmented_choice(terms.positives, terms.negatives, task_scale)
        found, top = solve(terms, np.zeros_like(rows))
        best, start = (float(terms(rows, a).sum()) for a in (expected, np.zeros_like(rows)))
        rounding = 10 * float(terms.rounding(rows, expected).sum())
        assert float(terms(rows, found).sum()) >= best - rounding
        assert abs(best - start - top) <= rounding


LONG = [
    ("gaussian", 0.1), *((kind, 0.1) for kind in ORDINARY), ("exp(3x)", 100.0), ("cauchy", 1.0), ("conflicting", 5.0),
]  # fmt: skip


def certify(kind: str, epsilon: float, update: str, positives: int, negatives: int) -> None:
    """The ranking is one of those with the largest value, to 1e-9 of what the task loss can be."""
    scores, targets = draw(np.random.default_rng(0), kind, positives, negatives)
    ranks, _ = fastap.loss_augmented_ranking(
        torch.from_numpy(scores), torch.from_numpy(targets), epsilon=epsilon, update=update
    )
    places = np.sort(ranks.numpy()[targets == 1])
    sign = 1 if update == "positive" else -1
    terms = Terms.of(scores, targets == 1, sign * epsilon)
    rows = np.arange(positives)
    small = 1e-9 * abs(terms.task) * positives
    _, better = solve(terms, places - rows, small / 2)
    assert better <= small


@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize(("kind", "epsilon"), LONG)
def test_long_rankings_are_optimal(kind: str, epsilon: float, update: str) -> None:
    certify(kind, epsilon, update, 300, 30_000)


@pytest.mark.full
@pytest.mark.parametrize("negatives", [2_000, 20_000])
def test_so_many_conflicts_that_the_room_for_intervals_runs_out(negatives: int) -> None:
    certify("conflicting", 9.5, "negative", 20_000, negatives)


@pytest.mark.full
@pytest.mark.parametrize("epsilon", [1.4, 2.0])
def test_as_many_positives_alike_as_negatives(epsilon: float) -> None:
    """Nearly all rows are in conflict: at 1.4 they share a column, at 2 the first of them choose another."""
    certify("positives alike", epsilon, "negative", 20_000, 20_000)


@pytest.mark.full
@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize("kind", ["gaussian", "cauchy", "sigmoid(8x)"])
def test_a_hundred_thousand_positives(kind: str, update: str) -> None:
    certify(kind, 0.1, update, 100_000, 900_000)


@pytest.mark.full
@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize("kind", ["relu(x - 1)", "exp(3x)"])
def test_ten_thousand_positives(kind: str, update: str) -> None:
    certify(kind, 0.1, update, 10_000, 990_000)

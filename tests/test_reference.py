"""The oracle against its own definitions: brute force over all orderings, examples by hand, finite differences."""

from __future__ import annotations

import ast
import inspect
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest

from fastap.backends import reference

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIGNS = {"positive": 1, "negative": -1}


def problem(seed: int, items: int, tied: bool = False) -> tuple[Floats, Ints]:
    """Both classes, shuffled."""
    rng = np.random.default_rng(seed)
    targets = np.zeros(items, dtype=np.int64)
    targets[: rng.integers(1, items)] = 1
    rng.shuffle(targets)
    return rng.integers(0, 3, items) * 1.0 if tied else rng.normal(size=items), targets


def by_score(scores: Floats) -> Ints:
    return np.argsort(-scores, kind="stable")


@pytest.mark.parametrize(
    ("in_order", "expected"),
    [
        ([1], 1.0),
        ([1, 0], 1.0),
        ([0, 1], 1 / 2),
        ([0, 0, 0, 1], 1 / 4),
        ([1, 0, 1], (1 + 2 / 3) / 2),
        ([0, 1, 1], (1 / 2 + 2 / 3) / 2),
        ([1, 0, 1, 0, 0, 1], (1 + 2 / 3 + 3 / 6) / 3),
    ],
)
def test_ap_by_hand(in_order: list[int], expected: float) -> None:
    assert reference.ap_of_order(in_order) == pytest.approx(expected, abs=1e-15)
    scores = -np.arange(len(in_order), dtype=np.float64)
    assert reference.plain_average_precision(scores, in_order) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([1, 1], [1, 0], 1 / 2),
        ([1, 1, 1, 1], [1, 0, 0, 0], 1 / 4),
        ([2, 1, 1, 0], [1, 1, 0, 1], (1 + 2 / 3 + 3 / 4) / 3),
        ([2, 2, 1, 1], [0, 1, 1, 1], (1 / 2 + 3 / 4 + 3 / 4) / 3),
    ],
)
def test_equal_scores_are_one_threshold(scores: list[float], targets: list[int], expected: float) -> None:
    assert reference.plain_average_precision(scores, targets) == pytest.approx(expected, abs=1e-15)


def test_no_positive_has_no_ap() -> None:
    assert np.isnan(reference.plain_average_precision([1.0, 2.0], [0, 0]))


def test_ranking_score_by_hand() -> None:
    scores, targets = [3.0, 1.0, 0.0], [1, 0, 0]
    assert reference.ranking_score(scores, targets, [0, 1, 2]) == 2.5
    assert reference.ranking_score(scores, targets, [1, 0, 2]) == 0.5
    assert reference.ranking_score(scores, targets, [2, 1, 0]) == -2.5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("update", SIGNS)
@pytest.mark.parametrize("items", [2, 3, 4, 5, 6, pytest.param(7, marks=pytest.mark.full)])
def test_dynamic_program_equals_brute_force(items: int, update: str, tied: bool) -> None:
    for seed in range(4 if items > 5 else 12):
        scores, targets = problem(seed, items, tied)
        epsilon = float(np.random.default_rng(seed).choice([0.01, 0.3, 1.0, 5.0, 100.0]))
        best, orders = reference.brute_force(scores, targets, SIGNS[update] * epsilon)
        ranks, value = reference.augmented_ranking(scores, targets, epsilon, update)
        assert value == pytest.approx(best, rel=1e-12, abs=1e-12)
        assert any((np.argsort(ranks) == order).all() for order in orders)


@pytest.mark.parametrize("update", SIGNS)
@pytest.mark.parametrize("seed", range(4))
def test_direct_loss_is_its_definition(seed: int, update: str) -> None:
    scores, targets = problem(seed, 5 + seed % 2, tied=seed > 1)
    for epsilon in (0.1, 1.0, 10.0):
        sign = SIGNS[update]
        augmented, _ = reference.brute_force(scores, targets, sign * epsilon)
        standard, _ = reference.brute_force(scores, targets, 0.0)
        loss, _ = reference.direct_ranking_loss(scores, targets, epsilon, update)
        assert loss == pytest.approx(sign / epsilon * (augmented - standard), abs=1e-12 / epsilon)


@pytest.mark.parametrize("seed", range(4))
def test_the_symmetric_loss_is_its_definition(seed: int) -> None:
    scores, targets = problem(seed, 5 + seed % 2, tied=seed > 1)
    for epsilon in (0.1, 1.0, 10.0):
        more, less = (reference.brute_force(scores, targets, sign * epsilon)[0] for sign in (1, -1))
        loss, gradient = reference.direct_ranking_loss(scores, targets, epsilon, "symmetric")
        assert loss == pytest.approx((more - less) / (2 * epsilon), abs=1e-12 / epsilon)
        both = [reference.direct_ranking_loss(scores, targets, epsilon, update).gradient for update in SIGNS]
        np.testing.assert_allclose(gradient, sum(both) / 2, rtol=0, atol=1e-14 / epsilon)


@pytest.mark.parametrize("seed", range(4))
def test_hinge_and_perceptron_are_their_definitions(seed: int) -> None:
    scores, targets = problem(seed, 5 + seed % 2, tied=seed > 1)
    ideal = reference.ranking_score(scores, targets, np.argsort(-targets, kind="stable"))
    for margin in (0.1, 1.0, 10.0):
        augmented, _ = reference.brute_force(scores, targets, margin)
        loss, _ = reference.ap_hinge_loss(scores, targets, margin)
        assert loss == pytest.approx(augmented - ideal, abs=1e-12)
    loss, _ = reference.ap_perceptron_loss(scores, targets)
    standard, _ = reference.brute_force(scores, targets, 0.0)
    assert loss == pytest.approx(standard - ideal, abs=1e-12)
    pairs = np.maximum(0, scores[targets == 0] - scores[targets == 1][:, None])
    assert loss == pytest.approx(2 * pairs.mean(), abs=1e-12)


@pytest.mark.parametrize("loss", ["positive", "negative", "symmetric", "hinge", "perceptron"])
@pytest.mark.parametrize("seed", range(4))
def test_gradient_by_finite_differences(seed: int, loss: str) -> None:
    scores, targets = problem(seed, 12)
    largest = 0.0
    for epsilon in (0.3, 1.0, 3.0, 10.0):

        def value_and_gradient(at: Floats, epsilon: float = epsilon) -> reference.Loss:
            if loss == "hinge":
                return reference.ap_hinge_loss(at, targets, epsilon)
            if loss == "perceptron":
                return reference.ap_perceptron_loss(at, targets)
            return reference.direct_ranking_loss(at, targets, epsilon, loss)

        step = 1e-6
        ends = [[value_and_gradient(scores + side * unit).value for side in (step, -step)] for unit in np.eye(12)]
        slope = -np.diff(ends)[:, 0] / (2 * step)
        gradient = value_and_gradient(scores).gradient
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-8)
        largest = max(largest, np.abs(gradient).max())
    assert largest > 0


@pytest.mark.parametrize("update", SIGNS)
def test_gradient_at_ties_is_the_mean_over_all_orders_of_the_equal_items(update: str) -> None:
    epsilon = 1.9
    # Positives and negatives in groups of equal scores, no positive equal to a negative: max F is smooth there, and
    # max F + s eps L has one gradient for every order within the groups.
    scores, targets = np.array([1.0, 1.0, 1.5, 1.5, 0.8, 0.5]), np.array([1, 1, 0, 0, 0, 1])
    _, orders = reference.brute_force(scores, targets, SIGNS[update] * epsilon)
    standard = [order for order in map(np.array, permutations(range(6))) if (np.diff(scores[order]) <= 0).all()]

    def mean_gradient(of: list[Ints]) -> Floats:
        total = np.zeros(6)
        for order in of:
            place = np.argsort(order)
            for positive in np.flatnonzero(targets == 1):
                for negative in np.flatnonzero(targets == 0):
                    side = 1 if place[positive] < place[negative] else -1
                    total[positive] += side
                    total[negative] -= side
        return total / (9 * len(of))

    expected = SIGNS[update] / epsilon * (mean_gradient(orders) - mean_gradient(standard))
    _, gradient = reference.direct_ranking_loss(scores, targets, epsilon, update)
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("update", SIGNS)
def test_sign_of_zero_is_zero(update: str) -> None:
    # One positive and one negative of equal score: y_direct is on one side, y_w half way.
    loss, gradient = reference.direct_ranking_loss([0.0, 0.0], [1, 0], 0.5, update)
    assert loss == (0.5 if update == "positive" else 0.0)
    np.testing.assert_array_equal(gradient, [-2.0, 2.0])


@pytest.mark.parametrize("targets", [[1, 1, 1], [0, 0, 0]])
def test_one_class_alone_has_no_loss(targets: list[int]) -> None:
    scores = [0.5, 1.5, 1.0]
    for loss, gradient in (
        reference.direct_ranking_loss(scores, targets),
        reference.ap_hinge_loss(scores, targets),
        reference.ap_perceptron_loss(scores, targets),
    ):
        assert loss == 0
        assert (gradient == 0).all()
    ranks, value = reference.augmented_ranking(scores, targets)
    assert ranks.tolist() == [2, 0, 1]
    assert np.isnan(value)


def test_shares_no_code_with_what_it_judges() -> None:
    tree = ast.parse(inspect.getsource(reference))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    others = {name for name in imported if name.startswith("fastap")}
    assert others == {"fastap.reduce", "fastap.targets", "fastap.types"}  # what a batch is, and its targets


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="at most 8 items, got 9"):
        reference.brute_force(np.arange(9.0), [1] + [0] * 8, 1.0)
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        reference.direct_ranking_loss([0.0, 1.0], [0, 1, 1])
    with pytest.raises(ValueError, match="0 or 1"):
        reference.plain_average_precision([0.0, 1.0], [0, 2])

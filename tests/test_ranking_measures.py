"""Direct losses of other measures than AP: each against the full dynamic program, and what is refused."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

import fastap
from fastap.backends import reference
from fastap.types import MEASURES, METHODS, Measure
from tests.exactness import check_many
from tests.kernels import often

OTHERS = {
    "ndcg": Measure("ndcg"),
    "reciprocal rank": Measure("reciprocal_rank"),
    "auc": Measure("auc"),
    "partial auc": Measure("partial_auc", 0.1),
    "partial auc, less than a negative": Measure("partial_auc", 1e-3),
    "bedroc": Measure("bedroc", 20.0),
    "bedroc, nearly linear": Measure("bedroc", 0.1),
    **{f"{name} at {k}": Measure(name, 1.0, k) for name in ("ap", "ndcg") for k in (1, 10)},
    **{f"{name} at {k}": Measure(name, 1.0, k) for name in ("precision", "recall") for k in (1, 5, 50)},
    "reciprocal rank at 3": Measure("reciprocal_rank", 1.0, 3),
}


@pytest.mark.parametrize("measure", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize(
    ("method", "problems", "seed"), often(("auto", 150, 1), full=[("auto", 1000, 2), ("dp", 150, 3)])
)
def test_random_problems(measure: Measure, method: str, problems: int, seed: int) -> None:
    counts = check_many(problems, seed, method=method, measure=measure)
    assert counts["brute force"] >= problems / 5
    assert counts["gradients"] >= problems


# One positive at rank 2 of 4, then positives at ranks 1 and 4 of 5.
BY_HAND = {
    Measure("ap"): (1 / 2, (1 + 2 / 4) / 2),
    Measure("ndcg"): (1 / math.log2(3), (1 + 1 / math.log2(5)) / (1 + 1 / math.log2(3))),
    Measure("reciprocal_rank"): (1 / 2, 1.0),
    Measure("auc"): (2 / 3, (3 + 1) / 6),
    Measure("partial_auc", 0.5): ((1.5 - 1) / 1.5, 1.5 / 3),
    Measure("ap", 1.0, 2): (1 / 2, 1 / 2),
    Measure("ndcg", 1.0, 3): (1 / math.log2(3), 1 / (1 + 1 / math.log2(3))),
    Measure("precision", 1.0, 3): (1 / 3, 1 / 3),
    Measure("precision", 1.0, 9): (1 / 9, 2 / 9),
    Measure("recall", 1.0, 1): (0.0, 1 / 2),
    Measure("reciprocal_rank", 1.0, 1): (0.0, 1.0),
    Measure("bedroc", 2.0): (
        (math.exp(-1) - math.exp(-2)) / (math.exp(-0.5) - math.exp(-2)),
        (math.exp(-0.4) + math.exp(-1.6) - math.exp(-1.6) - math.exp(-2))
        / (math.exp(-0.4) + math.exp(-0.8) - math.exp(-1.6) - math.exp(-2)),
    ),
}


@pytest.mark.parametrize("measure", BY_HAND, ids=str)
def test_by_hand(measure: Measure) -> None:
    """The measure of a ranking, and the loss of small epsilon, which tends to 1 less that."""
    for in_order, expected in zip(([0, 1, 0, 0], [1, 0, 0, 1, 0]), BY_HAND[measure], strict=True):
        assert reference.measure_of_order(measure, in_order) == pytest.approx(expected, abs=1e-15)
        scores = torch.arange(len(in_order), 0, -1, dtype=torch.float64)
        for update in ("positive", "negative", "symmetric"):
            loss = fastap.direct_ranking_loss(
                scores, torch.tensor(in_order), measure=measure, epsilon=1e-6, update=update
            )
            assert float(loss) == pytest.approx(1 - expected, abs=1e-12)


def test_every_measure_is_met_here() -> None:
    assert {measure.name for measure in (*OTHERS.values(), Measure("ap"))} == set(MEASURES)
    assert {measure.name for measure in BY_HAND} == set(MEASURES)


@pytest.mark.parametrize("measure", [*OTHERS.values()], ids=OTHERS)
def test_bounds(measure: Measure) -> None:
    """1 where no negative stands above a positive, if k has room for just these; never below 0."""
    for positives, negatives in ((1, 1), (1, 9), (9, 1), (7, 5), (300, 40)):
        best = [1] * positives + [0] * negatives
        highest = {"precision": min(positives / (measure.k or 1), 1), "recall": min((measure.k or 1) / positives, 1)}
        assert reference.measure_of_order(measure, best) == pytest.approx(highest.get(measure.name, 1), abs=1e-13)
        worst = reference.measure_of_order(measure, best[::-1])
        assert -1e-13 <= worst <= 1
        if measure.name in ("auc", "bedroc", "partial_auc"):
            assert worst == pytest.approx(0, abs=1e-13)  # a sum of 300 rounded terms


def test_any_function_of_row_and_negatives() -> None:
    """The dynamic program takes what a user writes: here AP by its formula, and precision at 3, a step."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, targets = rng.normal(size=6), np.array([1, 0, 1, 0, 0, 1])
        given = reference.direct_ranking_loss(scores, targets, 0.5, "negative", lambda i, a: a / (i + a) / 3)
        right = reference.direct_ranking_loss(scores, targets, 0.5, "negative")
        assert given.value == pytest.approx(right.value, abs=1e-15)
        np.testing.assert_allclose(given.gradient, right.gradient, atol=1e-15)

        def beyond_3(i: int, a: np.ndarray) -> np.ndarray:
            return ((i + a > 3) & (i <= 3)) / 3

        p, n = np.sort(scores[targets == 1])[::-1], np.sort(scores[targets == 0])[::-1]
        best, _ = reference.augmented_choice(p, n, -0.5, beyond_3)
        values = []
        for places in combinations(range(6), 3):
            above = np.array(places) - np.arange(3)
            order = np.where(np.isin(np.arange(6), places), 1, 0)
            ranked = np.empty(6, dtype=int)
            ranked[order == 1] = np.flatnonzero(targets == 1)[np.argsort(-scores[targets == 1])]
            ranked[order == 0] = np.flatnonzero(targets == 0)[np.argsort(-scores[targets == 0])]
            loss = sum(float(beyond_3(i, a)) for i, a in enumerate(above, 1))
            values.append(reference.ranking_score(scores, targets, ranked) - 0.5 * loss)
        assert best == pytest.approx(max(values), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_options_of_the_ap_loss(method: str) -> None:
    """Ragged, ignored, weighted, along an axis, noisy: as one ranking after the other."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(20, 3, generator=generator) < 0.4).long()
    targets[3, 1] = -1
    weight = torch.tensor([1.0, 0.0, 2.5])
    for measure in OTHERS.values():
        options = {"measure": measure, "ignore_index": -1, "epsilon": 0.7, "update": "symmetric", "method": method}
        one = fastap.direct_ranking_loss(scores, targets, dim=0, weight=weight, reduction="sum", **options)
        each = [fastap.direct_ranking_loss(scores[:, i], targets[:, i], **options) for i in range(3)]
        torch.testing.assert_close(one, (torch.stack(each) * weight).sum())
        (gradient,) = torch.autograd.grad(one, scores)
        (right,) = torch.autograd.grad((torch.stack(each) * weight).sum(), scores)
        torch.testing.assert_close(gradient, right)
        flat = fastap.direct_ranking_loss(
            scores.T.flatten(), targets.T.flatten(), offsets=torch.tensor([0, 20, 40, 60]), reduction="none", **options
        )
        torch.testing.assert_close(flat, torch.stack(each))
        reference_ = fastap.direct_ranking_loss(
            scores,
            targets,
            dim=0,
            backend="reference",
            noise=0.1,
            **options,
            generator=torch.Generator().manual_seed(1),
        )
        engine = fastap.direct_ranking_loss(
            scores, targets, dim=0, noise=0.1, **options, generator=torch.Generator().manual_seed(1)
        )
        torch.testing.assert_close(engine, reference_)
    compiled = torch.compile(fastap.direct_ranking_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(scores, targets.clamp(min=0), measure="bedroc", dim=0),
        fastap.direct_ranking_loss(scores, targets.clamp(min=0), measure="bedroc", dim=0),
    )


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("map", "measure must be one of 'ap', 'ndcg', .* got 'map'"),
        (3, "measure must be one of"),
        ("partial_auc", r"must say up to which rate of false positives: \('partial_auc', 0.1\)"),
        (("partial_auc", 1.5), "the number of measure 'partial_auc' must be at most 1, got 1.5"),
        (("partial_auc", 0.0), "the number of measure 'partial_auc' must be finite and positive"),
        (("bedroc", -1.0), "the number of measure 'bedroc' must be finite and positive"),
        (("ndcg", 5), "measure 'ndcg' has no number, got 5"),
        ("precision", "k must be given for measure 'precision'"),
        (("bedroc", 1.0, 2.0), "measure must be a name, or a name and a number"),
    ],
)
def test_measures_that_are_none(measure: object, message: str) -> None:
    for call in (fastap.direct_ranking_loss, fastap.loss_augmented_ranking):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(3), torch.tensor([0, 1, 0]), measure=measure)
    with pytest.raises(ValueError, match=message):
        fastap.DirectRankingLoss(measure=measure)


def test_a_list_is_as_good_as_a_tuple_and_k_is_said_once() -> None:
    ranking = torch.randn(9), torch.arange(9) < 3
    one, other = (fastap.direct_ranking_loss(*ranking, measure=kind(["bedroc", 3.0])) for kind in (tuple, list))
    assert one == other
    with pytest.raises(ValueError, match="k must be that of measure, 5, or None, got 2"):
        fastap.direct_ranking_loss(*ranking, measure=Measure("precision", 1.0, 5), k=2)
    with pytest.raises(ValueError, match="no kernels for measure 'ndcg'"):
        fastap.DirectRankingLoss(measure="ndcg", backend="triton")


@pytest.mark.parametrize(
    ("measure", "k", "error", "message"),
    [
        ("ndcg", 0, ValueError, "k must be"),
        ("ndcg", 2.5, TypeError, "k must be"),
        ("auc", 5, ValueError, "k must be None for measure 'auc', got 5"),
    ],
)
def test_ranks_that_are_none(measure: str, k: object, error: type[Exception], message: str) -> None:
    for call in (fastap.direct_ranking_loss, fastap.ranking_measure):
        with pytest.raises(error, match=message):
            call(torch.zeros(3), torch.tensor([0, 1, 0]), measure=measure, k=k)

"""Measures of rankings as metrics: against scikit-learn, plain definitions, and the mean over orders of equal items."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score, roc_curve

import fastap
from fastap.backends import reference
from fastap.types import Measure

AT_K = [Measure(name, 1.0, k) for name in ("ap", "ndcg", "precision", "recall", "reciprocal_rank") for k in (1, 5)]
WHOLE = ("ap", "ndcg", "reciprocal_rank", "auc", "partial_auc", "bedroc")
ALL = [*(Measure(name, {"partial_auc": 0.3, "bedroc": 20.0}.get(name, 1.0)) for name in WHOLE), *AT_K]
AREAS = ("auc", "partial_auc", "bedroc")  # which a ranking without a negative does not have


def problem(seed: int, *, tied: bool, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Both classes."""
    rng = np.random.default_rng(seed)
    items = int(rng.integers(2, most))
    targets = (rng.permutation(items) < rng.integers(1, items)).astype(int)
    return rng.integers(0, 4, items) * 1.0 if tied else rng.normal(size=items), targets


def value(scores: np.ndarray, targets: np.ndarray, measure: Measure) -> float:
    return float(fastap.ranking_measure(torch.tensor(scores), torch.tensor(targets), measure=measure))


def partial_area(targets: np.ndarray, scores: np.ndarray, most: float) -> float:
    false, true, _ = roc_curve(targets, scores, drop_intermediate=False)
    stop = np.searchsorted(false, most, "right")
    x, y = np.append(false[:stop], most), np.append(true[:stop], np.interp(most, false, true))
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()) / most


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_scikit_learn(seed: int, tied: bool) -> None:
    scores, targets = problem(seed, tied=tied)
    assert value(scores, targets, Measure("ap")) == pytest.approx(average_precision_score(targets, scores), abs=1e-14)
    assert value(scores, targets, Measure("ndcg")) == pytest.approx(ndcg_score([targets], [scores]), abs=1e-14)
    assert value(scores, targets, Measure("auc")) == pytest.approx(roc_auc_score(targets, scores), abs=1e-14)
    for most in (0.07, 0.3, 1.0):
        given = value(scores, targets, Measure("partial_auc", most))
        assert given == pytest.approx(partial_area(targets, scores, most), abs=1e-13)
    for k in (1, 3, 7):
        given = value(scores, targets, Measure("ndcg", 1.0, k))
        assert given == pytest.approx(ndcg_score([targets], [scores], k=k), abs=1e-14)
    first = 1 + (scores[targets == 0] >= scores[targets == 1].max()).sum()
    assert value(scores, targets, Measure("reciprocal_rank")) == 1 / first


@pytest.mark.parametrize("measure", ALL, ids=str)
@pytest.mark.parametrize("seed", range(20))
def test_the_loss_s_own_measure(measure: Measure, seed: int) -> None:
    scores, targets = problem(100 + seed, tied=False)
    expected = reference.measure_of_order(measure, targets[np.argsort(-scores)])
    assert value(scores, targets, measure) == pytest.approx(expected, abs=1e-14)


MEANS = [Measure("ndcg"), Measure("bedroc", 20.0), Measure("auc")]
MEANS += [Measure(name, 1.0, k) for name in ("ndcg", "precision", "recall") for k in (1, 3)]


@pytest.mark.parametrize("measure", MEANS, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_mean_over_orders_of_equal_items(measure: Measure, seed: int) -> None:
    scores, targets = problem(200 + seed, tied=True, most=8)
    orders = [order for order in permutations(range(len(scores))) if (np.diff(scores[list(order)]) <= 0).all()]
    each = [reference.measure_of_order(measure, targets[list(order)]) for order in orders]
    assert value(scores, targets, measure) == pytest.approx(np.mean(each), abs=1e-13)


def test_the_example_of_the_documents() -> None:
    """Five equal items, two of them relevant; and one relevant, which is AP."""
    equal = np.zeros(5)
    assert value(equal, np.array([1, 0, 0, 0, 1]), Measure("ndcg")) == pytest.approx(
        ndcg_score([[1, 0, 0, 0, 1]], [equal])
    )
    assert value(equal, np.array([0, 0, 1, 0, 0]), Measure("reciprocal_rank")) == 0.2
    assert value(np.array([1.0, 1, 0, 0]), np.array([1, 1, 0, 0]), Measure("reciprocal_rank", 1.0, 1)) == 1


@pytest.mark.parametrize("alpha", [0.5, 20.0, 160.9])
@pytest.mark.parametrize("seed", range(5))
def test_bedroc_by_its_authors_formula(seed: int, alpha: float) -> None:
    """Truchon, Bayly, J. Chem. Inf. Model. 2007: BEDROC from RIE."""
    scores, targets = problem(300 + seed, tied=False)
    items, share = len(targets), targets.mean()
    ranks = 1 + np.flatnonzero(targets[np.argsort(-scores)])
    by_chance = (1 - np.exp(-alpha)) / (np.exp(alpha / items) - 1) / items
    rie = np.exp(-alpha * ranks / items).mean() / by_chance
    factor = share * np.sinh(alpha / 2) / (np.cosh(alpha / 2) - np.cosh(alpha / 2 - alpha * share))
    expected = rie * factor + 1 / (1 - np.exp(alpha * (1 - share)))
    assert value(scores, targets, Measure("bedroc", alpha)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("alpha", [1e-300, 1e-17, 1e-12, 1e-3, 700.0, 1e4, 1e300])
def test_bedroc_of_any_number(alpha: float) -> None:
    """It tends to the area under the curve, and to whether the first item is positive."""
    scores, targets = problem(7, tied=False)
    for first in (0, 1):
        targets[scores.argmax()] = first
        given = value(scores, targets, Measure("bedroc", alpha))
        if alpha < 1e-10:
            assert given == pytest.approx(value(scores, targets, Measure("auc")), abs=1e-11)
        elif alpha > 1e5:
            assert given == first
        assert 0 <= given <= 1
        right = reference.measure_of_order(Measure("bedroc", alpha), targets[np.argsort(-scores)])
        assert given == pytest.approx(right, abs=1e-12)
        for update in ("positive", "negative"):
            options = {"measure": ("bedroc", alpha), "update": update, "epsilon": 0.3}
            losses = [
                fastap.direct_ranking_loss(torch.tensor(scores), torch.tensor(targets), backend=backend, **options)
                for backend in ("auto", "reference")
            ]
            torch.testing.assert_close(*losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_layouts(measure: Measure) -> None:
    """Rows, columns, several axes, offsets, groups, ignored items: as one ranking after the other."""
    torch.compiler.reset()  # which else compiles a function no more than eight times
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (4, 15), generator=generator).float()
    targets = torch.randint(0, 2, (4, 15), generator=generator)
    targets[2, 3:6] = -1
    options = {"measure": measure, "ignore_index": -1}
    each = torch.stack(
        [fastap.ranking_measure(s[t >= 0], t[t >= 0], measure=measure) for s, t in zip(scores, targets, strict=True)]
    )
    assert each.dtype == torch.float64
    flat = scores.flatten(), targets.flatten()
    order = torch.randperm(60, generator=generator)
    ids = torch.arange(4).repeat_interleave(15)
    ways = (
        fastap.ranking_measure(scores, targets, dim=1, **options),
        fastap.ranking_measure(scores.T, targets.T, dim=0, **options),
        fastap.ranking_measure(scores.view(4, 3, 5), targets.view(4, 3, 5), dim=(1, 2), **options),
        fastap.ranking_measure(*flat, offsets=torch.arange(0, 61, 15), **options),
        fastap.ranking_measure(*(x[order] for x in flat), groups=ids[order], **options),
        torch.func.vmap(lambda s, t: fastap.ranking_measure(s, t, **options))(scores, targets),
        torch.compile(fastap.ranking_measure, fullgraph=True, backend="eager")(scores, targets, dim=1, **options),
    )
    for given in ways:
        torch.testing.assert_close(given, each, rtol=0, atol=1e-14)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_what_has_no_value(measure: Measure) -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, torch.nan, 3.0], [torch.inf, 0.0, -torch.inf]])
    targets = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]])
    none, all_, nan, infinite = fastap.ranking_measure(scores, targets, measure=measure, dim=-1).tolist()
    assert np.isnan([none, nan]).all()
    assert (
        np.isnan(all_)
        if measure.name in AREAS
        else all_ == {5: 0.6, 1: 1}.get(measure.k, 1) or measure.name != "precision"
    )
    assert 0 < infinite <= 1
    ignored = fastap.ranking_measure(scores[2], torch.tensor([0, -1, 1]), measure=measure, ignore_index=-1)
    assert float(ignored) == (1 / 5 if measure == Measure("precision", 1.0, 5) else 1)
    assert fastap.ranking_measure(scores[:0], targets[:0], measure=measure, dim=-1).shape == (0,)
    with pytest.raises(ValueError, match="targets must be 0 or 1"):
        fastap.ranking_measure(scores, targets + 1, measure=measure, dim=-1)
    with pytest.raises(RuntimeError, match="ranking_measure has no gradient"):
        fastap.ranking_measure(scores[3].requires_grad_(), targets[3], measure=measure).backward()


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_between_the_losses(measure: Measure) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(20, 50, generator=generator), torch.rand(20, 50, generator=generator) < 0.3
    if measure.name != "ap":  # of which equal scores are one threshold, which may be better than any order
        scores[10:] = scores[10:].round()
    metric = fastap.ranking_measure(scores, targets, measure=measure, dim=-1)
    above, below = (
        fastap.direct_ranking_loss(
            scores.double(), targets, measure=measure, dim=-1, update=update, epsilon=0.3, reduction="none"
        )
        for update in ("positive", "negative")
    )
    assert (below <= 1 - metric + 1e-12).all()
    assert (1 - metric <= above + 1e-12).all()

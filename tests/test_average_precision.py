"""``fastap.average_precision`` against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import fastap
from tests.losses import random_batch


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [0, 1, 2, 5, 50])
def test_equals_scikit_learn(levels: int, dtype: torch.dtype) -> None:
    for seed, items in enumerate([2, 3, 5, 17, 100, 1000]):
        scores, targets = random_batch(seed, 8, items, levels=levels, dtype=dtype)
        given = fastap.average_precision(scores, targets, dim=-1)
        assert given.dtype == torch.float64
        expected = [
            average_precision_score(target, score)
            for score, target in zip(scores.double().numpy(), targets.numpy(), strict=True)
        ]
        np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positives", [1, 30, 29_999])
def test_equals_scikit_learn_on_long_rankings(positives: int) -> None:
    rng = np.random.default_rng(positives)
    targets = rng.permutation(np.arange(30_000) < positives)
    scores = np.round(rng.normal(size=30_000) + targets, 2)
    given = fastap.average_precision(torch.tensor(scores), torch.tensor(targets))
    assert float(given) == pytest.approx(average_precision_score(targets, scores), abs=1e-12)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_every_axis_can_be_ranked(dim: int) -> None:
    scores, targets = (each[0].view(4, 5, 6) for each in random_batch(2, 1, 120))
    given = fastap.average_precision(scores, targets, dim=dim)
    assert given.shape == scores.select(dim, 0).shape
    moved = [each.movedim(dim, -1).reshape(-1, scores.shape[dim]) for each in (scores, targets)]
    torch.testing.assert_close(
        given.flatten(), fastap.average_precision(*moved, dim=-1), rtol=0, atol=0, equal_nan=True
    )


def test_only_the_order_matters() -> None:
    scores, targets = random_batch(3, 20, 30)
    expected = fastap.average_precision(scores, targets, dim=-1)
    for changed in (scores - 1e3, scores * 1e-30, scores.exp(), scores.argsort(-1).argsort(-1).double() - 100):
        torch.testing.assert_close(fastap.average_precision(changed, targets, dim=-1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("nan", [torch.nan, -torch.nan])
@pytest.mark.parametrize("place", range(4))
def test_nan_spoils_its_ranking_only(place: int, nan: float) -> None:
    scores, targets = random_batch(5, 3, 4)
    before = fastap.average_precision(scores, targets, dim=-1)
    scores[1, place] = nan
    after = fastap.average_precision(scores, targets, dim=-1)
    assert after.isnan().tolist() == [False, True, False]
    assert (after[[0, 2]] == before[[0, 2]]).all()


def test_one_class_alone() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.2]] * 3)
    targets = torch.tensor([[0, 0, 0], [1, 1, 1], [-1, -1, -1]])
    given = fastap.average_precision(scores, targets, ignore_index=-1, dim=-1)
    assert given.isnan().tolist() == [True, False, True]
    assert given[1] == 1


def test_empty() -> None:
    assert fastap.average_precision(torch.zeros(0), torch.zeros(0)).isnan()
    assert fastap.average_precision(torch.zeros(0, 3), torch.zeros(0, 3), dim=-1).shape == (0,)
    assert fastap.average_precision(torch.zeros(3, 0), torch.zeros(3, 0), dim=-1).isnan().tolist() == [True] * 3


def test_has_no_gradient() -> None:
    scores, targets = random_batch(6, 2, 9)
    assert not fastap.average_precision(scores, targets, dim=-1).requires_grad
    with pytest.raises(RuntimeError, match=r"no gradient.*fastap\.direct_ap_loss\(scores, targets\)"):
        (1 - fastap.average_precision(scores.requires_grad_(), targets, dim=-1)).sum().backward()
    with torch.no_grad():
        assert not fastap.average_precision(scores, targets, dim=-1).requires_grad

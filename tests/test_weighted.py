"""Average precision of weighted items against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import fastap
from fastap import backends
from fastap.types import Batch
from tests.losses import random_batch

Precision = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(params=["native", "reference"])
def precision(request: pytest.FixtureRequest) -> Precision:
    """Of a backend itself: the function has an error where wrong weights make NaN here."""
    engine = backends.get(request.param, torch.device("cpu"))
    return lambda scores, targets, weight: engine.average_precision(Batch(scores, targets, -1), weight)


def weights(seed: int, scores: Tensor, zeros: float = 0.0) -> Tensor:
    """Of very different sizes, that share of them 0; the first two items of a ranking, one of each class, have some."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(scores.shape, generator=generator, dtype=torch.float64).mul(2).exp()
    weight[torch.rand(scores.shape, generator=generator) < zeros] = 0
    weight[:, :2] += 0.1
    return weight


def scikit_learn(scores: Tensor, targets: Tensor, weight: Tensor) -> list[float]:
    return [
        average_precision_score(*(each[taken].numpy() for each in row), sample_weight=w[taken].numpy())
        for *row, w, taken in zip(targets, scores.double(), weight.double(), targets >= 0, strict=True)
    ]


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [0, 1, 5])
def test_equals_scikit_learn(levels: int, dtype: torch.dtype, zeros: float, precision: Precision) -> None:
    for seed, items in enumerate([2, 3, 5, 17, 100, 400]):
        scores, targets = random_batch(seed, 8, items, ignored=0.2, levels=levels, dtype=dtype)
        weight = weights(seed, scores, zeros)
        given = precision(scores, targets, weight)
        assert given.dtype == torch.float64
        np.testing.assert_allclose(given.numpy(), scikit_learn(scores, targets, weight), rtol=0, atol=1e-13)


@pytest.mark.parametrize("positives", [1, 30, 29_999])
def test_equals_scikit_learn_on_long_rankings(positives: int, precision: Precision) -> None:
    rng = np.random.default_rng(positives)
    targets = torch.tensor(rng.permutation(np.arange(30_000) < positives)).long()[None]
    scores = (torch.tensor(rng.normal(size=30_000)) + targets).round(decimals=2)
    weight = weights(positives, scores)
    expected = scikit_learn(scores, targets, weight)
    np.testing.assert_allclose(precision(scores, targets, weight).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float16, torch.float32])
def test_a_whole_weight_counts_so_many_items(dtype: torch.dtype, precision: Precision) -> None:
    scores, targets = random_batch(1, 1, 50, levels=12)
    weight = torch.randint(0, 5, (1, 50), generator=torch.Generator().manual_seed(1), dtype=torch.int64)
    repeated = [each[0].repeat_interleave(weight[0]) for each in (scores, targets)]
    given = precision(scores, targets, weight.to(dtype))
    torch.testing.assert_close(given[0], fastap.average_precision(*repeated), rtol=0, atol=1e-14)


def test_a_perfect_ranking_is_no_better_than_one(precision: Precision) -> None:
    targets = (torch.arange(60) < 30).long().expand(200, -1)
    scores = targets + torch.rand(200, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given = precision(scores, targets, weights(3, scores))
    assert (given <= 1).all()
    torch.testing.assert_close(given, torch.ones_like(given), rtol=0, atol=1e-14)


def test_scores_that_differ_in_the_last_bit_of_float64_are_two(precision: Precision) -> None:
    scores = torch.tensor([[1.0, 1.0 + 2**-52]], dtype=torch.float64)
    weight = torch.ones(1, 2)
    assert precision(scores, torch.tensor([[1, 0]]), weight) == 0.5
    assert precision(scores, torch.tensor([[0, 1]]), weight) == 1


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, -1e-9])
@pytest.mark.parametrize("place", range(4))
def test_a_nan_score_and_a_wrong_weight_spoil_their_ranking_only(
    place: int, value: float, precision: Precision
) -> None:
    scores, targets = random_batch(5, 3, 4)
    weight = weights(5, scores)
    before = precision(scores, targets, weight)
    spoilt = [weight.clone(), scores.clone()] if np.isnan(value) else [weight.clone()]
    for each in spoilt:
        each[1, place] = value
    for after in (
        precision(scores, targets, spoilt[0]),
        *(precision(each, targets, weight) for each in spoilt[1:]),
    ):
        assert after.isnan().tolist() == [False, True, False]
        assert (after[[0, 2]] == before[[0, 2]]).all()


@pytest.mark.parametrize("levels", [0, 3])
def test_equal_weights_are_none(levels: int, precision: Precision) -> None:
    scores, targets = random_batch(2, 20, 40, ignored=0.1, levels=levels)
    expected = fastap.average_precision(scores, targets, ignore_index=-1, dim=-1)
    for size in (0.3, 1e-300, 1e300):
        given = precision(scores, targets, torch.full_like(scores, size))
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0])
def test_ignored_items_may_hold_anything(value: float, precision: Precision) -> None:
    scores, targets = random_batch(7, 10, 30, ignored=0.4, levels=6)
    weight = weights(7, scores)
    before = precision(scores, targets, weight)
    scores[targets == -1] = value
    weight[targets == -1] = value
    # Not to the bit: where an item stands changes which gains are added first.
    torch.testing.assert_close(precision(scores, targets, weight), before, rtol=0, atol=1e-15)
    assert before.isfinite().all()


def test_no_positive_of_any_weight(precision: Precision) -> None:
    scores = torch.tensor([[0.3, 0.1, 0.2]] * 4)
    targets = torch.tensor([[0, 0, 0], [1, 1, 1], [-1, -1, -1], [1, 1, 0]])
    weight = torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 1]])
    given = precision(scores, targets, weight)
    assert given.isnan().tolist() == [True, False, True, True]
    assert given[1] == 1


def test_empty() -> None:
    for shape in ((3, 0), (0, 3)):
        none = torch.zeros(shape)
        given = fastap.average_precision(none, none, sample_weight=none, dim=-1)
        assert given.isnan().tolist() == [True] * shape[0]


def test_positives_that_weigh_more_than_there_are_numbers(precision: Precision) -> None:
    scores, targets = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]])
    assert precision(scores, targets, torch.tensor([[1e308, 1.0, 1e308]], dtype=torch.float64)).isnan()
    weight = torch.tensor([[1e307, 5e306, 1e307]], dtype=torch.float64)
    assert float(precision(scores, targets, weight)) == pytest.approx(0.5 + 0.5 * 0.8, abs=1e-15)


def by_row(scores: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    rows = [each.reshape(-1, each.shape[-1]) for each in (scores, targets, weight)]
    return torch.tensor(scikit_learn(*rows), dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("view", ["plain", "sliced", "expanded", "negative"])
def test_weights_of_any_strides_along_any_axis(view: str, dim: int) -> None:
    scores, targets = (each.view(4, 5, 6) for each in random_batch(9, 1, 120))
    targets.select(dim, 0).fill_(1)
    plain = weights(9, scores[None].reshape(1, -1)).view(4, 5, 6) + 0.1
    weight: Any = {
        "plain": plain,
        "sliced": plain.repeat_interleave(2, dim=1)[:, ::2],
        "expanded": plain[:1, :, :1].expand(4, 5, 6),
        "negative": torch._neg_view(-plain),
    }[view]
    given = fastap.average_precision(scores, targets, dim=dim, sample_weight=weight)
    expected = by_row(*(each.movedim(dim, -1) for each in (scores, targets, weight.resolve_neg().clone())))
    torch.testing.assert_close(given.flatten(), expected, rtol=0, atol=1e-13)


REAL = [torch.uint8, torch.uint16, torch.int16, torch.int64, torch.uint64]
REAL += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("ordered", [False, True])
def test_ragged_rankings(ordered: bool, dtype: torch.dtype) -> None:
    """By offsets, and by groups in any order, with empty rankings and one without a positive."""
    scores, targets = (each[0] for each in random_batch(10, 1, 300, ignored=0.2, levels=30))
    lengths = torch.tensor([7, 0, 1, 120, 172])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    targets[7], targets[[0, 8, 130]] = 0, 1
    weight = torch.randint(1, 9, (300,), generator=torch.Generator().manual_seed(10)).to(dtype)
    parts = [each.split(lengths.tolist()) for each in (scores, targets, weight.double())]
    expected = torch.full((5,), torch.nan, dtype=torch.float64)
    for number in (0, 3, 4):
        expected[number] = scikit_learn(*(each[number][None] for each in parts))[0]
    options: dict[str, Any] = {"ignore_index": -1}
    if ordered:
        given = fastap.average_precision(scores, targets, offsets=offsets, sample_weight=weight, **options)
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-13, equal_nan=True)
    order = torch.arange(300) if ordered else torch.randperm(300, generator=torch.Generator().manual_seed(11))
    groups = torch.arange(5).repeat_interleave(lengths)
    shuffled = [each.to(torch.float64)[order].to(each.dtype) for each in (scores, targets, groups, weight)]
    given = fastap.average_precision(*shuffled[:2], groups=shuffled[2], sample_weight=shuffled[3], **options)
    torch.testing.assert_close(given, expected[[0, 2, 3, 4]], rtol=0, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_bit_depends_on_the_threads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(12)
    before, results = torch.get_num_threads(), []
    batches = [random_batch(12, *shape, levels=300, dtype=dtype) for shape in ((1, 100_000), (50, 2_000))]
    weight = [torch.rand(scores.shape, generator=generator) for scores, _ in batches]
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(
                [
                    fastap.average_precision(*batch, sample_weight=each, dim=-1)
                    for batch, each in zip(batches, weight, strict=True)
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))

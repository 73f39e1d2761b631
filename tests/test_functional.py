"""What a user sees of the losses and of the loss-augmented ranking: shapes, types, targets, reductions, invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastap
from fastap.backends import reference
from fastap.types import METHODS, ONE_SIDED, UPDATES
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient

HALF = torch.float16, torch.bfloat16


def identical(given: Tensor, expected: Tensor) -> None:
    """Equal to the last bit, type and shape included; NaN equals NaN."""
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


# Shapes


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 5)])
def test_every_axis_can_be_ranked(shape: tuple[int, ...], loss: Loss, path: str) -> None:
    scores, targets = (each[0].view(shape) for each in random_batch(1, 1, int(np.prod(shape))))
    for dim in range(-len(shape), len(shape)):
        if shape[dim] == 1:  # a mistake, which is told
            continue
        value, gradient = value_and_gradient(loss, scores, targets, dim=dim)
        assert gradient.shape == scores.shape
        assert value.shape == scores.select(dim, 0).shape
        matrix = [each.movedim(dim, -1).reshape(-1, shape[dim]) for each in (scores, targets)]
        expected, slope = value_and_gradient(loss, *matrix)
        identical(value, expected.view(value.shape))
        identical(gradient.movedim(dim, -1).reshape(-1, shape[dim]), slope)


@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_ranking_has_the_shape_of_the_scores(dim: int, update: str) -> None:
    scores, targets = (each[0].view(4, 5, 6) for each in random_batch(2, 1, 120, ignored=0.1))
    options = {"update": update, "ignore_index": -1}
    ranks, value = fastap.loss_augmented_ranking(scores, targets, dim=dim, **options)
    assert ranks.shape == scores.shape
    assert ranks.dtype == torch.int64
    assert value.shape == scores.select(dim, 0).shape
    assert value.dtype == torch.float64
    items = scores.shape[dim]
    matrix = [each.movedim(dim, -1).reshape(-1, items) for each in (scores, targets)]
    expected = fastap.loss_augmented_ranking(*matrix, **options, dim=-1)
    identical(ranks.movedim(dim, -1).reshape(-1, items), expected.ranks)
    identical(value, expected.value.view(value.shape))


def test_ranking_is_a_named_tuple() -> None:
    result = fastap.loss_augmented_ranking(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]), epsilon=0.1)
    assert isinstance(result, fastap.AugmentedRanking)
    assert result._fields == ("ranks", "value")
    assert result.ranks.tolist() == [1, 0]
    assert float(result.value) == pytest.approx(1 + 0.1 / 2)


def test_expanded_scores_add_their_gradients(loss: Loss, path: str) -> None:
    _, targets = random_batch(4, 5, 9)
    row = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    value = loss(row.expand(5, 9), targets, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), row)
    expected, slope = value_and_gradient(loss, row.repeat(5, 1), targets)
    identical(value.detach(), expected)
    torch.testing.assert_close(gradient, slope.sum(0), rtol=1e-14, atol=1e-15)
    scores, one_target = torch.randn(5, 9, dtype=torch.float64), targets[0]
    identical(loss(scores, one_target.expand(5, 9)), loss(scores, one_target.repeat(5, 1)))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty_tensors(shape: tuple[int, ...], loss: Loss) -> None:
    for dim in range(len(shape)):
        for reduction in ("mean", "sum", "none"):
            scores = torch.zeros(shape, requires_grad=True)
            value = loss(scores, torch.zeros(shape), dim=dim, reduction=reduction)
            assert value.shape == (shape[:dim] + shape[dim + 1 :] if reduction == "none" else ())
            assert (value == 0).all()
            value.sum().backward()
            assert scores.grad.shape == shape
        ranks, value = fastap.loss_augmented_ranking(torch.zeros(shape), torch.zeros(shape), dim=dim)
        assert ranks.shape == shape
        assert value.shape == shape[:dim] + shape[dim + 1 :]
        assert value.isnan().all()


# Targets


# Reductions and rankings that take no part


def one_class_rows() -> tuple[Tensor, Tensor]:
    """Six rankings, of which 1, 3 and 4 take no part: no negative, no positive, and every item ignored."""
    scores, targets = random_batch(8, 6, 8)
    targets[1], targets[3], targets[4] = 1, 0, -1
    return scores, targets


def test_reductions_count_the_rankings_that_take_part(loss: Loss, path: str) -> None:
    scores, targets = one_class_rows()
    each, slope = value_and_gradient(loss, scores, targets, ignore_index=-1)
    left_out = [1, 3, 4]
    assert (each[left_out] == 0).all()
    assert (slope[left_out] == 0).all()
    assert (each[[0, 2, 5]] > 0).all()
    total, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(total, each.sum(), rtol=1e-15, atol=0)
    identical(gradient, slope)
    mean, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, reduction="mean")
    torch.testing.assert_close(mean, each.sum() / 3, rtol=1e-15, atol=0)
    torch.testing.assert_close(gradient, slope / 3, rtol=1e-15, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [0, 1, -1])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 1)])
def test_nothing_left_is_zero_with_a_graph(
    shape: tuple[int, ...], target: int, reduction: str, loss: Loss, path: str
) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(9)).requires_grad_()
    value = loss(scores, torch.full(shape, target), ignore_index=-1, reduction=reduction)
    assert (value == 0).all()
    assert value.requires_grad
    value.sum().backward()
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("update", ONE_SIDED)
def test_one_class_alone_is_ranked_by_score(update: str) -> None:
    scores, targets = one_class_rows()
    ranks, value = fastap.loss_augmented_ranking(scores, targets, update=update, ignore_index=-1, dim=-1)
    assert value.isnan().tolist() == [False, True, False, True, True, False]
    for row in (1, 3):
        identical(ranks[row], scores[row].argsort(descending=True, stable=True).argsort())
    assert (ranks[4] == -1).all()
    tied = fastap.loss_augmented_ranking(torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.zeros(4), update=update)
    assert tied.ranks.tolist() == [2, 0, 3, 1]


# Scores that are not finite


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("update", ONE_SIDED)
def test_a_score_that_is_not_finite_spoils_its_rank_only(bad: float, update: str) -> None:
    scores, targets = random_batch(11, 4, 15)
    before = fastap.loss_augmented_ranking(scores, targets, update=update, dim=-1)
    scores[1, 3] = bad
    after = fastap.loss_augmented_ranking(scores, targets, update=update, dim=-1)
    assert after.value.isnan().tolist() == [False, True, False, False]
    identical(after.ranks[[0, 2, 3]], before.ranks[[0, 2, 3]])
    identical(after.value[[0, 2, 3]], before.value[[0, 2, 3]])


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_what_takes_no_part_may_hold_anything(bad: float, loss: Loss, path: str) -> None:
    """Ignored items, which have no rank, and rankings of one class."""
    scores, targets = one_class_rows()
    targets[0, 3:5], targets[2, 6] = -1, -1
    expected = value_and_gradient(loss, scores, targets, ignore_index=-1)
    ranking = fastap.loss_augmented_ranking(scores, targets, ignore_index=-1, dim=-1)
    assert (ranking.ranks[targets == -1] == -1).all()
    scores[targets == -1] = bad
    for given, wanted in zip(
        fastap.loss_augmented_ranking(scores, targets, ignore_index=-1, dim=-1), ranking, strict=True
    ):
        identical(given, wanted)
    scores[[1, 3, 4], 2] = bad
    for given, wanted in zip(value_and_gradient(loss, scores, targets, ignore_index=-1), expected, strict=True):
        identical(given, wanted)


# Types


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_types_of_loss_and_gradient(dtype: torch.dtype, reduction: str, loss: Loss, path: str) -> None:
    scores, targets = random_batch(13, 3, 20, dtype=dtype)
    value, gradient = value_and_gradient(loss, scores, targets, reduction=reduction)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    exact, slope = value_and_gradient(loss, scores.double(), targets, reduction=reduction)
    identical(value, exact.to(value.dtype))
    # Rounded to the type of the loss, of a mean also divided in it, and last to the type of the scores.
    roundings = torch.finfo(value.dtype).eps * (3 if reduction == "mean" else 1) + torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), slope, rtol=0.5 * roundings, atol=0)


@pytest.mark.parametrize("update", ONE_SIDED)
def test_half_gradients_are_scaled_before_they_are_rounded(update: str, path: str) -> None:
    sign = 1 if update == "positive" else -1
    scores = torch.tensor([0.5 * sign, 0.0], dtype=torch.float16, requires_grad=True)  # the update turns them round
    targets = torch.tensor([1, 0])
    fastap.direct_ap_loss(scores, targets, epsilon=1e8, update=update).backward()
    assert (scores.grad == 0).all()  # 2e-8 is less than half of the smallest float16
    scores.grad = None
    (65536 * fastap.direct_ap_loss(scores, targets, epsilon=1e8, update=update)).backward()
    slope = 65536 * 2e-8
    torch.testing.assert_close(scores.grad.tolist(), [-slope, slope], rtol=2**-11, atol=0)


def test_incoming_gradients_scale_each_ranking(loss: Loss, path: str) -> None:
    scores, targets = random_batch(14, 4, 10)
    leaf = scores.t().contiguous().requires_grad_()
    value = loss(leaf, targets.t(), dim=0, reduction="none")
    weight = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(value, leaf, weight)
    _, slope = value_and_gradient(loss, scores, targets)
    identical(gradient, (slope * weight[:, None]).t())


# Order of the items, and ties


@pytest.mark.parametrize("levels", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_permuting_the_items_permutes_the_gradient(dtype: torch.dtype, levels: int, loss: Loss, path: str) -> None:
    generator = torch.Generator().manual_seed(15)
    for seed in range(12):
        items = int(torch.randint(2, 60, (), generator=generator))
        scores, targets = random_batch(seed, 2, items, ignored=0.1, levels=levels, dtype=dtype)
        order = torch.randperm(items, generator=generator)
        weight = float(torch.rand((), generator=generator)) * 3 + 0.01
        value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, weight=weight)
        again, permuted = value_and_gradient(loss, scores[:, order], targets[:, order], ignore_index=-1, weight=weight)
        identical(again, value)
        identical(permuted, gradient[:, order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_minus_zero_equals_zero(dtype: torch.dtype, loss: Loss, path: str) -> None:
    scores, targets = random_batch(17, 4, 30, levels=3, dtype=dtype)
    signs = torch.randint(2, scores.shape, generator=torch.Generator().manual_seed(17)) * 2 - 1
    mixed = torch.where(scores == 0, scores * signs, scores)
    assert torch.signbit(mixed).any()
    for given, wanted in zip(
        value_and_gradient(loss, mixed, targets), value_and_gradient(loss, scores, targets), strict=True
    ):
        identical(given, wanted)
    for given, wanted in zip(
        fastap.loss_augmented_ranking(mixed, targets, dim=-1),
        fastap.loss_augmented_ranking(scores, targets, dim=-1),
        strict=True,
    ):
        identical(given, wanted)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("score", [0.0, -3.25, 1e6])
def test_all_scores_equal_still_learns(score: float, update: str, path: str) -> None:
    for n_positive, n_negative in ((1, 1), (1, 9), (9, 1), (4, 6)):
        scores = torch.full((n_positive + n_negative,), score, dtype=torch.float64)
        targets = torch.arange(scores.shape[0]) < n_positive
        _, gradient = value_and_gradient(LOSSES[update], scores, targets)
        assert (gradient[targets] < 0).all()
        assert (gradient[~targets] > 0).all()


@pytest.mark.parametrize("update", ONE_SIDED)
def test_equal_scores_of_a_class_stand_in_the_order_of_the_input(update: str) -> None:
    scores, targets = random_batch(18, 5, 40, levels=3)
    ranks, _ = fastap.loss_augmented_ranking(scores, targets, update=update, epsilon=0.5, dim=-1)
    for row in range(5):
        for level in range(3):
            for target in (0, 1):
                places = ranks[row, (scores[row] == level) & (targets[row] == target)]
                assert (places.diff() > 0).all()


# Invariances


@pytest.mark.parametrize("levels", [0, 3])
def test_a_batch_is_its_rankings(levels: int, loss: Loss, path: str) -> None:
    scores, targets = random_batch(19, 12, 50, ignored=0.3, levels=levels)
    value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, weight=0.4)
    for row in range(12):
        alone, slope = value_and_gradient(loss, scores[row], targets[row], ignore_index=-1, weight=0.4)
        identical(value[row], alone)
        identical(gradient[row], slope)


def test_the_same_call_gives_the_same_bits(loss: Loss, path: str) -> None:
    scores, targets = random_batch(20, 10, 100, levels=30)
    first, second = (value_and_gradient(loss, scores, targets, reduction="mean") for _ in range(2))
    identical(first[0], second[0])
    identical(first[1], second[1])


@pytest.mark.parametrize("offset", [1.0, -1024.0, 2.0**30, -(2.0**40)])
def test_a_common_offset_changes_nothing(offset: float, loss: Loss, path: str) -> None:
    for seed in range(5):
        scores, targets = random_batch(seed, 1, 200)
        scores = (scores * 1024).round() / 1024  # so that adding the offset is exact
        weight = float(np.exp(np.random.default_rng(seed).uniform(-5, 2)))
        value, gradient = value_and_gradient(loss, scores, targets, weight=weight)
        moved, slope = value_and_gradient(loss, scores + offset, targets, weight=weight)
        identical(moved, value)
        identical(slope, gradient)


@pytest.mark.parametrize("exponent", [-100, -30, 30, 100])
def test_scaling_scores_and_weight_together_scales_the_loss(exponent: int, loss: Loss, path: str) -> None:
    scale = 2.0**exponent  # exact, so every rounding scales along; 2**100 is 1e30
    scores, targets = random_batch(21, 5, 60)
    value, gradient = value_and_gradient(loss, scores, targets, weight=0.5)
    scaled, slope = value_and_gradient(loss, scores * scale, targets, weight=0.5 * scale)
    if loss in [LOSSES[update] for update in UPDATES]:
        identical(scaled, value)
        identical(slope * scale, gradient)
    else:
        identical(scaled / scale, value)
        identical(slope, gradient)


# Against the oracle, and by definition


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [0, 6])
def test_backends_agree(dtype: torch.dtype, levels: int, loss: Loss, path: str) -> None:
    for seed, (rankings, items) in enumerate([(1, 2), (3, 3), (7, 12), (2, 90), (20, 25)]):
        scores, targets = random_batch(seed, rankings, items, ignored=0.15, levels=levels, dtype=dtype)
        targets[0] = seed % 2
        for reduction in ("none", "mean", "sum"):
            # Off the grid of scores and of simple fractions, so that optima are unique.
            options: dict[str, Any] = {"ignore_index": -1, "reduction": reduction, "weight": 0.7310585}
            ours = value_and_gradient(loss, scores, targets, **options)
            theirs = value_and_gradient(loss, scores, targets, backend="reference", **options)
            tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
            for given, expected, close in zip(ours, theirs, (max(1e-13, min(tolerance, 1e-6)), tolerance), strict=True):
                assert given.dtype == expected.dtype
                torch.testing.assert_close(given, expected, rtol=close, atol=close * float(expected.abs().max()))


@pytest.mark.parametrize("update", ONE_SIDED)
def test_backends_agree_on_the_ranking(update: str) -> None:
    scores, targets = random_batch(23, 6, 50, ignored=0.2)
    scores[3, 1] = torch.nan
    targets[4] = 1
    options: dict[str, Any] = {"update": update, "epsilon": 0.7310585, "ignore_index": -1}
    ours = fastap.loss_augmented_ranking(scores, targets, **options, dim=-1)
    theirs = fastap.loss_augmented_ranking(scores, targets, backend="reference", **options, dim=-1)
    rows = [0, 1, 2, 4, 5]
    identical(ours.ranks[rows], theirs.ranks[rows])
    torch.testing.assert_close(ours.value, theirs.value, rtol=1e-13, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_perceptron_is_the_mean_hinge_of_the_pairs(backend: str) -> None:
    scores, targets = random_batch(24, 1, 60)
    p, n = scores[targets == 1], scores[targets == 0]
    pairs = (n[None, :] - p[:, None]).clamp(min=0)
    loss = fastap.ap_perceptron_loss(scores, targets, backend=backend, dim=-1)
    assert float(loss) == pytest.approx(2 * float(pairs.mean()), rel=1e-13)


@pytest.mark.parametrize("margin", [0.01, 1.0, 50.0])
def test_hinge_bounds_the_task_loss(margin: float, path: str) -> None:
    scores, targets = random_batch(25, 30, 40)
    task_loss = 1 - fastap.average_precision(scores, targets, dim=-1)
    hinge = fastap.ap_hinge_loss(scores, targets, margin=margin, reduction="none", dim=-1)
    assert (hinge >= margin * task_loss - 1e-13).all()
    # max(F + m L) - F(y*) = [max(F + m L) - max F] + [max F - F(y*)]
    direct = fastap.direct_ap_loss(scores, targets, epsilon=margin, reduction="none", dim=-1)
    perceptron = fastap.ap_perceptron_loss(scores, targets, reduction="none", dim=-1)
    torch.testing.assert_close(hinge, margin * direct + perceptron, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [*UPDATES, "hinge"])
def test_both_methods_say_the_same_of_bad_scores(name: str, path: str) -> None:
    """NaN, infinities, scores too large to be summed, and rankings without one of the classes."""
    scores, targets = random_batch(29, 8, 12)
    scores[0, 3], scores[1, 4], scores[2, 0], scores[3] = torch.nan, torch.inf, -torch.inf, scores[3] * 1e308
    targets[4], targets[5] = 0, 1
    by_search, by_program = (value_and_gradient(LOSSES[name], scores, targets, method=method) for method in METHODS)
    for given, expected in zip(by_program, by_search, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-13, equal_nan=True)
    assert by_program[0].isnan().tolist() == [True] * 4 + [False] * 4


def test_hinge_of_a_wide_margin_is_zero(path: str) -> None:
    scores, targets = torch.tensor([9.0, 8.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([1, 1, 0, 0])
    value, gradient = value_and_gradient(LOSSES["hinge"], scores, targets)
    assert value == 0
    assert (gradient == 0).all()


def test_direct_losses_bracket_the_task_loss_and_tend_to_it(path: str) -> None:
    scores, targets = random_batch(26, 30, 40)
    task_loss = 1 - fastap.average_precision(scores, targets, dim=-1)
    previous = torch.full_like(task_loss, torch.inf)
    for epsilon in (10.0, 1.0, 0.1, 1e-2, 1e-4, 1e-7):
        high = fastap.direct_ap_loss(scores, targets, epsilon=epsilon, reduction="none", dim=-1)
        low = fastap.direct_ap_loss(scores, targets, epsilon=epsilon, update="negative", reduction="none", dim=-1)
        assert (low >= 0).all()
        assert (high <= 1).all()
        rounding = 1e-15 / epsilon + 1e-13
        assert (low <= task_loss + rounding).all()
        assert (task_loss <= high + rounding).all()
        assert (high - low <= previous + rounding).all()  # D+ falls and D- rises as epsilon falls
        previous = high - low
    torch.testing.assert_close(high, task_loss, rtol=0, atol=1e-8)
    torch.testing.assert_close(low, task_loss, rtol=0, atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 30.0])
def test_the_symmetric_update_is_the_mean_of_both(epsilon: float, path: str) -> None:
    """Of ties and of scores far apart too, whose gradients may be one of several: all three choose alike."""
    scores, targets = random_batch(30, 40, 60, ignored=0.1)
    scores[10:20], scores[20:30] = (2 * scores[10:20]).round(), scores[20:30].pow(15)
    results = [value_and_gradient(LOSSES[u], scores, targets, ignore_index=-1, weight=epsilon) for u in UPDATES]
    for positive, negative, symmetric in zip(*results, strict=True):
        torch.testing.assert_close(symmetric, (positive + negative) / 2, rtol=1e-12, atol=1e-13)


def test_one_ranking_has_no_symmetric_update() -> None:
    with pytest.raises(ValueError, match="update must be one of 'positive', 'negative', got 'symmetric'"):
        fastap.loss_augmented_ranking(torch.zeros(2), torch.tensor([0, 1]), update="symmetric")  # type: ignore[arg-type]


def test_direct_gradient_turns_a_wrong_pair(path: str) -> None:
    """One positive and one negative in the wrong order: ``a`` goes from 1 to 0 for the negative update."""
    scores, targets = torch.tensor([0.0, 0.25], dtype=torch.float64), torch.tensor([1, 0])
    value, gradient = value_and_gradient(LOSSES["negative"], scores, targets, weight=2.0)
    # max F = 1/4, max(F - eps L) = -1/4 with the positive first.
    assert float(value) == 0.25
    assert gradient.tolist() == [-1.0, 1.0]


CASES = {
    "one-of-many": (1, 1, 2000),
    "all-but-one": (1, 2000, 1),
    "more-positives": (1, 900, 150),
    "long": (1, 300, 5000),
    "batch": (40, 200, 500),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("epsilon", [1.0, pytest.param(0.1, marks=pytest.mark.full)])
def test_medium_sizes_against_the_oracle(case: str, epsilon: float) -> None:
    rankings, n_positive, n_negative = CASES[case]
    rng = np.random.default_rng(27)
    scores = np.concatenate([rng.normal(1, 1, (rankings, n_positive)), rng.normal(0, 1, (rankings, n_negative))], 1)
    scores = scores.astype(np.float32).astype(np.float64)
    targets = np.zeros(scores.shape, dtype=bool)
    targets[:, :n_positive] = True
    for update in UPDATES:
        loss, gradient = value_and_gradient(LOSSES[update], torch.tensor(scores), torch.tensor(targets), weight=epsilon)
        for row in range(0, rankings, 13):
            expected = reference.direct_ranking_loss(scores[row], targets[row], epsilon, update)
            assert float(loss[row]) == pytest.approx(expected.value, rel=1e-9, abs=1e-13)
            np.testing.assert_allclose(
                gradient[row].numpy(), expected.gradient, rtol=0, atol=1e-12 * np.abs(expected.gradient).max()
            )
    for update in ONE_SIDED:
        ranks, value = fastap.loss_augmented_ranking(
            torch.tensor(scores), torch.tensor(targets), epsilon=epsilon, update=update, dim=-1
        )
        for row in range(0, rankings, 13):
            order, best = reference.augmented_ranking(scores[row], targets[row], epsilon, update)
            assert float(value[row]) == pytest.approx(best, rel=1e-9)
            np.testing.assert_array_equal(ranks[row].numpy(), order)

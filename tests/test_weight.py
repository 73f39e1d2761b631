"""``weight``: what each ranking counts, in values, gradients and means, in every layout and backend."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from fastap import ragged
from tests.losses import random_batch, value_and_gradient

BACKENDS = ("auto", "reference")
WEIGHTS = torch.tensor([0.5, 0.0, 3.0, 1.0, 2.0, 7.0])


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Six rankings, of which the fourth has no positive and the last no negative."""
    scores, targets = random_batch(0, 6, 20, ignored=0.2, dtype=dtype)
    targets[3] = targets[3].clamp(max=0)
    targets[5] = targets[5].abs().clamp(min=1)
    return scores, targets


FUNCTIONS: dict[str, Any] = {
    "positive": partial(fastap.direct_ap_loss, dim=-1),
    "negative": partial(fastap.direct_ap_loss, dim=-1, update="negative"),
    "hinge": partial(fastap.ap_hinge_loss, dim=-1),
    "perceptron": partial(fastap.ap_perceptron_loss, dim=-1),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_weights_of_rows(name: str, reduction: str, backend: str) -> None:
    scores, targets = batch()
    options: dict[str, Any] = {"ignore_index": -1, "backend": backend}
    each, slope = value_and_gradient(FUNCTIONS[name], scores, targets, **options)
    takes_part = (targets == 1).any(1) & (targets == 0).any(1)
    assert takes_part.tolist() == [True, True, True, False, True, False]
    weights = WEIGHTS.double()
    whole = (weights * takes_part).sum() if reduction == "mean" else 1.0
    value, gradient = value_and_gradient(
        FUNCTIONS[name], scores, targets, weight=WEIGHTS, reduction=reduction, **options
    )
    expected = weights * each / whole
    torch.testing.assert_close(value, expected if reduction == "none" else expected.sum(), rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, weights[:, None] * slope / whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("by", ["groups", "offsets", "nested"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_of_ragged_rankings(reduction: str, by: str) -> None:
    scores, targets = batch()
    options: dict[str, Any] = {"ignore_index": -1, "reduction": reduction, "weight": WEIGHTS}
    expected = value_and_gradient(FUNCTIONS["positive"], scores, targets, **options)
    flat, wanted = scores.reshape(-1), targets.reshape(-1)
    offsets = torch.arange(7) * 20
    if by == "nested":
        leaf = flat.clone().requires_grad_()
        pair = (torch.nested.nested_tensor_from_jagged(each, offsets) for each in (leaf, wanted))
        value = fastap.direct_ap_loss(*pair, **options)
        given = value.detach(), torch.autograd.grad(value.sum(), leaf)[0]
    else:
        layout = {"offsets": offsets} if by == "offsets" else {"groups": torch.arange(6).repeat_interleave(20)}
        given = value_and_gradient(FUNCTIONS["positive"], flat, wanted, **options, **layout)
    torch.testing.assert_close(given[0], expected[0], rtol=1e-15, atol=0)
    torch.testing.assert_close(given[1], expected[1].reshape(-1), rtol=1e-15, atol=0)


def test_class_weights_broadcast() -> None:
    scores, targets = random_batch(1, 4 * 3, 9)
    scores, targets = scores.view(4, 3, 9).movedim(2, 0), targets.view(4, 3, 9).movedim(2, 0)  # (items, views, classes)
    weights = torch.tensor([1.0, 5.0, 0.25])
    given = fastap.direct_ap_loss(scores, targets, dim=0, weight=weights)
    losses = fastap.direct_ap_loss(scores, targets, dim=0, reduction="none")
    assert losses.shape == (4, 3)
    torch.testing.assert_close(given, (losses * weights).sum() / (4 * weights.sum()).double())
    module = fastap.DirectAPLoss(dim=0, update="positive", epsilon=1, noise=0, reduction="none")
    torch.testing.assert_close(module(scores, targets, weight=weights), losses * weights)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_any_weight_there_is_no_loss(reduction: str) -> None:
    scores, targets = batch()
    for rows in (slice(None), slice(0, 1), slice(3, 4)):
        number = len(WEIGHTS[rows])
        value, gradient = value_and_gradient(
            FUNCTIONS["positive"],
            scores[rows],
            targets[rows],
            weight=torch.zeros(number),
            ignore_index=-1,
            reduction=reduction,
        )
        assert value.item() == 0
        assert (gradient == 0).all()


def test_one_ranking_and_its_weight() -> None:
    scores, targets = random_batch(0, 1, 20)
    plain, slope = value_and_gradient(FUNCTIONS["positive"], scores[0], targets[0])
    for weight in (torch.tensor(3.0), torch.tensor(3, dtype=torch.int32)):
        for reduction, factor in (("mean", 1), ("sum", 3), ("none", 3)):
            value, gradient = value_and_gradient(
                FUNCTIONS["positive"], scores[0], targets[0], weight=weight, reduction=reduction
            )
            torch.testing.assert_close(value, factor * plain)
            torch.testing.assert_close(gradient, factor * slope)


def test_a_lost_ranking_stays_lost() -> None:
    """A weight of 0 does not hide that a score was NaN, as in PyTorch's losses."""
    scores, targets = batch()
    scores[1, (targets[1] == 1).nonzero()[0]] = torch.nan
    value, gradient = value_and_gradient(FUNCTIONS["positive"], scores, targets, ignore_index=-1, weight=WEIGHTS)
    assert value.isnan().tolist() == [False, True, False, False, False, False]
    assert not gradient[[0, 2, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_wrong_values(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = batch()
    weights = WEIGHTS.clone()
    weights[2] = bad
    with pytest.raises(ValueError, match=r"weight must be finite in torch\.float64 and not negative"):
        fastap.direct_ap_loss(scores, targets, ignore_index=-1, weight=weights, dim=-1)
    # Where an error would have to wait for the device.
    monkeypatch.setattr(ragged, "_is_on_host", lambda tensor: False)
    value, gradient = value_and_gradient(FUNCTIONS["positive"], scores, targets, ignore_index=-1, weight=weights)
    assert value.isnan().tolist() == [False, False, True, False, False, False]
    assert gradient[2].isnan().all()
    assert not gradient[[0, 1, 3, 4, 5]].isnan().any()
    assert fastap.direct_ap_loss(scores, targets, ignore_index=-1, weight=weights, dim=-1).isnan()


def test_a_weight_that_the_loss_cannot_hold() -> None:
    """Times a gradient of 0 it would be NaN."""
    scores, targets = batch(torch.float32)
    weights = WEIGHTS.double().clone()
    weights[2] = 1e300
    with pytest.raises(ValueError, match=r"weight must be finite in torch\.float32 and not negative, got 1e\+300"):
        fastap.direct_ap_loss(scores, targets, ignore_index=-1, weight=weights, reduction="sum", dim=-1)
    value, gradient = value_and_gradient(
        FUNCTIONS["positive"], scores.double(), targets, ignore_index=-1, weight=weights, reduction="sum"
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_wrong_number_of_weights_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = random_batch(2, 1, 30)
    scores, targets, groups = scores[0], targets[0], torch.arange(30) % 4
    right = fastap.direct_ap_loss(scores, targets, groups=groups, weight=torch.ones(4))
    for number in (3, 5):
        with pytest.raises(ValueError, match=f"one entry for each of the 4 groups, got {number}"):
            fastap.direct_ap_loss(scores, targets, groups=groups, weight=torch.ones(number))
    monkeypatch.setattr(ragged, "_is_on_host", lambda tensor: False)
    for number in (3, 5, 40):
        value = fastap.direct_ap_loss(scores, targets, groups=groups, weight=torch.ones(number), backend="reference")
        assert value.isnan()
    torch.testing.assert_close(
        fastap.direct_ap_loss(scores, targets, groups=groups, weight=torch.ones(4), backend="reference"), right
    )


def test_errors() -> None:
    scores, targets = batch()
    for weight, message in (
        ([1.0] * 6, "weight must be a torch.Tensor or None, got list"),
        (torch.ones(6, dtype=torch.bool), "weight must have a floating or integer dtype, got torch.bool"),
        (torch.ones(6, requires_grad=True), r"weight must not require a gradient, for it gets none"),
        (torch.ones(5), r"weight must broadcast to the shape of scores without dim, \(6,\), got \(5,\)"),
        (torch.ones(1, 6), r"weight must broadcast to the shape of scores without dim, \(6,\), got \(1, 6\)"),
        (torch.ones(6, device="meta"), "weight must be on the device of scores, cpu, got meta"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fastap.direct_ap_loss(scores, targets, ignore_index=-1, weight=weight, dim=-1)
    offsets, groups = torch.arange(7) * 20, torch.arange(120)
    for layout, weight, message in (
        ({"offsets": offsets}, torch.ones(1), r"weight must have the shape \(rankings,\), \(6,\), got \(1,\)"),
        ({"groups": groups}, torch.ones(1, 1), "weight must have one dimension with groups"),
    ):
        with pytest.raises(ValueError, match=message):
            fastap.direct_ap_loss(scores.reshape(-1), targets.reshape(-1), ignore_index=-1, weight=weight, **layout)

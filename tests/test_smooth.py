"""SmoothAP by recurrences along the sorted scores, against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import fastap
from fastap import warning
from fastap.backends import native, reference
from fastap.types import Batch, Objective
from tests.kernels import often
from tests.problems import random_batch


def by_pairs(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """By definition, differentiable, of one ranking."""
    gap = (scores[None, :] - scores[targets == 1][:, None]) / temperature
    near = (-gap.abs()).exp() / 2
    above = torch.where(gap < 0, near, 1 - near)
    # Each positive has met itself, at 1/2, and is to count 1.
    return 1 - ((above[:, targets == 1].sum(1) + 0.5) / (above.sum(1) + 0.5)).mean()


@pytest.mark.parametrize("temperature", [10.0, 0.3, 0.01])
@pytest.mark.parametrize("seed", range(5))
def test_the_reference_is_the_definition(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(30, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.arange(30) < 4 * seed + 2).long()
    expected = by_pairs(scores, targets, temperature)
    (slope,) = torch.autograd.grad(expected, scores)
    loss, gradient = reference.smooth_ap_loss(scores.detach(), targets, temperature)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-13 * float(slope.abs().max()))


@pytest.mark.parametrize(("seed", "batches"), often((0, 150), full=[(1, 1000)]))
def test_random_problems(seed: int, batches: int) -> None:
    """All kinds, ties and scores far apart among them; temperatures from 1/1000 of an epsilon to all of it."""
    rng = np.random.default_rng(seed)
    for number in range(batches):
        problem = random_batch(rng, 120)
        dtype = torch.float64 if number % 2 else torch.float32
        scores = torch.tensor(problem.scores, dtype=dtype)
        batch = Batch(scores, torch.tensor(problem.targets), -1)
        objective = Objective("smooth", problem.epsilon * float(rng.choice([1e-3, 0.1, 1.0])))
        given, right = (engine.losses(batch, objective, torch.float64) for engine in (native, reference))
        # Gaps are rounded before they are divided by the temperature.
        rounding = 1e-14 + 1e-15 * float(scores.abs().max()) / objective.epsilon
        torch.testing.assert_close(given.loss, right.loss, rtol=0, atol=rounding)
        size = 1e-7 if dtype == torch.float32 else 1e-12 + rounding
        # It is a difference of terms of up to 1/temperature each.
        atol = size * float(right.gradient.abs().max()) + 1e-15 / objective.epsilon
        torch.testing.assert_close(given.gradient, right.gradient, rtol=0, atol=atol)
        assert torch.equal(given.takes_part, right.takes_part)


def test_it_tends_to_ap() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(4, 60, generator=generator), torch.rand(4, 60, generator=generator) < 0.3
    loss = fastap.smooth_ap_loss(scores, targets, temperature=1e-6, dim=-1, reduction="none")
    torch.testing.assert_close(loss.double(), 1 - fastap.average_precision(scores, targets, dim=-1), rtol=0, atol=1e-6)


def test_options() -> None:
    """Ragged, ignored, weighted, along an axis, spoilt: as one ranking after the other."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(20, 3, generator=generator) < 0.4).long()
    targets[3, 1] = -1
    weight, options = torch.tensor([1.0, 0.0, 2.5]), {"ignore_index": -1, "temperature": 0.2}
    one = fastap.smooth_ap_loss(scores, targets, dim=0, weight=weight, reduction="sum", **options)
    each = torch.stack([fastap.smooth_ap_loss(scores[:, i], targets[:, i], **options) for i in range(3)])
    torch.testing.assert_close(one, (each * weight).sum())
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (one, (each * weight).sum())))
    flat = fastap.smooth_ap_loss(
        scores.T.flatten(), targets.T.flatten(), offsets=torch.arange(0, 61, 20), reduction="none", **options
    )
    torch.testing.assert_close(flat, each)
    compiled = torch.compile(fastap.smooth_ap_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(scores, targets, dim=0, **options), each.mean())
    spoilt = torch.where(torch.arange(60).view(20, 3) == 4, torch.nan, scores.detach()).requires_grad_()
    loss = fastap.smooth_ap_loss(spoilt, targets, dim=0, reduction="none", **options)
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, True, False]
    assert spoilt.grad[:, 1].isnan().sum() == 19  # but for the item that is ignored
    assert not spoilt.grad[:, [0, 2]].isnan().any()


def test_a_class_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warning, "_WARNED", set())  # as if it had not been said
    scores = torch.randn(2, 5, requires_grad=True)
    with pytest.warns(fastap.FastapWarning):
        loss = fastap.smooth_ap_loss(scores, torch.tensor([[0] * 5, [1] * 5]), dim=-1)
    loss.backward()
    assert loss == 0
    assert not scores.grad.any()

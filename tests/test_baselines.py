"""The peers stated in bench/baselines.py: each against its definition, written with loops, or against a limit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import baselines
from bench.inputs import Shape, stream
from fastap.backends import reference

SHAPES = [(1, 1), (1, 7), (7, 1), (30, 30), (12, 200)]


def problem(P: int, N: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    scores, targets = next(stream(Shape(1, P, N), seed=seed, dtype=torch.float64))
    return scores.requires_grad_(), targets


def one_minus_ap(scores: Tensor, targets: Tensor) -> float:
    return 1 - reference.plain_average_precision(scores.detach(), targets)


def gradient(loss: Tensor, scores: Tensor) -> Tensor:
    return torch.autograd.grad(loss, scores)[0]


def brute_ranks(scores: Tensor) -> Tensor:
    return torch.stack([(scores >= own).sum() for own in scores]).to(scores.dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_blackbox_ap(shape: tuple[int, int]) -> None:
    scores, targets = problem(*shape)
    loss = baselines.blackbox_ap_loss(scores, targets, strength=7.0)
    assert loss.item() == pytest.approx(one_minus_ap(scores, targets), abs=1e-12)

    ranked, among = brute_ranks(scores.detach()), brute_ranks(scores.detach()[targets])
    wanted = torch.zeros_like(ranked)
    wanted[targets] = among / ranked[targets] ** 2 / shape[0]
    expected = (brute_ranks(scores.detach() + 7.0 * wanted) - ranked) / 7.0
    torch.testing.assert_close(gradient(loss, scores), expected, rtol=0, atol=1e-12)
    if shape == (12, 200):
        assert expected.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("delta", [1e-6, 0.3, 1.0])
def test_error_driven_ap(shape: tuple[int, int], delta: float) -> None:
    scores, targets = problem(*shape)
    loss = baselines.error_driven_ap_loss(scores, targets, delta, interpolated=False)
    expected = np.zeros(scores.numel())
    value = 0.0
    for i in np.flatnonzero(targets):
        rank = 1 + sum(_step(scores[k] - scores[i], delta) for k in range(scores.numel()) if k != i)
        for j in np.flatnonzero(~targets):
            error = _step(scores[j] - scores[i], delta) / rank / shape[0]
            expected[i] -= error
            expected[j] += error
            value += error
    assert loss.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(gradient(loss, scores), expected, rtol=0, atol=1e-12)
    if delta < 1e-3:
        assert loss.item() == pytest.approx(one_minus_ap(scores, targets), abs=1e-9)


def _step(difference: Tensor, delta: float) -> float:
    if difference.item() < -delta:
        return 0.0
    return 1.0 if difference.item() > delta else difference.item() / (2 * delta) + 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_smooth_ap(shape: tuple[int, int]) -> None:
    scores, targets = problem(*shape)
    loss = baselines.smooth_ap_loss(scores, targets, temperature=0.2)
    total = 0.0
    for i in np.flatnonzero(targets):
        soft = [torch.sigmoid((scores[j] - scores[i]) / 0.2).item() for j in range(scores.numel())]
        first = 1 + sum(soft[j] for j in np.flatnonzero(targets) if j != i)
        every = 1 + sum(soft[j] for j in range(scores.numel()) if j != i)
        total += first / every
    assert loss.item() == pytest.approx(1 - total / shape[0], abs=1e-12)
    assert baselines.smooth_ap_loss(scores, targets, 1e-9).item() == pytest.approx(one_minus_ap(scores, targets))


@pytest.mark.parametrize("loss", [baselines.smooth_ap_loss, partial(baselines.binned_ap_loss, low=-2.0, high=3.0)])
def test_gradients_are_those_of_the_values(loss: object) -> None:
    scores, targets = problem(5, 20)
    smooth = partial(loss, temperature=0.5) if loss is baselines.smooth_ap_loss else loss
    assert torch.autograd.gradcheck(lambda each: smooth(each, targets), scores)


def test_binned_ap_on_bin_centres() -> None:
    """With every score at a centre, the bins are the thresholds of AP."""
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.integers(0, 20, 60) / 19)
    targets = torch.tensor(rng.random(60) < 0.3)
    value = baselines.binned_ap_loss(scores, targets).item()
    assert value == pytest.approx(one_minus_ap(scores, targets), abs=1e-6)

"""The theorem in numbers: ``grad E[L(y, y_w)] = s lim 1/eps E[grad F(y_direct) - grad F(y_w)]``.

Three predictors with scores linear in ``w`` and smoothly distributed inputs. The mean gradient of the direct loss is
held to central differences of the mean task loss over the same draws; the standard error is that of the difference of
the two. Seeds are fixed, so that the outcome is, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fastap
from examples.shortest_path import draw, shortest_path, total

# The bias falls about as eps, the standard error rises as its root.
EPSILONS = (2.0, 0.5, 0.1, 0.02)
STEP = 0.05  # of the central differences; their own bias is a thirtieth of the standard error at the last epsilon


class Predictor(NamedTuple):
    """Scores of the parts of a solution are ``inputs @ weights``, (draws, parts)."""

    inputs: Tensor  # (draws, parts, weights)
    weights: Tensor
    task: Callable[[Tensor], Tensor]  # scores -> the task loss of the best solution, of every draw
    direct: Callable[..., Tensor]  # scores, epsilon=, update= -> the direct loss, of every draw


def average_precision() -> Predictor:
    """Two positives and three negatives, the former somewhat apart."""
    draws, generator = 300_000, torch.Generator().manual_seed(0)
    targets = torch.tensor([1, 1, 0, 0, 0]).expand(draws, -1)
    inputs = torch.randn(draws, 5, 2, generator=generator, dtype=torch.float64)
    inputs[:, :2] += torch.tensor([1.0, 0.3])

    def direct(scores: Tensor, **options: object) -> Tensor:
        return fastap.direct_ap_loss(scores, targets, reduction="none", **options, dim=-1)

    weights = torch.tensor([0.6, 0.8], dtype=torch.float64)
    return Predictor(inputs, weights, lambda scores: 1 - fastap.average_precision(scores, targets, dim=-1), direct)


def costs_of_classes() -> Predictor:
    """A linear classifier of Gaussian points; to take the second class for the third costs most."""
    draws, generator = 250_000, torch.Generator().manual_seed(1)
    cost = torch.tensor([[0.0, 1.0, 0.5], [0.2, 0.0, 2.0], [-0.3, 0.7, 0.1]], dtype=torch.float64)
    targets = torch.randint(3, (draws,), generator=generator)
    centres = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], dtype=torch.float64)
    points = centres[targets] + torch.randn(draws, 2, generator=generator, dtype=torch.float64)
    inputs = torch.einsum("kl,nd->nkld", torch.eye(3, dtype=torch.float64), points).flatten(2)
    weights = torch.tensor([0.7, -0.4, 0.1, 0.5, -0.2, -0.6], dtype=torch.float64)

    def direct(scores: Tensor, **options: object) -> Tensor:
        return fastap.direct_cost_loss(scores, targets, cost, reduction="none", **options)

    return Predictor(inputs, weights, lambda scores: cost[targets, scores.argmax(1)], direct)


def paths() -> Predictor:
    """What the shortest path through a layered graph truly costs, cut to three layers of three nodes."""
    features, true = draw(60_000, torch.Generator().manual_seed(2))
    features, true = features[:, :3, :3, :3].double(), true[:, :3, :3, :3].double().clamp(max=8)
    weights = -torch.tensor([1.0, 1.5], dtype=torch.float64)

    def best(scores: Tensor) -> Tensor:
        return shortest_path(-scores.view_as(true))

    def direct(scores: Tensor, **options: object) -> Tensor:
        def solve(weight: float) -> Tensor:
            return best(scores + weight * true.flatten(1))

        def score(path: Tensor) -> Tensor:
            return total(scores.view_as(true), path)

        return fastap.direct_loss(score, solve, solve, reduction="none", **options)

    return Predictor(features.flatten(1, 3), weights, lambda scores: total(true, best(scores)), direct)


PREDICTORS = {"AP": average_precision, "costs": costs_of_classes, "paths": paths}


@cache
def differences(name: str) -> tuple[Predictor, Tensor]:
    """The predictor and the central differences of the task loss of every draw, (draws, weights)."""
    predictor = PREDICTORS[name]()
    inputs, weights, task, _ = predictor
    steps = STEP * torch.eye(len(weights), dtype=torch.float64)
    slopes = [(task(inputs @ (weights + step)) - task(inputs @ (weights - step))) / (2 * STEP) for step in steps]
    return predictor, torch.stack(slopes, 1)


def direct_gradient(predictor: Predictor, epsilon: float, update: str) -> Tensor:
    """Of every draw, (draws, weights)."""
    scores = (predictor.inputs @ predictor.weights).requires_grad_()
    (pull,) = torch.autograd.grad(predictor.direct(scores, epsilon=epsilon, update=update).sum(), scores)
    return torch.einsum("np,npw->nw", pull, predictor.inputs)


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / len(values) ** 0.5


@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("AP", "positive"),
        ("AP", "negative"),
        ("AP", "symmetric"),
        ("costs", "positive"),
        ("paths", "negative"),
        pytest.param("costs", "negative", marks=pytest.mark.full),
        pytest.param("costs", "symmetric", marks=pytest.mark.full),
        pytest.param("paths", "positive", marks=pytest.mark.full),
        pytest.param("paths", "symmetric", marks=pytest.mark.full),
    ],
)
def test_direct_gradients_tend_to_that_of_the_expected_task_loss(name: str, update: str) -> None:
    predictor, slopes = differences(name)
    biases, deviations = [], []
    for epsilon in EPSILONS:
        gradient = direct_gradient(predictor, epsilon, update)
        bias, error = mean_and_error(gradient - slopes)
        biases.append(bias.norm().item())
        deviations.append((bias / error).abs().max().item())
        # The same with the wrong sign is no estimate of anything.
        opposite, error = mean_and_error(-gradient - slopes)
        assert (opposite / error).abs().max() > 10
    assert deviations[0] > 10
    assert deviations[-1] < 4
    assert biases[0] > 1.5 * biases[1]
    assert biases[1] > 3 * biases[2]

"""The losses of classes under one signature, random problems for them, and the truth about these in fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap

Loss = Callable[..., Tensor]


def _direct(update: str) -> Loss:
    def loss(
        logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
    ) -> Tensor:
        return fastap.direct_cost_loss(logits, targets, cost, epsilon=weight, update=update, **options)

    return loss


def _hinge(
    logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
) -> Tensor:
    return fastap.cost_hinge_loss(logits, targets, cost, margin=weight, **options)


def _perceptron(
    logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
) -> Tensor:
    return fastap.cost_perceptron_loss(logits, targets, **options)


# `weight` is epsilon of the direct losses and the margin of the hinge; the perceptron has neither that nor a cost.
LOSSES: dict[str, Loss] = {
    "positive": _direct("positive"),
    "negative": _direct("negative"),
    "symmetric": _direct("symmetric"),
    "hinge": _hinge,
    "perceptron": _perceptron,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def exact_row(
    name: str, logits: list[float], target: int, cost: list[list[float]], weight: float
) -> tuple[float, list[float]]:
    """Loss and gradient of one row by trying every class that is not masked, without rounding."""
    if name == "symmetric":
        both = [exact_row(update, logits, target, cost, weight) for update in ("positive", "negative")]
        return sum(loss for loss, _ in both) / 2, [sum(pair) / 2 for pair in zip(*(g for _, g in both), strict=True)]
    scores = {k: Fraction(z) for k, z in enumerate(logits) if z != -inf}
    sign = {"positive": 1, "negative": -1, "hinge": 1, "perceptron": 0}[name]
    augmented = {k: z + sign * Fraction(weight) * Fraction(cost[target][k]) for k, z in scores.items()}
    first, second = max(augmented.values()), max(scores.values())
    winners = [[k for k in scores if augmented[k] == first], [k for k in scores if scores[k] == second]]
    gain = Fraction(1)
    if name in ("positive", "negative"):
        gain = sign / Fraction(weight)
    else:
        second, winners[1] = scores[target], [target]
    gradient = [Fraction(0)] * len(logits)
    for direction, group in zip((1, -1), winners, strict=True):
        for k in group:
            gradient[k] += direction * gain / len(group)
    return float(gain * (first - second)), [float(g) for g in gradient]


def exact(name: str, logits: Tensor, targets: Tensor, cost: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
    table = (1 - torch.eye(logits.shape[1]) if cost is None else cost).tolist()
    rows = [exact_row(name, z, y, table, weight) for z, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    values, gradients = zip(*rows, strict=True)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def value_and_gradient(name: str, logits: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Every row's loss and the gradient of their sum."""
    leaf = logits.detach().clone().requires_grad_()
    value = LOSSES[name](leaf, *rest, **{"reduction": "none", **options})
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def problem(
    seed: int, rows: int, classes: int, *, levels: int = 0, masked: float = 0.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and an asymmetric cost with negative entries and a diagonal that is not zero.

    On levels all numbers are multiples of 1/4, and sums of them exact. The target's class is never masked.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    cost = torch.randn(classes, classes, generator=generator, dtype=torch.float64)
    if levels:
        logits = torch.randint(-levels, levels + 1, (rows, classes), generator=generator).double() / 4
        cost = torch.randint(-4, 5, (classes, classes), generator=generator).double() / 4
    targets = torch.randint(classes, (rows,), generator=generator)
    hidden = torch.rand(rows, classes, generator=generator) < masked
    hidden[torch.arange(rows), targets] = False
    return logits.masked_fill(hidden, -inf).to(dtype), targets, cost.to(dtype)

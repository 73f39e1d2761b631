"""The losses under one signature, and random batches to take them of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastap
from fastap.types import Dim

Loss = Callable[..., Tensor]


def _direct(update: str) -> Loss:
    def loss(scores: Tensor, targets: Tensor, *, weight: float = 1.0, dim: Dim = -1, **options: Any) -> Tensor:
        return fastap.direct_ap_loss(scores, targets, epsilon=weight, update=update, dim=dim, **options)

    return loss


def _hinge(scores: Tensor, targets: Tensor, *, weight: float = 1.0, dim: Dim = -1, **options: Any) -> Tensor:
    return fastap.ap_hinge_loss(scores, targets, margin=weight, dim=dim, **options)


def _perceptron(scores: Tensor, targets: Tensor, *, weight: float = 1.0, dim: Dim = -1, **options: Any) -> Tensor:
    return fastap.ap_perceptron_loss(scores, targets, dim=dim, **options)


# `weight` is epsilon of the direct losses and the margin of the hinge; the perceptron has none.
LOSSES: dict[str, Loss] = {
    "positive": _direct("positive"),
    "negative": _direct("negative"),
    "symmetric": _direct("symmetric"),
    "hinge": _hinge,
    "perceptron": _perceptron,
}

# Options with which ``RetrievalAPLoss`` is as ``retrieval_ap_loss``, without noise.
AS_FUNCTION: dict[str, Any] = {"update": "positive", "noise": 0.0}


def value_and_gradient(loss: Loss, scores: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Every ranking's loss and the gradient of their sum; ``reduction`` is ``"none"`` unless given."""
    leaf = scores.detach().clone().requires_grad_()
    value = loss(leaf, targets, **{"reduction": "none", **options})
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def random_batch(
    seed: int, rankings: int, items: int, *, ignored: float = 0.0, levels: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Scores and targets; -1 for about that share of ignored items, scores on that many levels if any.

    The first two items of a ranking are a positive and a negative.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(rankings, items, generator=generator) < 0.3).long()
    scores = torch.randn(rankings, items, generator=generator, dtype=torch.float64)
    if levels:
        scores = torch.randint(levels, (rankings, items), generator=generator).double()
    targets[torch.rand(rankings, items, generator=generator) < ignored] = -1
    targets[:, 0], targets[:, 1] = 1, 0
    return scores.to(dtype), targets

"""The NumPy oracle behind the same interface as the other backends: one ranking at a time, slow, obviously right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastap import reference
from fastap.types import AugmentedRanking, Losses, Objective, Problem


def losses(problem: Problem, objective: Objective) -> Losses:
    """Loss and gradient of every ranking."""
    scores, positive, negative = _arrays(problem)
    takes_part = positive.any(1) & negative.any(1)
    loss, gradient = np.zeros(scores.shape[0]), np.zeros(scores.shape)
    for row in np.flatnonzero(takes_part):
        taken = positive[row] | negative[row]
        score, target = scores[row, taken], positive[row, taken]
        if not np.isfinite(score).all():
            loss[row], gradient[row, taken] = np.nan, np.nan
        elif objective.loss == "direct":
            loss[row], gradient[row, taken] = reference.direct_ap_loss(
                score, target, objective.epsilon, objective.update
            )
        elif objective.loss == "hinge":
            loss[row], gradient[row, taken] = reference.ap_hinge_loss(score, target, objective.epsilon)
        else:
            loss[row], gradient[row, taken] = reference.ap_perceptron_loss(score, target)
    device = problem.scores.device
    return Losses(
        torch.from_numpy(loss).to(device),
        torch.from_numpy(gradient).to(device, problem.loss_dtype),
        torch.from_numpy(takes_part).to(device),
    )


def ranking(problem: Problem, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and ``max F + s epsilon L``."""
    scores, positive, negative = _arrays(problem)
    ranks, value = np.full(scores.shape, -1), np.full(scores.shape[0], np.nan)
    for row in range(scores.shape[0]):
        taken = positive[row] | negative[row]
        score, target = scores[row, taken], positive[row, taken]
        finite = bool(np.isfinite(score).all())
        # A ranking with a score that is not finite has no value; its items keep some order.
        ranks[row, taken], value[row] = reference.augmented_ranking(
            score if finite else np.zeros_like(score), target, objective.epsilon, objective.update
        )
        if not finite:
            value[row] = np.nan
    device = problem.scores.device
    return AugmentedRanking(torch.from_numpy(ranks).to(device), torch.from_numpy(value).to(device))


def weighted_precision(scores: Tensor, positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """AP of every row, float64, with a weight an item; items that are neither positive nor negative take no part."""
    taken = (positive | negative).cpu().numpy()
    score, target, weights = (each.detach().cpu().double().numpy() for each in (scores, positive, weight))
    rows = [
        reference.weighted_average_precision(score[row, took], target[row, took], weights[row, took])
        for row, took in enumerate(taken)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=scores.device)


def _arrays(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = problem.scores.detach().to("cpu", torch.float64).numpy()
    return scores, problem.positive.cpu().numpy(), problem.negative.cpu().numpy()

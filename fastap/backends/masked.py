"""The backends that work on masks of positives and negatives: what is common to them."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from fastap.backends import reference
from fastap.backends import torch as torch_backend
from fastap.checks import wrong_targets
from fastap.problem import AugmentedRanking, Batch, Losses, Objective, Problem


def to_problem(batch: Batch) -> tuple[Problem, Tensor | None]:
    """The batch as a matrix, one ranking a row, and which rankings have a wrong target, where that is no error."""
    shape = (batch.rankings, batch.items)
    scores, targets = batch.scores.reshape(shape).contiguous(), batch.targets.reshape(shape).contiguous()
    if targets.dtype == torch.bool:
        return Problem(scores, targets, ~targets), None
    positive, negative = targets == 1, targets == 0
    wrong = wrong_targets(targets, positive | negative, batch.ignore_index)
    return Problem(scores, positive, negative), wrong


def reduce(losses: Losses, dtype: torch.dtype, *, mean: bool) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses or their mean over those that take part; of a mean the share of each."""
    total = losses.loss.sum()
    if not mean:
        return total.to(dtype), None
    share = 1.0 / losses.takes_part.sum().clamp_(min=1).to(torch.float64)
    return (total * share).to(dtype), share.to(dtype)


class Masked:
    """A module with ``losses`` and ``ranking`` of a :class:`Problem` as a backend."""

    def __init__(self, engine: ModuleType) -> None:
        self.engine = engine

    def losses(self, batch: Batch, objective: Objective, dtype: torch.dtype) -> Losses:
        problem, wrong = to_problem(batch)
        loss, gradient, takes_part = self.engine.losses(problem, objective)
        if wrong is not None:
            loss, takes_part = loss.masked_fill(wrong, torch.nan), takes_part | wrong
            gradient = gradient.masked_fill(wrong[:, None], torch.nan)
        return Losses(loss.to(dtype), gradient, takes_part)

    def reduce(self, losses: Losses, dtype: torch.dtype, *, mean: bool) -> tuple[Tensor, Tensor | None]:
        return reduce(losses, dtype, mean=mean)

    def ranking(self, batch: Batch, objective: Objective) -> AugmentedRanking:
        problem, wrong = to_problem(batch)
        ranks, value = self.engine.ranking(problem, objective)
        return AugmentedRanking(ranks, value if wrong is None else value.masked_fill(wrong, torch.nan))

    def average_precision(self, batch: Batch) -> Tensor:
        # The oracle has no metric of its own: that of the torch backend needs none of its approximations or choices.
        problem, wrong = to_problem(batch)
        result = torch_backend.average_precision(problem)
        return result if wrong is None else result.masked_fill(wrong, torch.nan)


TORCH = Masked(torch_backend)
REFERENCE = Masked(reference)

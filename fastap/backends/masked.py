"""The backends that work on masks of positives and negatives: what is common to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from fastap.backends import reference
from fastap.backends import torch as torch_backend
from fastap.reduce import reduce
from fastap.targets import allowed_targets, wrong_targets
from fastap.types import AugmentedRanking, Batch, Losses, Objective, Problem, loss_dtype

_PADDING = -1


def to_problem(batch: Batch) -> tuple[Problem, Tensor | None]:
    """The batch as a matrix, one ranking a row, and which rankings have a wrong target, where that is no error."""
    shape = (batch.rankings, batch.items)
    scores, targets = (each.reshape(shape).resolve_neg().contiguous() for each in (batch.scores, batch.targets))
    if targets.dtype == torch.bool:
        return Problem(scores, targets, ~targets), None
    positive, negative = targets == 1, targets == 0
    wrong = wrong_targets(targets, positive | negative, batch.ignore_index)
    return Problem(scores, positive, negative), wrong


def by_length(batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ragged rankings as matrices, those together whose lengths differ by less than a factor of two.

    Yields the rankings of a matrix, the place of each of its items in the batch, (rankings, items), and which of these
    are padding. At most 32 matrices, less than half of any is padding, and empty rankings are in none; the device is
    waited for.
    """
    assert batch.offsets is not None
    lengths = batch.offsets.diff()
    doublings = torch.frexp(lengths.double()).exponent  # of 1: 1, of 2 and 3: 2, ...; of 0: 0
    for doubling in doublings[lengths > 0].unique().tolist():
        rankings = (doublings == doubling).nonzero().view(-1)
        length = lengths[rankings, None]
        item = torch.arange(int(length.max()), device=lengths.device)
        padding = item >= length
        yield rankings, (batch.offsets[rankings, None] + item).masked_fill_(padding, 0), padding


class Masked:
    """A module with ``losses`` and ``ranking`` of a :class:`Problem` as a backend."""

    def __init__(self, engine: ModuleType) -> None:
        self.engine = engine

    def losses(self, batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
        found = self._losses(batch, objective, dtype)
        return found if gradient else found._replace(gradient=None)

    def _losses(self, batch: Batch, objective: Objective, dtype: torch.dtype) -> Losses:
        if batch.offsets is not None:
            return self._ragged_losses(batch, objective, dtype)
        problem, wrong = to_problem(batch)
        loss, gradient, takes_part = self.engine.losses(problem, objective)
        if wrong is not None:
            loss, takes_part = loss.masked_fill(wrong, torch.nan), takes_part | wrong
            gradient = gradient.masked_fill(wrong[:, None], torch.nan)
        return Losses(loss.to(dtype), gradient, takes_part)

    def _ragged_losses(self, batch: Batch, objective: Objective, dtype: torch.dtype) -> Losses:
        loss = batch.scores.new_zeros(batch.rankings, dtype=dtype)
        takes_part = torch.zeros_like(loss, dtype=torch.bool)
        gradient = torch.empty_like(batch.scores, dtype=loss_dtype(batch.scores))
        for rankings, part, place, padding in _matrices(batch):
            each = self._losses(part, objective, dtype)
            assert each.gradient is not None
            loss[rankings], takes_part[rankings] = each.loss, each.takes_part
            gradient[place[~padding]] = each.gradient[~padding]
        return Losses(loss, gradient, takes_part)

    def reduce(
        self, losses: Losses, dtype: torch.dtype, *, mean: bool, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return reduce(losses, dtype, mean=mean, weight=weight)

    def ranking(self, batch: Batch, objective: Objective) -> AugmentedRanking:
        if batch.offsets is not None:
            ranks = torch.empty_like(batch.scores, dtype=torch.int64)
            value = batch.scores.new_full((batch.rankings,), torch.nan, dtype=torch.float64)
            for rankings, part, place, padding in _matrices(batch):
                each = self.ranking(part, objective)
                ranks[place[~padding]] = each.ranks[~padding]
                value[rankings] = each.value
            return AugmentedRanking(ranks, value)
        problem, wrong = to_problem(batch)
        ranks, value = self.engine.ranking(problem, objective)
        return AugmentedRanking(ranks, value if wrong is None else value.masked_fill(wrong, torch.nan))

    def average_precision(self, batch: Batch, weight: Tensor | None = None) -> Tensor:
        if self.engine is torch_backend and weight is None:
            return _precision(batch, lambda problem, _: torch_backend.average_precision(problem))
        return weighted_precision(batch, weight, self.engine)


def weighted_precision(batch: Batch, weight: Tensor | None, engine: ModuleType = torch_backend) -> Tensor:
    """AP of every ranking with a weight an item, float64; NaN where it has no positive of any weight."""

    def of_matrix(problem: Problem, place: Tensor | None) -> Tensor:
        if weight is None:
            matrix = torch.ones_like(problem.scores)
        else:
            matrix = weight.reshape(problem.scores.shape) if place is None else weight[place]
        found: Tensor = engine.weighted_precision(problem.scores, problem.positive, problem.negative, matrix)
        return found

    return _precision(batch, of_matrix)


def _precision(batch: Batch, of_matrix: Callable[[Problem, Tensor | None], Tensor]) -> Tensor:
    if batch.offsets is None:
        return _masked(batch, None, of_matrix)
    result = batch.scores.new_full((batch.rankings,), torch.nan, dtype=torch.float64)
    for rankings, part, place, _ in _matrices(batch):
        result[rankings] = _masked(part, place, of_matrix)
    return result


def _masked(batch: Batch, place: Tensor | None, of_matrix: Callable[[Problem, Tensor | None], Tensor]) -> Tensor:
    problem, wrong = to_problem(batch)
    result = of_matrix(problem, place)
    return result if wrong is None else result.masked_fill(wrong, torch.nan)


def _matrices(batch: Batch) -> Iterator[tuple[Tensor, Batch, Tensor, Tensor]]:
    """:func:`by_length`, with what is in each matrix: padding has a target that is ignored."""
    targets = batch.targets
    positive, negative = targets == 1, targets == 0
    allowed = allowed_targets(targets, positive | negative, batch.ignore_index)
    wrong_targets(targets, positive | negative, batch.ignore_index)  # an error, where it can be one
    classes = torch.where(allowed, _PADDING, _PADDING - 1).to(torch.int8)
    classes.masked_fill_(positive, 1).masked_fill_(negative, 0)
    for rankings, place, padding in by_length(batch):
        part = Batch(batch.scores[place], classes[place].masked_fill_(padding, _PADDING), _PADDING)
        yield rankings, part, place, padding


TORCH = Masked(torch_backend)
REFERENCE = Masked(reference)

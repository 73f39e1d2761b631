"""What has no gradient: average precision, and the loss-augmented ranking, as custom operators."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fastap import backends, ragged
from fastap.backends.measure import measure
from fastap.backends.ranks import value_of
from fastap.operators import (
    batch_of,
    fake_rankings_shape,
    mapped_first,
    moved_shape,
    on_the_cpu_elsewhere,
    rankings_shape,
)
from fastap.ragged import Ragged, taken
from fastap.targets import can_look, have_values, wrong_targets
from fastap.types import AP, Measure, Objective, own


@on_the_cpu_elsewhere
def precision(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor | None,
    offsets: Tensor | None,
    sample_weight: Tensor | None,
    dim: int,
    ignore_index: int | None,
    counts: bool,
) -> tuple[Tensor, Tensor]:
    """AP of every ranking, float64; and if ``counts`` what its positives weigh, else nothing."""
    rankings = ragged.of(scores, groups, offsets)
    batch = batch_of(scores, targets, dim, ignore_index, rankings)
    if scores.numel() == 0:
        result = scores.new_full((batch.rankings,), torch.nan, dtype=torch.float64)
        support = torch.zeros_like(result)
    else:
        weight = None if sample_weight is None else _weight_of_items(sample_weight, dim, rankings)
        result, positives, _ = measure(batch, weight, counts=counts)
        support = result.new_empty(0) if positives is None else positives
    if rankings is None:
        shape = rankings_shape(scores, dim)
        return own(result).resize_(shape), own(support).resize_(shape) if counts else support
    if rankings.wrong is not None:
        result = result.masked_fill(rankings.wrong, torch.nan)
    return rankings.without_padding(result), rankings.without_padding(support) if counts else support


def _weight_of_items(weight: Tensor, dim: int, rankings: Ragged | None) -> Tensor:
    """Laid out as the scores of the batch."""
    if rankings is None:
        return weight.movedim(dim, -1)
    return weight if rankings.order is None else taken(weight, rankings.order)


average_precision = torch.library.custom_op("fastap::average_precision", precision, mutates_args=())


@average_precision.register_fake
def _(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor | None,
    offsets: Tensor | None,
    sample_weight: Tensor | None,
    dim: int,
    ignore_index: int | None,
    counts: bool,
) -> tuple[Tensor, Tensor]:
    shape = fake_rankings_shape(scores, groups, offsets, dim)
    result = scores.new_empty(shape, dtype=backends.widest_float(scores.device))
    return result, torch.empty_like(result) if counts else result.new_empty(0)


@average_precision.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
    precisions, support = average_precision(*mapped_first(average_precision, info, in_dims, inputs))
    return (precisions, support), (0, 0 if support.dim() == precisions.dim() else None)


@on_the_cpu_elsewhere
def value(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor | None,
    offsets: Tensor | None,
    dim: int,
    ignore_index: int | None,
    name: str,
    parameter: float,
    k: int,
) -> Tensor:
    """A measure of every ranking, float64."""
    rankings = ragged.of(scores, groups, offsets)
    batch = batch_of(scores, targets, dim, ignore_index, rankings)
    if scores.numel() == 0:
        result = scores.new_full((batch.rankings,), torch.nan, dtype=torch.float64)
    else:
        taken = (batch.targets == 1) | (batch.targets == 0)
        if can_look(taken):
            wrong_targets(batch.targets, taken, ignore_index)
        result = value_of(batch, Measure(name, parameter, k or None))
    if rankings is None:
        return own(result).resize_(rankings_shape(scores, dim))
    if rankings.wrong is not None:
        result = result.masked_fill(rankings.wrong, torch.nan)
    return rankings.without_padding(result)


measured = torch.library.custom_op("fastap::ranking_measure", value, mutates_args=())


@measured.register_fake
def _(scores: Tensor, targets: Tensor, groups: Tensor | None, offsets: Tensor | None, dim: int, *_: Any) -> Tensor:
    shape = fake_rankings_shape(scores, groups, offsets, dim)
    return scores.new_empty(shape, dtype=backends.widest_float(scores.device))


@measured.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
    return measured(*mapped_first(measured, info, in_dims, inputs)), 0


@on_the_cpu_elsewhere
def ranking(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor | None,
    offsets: Tensor | None,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    backend: str,
    measure: str = AP.name,
    parameter: float = 1.0,
    k: int = 0,
) -> tuple[Tensor, Tensor]:
    """Ranks, with the ranked axis last, and ``max F + s epsilon L``."""
    rankings = ragged.of(scores, groups, offsets)
    batch = batch_of(scores, targets, dim, ignore_index, rankings)
    if scores.numel() == 0:
        ranks = scores.new_empty(0, dtype=torch.int64)
        value = scores.new_full((batch.rankings,), torch.nan, dtype=torch.float64)
    else:
        objective = Objective(
            "direct", epsilon, cast(Any, update), cast(Any, method), Measure(measure, parameter, k or None)
        )
        ranks, value = backends.get(backend, scores.device).ranking(batch, objective)
    if rankings is None:
        return own(ranks).resize_(moved_shape(scores, dim)), own(value).resize_(rankings_shape(scores, dim))
    if rankings.wrong is not None:
        value = value.masked_fill(rankings.wrong, torch.nan)
    return rankings.to_items(ranks), rankings.without_padding(value)


loss_augmented_ranking = torch.library.custom_op("fastap::loss_augmented_ranking", ranking, mutates_args=())


@loss_augmented_ranking.register_fake
def _(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor | None,
    offsets: Tensor | None,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    backend: str,
    measure: str = AP.name,
    parameter: float = 1.0,
    k: int = 0,
) -> tuple[Tensor, Tensor]:
    ranks = scores.new_empty(moved_shape(scores, dim), dtype=torch.int64)
    shape = fake_rankings_shape(scores, groups, offsets, dim)
    return ranks, scores.new_empty(shape, dtype=backends.widest_float(scores.device))


@loss_augmented_ranking.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return loss_augmented_ranking(*mapped_first(loss_augmented_ranking, info, in_dims, inputs)), (0, 0)


def constant(values: Tensor, scores: Tensor, name: str) -> Tensor:
    """The same, with an error that helps for who calls ``backward`` on it. It keeps nothing of the scores' graph."""
    if not (torch.is_grad_enabled() and have_values((scores, values)) and scores.requires_grad):
        return values
    apply: Any = _Constant.apply
    result: Tensor = apply(torch.empty(0, requires_grad=True), values, name)
    return result


class _Constant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, values: Tensor, name: str) -> Tensor:
        ctx.name = name
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"{ctx.name} has no gradient; the loss that trains is fastap.direct_ap_loss(scores, targets), near 1 - AP, "
            "or fastap.direct_ranking_loss with another measure; where a mere number is wanted, give its .detach()"
        )

"""The custom operators: opaque to ``torch.compile``, differentiable, one forward for value and gradient together.

Every operator takes the user's tensors and plain numbers and words that have been checked. The layout with the ranked
axis last is made inside, where compilers do not look.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fastap import backends
from fastap.problem import Batch, Objective, loss_dtype


def _batch(scores: Tensor, targets: Tensor, dim: int, ignore_index: int | None) -> Batch:
    scores = scores.detach()
    if dim != scores.dim() - 1:
        scores, targets = scores.movedim(dim, -1), targets.movedim(dim, -1)
    return Batch(scores, targets, ignore_index)


def _moved_shape(scores: Tensor, dim: int) -> list[int]:
    return [*scores.shape[:dim], *scores.shape[dim + 1 :], scores.shape[dim]]


def _loss_shape(scores: Tensor, dim: int, reduction: str) -> list[int]:
    return [*scores.shape[:dim], *scores.shape[dim + 1 :]] if reduction == "none" else []


def _ap_loss(
    scores: Tensor,
    targets: Tensor,
    loss: str,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    reduction: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The reduced loss and its gradient; the gradient has the ranked axis last."""
    shape, dtype = _moved_shape(scores, dim), loss_dtype(scores)
    if scores.numel() == 0:
        return scores.new_zeros(_loss_shape(scores, dim, reduction), dtype=dtype), scores.new_zeros(shape, dtype=dtype)
    batch = _batch(scores, targets, dim, ignore_index)
    objective = Objective(cast(Any, loss), epsilon, cast(Any, update), cast(Any, method))
    engine = backends.get(backend, scores.device)
    reduces = reduction != "none" and batch.rankings > 1
    losses = engine.losses(batch, objective, torch.float64 if reduces else dtype)
    gradient = losses.gradient.view(shape)
    if not reduces:
        return losses.loss.view(_loss_shape(scores, dim, reduction)), gradient
    total, share = engine.reduce(losses, dtype, mean=reduction == "mean")
    if share is not None:
        gradient *= share
    return total, gradient


ap_loss = torch.library.custom_op("fastap::ap_loss", _ap_loss, mutates_args=())


@ap_loss.register_fake
def _(
    scores: Tensor,
    targets: Tensor,
    loss: str,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    reduction: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    dtype = loss_dtype(scores)
    value = scores.new_empty(_loss_shape(scores, dim, reduction), dtype=dtype)
    return value, scores.new_empty(_moved_shape(scores, dim), dtype=dtype)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    scores, dim, reduction = inputs[0], inputs[6], inputs[8]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.dim, ctx.dtype, ctx.reduction = dim, scores.dtype, reduction


def _scale_gradient(ctx: Any, incoming: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 9
    if incoming is None:
        return None, *nothing
    (gradient,) = ctx.saved_tensors
    if ctx.reduction == "none":
        incoming = incoming.unsqueeze(-1)
    # Cast last: a scaled float16 gradient is not rounded before it is scaled.
    gradient = (gradient * incoming).to(ctx.dtype)
    return gradient if ctx.dim == gradient.dim() - 1 else gradient.movedim(-1, ctx.dim), *nothing


ap_loss.register_autograd(_scale_gradient, setup_context=_save_gradient)


class EagerAPLoss(torch.autograd.Function):
    """The operator less its dispatcher, for calls outside compilers: the same three functions.

    Of a call on 110 scores, forward and backward, the dispatcher takes 50 us (2 cores, PyTorch 2.13). ``setup_context``
    apart from ``forward`` would cost 70 us for inspecting signatures.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _ap_loss(*inputs)
        _save_gradient(ctx, inputs, output)
        return output

    backward = staticmethod(_scale_gradient)


@torch.library.custom_op("fastap::average_precision", mutates_args=())
def average_precision(scores: Tensor, targets: Tensor, dim: int, ignore_index: int | None) -> Tensor:
    """AP of every ranking, float64."""
    shape = _loss_shape(scores, dim, "none")
    if scores.numel() == 0:
        return scores.new_full(shape, torch.nan, dtype=torch.float64)
    engine = backends.get("auto", scores.device)
    return engine.average_precision(_batch(scores, targets, dim, ignore_index)).view(shape)


@average_precision.register_fake
def _(scores: Tensor, targets: Tensor, dim: int, ignore_index: int | None) -> Tensor:
    return scores.new_empty(_loss_shape(scores, dim, "none"), dtype=torch.float64)


@torch.library.custom_op("fastap::loss_augmented_ranking", mutates_args=())
def loss_augmented_ranking(
    scores: Tensor,
    targets: Tensor,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Ranks, with the ranked axis last, and ``max F + s epsilon L``."""
    shape, value_shape = _moved_shape(scores, dim), _loss_shape(scores, dim, "none")
    if scores.numel() == 0:
        return scores.new_empty(shape, dtype=torch.int64), scores.new_full(value_shape, torch.nan, dtype=torch.float64)
    objective = Objective("direct", epsilon, cast(Any, update), cast(Any, method))
    ranks, value = backends.get(backend, scores.device).ranking(_batch(scores, targets, dim, ignore_index), objective)
    return ranks.view(shape), value.view(value_shape)


@loss_augmented_ranking.register_fake
def _(
    scores: Tensor,
    targets: Tensor,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    ranks = scores.new_empty(_moved_shape(scores, dim), dtype=torch.int64)
    return ranks, scores.new_empty(_loss_shape(scores, dim, "none"), dtype=torch.float64)

"""Tensors of all ranks, on every rank, with a gradient that finds its way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor

from fastap.arguments import check_dense, check_int, check_process_group, check_ragged, check_tensors
from fastap.distributed.comm import Link, connect
from fastap.types import own


def gather(tensor: Tensor, *, dim: int = 0, process_group: dist.ProcessGroup | None = None) -> Tensor:
    """``torch.cat([tensor of rank 0, tensor of rank 1, ...], dim)`` on every rank, differentiable.

    The gradient of a rank's part is the sum over the ranks of what each computed for it, added in the order of the
    ranks. So, after DDP or FSDP has averaged, parameters get the gradient of the mean over the ranks of their losses;
    of the loss itself, if all compute the same of the same.

    Every rank makes the call, and the backward pass if one does, in the same order; also one whose part is empty. A
    part that needs no gradient takes its turn in the backward pass as soon as another's needs one.

    Args:
        tensor: of any type, with at least one dimension; the ranks' may differ in length along ``dim`` only.
        dim: the axis along which the parts lie end to end.
        process_group: which ranks; the default group if None.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted; a ValueError on all ranks where
            theirs do not fit together.
        RuntimeError: where a rank has died or does not come, within the timeout of the group.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor must be a torch.Tensor, got {type(tensor).__name__}")
    check_dense("tensor", tensor)
    if tensor.is_quantized:
        raise TypeError(f"tensor must not be quantized, got {tensor.dtype}; give tensor.dequantize()")
    if tensor.dim() == 0:
        raise ValueError("tensor must have at least one dimension, got a 0-dimensional tensor")
    dim = check_int("dim", dim)
    if not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(
            f"dim must be in [{-tensor.dim()}, {tensor.dim() - 1}] for a tensor of {tensor.dim()} dimensions, got {dim}"
        )
    (whole,) = _gather((tensor,), dim % tensor.dim(), process_group)
    return whole


@overload
def gather_scores(
    scores: Tensor, targets: Tensor, *, dim: int | None = None, process_group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]: ...


@overload
def gather_scores(
    scores: Tensor,
    targets: Tensor,
    *,
    groups: Tensor,
    dim: int | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...


def gather_scores(
    scores: Tensor,
    targets: Tensor,
    *,
    groups: Tensor | None = None,
    dim: int | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, ...]:
    """The scores and targets of rankings whose items are spread over ranks: all items, on every rank.

    ``loss(*gather_scores(scores, targets, dim=dim), dim=dim)`` equals ``loss(scores, targets, dim=dim,
    process_group=...)``, where the ranks divide the work; here each of them does all of it.

    Args:
        scores: floating tensor; the ranks' may differ in length along ``dim`` only, and have none there.
        targets: of the shape of ``scores``.
        groups: which ranking each item is in, of the shape of ``scores``, one-dimensional then.
        dim: the axis along which items are ranked, in the order of the ranks; there is no default for scores of several
            dimensions.
        process_group: which ranks; the default group if None.

    Returns:
        ``(scores, targets)``, and ``groups`` if given. The gradient of the scores, and all errors, are as of
        :func:`gather`.
    """
    axis, *others = check_tensors(scores, targets, dim)
    if others:
        raise ValueError(f"dim must be one axis, along which the parts lie end to end, got {dim}")
    check_ragged(scores, groups, None)
    return _gather((scores, targets) if groups is None else (scores, targets, groups), axis, process_group)


def _gather(tensors: tuple[Tensor, ...], dim: int, process_group: dist.ProcessGroup | None) -> tuple[Tensor, ...]:
    run: Callable[..., tuple[Tensor, ...]] = _gather_eagerly
    if torch.compiler.is_compiling():  # asked first, for this loads the compiler, which takes 0.8 s
        run = torch.compiler.disable(run, reason="how long the other ranks' parts are shows only when they are asked")
    return run(tensors, dim, process_group)


def _gather_eagerly(
    tensors: tuple[Tensor, ...], dim: int, process_group: dist.ProcessGroup | None
) -> tuple[Tensor, ...]:
    """Tensors of one length along ``dim``; only the first may have a gradient."""
    if process_group is None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("torch.distributed is not initialized; call torch.distributed.init_process_group first")
        process_group = dist.group.WORLD
    link = connect(check_process_group(process_group), tensors[0].device)
    shapes = [[*tensor.shape[:dim], "*", *tensor.shape[dim + 1 :]] for tensor in tensors]
    parts = (f"{each.dtype} of shape ({', '.join(map(str, s))})" for each, s in zip(tensors, shapes, strict=True))
    needs_gradient = torch.is_grad_enabled() and tensors[0].requires_grad
    numbers = [tensors[0].shape[dim], int(needs_gradient)]
    _, answers = link.agree(f"gather {', '.join(parts)}", lambda: (None, numbers))
    lengths = [answer[0] for answer in answers]
    first, *others = tensors
    if any(answer[1] for answer in answers) and not needs_gradient:
        first = first.detach().requires_grad_()
    gather_first: Any = _Gather.apply
    with torch.set_grad_enabled(any(answer[1] for answer in answers)):
        whole: Tensor = gather_first(first, dim, lengths, link)
    return (whole, *(_concatenated(other, dim, lengths, link) for other in others))


def _concatenated(part: Tensor, dim: int, lengths: list[int], link: Link) -> Tensor:
    rows = part.detach().resolve_conj().resolve_neg().movedim(dim, 0).contiguous()
    return own(link.concatenated(rows, lengths, "gather tensors").movedim(0, dim))


class _Gather(torch.autograd.Function):
    """All parts, from one."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int, lengths: list[int], link: Link) -> Tensor:
        ctx.arguments = dim, lengths, link
        return _concatenated(part, dim, lengths, link)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        transposed: Any = _SumOfPart.apply
        return transposed(gradient, *ctx.arguments), None, None, None


class _SumOfPart(torch.autograd.Function):
    """The sum over ranks of this rank's part, from all parts: the transpose of :class:`_Gather`."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, dim: int, lengths: list[int], link: Link) -> Tensor:
        ctx.arguments = dim, lengths, link
        rows = whole.movedim(dim, 0).contiguous()
        width, own = rows.shape[1:].numel(), lengths[link.rank]
        send, receive = [length * width for length in lengths], [own * width] * link.size
        received = link.exchange(rows.view(-1), send, receive, "exchange the gradient of gathered tensors")
        return received.view(link.size, own, *rows.shape[1:]).sum(0).movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        transposed: Any = _Gather.apply
        return transposed(gradient, *ctx.arguments), None, None, None

"""The custom operators: opaque to ``torch.compile``, differentiable, one forward for value and gradient together.

Every operator takes the user's tensors and plain numbers and words that have been checked. The layout with the ranked
axis last is made inside, where compilers do not look.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastap import backends, ragged
from fastap import noise as noisy
from fastap.distributed import loss as exchange
from fastap.ragged import Ragged
from fastap.reduce import reduce
from fastap.targets import have_values
from fastap.types import AP, Arguments, Batch, Losses, Measure, Objective, own, weight_dtype
from fastap.warning import warn_of_nothing

P = ParamSpec("P")
T = TypeVar("T")


def on_the_cpu_elsewhere(run: Callable[P, T]) -> Callable[P, T]:
    """The function, of copies on the CPU where no backend serves the device, and its results back there."""

    names = [*inspect.signature(run).parameters]

    @functools.wraps(run)
    def wrapped(*inputs: Any) -> Any:
        call: Any = inputs[0] if isinstance(inputs[0], Arguments) else inputs
        where = call[0].device
        given = {} if call is not inputs else dict(zip(names, inputs, strict=False))
        backend = given.get("backend", "auto") if call is inputs else call.backend
        without_kernels = None
        if where.type != "cpu":
            without_kernels = (_objective_of(given) if call is inputs else call.objective).without_kernels
        if not backends.goes_through_the_cpu(backend, where, without_kernels):
            return anything(*inputs)
        moved: Any = [each.cpu() if isinstance(each, Tensor) else each for each in call]
        results = anything(*moved) if call is inputs else anything(Arguments(*moved))
        if isinstance(results, Tensor):
            return _back(results, where)
        return tuple(None if each is None else _back(each, where) for each in results)

    anything: Any = run
    result: Any = wrapped
    return cast(Callable[P, T], result)


def _objective_of(given: dict[str, Any]) -> Objective:
    """What the arguments of a metric or a ranking ask for: AP where they name no measure."""
    measure = Measure(given["measure"], given["parameter"], given["k"] or None) if "measure" in given else AP
    return Objective("direct", measure=measure)


def _back(values: Tensor, where: torch.device) -> Tensor:
    widest = backends.widest_float(where)
    return values.to(where, widest if values.dtype == torch.float64 else values.dtype)


def batch_of(scores: Tensor, targets: Tensor, dim: int, ignore_index: int | None, rankings: Ragged | None) -> Batch:
    """The rankings as a backend takes them: the ranked axis last, or end to end."""
    scores = scores.detach()
    if rankings is not None:
        return rankings.batch(scores, targets, ignore_index)
    if dim != scores.dim() - 1:
        scores, targets = scores.movedim(dim, -1), targets.movedim(dim, -1)
    return Batch(scores, targets, ignore_index)


def moved_shape(scores: Tensor, dim: int) -> Sequence[int]:
    """The shape of the scores with the ranked axis last."""
    return (
        scores.shape if dim == scores.dim() - 1 else [*scores.shape[:dim], *scores.shape[dim + 1 :], scores.shape[dim]]
    )


def rankings_shape(scores: Tensor, dim: int) -> list[int]:
    """The shape of the scores without the ranked axis."""
    return [*scores.shape[:dim], *scores.shape[dim + 1 :]]


def fake_rankings_shape(scores: Tensor, groups: Tensor | None, offsets: Tensor | None, dim: int) -> list[Any]:
    """As far as shapes tell; how many groups there are only their values do."""
    if groups is not None:
        return [torch.library.get_ctx().new_dynamic_size()]
    return rankings_shape(scores, dim) if offsets is None else [offsets.shape[0] - 1]


@on_the_cpu_elsewhere
def _solve(call: Arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The reduced loss, its gradient, with the ranked axis last, and which of the losses each item counts in.

    The gradient is there if it is needed, the last only for ragged rankings that are not reduced.
    """
    if call.process_group is not None:
        return exchange.losses_across(call)
    scores, weight, dim, reduction = call.scores, call.weight, call.dim, call.reduction
    shape, dtype = moved_shape(scores, dim), call.dtype
    flat = call.groups is not None or call.offsets is not None
    rankings = ragged.of(scores, call.groups, call.offsets) if flat else None
    number = rankings.rankings_of_items() if rankings is not None and reduction == "none" else None
    batch = batch_of(scores, call.targets, dim, call.ignore_index, rankings)
    if weight is not None:
        weight = _weight(weight, scores, dim, batch.rankings, rankings, weight_dtype(reduction, dtype))
    if scores.numel() == 0:
        none = rankings_shape(scores, dim) if rankings is None else [batch.rankings]
        value = scores.new_zeros(none if reduction == "none" else [], dtype=dtype)
        return value, scores.new_zeros(shape, dtype=dtype), number
    engine = backends.get(call.backend, scores.device)
    reduces = reduction != "none" and (batch.rankings > 1 or weight is not None)
    held = torch.float64 if reduces or weight is not None else dtype
    ids = None
    if call.seed is not None and call.groups is not None and rankings is not None:
        ids = ragged.ids_of(call.groups, rankings)
    losses = noisy.losses(engine, batch, call.objective, held, noisy.of(call), ids, gradient=call.needs_gradient)
    losses = _mark_wrong(losses, rankings)
    if scores.is_cpu and call.sharded != "rankings":  # these may be a part of a batch
        warn_of_nothing(losses.takes_part)
    gradient, share = losses.gradient, weight
    if reduces:
        value, share = engine.reduce(losses, dtype, mean=reduction == "mean", weight=weight)
    else:
        value = losses.loss if weight is None else (losses.loss * weight).to(dtype)
        if reduction != "none":
            value = own(value).resize_([])
        elif rankings is None:
            value = own(value).resize_(rankings_shape(scores, dim))
        else:
            value = rankings.without_padding(value)
    if gradient is None:
        return value, None, number
    if share is not None:
        gradient *= ragged.for_items(share, rankings).to(dtype)
    if rankings is not None:
        gradient = rankings.to_items(gradient)
    return value, gradient.view(shape), number


def _weight(
    weight: Tensor, scores: Tensor, dim: int, rankings: int, layout: Ragged | None, held: torch.dtype
) -> Tensor:
    if layout is None:
        weight = weight.expand(rankings_shape(scores, dim)).reshape(-1)
    return ragged.weight_of_rankings(weight, rankings, layout, held)


def _mark_wrong(losses: Losses, rankings: Ragged | None) -> Losses:
    if rankings is None or rankings.wrong is None:
        return losses
    wrong, gradient = rankings.wrong, losses.gradient
    if gradient is not None:
        gradient = gradient.masked_fill(wrong, torch.nan)
    return Losses(losses.loss.masked_fill(wrong, torch.nan), gradient, losses.takes_part | wrong)


def _three(call: Arguments, value: Tensor, gradient: Tensor | None, number: Tensor | None) -> tuple[Tensor, ...]:
    """An operator always has three results: an empty one for what is not there."""
    none = call.scores.new_empty
    gradient = none(0, dtype=call.dtype) if gradient is None else gradient
    return value, gradient, none(0, dtype=torch.int64) if number is None else number


def _ap_loss(*inputs: Any) -> tuple[Tensor, ...]:
    call = Arguments(*inputs)
    return _three(call, *_solve(call))


ap_loss = torch.library.custom_op(
    "fastap::ap_loss",
    _ap_loss,
    mutates_args=(),
    schema="(Tensor scores, Tensor targets, Tensor? groups, Tensor? offsets, Tensor? weight, Tensor? seed, str loss, "
    "float epsilon, str update, str method, float noise, SymInt samples, SymInt dim, SymInt? ignore_index, "
    "str reduction, str backend, str? process_group, str sharded, bool needs_gradient, SymInt first=0, "
    "str measure='ap', float parameter=1.0, SymInt k=0) "
    "-> (Tensor, Tensor, Tensor)",
)


@ap_loss.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    call = Arguments(*inputs)
    scores, dtype = call.scores, call.dtype
    shape, gradient, number = [], None, None
    if call.reduction == "none":
        shape = fake_rankings_shape(scores, call.groups, call.offsets, call.dim)
        if call.groups is not None or call.offsets is not None:
            number = scores.new_empty(scores.shape[0], dtype=torch.int64)
    if call.needs_gradient:
        gradient = scores.new_empty(moved_shape(scores, call.dim), dtype=dtype)
    return _three(call, scores.new_empty(shape, dtype=dtype), gradient, number)


def _save(ctx: Any, call: Arguments, results: Iterable[Tensor | None]) -> None:
    """What the backward pass needs, in places that it frees: whoever keeps a loss is not to keep its scores."""
    ctx.save_for_backward(call.scores, *results)
    ctx.set_materialize_grads(False)
    ctx.dim, ctx.reduction = call.dim, call.reduction


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    _save(ctx, Arguments(*inputs), output[1:])


def _scale_gradient(ctx: Any, incoming: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    return _scaled(ctx, incoming), *[None] * (len(Arguments._fields) - 1)


def _scaled(ctx: Any, incoming: Tensor | None) -> Tensor | None:
    """The gradient of the scores, from that of the result."""
    if incoming is None:
        return None
    gradient: Tensor
    scores, gradient, number = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        gradient = cast(Any, NotTwice).apply(gradient, scores)
    if ctx.reduction == "none":
        # Of ragged rankings both are flat.
        incoming = incoming[number] if gradient.dim() == incoming.dim() else incoming.unsqueeze(-1)
    # Cast last: a scaled float16 gradient is not rounded before it is scaled.
    gradient = (gradient * incoming).to(scores.dtype)
    return gradient if ctx.dim == gradient.dim() - 1 else gradient.movedim(-1, ctx.dim)


class NotTwice(torch.autograd.Function):
    """The gradient, which is constant between kinks: no derivative of it says anything."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, scores: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        raise RuntimeError(
            "an AP loss has no second derivative with respect to the scores: it is piecewise linear, so that "
            "its gradient is constant but for jumps. Take the gradient penalty or the Hessian of the other terms "
            "alone, and add the AP loss afterwards, or take it as the constant ap_loss.detach():\n"
            "    penalty = torch.autograd.grad(other_loss, inputs, create_graph=True)[0].square().sum()\n"
            "    (other_loss + penalty + ap_loss).backward()"
        )

    jvp = backward


ap_loss.register_autograd(_scale_gradient, setup_context=_save_gradient)


def called(operator: Any, function: Any, *inputs: Any) -> Any:
    """The operator, or, outside compilers and transforms, its function, which takes less and loads no compiler."""
    return function(*inputs) if have_values(inputs) else operator(*inputs)


def loss_of(call: Arguments) -> Tensor:
    """The loss of checked arguments: by the operator, or by what stands for it outside compilers."""
    value: Tensor
    if have_values(call[:6]) and forward_ad._current_level < 0:
        apply: Any = EagerAPLoss.apply
        value = apply(call.scores, call) if call.needs_gradient else _solve(call)[0]
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        value = TransformedAPLoss.apply(*call._replace(needs_gradient=True))[0]  # type: ignore[no-untyped-call]
    else:
        if torch._C._get_tracing_state() is not None:  # with gradients or without, a trace is to be the same
            call = call._replace(needs_gradient=True)
        value = ap_loss(*call)[0]
    return value


class EagerAPLoss(torch.autograd.Function):
    """The operator less its dispatcher, for calls outside compilers.

    Of a call on 110 scores, forward and backward, the dispatcher takes 50 us (2 cores, PyTorch 2.13). ``setup_context``
    apart from ``forward`` would cost 70 us for inspecting signatures, and each argument by itself 0.2 us.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, call: Arguments) -> Tensor:
        value, *results = _solve(call)
        _save(ctx, call, results)
        return value

    @staticmethod
    def backward(ctx: Any, incoming: Tensor | None) -> tuple[Tensor | None, None]:
        return _scaled(ctx, incoming), None


def mapped_first(operator: Any, info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """The arguments of an operator, the mapped axis of its tensors in front, and ``dim`` counted with it."""
    mapped = list(inputs)
    names = [argument.name for argument in operator._opoverload._schema.arguments]
    if any(inputs[names.index(name)] is not None for name in ("groups", "offsets")):
        raise NotImplementedError(
            "torch.func.vmap does not map groups and offsets; give ids or offsets that tell the samples apart instead"
        )
    for place, (tensor, at) in enumerate(zip(inputs, in_dims, strict=True)):
        if isinstance(tensor, Tensor):
            mapped[place] = tensor.expand(info.batch_size, *tensor.shape) if at is None else tensor.movedim(at, 0)
    mapped[names.index("dim")] += 1
    return mapped


def _map_ap_loss(
    info: Any, in_dims: tuple[int | None, ...], *inputs: Any
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, ...]]:
    """All rankings at once, each sample's losses then reduced by themselves."""
    if Arguments(*inputs).process_group is not None:
        raise NotImplementedError(
            "torch.func.vmap does not map a loss with a process_group; leave the axis in the scores"
        )
    call = Arguments(*mapped_first(ap_loss, info, in_dims, inputs))
    reduction, weight = call.reduction, call.weight
    if weight is not None:  # has the shape of a sample's rankings, or a shorter one
        shape = rankings_shape(call.scores, call.dim)
        weight = weight.view(weight.shape[0], *[1] * (len(shape) - weight.dim()), *weight.shape[1:]).expand(shape)
    loss, gradient, number = ap_loss(*call._replace(reduction="none", weight=weight if reduction == "none" else None))
    number = number.expand(info.batch_size, 0)
    if reduction == "none":
        return (loss, gradient, number), (0, 0, 0)
    positive, negative = ((call.targets == target).any(call.dim) for target in (1, 0))
    takes_part = (positive & negative) | loss.isnan()
    each, takes_part = (values.flatten(1) if values.dim() > 1 else values[:, None] for values in (loss, takes_part))
    shares = None if weight is None else weight.reshape(each.shape).double()
    losses = Losses(each.double(), None, takes_part)
    value, share = reduce(losses, loss.dtype, mean=reduction == "mean", weight=shares)
    if share is not None and call.needs_gradient:
        whole = share.expand(each.shape).view(gradient.shape[:-1])
        gradient = gradient * whole.unsqueeze(-1)
    return (value, gradient, number), (0, 0, 0)


ap_loss.register_vmap(_map_ap_loss)


class TransformedAPLoss(torch.autograd.Function):
    """The operator for ``torch.func.grad`` and its kin, which do not take those of ``torch.library``."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output: tuple[Tensor, Tensor, Tensor] = ap_loss(*inputs)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _save_gradient(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], *output[1:])
        ctx.shape = output[0].shape

    backward = staticmethod(_scale_gradient)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:
        """The gradient times the direction, summed over the items that each loss is of."""
        if tangent is None:
            return None, None, None
        scores, gradient, number = ctx.saved_tensors
        products = cast(Any, NotTwice).apply(gradient, scores) * tangent.movedim(ctx.dim, -1)
        if ctx.reduction != "none":
            result = products.sum()
        elif products.dim() == len(ctx.shape):  # ragged rankings, whose items are flat
            result = products.new_zeros(ctx.shape).index_add(0, number, products)
        else:
            result = products.sum(-1)
        return result.to(gradient.dtype), None, None

    vmap = staticmethod(_map_ap_loss)

"""The losses as ``nn.Module``: the same options, held; those of ``DirectAPLoss`` have other defaults."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.distributed import ProcessGroup

from fastap import functional
from fastap import structured as direct
from fastap.arguments import (
    check_class_to_ignore,
    check_class_weight,
    check_cost_table,
    check_count,
    check_dim,
    check_finite,
    check_generator,
    check_ignore_index,
    check_measure,
    check_method,
    check_noise,
    check_process_group,
    check_reduction,
    check_scale,
    check_sharded,
    check_update,
)
from fastap.backends import check_backend
from fastap.multiclass import multiclass_ap_loss
from fastap.types import AnyMeasure, Dim, Method, Objective, Reduction, Sharded, Update

_NOISE = ("noise", "samples", "generator")


class _Loss(nn.Module):
    """Options are kept as attributes of the same names and are the keyword arguments of the function."""

    _options: tuple[str, ...] = ()

    def _hold_noise(self, noise: float, samples: int, generator: Generator | None) -> None:
        self.noise = check_noise(noise)
        self.samples = check_count("samples", samples)
        self.generator = check_generator(generator)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._options}

    def _now(self) -> dict[str, Any]:
        """What the function is called with: noise is for training."""
        options = self._given()
        return options if self.training or "noise" not in options else {**options, "noise": 0.0}

    def _shown(self) -> dict[str, Any]:
        """The options as they are printed: without those of distributed training and of noise where there is none."""
        options = self._given()
        hidden = set() if options.get("process_group") is not None else {"process_group", "sharded"}
        hidden |= set() if options.get("noise") else {"noise", "samples", "generator"}
        return {name: option for name, option in options.items() if name not in hidden}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy speaks to the same processes and draws from the same generator, neither of which can be copied."""
        for shared in (getattr(self, "process_group", None), getattr(self, "generator", None)):
            memo[id(shared)] = shared
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={option!r}" for name, option in self._shown().items())


class _APLoss(_Loss):
    """What all rankings have. What differs from batch to batch, groups, offsets and weight, is given with the batch."""

    _options: tuple[str, ...] = ("dim", "ignore_index", "reduction", *_NOISE, "backend", "process_group", "sharded")
    _function: Callable[..., Tensor]

    def __init__(
        self,
        *,
        dim: Dim,
        ignore_index: int | None,
        reduction: Reduction,
        noise: float,
        samples: int,
        generator: Generator | None,
        backend: str,
        process_group: ProcessGroup | None,
        sharded: Sharded,
    ) -> None:
        super().__init__()
        self._hold_noise(noise, samples, generator)
        self.dim = check_dim(dim)
        self.ignore_index = check_ignore_index(ignore_index)
        self.reduction: Reduction = reduction
        self.backend = backend
        self.process_group = process_group
        self.sharded: Sharded = sharded
        check_reduction(reduction)
        check_backend(backend)
        if process_group is not None:
            check_process_group(process_group)
        check_sharded(sharded)

    @torch.jit.unused  # a scripted model may hold a loss, which it does not call
    def forward(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        groups: Tensor | None = None,
        offsets: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        return type(self)._function(scores, targets, groups=groups, offsets=offsets, weight=weight, **self._now())


class DirectAPLoss(_APLoss):
    """:func:`fastap.direct_ap_loss` as a module, with the defaults that train best where nothing is tuned.

    ``DirectAPLoss()(scores, targets)`` is ``direct_ap_loss(scores, targets, update="symmetric", epsilon=0.3, noise=0.9,
    samples=2)``: on ten tasks it came within 1.7 hundredths of AP of the best of 84 settings of update, epsilon and
    noise, on average (``python -m examples.epsilon``). The function's defaults, the paper's positive update with an
    epsilon of 1 and without noise, came within 3.2. What to change, and when: docs/guide/epsilon.md. Where rankings
    start reversed, a single positive far below all others, ``epsilon=1.0, noise=3.0`` found it from every start tried.

    As with ``torch.nn.Dropout`` there is no noise after ``.eval()``; its seeds are those of ``generator``, or of
    PyTorch's own.
    """

    _function: Callable[..., Tensor] = staticmethod(functional.direct_ap_loss)
    _options = ("epsilon", "update", *_APLoss._options, "method")

    def __init__(
        self,
        *,
        epsilon: float = 0.3,
        update: Update = "symmetric",
        dim: Dim = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        noise: float = 0.9,
        samples: int = 2,
        generator: Generator | None = None,
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        sharded: Sharded = "items",
        method: Method = "auto",
    ) -> None:
        super().__init__(
            dim=dim,
            ignore_index=ignore_index,
            reduction=reduction,
            noise=noise,
            samples=samples,
            generator=generator,
            backend=backend,
            process_group=process_group,
            sharded=sharded,
        )
        self.epsilon = check_scale("epsilon", epsilon)
        check_update(update)
        check_method(method)
        self.update: Update = update
        self.method: Method = method


class DirectRankingLoss(DirectAPLoss):
    """:func:`fastap.direct_ranking_loss` as a module, with the defaults of :class:`fastap.DirectAPLoss`.

    Those were chosen for AP: for another measure, what ``epsilon`` and ``noise`` are best is not known.
    """

    _function: Callable[..., Tensor] = staticmethod(functional.direct_ranking_loss)
    _options = ("measure", "k", *DirectAPLoss._options)

    def __init__(
        self,
        *,
        measure: AnyMeasure,
        k: int | None = None,
        epsilon: float = 0.3,
        update: Update = "symmetric",
        dim: Dim = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        noise: float = 0.9,
        samples: int = 2,
        generator: Generator | None = None,
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        sharded: Sharded = "items",
        method: Method = "auto",
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            update=update,
            dim=dim,
            ignore_index=ignore_index,
            reduction=reduction,
            noise=noise,
            samples=samples,
            generator=generator,
            backend=backend,
            process_group=process_group,
            sharded=sharded,
            method=method,
        )
        checked = check_measure(measure, k)
        check_backend(backend, None, Objective("direct", measure=checked).without_kernels)
        self.measure = measure
        self.k = k


class APHingeLoss(_APLoss):
    """:func:`fastap.ap_hinge_loss` as a module."""

    _function = staticmethod(functional.ap_hinge_loss)
    _options = ("margin", *_APLoss._options, "method")

    def __init__(
        self,
        *,
        margin: float = 1.0,
        dim: Dim = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        noise: float = 0.0,
        samples: int = 1,
        generator: Generator | None = None,
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        sharded: Sharded = "items",
        method: Method = "auto",
    ) -> None:
        super().__init__(
            dim=dim,
            ignore_index=ignore_index,
            reduction=reduction,
            noise=noise,
            samples=samples,
            generator=generator,
            backend=backend,
            process_group=process_group,
            sharded=sharded,
        )
        self.margin = check_scale("margin", margin)
        check_method(method)
        self.method: Method = method


class SmoothAPLoss(_APLoss):
    """:func:`fastap.smooth_ap_loss` as a module."""

    _function = staticmethod(functional.smooth_ap_loss)
    _options = ("temperature", *(name for name in _APLoss._options if name not in _NOISE))

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        dim: Dim = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        sharded: Sharded = "items",
    ) -> None:
        super().__init__(
            dim=dim,
            ignore_index=ignore_index,
            reduction=reduction,
            noise=0.0,
            samples=1,
            generator=None,
            backend=backend,
            process_group=process_group,
            sharded=sharded,
        )
        self.temperature = check_scale("temperature", temperature)


class APPerceptronLoss(_APLoss):
    """:func:`fastap.ap_perceptron_loss` as a module."""

    _function = staticmethod(functional.ap_perceptron_loss)

    def __init__(
        self,
        *,
        dim: Dim = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        noise: float = 0.0,
        samples: int = 1,
        generator: Generator | None = None,
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        sharded: Sharded = "items",
    ) -> None:
        super().__init__(
            dim=dim,
            ignore_index=ignore_index,
            reduction=reduction,
            noise=noise,
            samples=samples,
            generator=generator,
            backend=backend,
            process_group=process_group,
            sharded=sharded,
        )


class _ClassLoss(_Loss):
    """What there is of the classes is a buffer, which moves with the module and is not saved with it."""

    _options: tuple[str, ...] = ("ignore_index", "reduction")
    _of_classes: str

    def __init__(self, of_classes: Tensor | None, ignore_index: int | None, reduction: Reduction) -> None:
        super().__init__()
        self.register_buffer(self._of_classes, of_classes, persistent=False)
        self.ignore_index = check_class_to_ignore(ignore_index)
        self.reduction: Reduction = reduction
        check_reduction(reduction)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _ClassLoss:
        """To another device, but not to another type: ``.half()`` is meant for weights, and would round costs."""
        before = getattr(self, self._of_classes)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None:
            setattr(self, self._of_classes, before.to(getattr(self, self._of_classes).device))
        return self

    def _shown(self) -> dict[str, Any]:
        options = super()._shown()
        of_classes = getattr(self, self._of_classes)
        if of_classes is not None:
            options[self._of_classes] = tuple(of_classes.shape)
        return options


class MulticlassAPLoss(_ClassLoss):
    """:func:`fastap.multiclass_ap_loss` as a module, with the defaults of :class:`DirectAPLoss`.

    ``weight`` moves with it to another device.
    """

    _of_classes = "weight"
    _options = ("weight", "epsilon", "update", *_ClassLoss._options, *_NOISE, "backend", "process_group", "method")

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        epsilon: float = 0.3,
        update: Update = "symmetric",
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        noise: float = 0.9,
        samples: int = 2,
        generator: Generator | None = None,
        backend: str = "auto",
        process_group: ProcessGroup | None = None,
        method: Method = "auto",
    ) -> None:
        if weight is not None:
            check_class_weight(weight)
        super().__init__(weight, ignore_index, reduction)
        self._hold_noise(noise, samples, generator)
        self.epsilon = check_scale("epsilon", epsilon)
        check_update(update)
        self.update: Update = update
        check_backend(backend)
        self.backend = backend
        if process_group is not None:
            check_process_group(process_group)
        self.process_group = process_group
        check_method(method)
        self.method: Method = method

    @torch.jit.unused
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return multiclass_ap_loss(logits, labels, **self._now())


class _CostLoss(_ClassLoss):
    _of_classes = "cost"
    if TYPE_CHECKING:  # not where torch.jit.script would read it
        cost: Tensor | None

    def __init__(self, cost: Tensor | None, ignore_index: int | None, reduction: Reduction) -> None:
        if cost is not None:
            check_cost_table(cost)
            check_finite("cost", cost)
        super().__init__(cost, ignore_index, reduction)


class DirectCostLoss(_CostLoss):
    """:func:`fastap.direct_cost_loss` as a module; ``cost`` moves with it to another device."""

    _options = ("cost", "epsilon", "update", *_CostLoss._options)

    def __init__(
        self,
        cost: Tensor | None = None,
        *,
        epsilon: float = 1.0,
        update: Update = "positive",
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(cost, ignore_index, reduction)
        self.epsilon = check_scale("epsilon", epsilon)
        check_update(update)
        self.update: Update = update

    @torch.jit.unused
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return direct.direct_cost_loss(logits, targets, **self._given())


class CostHingeLoss(_CostLoss):
    """:func:`fastap.cost_hinge_loss` as a module; ``cost`` moves with it to another device."""

    _options = ("cost", "margin", *_CostLoss._options)

    def __init__(
        self,
        cost: Tensor | None = None,
        *,
        margin: float = 1.0,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(cost, ignore_index, reduction)
        self.margin = check_scale("margin", margin)

    @torch.jit.unused
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return direct.cost_hinge_loss(logits, targets, **self._given())


class CostPerceptronLoss(_CostLoss):
    """:func:`fastap.cost_perceptron_loss` as a module."""

    def __init__(self, *, ignore_index: int | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(None, ignore_index, reduction)

    @torch.jit.unused
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return direct.cost_perceptron_loss(logits, targets, **self._given())

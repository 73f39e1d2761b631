"""What both metrics are made of: all items of all updates, kept until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastap.arguments import check_tensor
from fastap.targets import FLOATING, NUMBERS, UNSIGNED, can_hold, wrong_target

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise ImportError(
        "fastap.metrics needs torchmetrics, which is not installed: pip install 'fastap[metrics]'"
    ) from error


_PART = 1 << 18


class Items(Metric):
    """Keeps all items as they were given, ignored ones too, until they are asked for.

    Metrics of a ``MetricCollection`` whose states agree after the first batch share them from then on: states must not
    depend on options.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, kept: dict[str, tuple[tuple[int, ...], torch.dtype]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Of each state the shape of one item and the type that holds any it may have, for processes to agree on.
        self._kept = kept
        for name in kept:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _keep(self, types: dict[str, torch.dtype] | None = None, **items: Tensor) -> None:
        """Items as they are, or in a smaller type that holds them."""
        for name, given in items.items():
            # A copy: buffers are written over, and of a column the whole matrix would be kept.
            getattr(self, name).append(given.detach().to((types or {}).get(name, given.dtype), copy=True))

    def reset(self) -> None:
        # TorchMetrics clears the lists, which wrappers such as its Running keep.
        for name in self._kept:
            setattr(self, name, [])
        super().reset()

    def _all(self, name: str) -> Tensor:
        """All items of a state, in order; from then on it holds them joined, so that there is one copy of them."""
        state = getattr(self, name)
        if isinstance(state, Tensor):  # as synchronising leaves it
            return state
        if len(state) == 1:
            return state[0]  # type: ignore[no-any-return]
        shape, dtype = self._kept[name]
        types = {each.dtype for each in state}
        if len(types) > 1:
            if torch.uint64 in types and dtype == torch.int64:  # which would wrap it
                raise ValueError(
                    f"indexes must be torch.uint64 in all updates or in none, got {sorted(map(str, types))}"
                )
            state = [each.to(dtype) for each in state]
        if not state:
            return torch.empty(0, *shape, dtype=dtype, device=self.device)
        joined = torch.cat(state)
        setattr(self, name, [joined])
        return joined

    def _value(self, value: Tensor) -> Tensor:
        return value.to(torch.promote_types(self.dtype, torch.float32), copy=True)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # TorchMetrics gathers what has one type and one number of dimensions everywhere; a process without any items
        # has neither. The local state is put back afterwards.
        for name, (_, dtype) in self._kept.items():
            setattr(self, name, [self._all(name).to(dtype)])
        super()._sync_dist(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        # States move with the metric and keep their types: scores rounded to fewer bits tie, and ids are no floats.
        this = super()._apply(fn, exclude_state=[*exclude_state, *self._kept])
        for name in self._kept:
            state = getattr(self, name)
            moved = state.to(self.device) if isinstance(state, Tensor) else [each.to(self.device) for each in state]
            setattr(self, name, moved)
        return this

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """The value, or those given, drawn with matplotlib; returns figure and axes."""
        return self._plot(val, ax)


def check_binary(target: Tensor, ignore_index: int | None) -> None:
    """Only 0, 1 and ``ignore_index``; a part at a time, for masks of all items would take as much memory as they do."""
    if target.numel() and not target.is_floating_point():
        least, most = (int(end) for end in target.aminmax())
        if most - least < 3 and {*range(least, most + 1)} <= {0, 1, ignore_index}:
            return
    for part in target.reshape(-1).split(_PART):
        allowed = (part == 0) | (part == 1)
        if ignore_index is not None:
            allowed |= is_number(part, ignore_index)
        check_all(part, allowed, "0 or 1", ignore_index)


def is_number(target: Tensor, number: int | None) -> Tensor:
    """Which targets are that number, if the type has it."""
    if number is None or not can_hold(target.dtype, number):
        return torch.zeros_like(target, dtype=torch.bool)
    return target == number


def check_preds(preds: Tensor) -> None:
    """Scores of a type that is ranked."""
    check_tensor("preds", preds, FLOATING, "a floating dtype of 16 to 64 bits")


def checked_target(target: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """Of that shape, in a type whose values can be compared."""
    check_tensor("target", target, NUMBERS, "a bool, integer or floating (of 16 to 64 bits) dtype")
    check_shape("target", target, shape)
    check_device("target", target, device)
    if target.dtype in UNSIGNED:
        wide = target.to(torch.int64)
        if target.device.type == "cpu" and bool((wide < 0).any()):
            raise ValueError(f"target must be below 2**63, got {target[wide < 0][0].item()}")
        return wide.where(wide >= 0, torch.iinfo(torch.int64).max)  # where nobody may look; no class either
    return target


def check_shape(name: str, given: Tensor, shape: torch.Size) -> None:
    """Of that shape."""
    if given.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(given.shape)}")


def check_device(name: str, given: Tensor, device: torch.device) -> None:
    """On the device of ``preds``."""
    if given.device != device:
        raise ValueError(f"{name} must be on the device of preds, {device}, got {given.device}")


def check_all(target: Tensor, allowed: Tensor, wanted: str, ignore_index: int | None) -> None:
    """Only targets that are allowed."""
    if not bool(allowed.all()):
        raise wrong_target("target", wanted, ignore_index, target[~allowed][0].item())

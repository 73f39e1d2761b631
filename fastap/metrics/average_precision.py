"""The metric of classes and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from fastap.arguments import check_choice, check_class_to_ignore, check_count, check_weights
from fastap.functional import average_precision
from fastap.metrics.items import (
    Items,
    check_all,
    check_binary,
    check_preds,
    check_shape,
    checked_target,
    is_number,
)
from fastap.targets import right_weights

Task = Literal["binary", "multiclass", "multilabel"]
Average = Literal["macro", "micro", "weighted", "none"]


class AveragePrecision(Items):
    """``fastap.average_precision`` of all items of all updates, for every class or label.

    =============  ================  =============  ===========================================================
    task           preds             target         ranked
    =============  ================  =============  ===========================================================
    "binary"       ``(N, ...)``      as ``preds``   all items, by one score; 1 for positives, 0 for negatives
    "multiclass"   ``(N, C, ...)``   ``(N, ...)``   for every class all items; positive where it is the target
    "multilabel"   ``(N, C, ...)``   as ``preds``   for every label all items; 1 and 0 as above
    =============  ================  =============  ===========================================================

    ``update(preds, target, sample_weight=None)`` takes scores of any floating type and any range. ``sample_weight``,
    ``(N, ...)`` without classes, weighs the items as in scikit-learn; updates without it count 1 an item.

    A class without a positive has no average precision: NaN by itself, left out of the average with a warning. NaN is
    also the value of no items at all.

    Args:
        task: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        num_classes: for ``"multiclass"``.
        num_labels: for ``"multilabel"``.
        average: ``"macro"``, the mean over classes; ``"weighted"``, the mean weighted by the (weights of) positives;
            ``"micro"``, one ranking of all pairs of an item and a class; ``"none"`` or None, (C,). Of no meaning for
            ``"binary"``.
        ignore_index: what has this target takes no part: an item, or of ``"multilabel"`` one label of an item.
        kwargs: those of ``torchmetrics.Metric``.

    The value is float32, or float64 after ``set_dtype(torch.float64)``; inside all is float64.
    """

    plot_legend_name = "Class"
    if TYPE_CHECKING:  # not where torch.jit.script would read it
        weight: list[Tensor]

    def __init__(
        self,
        task: Task,
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        average: Average | None = "macro",
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("task", task, ("binary", "multiclass", "multilabel"))
        columns = 1
        if task != "binary":
            options = {"num_classes": num_classes, "num_labels": num_labels}
            name, other = options if task == "multiclass" else reversed(options)
            if options[name] is None and options[other] is not None:
                raise ValueError(f"{name} must be given for {task!r}, got {other}; give {name}={options[other]}")
            columns = check_count(name, options[name])  # type: ignore[arg-type]
        ignore_index = check_class_to_ignore(ignore_index)
        super().__init__(
            {
                "preds": ((columns,), torch.float64),
                "target": (() if task == "multiclass" else (columns,), torch.float64),
                "weight": ((), torch.float64),
            },
            **kwargs,
        )
        self.task = task
        self.columns = columns
        self.average = check_choice(
            "average", "none" if average is None else average, ("macro", "micro", "weighted", "none")
        )
        self.ignore_index = ignore_index

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        check_preds(preds)
        items = preds.shape
        if self.task != "binary":
            if preds.dim() < 2 or preds.shape[1] != self.columns:
                raise ValueError(f"preds must have the shape (N, {self.columns}, ...), got {tuple(preds.shape)}")
            items = preds.shape[:1] + preds.shape[2:]
        if self.task != "multiclass":
            _check_no_classes(self.task, preds, target)
        target = checked_target(target, items if self.task == "multiclass" else preds.shape, preds.device)
        target = target.reshape(-1) if self.task == "multiclass" else self._rows(target)
        if sample_weight is not None:
            check_weights("sample_weight", sample_weight, "preds", preds)
            check_shape("sample_weight", sample_weight, items)
        # On an accelerator a look at the values would stall the stream; there `compute` looks.
        if preds.device.type == "cpu":
            self._check_target(target)
            if sample_weight is not None:
                right_weights("sample_weight", sample_weight, looks=True)
        self._keep(preds=self._rows(preds), target=target)
        if sample_weight is None:
            # One number for all takes no memory until states are joined.
            self.weight.append(torch.ones((), device=preds.device).expand(items.numel()))
        else:
            self._keep(weight=sample_weight.reshape(-1))

    def compute(self) -> Tensor:
        scores, target, weight = (self._all(name) for name in self._kept)
        self._check_target(target)
        weight = right_weights("sample_weight", weight, looks=True)
        ignored = is_number(target, self.ignore_index)
        if self.task == "multiclass":
            positive = target[:, None] == torch.arange(self.columns, device=target.device)
            ignored = ignored[:, None].expand_as(positive)
        else:
            positive = target == 1
        positive = positive & ~ignored
        weights = None if bool((weight == 1).all()) else weight[:, None].expand_as(scores)
        targets = positive.to(torch.int8).masked_fill_(ignored, -1)
        support = positive.sum(0).double() if weights is None else torch.where(positive, weights, 0.0).sum(0)
        if target.numel():
            self._warn_of_missing(int((support == 0).sum()))
        average: Any = "macro" if self.task == "binary" else self.average
        value = average_precision(scores, targets, dim=0, sample_weight=weights, ignore_index=-1, average=average)
        return self._value(value)

    def _warn_of_missing(self, missing: int) -> None:
        """Of so many classes without a positive."""
        if self.task == "binary" or self.average == "micro":
            if missing == self.columns:
                rank_zero_warn("AveragePrecision is NaN, for no item is positive", UserWarning)
        elif missing and self.average != "none":
            rank_zero_warn(
                f"classes without a positive are left out of the {self.average} average of AveragePrecision: "
                f"{missing} of {self.columns}",
                UserWarning,
            )

    def _rows(self, given: Tensor) -> Tensor:
        """One item a row, its classes in the columns."""
        return given.reshape(-1, 1) if self.task == "binary" else given.movedim(1, -1).reshape(-1, self.columns)

    def _check_target(self, target: Tensor) -> None:
        if self.task != "multiclass":
            check_binary(target, self.ignore_index)
            return
        allowed = (target >= 0) & (target < self.columns)
        if target.is_floating_point():
            allowed &= target == target.trunc()
        allowed |= is_number(target, self.ignore_index)
        check_all(target, allowed, f"a class from 0 to {self.columns - 1}", self.ignore_index)


def _check_no_classes(task: Task, preds: Tensor, target: Tensor) -> None:
    """Not one class an item, where 0 or 1 is wanted for each score of it."""
    if not isinstance(target, Tensor) or target.is_floating_point() or preds.dim() < 2 or preds.shape[1] < 2:
        return
    if target.shape == preds.shape[:1] + preds.shape[2:]:
        raise ValueError(
            f"target must have the shape of preds for {task!r}, {tuple(preds.shape)}, got {tuple(target.shape)}; of "
            f'class labels it is AveragePrecision("multiclass", num_classes={preds.shape[1]})'
        )

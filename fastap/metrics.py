"""Exact average precision of a whole epoch: ``torchmetrics`` metrics, to be reset and synchronised as any other.

Needs the extra ``fastap[metrics]``; nothing else of fastap imports this. Two metrics with the names, options and
defaults of TorchMetrics (those of ``thresholds=None``), and three differences. Scores are only ever compared: no
sigmoid, no softmax, and a score of 0 or less is one like any other. Equal scores form one threshold, as in
scikit-learn, so that no result depends on the order of the items. And a NaN score makes the average precision of its
class or query NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fastap.checks import (
    FLOATING,
    INTEGER,
    NUMBERS,
    UNSIGNED,
    can_hold,
    check_choice,
    check_class_to_ignore,
    check_count,
    check_tensor,
    check_weights,
    right_weights,
    wrong_target,
)
from fastap.functional import average_precision
from fastap.ragged import comparable

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import rank_zero_warn
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise ImportError(
        "fastap.metrics needs torchmetrics, which is not installed: pip install 'fastap[metrics]'"
    ) from error

__all__ = ["AveragePrecision", "RetrievalMAP"]

Task = Literal["binary", "multiclass", "multilabel"]
Average = Literal["macro", "micro", "weighted", "none"]
Aggregation = Literal["mean", "median", "min", "max"] | Callable[[Tensor], Tensor]


class _Items(Metric):
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

    def _keep(self, **items: Tensor) -> None:
        for name, given in items.items():
            # A copy: buffers are written over, and of a column the whole matrix would be kept.
            getattr(self, name).append(given.detach().clone())

    def _all(self, name: str) -> Tensor:
        """All items of a state, in order."""
        state = getattr(self, name)
        if isinstance(state, Tensor):  # as synchronising leaves it
            return state
        shape, dtype = self._kept[name]
        types = {each.dtype for each in state}
        if len(types) > 1:
            if torch.uint64 in types and dtype == torch.int64:  # which would wrap it
                raise ValueError(
                    f"indexes must be torch.uint64 in all updates or in none, got {sorted(map(str, types))}"
                )
            state = [each.to(dtype) for each in state]
        return torch.cat(state) if state else torch.empty(0, *shape, dtype=dtype, device=self.device)

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


class AveragePrecision(_Items):
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
            name, given = ("num_classes", num_classes) if task == "multiclass" else ("num_labels", num_labels)
            columns = check_count(name, given)  # type: ignore[arg-type]
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
        _check_preds(preds)
        items = preds.shape
        if self.task != "binary":
            if preds.dim() < 2 or preds.shape[1] != self.columns:
                raise ValueError(f"preds must have the shape (N, {self.columns}, ...), got {tuple(preds.shape)}")
            items = preds.shape[:1] + preds.shape[2:]
        target = _checked_target(target, items if self.task == "multiclass" else preds.shape, preds.device)
        target = target.reshape(-1) if self.task == "multiclass" else self._rows(target)
        if sample_weight is not None:
            check_weights("sample_weight", sample_weight, "preds", preds)
            _check_shape("sample_weight", sample_weight, items)
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
        ignored = _is(target, self.ignore_index)
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
        if self.task == "multiclass":
            allowed = (target >= 0) & (target < self.columns)
            wanted = f"a class from 0 to {self.columns - 1}"
            if target.is_floating_point():
                allowed &= target == target.trunc()
        else:
            allowed = (target == 0) | (target == 1)
            wanted = "0 or 1"
        _check_all(target, allowed | _is(target, self.ignore_index), wanted, self.ignore_index)


class RetrievalMAP(_Items):
    """The mean over queries of ``fastap.average_precision`` of the items of a query.

    ``update(preds, target, indexes)`` takes three tensors of one shape: scores of any floating type and any range; 1
    for relevant items and 0 for others; and an integer, the query an item belongs to. A query may come in many updates
    and from many processes.

    Args:
        empty_target_action: what a query without a relevant item counts: ``"neg"`` 0, ``"pos"`` 1; ``"skip"``
            nothing, and 0.0 is the value where no query is left; ``"error"`` is a ValueError from ``compute``.
        ignore_index: items with this target take no part; a query of such items alone is none.
        top_k: only the ``top_k`` best items of a query take part, with all that tie with the last of these; divided by
            the relevant ones among them. A query whose relevant items are all below counts 0.
        aggregation: ``"mean"``, ``"median"`` (the lower of two), ``"min"``, ``"max"``, or a function of the (queries,)
            values, float64.
        kwargs: those of ``torchmetrics.Metric``.

    The value is float32, or float64 after ``set_dtype(torch.float64)``; inside all is float64. It equals
    ``torchmetrics.retrieval.RetrievalMAP``'s wherever that has positive scores, no two of a query equal.
    """

    def __init__(
        self,
        empty_target_action: Literal["neg", "pos", "skip", "error"] = "neg",
        ignore_index: int | None = None,
        top_k: int | None = None,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        check_choice("empty_target_action", empty_target_action, ("neg", "pos", "skip", "error"))
        ignore_index = check_class_to_ignore(ignore_index)
        top_k = None if top_k is None else check_count("top_k", top_k)
        if not callable(aggregation):
            check_choice("aggregation", aggregation, ("mean", "median", "min", "max"))
        # `query`, for TorchMetrics' retrieval metrics keep other values under the name of `indexes`.
        super().__init__(
            {"preds": ((), torch.float64), "target": ((), torch.float64), "query": ((), torch.int64)}, **kwargs
        )
        self.empty_target_action = empty_target_action
        self.ignore_index = ignore_index
        self.top_k = top_k
        self.aggregation = aggregation

    def update(self, preds: Tensor, target: Tensor, indexes: Tensor) -> None:
        _check_preds(preds)
        target = _checked_target(target, preds.shape, preds.device)
        check_tensor("indexes", indexes, INTEGER, "an integer dtype")
        _check_shape("indexes", indexes, preds.shape)
        _check_device("indexes", indexes, preds.device)
        if preds.device.type == "cpu":
            self._check_target(target)
        self._keep(preds=preds.reshape(-1), target=target.reshape(-1), query=indexes.reshape(-1))

    def compute(self) -> Tensor:
        preds, target, query = (self._all(name) for name in self._kept)
        query = comparable(query)
        self._check_target(target)
        if self.ignore_index is not None:
            taken = ~_is(target, self.ignore_index)
            preds, target, query = preds[taken], target[taken], query[taken]
        if self.top_k is not None:
            preds, order = torch.sort(preds, descending=True, stable=True)
            target, query = target[order], query[order]
        query, order = torch.sort(query, stable=True)
        preds, relevant = preds[order], target[order] == 1
        _, counts = torch.unique_consecutive(query, return_counts=True)
        offsets = _sums(counts)
        empty = _of_each(relevant, offsets) == 0

        if self.top_k is None:
            values = average_precision(preds, relevant, offsets=offsets)
        else:
            last = preds[torch.minimum(offsets[:-1] + min(self.top_k, preds.shape[0]), offsets[1:]) - 1]
            # A NaN is no lower than any: it comes first, takes part and makes the value of its query NaN.
            taken = ~(preds < last.repeat_interleave(counts))
            within = _sums(_of_each(taken, offsets))
            values = average_precision(preds[taken], relevant[taken], offsets=within)
            none = _of_each(relevant[taken], within) == 0
            values = values.masked_fill(none & ~preds[offsets[:-1]].isnan(), 0.0)

        if self.empty_target_action == "error" and bool(empty.any()):
            raise ValueError(
                f"every query must have a relevant item, for empty_target_action is 'error': {int(empty.sum())} of "
                f"{empty.shape[0]} have none"
            )
        if self.empty_target_action == "skip":
            values = values[~empty]
        else:
            values = values.masked_fill(empty, float(self.empty_target_action == "pos"))
        if values.shape[0] == 0:
            return self._value(values.new_zeros(()))
        aggregate = self.aggregation if callable(self.aggregation) else getattr(torch, self.aggregation)
        value = aggregate(values)
        check_tensor("aggregation", value, NUMBERS, "a real dtype", returned=True)
        return self._value(value)

    def _check_target(self, target: Tensor) -> None:
        allowed = (target == 0) | (target == 1) | _is(target, self.ignore_index)
        _check_all(target, allowed, "0 or 1", self.ignore_index)


def _sums(counts: Tensor) -> Tensor:
    """Where each of so many begins, and the end."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _of_each(mask: Tensor, offsets: Tensor) -> Tensor:
    """How many are true from each offset to before the next."""
    return _sums(mask.to(torch.int64))[offsets].diff()


def _is(target: Tensor, number: int | None) -> Tensor:
    if number is None or not can_hold(target.dtype, number):
        return torch.zeros_like(target, dtype=torch.bool)
    return target == number


def _check_preds(preds: Tensor) -> None:
    check_tensor("preds", preds, FLOATING, "a floating dtype of 16 to 64 bits")


def _checked_target(target: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """Of that shape, in a type whose values can be compared."""
    check_tensor("target", target, NUMBERS, "a bool, integer or floating (of 16 to 64 bits) dtype")
    _check_shape("target", target, shape)
    _check_device("target", target, device)
    if target.dtype in UNSIGNED:
        wide = target.to(torch.int64)
        if target.device.type == "cpu" and bool((wide < 0).any()):
            raise ValueError(f"target must be below 2**63, got {target[wide < 0][0].item()}")
        return wide.where(wide >= 0, torch.iinfo(torch.int64).max)  # where nobody may look; no class either
    return target


def _check_shape(name: str, given: Tensor, shape: torch.Size) -> None:
    if given.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(given.shape)}")


def _check_device(name: str, given: Tensor, device: torch.device) -> None:
    if given.device != device:
        raise ValueError(f"{name} must be on the device of preds, {device}, got {given.device}")


def _check_all(target: Tensor, allowed: Tensor, wanted: str, ignore_index: int | None) -> None:
    if not bool(allowed.all()):
        raise wrong_target("target", wanted, ignore_index, target[~allowed][0].item())

"""The metric of queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from fastap.arguments import check_choice, check_class_to_ignore, check_count, check_tensor
from fastap.functional import average_precision
from fastap.metrics.items import Items, check_all, check_device, check_preds, check_shape, checked_target, is_number
from fastap.ragged import comparable
from fastap.targets import INTEGER, NUMBERS

Aggregation = Literal["mean", "median", "min", "max"] | Callable[[Tensor], Tensor]


class RetrievalMAP(Items):
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
        check_preds(preds)
        target = checked_target(target, preds.shape, preds.device)
        check_tensor("indexes", indexes, INTEGER, "an integer dtype")
        check_shape("indexes", indexes, preds.shape)
        check_device("indexes", indexes, preds.device)
        if preds.device.type == "cpu":
            self._check_target(target)
        self._keep(preds=preds.reshape(-1), target=target.reshape(-1), query=indexes.reshape(-1))

    def compute(self) -> Tensor:
        preds, target, query = (self._all(name) for name in self._kept)
        query = comparable(query)
        self._check_target(target)
        if self.ignore_index is not None:
            taken = ~is_number(target, self.ignore_index)
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
        allowed = (target == 0) | (target == 1) | is_number(target, self.ignore_index)
        check_all(target, allowed, "0 or 1", self.ignore_index)


def _sums(counts: Tensor) -> Tensor:
    """Where each of so many begins, and the end."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _of_each(mask: Tensor, offsets: Tensor) -> Tensor:
    """How many are true from each offset to before the next."""
    return _sums(mask.to(torch.int64))[offsets].diff()

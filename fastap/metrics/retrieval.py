"""The metric of queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fastap.arguments import check_choice, check_class_to_ignore, check_count, check_tensor
from fastap.backends.measure import measure
from fastap.metrics.items import Items, check_binary, check_device, check_preds, check_shape, checked_target
from fastap.ragged import from_groups
from fastap.targets import INTEGER, NUMBERS, can_hold

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
        smaller = {}  # what is kept is a copy: the smaller, the faster
        if preds.device.type == "cpu":
            check_binary(target, self.ignore_index)
            if self.ignore_index is None or can_hold(torch.int8, self.ignore_index):
                smaller["target"] = torch.int8
            ends = indexes.aminmax() if indexes.dtype == torch.int64 and indexes.numel() else ()
            if ends and all(can_hold(torch.int32, int(end)) for end in ends):
                smaller["query"] = torch.int32
        self._keep(smaller, preds=preds.reshape(-1), target=target.reshape(-1), query=indexes.reshape(-1))

    def compute(self) -> Tensor:
        values, empty = self._values()
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

    def _values(self) -> tuple[Tensor, Tensor]:
        """The average precision of every query, by ascending index, and which of them have no relevant item."""
        preds, target, query = (self._all(name) for name in self._kept)
        check_binary(target, self.ignore_index)
        if preds.shape[0] == 0:
            return preds.new_empty(0, dtype=torch.float64), preds.new_empty(0, dtype=torch.bool)
        ignored = self.ignore_index
        if ignored in (0, 1):  # what is left is of one class
            ignored, target = -1, torch.where(target == ignored, -1, target).to(torch.int8)
        rankings = from_groups(query)
        found = measure(rankings.batch(preds, target, ignored), top_k=self.top_k, counts=True)
        values, relevant, others = (rankings.without_padding(cast(Tensor, each)) for each in found)
        if ignored is None:
            return values, relevant == 0
        there = relevant + others > 0  # a query of ignored items alone is none
        return values[there], relevant[there] == 0

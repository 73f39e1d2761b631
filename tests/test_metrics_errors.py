"""Bad arguments of the metrics, and what there is without TorchMetrics."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

torchmetrics = pytest.importorskip("torchmetrics")

from fastap.metrics import AveragePrecision, RetrievalMAP  # noqa: E402
from tests.metric_batches import queries  # noqa: E402


def test_compute_looks_at_what_no_update_has_seen() -> None:
    # On an accelerator an update looks at no values, and of those that share states only one sees them.
    collection = torchmetrics.MetricCollection({"a": RetrievalMAP(ignore_index=-1), "b": RetrievalMAP()})
    scores, targets, ids = queries(1)
    collection.update(scores, targets.clamp(min=0), ids)
    collection.update(scores, targets, ids)
    with pytest.raises(ValueError, match="target must be 0 or 1, got -1"):
        collection.compute()
    metric = AveragePrecision("binary")
    metric.update(scores, targets.clamp(min=0))
    metric.weight[0] = -metric.weight[0]
    with pytest.raises(ValueError, match=r"sample_weight must be finite in torch.float64 and not negative, got -1\.0"):
        metric.compute()
    metric.target[0] = targets
    with pytest.raises(ValueError, match="target must be 0 or 1, got -1"):
        metric.compute()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AveragePrecision("ranking"), "task must be one of 'binary', 'multiclass'"),  # type: ignore[arg-type]
        (lambda: AveragePrecision("multilabel", num_labels=0), "num_labels must be at least 1, got 0"),
        (lambda: AveragePrecision("binary", average="mean"), "average must be one of 'macro'"),  # type: ignore[arg-type]
        (lambda: AveragePrecision("binary", thresholds=5), "Unexpected keyword arguments: `thresholds`"),
        (lambda: RetrievalMAP("zero"), "empty_target_action must be one of 'neg'"),  # type: ignore[arg-type]
        (lambda: RetrievalMAP(top_k=0), "top_k must be at least 1, got 0"),
        (lambda: RetrievalMAP(aggregation="sum"), "aggregation must be one of 'mean'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options(make: Callable[[], Any], message: str) -> None:
    """``test_robustness_metrics.py`` has far more of them, and of the wrong tensors."""
    with pytest.raises(ValueError, match=message):
        make()


MAKE: dict[str, Callable[[], Any]] = {
    "binary": lambda: AveragePrecision("binary"),
    "classes": lambda: AveragePrecision("multiclass", num_classes=3),
    "labels": lambda: AveragePrecision("multilabel", num_labels=3),
    "queries": RetrievalMAP,
}
PAIR, TABLE, ONES = torch.rand(2), torch.rand(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        ("binary", ([0.5], ONES[:1]), "preds must be a torch.Tensor, got list"),
        ("binary", (ONES.long(), ONES), "preds must have a floating dtype of 16 to 64 bits, got"),
        ("binary", (PAIR, torch.ones(3)), r"target must have the shape \(2,\), got \(3,\)"),
        ("binary", (PAIR, torch.tensor([0, 0.5])), "target must be 0 or 1, got 0.5"),
        ("binary", (PAIR, ONES, torch.ones(3)), r"sample_weight must have the shape \(2,\)"),
        ("binary", (PAIR, ONES, -ONES), "sample_weight must be finite in torch.float64 and not"),
        ("classes", (PAIR, ONES), r"preds must have the shape \(N, 3, ...\), got \(2,\)"),
        ("classes", (TABLE, torch.ones(2, 3)), r"target must have the shape \(2,\), got \(2, 3\)"),
        ("classes", (TABLE, torch.tensor([0, 3])), "target must be a class from 0 to 2, got 3"),
        ("labels", (torch.rand(2, 4), torch.ones(2, 4)), r"preds must have the shape \(N, 3, ...\)"),
        ("labels", (TABLE, ONES), r"target must have the shape \(2, 3\), got \(2,\)"),
        ("labels", (TABLE, torch.ones(2, 3), torch.ones(2, 3)), "sample_weight must have the shape"),
        ("queries", (PAIR, ONES, ONES), "indexes must have an integer dtype"),
        ("queries", (PAIR, ONES, torch.ones(3).long()), "indexes must have the shape"),
        ("queries", (PAIR, -ONES, ONES.long()), "target must be 0 or 1, got -1"),
    ],
)
def test_wrong_tensors(metric: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MAKE[metric]().update(*arguments)


def test_torchmetrics_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [each for each in sys.modules if f"{each}.".startswith("fastap.metrics.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r"pip install 'fastap\[metrics\]'"):
        importlib.import_module("fastap.metrics")

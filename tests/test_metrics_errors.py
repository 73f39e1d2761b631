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
    ("make", "error", "message"),
    [
        (lambda: AveragePrecision("ranking"), ValueError, "task must be one of 'binary', 'multiclass'"),  # type: ignore[arg-type]
        (lambda: AveragePrecision("multiclass"), TypeError, "num_classes must be an int, got NoneType"),
        (lambda: AveragePrecision("multilabel", num_labels=0), ValueError, "num_labels must be at least 1, got 0"),
        (lambda: AveragePrecision("binary", average="mean"), ValueError, "average must be one of 'macro'"),  # type: ignore[arg-type]
        (lambda: AveragePrecision("binary", ignore_index=0.5), TypeError, "ignore_index must be an int"),  # type: ignore[arg-type]
        (lambda: AveragePrecision("binary", thresholds=5), ValueError, "Unexpected keyword arguments: `thresholds`"),
        (lambda: RetrievalMAP("zero"), ValueError, "empty_target_action must be one of 'neg'"),  # type: ignore[arg-type]
        (lambda: RetrievalMAP(top_k=0), ValueError, "top_k must be at least 1, got 0"),
        (lambda: RetrievalMAP(top_k=1.5), TypeError, "top_k must be an int, got float"),  # type: ignore[arg-type]
        (lambda: RetrievalMAP(aggregation="sum"), ValueError, "aggregation must be one of 'mean'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


BINARY, CLASSES, LABELS = (
    AveragePrecision("binary"),
    AveragePrecision("multiclass", num_classes=3),
    AveragePrecision("multilabel", num_labels=3),
)


@pytest.mark.parametrize(
    ("metric", "arguments", "error", "message"),
    [
        (BINARY, ([0.5], torch.ones(1)), TypeError, "preds must be a torch.Tensor, got list"),
        (
            BINARY,
            (torch.ones(2).long(), torch.ones(2)),
            TypeError,
            "preds must have a floating dtype of 16 to 64 bits, got",
        ),
        (BINARY, (torch.rand(2), torch.ones(3)), ValueError, r"target must have the shape \(2,\), got \(3,\)"),
        (BINARY, (torch.rand(2), torch.tensor([0, 2])), ValueError, "target must be 0 or 1, got 2"),
        (BINARY, (torch.rand(2), torch.tensor([0, 0.5])), ValueError, "target must be 0 or 1, got 0.5"),
        (
            BINARY,
            (torch.rand(2), torch.ones(2), torch.ones(3)),
            ValueError,
            r"sample_weight must have the shape \(2,\)",
        ),
        (
            BINARY,
            (torch.rand(2), torch.ones(2), -torch.ones(2)),
            ValueError,
            "sample_weight must be finite in torch.float64 and not",
        ),
        (CLASSES, (torch.rand(2), torch.ones(2)), ValueError, r"preds must have the shape \(N, 3, ...\), got \(2,\)"),
        (CLASSES, (torch.rand(2, 3), torch.ones(2, 3)), ValueError, r"target must have the shape \(2,\), got \(2, 3\)"),
        (CLASSES, (torch.rand(2, 3), torch.tensor([0, 3])), ValueError, "target must be a class from 0 to 2, got 3"),
        (
            CLASSES,
            (torch.rand(2, 3), torch.tensor([0, 0.5])),
            ValueError,
            "target must be a class from 0 to 2, got 0.5",
        ),
        (LABELS, (torch.rand(2, 4), torch.ones(2, 4)), ValueError, r"preds must have the shape \(N, 3, ...\)"),
        (LABELS, (torch.rand(2, 3), torch.ones(2)), ValueError, r"target must have the shape \(2, 3\), got \(2,\)"),
        (
            LABELS,
            (torch.rand(2, 3), torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            "sample_weight must have the shape",
        ),
        (
            RetrievalMAP(),
            (torch.rand(2), torch.ones(2), torch.ones(2)),
            TypeError,
            "indexes must have an integer dtype",
        ),
        (
            RetrievalMAP(),
            (torch.rand(2), torch.ones(2), torch.ones(3).long()),
            ValueError,
            "indexes must have the shape",
        ),
        (
            RetrievalMAP(),
            (torch.rand(1), -torch.ones(1), torch.ones(1).long()),
            ValueError,
            "target must be 0 or 1, got -1",
        ),
    ],
)
def test_wrong_tensors(metric: Any, arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metric.update(*arguments)


def test_torchmetrics_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [each for each in sys.modules if f"{each}.".startswith("fastap.metrics.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r"pip install 'fastap\[metrics\]'"):
        importlib.import_module("fastap.metrics")

"""The metric of classes and labels: against scikit-learn item by item, and against TorchMetrics where that is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

torchmetrics = pytest.importorskip("torchmetrics")

from fastap.metrics import AveragePrecision  # noqa: E402
from tests.metric_batches import generator, labelled, value_in_parts  # noqa: E402

AVERAGES = ["macro", "micro", "weighted", "none"]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_equals_scikit_learn(task: Any, weighted: bool, levels: int, average: Any) -> None:
    scores, targets, weight = labelled(2, levels=levels)
    extra = (weight,) if weighted else ()
    metric = AveragePrecision(task, num_classes=4, num_labels=4, average=average).set_dtype(torch.float64)
    wanted = targets
    if task == "binary":
        scores, targets, wanted = scores[:, 1], targets[:, 1], targets[:, 1]
    elif task == "multiclass":
        targets = torch.arange(60) % 4
        wanted = torch.nn.functional.one_hot(targets)
    expected = average_precision_score(
        wanted.numpy(),
        scores.numpy(),
        average=None if average == "none" else average,
        sample_weight=weight.double().numpy() if weighted else None,
    )
    np.testing.assert_allclose(value_in_parts(metric, scores, targets, *extra).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_equals_torchmetrics_on_probabilities(task: Any, average: Any) -> None:
    if task == "multiclass" and average == "micro":
        pytest.skip("TorchMetrics has none")
    g = generator(4)
    scores = torch.rand(50, 4, 3, generator=g)
    targets = torch.randint(
        0, 4 if task == "multiclass" else 2, (50, 3) if task == "multiclass" else (50, 4, 3), generator=g
    )
    targets[torch.rand(targets.shape, generator=g) < 0.2] = -1
    if task == "multiclass":
        scores = scores.softmax(1)
    options = {"num_classes": 4, "num_labels": 4, "average": average, "ignore_index": -1}
    theirs = torchmetrics.AveragePrecision(task, **options)
    ours = AveragePrecision(task, **options)
    expected = value_in_parts(theirs, scores, targets)
    torch.testing.assert_close(value_in_parts(ours, scores, targets), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(value_in_parts(ours, scores - 7, targets), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offset", [-100.0, 0.0, 100.0])
def test_only_the_order_of_scores_matters(offset: float) -> None:
    # torchmetrics 1.9.0 puts a sigmoid on scores outside [0, 1]: here all become 0 or 1 but for the middle offset.
    scores, targets, _ = labelled(5, labels=1)
    given = AveragePrecision("binary")(scores[:, 0].double() + offset, targets[:, 0])
    assert float(given) == pytest.approx(average_precision_score(targets[:, 0], scores[:, 0]), abs=1e-7)


def test_classes_without_a_positive_are_left_out() -> None:
    scores, targets, _ = labelled(6)
    targets[:, 2] = 0
    each = AveragePrecision("multilabel", num_labels=4, average="none")(scores, targets)
    assert each.isnan().tolist() == [False, False, True, False]
    macro = AveragePrecision("multilabel", num_labels=4)
    with pytest.warns(UserWarning, match="classes without a positive are left out of the macro average.*1 of 4"):
        assert macro(scores, targets) == each[[0, 1, 3]].mean()
    with pytest.warns(UserWarning, match="weighted average"):
        weighted = AveragePrecision("multilabel", num_labels=4, average="weighted")(scores, targets)
    support = targets.sum(0)[[0, 1, 3]]
    torch.testing.assert_close(weighted, (each[[0, 1, 3]] * support).sum() / support.sum())
    with pytest.warns(UserWarning, match="4 of 4"):
        assert macro(scores, torch.zeros_like(targets)).isnan()
    with pytest.warns(UserWarning, match="AveragePrecision is NaN, for no item is positive"):
        assert AveragePrecision("binary")(scores, torch.zeros_like(targets)).isnan()
    with pytest.warns(UserWarning, match="AveragePrecision is NaN, for no item is positive"):
        assert AveragePrecision("multilabel", num_labels=4, average="micro")(scores, torch.zeros_like(targets)).isnan()


def test_a_nan_score_is_not_left_out() -> None:
    scores, targets, _ = labelled(7)
    scores[3, 1] = torch.nan
    each = AveragePrecision("multilabel", num_labels=4, average="none")(scores, targets)
    assert each.isnan().tolist() == [False, True, False, False]
    for average in ("macro", "micro", "weighted"):
        assert AveragePrecision("multilabel", num_labels=4, average=average)(scores, targets).isnan()


def test_a_class_of_weight_zero_is_one_without_a_positive() -> None:
    scores, targets = torch.tensor([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]]), torch.tensor([0, 1, 1])
    metric = AveragePrecision("multiclass", num_classes=2, average="none")
    assert metric(scores, targets, torch.tensor([0, 1, 1])).isnan().tolist() == [True, False]


def test_an_update_without_weights_counts_ones() -> None:
    scores, targets, weight = labelled(8)
    given, expected = AveragePrecision("binary"), AveragePrecision("binary")
    given.update(scores[:30, 0], targets[:30, 0])
    given.update(scores[30:, 0], targets[30:, 0], weight[30:])
    expected.update(scores[:, 0], targets[:, 0], torch.cat([torch.ones(30), weight[30:]]))
    assert given.compute() == expected.compute()
    assert given.compute() != AveragePrecision("binary")(scores[:, 0], targets[:, 0])


def test_a_class_can_be_ignored() -> None:
    scores, _, _ = labelled(9)
    classes = torch.arange(60) % 4
    given = AveragePrecision("multiclass", num_classes=4, average="none", ignore_index=1)(scores, classes)
    kept = classes != 1
    for each in (0, 2, 3):
        expected = average_precision_score(classes[kept] == each, scores[kept, each])
        assert float(given[each]) == pytest.approx(expected, abs=1e-7)
    assert given[1].isnan()
    with pytest.warns(UserWarning, match="1 of 4"):
        macro = AveragePrecision("multiclass", num_classes=4, ignore_index=1)(scores, classes)
    torch.testing.assert_close(macro, given[[0, 2, 3]].mean())

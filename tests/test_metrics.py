"""The metrics for TorchMetrics: against scikit-learn item by item, and against TorchMetrics where that is right."""

from __future__ import annotations

import copy
import importlib
import itertools
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import average_precision_score
from torch import Tensor

torchmetrics = pytest.importorskip("torchmetrics")

from fastap.metrics import AveragePrecision, RetrievalMAP  # noqa: E402

AVERAGES = ["macro", "micro", "weighted", "none"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(seed: int, items: int = 60, labels: int = 4, levels: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores on both sides of 0, equal ones too if there are levels; targets of many labels; and weights."""
    g = generator(seed)
    scores = torch.randn(items, labels, generator=g)
    if levels:
        scores = torch.randint(-levels, levels, (items, labels), generator=g).float()
    targets = (torch.rand(items, labels, generator=g) < torch.linspace(0.1, 0.6, labels)).long()
    targets[0] = 1
    return scores, targets, torch.rand(items, generator=g) * (torch.rand(items, generator=g) < 0.8)


def queries(seed: int, items: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Positive scores, no two equal; targets, some of them -1; ids in any order, one query all ignored, one empty."""
    g = generator(seed)
    scores = (torch.randperm(items, generator=g) + 1) / items
    ids = torch.randint(0, 40, (items,), generator=g) * 7 - 100
    targets = (torch.rand(items, generator=g) < 0.15).long()
    targets[torch.rand(items, generator=g) < 0.1] = -1
    targets[ids == -100] = -1
    targets[ids == -93] = 0
    return scores, targets, ids


def value_in_parts(metric: Any, *tensors: Tensor, parts: int = 3) -> Tensor:
    metric.reset()
    for part in zip(*(each.tensor_split(parts) for each in tensors), strict=True):
        metric.update(*part)
    value: Tensor = metric.compute()
    return value


# AveragePrecision


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_equals_scikit_learn(weighted: bool, levels: int) -> None:
    scores, targets, weight = labelled(1, levels=levels)
    extra = (weight,) if weighted else ()
    given = value_in_parts(AveragePrecision("binary"), scores[:, 1], targets[:, 1], *extra)
    expected = average_precision_score(targets[:, 1], scores[:, 1], sample_weight=weight if weighted else None)
    assert float(given) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_multilabel_equals_scikit_learn(weighted: bool, levels: int, average: Any) -> None:
    scores, targets, weight = labelled(2, levels=levels)
    extra = (weight,) if weighted else ()
    metric = AveragePrecision("multilabel", num_labels=4, average=average).set_dtype(torch.float64)
    given = value_in_parts(metric, scores, targets, *extra)
    expected = average_precision_score(
        targets.numpy(),
        scores.numpy(),
        average=None if average == "none" else average,
        sample_weight=weight.double().numpy() if weighted else None,
    )
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("weighted", [False, True])
def test_multiclass_equals_scikit_learn(weighted: bool, average: Any) -> None:
    scores, _, weight = labelled(3)
    classes = torch.arange(60) % 4
    extra = (weight,) if weighted else ()
    metric = AveragePrecision("multiclass", num_classes=4, average=average).set_dtype(torch.float64)
    given = value_in_parts(metric, scores, classes, *extra)
    expected = average_precision_score(
        torch.nn.functional.one_hot(classes).numpy(),
        scores.numpy(),
        average=None if average == "none" else average,
        sample_weight=weight.double().numpy() if weighted else None,
    )
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-12)


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
    assert AveragePrecision("binary")(scores, torch.zeros_like(targets)).isnan()


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


# RetrievalMAP


@pytest.mark.parametrize("top_k", [None, 1, 3, 1000])
@pytest.mark.parametrize("aggregation", ["mean", "median", "min", "max", torch.std])
@pytest.mark.parametrize("action", ["neg", "pos", "skip"])
def test_retrieval_equals_torchmetrics_on_distinct_positive_scores(action: Any, aggregation: Any, top_k: Any) -> None:
    scores, targets, ids = queries(1)
    options = {"empty_target_action": action, "ignore_index": -1, "top_k": top_k, "aggregation": aggregation}
    expected = value_in_parts(torchmetrics.retrieval.RetrievalMAP(**options), scores, targets, ids)
    given = value_in_parts(RetrievalMAP(**options), scores, targets, ids)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    assert value_in_parts(RetrievalMAP(**options), scores - 0.5, targets, ids) == given


def reference(scores: Tensor, targets: Tensor, ids: Tensor, k: int) -> float:
    """Query by query."""
    values = []
    for each in ids.unique():
        s, t = scores[ids == each], targets[ids == each]
        kept = s >= s.topk(min(k, len(s))).values[-1]
        values.append(average_precision_score(t[kept], s[kept]) if t[kept].any() else 0.0)
    return float(np.mean(values))


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_retrieval_of_tied_and_negative_scores_equals_scikit_learn(k: int) -> None:
    # torchmetrics 1.9.0 takes relevant items of score 0 or less for others, and breaks ties by the order of the items.
    _, targets, ids = queries(2)
    targets = targets.clamp(min=0)
    scores = torch.randint(-4, 3, targets.shape, generator=generator(2)).double()
    expected = reference(scores, targets, ids, k)
    order = torch.randperm(len(scores), generator=generator(3))
    for top_k in [k] if k < 1000 else [k, None]:
        metric = RetrievalMAP(top_k=top_k).set_dtype(torch.float64)
        given = value_in_parts(metric, scores, targets, ids)
        assert float(given) == pytest.approx(expected, abs=1e-12)
        assert value_in_parts(metric, *(each[order] for each in (scores, targets, ids))) == given


def test_retrieval_below_zero() -> None:
    # 0.0 of torchmetrics 1.9.0.
    assert RetrievalMAP()(torch.tensor([-1.0, -2.0]), torch.tensor([1, 0]), torch.tensor([0, 0])) == 1


def test_retrieval_error_for_an_empty_query() -> None:
    metric = RetrievalMAP(empty_target_action="error", ignore_index=-1)
    scores, targets, ids = queries(3)
    metric.update(scores, targets, ids)
    with pytest.raises(ValueError, match=r"every query must have a relevant item.*: 8 of 39 have none"):
        metric.compute()
    kept = torch.isin(ids, ids[targets == 1])
    assert value_in_parts(metric, scores[kept], targets[kept], ids[kept]) == RetrievalMAP("skip", ignore_index=-1)(
        scores, targets, ids
    )


@pytest.mark.parametrize("top_k", [None, 2])
def test_retrieval_without_queries_is_zero(top_k: int | None) -> None:
    metric = RetrievalMAP("skip", ignore_index=-1, top_k=top_k)
    ids = torch.tensor([4, 4, 5])
    assert metric(torch.rand(3), torch.zeros(3), ids) == 0
    assert metric(torch.rand(3), -torch.ones(3), ids) == 0
    assert metric(torch.rand(0), torch.zeros(0), ids[:0]) == 0


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("place", range(3))
def test_a_nan_score_makes_its_query_nan(place: int, top_k: int | None) -> None:
    scores, targets = torch.tensor([3.0, 2.0, 1.0, 2.0, 1.0]), torch.tensor([0, 1, 0, 1, 0])
    scores[place] = torch.nan
    values: list[Tensor] = []

    def mean(given: Tensor) -> Tensor:
        values.append(given)
        return given.mean()

    assert RetrievalMAP(top_k=top_k, aggregation=mean)(scores, targets, torch.tensor([0, 0, 0, 1, 1])).isnan()
    assert values[0].isnan().tolist() == [True, False]


def test_retrieval_takes_any_shape_and_integers() -> None:
    scores, targets, ids = (each.view(20, 30) for each in queries(4))
    expected = RetrievalMAP(ignore_index=-1)(scores, targets, ids)
    assert RetrievalMAP(ignore_index=-1)(scores, targets.float(), ids.to(torch.int16)) == expected


# Both


METRICS: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Tensor, ...]]]] = {
    "binary": (lambda **options: AveragePrecision("binary", **options), labelled),
    "multiclass": (
        lambda **options: AveragePrecision("multiclass", num_classes=4, **options),
        lambda seed: (labelled(seed)[0], torch.arange(60) % 4),
    ),
    "multilabel": (
        lambda **options: AveragePrecision("multilabel", num_labels=4, average="none", **options),
        lambda seed: labelled(seed, levels=2),
    ),
    "retrieval": (lambda **options: RetrievalMAP(ignore_index=-1, **options), queries),
}


def batch(name: str, seed: int) -> tuple[Tensor, ...]:
    tensors = METRICS[name][1](seed)
    return tuple(each[:, 0] if name == "binary" and each.dim() == 2 else each for each in tensors)


def joined(name: str, *seeds: int) -> tuple[Tensor, ...]:
    return tuple(torch.cat(each) for each in zip(*(batch(name, seed) for seed in seeds), strict=True))


@pytest.mark.parametrize("name", METRICS)
def test_forward_gives_the_value_of_the_batch_and_keeps_it(name: str) -> None:
    make = METRICS[name][0]
    metric = make()
    for seed in (1, 2):
        alone = make()
        alone.update(*batch(name, seed))
        torch.testing.assert_close(metric(*batch(name, seed)), alone.compute(), rtol=0, atol=0)
    expected = make()
    expected.update(*joined(name, 1, 2))
    torch.testing.assert_close(metric.compute(), expected.compute(), rtol=0, atol=0)
    metric.reset()
    torch.testing.assert_close(metric(*batch(name, 2)), alone.compute(), rtol=0, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_copies_go_on(name: str) -> None:
    metric = METRICS[name][0]()
    metric.update(*batch(name, 1))
    for copied in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()):
        copied.update(*batch(name, 2))
        expected = METRICS[name][0]()
        expected.update(*joined(name, 1, 2))
        torch.testing.assert_close(copied.compute(), expected.compute(), rtol=0, atol=0)
        other = METRICS[name][0]()
        other.update(*batch(name, 2))
        merged = metric.clone()
        merged.merge_state(other)
        torch.testing.assert_close(merged.compute(), expected.compute(), rtol=0, atol=0)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("change", [lambda m: m.set_dtype(torch.float16), lambda m: m.to(torch.float16)])
def test_a_change_of_type_keeps_what_is_there(change: Callable[[Any], Any], name: str) -> None:
    metric = METRICS[name][0]()
    metric.update(*batch(name, 1))
    expected = metric.clone().compute()
    change(metric)
    assert metric.compute().dtype == torch.float32
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=0)
    metric.set_dtype(torch.float64)
    metric.update(*batch(name, 2))
    assert metric.compute().dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METRICS)
def test_scores_of_any_type(name: str, dtype: torch.dtype) -> None:
    scores, *others = batch(name, 1)
    given = METRICS[name][0]()(scores.to(dtype), *others)
    expected = METRICS[name][0]()(scores.to(dtype).float(), *others)
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_states_can_rest_on_the_cpu(name: str) -> None:
    metric = METRICS[name][0](compute_on_cpu=True)
    expected = METRICS[name][0]()(*batch(name, 1))
    torch.testing.assert_close(metric(*batch(name, 1)), expected, rtol=0, atol=0)
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=0)


def test_constants() -> None:
    for metric in (AveragePrecision("binary"), RetrievalMAP()):
        assert isinstance(metric, torchmetrics.Metric)
        assert metric.higher_is_better
        assert metric.is_differentiable is False
        assert metric.full_state_update is False
        assert not metric(torch.rand(4, requires_grad=True), *torch.ones(2, 4).long()).requires_grad
        assert not metric.preds[0].requires_grad


@pytest.mark.parametrize(
    ("metrics", "batches", "shared"),
    [
        (
            {
                "a": RetrievalMAP(ignore_index=-1),
                "b": RetrievalMAP(ignore_index=-1, top_k=2),
                "c": torchmetrics.retrieval.RetrievalMRR(ignore_index=-1),
            },
            [(queries(1)[0], queries(1)[1].clamp(min=0), queries(1)[2]), queries(2)],
            [["a", "b"], ["c"]],
        ),
        (
            {
                "a": AveragePrecision("multiclass", num_classes=4, average="none"),
                "b": AveragePrecision("multiclass", num_classes=4, average="none", ignore_index=3),
            },
            [(labelled(1)[0], torch.arange(60) % 3), (labelled(2)[0], torch.arange(60) % 4)],
            [["a", "b"]],
        ),
    ],
)
def test_a_collection_gives_what_each_gives_alone(
    metrics: dict[str, Any], batches: list[tuple[Tensor, ...]], shared: list[list[str]]
) -> None:
    # TorchMetrics lets those share their states for good whose states are equal after the first batch. Nothing is
    # ignored in that batch, much in the next.
    collection = torchmetrics.MetricCollection(copy.deepcopy(metrics))
    for given in batches:
        arguments = dict(zip(("preds", "target", "indexes"), given, strict=False))
        collection.update(**arguments)
        for metric in metrics.values():
            metric.update(**arguments)
    assert list(collection.compute_groups.values()) == shared
    values = collection.compute()
    for name, metric in metrics.items():
        torch.testing.assert_close(values[name], metric.compute(), rtol=0, atol=0, equal_nan=True)


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
    with pytest.raises(ValueError, match=r"sample_weight must be finite and not negative, got -1\.0"):
        metric.compute()
    metric.target[0] = targets
    with pytest.raises(ValueError, match="target must be 0 or 1, got -1"):
        metric.compute()


def test_before_any_item() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert AveragePrecision("binary").compute().isnan()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert AveragePrecision("multilabel", num_labels=3, average="none").compute().isnan().tolist() == [True] * 3
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert RetrievalMAP().compute() == 0


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    metric = AveragePrecision("multilabel", num_labels=4, average="none")
    metric.update(*labelled(1))
    figure, axes = metric.plot()
    assert len(axes.lines) >= 4
    matplotlib.pyplot.close(figure)


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
        (BINARY, (torch.ones(2).long(), torch.ones(2)), TypeError, "preds must have a floating dtype, got torch.int64"),
        (BINARY, (torch.rand(2), torch.ones(3)), ValueError, r"target must have the shape \(2,\), got \(3,\)"),
        (BINARY, (torch.rand(2), torch.tensor([0, 2])), ValueError, "target must be 0 or 1, got 2"),
        (BINARY, (torch.rand(2), torch.tensor([0, 0.5])), ValueError, "target must be 0 or 1, got 0.5"),
        (
            BINARY,
            (torch.rand(2), torch.ones(2), torch.ones(3)),
            ValueError,
            r"sample_weight must have the shape \(2,\)",
        ),
        (BINARY, (torch.rand(2), torch.ones(2), -torch.ones(2)), ValueError, "sample_weight must be finite and not"),
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
    monkeypatch.delitem(sys.modules, "fastap.metrics")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r"pip install 'fastap\[metrics\]'"):
        importlib.import_module("fastap.metrics")


def test_fastap_alone_imports_no_torchmetrics() -> None:
    program = "import sys, fastap; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Processes


def _share(name: str, rank: int) -> list[int]:
    """The seeds of the batches of a process: one has more than the others, and the last has none."""
    return [[1, 2], [3], []][rank]


def _process(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    results = {}
    for name, (make, _) in METRICS.items():
        metric = make()
        shares = [_share(name, rank), _share(name, (rank + 1) % processes)]
        for number, share in enumerate(shares):
            for seed in share:
                scores, *others = batch(name, seed)
                # One process may have scores of another type.
                metric.update(scores.double() if seed == 3 else scores, *others)
            metric._computed = None
            results[name, number] = metric.compute()
            results[name, number, "kept"] = sum(len(each) for each in metric.preds)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_together_give_the_value_of_all_items() -> None:
    processes = 3
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (processes, folder), nprocs=processes)
        results = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]
    for name, (make, _) in METRICS.items():
        for number, seeds in enumerate([(1, 2, 3), (1, 2, 3, 1, 2, 3)]):
            whole = make()
            whole.update(*joined(name, *seeds))
            for rank, result in enumerate(results):
                torch.testing.assert_close(result[name, number], whole.compute(), rtol=0, atol=1e-6)
                mine = [_share(name, rank), _share(name, (rank + 1) % processes)][: number + 1]
                items = sum(len(batch(name, seed)[0]) for seed in itertools.chain(*mine))
                assert result[name, number, "kept"] == items

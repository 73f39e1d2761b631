"""The metrics as TorchMetrics: states, copies, types, collections and processes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

torchmetrics = pytest.importorskip("torchmetrics")

from fastap.metrics import AveragePrecision, RetrievalMAP  # noqa: E402
from tests.metric_batches import METRICS, batch, joined, labelled, queries  # noqa: E402
from tests.processes import results  # noqa: E402


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


@pytest.mark.parametrize("name", METRICS)
def test_states_can_rest_on_the_cpu(name: str) -> None:
    metric = METRICS[name][0](compute_on_cpu=True)
    expected = METRICS[name][0]()(*batch(name, 1))
    torch.testing.assert_close(metric(*batch(name, 1)), expected, rtol=0, atol=0)
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("name", METRICS)
def test_running_gives_the_value_of_its_window(name: str, window: int) -> None:
    """By ``update`` and by ``forward``; the wrapper keeps the states of every batch while the metric is reset."""
    running = torchmetrics.wrappers.Running(METRICS[name][0](), window=window)
    for seed in range(5):
        alone = METRICS[name][0]()
        alone.update(*batch(name, seed))
        if seed % 2:
            running.update(*batch(name, seed))
        else:
            torch.testing.assert_close(running(*batch(name, seed)), alone.compute(), rtol=0, atol=0)
        expected = METRICS[name][0]()
        expected.update(*joined(name, *range(max(0, seed - window + 1), seed + 1)))
        # Twice: to compute changes nothing of what is kept.
        for _ in range(2):
            running._computed = None
            torch.testing.assert_close(running.compute(), expected.compute(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("computes", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_a_list_that_somebody_kept_stays_as_it_is(name: str, computes: bool) -> None:
    metric = METRICS[name][0]()
    for seed in (1, 2):
        metric.update(*batch(name, seed))
    kept = {state: getattr(metric, state) for state in metric._defaults}
    before = {state: [*each] for state, each in kept.items()}
    if computes:
        metric.compute()
    metric.reset()
    for state, each in kept.items():
        assert len(each) == 2
        assert all(map(torch.equal, each, before[state]))
    assert all(getattr(metric, state) == [] for state in kept)


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


# Processes


# The seeds of the batches of each rank, before the value is asked for and asked for again.
SHARES = (([1, 2], []), ([3], [1, 2]))


def values_of(rank: int) -> dict[Any, Any]:
    found = {}
    for name, (make, _) in METRICS.items():
        metric = make()
        for number, share in enumerate(SHARES):
            for seed in share[rank]:
                scores, *others = batch(name, seed)
                # One process may have scores of another type.
                metric.update(scores.double() if seed == 3 else scores, *others)
            metric._computed = None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a metric without an update
                found[name, number] = metric.compute()
            found[name, number, "kept"] = sum(len(each) for each in metric.preds)
    return found


def test_processes_together_give_the_value_of_all_items(tmp_path: Path) -> None:
    ended = results(values_of, 2, tmp_path)
    for name, (make, _) in METRICS.items():
        for number, seeds in enumerate([(1, 2), (1, 2, 3, 1, 2)]):
            whole = make()
            whole.update(*joined(name, *seeds))
            for rank, found in enumerate(ended):
                torch.testing.assert_close(found[name, number], whole.compute(), rtol=0, atol=1e-6)
                mine = [seed for share in SHARES[: number + 1] for seed in share[rank]]
                assert found[name, number, "kept"] == sum(len(batch(name, seed)[0]) for seed in mine)

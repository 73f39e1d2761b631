"""Whatever the metrics are given: a clear error or a right answer. The definition in fractions is the judge."""

from __future__ import annotations

import inspect
import itertools
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("torchmetrics")

from fastap.backends import native
from fastap.metrics import AveragePrecision, RetrievalMAP
from tests.bad_arguments import NO_INTS, NO_TENSORS, NO_WORDS, exotic, refused
from tests.strategies import FLOATS, INTEGERS, STRIDES, examples, holds, strided

IGNORED = (None, None, -1, 2, 255, 2**31, 2**62, -(2**63))


# The definition


def precision(items: Sequence[tuple[float, bool, float]]) -> float:
    """``sum over thresholds of (recall_k - recall_{k-1}) * precision_k`` of scores, targets and weights."""
    if any(math.isnan(score) for score, _, _ in items):
        return float("nan")
    weights = [Fraction(weight) for _, _, weight in items]
    whole = sum((weight for weight, (_, positive, _) in zip(weights, items, strict=True) if positive), Fraction(0))
    if not whole:
        return float("nan")
    result, found, seen = Fraction(0), Fraction(0), Fraction(0)
    order = sorted(zip(items, weights, strict=True), key=lambda each: -each[0][0])
    for _, equal in itertools.groupby(order, key=lambda each: each[0][0]):
        group = list(equal)
        gain = sum((weight for (_, positive, _), weight in group if positive), Fraction(0))
        seen += sum((weight for _, weight in group), Fraction(0))
        found += gain
        if gain:
            result += gain / whole * found / seen
    return float(result)


def number(entry: Any) -> float | int:
    return entry if isinstance(entry, float) else int(entry)


# Batches


@st.composite
def scores(draw: st.DrawFn, shape: Sequence[int]) -> Tensor:
    """Of any type and strides, many of them equal, some infinite, now and then a NaN; of any size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(FLOATS))
    values = rng.normal(size=shape).round(draw(st.sampled_from([0, 1, 8])))
    values = values * 10.0 ** draw(st.sampled_from([0, 0, -30, 30, -300]))
    extremes = draw(st.sampled_from([[], [], [np.inf, -np.inf, 0.0, -0.0], [np.nan]]))
    if extremes:
        mask = rng.random(shape) < 0.1
        values[mask] = rng.choice(extremes, int(mask.sum()))
    limits = torch.finfo(dtype)
    finite = torch.tensor(values).clamp(limits.min, limits.max)
    result = torch.where(torch.tensor(np.isinf(values)), torch.tensor(values), finite).to(dtype)
    return strided(result, draw(st.sampled_from(STRIDES))) if shape else result


@st.composite
def targets(draw: st.DrawFn, shape: Sequence[int], classes: int, ignore_index: int | None) -> Tensor:
    kind = draw(st.sampled_from([torch.bool, *INTEGERS, *FLOATS]))
    pool = [0, 1] if kind == torch.bool else [each for each in range(classes) if holds(kind, each)]
    if ignore_index is not None and kind != torch.bool and holds(kind, ignore_index):
        pool = [*pool, ignore_index]
    size = int(np.prod(shape, dtype=int))
    entries = draw(st.lists(st.sampled_from(pool), min_size=size, max_size=size))
    values = torch.tensor([float(each) for each in entries] if kind in FLOATS else entries, dtype=kind).view(shape)
    return strided(values, draw(st.sampled_from(STRIDES[:4]))) if shape else values


@st.composite
def weights(draw: st.DrawFn, shape: Sequence[int]) -> Tensor:
    kind = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, *INTEGERS]))
    pool = [0.0, 1e-30, 0.5, 1.0, 3.0, 1e30] if kind in FLOATS else [0, 1, 2, 100]
    size = int(np.prod(shape, dtype=int))
    return torch.tensor(draw(st.lists(st.sampled_from(pool), min_size=size, max_size=size)), dtype=kind).view(shape)


def spoilt(*given: Tensor | None) -> None:
    """What was given to an update is written over, as buffers are."""
    for each in given:
        if each is not None:
            each.zero_()


def computed(metric: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without a positive, and of no update at all
        value: Tensor = metric.compute()
    return value


@examples(120)
@given(
    task=st.sampled_from(["binary", "multiclass", "multilabel"]),
    columns=st.integers(1, 4),
    average=st.sampled_from(["macro", "micro", "weighted", "none", None]),
    ignore_index=st.sampled_from(IGNORED),
    data=st.data(),
)
def test_classes_by_definition(task: Any, columns: int, average: Any, ignore_index: int | None, data: Any) -> None:
    """In updates of any shape, type and strides, some of them of no item or with weights."""
    options = {"num_classes": columns, "num_labels": columns} if task != "binary" else {}
    metric = AveragePrecision(task, average=average, ignore_index=ignore_index, **options).set_dtype(torch.float64)
    columns = 1 if task == "binary" else columns
    rows: list[list[tuple[float, float | int, float]]] = [[] for _ in range(columns)]
    for _ in range(data.draw(st.integers(0, 3))):
        count, *rest = data.draw(st.sampled_from([(0,), (1,), (2,), (5,), (9,), (3, 2), (2, 1, 3), (2, 0)]))
        items = (count, *rest)
        wide = items if task == "binary" else (count, columns, *rest)
        preds = data.draw(scores(wide))
        target = data.draw(
            targets(items if task == "multiclass" else wide, columns if task == "multiclass" else 2, ignore_index)
        )
        if target.dtype == torch.bool and task == "multiclass" and columns == 1:
            target = torch.zeros_like(target)
        weight = data.draw(st.one_of(st.none(), weights(items)))
        each_weight = [1.0] * int(np.prod(items)) if weight is None else weight.double().reshape(-1).tolist()
        lines = preds.double().reshape(1, -1) if task == "binary" else preds.double().movedim(1, 0).reshape(columns, -1)
        for column, line in enumerate(lines):
            whole = target if task != "multilabel" else target.select(1, column)
            for score, entry, w in zip(line.tolist(), whole.reshape(-1).tolist(), each_weight, strict=True):
                if number(entry) != ignore_index:
                    rows[column].append((score, number(entry) == (column if task == "multiclass" else 1), w))
        metric.update(preds, target, weight)
        spoilt(preds, target, weight)
    value = computed(metric)
    if average == "micro" and task != "binary":
        rows = [[each for row in rows for each in row]]
    each = np.array([precision(row) for row in rows])
    if average in ("none", None) and task != "binary":
        expected: Any = each
    elif task == "binary" or average == "micro":
        expected = each[0]
    else:
        support = np.array([float(sum(w for _, positive, w in row if positive)) for row in rows])
        share = support if average == "weighted" else (support > 0) * 1.0
        kept = support > 0
        with np.errstate(all="ignore"):
            expected = (each[kept] * share[kept]).sum() / share[kept].sum()
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=0)


@examples(120)
@given(
    action=st.sampled_from(["neg", "pos", "skip", "error"]),
    ignore_index=st.sampled_from(IGNORED),
    top_k=st.sampled_from([None, 1, 2, 3, 2**70]),
    aggregation=st.sampled_from(["mean", "median", "min", "max", torch.sum]),
    data=st.data(),
)
def test_queries_by_definition(
    action: Any, ignore_index: int | None, top_k: int | None, aggregation: Any, data: Any
) -> None:
    """In updates of any shape and type; ids of any integer type, that of uint64 in all updates or in none."""
    metric = RetrievalMAP(action, ignore_index, top_k, aggregation).set_dtype(torch.float64)
    kinds = data.draw(st.sampled_from([[torch.uint64], [kind for kind in INTEGERS if kind != torch.uint64]]))
    of_query: dict[int, list[tuple[float, bool, float]]] = {}
    for _ in range(data.draw(st.integers(0, 3))):
        shape = data.draw(st.sampled_from([(0,), (1,), (2,), (7,), (12,), (3, 2), (2, 0)]))
        size, kind = int(np.prod(shape)), data.draw(st.sampled_from(kinds))
        limits = torch.iinfo(kind)
        pool = [0, 1, 2, limits.max, limits.max - 1, limits.min]
        ids = data.draw(st.lists(st.sampled_from(pool), min_size=size, max_size=size))
        indexes = torch.tensor(ids, dtype=kind).view(shape)
        preds, target = data.draw(scores(shape)), data.draw(targets(shape, 2, ignore_index))
        for score, entry, query in zip(
            preds.double().reshape(-1).tolist(), target.reshape(-1).tolist(), ids, strict=True
        ):
            if number(entry) != ignore_index:
                of_query.setdefault(query, []).append((score, number(entry) == 1, 1.0))
        metric.update(preds, target, indexes)
        spoilt(preds, target, indexes)
    empty = [not any(relevant for _, relevant, _ in items) for items in of_query.values()]
    if action == "error" and any(empty):
        with pytest.raises(ValueError, match="every query must have a relevant item"):
            computed(metric)
        return
    values = []
    for items, none in zip(of_query.values(), empty, strict=True):
        if none:
            values += {"neg": [0.0], "pos": [1.0]}.get(action, [])
        else:
            values.append(of_the_best(items, top_k))
    value = computed(metric).item()
    with mock.patch.object(native, "IS_BUILT", False):  # as on other devices
        metric._computed = None
        np.testing.assert_allclose(computed(metric).item(), value, rtol=1e-12, atol=0)
    if not values:
        assert value == 0
    elif any(map(math.isnan, values)):
        assert math.isnan(value)
    else:
        aggregate: Any = {
            "mean": statistics.fmean,
            "median": statistics.median_low,
            "min": min,
            "max": max,
            torch.sum: sum,
        }[aggregation]
        assert value == pytest.approx(aggregate(values), rel=1e-12)


def of_the_best(items: list[tuple[float, bool, float]], top_k: int | None) -> float:
    """Of as many items as that, and all that tie with the last."""
    if any(math.isnan(score) for score, _, _ in items):
        return float("nan")
    if top_k is not None:
        last = sorted((score for score, _, _ in items), reverse=True)[: min(top_k, len(items))][-1]
        items = [item for item in items if item[0] >= last]
    return precision(items) if any(relevant for _, relevant, _ in items) else 0.0


@pytest.mark.parametrize("items", [1, 2])
def test_buffers_may_be_written_over(items: int) -> None:
    """Also those of a single number, and those that repeat one."""
    preds, target, weight = torch.full((items,), 0.5), torch.ones(items), torch.ones(items)
    for tensors in ((preds, target, weight), tuple(torch.ones(1).expand(items) for _ in range(3))):
        metric = AveragePrecision("binary").set_dtype(torch.float64)
        metric.update(*tensors)
        for each in tensors:
            each[:1].fill_(9.0)
        metric.update(torch.tensor([1.0]), torch.tensor([0]), torch.tensor([1.0]))
        assert metric.compute() == items / (items + 1) if tensors[0] is preds else 0.5


def test_ids_of_uint64_are_not_mixed_with_others() -> None:
    """The largest of them is -1 in int64."""
    metric = RetrievalMAP()
    for kind in (torch.uint64, torch.int64):
        metric.update(torch.tensor([1.0]), torch.tensor([1]), torch.tensor([3], dtype=kind))
    with pytest.raises(ValueError, match=r"indexes must be torch\.uint64 in all updates or in none"):
        metric.compute()


# Bad arguments

PREDS, TARGET, IDS = torch.tensor([0.5, 0.1, 0.9, 0.3]), torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 7, 7])
MATRIX, CLASSES = torch.eye(4)[:, :3] + 0.5, torch.tensor([0, 1, 2, 1])
MAKE: dict[str, tuple[Callable[..., Any], dict[str, Tensor]]] = {
    "binary": (lambda **given: AveragePrecision(**{"task": "binary", **given}), {"preds": PREDS, "target": TARGET}),
    "multiclass": (
        lambda **given: AveragePrecision(**{"task": "multiclass", "num_classes": 3, **given}),
        {"preds": MATRIX, "target": CLASSES},
    ),
    "multilabel": (
        lambda **given: AveragePrecision(**{"task": "multilabel", "num_labels": 3, **given}),
        {"preds": MATRIX, "target": (MATRIX > 1).long()},
    ),
    "retrieval": (RetrievalMAP, {"preds": PREDS, "target": TARGET, "indexes": IDS}),
}
NO_COUNTS = [*NO_INTS, 0, -1, -(2**70)]
NO_CLASS = [*NO_INTS, 2**63, -(2**63) - 1]
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "binary": {"task": [*NO_WORDS, None], "average": NO_WORDS, "ignore_index": NO_CLASS},
    "multiclass": {"num_classes": [None, *NO_COUNTS], "average": NO_WORDS, "ignore_index": NO_CLASS},
    "multilabel": {"num_labels": [None, *NO_COUNTS], "average": NO_WORDS, "ignore_index": NO_CLASS},
    "retrieval": {
        "empty_target_action": [*NO_WORDS, None],
        "ignore_index": NO_CLASS,
        "top_k": NO_COUNTS,
        "aggregation": [*NO_WORDS, None],
    },
}


def test_all_options_are_tried() -> None:
    for metric, names in (
        (AveragePrecision, {*OPTIONS["binary"], *OPTIONS["multiclass"], *OPTIONS["multilabel"]}),
        (RetrievalMAP, {*OPTIONS["retrieval"]}),
    ):
        assert names == {*inspect.signature(metric).parameters} - {"kwargs"}


@pytest.mark.parametrize("metric", OPTIONS)
def test_every_bad_option_is_named(metric: str) -> None:
    for name, values in OPTIONS[metric].items():
        for value in values:
            refused(lambda: MAKE[metric][0](**{name: value}), name, value)  # noqa: B023


def wrong_tensors(metric: str, name: str, right: Tensor) -> list[Any]:
    shapes = [right[0], right[:2], right[None], right[:0], right[..., None]]
    if name == "preds":
        return [*NO_TENSORS, *exotic(right), right.long(), right > 0, right.to(torch.uint16)] + (
            [] if metric == "binary" else [MATRIX[:, :2], MATRIX[0, 0]] if right.dim() == 2 else []
        )
    values: list[Any] = [right - 1, right + 3, right * torch.nan, right.float() - 0.5]
    if name == "indexes":
        values = [right.float(), right > 0, right.double()]
    if name == "sample_weight":
        values = [
            right > 0,
            right - 2,
            right * torch.nan,
            right * torch.inf,
            right.clone().requires_grad_(),
            right - 1.1,
        ]
    return [*NO_TENSORS, *exotic(right), *shapes, *values][name == "sample_weight" :]  # None is no weights


@pytest.mark.parametrize(
    ("metric", "name"),
    [(metric, name) for metric, (_, tensors) in MAKE.items() for name in tensors]
    + [(metric, "sample_weight") for metric in ("binary", "multiclass", "multilabel")],
)
def test_every_bad_tensor_is_named_and_leaves_nothing_behind(metric: str, name: str) -> None:
    make, tensors = MAKE[metric]
    for value in wrong_tensors(metric, name, tensors.get(name, torch.ones(4))):
        this = make()
        if name == "preds" and isinstance(value, Tensor) and value.device.type == "meta":
            continue  # then it is the target whose device is another
        refused(lambda: this.update(**{**tensors, name: value}), name, value)  # noqa: B023
        this.update(**tensors)
        alone = make()
        alone.update(**tensors)
        assert this.compute() == alone.compute()


@pytest.mark.parametrize("returned", [None, 1.0, "x", torch.ones(()).to(torch.complex64), torch.ones(2).to_sparse()])
def test_what_an_aggregation_returns_is_checked(returned: Any) -> None:
    metric = RetrievalMAP(aggregation=lambda values: returned)
    metric.update(PREDS, TARGET, IDS)
    refused(metric.compute, "aggregation", returned)

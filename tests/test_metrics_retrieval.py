"""The metric of queries: against TorchMetrics where that is right, and against scikit-learn query by query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

torchmetrics = pytest.importorskip("torchmetrics")

from fastap.metrics import RetrievalMAP  # noqa: E402
from tests.metric_batches import generator, queries, value_in_parts  # noqa: E402


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

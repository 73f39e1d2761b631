"""Averages of average precision over classes or queries, beside scikit-learn."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import fastap
from fastap import metrics

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_averages_are_those_of_scikit_learn(weighted: bool) -> None:
    given, targets = scores(12, 60, 5), torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    weights = torch.rand(60, generator=torch.Generator().manual_seed(1)) if weighted else None
    options = {} if weights is None else {"sample_weight": weights[:, None].expand(60, 5)}
    for average in ("macro", "micro", "weighted"):
        theirs = average_precision_score(targets, given, average=average, sample_weight=weights)
        ours = fastap.average_precision(given, targets, dim=0, average=average, **options)
        assert ours.shape == ()
        assert ours.item() == pytest.approx(theirs, abs=1e-6 if weighted else 1e-12)
    if weights is None:
        some = targets.any(1)
        theirs = average_precision_score(targets[some], given[some], average="samples")
        assert fastap.average_precision(given, targets, dim=0, average="samples").item() == pytest.approx(theirs)
    each = fastap.average_precision(given, targets, dim=0, **options)
    assert torch.equal(fastap.average_precision(given, targets, dim=0, average=None, **options), each)


def test_a_class_without_a_positive_is_left_out_of_averages() -> None:
    given, targets = scores(13, 60, 4), torch.rand(60, 4, generator=torch.Generator().manual_seed(2)) < 0.3
    targets[:, 2] = False
    each = fastap.average_precision(given, targets, dim=0)
    assert each.isnan().tolist() == [False, False, True, False]
    assert each.mean().isnan()
    torch.testing.assert_close(fastap.average_precision(given, targets, dim=0, average="macro"), each.nanmean())
    support = targets.sum(0)
    right = (each.nan_to_num() * support).sum() / support.sum()
    torch.testing.assert_close(fastap.average_precision(given, targets, dim=0, average="weighted"), right)
    # But a NaN score is no reason to leave a class out.
    given[3, 0] = torch.nan
    assert fastap.average_precision(given, targets, dim=0, average="macro").isnan()
    assert fastap.average_precision(given, targets & False, dim=0, average="macro").isnan()


def test_averages_of_ragged_rankings() -> None:
    given, targets, groups = scores(14, 90), torch.arange(90) % 7 == 0, torch.arange(90) % 11
    targets[groups == 4] = False
    each = fastap.average_precision(given, targets, groups=groups)
    order = groups.argsort(stable=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), groups.bincount().cumsum(0)])
    for layout in ({"groups": groups}, {"offsets": offsets}):
        items = (given, targets) if "groups" in layout else (given[order], targets[order])
        torch.testing.assert_close(fastap.average_precision(*items, average="macro", **layout), each.nanmean())
        whole = fastap.average_precision(*items, average="micro", **layout)
        torch.testing.assert_close(whole, fastap.average_precision(given, targets))
    with pytest.raises(ValueError, match="two dimensions for average='samples'"):
        fastap.average_precision(given, targets, groups=groups, average="samples")


@pytest.mark.parametrize("ignored", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.uint64, torch.float32])
def test_one_rule_for_ignore_index_in_function_and_class(ignored: int, dtype: torch.dtype) -> None:
    targets = TARGETS.to(dtype)
    function = fastap.average_precision(scores(), targets, ignore_index=ignored)
    metric = metrics.AveragePrecision("binary", ignore_index=ignored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = metric(scores(), targets)
    if ignored == 0:
        assert function == value == 1.0
    else:
        assert function.isnan()
        assert value.isnan()
    if dtype == torch.int64:
        with pytest.raises(ValueError, match=f"targets must be 0, 1 or ignore_index = {ignored}, got 3"):
            fastap.average_precision(scores(), targets * 3, ignore_index=ignored)

"""Whatever is given: a clear error or a right answer, never a wrong one. Exact fractions are the judge."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

import fastap
from fastap import types
from tests.bad_arguments import SCORES, TARGETS
from tests.losses import LOSSES, value_and_gradient
from tests.paths import PATHS, solving
from tests.strategies import (
    FLOATS,
    INTEGERS,
    STRIDES,
    Ranking,
    examples,
    float_of,
    holds,
    may_be_lost,
    nearly,
    ranking_value,
    rankings,
    scales,
    score_lists,
    strided,
    truth,
)

UPDATES = {"positive": 1, "negative": -1}


# Values, gradients and rankings


@examples(150)
@given(ranking=rankings(), scale=scales(), method=st.sampled_from(["auto", "auto", "dp"]))
@example(Ranking([0.0] * 9 + [sys.float_info.max], [1] + [0] * 9, torch.float64), 1e-6, "dp")
@example(Ranking([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0], torch.float16), 1.7e308, "dp")
@example(Ranking([0.0, 1.0], [1, 0], torch.float16), 2.3e-308, "auto")
@example(Ranking([-3.0] * 7 + [1e9, 1e9, -3.0, 1e9], [0] * 6 + [1, 1, 1, 0, 1], torch.float32), 1e-6, "auto")
@example(Ranking([1e9, 1e9, 0.5, 0.75], [1, 1, 1, 0], torch.float64), 1e-6, "auto")
def test_losses_are_exact(ranking: Ranking, scale: float, method: str) -> None:
    scores, targets = ranking.tensors()
    unit = 1e-9 if ranking.dtype == torch.float64 else 3e-7
    slope = {torch.float16: 2**-10, torch.bfloat16: 2**-7}.get(ranking.dtype, unit)
    for name, loss in LOSSES.items():
        exact = truth(ranking.scores, ranking.targets, name, scale)
        for path in PATHS:
            options = {} if name == "perceptron" else {"method": method}
            with solving(path):
                value, gradient = value_and_gradient(loss, scores, targets, weight=scale, **options)
            if value.isnan():
                assert may_be_lost(ranking.scores, None if name == "perceptron" else scale)
                assert gradient.isnan().all()
                continue
            direct = name in types.UPDATES
            nearly(value, float_of(exact.loss), unit, 1e-9 * (1.0 if direct else scale if name == "hinge" else 0.0))
            if direct:
                assert 0 <= value <= 1
            if exact.gradient is not None:
                nearly(gradient, exact.gradient, slope, slope * float(np.abs(exact.gradient).max()))


@examples(100)
@given(ranking=rankings(), scale=scales(), update=st.sampled_from([*UPDATES]), method=st.sampled_from(["auto", "dp"]))
def test_rankings_attain_their_value(ranking: Ranking, scale: float, update: str, method: str) -> None:
    scores, targets = ranking.tensors()
    exact = truth(ranking.scores, ranking.targets, update, scale)
    ranks, value = fastap.loss_augmented_ranking(scores, targets, epsilon=scale, update=update, method=method)
    assert sorted(ranks.tolist()) == list(range(len(ranking.targets)))
    if value.isnan() or may_be_lost(ranking.scores, scale):
        assert may_be_lost(ranking.scores, scale)
        return
    attained = ranking_value(ranking.scores, ranking.targets, ranks.tolist(), UPDATES[update] * scale)
    assert exact.best - attained <= Fraction(scale) / 10**8
    span = max(map(abs, ranking.scores))
    assert abs(Fraction(value.item()) - exact.best) <= (Fraction(span) + Fraction(scale)) / 10**11


@examples(150)
@given(
    ranking=rankings(24),
    weights=st.one_of(
        st.none(), st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 3.0, 1e30]), min_size=24, max_size=24)
    ),
    infinite=st.lists(st.sampled_from([0, 0, 0, 1, -1]), min_size=24, max_size=24),
    ignored=st.lists(st.booleans(), min_size=24, max_size=24),
)
def test_average_precision_is_that_of_scikit_learn(
    ranking: Ranking, weights: list[float] | None, infinite: list[int], ignored: list[bool]
) -> None:
    scores, targets = ranking.tensors()
    items = len(targets)
    signs = torch.tensor(infinite[:items])
    scores = torch.where(signs == 0, scores, signs * torch.tensor(torch.inf, dtype=scores.dtype))
    kept = ~torch.tensor(ignored[:items]) | True if weights is None else ~torch.tensor(ignored[:items])
    targets = targets.masked_fill(~kept, 7)
    weight = None if weights is None else torch.tensor(weights[:items], dtype=torch.float64)
    # Ranks stand for scores, which scikit-learn wants finite; it takes AP of no positive for 0, with a warning.
    places = np.unique(scores[kept].double().numpy(), return_inverse=True)[1]
    positive = (targets[kept] == 1).numpy()
    counts = None if weight is None else weight[kept].numpy()
    given = fastap.average_precision(scores, targets, sample_weight=weight, ignore_index=7)
    if not (positive.any() if counts is None else counts[positive].sum() > 0):
        assert given.isnan()
        return
    expected = average_precision_score(positive, places, sample_weight=counts)
    assert given.item() == pytest.approx(expected, rel=1e-12)
    if weight is None:
        for path in PATHS:
            with solving(path):
                assert fastap.average_precision(scores, targets).item() == pytest.approx(expected, rel=1e-12)


# Layouts


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Scores and targets of any shape, type and strides, with what is to be ignored and some scores not finite."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 3, 4, 5]), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    scores = torch.tensor(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3)).to(dtype)
    if draw(st.booleans()):
        scores = scores.round()
    if draw(st.booleans()):
        bad = torch.tensor(rng.random(shape) < 0.05)
        scores[bad] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    kind = draw(st.sampled_from([torch.bool, *INTEGERS, *FLOATS]))
    targets, ignore_index = torch.tensor(rng.random(shape) < 0.4).to(kind), None
    if kind != torch.bool and draw(st.booleans()):
        # What the type cannot hold marks nothing.
        ignore_index = draw(st.sampled_from([2, 7, -1, -100, 255, 300, 2**31, -(2**63), 2**63 - 1]))
        if holds(kind, ignore_index):
            # From a list, for PyTorch 2.11 writes into no unsigned integers.
            pairs = zip(targets.flatten().tolist(), (rng.random(shape) < 0.3).flat, strict=True)
            flat = [ignore_index if is_ignored else target for target, is_ignored in pairs]
            targets = torch.tensor(flat, dtype=kind).reshape(shape)
    strides = draw(st.tuples(st.sampled_from(STRIDES), st.sampled_from(STRIDES)))
    # Several rankings of a single item each are a mistake, which is told.
    dims = [dim for dim in range(-len(shape), len(shape)) if shape[dim] != 1 or scores.numel() <= 1]
    return {
        "scores": scores,
        "targets": targets,
        "dim": draw(st.sampled_from(dims)),
        "ignore_index": ignore_index,
        "strides": strides,
    }


def lines(values: Tensor, dim: int) -> Tensor:
    """One ranking a row; of no items if that axis is empty."""
    moved = values.movedim(dim, -1)
    return moved.reshape(moved.shape[:-1].numel(), moved.shape[-1]).contiguous()


def marked(targets: Tensor, ignore_index: int | None) -> Tensor:
    """Which targets are that number, in integers of any size."""
    equal = [ignore_index is not None and int(target) == ignore_index for target in targets.tolist()]
    return torch.tensor(equal, dtype=torch.bool)


def plain(line: Tensor, targets: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """The items that take part, as whoever needs no option would give them."""
    kept = ~marked(targets, ignore_index)
    return line[kept], torch.tensor([int(target) for target in targets.tolist()])[kept]


@examples(100)
@given(batch=batches(), name=st.sampled_from([*LOSSES]), backend=st.sampled_from(["auto", "native"]))
def test_a_batch_is_its_rankings(batch: dict[str, Any], name: str, backend: str) -> None:
    loss, dim, ignore_index = LOSSES[name], batch["dim"], batch["ignore_index"]
    scores, targets = (
        strided(batch[each], how) for each, how in zip(("scores", "targets"), batch["strides"], strict=True)
    )
    assert scores.tolist() == batch["scores"].tolist() or batch["scores"].isnan().any()
    options = {"dim": dim, "ignore_index": ignore_index, "backend": backend}
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, targets, reduction="none", **options)
    assert torch.equal(loss(scores, targets, reduction="none", **options).nan_to_num(9.0), value.nan_to_num(9.0))
    shape = list(scores.shape)
    del shape[dim]
    assert list(value.shape) == shape
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert gradient.dtype == scores.dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-7}.get(scores.dtype, 2**-10)
    precision = fastap.average_precision(scores, targets, dim=dim, ignore_index=ignore_index).reshape(-1)
    kept_rows, takes_part = [], []
    for row, (line, target) in enumerate(zip(lines(batch["scores"], dim), lines(batch["targets"], dim), strict=True)):
        kept, wanted = plain(line, target, ignore_index)
        expected, slope = value_and_gradient(loss, kept, wanted)
        given = value.reshape(-1)[row]
        torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        given = lines(gradient, dim)[row]
        some = ~marked(target, ignore_index)
        assert (given[~some] == 0).all()
        torch.testing.assert_close(given[some], slope, rtol=tolerance, atol=tolerance, equal_nan=True)
        exact = fastap.average_precision(kept.double(), wanted)
        torch.testing.assert_close(precision[row], exact, rtol=1e-12, atol=0, equal_nan=True)
        kept_rows.append(expected)
        takes_part.append(bool((wanted == 1).any() and (wanted == 0).any()))
    total = torch.stack(kept_rows).double().sum() if kept_rows else torch.zeros((), dtype=torch.float64)
    for reduction, divisor in (("sum", 1), ("mean", max(sum(takes_part), 1))):
        given = loss(scores, targets, reduction=reduction, **options).double()
        torch.testing.assert_close(given, total / divisor, rtol=1e-5, atol=1e-5, equal_nan=True)


@examples(100)
@given(
    seed=st.integers(0, 2**31),
    ids=st.sampled_from(["small", "ends of the type"]),
    kind=st.sampled_from(INTEGERS),
    name=st.sampled_from([*LOSSES]),
    dtype=st.sampled_from(FLOATS),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    weighted=st.sampled_from([None, *INTEGERS, *FLOATS]),
)
def test_groups_and_offsets_are_their_rankings(
    seed: int,
    ids: str,
    kind: torch.dtype,
    name: str,
    dtype: torch.dtype,
    reduction: str,
    weighted: torch.dtype | None,
) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([0, 1, 2, 3, 9], int(rng.integers(0, 7)))
    ends = [0, *np.cumsum(lengths).tolist()]
    scores = torch.tensor(rng.normal(size=ends[-1]).round(1)).to(dtype)
    targets = torch.tensor(rng.integers(0, 2, ends[-1]))
    # Ids in ascending order, and every integer a little below the largest.
    limits = torch.iinfo(kind)
    first = limits.min if ids == "ends of the type" else 0
    numbers = [first + r if 2 * r < len(lengths) else limits.max - len(lengths) + r for r in range(len(lengths))]
    each = [number for number, length in zip(numbers, lengths, strict=True) for _ in range(length)]
    groups = torch.tensor(each, dtype=kind)
    order = torch.tensor(rng.permutation(ends[-1]), dtype=torch.int64)
    weight = None if weighted is None else torch.tensor(rng.integers(0, 5, len(lengths))).to(weighted)
    losses, slopes = [], []
    for begin, end in itertools.pairwise(ends):
        value, slope = value_and_gradient(LOSSES[name], scores[begin:end].double(), targets[begin:end], weight=0.7)
        losses.append(value)
        slopes.append(slope)
    share = torch.ones(len(lengths)) if weight is None else weight
    takes_part = [bool(part.any() and not part.all()) for part in (targets[b:e] for b, e in itertools.pairwise(ends))]
    share = share.double() * torch.tensor(takes_part, dtype=torch.float64)
    if reduction == "mean":
        share = share / (share.sum() if share.sum() > 0 else 1.0)
    expected = torch.stack([torch.zeros((), dtype=torch.float64), *losses])[1:] * share
    slope = torch.cat([torch.zeros(0, dtype=torch.float64), *(s * w for s, w in zip(slopes, share, strict=True))])
    options = {"reduction": reduction}
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-7}.get(dtype, 2**-10)
    function = AP_LOSSES[name]
    present = torch.tensor(lengths > 0, dtype=torch.bool)
    for layout, there in (
        ({"groups": groups[order], "weight": None if weight is None else weight_of(weight, present)}, present),
        ({"offsets": torch.tensor(ends).to(kind), "weight": weight}, torch.ones_like(present)),
    ):
        by_id = "groups" in layout
        if not by_id and ends[-1] > limits.max:
            continue
        leaf = (scores[order] if by_id else scores).clone().requires_grad_()
        value = function(leaf, targets[order] if by_id else targets, **options, **layout)
        wanted = expected[there] if reduction == "none" else expected.sum()
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        torch.testing.assert_close(gradient.double(), slope[order] if by_id else slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e300, sys.float_info.max])
def test_weights_of_any_size_share_out_the_mean(size: float) -> None:
    scores, targets = SCORES.repeat(3, 1), TARGETS.repeat(3, 1)
    expected = value_and_gradient(LOSSES["positive"], scores, targets, reduction="mean")
    leaf = scores.clone().requires_grad_()
    weight = torch.full((6,), size, dtype=torch.float64)
    value = fastap.direct_ap_loss(leaf, targets, weight=weight, dim=-1)
    nearly(value, expected[0], 1e-6)
    nearly(torch.autograd.grad(value, leaf)[0], expected[1], 1e-6, 1e-7)


def weight_of(weight: Tensor, present: Tensor) -> Tensor:
    """PyTorch does not index unsigned tensors with masks."""
    return (
        weight.index_select(0, present.nonzero().view(-1))
        if weight.dtype in FLOATS
        else weight[present.nonzero().view(-1)]
    )


AP_LOSSES = {
    "positive": lambda *given, **options: fastap.direct_ap_loss(*given, epsilon=0.7, **options),
    "negative": lambda *given, **options: fastap.direct_ap_loss(*given, epsilon=0.7, update="negative", **options),
    "symmetric": lambda *given, **options: fastap.direct_ap_loss(*given, epsilon=0.7, update="symmetric", **options),
    "hinge": lambda *given, **options: fastap.ap_hinge_loss(*given, margin=0.7, **options),
    "perceptron": fastap.ap_perceptron_loss,
}


@examples(60)
@given(
    seed=st.integers(0, 2**31),
    bad=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    name=st.sampled_from([*LOSSES]),
    backend=st.sampled_from(["auto", "reference"]),
    ragged=st.booleans(),
)
def test_a_bad_score_spoils_its_ranking_alone(seed: int, bad: float, name: str, backend: str, ragged: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, items = (int(each) for each in rng.integers(2, 7, 2))
    scores = torch.tensor(rng.normal(size=(rows, items)))
    targets = torch.tensor(rng.integers(0, 2, (rows, items)))
    targets[:, 0], targets[:, 1] = 1, 0
    spoilt = torch.tensor(rng.random((rows, items)) < 0.1)
    options: dict[str, Any] = {"backend": backend}
    if ragged:
        options["offsets"] = torch.arange(rows + 1) * items
        scores, targets = scores.view(-1), targets.view(-1)
    expected = value_and_gradient(LOSSES[name], scores, targets, **options)
    value, gradient = value_and_gradient(
        LOSSES[name], scores.masked_fill(spoilt.view(scores.shape), bad), targets, **options
    )
    lost = spoilt.any(1)
    assert value.isnan().tolist() == lost.tolist()
    assert gradient.view(rows, items).isnan().tolist() == lost[:, None].expand(rows, items).tolist()
    assert torch.equal(value[~lost], expected[0][~lost])
    assert torch.equal(gradient.view(rows, items)[~lost], expected[1].view(rows, items)[~lost])


# Classes under a cost


@examples(60)
@given(
    classes=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    name=st.sampled_from(["positive", "negative", "hinge", "perceptron"]),
    scale=scales(),
    priced=st.booleans(),
    data=st.data(),
)
def test_cost_losses_are_exact(
    classes: int, dtype: torch.dtype, name: str, scale: float, priced: bool, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, 3))
    logits = torch.tensor([data.draw(score_lists(classes, dtype)) for _ in range(rows)], dtype=dtype)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    cost = 1.0 - torch.eye(classes)
    if priced and name != "perceptron":
        prices = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, 3.0]), min_size=classes, max_size=classes)
        cost = torch.tensor([data.draw(prices) for _ in range(classes)])
    limits = torch.finfo(dtype)
    scale = min(max(scale, limits.tiny), limits.max)
    options: dict[str, Any] = {} if name == "perceptron" else {"cost": cost if priced else None}
    if name == "hinge":
        value = fastap.cost_hinge_loss(logits, targets, margin=scale, reduction="none", **options)
    elif name == "perceptron":
        value = fastap.cost_perceptron_loss(logits, targets, reduction="none")
    else:
        value = fastap.direct_cost_loss(logits, targets, epsilon=scale, update=name, reduction="none", **options)
    for row in range(rows):
        logit = [Fraction(each) for each in logits[row].double().tolist()]
        price = [Fraction(each) for each in cost[targets[row]].tolist()]
        top, own, weight = max(logit), logit[targets[row]], Fraction(scale)
        gaps = [top - each for each in logit]
        exact = {
            "positive": max(c - gap / weight for c, gap in zip(price, gaps, strict=True)),
            "negative": min(c + gap / weight for c, gap in zip(price, gaps, strict=True)),
            "hinge": max(each + weight * c for c, each in zip(price, logit, strict=True)) - own,
            "perceptron": top - own,
        }[name]
        unit = 4 * limits.eps
        # A gap between scores is rounded; in units of the scale it may be beyond the type.
        largest = max(float_of(abs(exact)), 3.0 * (scale if name == "hinge" else 1.0))
        if largest * 8 < limits.max and float_of(max(gaps)) * 8 < limits.max:
            nearly(value[row], float_of(exact), unit, unit * largest)
        else:
            assert not value[row].isfinite() or np.isclose(value[row].item(), float_of(exact), rtol=1e-5)

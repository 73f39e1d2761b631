"""Whatever direct losses are given: solutions in fractions, and batches of classes of any shape, type and strides."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastap
from tests.cost_losses import LOSSES, value_and_gradient
from tests.strategies import (
    FLOATS,
    INTEGERS,
    STRIDES,
    examples,
    float_of,
    holds,
    nearly,
    scales,
    score_lists,
    strided,
)

PRICES = (-1.0, 0.0, 0.25, 1.0, 3.0)


@examples(80)
@given(
    rows=st.integers(0, 3),
    choices=st.integers(1, 6),
    dtype=st.sampled_from(FLOATS),
    scale=st.one_of(scales(), st.sampled_from([1e-300, 1e300])),  # which float32 has not
    update=st.sampled_from(["positive", "negative"]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    priced=st.booleans(),
    data=st.data(),
)
def test_losses_of_solutions_are_exact(
    rows: int, choices: int, dtype: torch.dtype, scale: float, update: Any, reduction: Any, priced: bool, data: Any
) -> None:
    scores = torch.tensor([data.draw(score_lists(choices, dtype)) for _ in range(rows)], dtype=dtype).view(
        rows, choices
    )
    prices = st.lists(st.sampled_from(PRICES), min_size=choices, max_size=choices)
    task = torch.tensor([data.draw(prices) for _ in range(rows)], dtype=torch.float64).view(rows, choices)
    of_score, of_task = (
        [[Fraction(each) for each in row] for row in table.double().tolist()] for table in (scores, task)
    )

    def solve(weight: float) -> Tensor:
        best = [
            max(range(choices), key=lambda y, f=f, price=price: f[y] + Fraction(weight) * price[y])
            for f, price in zip(of_score, of_task, strict=True)
        ]
        return torch.tensor(best, dtype=torch.int64)

    leaf = scores.clone().requires_grad_()
    loss = fastap.direct_loss(
        lambda y: leaf.gather(1, y[:, None])[:, 0],
        solve,
        solve,
        epsilon=scale,
        update=update,
        task_loss=(lambda y: task.gather(1, y[:, None])[:, 0]) if priced else None,
        reduction=reduction,
    )
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    limits, sign = torch.finfo(loss.dtype), 1 if update == "positive" else -1
    weight = Fraction(min(max(scale, limits.tiny), limits.max))
    standard, direct = solve(0.0).tolist(), solve(sign * scale).tolist()
    exact, largest = [], Fraction(0)
    for f, price, one, other in zip(of_score, of_task, standard, direct, strict=True):
        exact.append(sign * (f[other] - f[one]) / weight + (price[other] if priced else 0))
        largest = max(largest, abs(f[other]), abs(f[one]), abs(exact[-1]), abs(f[other] - f[one]) / weight)
    if float_of(largest) * 8 > limits.max:
        return  # a number on the way is beyond the type
    share = Fraction(1, max(rows, 1) if reduction == "mean" else 1)
    expected: Any = [float_of(each) for each in exact]
    size = max(map(abs, expected), default=0.0)
    if reduction != "none":
        expected = float_of(sum(exact, Fraction(0)) * share)
    nearly(loss, expected, 4 * limits.eps, 16 * limits.eps * max(size, 3.0) + limits.tiny)
    slope = np.zeros((rows, choices))
    pull = float_of(sign * share / weight)
    if abs(pull) * 8 > torch.finfo(dtype).max:
        return
    for row, (one, other) in enumerate(zip(standard, direct, strict=True)):
        slope[row, other] += pull
        slope[row, one] -= pull
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    nearly(gradient, slope, 4 * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)


@examples(80)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3),
    classes=st.integers(1, 5),
    dtype=st.sampled_from(FLOATS),
    kind=st.sampled_from(INTEGERS),
    name=st.sampled_from([*LOSSES]),
    ignore_index=st.sampled_from([None, 0, 2, -1, -100, 255, 2**63 - 1]),
    priced=st.sampled_from([None, *INTEGERS, *FLOATS]),
    strides=st.tuples(st.sampled_from(STRIDES), st.sampled_from(STRIDES[:4])),
    seed=st.integers(0, 2**31),
)
def test_a_batch_of_classes_is_its_rows(
    shape: list[int],
    classes: int,
    dtype: torch.dtype,
    kind: torch.dtype,
    name: str,
    ignore_index: int | None,
    priced: torch.dtype | None,
    strides: tuple[str, str],
    seed: int,
) -> None:
    rng, dim = np.random.default_rng(seed), min(len(shape), 1)
    count = int(np.prod(shape, dtype=int))
    rows = torch.tensor(rng.normal(size=(count, classes)).round(1)).to(dtype)
    rows[torch.tensor(rng.random((count, classes)) < 0.05)] = float(rng.choice([np.nan, np.inf, -np.inf]))
    pool = [*range(classes), *([] if ignore_index is None or not holds(kind, ignore_index) else [ignore_index] * 2)]
    numbers = [pool[i] for i in rng.integers(0, len(pool), count)]
    cost = (
        None
        if priced is None or name == "perceptron"
        else torch.tensor(rng.integers(0, 4, (classes, classes))).to(priced)
    )
    logits = rows.view(*shape, classes).movedim(-1, dim)
    targets = torch.tensor(numbers, dtype=kind).view(shape)
    if shape:
        logits, targets = strided(logits, strides[0]), strided(targets, strides[1])
    options = {"weight": 0.5, "ignore_index": ignore_index}
    value, gradient = value_and_gradient(name, logits, targets, cost, **options)
    assert list(value.shape) == shape
    assert gradient.dtype == dtype
    lines, slopes = value.reshape(-1), gradient.movedim(dim, -1).reshape(count, classes)
    total, taken = 0.0, 0
    for row, target in enumerate(numbers):
        if target == ignore_index:
            assert lines[row] == 0
            assert (slopes[row] == 0).all()
            continue
        table = None if cost is None else cost.double()
        expected, _ = value_and_gradient(name, rows[row].double(), torch.tensor(target), table, weight=0.5)
        _, slope = value_and_gradient(name, rows[row], torch.tensor(target), table, weight=0.5)  # rounding makes ties
        nearly_or_nan(lines[row], expected, 1e-6)
        nearly_or_nan(slopes[row], slope, 2 * torch.finfo(dtype).eps)
        total, taken = total + expected.item(), taken + 1
    for reduction, divisor in (("sum", 1), ("mean", max(taken, 1))):
        given_value = LOSSES[name](logits, targets, cost, reduction=reduction, **options)
        nearly_or_nan(given_value, torch.tensor(total / divisor, dtype=torch.float64), 1e-5)


def nearly_or_nan(given: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(given.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_solutions_of_another_kind_are_an_error(update: Any) -> None:
    scores = torch.tensor([0.5, 0.1, 0.9])
    for function in (lambda y: scores.view(-1)[:y], lambda y: scores.double() if y > 1 else scores):
        with pytest.raises(ValueError, match="score_fn must return scores of one"):
            fastap.direct_loss(function, 1, 2, update=update)

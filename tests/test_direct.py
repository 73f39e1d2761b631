"""Losses of classes under a cost, against exact rational arithmetic over every class."""

from __future__ import annotations

import sys
from functools import partial
from math import inf, nan

import pytest
import torch
from torch.nn import functional as F

import fastap
from tests.cost_losses import LOSSES, every_loss, exact, problem, value_and_gradient

# Against the truth


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@pytest.mark.parametrize("weight", [0.5, 4.0])
@pytest.mark.parametrize("masked", [0.0, 0.5])
@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@every_loss
def test_is_the_truth(name: str, classes: int, levels: int, masked: float, weight: float, with_cost: bool) -> None:
    logits, targets, cost = problem(classes + 10 * levels, 30, classes, levels=levels, masked=masked)
    given = cost if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, given, weight=weight)
    expected, direction = exact(name, logits, targets, given, weight)
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient, direction, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weight", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e8, -1e15])
@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_no_digits_are_lost_at_any_scale(name: str, with_cost: bool, offset: float, weight: float) -> None:
    logits, targets, cost = problem(3, 40, 5)
    logits = logits * max(1.0, abs(offset) / 1e6) + offset
    given = cost if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, given, weight=weight)
    expected, direction = exact(name, logits, targets, given, weight)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, direction, rtol=1e-12, atol=0)


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@pytest.mark.parametrize("weight", [sys.float_info.min, 1e-300, 1e300, sys.float_info.max])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_loss
def test_weights_beyond_all_scale(name: str, dtype: torch.dtype, weight: float, with_cost: bool) -> None:
    logits, targets, _ = problem(3, 40, 5, levels=2, masked=0.3, dtype=dtype)
    cost = 1 - torch.eye(5, dtype=dtype) if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, cost, weight=weight)
    assert not value.isnan().any()
    assert not gradient.isnan().any()
    if name in ("positive", "negative") and weight < 1:
        wrong, tied = logits.argmax(1) != targets, (logits == logits.amax(1, keepdim=True)).sum(1) > 1
        torch.testing.assert_close(value[~tied], wrong[~tied].to(dtype), rtol=0, atol=0)


def test_zeros_of_both_signs_are_equal() -> None:
    logits, targets = torch.tensor([[0.0, -0.0, -1.0], [-0.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([0, 0])
    for name in LOSSES:
        for cost in (None, 1 - torch.eye(3, dtype=torch.float64)):
            value, gradient = value_and_gradient(name, logits, targets, cost, weight=0.5)
            expected, direction = exact(name, logits, targets, cost, 0.5)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, direction)


@pytest.mark.parametrize("name", ["positive", "negative", "hinge"])
def test_equal_logits_have_a_gradient_towards_the_target(name: str) -> None:
    _, gradient = value_and_gradient(name, torch.zeros(1, 4), torch.tensor([2]))
    assert gradient[0, 2] < 0
    torch.testing.assert_close(gradient[0, [0, 1, 3]], (-gradient[0, 2] / 3).expand(3))


@pytest.mark.parametrize("levels", [0, 2])
@every_loss
def test_no_cost_is_the_cost_of_one_for_each_wrong_class(name: str, levels: int) -> None:
    logits, targets, _ = problem(1, 200, 6, levels=levels, masked=0.2)
    table = (1 - torch.eye(6)).long()
    for ours, theirs in zip(
        value_and_gradient(name, logits, targets), value_and_gradient(name, logits, targets, table), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_brackets_what_it_minimises(epsilon: float) -> None:
    logits, targets, cost = problem(2, 500, 5)
    for table in (cost, 1 - torch.eye(5, dtype=torch.float64)):
        task = table[targets, logits.argmax(1)]
        lower, upper = (
            value_and_gradient(name, logits, targets, table, weight=epsilon)[0] for name in ("negative", "positive")
        )
        assert (lower <= task).all()
        assert (task <= upper).all()
        assert (lower < task).any()
        assert (task < upper).any()


def test_hinge_is_direct_and_perceptron() -> None:
    logits, targets, cost = problem(4, 100, 5, levels=3)
    for table in (None, cost):
        hinge, direct, perceptron = (
            value_and_gradient(name, logits, targets, table, weight=2.0) for name in ("hinge", "positive", "perceptron")
        )
        torch.testing.assert_close(hinge[0], 2 * direct[0] + perceptron[0])
        torch.testing.assert_close(hinge[1], 2 * direct[1] + perceptron[1])


def test_two_classes_are_the_multi_margin_loss() -> None:
    # Which divides by the number of classes.
    logits, targets, _ = problem(4, 100, 2)
    ours = fastap.cost_hinge_loss(logits, targets, margin=0.7)
    torch.testing.assert_close(ours, 2 * F.multi_margin_loss(logits, targets, margin=0.7))


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_permuting_classes_permutes_the_gradient(name: str, with_cost: bool) -> None:
    logits, targets, cost = problem(6, 100, 5, levels=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    value, gradient = value_and_gradient(name, logits, targets, cost if with_cost else None)
    again, moved = value_and_gradient(
        name, logits[:, order], place[targets], cost[order][:, order] if with_cost else None
    )
    torch.testing.assert_close(again, value, rtol=0, atol=0)
    torch.testing.assert_close(moved, gradient[:, order], rtol=0, atol=0)


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_gradcheck(name: str, with_cost: bool) -> None:
    logits, targets, cost = problem(7, 6, 4)
    logits.requires_grad_()
    loss = partial(LOSSES[name], targets=targets, cost=cost if with_cost else None, weight=0.7)
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(lambda z, how=reduction: loss(z, reduction=how), logits)
        assert torch.autograd.gradgradcheck(lambda z, how=reduction: loss(z, reduction=how), logits)


# Rows


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@pytest.mark.parametrize("bad", [[nan, 0.0, 1.0], [0.0, nan, 1.0], [inf, 0.0, 1.0], [0.0, inf, nan], [-inf] * 3])
@every_loss
def test_a_row_that_is_not_finite_stays_alone(name: str, bad: list[float], with_cost: bool) -> None:
    logits, targets, cost = problem(8, 5, 3)
    table = cost if with_cost else None
    clean = value_and_gradient(name, logits, targets, table)
    logits[2], targets[2] = torch.tensor(bad), 0
    value, gradient = value_and_gradient(name, logits, targets, table)
    others = torch.tensor([0, 1, 3, 4])
    assert value[2].isnan()
    assert gradient[2].isnan().all()
    torch.testing.assert_close(value[others], clean[0][others], rtol=0, atol=0)
    torch.testing.assert_close(gradient[others], clean[1][others], rtol=0, atol=0)
    # An ignored row may hold anything.
    value, gradient = value_and_gradient(
        name, logits, targets.index_fill(0, torch.tensor([2]), -1), table, ignore_index=-1
    )
    assert value[2] == 0
    assert (gradient[2] == 0).all()
    torch.testing.assert_close(gradient[others], clean[1][others], rtol=0, atol=0)


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
def test_a_masked_target_is_never_chosen(with_cost: bool) -> None:
    logits, targets = torch.tensor([[-inf, 0.0, 1.0]]), torch.tensor([0])
    table = 1 - torch.eye(3) if with_cost else None
    for name in ("positive", "negative"):
        value, gradient = value_and_gradient(name, logits, targets, table)
        assert value == 1
        assert (gradient == 0).all()
    for name in ("hinge", "perceptron"):
        assert value_and_gradient(name, logits, targets, table)[0] == inf


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@pytest.mark.parametrize("shape", [(), (6,), (6, 1), (2, 3, 4), (0, 3)])
@every_loss
def test_shapes_are_those_of_cross_entropy(name: str, shape: tuple[int, ...], with_cost: bool) -> None:
    rows = torch.Size(shape).numel()
    logits, targets, cost = problem(10, rows, 5, levels=3)
    table = cost if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, table)
    dim = min(len(shape), 1)
    spread = logits.view(*shape, 5).movedim(-1, dim)
    assert F.cross_entropy(spread, targets.view(shape), reduction="none").shape == shape
    ours, pull = value_and_gradient(name, spread, targets.view(shape), table)
    torch.testing.assert_close(ours, value.view(shape), rtol=0, atol=0)
    torch.testing.assert_close(pull, gradient.view(*shape, 5).movedim(-1, dim), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_lower_precision(name: str, with_cost: bool, dtype: torch.dtype) -> None:
    logits, targets, cost = problem(11, 300, 6, dtype=dtype)
    cost = cost.double().mul(8).round().div(8)  # ties that a rounded cost would break or make
    table = cost if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, table, weight=0.5)
    expected, direction = exact(name, logits, targets, table, 0.5)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), direction, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_float16_gradient_is_scaled_before_it_is_rounded() -> None:
    logits = torch.tensor([[0.0, 1e-6]], dtype=torch.float16).expand(4096, 2)
    leaf = logits.clone().requires_grad_()
    fastap.direct_cost_loss(leaf, torch.zeros(4096, dtype=torch.long), epsilon=1e-5, update="negative").backward()
    torch.testing.assert_close(leaf.grad[0], torch.tensor([-24.4141, 24.4141], dtype=torch.float16))

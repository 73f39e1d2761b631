"""Bad arguments of direct losses: the right exception, naming the argument, what was given and what is wanted."""

from __future__ import annotations

from functools import partial
from math import inf, nan

import pytest
import torch

import fastap
from tests.cost_losses import Loss
from tests.test_errors import refuses

LOGITS, TARGETS = torch.zeros(2, 3), torch.tensor([0, 2])
FUNCTIONS = [fastap.direct_cost_loss, fastap.cost_hinge_loss, fastap.cost_perceptron_loss]
WITH_COST = FUNCTIONS[:2]
MODULES = [fastap.DirectCostLoss, fastap.CostHingeLoss, fastap.CostPerceptronLoss]
every_function = pytest.mark.parametrize("function", FUNCTIONS)


@every_function
def test_tensors_are_checked(function: Loss) -> None:
    refuses(TypeError, lambda: function([[0.0]], TARGETS), "logits", "list", "torch.Tensor")
    refuses(TypeError, lambda: function(LOGITS, [0, 2]), "targets", "list", "torch.Tensor")
    refuses(TypeError, lambda: function(LOGITS.long(), TARGETS), "logits", "int64", "floating")
    for dtype in (torch.float32, torch.bool, torch.complex64):
        refuses(TypeError, lambda given=dtype: function(LOGITS, TARGETS.to(given)), "targets", str(dtype), "integer")
    refuses(ValueError, lambda: function(torch.tensor(0.0), torch.tensor(0)), "logits", "0-dimensional")
    refuses(ValueError, lambda: function(torch.zeros(2, 0), TARGETS), "logits", "at least one class", "(2, 0)")
    refuses(ValueError, lambda: function(LOGITS, TARGETS.to("meta")), "targets", "device", "meta", "cpu")
    for shape in ((), (1,), (3,), (2, 1), (2, 3)):
        given = torch.zeros(shape, dtype=torch.long)
        refuses(ValueError, lambda given=given: function(LOGITS, given), "targets", "(2,)", str(shape), "broadcast")


@every_function
def test_targets_are_classes(function: Loss) -> None:
    for wrong in (3, -1, -100):
        given = torch.tensor([0, wrong])
        refuses(ValueError, lambda given=given: function(LOGITS, given), "targets", "[0, 2]", f"got {wrong}")
        refuses(ValueError, lambda given=given: function(LOGITS, given, ignore_index=7), "ignore_index", f"got {wrong}")


@pytest.mark.parametrize("function", WITH_COST)
def test_costs_are_checked(function: Loss) -> None:
    refuses(TypeError, lambda: function(LOGITS, TARGETS, [[0]]), "cost", "list", "torch.Tensor or None")
    for dtype in (torch.bool, torch.complex64):
        refuses(
            TypeError, lambda given=dtype: function(LOGITS, TARGETS, torch.ones(3, 3, dtype=given)), "cost", str(dtype)
        )
    for shape in ((3,), (3, 2), (4, 4), (1, 3, 3)):
        refuses(
            ValueError, lambda given=shape: function(LOGITS, TARGETS, torch.ones(given)), "cost", "shape", str(shape)
        )
    for bad in (nan, inf):
        refuses(
            ValueError,
            lambda given=bad: function(LOGITS, TARGETS, torch.full((3, 3), given)),
            "cost",
            "finite",
            str(bad),
        )
    refuses(ValueError, lambda: function(LOGITS, TARGETS, torch.ones(3, 3, device="meta")), "cost", "device", "meta")


def test_what_the_callables_return_is_checked() -> None:
    y = torch.zeros(3)
    refuses(TypeError, lambda: fastap.direct_loss(None, y, y), "score_fn", "callable", "NoneType")
    refuses(TypeError, lambda: fastap.direct_loss(lambda _: 1.0, y, y), "score_fn", "torch.Tensor", "float")
    refuses(TypeError, lambda: fastap.direct_loss(lambda y: y.long(), y, y), "score_fn", "int64", "floating")
    refuses(ValueError, lambda: fastap.direct_loss(lambda y: y, y, y[:1]), "score_fn", "(3,) for y_st", "(1,) for y_d")
    refuses(ValueError, lambda: fastap.direct_loss(lambda y: y, y, y.double()), "score_fn", "float32", "float64")
    refuses(ValueError, lambda: fastap.direct_loss(lambda y: y, y, y.to("meta")), "score_fn", "cpu", "meta")
    refuses(TypeError, lambda: fastap.direct_loss(lambda y: y, y, y, task_loss=y), "task_loss", "callable", "Tensor")
    refuses(ValueError, lambda: fastap.direct_loss(lambda y: y, y, y, reduction="all"), "reduction", "'all'")
    for wrong_task, error, words in (
        (lambda _: 1.0, TypeError, ("torch.Tensor", "float")),
        (lambda y: y.to(torch.complex64), TypeError, ("complex64", "floating")),
        (lambda y: y[:1], ValueError, ("(3,)", "(1,)", "broadcast")),
        (lambda y: y.to("meta"), ValueError, ("device", "meta", "cpu")),
    ):
        refuses(
            error, lambda given=wrong_task: fastap.direct_loss(lambda y: y, y, y, task_loss=given), "task_loss", *words
        )


def test_costs_have_no_gradient() -> None:
    cost = torch.ones(3, 3, requires_grad=True)
    call = partial(fastap.direct_cost_loss, torch.zeros(2, 3), torch.zeros(2).long(), cost)
    refuses(ValueError, call, "cost must not require a gradient")


def test_costs_must_fit_the_type_of_the_loss() -> None:
    cost, targets = torch.full((3, 3), 1e300, dtype=torch.float64), torch.zeros(2).long()
    assert fastap.direct_cost_loss(torch.zeros(2, 3).double(), targets, cost).item() == 1e300
    call = partial(fastap.direct_cost_loss, torch.zeros(2, 3), targets, cost)
    refuses(ValueError, call, "cost must be finite in torch.float32")

"""Every bad argument of every function and module of rankings and classes is an error that names it."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from tests.bad_arguments import BAD, BAD_CLASSES, CLASSES, LOGITS, SCORES, SMALL_TABLE, TARGETS, refused

GIVEN: dict[str, dict[str, Any]] = {
    "direct_ap_loss": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "direct_ranking_loss": {"scores": SCORES, "targets": TARGETS, "measure": "ndcg", "dim": -1},
    "ranking_measure": {"scores": SCORES, "targets": TARGETS, "measure": "ndcg", "dim": -1},
    "smooth_ap_loss": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "ap_hinge_loss": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "ap_perceptron_loss": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "average_precision": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "loss_augmented_ranking": {"scores": SCORES, "targets": TARGETS, "dim": -1},
    "multiclass_ap_loss": {"logits": LOGITS, "labels": CLASSES},
    "direct_cost_loss": {"logits": LOGITS, "targets": CLASSES},
    "cost_hinge_loss": {"logits": LOGITS, "targets": CLASSES},
    "cost_perceptron_loss": {"logits": LOGITS, "targets": CLASSES},
    "direct_loss": {
        "score_fn": lambda y: torch.ones(2),
        "y_standard": 0,
        "y_direct": 1,
        "task_loss": lambda y: torch.ones(2),
    },
}
MODULES = (
    "DirectAPLoss",
    "DirectRankingLoss",
    "SmoothAPLoss",
    "APHingeLoss",
    "APPerceptronLoss",
    "MulticlassAPLoss",
    "DirectCostLoss",
    "CostHingeLoss",
    "CostPerceptronLoss",
)


def wanted_by(module: str) -> dict[str, Any]:
    """Options without a default."""
    return {"measure": "ndcg"} if module == "DirectRankingLoss" else {}


def is_of_classes(function: str) -> bool:
    return "cost" in function.lower() or "multiclass" in function.lower()


def bad_values(function: str, name: str) -> list[Any]:
    if is_of_classes(function) and name in ("targets", "labels"):
        return BAD_CLASSES
    if (is_of_classes(function) or function in ("average_precision", "ranking_measure")) and name == "ignore_index":
        return [each for each in BAD[name] if not (type(each) is int and each in (0, 1))]
    if "multiclass" in function.lower() and name == "weight":
        return [each for each in BAD[name] if not (isinstance(each, Tensor) and each.shape == LOGITS.shape[1:])]
    return BAD[name]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (function, name)
        for function in GIVEN
        for name in inspect.signature(getattr(fastap, function)).parameters
        if name not in ("y_standard", "y_direct")
    ],
)
def test_every_bad_argument_is_named(function: str, name: str) -> None:
    for value in bad_values(function, name):
        arguments = {**GIVEN[function], name: value}
        if name in ("groups", "offsets"):
            arguments |= {"scores": SCORES.view(-1), "targets": TARGETS.view(-1)}
        refused(lambda: getattr(fastap, function)(**arguments), name, value)  # noqa: B023


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in MODULES for name in inspect.signature(getattr(fastap, module)).parameters],
)
def test_every_bad_option_of_a_module_is_named(module: str, name: str) -> None:
    for value in bad_values(module, name):
        if name == "dim" and (
            value is None or type(value) is int or (type(value) is tuple and {*map(type, value)} == {int})
        ):
            continue  # whether one is needed, and there is such a dimension, shows when scores are there
        if name == "cost" and isinstance(value, Tensor) and (value is SMALL_TABLE or value.device.type == "meta"):
            continue  # and so do the classes and the device
        if module == "MulticlassAPLoss" and isinstance(value, Tensor) and value.device.type == "meta":
            continue
        refused(lambda: getattr(fastap, module)(**{**wanted_by(module), name: value}), name, value)  # noqa: B023


@pytest.mark.parametrize("module", MODULES)
def test_every_bad_tensor_of_a_module_is_named(module: str) -> None:
    if is_of_classes(module):
        loss = getattr(fastap, module)()
        labels = "labels" if module == "MulticlassAPLoss" else "targets"
        tensors = {"logits": LOGITS, labels: CLASSES}
    else:
        loss = getattr(fastap, module)(**wanted_by(module), dim=-1)
        tensors = {"scores": SCORES, "targets": TARGETS}
        for name in ("groups", "offsets"):
            for value in BAD[name]:
                options = {name: value}
                refused(lambda: loss(SCORES.view(-1), TARGETS.view(-1), **options), name, value)  # noqa: B023
    for name in (*tensors, *(() if is_of_classes(module) else ("weight",))):
        for value in bad_values(module, name):
            refused(lambda: loss(**{**tensors, name: value}), name, value)  # noqa: B023


class Labelled(torch.Tensor):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("function", ["direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss", "average_precision"])
def test_subclasses_of_tensors_are_tensors(function: str) -> None:
    run = partial(getattr(fastap, function), dim=-1)
    expected = run(SCORES, TARGETS)
    for scores, targets in (
        (SCORES.as_subclass(Labelled), TARGETS),
        (SCORES, TARGETS.as_subclass(Labelled)),
        (torch.nn.Parameter(SCORES), TARGETS),
        (torch.nn.Buffer(SCORES), TARGETS),
    ):
        assert torch.equal(torch.as_tensor(run(scores, targets)).as_subclass(Tensor), expected)


def test_classes_that_64_bits_wrap_are_no_class() -> None:
    """The largest of uint64 is -1 in int64."""
    targets = torch.tensor([0, 2**64 - 1], dtype=torch.uint64)
    with pytest.raises(ValueError, match="targets"):
        fastap.direct_cost_loss(LOGITS, targets, ignore_index=-1)
    with pytest.raises(ValueError, match="targets"):
        fastap.direct_ap_loss(torch.ones(2), targets, ignore_index=-1)

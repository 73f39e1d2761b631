"""Bad arguments: the right exception, naming the argument, what was given and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

import fastap
from fastap import backends

SCORES = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.7, 0.3]])
TARGETS = torch.tensor([[1, 0, 0], [0, 1, 0]])

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(fastap, name)
    for name in ("direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss", "average_precision", "loss_augmented_ranking")
}
LOSSES = {name: FUNCTIONS[name] for name in ("direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss")}
SCALES = {
    "epsilon": (FUNCTIONS["direct_ap_loss"], FUNCTIONS["loss_augmented_ranking"], fastap.DirectAPLoss),
    "margin": (FUNCTIONS["ap_hinge_loss"], fastap.APHingeLoss),
}
WITH_UPDATE = (FUNCTIONS["direct_ap_loss"], FUNCTIONS["loss_augmented_ranking"])
WITH_METHOD = (*WITH_UPDATE, FUNCTIONS["ap_hinge_loss"], fastap.DirectAPLoss, fastap.APHingeLoss)
WITH_BACKEND = (*LOSSES.values(), FUNCTIONS["loss_augmented_ranking"])
MODULES = (fastap.DirectAPLoss, fastap.APHingeLoss, fastap.APPerceptronLoss)


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return FUNCTIONS[request.param]


def refuses(error: type[Exception], call: Callable[[], Any], *words: str) -> None:
    """The call raises, and the message holds all of the words."""
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def call_with(function: Callable[..., Any], **options: Any) -> Callable[[], Any]:
    """A function gets tensors too, a module its options alone."""
    if function in MODULES:
        return lambda: function(**options)
    return lambda: function(SCORES, TARGETS, **{"dim": -1, **options})


# Tensors

WRONG_TENSORS: list[tuple[type[Exception], Any, Any, tuple[str, ...]]] = [
    *(
        (ValueError, SCORES, torch.zeros(s), ("targets", f"{s}", "(2, 3)"))
        for s in [(3,), (1, 3), (2, 1), (2, 3, 1), ()]
    ),
    (ValueError, SCORES[:1], TARGETS, ("targets", "(2, 3)", "(1, 3)")),
    *((TypeError, SCORES.to(d), TARGETS, ("scores", f"{d}", "floating")) for d in [torch.int64, torch.bool]),
    (TypeError, SCORES.to(torch.complex64), TARGETS, ("scores", "complex64", "floating")),
    (TypeError, SCORES, TARGETS.to(torch.complex64), ("targets", "complex64", "bool, integer")),
    *(
        (TypeError, SCORES, t, ("targets", type(t).__name__, "torch.Tensor"))
        for t in [[[1, 0, 0]], None, TARGETS.numpy()]
    ),
    (TypeError, SCORES.tolist(), TARGETS, ("scores", "list", "torch.Tensor")),
    (ValueError, torch.tensor(0.5), torch.tensor(1), ("scores", "dimension", "0-dimensional")),
    (ValueError, SCORES, TARGETS.to("meta"), ("targets", "device", "meta", "cpu")),
]


@pytest.mark.parametrize("number", range(len(WRONG_TENSORS)))
def test_wrong_tensors(number: int, function: Callable[..., Any]) -> None:
    error, scores, targets, words = WRONG_TENSORS[number]
    refuses(error, lambda: function(scores, targets), *words)


# Target values


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (2, torch.int64, "2"),
        (-1, torch.int64, "-1"),
        (255, torch.uint8, "255"),
        (0.5, torch.float32, "0.5"),
        (torch.nan, torch.float32, "nan"),
        (torch.inf, torch.float64, "inf"),
    ],
)
def test_targets_must_be_zero_or_one(
    value: float, dtype: torch.dtype, shown: str, function: Callable[..., Any]
) -> None:
    targets = TARGETS.to(dtype)
    targets[1, 2] = value
    refuses(ValueError, lambda: function(SCORES, targets, dim=-1), "targets", "0 or 1", f"got {shown}")
    refuses(ValueError, lambda: function(SCORES, targets, dim=-1, ignore_index=-100), "targets", "-100", f"got {shown}")


def test_ignore_index(function: Callable[..., Any]) -> None:
    for given in () if function is fastap.average_precision else (0, 1):  # one class is enough for the metric
        refuses(ValueError, call_with(function, ignore_index=given), "ignore_index", "0 and 1", f"got {given}")
    for wrong in (-1.0, "-1", True):
        refuses(TypeError, call_with(function, ignore_index=wrong), "ignore_index", "int or None", type(wrong).__name__)


# Options


def test_options_are_keywords_that_are_known(function: Callable[..., Any]) -> None:
    refuses(TypeError, lambda: function(SCORES, TARGETS, 1), "positional")
    refuses(TypeError, lambda: function(SCORES, TARGETS, temperature=1.0), "temperature")
    for module in MODULES:
        refuses(TypeError, lambda module=module: module(1.0), "positional")


def test_dim(function: Callable[..., Any]) -> None:
    for dim in (2, -3, 100):
        refuses(ValueError, call_with(function, dim=dim), "dim", "[-2, 1]", f"got {dim}")
    for wrong in (1.0, "1", True):
        refuses(TypeError, call_with(function, dim=wrong), "dim", "int", type(wrong).__name__)


@pytest.mark.parametrize("name", SCALES)
def test_weights_are_finite_positive_numbers(name: str) -> None:
    for function in SCALES[name]:
        for given in (0, -0.5, torch.nan, torch.inf):
            refuses(ValueError, call_with(function, **{name: given}), name, "finite and positive", f"got {given}")
        for wrong in (torch.tensor(1.0), "1", None, True, [1.0]):
            refuses(TypeError, call_with(function, **{name: wrong}), name, "float", type(wrong).__name__)


@pytest.mark.parametrize(
    ("option", "functions", "words"),
    [
        ("update", (*WITH_UPDATE, fastap.DirectAPLoss), "'positive', 'negative'"),
        ("method", WITH_METHOD, "'auto', 'dp'"),
        ("reduction", (*LOSSES.values(), *MODULES), "'mean', 'sum', 'none'"),
        ("backend", (*WITH_BACKEND, *MODULES), "'auto', 'native', 'triton', 'reference'"),
    ],
)
def test_options_are_one_of_a_few(option: str, functions: tuple[Callable[..., Any], ...], words: str) -> None:
    for function in functions:
        for given in ("Positive", "", None, 1):
            refuses(ValueError, call_with(function, **{option: given}), option, words, f"{given!r}")


def test_the_perceptron_has_no_method() -> None:
    for function in (FUNCTIONS["ap_perceptron_loss"], fastap.APPerceptronLoss):
        refuses(TypeError, call_with(function, method="dp"), "method")


def test_triton_runs_on_a_gpu() -> None:
    for function in WITH_BACKEND:
        refuses(ValueError, call_with(function, backend="triton"), "backend", "'triton'", "CUDA", "cpu", "'auto'")


def test_the_backend_that_is_gone_says_what_to_use() -> None:
    for function in (*WITH_BACKEND, *MODULES):
        refuses(ValueError, call_with(function, backend="torch"), "backend 'torch' is no more", "'auto'")


def test_triton_must_be_installed() -> None:
    with mock.patch.object(backends, "HAS_TRITON", False):
        for function in (*WITH_BACKEND, *MODULES):
            refuses(ValueError, call_with(function, backend="triton"), "'triton'", "not installed", "'auto'")

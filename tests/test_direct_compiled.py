"""Losses of classes under a cost: compiled, on a GPU, without values, and mapped."""

from __future__ import annotations

import warnings
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from tests.cost_losses import LOSSES, Loss, every_loss, problem, value_and_gradient


def compiled(function: Loss, backend: str = "aot_eager") -> Loss:
    """No C++ compiler is needed for ``aot_eager``."""
    torch.compiler.reset()
    whole = torch.compile(function, fullgraph=True, backend=backend)

    def call(*arguments: Any, **options: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return whole(*arguments, **options)

    return call


# The compiler of C++ is given PyTorch's headers by a path without quotes.
quoted = pytest.mark.skipif(" " in torch.__path__[0], reason="PyTorch lies in a folder with a blank in its name")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.full, quoted])])
@pytest.mark.parametrize("with_cost", [pytest.param(False, marks=pytest.mark.full), True], ids=["0-1", "cost"])
@every_loss
def test_compiles_in_one_piece(name: str, with_cost: bool, backend: str) -> None:
    logits, targets, cost = problem(13, 50, 5, levels=2, masked=0.2)
    table = cost if with_cost else None
    targets[::7] = -1
    whole = compiled(LOSSES[name], backend)
    for weight in (1.0, 0.5):
        results = []
        for loss in (LOSSES[name], whole):
            leaf = logits.clone().requires_grad_()
            value = loss(leaf, targets, table, weight=weight, ignore_index=-1)
            value.backward()
            results.append((value.detach(), leaf.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_compiled_a_wrong_target_is_nan() -> None:
    logits, targets, _ = problem(14, 5, 3)
    targets[1], targets[3] = 3, -1
    leaf = logits.clone().requires_grad_()
    value = compiled(fastap.direct_cost_loss)(leaf, targets, reduction="none")
    value.sum().backward()
    assert value.isnan().tolist() == [False, True, False, True, False]
    assert leaf.grad.isnan().all(1).tolist() == value.isnan().tolist()
    assert leaf.grad.isnan().any(1).tolist() == value.isnan().tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_a_gpu_gives_the_same_and_is_never_waited_for(name: str, with_cost: bool) -> None:
    logits, targets, cost = problem(18, 200, 5, levels=2, masked=0.2)
    table = cost if with_cost else None
    targets[::7] = -1
    value, gradient = value_and_gradient(name, logits, targets, table, ignore_index=-1)
    targets[3] = 5  # no class
    there = logits.cuda().requires_grad_(), targets.cuda(), cost.cuda() if with_cost else None
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = LOSSES[name](*there, ignore_index=-1, reduction="none")
        (pull,) = torch.autograd.grad(ours.sum(), there[0])
        LOSSES[name](*there, ignore_index=-1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    value[3], gradient[3] = nan, nan
    torch.testing.assert_close(ours.cpu(), value, rtol=1e-14, atol=1e-14, equal_nan=True)
    torch.testing.assert_close(pull.cpu(), gradient, rtol=1e-14, atol=1e-14, equal_nan=True)


@every_loss
def test_no_values_are_read_without_values(name: str) -> None:
    for cost in (None, torch.ones(5, 5, device="meta")):
        logits = torch.empty(4, 5, device="meta", requires_grad=True)
        value = LOSSES[name](logits, torch.empty(4, dtype=torch.long, device="meta"), cost, ignore_index=-1)
        value.backward()
        assert value.shape == ()
        assert logits.grad.shape == (4, 5)


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_gradients_row_by_row(name: str, with_cost: bool) -> None:
    logits, targets, cost = problem(15, 20, 4, levels=2)
    table = cost if with_cost else None
    _, expected = value_and_gradient(name, logits, targets, table)
    rowwise = torch.func.vmap(torch.func.grad(lambda z, y: LOSSES[name](z, y, table)))(logits, targets)
    torch.testing.assert_close(rowwise, expected, rtol=0, atol=0)

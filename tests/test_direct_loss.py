"""Direct loss minimisation of any structured predictor, against the losses of classes and of AP."""

from __future__ import annotations

import runpy
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastap
from examples.shortest_path import shortest_path
from fastap.types import UPDATES
from tests.cost_losses import problem, value_and_gradient
from tests.losses import random_batch

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("update", UPDATES)
def test_the_loss_of_classes_from_its_solutions(update: str, dtype: torch.dtype) -> None:
    logits, targets, cost = problem(16, 50, 5, dtype=dtype)
    cost = cost.to(torch.float64)

    def solve(weight: float) -> Tensor:
        return (logits.double() + weight * cost[targets]).argmax(1)

    for reduction in ("mean", "sum", "none"):
        leaf = logits.clone().requires_grad_()
        loss = fastap.direct_loss(
            lambda y, leaf=leaf: leaf.gather(1, y[:, None])[:, 0],
            solve,
            solve,
            epsilon=0.3,
            update=update,
            task_loss=lambda y: cost[targets, y],
            reduction=reduction,
        )
        expected, gradient = value_and_gradient(update, logits, targets, cost, weight=0.3, reduction=reduction)
        loss.sum().backward()
        assert loss.dtype == expected.dtype
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(leaf.grad, gradient, rtol=4 * torch.finfo(dtype).eps, atol=1e-12)


def score_of_ranking(scores: Tensor, targets: Tensor, ranks: Tensor) -> Tensor:
    """``F(y) = 1/(P N) sum_ij y_ij (p_i - n_j)``, pair by pair."""
    pairs = (targets == 1)[:, :, None] & (targets == 0)[:, None, :]
    above = torch.where(ranks[:, :, None] < ranks[:, None, :], 1.0, -1.0)
    return (pairs * above * (scores[:, :, None] - scores[:, None, :])).sum((1, 2)) / pairs.sum((1, 2))


@pytest.mark.parametrize("update", UPDATES)
def test_the_loss_of_ap_from_its_solutions(update: str) -> None:
    scores, targets = random_batch(17, 20, 15)

    def solve(weight: float) -> Tensor:
        if weight == 0:
            return scores.argsort(descending=True).argsort()
        sign = "positive" if weight > 0 else "negative"
        assert update in (sign, "symmetric")
        return fastap.loss_augmented_ranking(scores, targets, epsilon=abs(weight), update=sign, dim=-1).ranks

    results = []
    for loss in (
        lambda leaf: fastap.direct_loss(
            lambda ranks: score_of_ranking(leaf, targets, ranks),
            solve,
            solve,
            epsilon=0.4,
            update=update,
            task_loss=lambda ranks: 1 - fastap.average_precision(-ranks.double(), targets, dim=-1),
            reduction="none",
        ),
        lambda leaf: fastap.direct_ap_loss(leaf, targets, epsilon=0.4, update=update, reduction="none", dim=-1),
    ):
        leaf = scores.clone().requires_grad_()
        value = loss(leaf)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert results[0][1].abs().max() > 0


def test_solutions_may_be_any_objects() -> None:
    weights = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    loss = fastap.direct_loss(
        lambda path: sum(weights[k] for k in path["edges"]), {"edges": [0, 1]}, {"edges": [1, 2]}, epsilon=0.5
    )
    assert loss.item() == (3.0 - 1.5) / 0.5
    loss.backward()
    assert weights.grad.tolist() == [-2.0, 0.0, 2.0]


def test_solvers_run_once_each_without_gradient() -> None:
    calls = []

    def solve(weight: float) -> Tensor:
        assert not torch.is_grad_enabled()
        assert isinstance(weight, float)
        calls.append(weight)
        return torch.tensor(weight)

    def task(y: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return y * scale

    scale = torch.tensor(3.0, requires_grad=True)
    for update, weight in (("positive", 0.25), ("negative", -0.25)):
        calls.clear()
        loss = fastap.direct_loss(lambda y: scale * y, solve, solve, epsilon=0.25, update=update, task_loss=task)
        assert calls == [0.0, weight]
        (gradient,) = torch.autograd.grad(loss, scale)
        assert gradient == 1  # s/epsilon * s epsilon, and nothing from the task loss
        torch.testing.assert_close(loss.detach(), scale.detach() * (1 + weight))


def test_the_empty_batch_of_solutions() -> None:
    assert fastap.direct_loss(lambda y: y, torch.zeros(0), torch.zeros(0)) == 0


# The example


def test_the_shortest_of_all_paths() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.randint(-3, 9, (50, 3, 4, 4), generator=generator).double()
    found = shortest_path(costs)
    assert found.sum((2, 3)).eq(1).all()
    assert (found.sum(2)[:, :-1] == found.sum(3)[:, 1:]).all()  # an edge starts where the last one ended
    every = [costs[:, range(3), nodes[:-1], nodes[1:]].sum(1) for nodes in product(range(4), repeat=4)]
    torch.testing.assert_close((costs * found).sum((1, 2, 3)), torch.stack(every).amin(0), rtol=0, atol=0)


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["shortest_path", "--quick"])
    runpy.run_path(str(ROOT / "examples" / "shortest_path.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for method in ("squared error", "direct, positive", "direct, negative"):
        assert method in printed
    assert "nan" not in printed


def test_solutions_are_constants() -> None:
    weights = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    soft = weights.softmax(0)  # carries a graph
    loss = fastap.direct_loss(lambda y: (weights * y).sum(), soft, soft)
    loss.backward()
    assert weights.grad is not None
    assert weights.grad.eq(0).all()

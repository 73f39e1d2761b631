"""Direct loss minimisation beyond AP, against exact rational arithmetic over every class, and against AP itself."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastap
from examples.shortest_path import shortest_path
from tests.losses import random_batch
from tests.test_errors import refuses

ROOT = Path(__file__).parents[1]
Loss = Callable[..., Tensor]


def _direct(update: str) -> Loss:
    def loss(
        logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
    ) -> Tensor:
        return fastap.direct_cost_loss(logits, targets, cost, epsilon=weight, update=update, **options)

    return loss


def _hinge(
    logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
) -> Tensor:
    return fastap.cost_hinge_loss(logits, targets, cost, margin=weight, **options)


def _perceptron(
    logits: Tensor, targets: Tensor, cost: Tensor | None = None, *, weight: float = 1.0, **options: Any
) -> Tensor:
    return fastap.cost_perceptron_loss(logits, targets, **options)


# `weight` is epsilon of the direct losses and the margin of the hinge; the perceptron has neither that nor a cost.
LOSSES: dict[str, Loss] = {
    "positive": _direct("positive"),
    "negative": _direct("negative"),
    "hinge": _hinge,
    "perceptron": _perceptron,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def exact_row(
    name: str, logits: list[float], target: int, cost: list[list[float]], weight: float
) -> tuple[float, list[float]]:
    """Loss and gradient of one row by trying every class that is not masked, without rounding."""
    scores = {k: Fraction(z) for k, z in enumerate(logits) if z != -inf}
    sign = {"positive": 1, "negative": -1, "hinge": 1, "perceptron": 0}[name]
    augmented = {k: z + sign * Fraction(weight) * Fraction(cost[target][k]) for k, z in scores.items()}
    first, second = max(augmented.values()), max(scores.values())
    winners = [[k for k in scores if augmented[k] == first], [k for k in scores if scores[k] == second]]
    gain = Fraction(1)
    if name in ("positive", "negative"):
        gain = sign / Fraction(weight)
    else:
        second, winners[1] = scores[target], [target]
    gradient = [Fraction(0)] * len(logits)
    for direction, group in zip((1, -1), winners, strict=True):
        for k in group:
            gradient[k] += direction * gain / len(group)
    return float(gain * (first - second)), [float(g) for g in gradient]


def exact(name: str, logits: Tensor, targets: Tensor, cost: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
    table = (1 - torch.eye(logits.shape[1]) if cost is None else cost).tolist()
    rows = [exact_row(name, z, y, table, weight) for z, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    values, gradients = zip(*rows, strict=True)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def value_and_gradient(name: str, logits: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Every row's loss and the gradient of their sum."""
    leaf = logits.detach().clone().requires_grad_()
    value = LOSSES[name](leaf, *rest, **{"reduction": "none", **options})
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def problem(
    seed: int, rows: int, classes: int, *, levels: int = 0, masked: float = 0.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and an asymmetric cost with negative entries and a diagonal that is not zero.

    On levels all numbers are multiples of 1/4, and sums of them exact. The target's class is never masked.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    cost = torch.randn(classes, classes, generator=generator, dtype=torch.float64)
    if levels:
        logits = torch.randint(-levels, levels + 1, (rows, classes), generator=generator).double() / 4
        cost = torch.randint(-4, 5, (classes, classes), generator=generator).double() / 4
    targets = torch.randint(classes, (rows,), generator=generator)
    hidden = torch.rand(rows, classes, generator=generator) < masked
    hidden[torch.arange(rows), targets] = False
    return logits.masked_fill(hidden, -inf).to(dtype), targets, cost.to(dtype)


# Against the truth


@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("masked", [0.0, 0.5])
@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@every_loss
def test_is_the_truth(name: str, classes: int, levels: int, masked: float, weight: float, with_cost: bool) -> None:
    logits, targets, cost = problem(classes + 10 * levels, 60, classes, levels=levels, masked=masked)
    given = cost if with_cost else None
    value, gradient = value_and_gradient(name, logits, targets, given, weight=weight)
    expected, direction = exact(name, logits, targets, given, weight)
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient, direction, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weight", [1e-12, 1e-3, 1.0, 1e3, 1e12])
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


@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_ignored_rows_take_no_part(name: str, with_cost: bool, ignore_index: int) -> None:
    logits, targets, cost = problem(9, 40, 5)
    table = cost if with_cost else None
    targets[::3] = ignore_index
    taken = targets != ignore_index
    value, gradient = value_and_gradient(name, logits, targets, table, ignore_index=ignore_index)
    alone, direction = value_and_gradient(name, logits[taken], targets[taken], table)
    assert (value[~taken] == 0).all()
    assert (gradient[~taken] == 0).all()
    torch.testing.assert_close(value[taken], alone, rtol=0, atol=0)
    torch.testing.assert_close(gradient[taken], direction, rtol=0, atol=0)
    for reduction in ("mean", "sum"):
        total, pull = value_and_gradient(name, logits, targets, table, ignore_index=ignore_index, reduction=reduction)
        number = int(taken.sum()) if reduction == "mean" else 1
        torch.testing.assert_close(total, value.sum() / number)
        torch.testing.assert_close(pull, gradient / number)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("rows", [0, 3])
@every_loss
def test_no_row_takes_part(name: str, rows: int, reduction: str) -> None:
    for cost in (None, torch.ones(4, 4)):
        logits, targets = torch.randn(rows, 4), torch.full((rows,), -1)
        value, gradient = value_and_gradient(name, logits, targets, cost, ignore_index=-1, reduction=reduction)
        assert value.shape == ((rows,) if reduction == "none" else ())
        assert (value == 0).all()
        assert gradient.shape == (rows, 4)
        assert (gradient == 0).all()


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_targets_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, targets, _ = problem(12, 30, 5)
    expected = fastap.direct_cost_loss(logits, targets)
    torch.testing.assert_close(fastap.direct_cost_loss(logits, targets.to(dtype)), expected, rtol=0, atol=0)
    # 156 is -100 in 8 bits.
    torch.testing.assert_close(
        fastap.direct_cost_loss(logits, targets.to(dtype), ignore_index=-100), expected, rtol=0, atol=0
    )


# Compilers and transforms


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


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, quoted])])
@pytest.mark.parametrize("with_cost", [False, True], ids=["0-1", "cost"])
@every_loss
def test_compiles_in_one_piece(name: str, with_cost: bool, backend: str) -> None:
    logits, targets, cost = problem(13, 50, 5, levels=2, masked=0.2)
    table = cost if with_cost else None
    targets[::7] = -1
    whole = compiled(LOSSES[name], backend)
    for weight in (1.0, 0.5, 0.25):
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


# Any structured predictor


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("update", ["positive", "negative"])
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


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_the_loss_of_ap_from_its_solutions(update: str) -> None:
    scores, targets = random_batch(17, 20, 15)

    def solve(weight: float) -> Tensor:
        if weight == 0:
            return scores.argsort(descending=True).argsort()
        assert (weight > 0) == (update == "positive")
        return fastap.loss_augmented_ranking(scores, targets, epsilon=abs(weight), update=update).ranks

    results = []
    for loss in (
        lambda leaf: fastap.direct_loss(
            lambda ranks: score_of_ranking(leaf, targets, ranks),
            solve,
            solve,
            epsilon=0.4,
            update=update,
            task_loss=lambda ranks: 1 - fastap.average_precision(-ranks.double(), targets),
            reduction="none",
        ),
        lambda leaf: fastap.direct_ap_loss(leaf, targets, epsilon=0.4, update=update, reduction="none"),
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


# Errors


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


@pytest.mark.parametrize("call", [*(lambda f=f, **o: f(LOGITS, TARGETS, **o) for f in FUNCTIONS), *MODULES])
def test_options_are_checked(call: Loss) -> None:
    refuses(ValueError, lambda: call(reduction="average"), "reduction", "'mean', 'sum', 'none'", "'average'")
    refuses(TypeError, lambda: call(ignore_index=1.0), "ignore_index", "int or None", "float")
    refuses(TypeError, lambda: call(ignore_index=True), "ignore_index", "int or None", "bool")
    refuses(ValueError, lambda: call(ignore_index=2**63), "ignore_index", "64 bits")
    refuses(TypeError, lambda: call(backend="auto"), "backend")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (partial(fastap.direct_cost_loss, LOGITS, TARGETS), "epsilon"),
        (partial(fastap.direct_loss, torch.sin, LOGITS, LOGITS), "epsilon"),
        (fastap.DirectCostLoss, "epsilon"),
        (partial(fastap.cost_hinge_loss, LOGITS, TARGETS), "margin"),
        (fastap.CostHingeLoss, "margin"),
    ],
)
def test_weights_are_checked(call: Loss, name: str) -> None:
    for bad in (0, -1.0, nan, inf):
        refuses(ValueError, lambda given=bad: call(**{name: given}), name, "finite and positive", f"got {bad}")
    refuses(TypeError, lambda: call(**{name: torch.tensor(1.0)}), name, "float", "Tensor")
    if name == "epsilon":
        refuses(ValueError, lambda: call(update="both"), "update", "'positive', 'negative'", "'both'")


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


# The example


def test_the_shortest_of_all_paths() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.randint(-3, 9, (50, 3, 4, 4), generator=generator).double()
    found = shortest_path(costs)
    assert found.sum((2, 3)).eq(1).all()
    assert (found.sum(2)[:, :-1] == found.sum(3)[:, 1:]).all()  # an edge starts where the last one ended
    every = [costs[:, range(3), nodes[:-1], nodes[1:]].sum(1) for nodes in product(range(4), repeat=4)]
    torch.testing.assert_close((costs * found).sum((1, 2, 3)), torch.stack(every).amin(0), rtol=0, atol=0)


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "shortest_path.py", "--quick"], capture_output=True, text=True, check=True
    )
    for method in ("squared error", "direct, positive", "direct, negative"):
        assert method in done.stdout
    assert "nan" not in done.stdout


def test_solutions_are_constants() -> None:
    weights = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    soft = weights.softmax(0)  # carries a graph
    loss = fastap.direct_loss(lambda y: (weights * y).sum(), soft, soft)
    loss.backward()
    assert weights.grad is not None
    assert weights.grad.eq(0).all()


def test_costs_have_no_gradient() -> None:
    cost = torch.ones(3, 3, requires_grad=True)
    call = partial(fastap.direct_cost_loss, torch.zeros(2, 3), torch.zeros(2).long(), cost)
    refuses(ValueError, call, "cost must not require a gradient")


def test_costs_must_fit_the_type_of_the_loss() -> None:
    cost, targets = torch.full((3, 3), 1e300, dtype=torch.float64), torch.zeros(2).long()
    assert fastap.direct_cost_loss(torch.zeros(2, 3).double(), targets, cost).item() == 1e300
    call = partial(fastap.direct_cost_loss, torch.zeros(2, 3), targets, cost)
    refuses(ValueError, call, "cost must be finite in torch.float32")


def test_costs_keep_their_type() -> None:
    """float16 would make 1e5 infinite."""
    module = fastap.DirectCostLoss(torch.full((3, 3), 1e5)).half()
    assert module.cost is not None
    assert module.cost.dtype == torch.float32
    assert module(torch.zeros(2, 3), torch.zeros(2).long()).item() == 1e5
    assert module.to("meta").cost.device.type == "meta"

"""The custom operators and autograd: opcheck, gradcheck, torch.compile, and graphs used in every way."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from fastap import measures
from fastap import operators as ops
from tests.losses import LOSSES, Loss, random_batch

DIRECT = (None, "direct", 0.7, "positive", "auto", 0.0, 1)  # no seed, no noise, one draw
EVEN = (None, None, None)  # no groups, offsets or weight
ALONE = (None, "items", True)  # no process group, and a gradient
# seed, loss, epsilon, update, method, noise, samples of `ops.ap_loss`, by the names of LOSSES
OBJECTIVES = {
    "positive": DIRECT,
    "negative": (None, "direct", 0.7, "negative", "auto", 0.0, 1),
    "negative, dp": (None, "direct", 0.7, "negative", "dp", 0.0, 1),
    "symmetric": (None, "direct", 0.7, "symmetric", "auto", 0.0, 1),
    "hinge": (None, "hinge", 0.7, "positive", "auto", 0.0, 1),
    "hinge, dp": (None, "hinge", 0.7, "positive", "dp", 0.0, 1),
    "perceptron": (None, "perceptron", 1.0, "positive", "auto", 0.0, 1),
    "noise": (torch.tensor(5), "direct", 0.7, "symmetric", "auto", 0.5, 3),
}


def tensors(dtype: torch.dtype = torch.float64, ignored: float = 0.0, rankings: int = 3) -> tuple[Tensor, Tensor]:
    scores, targets = random_batch(1, rankings, 9, ignored=ignored, dtype=dtype)
    return scores.requires_grad_(), targets


# The tests that opcheck runs go through the tracer, which has warnings of its own.
ignores_warnings = pytest.mark.filterwarnings("ignore")


@ignores_warnings
@pytest.mark.parametrize(
    ("dtype", "ignored", "objective", "dim", "reduction", "backend"),
    [
        (torch.float32, 0.0, "positive", 1, "mean", "auto"),
        (torch.float64, 0.3, "negative", 1, "none", "reference"),
        (torch.float16, 0.3, "positive", 0, "sum", "auto"),
        (torch.bfloat16, 0.0, "hinge", 0, "none", "auto"),
        (torch.float32, 0.3, "perceptron", 0, "mean", "auto"),
        (torch.float32, 0.0, "negative", 1, "mean", "reference"),
        (torch.float32, 0.3, "negative, dp", 0, "mean", "auto"),
        (torch.float64, 0.0, "hinge, dp", 1, "none", "reference"),
        (torch.float32, 0.3, "noise", 0, "none", "auto"),
    ],
)
def test_opcheck_ap_loss(
    dtype: torch.dtype, ignored: float, objective: str, dim: int, reduction: str, backend: str
) -> None:
    index = -1 if ignored else None
    arguments = (*tensors(dtype, ignored), *EVEN, *OBJECTIVES[objective], dim, index, reduction, backend, *ALONE)
    torch.library.opcheck(ops.ap_loss, arguments)


@ignores_warnings
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 3), (3, 0)])
def test_opcheck_ap_loss_of_other_shapes(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    targets = torch.arange(scores.numel()).view(shape) % 3 == 0
    for dim in range(len(shape)):
        torch.library.opcheck(ops.ap_loss, (scores, targets, *EVEN, *DIRECT, dim, None, "none", "auto", *ALONE))


@ignores_warnings
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_opcheck_of_the_others(dtype: torch.dtype, dim: int) -> None:
    scores = tensors(dtype, rankings=5)[0].detach()
    # Both classes along either axis: opcheck takes NaN for a difference.
    targets = torch.tensor([1, 0, 0, -1])[(torch.arange(5)[:, None] + torch.arange(9)) % 4]
    for counts in (False, True):
        torch.library.opcheck(measures.average_precision, (scores, targets, *EVEN, dim, -1, counts))
    for options in ((0.7, "negative", "auto", dim, -1, "auto"), (0.7, "positive", "dp", dim, -1, "reference")):
        for measure in ((), ("ndcg", 1.0, 3)):
            torch.library.opcheck(measures.loss_augmented_ranking, (scores, targets, None, None, *options, *measure))
    torch.library.opcheck(measures.measured, (scores, targets, None, None, dim, -1, "bedroc", 20.0, 0))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dim", [0, 1])
def test_gradcheck(dim: int, reduction: str, loss: Loss, path: str) -> None:
    scores, targets = tensors(ignored=0.2, rankings=5)
    for weight in (0.2, 0.7, 5.0):
        options: dict[str, Any] = {"dim": dim, "ignore_index": -1, "reduction": reduction, "weight": weight}
        assert torch.autograd.gradcheck(lambda at: loss(at, targets, **options), scores)  # noqa: B023


@pytest.mark.parametrize("operator", [False, True])
def test_second_derivatives(operator: bool) -> None:
    """With respect to the scores they say nothing, and are an error; what comes in from above is differentiated."""
    scores, targets = tensors()
    by = torch.rand(3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    if operator:
        value = ops.ap_loss(scores, targets, *EVEN, *DIRECT, 1, None, "none", "auto", *ALONE)[0]
    else:
        value = fastap.direct_ap_loss(scores, targets, epsilon=0.7, reduction="none", dim=-1)
    (plain,) = torch.autograd.grad(value.sum(), scores, retain_graph=True)
    for total in (value.sum(), value.square().sum(), (by * value).sum()):
        (gradient,) = torch.autograd.grad(total, scores, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative with respect to the scores"):
            torch.autograd.grad(gradient.square().sum(), scores, retain_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward(retain_graph=True)
    torch.testing.assert_close(gradient, by[:, None] * plain, rtol=1e-15, atol=0)
    (mixed,) = torch.autograd.grad((gradient * scores.detach()).sum(), by)
    torch.testing.assert_close(mixed, (plain * scores.detach()).sum(1), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "noise"])
def test_the_operator_is_the_eager_function(objective: str) -> None:
    _, _, weight, _, method, _, _ = OBJECTIVES[objective]
    loss = LOSSES[objective.partition(",")[0]]
    options = {"method": method} if method == "dp" else {}
    for dtype in (torch.float16, torch.float32, torch.float64):
        scores, targets = tensors(dtype, ignored=0.2, rankings=5)
        values = (
            ops.ap_loss(scores, targets, *EVEN, *OBJECTIVES[objective], 0, -1, "mean", "auto", *ALONE)[0],
            loss(scores, targets, weight=weight, dim=0, ignore_index=-1, **options),
        )
        results = [(value.detach(), torch.autograd.grad(value, scores)[0]) for value in values]
        for operator, eager in zip(*results, strict=True):
            torch.testing.assert_close(operator, eager, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_losses_equal_the_oracle(dtype: torch.dtype, loss: Loss) -> None:
    scores, targets = tensors(dtype, ignored=0.2, rankings=5)
    for options in ({"dim": 1}, {"dim": 0, "reduction": "none"}):
        value = loss(scores, targets, ignore_index=-1, weight=0.7, **options)
        expected = loss(scores, targets, ignore_index=-1, weight=0.7, backend="reference", **options)
        assert value.dtype == expected.dtype
        tolerance = 1e-13 if dtype == torch.float64 else 3e-7
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
        (gradient,), (slope,) = (torch.autograd.grad(each.sum(), scores) for each in (value, expected))
        assert gradient.dtype == dtype
        tolerance = max(tolerance, torch.finfo(dtype).eps)
        torch.testing.assert_close(gradient, slope, rtol=tolerance, atol=tolerance * float(slope.abs().max()))


def test_compiled_is_eager_to_the_last_bit(loss: Loss) -> None:
    scores, targets = tensors(torch.float32, rankings=4)

    def step(at: Tensor, wanted: Tensor) -> Tensor:
        return loss(at * 2, wanted, weight=0.7) + at.square().mean()

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(scores, targets)
    eager = step(scores, targets)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, scores)[0], torch.autograd.grad(eager, scores)[0], rtol=0, atol=0
    )


def test_compiled_with_a_schedule_of_epsilon() -> None:
    """A number that changes from call to call becomes symbolic in the compiler."""
    scores, targets = tensors(torch.float32)

    def step(at: Tensor, wanted: Tensor, epsilon: float) -> Tensor:
        direct = fastap.direct_ap_loss(at, wanted, epsilon=epsilon, dim=-1)
        return direct + fastap.ap_hinge_loss(at, wanted, margin=epsilon, dim=-1)

    torch.compiler.reset()
    module = fastap.DirectAPLoss(dim=-1, noise=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        compiled_module = torch.compile(module, fullgraph=True, backend="aot_eager")
        for epsilon in (1.0, 0.5, 0.25, 0.1):
            given = compiled(scores, targets, epsilon)
            torch.testing.assert_close(given, step(scores, targets, epsilon), rtol=0, atol=0)
            module.epsilon = epsilon
            given = compiled_module(scores, targets)
            torch.testing.assert_close(given, module(scores, targets), rtol=0, atol=0)


def test_the_graph_can_be_used_twice(loss: Loss) -> None:
    scores, targets = tensors()
    value = loss(scores, targets)
    (first,) = torch.autograd.grad(value, scores, retain_graph=True)
    (second,) = torch.autograd.grad(value, scores)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first.abs().max() > 0
    total = loss(scores, targets) + 2 * loss(scores, targets)
    torch.testing.assert_close(torch.autograd.grad(total, scores)[0], 3 * first, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_alone(dtype: torch.dtype, loss: Loss, path: str) -> None:
    scores, targets = tensors(dtype, ignored=0.2)
    scores.detach()[0, 2] = torch.nan
    kept = scores.detach().clone(), targets.clone()
    loss(scores, targets, ignore_index=-1).backward()
    fastap.average_precision(scores, targets, ignore_index=-1, dim=-1)
    fastap.loss_augmented_ranking(scores, targets, ignore_index=-1, dim=-1)
    torch.testing.assert_close(scores.detach(), kept[0], rtol=0, atol=0, equal_nan=True)
    assert (targets == kept[1]).all()


def test_targets_get_no_gradient(loss: Loss) -> None:
    scores, targets = tensors()
    wanted = targets.double().requires_grad_()
    loss(scores, wanted).backward()
    assert wanted.grad is None
    assert scores.grad is not None

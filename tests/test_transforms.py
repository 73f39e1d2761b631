"""torch.compile, torch.export and torch.func: the same numbers, without breaks, and without compiling every time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import fastap
from tests.kernels import often
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient

FUNCTIONS = {
    "positive": partial(fastap.direct_ap_loss, dim=-1),
    "negative": partial(fastap.direct_ap_loss, dim=-1, update="negative"),
    "hinge": partial(fastap.ap_hinge_loss, dim=-1),
}
OFFSETS = torch.tensor([0, 9, 9, 27])
GROUPS = torch.tensor([5, -2, 5, 5, -2, 8, 8, -2, 5] * 3)
LAYOUTS = {"groups": GROUPS, "offsets": OFFSETS}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler itself
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def flat() -> tuple[Tensor, Tensor]:
    scores, targets = random_batch(3, 1, 27, dtype=torch.float32)
    return scores[0].requires_grad_(), targets[0]


def equal(given: Any, wanted: Any) -> None:
    torch.testing.assert_close(given, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "layout", "reduction"),
    often(
        ("positive", "groups", "mean"), ("negative", "offsets", "none"), ("hinge", "groups", "none"),
        ("perceptron", "offsets", "sum"),
        full=[("positive", "offsets", "none"), ("negative", "groups", "sum"), ("hinge", "offsets", "mean")],
    ),
)  # fmt: skip
def test_compiled_ragged_losses(name: str, layout: str, reduction: str) -> None:
    loss, (scores, targets), given = LOSSES[name], flat(), {layout: LAYOUTS[layout]}
    weights = torch.tensor([1.0, 0.0, 3.0])

    def step(at: Tensor, layout: dict[str, Tensor], weights: Tensor) -> Tensor:
        plain = loss(2 * at, targets, reduction=reduction, **layout)
        return plain + loss(at, targets, reduction=reduction, weight=0.3, **layout) * weights.mean()

    value, expected = compiled(step)(scores, given, weights), step(scores, given, weights)
    equal(value, expected)
    equal(*(torch.autograd.grad(each.square().sum(), scores)[0] for each in (value, expected)))


@pytest.mark.parametrize("name", often("groups", full=["offsets"]))
def test_compiled_ragged_metric_ranking_and_weights(name: str) -> None:
    (scores, targets), layout = flat(), {name: LAYOUTS[name]}
    weight, sample_weight = torch.tensor([1.0, 0.5, 3.0]), torch.linspace(0, 1, 27)
    for function, options in (
        (partial(fastap.average_precision, dim=-1), {}),
        (partial(fastap.average_precision, dim=-1), {"sample_weight": sample_weight}),
        (partial(fastap.loss_augmented_ranking, dim=-1), {}),
        (partial(fastap.direct_ap_loss, dim=-1), {"weight": weight}),
        (fastap.DirectAPLoss(dim=-1, reduction="none", noise=0), {"weight": weight}),
    ):
        given = compiled(lambda at, f=function, o=options: f(at, targets, **layout, **o))(scores)
        equal(given, function(scores, targets, **layout, **options))


@pytest.mark.parametrize("name", often("negative", full=["positive", "hinge", "perceptron"]))
def test_compiled_nested_tensors(name: str) -> None:
    loss, (scores, targets) = LOSSES[name], flat()
    nested = torch.nested.nested_tensor_from_jagged(scores, OFFSETS)
    wanted = torch.nested.nested_tensor_from_jagged(targets, OFFSETS)
    value, expected = compiled(loss)(nested, wanted), loss(nested, wanted)
    equal(value, expected)
    equal(*(torch.autograd.grad(each, scores)[0] for each in (value, expected)))


def _even(size: int) -> tuple[Tensor, ...]:
    return random_batch(size, size, 11, dtype=torch.float32)


def _by_offsets(size: int) -> tuple[Tensor, ...]:
    scores, targets = random_batch(size, 1, 5 * size, dtype=torch.float32)
    return scores[0], targets[0], torch.arange(size + 1) * 5


def _by_groups(size: int) -> tuple[Tensor, ...]:
    scores, targets, _ = _by_offsets(size)
    return scores, targets, torch.arange(5 * size) % size


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (partial(fastap.direct_ap_loss, dim=-1), _even),
        (lambda s, t: fastap.direct_ap_loss(s, t, dim=0, update="negative", reduction="none"), _even),
        (lambda s, t: fastap.ap_hinge_loss(s, t, dim=-1, weight=s.detach()[:, 0].abs()), _even),
        (lambda s, t: fastap.average_precision(s, t, dim=-1, sample_weight=t.abs()), _even),
        (lambda s, t: fastap.loss_augmented_ranking(s, t, dim=-1).ranks, _even),
        (lambda s, t, o: fastap.direct_ap_loss(s, t, offsets=o, reduction="none"), _by_offsets),
        (lambda s, t, o: fastap.average_precision(s, t, offsets=o), _by_offsets),
        (lambda s, t, g: fastap.ap_perceptron_loss(s, t, groups=g), _by_groups),
        (lambda s, t: fastap.direct_cost_loss(s, t[:, 0]), _even),
    ],
    ids=["mean", "none", "weight", "sample_weight", "ranks", "offsets", "metric by offsets", "groups", "classes"],
)
def test_batches_of_any_size_compile_twice(
    function: Callable[..., Tensor], batch: Callable[[int], tuple[Tensor, ...]]
) -> None:
    """Once for the first size, and once for all others."""
    counter = CompileCounter()
    step = torch.compile(function, fullgraph=True, backend=counter)
    for size in (4, 6, 19):
        inputs = batch(size)
        equal(step(*inputs), function(*inputs))
    assert counter.frame_count == 2


class _Model(torch.nn.Module):
    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ranking = fastap.loss_augmented_ranking(scores, targets, dim=-1)
        return self.loss(scores, targets), fastap.average_precision(scores, targets, dim=-1), ranking.ranks


@pytest.mark.parametrize(
    "module",
    [
        fastap.DirectAPLoss(dim=-1, epsilon=0.3, update="negative", noise=0),
        fastap.APHingeLoss(dim=-1, reduction="none"),
        fastap.APPerceptronLoss(dim=-1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_export(module: torch.nn.Module) -> None:
    axis = torch.export.Dim("rankings", min=2)
    program = torch.export.export(_Model(module), _even(4), dynamic_shapes=({0: axis}, {0: axis}))
    for size in (4, 9):
        inputs = _even(size)
        equal(program.module()(*inputs), _Model(module)(*inputs))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_vmap_is_the_loop(dim: int, reduction: str, loss: Loss) -> None:
    scores, targets = random_batch(5, 4 * 3, 7, ignored=0.2)
    scores, targets = scores.view(4, 3, 7), targets.view(4, 3, 7)
    targets[2, 1] = 0  # a ranking without a positive, and a sample without any
    targets[3] = 1
    options: dict[str, Any] = {"dim": dim, "reduction": reduction, "ignore_index": -1}

    def batched(at: Tensor, by: Tensor, **_: Any) -> Tensor:
        return torch.func.vmap(lambda one, other: loss(one, other, **options))(at, by)

    def looped(at: Tensor, by: Tensor, **_: Any) -> Tensor:
        return torch.stack([loss(one, other, **options) for one, other in zip(at, by, strict=True)])

    for given, wanted in zip(
        value_and_gradient(batched, scores, targets), value_and_gradient(looped, scores, targets), strict=True
    ):
        torch.testing.assert_close(given, wanted, rtol=1e-14, atol=1e-16)
    # Over another axis, and with targets that all samples share.
    given = torch.func.vmap(lambda one: loss(one, targets[0], **options), in_dims=2)(scores.permute(1, 2, 0))
    wanted = torch.stack([loss(one, targets[0], **options) for one in scores])
    torch.testing.assert_close(given, wanted, rtol=1e-14, atol=1e-16)


def test_vmap_of_metric_and_ranking() -> None:
    scores, targets = random_batch(6, 8, 7)
    equal(torch.func.vmap(fastap.average_precision)(scores, targets), fastap.average_precision(scores, targets, dim=-1))
    given = torch.func.vmap(fastap.loss_augmented_ranking)(scores, targets)
    equal(tuple(given), tuple(fastap.loss_augmented_ranking(scores, targets, dim=-1)))
    two = torch.func.vmap(torch.func.vmap(fastap.average_precision))(scores.view(2, 4, 7), targets.view(2, 4, 7))
    equal(two.view(8), fastap.average_precision(scores, targets, dim=-1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mapped", [False, True])
def test_vmap_of_weights(mapped: bool, reduction: str) -> None:
    """One weight a class for all samples, or each sample's own; and of items, for the metric."""
    generator = torch.Generator().manual_seed(8)
    scores, targets = (each.view(4, 2, 3, 7) for each in random_batch(8, 24, 7))
    weights = torch.rand(4, 2, 3, generator=generator) if mapped else torch.tensor([1.0, 0.0, 3.0])
    items = torch.rand(4, 2, 3, 7, generator=generator) if mapped else torch.rand(2, 3, 7, generator=generator)
    in_dims = (0, 0, 0 if mapped else None)

    def call(function: Loss, at: Tensor, by: Tensor, weight: Tensor) -> Tensor:
        return function(at, by, weight=weight, reduction=reduction)

    for one in (partial(call, function) for function in FUNCTIONS.values()):
        leaf = scores.clone().requires_grad_()
        given = torch.func.vmap(one, in_dims)(leaf, targets, weights)
        each = weights if mapped else [weights] * 4
        wanted = torch.stack([one(*sample) for sample in zip(leaf, targets, each, strict=True)])
        torch.testing.assert_close(given, wanted, rtol=1e-14, atol=1e-16)
        gradients = [torch.autograd.grad(value.square().sum(), leaf)[0] for value in (given, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-16)
    given = torch.func.vmap(
        lambda at, by, weight: fastap.average_precision(at, by, sample_weight=weight, dim=-1), in_dims
    )(scores, targets, items)
    torch.testing.assert_close(
        given,
        fastap.average_precision(scores, targets, sample_weight=items.expand(scores.shape), dim=-1),
        equal_nan=True,
    )


def test_vmap_of_no_sample(loss: Loss) -> None:
    for shape in ((0, 5), (0, 2, 5)):
        value = torch.func.vmap(loss)(torch.zeros(shape), torch.zeros(shape, dtype=torch.long))
        assert value.shape == (0,)


def test_vmap_of_what_it_cannot_map() -> None:
    scores, targets = random_batch(6, 4, 27)
    for call in (fastap.direct_ap_loss, fastap.average_precision, fastap.loss_augmented_ranking):
        with pytest.raises(NotImplementedError, match="vmap does not map groups and offsets"):
            torch.func.vmap(lambda s, t, call=call: call(s, t, groups=GROUPS))(scores, targets)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_torch_func(name: str) -> None:
    scores, targets = random_batch(7, 12, 7)
    loss, samples = LOSSES[name], (scores.view(4, 3, 7), targets.view(4, 3, 7))
    expected = value_and_gradient(loss, scores, targets, reduction="mean")[1]
    equal(torch.func.grad(loss)(scores, targets), expected)
    value, gradient = torch.func.grad_and_value(loss)(scores, targets)[::-1]
    equal((value, gradient), (loss(scores, targets), expected))
    one_by_one = torch.stack(
        [value_and_gradient(loss, *each, reduction="mean")[1] for each in zip(*samples, strict=True)]
    )
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(*samples), one_by_one, rtol=1e-14, atol=1e-17)
    jacobian = torch.func.jacrev(lambda at: loss(at, targets, reduction="none"))(scores)
    torch.testing.assert_close(jacobian.sum(0), 12 * expected, rtol=1e-14, atol=1e-16)
    with pytest.raises(RuntimeError, match="no second derivative with respect to the scores"):
        torch.func.jacrev(torch.func.jacrev(loss))(scores, targets)

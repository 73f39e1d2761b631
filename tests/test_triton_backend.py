"""What a user sees of ``backend="triton"``, on both of its paths, from memory full of NaN.

Without a GPU the kernels run on an emulated one, a thousand times slower: so the problems are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import fastap
from fastap import backends
from fastap.backends import native, reference
from fastap.backends import triton as triton_backend
from fastap.backends.triton import inputs
from fastap.types import Batch
from tests.kernel_batches import corners, exact_precision, stacked
from tests.kernels import DEVICE, few_programs, often, poisoned
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient
from tests.paths import TRITON_PATHS, solving

pytestmark = pytest.mark.usefixtures("gpu")

SHORT, LONG = TRITON_PATHS
# Where the loss does not matter, the one that searches nothing.
PLAIN = LOSSES["perceptron"]


@pytest.fixture(params=TRITON_PATHS)
def triton_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each path, with small tiles."""
    with solving(request.param), poisoned():
        yield request.param


@pytest.fixture(params=often(SHORT, full=[LONG]))
def one_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the other path is much the same, or is met in another file."""
    with solving(request.param), poisoned():
        yield request.param


def on(loss: Loss, scores: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient on the Triton backend."""
    value, gradient = value_and_gradient(loss, scores.to(DEVICE), targets.to(DEVICE), backend="triton", **options)
    return value.cpu(), gradient.cpu()


def judge(loss: Loss, scores: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The same of the reference."""
    return value_and_gradient(loss, scores, targets, backend="reference", **options)


def identical(given: Tensor, expected: Tensor) -> None:
    """Equal to the last bit, type and shape included; NaN equals NaN."""
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


def as_reference(given: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Of the same types and shapes; equal but for the order in which sums are taken."""
    for ours, theirs in zip(given, expected, strict=True):
        eps = torch.finfo(ours.dtype).eps
        rounding = 1e-12 if ours.dtype == torch.float64 else 2 * eps
        torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding / 8, equal_nan=True)


# Losses


@pytest.mark.parametrize(
    ("path", "name"),
    often((SHORT, "negative"), (LONG, "perceptron"), full=[*product(TRITON_PATHS, ("positive", "hinge"))]),
)
def test_ties_and_order_and_again(path: str, name: str) -> None:
    """Equal scores and zeros of both signs; to the bit the same twice, and however the items come in."""
    dtype = torch.float16 if path == SHORT else torch.float32
    scores, targets = random_batch(2, 2, 20, levels=4, dtype=dtype)
    scores[1] = torch.where(scores[1] < 2, -0.0, 0.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    with solving(path), poisoned():
        first, again = (on(LOSSES[name], scores, targets) for _ in range(2))
        value, gradient = on(LOSSES[name], scores[:, order], targets[:, order])
    as_reference(first, judge(LOSSES[name], scores, targets))
    for others in (again, (value, gradient[:, order.argsort()])):
        for one, other in zip(first, others, strict=True):
            identical(one, other)


AVERAGED = [(SHORT, torch.float16), (LONG, torch.float64), ("ragged", torch.float32)]


@pytest.mark.parametrize(
    ("path", "dtype", "rows"),
    often(
        *((path, dtype, slice(number, None, 3)) for number, (path, dtype) in enumerate(AVERAGED)),
        full=[(path, dtype, slice(None)) for path, dtype in AVERAGED],
    ),
)
def test_average_precision(path: str, dtype: torch.dtype, rows: slice) -> None:
    scores, targets = stacked([*corners(21).values()][rows], dtype)
    if path == "ragged":
        offsets = torch.arange(0, scores.numel() + 1, 21, device=DEVICE)
        with few_programs():
            batch = Batch(scores.flatten(), targets.flatten(), -1, offsets)
            given = triton_backend.average_precision(batch).cpu()
    else:
        with solving(path), poisoned():
            given = triton_backend.average_precision(Batch(scores, targets, -1)).cpu()
    assert given.dtype == torch.float64
    for number, (score, target) in enumerate(zip(scores.cpu(), targets.cpu(), strict=True)):
        expected = exact_precision(score.tolist(), target.tolist(), [1.0] * 21)
        assert (given[number].isnan() and expected is None) or float(given[number]) == pytest.approx(
            float(expected), rel=1e-14
        )


@pytest.mark.parametrize("reduction", often("mean", full=["sum", "none"]))
def test_losses_and_reductions(reduction: str, loss: Loss, one_path: str) -> None:
    scores, targets = random_batch(1, 4, 17, ignored=0.2, dtype=torch.float32)
    targets[1], targets[2] = 0, -1  # take no part
    options: dict[str, Any] = {"reduction": reduction, "ignore_index": -1, "weight": 0.4}
    as_reference(on(loss, scores, targets, **options), judge(loss, scores, targets, **options))
    value, gradient = on(loss, scores[1:3], targets[1:3], **options)
    assert (value == 0).all()
    assert (gradient == 0).all()


# Types, axes, views


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_score_types(dtype: torch.dtype, one_path: str) -> None:
    scores, targets = random_batch(6, 1, 20, dtype=dtype)
    given = on(LOSSES["negative"], scores, targets)
    assert given[1].dtype == dtype
    as_reference(given, judge(LOSSES["negative"], scores, targets))


TARGET_TYPES = [
    (torch.bool, None),
    (torch.uint8, 255),
    (torch.int64, 2**40),
    (torch.float16, -1),
    (torch.uint8, -1),  # which no uint8 is
    (torch.bool, -1),
    (torch.int8, -1),
    (torch.int64, -100),
    (torch.bfloat16, 2),
    (torch.float64, -100),
]


@pytest.mark.parametrize(("dtype", "index"), often(*TARGET_TYPES[:5], full=TARGET_TYPES[5:]))
def test_target_types(dtype: torch.dtype, index: int | None, one_path: str) -> None:
    scores, targets = random_batch(7, 1, 18, ignored=0.2, dtype=torch.float32)
    none_ignored = index is None or dtype == torch.bool or (dtype == torch.uint8 and index < 0)
    ignored = (targets < 0) & (not none_ignored)
    given = torch.where(ignored, index or 0, targets.clamp(min=0)).to(dtype)
    value, gradient = on(PLAIN, scores, given, ignore_index=index)
    expected = judge(PLAIN, scores, torch.where(ignored, -1, targets.clamp(min=0)), ignore_index=-1)
    as_reference((value, gradient), expected)
    assert (gradient[ignored] == 0).all()


@pytest.mark.parametrize("dim", often(0, full=[1, -1]))
def test_every_axis_without_a_copy(dim: int, one_path: str) -> None:
    scores, targets = (each[0].view(3, 2, 2).to(DEVICE) for each in random_batch(8, 1, 12, dtype=torch.float32))
    leaf = scores.clone().requires_grad_()
    with mock.patch.object(triton_backend, "inputs_of", wraps=inputs.inputs_of) as seen:
        value = PLAIN(leaf, targets, dim=dim, reduction="none", backend="triton")
    batch, *_ = seen.call_args.args
    _, memory = inputs.inputs_of(batch)
    for given, user in zip(memory, (leaf, targets), strict=False):
        assert given.untyped_storage().data_ptr() == user.untyped_storage().data_ptr()
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    value, gradient = value.detach().cpu(), gradient.cpu()
    matrix = [each.movedim(dim, -1).reshape(-1, scores.shape[dim]) for each in (scores, targets)]
    expected, slope = on(PLAIN, *matrix)
    assert value.shape == scores.select(dim, 0).shape
    identical(value, expected.view(value.shape))
    identical(gradient.movedim(dim, -1).reshape(slope.shape), slope)


def test_strides_do_not_matter(one_path: str) -> None:
    scores, targets = (each.to(DEVICE) for each in random_batch(9, 4, 8, dtype=torch.float32))
    expected = on(PLAIN, scores, targets)
    wide, tall = scores.repeat_interleave(2, 1)[:, ::2], targets.repeat_interleave(3, 1)[:, ::3]
    four = scores.view(2, 2, 8).repeat_interleave(2, 1)[:, ::2].unsqueeze(1), targets.view(2, 1, 2, 8)
    for given in ((wide, tall), four):
        leaf = given[0].detach().requires_grad_()
        value = PLAIN(leaf, given[1], reduction="none", backend="triton")
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        identical(value.detach().cpu().view(4), expected[0])
        identical(gradient.cpu().reshape(4, 8), expected[1])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty_tensors(shape: tuple[int, ...], loss: Loss, one_path: str) -> None:
    for reduction in ("mean", "sum", "none"):
        value, gradient = on(loss, torch.zeros(shape), torch.zeros(shape), reduction=reduction)
        assert (value == 0).all()
        assert value.shape == (shape[:-1] if reduction == "none" else ())
        assert gradient.shape == shape
    ranks, value = fastap.loss_augmented_ranking(
        *(torch.zeros(shape, device=DEVICE) for _ in range(2)), backend="triton", dim=-1
    )
    assert ranks.shape == shape
    assert value.isnan().all()


# What cannot be an error, since nobody looks at values


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    often((torch.uint8, 255), (torch.float32, torch.nan), full=[(torch.int8, -2), (torch.float32, 0.5)]),
)
def test_wrong_targets(dtype: torch.dtype, wrong: float, one_path: str) -> None:
    scores, targets = random_batch(11, 3, 8, dtype=torch.float32)
    clean = on(PLAIN, scores[:1], targets[:1])
    given = targets.to(dtype)
    given[1, 5] = wrong
    given[2], given[2, 4] = 0, wrong  # no positive, but nobody knows what the wrong one is
    value, gradient = on(PLAIN, scores, given, ignore_index=-1)
    identical(value[:1], clean[0])
    identical(gradient[:1], clean[1])
    assert value[1:].isnan().all()
    assert gradient[1:].isnan().all()
    mean, slope = on(PLAIN, scores, given, reduction="mean")
    assert mean.isnan()
    torch.testing.assert_close(slope[0], gradient[0] / 3)
    metric = triton_backend.average_precision(Batch(scores.to(DEVICE), given.to(DEVICE), None))
    assert metric.isnan().tolist() == [False, True, True]


# Errors, and who serves a call


def test_rankings_that_are_too_long() -> None:
    scores, targets = torch.randn(2, 9, device=DEVICE), torch.ones(2, 9, device=DEVICE)
    with mock.patch.object(inputs, "MOST_ITEMS", 8):
        with pytest.raises(ValueError, match=r"scores must have at most 8 items .* got 9"):
            fastap.direct_ap_loss(scores, targets, backend="triton", dim=-1)
        with pytest.raises(ValueError, match=r"scores must have at most 8 items .* got 9"):
            fastap.loss_augmented_ranking(scores, targets, backend="triton", dim=-1)


@pytest.mark.parametrize("has_triton", [True, False])
def test_auto_is_the_fastest_that_is_there(has_triton: bool) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    with mock.patch.object(backends, "HAS_TRITON", has_triton):
        assert backends.get("auto", cuda) is (triton_backend if has_triton else native)
        assert backends.get("auto", cpu) is native
    for where in (cuda, cpu):
        assert backends.get("reference", where) is reference
        assert backends.get("triton", where) is triton_backend

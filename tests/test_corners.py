"""Corners where the paths, the operator and the arithmetic meet: exact ties, odd devices, the ends of the types."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastap
from tests.losses import LOSSES, Loss, value_and_gradient
from tests.paths import PATHS, solving


@pytest.mark.parametrize("path", [*PATHS, "auto"])
def test_an_optimum_on_the_kink_does_not_push(path: str) -> None:
    """Two rankings of equal worth: every path takes the one with the better standard order."""
    scores, targets = torch.tensor([0.75, 0.5]), torch.tensor([1, 0])
    for loss in (fastap.ap_hinge_loss, fastap.direct_ap_loss):
        leaf = scores.clone().requires_grad_()
        with solving(path):
            loss(leaf, targets).backward()
        assert leaf.grad.tolist() == [0.0, 0.0]


def test_a_ranking_alone_equals_itself_in_a_large_batch(loss: Loss) -> None:
    """Alone on one thread, in the batch on several."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(9_000, 12, generator=generator)
    targets = torch.rand(9_000, 12, generator=generator) < 0.4
    targets[:, 0], targets[:, 1] = True, False
    values, gradients = value_and_gradient(loss, scores, targets, reduction="none")
    for row in range(0, 9_000, 1_000):
        value, gradient = value_and_gradient(loss, scores[row], targets[row])
        torch.testing.assert_close(value, values[row], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, gradients[row], rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_meta_and_fake_tensors_have_shapes(reduction: str) -> None:
    shape = [] if reduction == "mean" else [3]
    with torch.device("meta"):
        meta = fastap.direct_ap_loss(torch.empty(3, 7), torch.empty(3, 7), reduction=reduction, dim=-1)
    assert meta.device.type == "meta"
    assert list(meta.shape) == shape
    with FakeTensorMode():
        fake = fastap.direct_ap_loss(torch.empty(3, 7), torch.empty(3, 7), reduction=reduction, dim=-1)
        assert list(fake.shape) == shape


def test_a_default_device_is_not_asked(path: str, loss: Loss) -> None:
    scores, targets = torch.tensor([0.1, 0.9, 0.4]), torch.tensor([1, 0, 0])
    with solving(path):
        expected = value_and_gradient(loss, scores, targets)
        with torch.device("meta"):
            given = value_and_gradient(loss, scores, targets)
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "target", "index"),
    [
        (torch.int8, -1, 255),
        (torch.int32, -1, 2**32 - 1),
        (torch.uint8, 255, -1),
        (torch.uint8, 2, 258),
        (torch.float16, 2048, 2049),
    ],
)
def test_ignore_index_does_not_wrap_to_the_type_of_the_targets(dtype: torch.dtype, target: int, index: int) -> None:
    targets = torch.tensor([1, 0, target], dtype=dtype)
    with pytest.raises(ValueError, match=f"targets must be 0, 1 or ignore_index = {index}, got {target}"):
        fastap.direct_ap_loss(torch.zeros(3), targets, ignore_index=index)


@pytest.mark.parametrize("fill", [-1e9, -1e12, -1e30, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("update", ["positive", "negative"])
def test_masked_negatives_cost_no_digits(update: str, fill: float, path: str) -> None:
    """Masked logits: most negatives are far below everything else, and might as well be at -1,000."""
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(300, generator=generator), torch.arange(300) < 30
    scores[:30] += 1
    masked = torch.arange(300) >= 120
    with solving(path):
        expected = value_and_gradient(LOSSES[update], scores.masked_fill(masked, -1e3), targets, weight=0.3)
        value, gradient = value_and_gradient(LOSSES[update], scores.masked_fill(masked, fill), targets, weight=0.3)
    torch.testing.assert_close(value, expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-6, atol=1e-9)

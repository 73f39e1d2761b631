"""Autocast, gradient scaling and 16-bit scores: float64 inside, and an error that is bounded by rounding the scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastap
from tests.losses import Loss, random_batch, value_and_gradient

HALVES = (torch.float16, torch.bfloat16)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def _skip_without(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_scores_are_taken_as_they_are(dtype: torch.dtype, device: str, loss: Loss) -> None:
    """With many ties: of 3,000 Gaussian scores the most frequent in bfloat16 occur ten times and more."""
    _skip_without(device)
    scores, targets = (each.to(device) for each in random_batch(0, 2, 3_000, ignored=0.1, dtype=dtype))
    assert max(row.unique().numel() for row in scores) < 2_800
    for options in ({}, {"weight": 0.05}):
        value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, **options)
        exact, slope = value_and_gradient(loss, scores.double(), targets, ignore_index=-1, **options)
        assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
        torch.testing.assert_close(value.double(), exact, rtol=2**-23, atol=0)
        # Rounded once to float32 and once to 16 bits; below the least normal number the spacing is what it is.
        half = torch.finfo(dtype)
        error = (gradient.double() - slope).abs()
        assert (error <= slope.abs() * (half.eps / 2 + 2**-22) + half.tiny * half.eps).all()


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_the_scores_costs_no_more_than_stated(dtype: torch.dtype, update: str, epsilon: float) -> None:
    """``|D(rounded) - D| <= 4 u max|score| / epsilon``, u half the spacing at 1: a score counts at most 2 in ``F``."""
    worst = 0.0
    for seed, scale in ((0, 1.0), (1, 30.0), (2, 1e-3)):
        scores, targets = random_batch(seed, 20, 300)
        scores = scores * scale
        options: dict[str, Any] = {"update": update, "epsilon": epsilon, "reduction": "none"}
        exact = fastap.direct_ap_loss(scores, targets, **options, dim=-1)
        given = fastap.direct_ap_loss(scores.to(dtype), targets, **options, dim=-1)
        bound = 4 * torch.finfo(dtype).eps / 2 * scores.abs().amax(-1) / epsilon + 2**-23
        error = (given.double() - exact).abs()
        assert (error <= bound).all()
        worst = max(worst, float((error / bound).max()))
    assert worst > 0.001  # a bound that says something


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast(dtype: torch.dtype, device: str, loss: Loss) -> None:
    """The scores come out of the network in 16 bits; weights get float32 gradients."""
    _skip_without(device)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 12, generator=generator).to(device)
    targets = (torch.rand(200, 3, generator=generator) < 0.2).to(device)
    model = torch.nn.Linear(12, 3).to(device)
    with torch.autocast(device, dtype):
        scores = model(inputs)
        value = loss(scores, targets, dim=0)
        precision = fastap.average_precision(scores, targets, dim=0)
    assert scores.dtype == dtype
    assert (value.dtype, precision.dtype) == (torch.float32, torch.float64)
    equal = loss(scores.detach().double(), targets, dim=0)
    torch.testing.assert_close(value.double(), equal, rtol=2**-22, atol=0)
    value.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_scaled_loss_that_overflows_skips_its_step(device: str, loss: Loss) -> None:
    """The scaler sees infinite gradients, leaves the weights alone and halves its scale until a step goes through."""
    _skip_without(device)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 5, generator=generator).to(device)
    targets = (torch.rand(64, generator=generator) < 0.3).to(device)
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**30, backoff_factor=2.0**-8)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    skipped = 0
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast(device, torch.float16):
            value = loss(model(inputs)[:, 0], targets)
        assert value.isfinite()
        scale = scaler.get_scale()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = any(bool((now != then).any()) for now, then in zip(model.parameters(), before, strict=True))
        if scaler.get_scale() < scale:
            skipped += 1
            assert not moved
        elif moved:
            break
    assert skipped >= 1
    assert moved
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())

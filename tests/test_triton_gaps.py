"""Scores that span so many epsilons that a sum of them loses what is small against one, on the Triton backend.

Exact fractions are the judge, on every path: one launch for short rankings, a program a ranking end to end, and the
stages of long ones. Without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastap
from tests.kernels import DEVICE, interpreted, poisoned, quiet
from tests.losses import LOSSES, value_and_gradient
from tests.paths import solving
from tests.strategies import ranking_value, truth
from tests.test_triton_ragged import few_programs

pytestmark = [*quiet, interpreted]

SHORT, RAGGED, LONG = "triton-short", "ragged", "triton-long"
PATHS = [(SHORT, torch.float32), (RAGGED, torch.float64), (LONG, torch.float32), (LONG, torch.float64)]
UPDATES = {"positive": 1, "negative": -1}


def hostile(kind: str, seed: int, items: int) -> tuple[Tensor, Tensor]:
    """Scores of that kind in float64, and targets of both classes."""
    rng = np.random.default_rng([seed, len(kind)])
    targets = (rng.random(items) < 0.4).astype(np.int64)
    targets[:2] = 1, 0
    scores = rng.normal(size=items)
    # A positive, a negative or any.
    one = rng.choice([0, 1, items - 1])
    if kind == "one up":
        scores[one] = rng.choice([1e12, 1e20, 1e30])
    elif kind == "one down":
        scores[one] = -rng.choice([1e12, 1e20, 1e30])
    elif kind == "one up and one down":
        scores[:2] = rng.permutation([1e20, -1e14])
    elif kind == "one up, others level but for 1e-25":
        # Where gaps are cut these are equal, and yet the standard ranking tells them apart.
        scores *= 1e-25
        scores[one] = 1e20
    elif kind == "many scales":
        scores *= 10.0 ** rng.choice([-3, 0, 6, 20], items)
    elif kind == "clusters":
        scores += rng.choice([0.0, 1e10, -1e14, 1e20], items)
    elif kind == "tied in clusters":
        scores = rng.integers(-2, 3, items) + rng.choice([0.0, 2.0**24, -(2.0**26), 2.0**60], items)
    elif kind == "tied on many scales":
        scores = rng.integers(-2, 3, items) * rng.choice([1e-3, 1.0, 1e6, 1e20], items)
    return torch.from_numpy(scores), torch.from_numpy(targets)


KINDS = (
    "one up",
    "one down",
    "one up and one down",
    "one up, others level but for 1e-25",
    "many scales",
    "clusters",
    "tied in clusters",
    "tied on many scales",
)


@contextmanager
def on(path: str, items: int) -> Iterator[dict[str, Any]]:
    """Inside, small tiles of that path and memory full of NaN; the options that a call needs."""
    if path == RAGGED:
        with few_programs():
            yield {"backend": "triton", "offsets": torch.tensor([0, items], device=DEVICE)}
    else:
        with solving(path), poisoned():
            yield {"backend": "triton"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("path", "dtype"), PATHS)
def test_losses_are_exact(path: str, dtype: torch.dtype, name: str, kind: str) -> None:
    for seed, (items, scale, method) in enumerate([(19, 0.3, "auto"), (9, 7.0, "dp")]):
        if name == "perceptron" and method == "dp":
            continue
        scores, targets = hostile(kind, seed, items)
        scores = scores.to(dtype)
        exact = truth(scores.double().tolist(), targets.tolist(), name, scale)
        with on(path, items) as options:
            if name != "perceptron":
                options["method"] = method
            value, gradient = value_and_gradient(
                LOSSES[name], scores.to(DEVICE), targets.to(DEVICE), weight=scale, **options
            )
        unit = 1e-9 if dtype == torch.float64 else 3e-7
        absolute = {"perceptron": 0.0, "hinge": 1e-9 * scale}.get(name, 1e-9)
        assert float(value) == pytest.approx(float(exact.loss), rel=unit, abs=absolute)
        if exact.gradient is not None:
            largest = float(np.abs(exact.gradient).max())
            np.testing.assert_allclose(gradient.cpu().double().numpy(), exact.gradient, rtol=unit, atol=unit * largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("path", [RAGGED, LONG])
def test_rankings_attain_their_value(path: str, update: str, kind: str) -> None:
    for seed, (items, scale, method, dtype) in enumerate(
        [(19, 0.3, "auto", torch.float32), (9, 7.0, "dp", torch.float64)]
    ):
        scores, targets = hostile(kind, seed, items)
        scores = scores.to(dtype)
        given = scores.double().tolist(), targets.tolist()
        exact = truth(*given, update, scale)
        with on(path, items) as options:
            ranks, value = fastap.loss_augmented_ranking(
                scores.to(DEVICE), targets.to(DEVICE), epsilon=scale, update=update, method=method, **options
            )
        assert sorted(ranks.tolist()) == list(range(items))
        attained = ranking_value(*given, ranks.tolist(), UPDATES[update] * scale)
        assert exact.best - attained <= Fraction(scale) / 10**8
        span = Fraction(max(map(abs, given[0])))
        assert abs(Fraction(float(value)) - exact.best) <= (span + Fraction(scale)) / 10**13


@pytest.mark.parametrize("path", [SHORT, RAGGED, LONG])
@pytest.mark.parametrize("name", LOSSES)
def test_a_ranking_far_apart_says_nothing_of_others(name: str, path: str) -> None:
    """To the bit, beside rankings that are cut and with ignored items."""
    scores, targets = (
        torch.stack(each) for each in zip(*(hostile("none", seed, 13) for seed in range(3)), strict=True)
    )
    targets[:, 5] = -1
    far = scores.clone()
    far[1, :2] = torch.tensor([-1e15, 1e20]).double()
    far[:, 5] = torch.nan
    shape = scores.shape if path != RAGGED else (scores.numel(),)
    results = []
    for given in (scores, far):
        with on(path, 13) as options:
            if path == RAGGED:
                options["offsets"] = torch.arange(0, 40, 13, device=DEVICE)
            value, gradient = value_and_gradient(
                LOSSES[name], given.float().to(DEVICE).view(shape), targets.to(DEVICE).view(shape), ignore_index=-1,
                **options,
            )  # fmt: skip
        results.append((value.cpu(), gradient.cpu().view(scores.shape)))
    (value, gradient), (beside, slopes) = results
    for row in (0, 2):
        assert torch.equal(value[row], beside[row])
        assert torch.equal(gradient[row], slopes[row])
    taken = targets[1] >= 0
    exact = truth(far[1, taken].float().tolist(), targets[1, taken].tolist(), name, 1.0)
    assert float(beside[1]) == pytest.approx(float(exact.loss), rel=3e-7)
    assert (slopes[:, 5] == 0).all()


@pytest.mark.parametrize("path", [RAGGED, LONG])
@pytest.mark.parametrize("name", LOSSES)
def test_sums_that_may_overflow_are_lost(name: str, path: str) -> None:
    """Though the gaps were cut: losses of such scores are as good as infinite."""
    scores, targets = hostile("none", 1, 13)
    scores[0] = -1.7e308
    with on(path, 13) as options:
        value, gradient = value_and_gradient(LOSSES[name], scores.to(DEVICE), targets.to(DEVICE), **options)
    assert value.isnan().all()
    assert gradient.isnan().all()

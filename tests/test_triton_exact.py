"""Losses, gradients and rankings of the Triton backend against exact fractions, of every hostile kind of ranking.

On every path: two launches for short rankings, a program a ranking end to end, and the stages of long ones, in tiles so
small that a ranking fills several, from memory full of NaN. All rankings of a test are one batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastap
from fastap.backends import triton
from fastap.types import Batch, Objective
from tests.kernel_batches import POOLED, UNPROVED, corners, hard, ranking, stacked
from tests.kernels import DEVICE, few_programs, often, poisoned
from tests.losses import LOSSES, value_and_gradient
from tests.paths import solving
from tests.problems import KINDS
from tests.strategies import Truth, may_be_lost, ranking_value, truth

pytestmark = pytest.mark.usefixtures("gpu")

ITEMS = 19
SCALE = 0.3
SHORT, RAGGED, LONG = "triton-short", "ragged", "triton-long"
UPDATES = {"positive": 1, "negative": -1}


@functools.cache
def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every corner and a ranking of every kind."""
    rows = [*corners(ITEMS).values()]
    rows += [ranking(kind, number, 3 + 3 * (number % 3), 8, ITEMS) for number, kind in enumerate(KINDS)]
    return stacked(rows, dtype)


@contextmanager
def on(path: str, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Inside, small tiles of that path and memory full of NaN; the options that a call needs."""
    options: dict[str, Any] = {"backend": "triton", "ignore_index": -1}
    if path == RAGGED:
        with few_programs():
            yield {**options, "offsets": torch.arange(0, shape[0] * shape[1] + 1, shape[1], device=DEVICE)}
    else:
        with solving(path), poisoned():
            yield options


def solved(path: str, name: str, scores: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    with on(path, scores.shape) as given:
        shape = (-1,) if path == RAGGED else scores.shape
        value, gradient = value_and_gradient(
            LOSSES[name], scores.reshape(shape), targets.reshape(shape), **given, **options
        )
    return value.cpu(), gradient.cpu().view(scores.shape)


@functools.cache
def truth_of(scores: tuple[float, ...], targets: tuple[int, ...], name: str, scale: float) -> Truth:
    return truth(scores, targets, name, scale)


def check(path: str, name: str, scores: Tensor, targets: Tensor, scale: float = SCALE, method: str = "auto") -> None:
    options = {} if name == "perceptron" else {"weight": scale, "method": method}
    values, gradients = solved(path, name, scores, targets, **options)
    # The gradient is float32 of scores of fewer digits too.
    unit = 1e-9 if scores.dtype == torch.float64 else 3e-7
    absolute = {"perceptron": 0.0, "hinge": 1e-9 * scale}.get(name, 1e-9)
    compared = 0
    for score, target, value, gradient in zip(scores.cpu().double(), targets.cpu(), values, gradients, strict=True):
        taken = target >= 0
        both = bool((target == 1).any() and (target == 0).any())
        if (target > 1).any() or (both and not score[taken].isfinite().all()):
            taken |= (target > 1).any()
            assert value.isnan()
            assert gradient[taken].isnan().all()
        elif not both:
            assert value == 0
            assert (gradient == 0).all()
        elif not (value.isnan() and may_be_lost(score[taken].tolist(), scale)):
            exact = truth_of(tuple(score[taken].tolist()), tuple(target[taken].tolist()), name, scale)
            assert float(value) == pytest.approx(float(exact.loss), rel=unit, abs=absolute)
            if exact.gradient is not None:
                compared += 1
                largest = float(np.abs(exact.gradient).max())
                given = gradient[taken].double().numpy()
                np.testing.assert_allclose(given, exact.gradient, rtol=unit, atol=unit * largest)
        assert (gradient[~taken] == 0).all()
    assert compared >= scores.shape[0] // 3


PATHS = [(SHORT, torch.float32), (LONG, torch.float64), (RAGGED, torch.float64)]


@pytest.mark.parametrize("name", often("positive", "negative", full=["hinge", "perceptron"]))
def test_losses_are_exact(name: str) -> None:
    """Each ranking by one of the updates on one of the paths."""
    for number, (path, dtype) in enumerate(PATHS):
        check(path, name, *(each[2 * number + (name == "negative") :: 6] for each in batch(dtype)))


@pytest.mark.full
@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("path", "dtype"), [*PATHS, (LONG, torch.float32)])
def test_losses_are_exact_on_every_path(path: str, dtype: torch.dtype, name: str, method: str) -> None:
    if name == "perceptron" and method == "dp":
        pytest.skip("the perceptron has no method")
    check(path, name, *batch(dtype), method=method)


CONFLICTS = [(path, "positive", case) for path in (SHORT, RAGGED) for case in POOLED]
CONFLICTS += [(path, "negative", case) for path in (SHORT, RAGGED) for case in UNPROVED]


@pytest.mark.parametrize(("path", "update", "case"), often(CONFLICTS[0], full=CONFLICTS[1:]))
def test_conflicts_are_solved(path: str, update: str, case: tuple[str, int, int, float]) -> None:
    """Blocks of many rows, unproved ones, further rounds; of long rankings see test_triton_search.py."""
    check(path, update, *hard(case, dtype=torch.float32), scale=case[3])


@pytest.mark.parametrize(
    ("path", "method"), often((LONG, "auto"), (RAGGED, "dp"), full=[(LONG, "dp"), (RAGGED, "auto")])
)
@pytest.mark.parametrize("update", often("negative", full=["positive"]))
def test_rankings_attain_their_value(update: str, path: str, method: str) -> None:
    first, dtype = (0, torch.float32) if path == RAGGED else (1, torch.float64)
    scores, targets = (each[first::5] for each in batch(dtype))
    with on(path, scores.shape) as given:
        shape = (-1,) if path == RAGGED else scores.shape
        ranks, values = fastap.loss_augmented_ranking(
            scores.reshape(shape), targets.reshape(shape), epsilon=SCALE, update=update, method=method, **given, dim=-1
        )
    for score, target, rank, value in zip(
        scores.cpu().double(), targets.cpu(), ranks.cpu().view(scores.shape), values.cpu(), strict=True
    ):
        taken = (target == 0) | (target == 1)
        count = int(taken.sum())
        assert sorted(rank[taken].tolist()) == list(range(count))
        assert (rank[~taken] == -1).all()
        if (target > 1).any() or len(target[taken].unique()) < 2 or not score[taken].isfinite().all():
            assert value.isnan()
            if not score[taken].isnan().any():  # by score
                places = sorted(range(count), key=lambda i: (-score[taken][i], 1 - target[taken][i], i))
                assert target[taken].unique().numel() == 2 or rank[taken].argsort().tolist() == places
        else:
            given_ = score[taken].tolist(), target[taken].tolist()
            exact = truth_of(tuple(given_[0]), tuple(given_[1]), update, SCALE)
            attained = ranking_value(*given_, rank[taken].tolist(), UPDATES[update] * SCALE)
            assert exact.best - attained <= Fraction(SCALE) / 10**8
            span = Fraction(max(map(abs, given_[0])))
            assert abs(Fraction(float(value)) - exact.best) <= (span + Fraction(SCALE)) / 10**13


@pytest.mark.parametrize(
    ("path", "name"),
    often(
        (SHORT, "hinge"), (LONG, "perceptron"), (RAGGED, "positive"), full=[(LONG, "positive"), (RAGGED, "negative")]
    ),
)
def test_a_ranking_says_nothing_of_others(path: str, name: str) -> None:
    """To the bit, beside rankings that are cut or spoiled, and whatever ignored items hold."""
    scores, targets = (
        torch.stack(each) for each in zip(*(ranking("gaussian", i, 5, 7, 13) for i in range(5)), strict=True)
    )
    spoiled, wrong = scores.clone(), targets.clone()
    spoiled[1, (targets[1] >= 0).nonzero()[:2, 0]] = torch.tensor([-1e15, 1e20]).double()
    spoiled[targets < 0] = torch.nan
    spoiled[3, (targets[3] == 1).nonzero()[0]] = torch.inf
    wrong[4, (targets[4] == 0).nonzero()[0]] = 7
    value, gradient = solved(path, name, scores.float().to(DEVICE), targets.to(DEVICE))
    beside, slopes = solved(path, name, spoiled.float().to(DEVICE), wrong.to(DEVICE))
    for row in (0, 2):
        assert torch.equal(value[row], beside[row])
        assert torch.equal(gradient[row], slopes[row])
    assert beside.isnan().tolist() == [False, False, False, True, True]
    assert (slopes[:4][targets[:4] < 0] == 0).all()


@pytest.mark.parametrize(
    ("path", "name"),
    often((RAGGED, "negative"), (LONG, "perceptron"), full=[(RAGGED, "hinge"), (LONG, "positive")]),
)
def test_sums_that_may_overflow_are_lost(path: str, name: str) -> None:
    """Though gaps are cut: losses of such scores are as good as infinite."""
    scores, targets = (torch.stack([each] * 3) for each in ranking("gaussian", 1, 5, 8, 13))
    scores[0, 0], scores[1] = -1.7e308, (1 - 2 * targets[1]) * 1e308
    value, gradient = solved(path, name, scores.to(DEVICE), targets.to(DEVICE))
    assert value.isnan().tolist() == [True, True, False]
    assert gradient.isnan().all(1).tolist() == [True, True, False]


@pytest.mark.parametrize(("path", "dtype"), PATHS)
def test_a_loss_without_its_gradient(path: str, dtype: torch.dtype) -> None:
    """The same loss to the bit, and nothing else."""
    scores, targets = (each[24::6] for each in batch(dtype))
    with on(path, scores.shape) as options:
        shape = (-1,) if path == RAGGED else scores.shape
        given = Batch(scores.reshape(shape), targets.reshape(shape), -1, options.get("offsets"))
        objective = Objective("direct", SCALE, "positive")
        whole, alone = (triton.losses(given, objective, torch.float64, gradient=wanted) for wanted in (True, False))
    assert whole.gradient is not None
    assert alone.gradient is None
    torch.testing.assert_close(alone.loss, whole.loss, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(alone.takes_part, whole.takes_part)

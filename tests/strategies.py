"""Hostile rankings for Hypothesis, and the truth about them in fractions: no rounding, no scale, no ties by accident.

The profile is fixed, so that a run is the same everywhere; ``FASTAP_EXAMPLES=20`` makes it twenty times as long, and
every run another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
SMALLEST, LARGEST = 2.3e-308, 1.7e308

TIMES = int(os.environ.get("FASTAP_EXAMPLES", "1"))


def examples(count: int) -> Callable[[Any], Any]:
    """The fixed profile with so many examples; shrinking apart, a failure prints what reproduces it."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def scales() -> st.SearchStrategy[float]:
    """``epsilon`` and ``margin``: of any size, most of them ordinary."""
    ordinary = st.sampled_from([1e-6, 0.01, 0.3, 1.0, 7.0, 1e4])
    sizes = st.floats(-307, 308).map(lambda size: min(max(10.0**size, SMALLEST), LARGEST))
    return st.one_of(ordinary, sizes, st.sampled_from([SMALLEST, 1e-30, 1e30, 1e290, LARGEST]))


@st.composite
def score_lists(draw: st.DrawFn, items: int, dtype: torch.dtype) -> list[float]:
    """Finite scores: of one size, of sizes from 1e-30 to 1e30 side by side, subnormal, near the largest, with ties."""
    limits = torch.finfo(dtype)
    one = draw(
        st.sampled_from(
            [
                st.floats(-3, 3),
                st.integers(-3, 3).map(float),
                st.floats(-1, 1).map(lambda x: 1e30 * x),
                st.floats(-1, 1).map(lambda x: 1e-30 * x),
                st.tuples(st.sampled_from([-1.0, 1.0]), st.floats(-30, 30)).map(lambda x: x[0] * 10.0 ** x[1]),
                st.tuples(st.sampled_from([-1.0, 1.0]), st.floats(-8, 8)).map(lambda x: x[0] * 10.0 ** x[1]),
                st.integers(-5, 5).map(lambda x: x * limits.smallest_normal / 2**3),
                st.sampled_from([-0.0, 0.0, 1.0, limits.tiny, limits.max, -limits.max, limits.max / 2, limits.eps]),
            ]
        )
    )
    few = draw(st.booleans())
    if few:
        one = st.sampled_from(draw(st.lists(one, min_size=1, max_size=4)))
    scores = draw(st.lists(one, min_size=items, max_size=items))
    return torch.tensor(scores, dtype=torch.float64).clamp(limits.min, limits.max).to(dtype).double().tolist()


@dataclass(frozen=True)
class Ranking:
    """One ranking of both classes; scores are numbers of ``dtype``."""

    scores: list[float]
    targets: list[int]
    dtype: torch.dtype

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.scores, dtype=self.dtype), torch.tensor(self.targets)


@st.composite
def rankings(draw: st.DrawFn, most: int = 14) -> Ranking:
    """A ranking with a positive and a negative."""
    dtype = draw(st.sampled_from(FLOATS))
    items = draw(st.integers(2, most))
    targets = draw(st.lists(st.sampled_from([0, 0, 1]), min_size=items, max_size=items))
    place = draw(st.integers(0, items - 1))
    targets[place], targets[place - 1] = 1, 0
    return Ranking(draw(score_lists(items, dtype)), targets, dtype)


def holds(dtype: torch.dtype, number: int) -> bool:
    """Whether that is a number of the type."""
    if dtype in INTEGERS:
        return torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max
    return abs(number) <= torch.finfo(dtype).max and int(torch.tensor(float(number), dtype=dtype)) == number


def strided(values: Tensor, how: str) -> Tensor:
    """The same values as a view that is not contiguous, if there is one of that kind."""
    if how == "transposed":
        return values.t().contiguous().t() if values.dim() == 2 else values.movedim(0, -1).contiguous().movedim(-1, 0)
    if how == "strided":
        wide = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1] + 1)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    if how == "offset":
        flat = values.new_zeros(values.numel() + 3)
        flat[3:] = values.reshape(-1)
        return flat[3:].view(values.shape)
    if how == "negative" and values.dtype.is_floating_point:
        return torch._neg_view(-values)
    if how == "imaginary" and values.dtype in (torch.float32, torch.float64):
        return torch.complex(torch.zeros_like(values), -values).conj().imag
    return values


STRIDES = ("contiguous", "transposed", "strided", "offset", "negative", "imaginary")


# The truth


@dataclass(frozen=True)
class Truth:
    """Exact loss of a ranking, and its gradient where one choice alone attains the optimum, clear of rounding."""

    loss: Fraction
    gradient: np.ndarray | None
    best: Fraction  # max F + task scale L


def truth(scores: Sequence[float], targets: Sequence[int], name: str, scale: float) -> Truth:
    """Of the loss of that name in :data:`tests.losses.LOSSES`, by the dynamic program in fractions."""
    if name == "symmetric":
        more, less = (truth(scores, targets, update, scale) for update in ("positive", "negative"))
        gradient = None if more.gradient is None or less.gradient is None else (more.gradient + less.gradient) / 2
        return Truth((more.loss + less.loss) / 2, gradient, more.best)
    p = sorted((Fraction(score) for score, target in zip(scores, targets, strict=True) if target), reverse=True)
    n = sorted((Fraction(score) for score, target in zip(scores, targets, strict=True) if not target), reverse=True)
    sign = -1 if name == "negative" else 1
    task = Fraction(0) if name == "perceptron" else sign * Fraction(scale) * len(n) / 2
    sums = [Fraction(0)]
    for each in n:
        sums.append(sums[-1] + each)
    columns = range(len(n) + 1)
    term = [[sums[a] - a * each + task * Fraction(a, i + a) for a in columns] for i, each in enumerate(p, 1)]
    until, after = _best_until(term), [row[::-1] for row in _best_until([row[::-1] for row in term[::-1]])][::-1]
    top = until[-1][-1]
    standard = sum((max(sums[a] - a * each for a in columns) for each in p), Fraction(0))
    pairs = Fraction(2, len(p) * len(n))
    gain = Fraction(sign) / Fraction(scale) if name in ("positive", "negative") else Fraction(1)
    loss = gain * pairs * (top - (standard if name in ("positive", "negative") else 0))
    best = sum(p, Fraction(0)) / len(p) - sum(n, Fraction(0)) / len(n) + pairs * top
    if name == "perceptron":
        return Truth(loss, _gradient(scores, targets, None, "perceptron", 1.0), best)
    close = abs(task) / 10**6
    choice = []
    for i in range(len(p)):
        through = [
            each + (until[i - 1][a] if i else 0) + (after[i + 1][a] if i + 1 < len(p) else 0)
            for a, each in enumerate(term[i])
        ]
        near = [a for a in columns if through[a] >= top - close]
        if len(near) != 1:
            return Truth(loss, None, best)
        choice.append(near[0])
    return Truth(loss, _gradient(scores, targets, choice, name, float(gain)), best)


def nearly(given: Tensor, expected: Any, relative: float, absolute: float = 0.0) -> None:
    """Close after rounding to the type that is given; infinite where that is."""
    expected = torch.as_tensor(expected, dtype=torch.float64).to(given.dtype)
    absolute = min(absolute, torch.finfo(torch.float64).max)
    torch.testing.assert_close(given.double(), expected.double(), rtol=relative, atol=absolute)


def float_of(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def may_be_lost(scores: Sequence[float], scale: float | None) -> bool:
    """Whether a sum over all pairs may overflow: then the answer may be NaN."""
    pairs = len(scores) ** 2
    return not all(np.isfinite(16.0 * pairs * size) for size in (max(scores) - min(scores), scale or 0.0))


def _best_until(term: list[list[Fraction]]) -> list[list[Fraction]]:
    """``h_i(a)``, the most that rows up to i attain with row i at most at a."""
    best: list[list[Fraction]] = []
    for row in term:
        line: list[Fraction] = []
        for a, each in enumerate(row):
            value = each + (best[-1][a] if best else 0)
            line.append(max(value, line[-1]) if line else value)
        best.append(line)
    return best


def _gradient(
    scores: Sequence[float], targets: Sequence[int], choice: list[int] | None, name: str, gain: float
) -> np.ndarray:
    """Counts of pairs times one constant, equal scores of a class getting their mean."""
    score, target = np.array(scores), np.array(targets) == 1
    order = np.argsort(-score, kind="stable")
    p, n = order[target[order]], order[~target[order]]
    standard = (score[n][None] > score[p][:, None]) + 0.5 * (score[n][None] == score[p][:, None])
    above = standard if choice is None else (np.array(choice)[:, None] > np.arange(n.size)[None]) * 1.0
    if name in ("positive", "negative"):
        above = above - standard
    gradient = np.empty(score.size)
    gradient[p], gradient[n] = -above.sum(1), above.sum(0)
    for members in (target, ~target):
        for equal in np.unique(score[members]):
            which = members & (score == equal)
            gradient[which] = gradient[which].mean()
    return gradient * (2.0 / (p.size * n.size)) * gain


def ranking_value(scores: Sequence[float], targets: Sequence[int], ranks: Sequence[int], task_scale: float) -> Fraction:
    """``F + task_scale * L`` of any ranking, exactly."""
    order = sorted(range(len(ranks)), key=lambda item: ranks[item])
    positives, negatives = sum(targets), len(targets) - sum(targets)
    value, precision, seen = Fraction(0), Fraction(0), 0
    for place, item in enumerate(order, 1):
        if targets[item]:
            seen += 1
            precision += Fraction(seen, place)
            below = negatives - (place - seen)
            value += Fraction(scores[item]) * (2 * below - negatives)
        else:
            value -= Fraction(scores[item]) * (2 * seen - positives)
    return value / (positives * negatives) + Fraction(task_scale) * (1 - precision / positives)

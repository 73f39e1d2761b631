"""Random ranking problems of every kind that has ever been hard, from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scores = Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]


def _gaussian(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    return rng.normal(1, 1, p), rng.normal(0, 1, n)


def _uniform(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    return rng.uniform(0.2, 1.2, p), rng.uniform(0, 1, n)


def _cauchy(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    return rng.standard_cauchy(p) + 1, rng.standard_cauchy(n)


def _clustered(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    centres = rng.normal(0, 3, 10)
    return (
        rng.choice(centres, p) + rng.normal(0.5, 0.01, p),
        rng.choice(centres, n) + rng.normal(0, 0.01, n),
    )


def _tied(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    levels = rng.integers(1, 6)
    return rng.integers(0, levels, p) + float(rng.integers(0, 2)), rng.integers(0, levels, n) * 1.0


def _anti_correlated(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    return rng.normal(-2, 1, p), rng.normal(0, 1, n)


def _saturated(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    steepness = rng.choice([3.0, 10.0, 30.0])
    return (
        1 / (1 + np.exp(-steepness * rng.normal(1, 1, p))),
        1 / (1 + np.exp(-steepness * rng.normal(0, 1, n))),
    )


def _blocky(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    blocks = rng.integers(2, 21)
    return (
        rng.integers(0, blocks, p) / blocks * 3 + 1e-3 * rng.normal(size=p),
        rng.integers(0, blocks, n) / blocks * 3 + 1e-3 * rng.normal(size=n),
    )


def _conflicting(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    """Nearly equal positives under most negatives: of the negative update, lower rows want fewer negatives above."""
    negatives = rng.standard_cauchy(n) if rng.random() < 0.5 else rng.uniform(0, rng.choice([1.0, 30.0]), n)
    positives = np.quantile(negatives, rng.uniform(0, 0.3)) + rng.choice([0.0, 1e-6, 1e-2]) * rng.normal(size=p)
    if rng.random() < 0.3:
        positives, negatives = np.round(positives, 1), np.round(negatives, 1)
    return positives, negatives


def _two_valued(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
    share = rng.uniform(0, 1, 2)
    return (rng.random(p) < share[0]) * 1.0, (rng.random(n) < share[1]) * 1.0


KINDS: dict[str, Scores] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "cauchy": _cauchy,
    "clustered": _clustered,
    "tied": _tied,
    "anti-correlated": _anti_correlated,
    "saturated": _saturated,
    "blocky": _blocky,
    "conflicting": _conflicting,
    "two-valued": _two_valued,
}


def _of(scores: Callable[[np.random.Generator, Floats], Floats], positives: float = 1.0) -> Scores:
    """Gaussian scores, those of positives higher by ``positives``, seen through a function."""

    def draw(rng: np.random.Generator, p: int, n: int) -> tuple[Floats, Floats]:
        return scores(rng, rng.normal(positives, 1, p)), scores(rng, rng.normal(0, 1, n))

    return draw


def _relu(cut: float, noise: float = 0.0) -> Scores:
    return _of(lambda rng, x: np.maximum(x - cut, 0) + noise * rng.normal(size=x.size))


def _sigmoid(steepness: float) -> Scores:
    return _of(lambda _, x: 1 / (1 + np.exp(-steepness * x)))


# What scores look like in practice, one input each: cut off, rounded, saturated, with heavy tails.
ORDINARY: dict[str, Scores] = {
    "relu(x - 1)": _relu(1),
    "relu(x - 2)": _relu(2),
    "relu(x - 1) + 1e-7 noise": _relu(1, 1e-7),
    "relu(x - 1) + 1e-2 noise": _relu(1, 1e-2),
    "rounded to 0.1": _of(lambda _, x: np.round(x, 1)),
    "rounded to 0.01": _of(lambda _, x: np.round(x, 2)),
    "exp(3x)": _of(lambda _, x: np.exp(3 * x)),
    "sigmoid(8x)": _sigmoid(8),
    "sigmoid(30x)": _sigmoid(30),
    "counts": _of(lambda _, x: np.floor(np.exp(1.5 * x))),  # log-normal
    "equal": _of(lambda _, x: np.ones_like(x)),
    "anti-correlated by 3": _of(lambda _, x: x, -3.0),
    "positives alike": lambda rng, p, n: (0.01 * rng.normal(size=p), rng.normal(0, 2, n)),
}


@dataclass(frozen=True)
class Batch:
    """Rankings of one length, one a row; target -1 marks items that take no part."""

    kind: str
    scores: Floats
    targets: npt.NDArray[np.int64]
    epsilon: float


def draw(rng: np.random.Generator, kind: str, n_positive: int, n_negative: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """One shuffled ranking of the kind; scores are float32 numbers so that every input type can hold them."""
    positives, negatives = (KINDS.get(kind) or ORDINARY[kind])(rng, n_positive, n_negative)
    scores = np.concatenate([positives, negatives]).astype(np.float32).astype(np.float64)
    targets = np.repeat([1, 0], [n_positive, n_negative])
    order = rng.permutation(scores.size)
    return scores[order], targets[order]


def random_batch(rng: np.random.Generator, largest: int = 400) -> Batch:
    """One ranking or a few of one kind, 2 to ``largest`` items each, any balance, a part of them padded."""
    kind = str(rng.choice([*KINDS, *ORDINARY, "conflicting"]))
    items = int(np.exp(rng.uniform(np.log(2), np.log(largest + 1))))
    rankings = int(rng.choice([1, 1, 1, 2, 5]))
    scores, targets = np.zeros((rankings, items)), np.full((rankings, items), -1)
    for row in range(rankings):
        used = items if rankings == 1 else int(rng.integers(2, items + 1))
        share = rng.uniform(0.1, 0.6) if kind == "conflicting" else np.exp(-rng.uniform(0, np.log(used)))
        n_positive = int(np.clip(used * share, 1, used - 1))
        places = rng.permutation(items)[:used]
        scores[row, places], targets[row, places] = draw(rng, kind, n_positive, used - n_positive)
    epsilon = float(np.exp(rng.uniform(np.log(1e-3), np.log(1e2))))
    if kind == "conflicting":
        epsilon = _conflicting_epsilon(rng, scores[0], targets[0]) or epsilon
    return Batch(kind, scores, targets, epsilon)


def _conflicting_epsilon(rng: np.random.Generator, scores: Floats, targets: npt.NDArray[np.int64]) -> float:
    """Where what a row gains by one more negative above it is near what it loses: one ranking in five conflicts."""
    p, n = scores[targets == 1], scores[targets == 0]
    gap = max(0.0, float(np.median(n) - np.median(p)))
    return gap * (p.size + n.size) ** 2 / (p.size * n.size) * float(np.exp(rng.uniform(np.log(0.03), 0)))

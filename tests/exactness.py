"""Is the library exact? Random problems of every kind against the dynamic program and brute force.

``python -m tests.exactness --problems 20000`` runs the whole; the test suite a fixed-seed slice of it. Every problem
is solved for every update, and every loss on all paths of the CPU (:mod:`tests.paths`); ``--method dp`` has
its own dynamic program judged instead of its search. ``--path triton-long`` judges the kernels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import fastap
from fastap.backends import reference
from fastap.types import AP, MEASURES, METHODS, Measure, Method
from tests.paths import PATHS, TRITON_PATHS, backend_of, solving
from tests.problems import Batch, Floats, random_batch

RELATIVE = 1e-9

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Solution(NamedTuple):
    """What the library says of a batch."""

    loss: Floats  # (rankings,)
    gradient: Floats  # (rankings, items)


def check_batch(
    batch: Batch,
    dtype: torch.dtype = torch.float64,
    paths: Sequence[str] = PATHS,
    method: Method = "auto",
    measure: Measure = AP,
) -> Counter[str]:
    """Assert that values, ranks, losses and gradients of a batch are right for every update; count what was checked."""
    counts: Counter[str] = Counter()
    scores, targets = torch.tensor(batch.scores, dtype=dtype), torch.tensor(batch.targets)
    metric = fastap.average_precision(scores, targets, ignore_index=-1, dim=-1).numpy()
    means: dict[str, list[Solution]] = {path: [] for path in paths}
    for sign, update in ((1, "positive"), (-1, "negative")):
        options = {"epsilon": batch.epsilon, "update": update, "method": method, "ignore_index": -1, "measure": measure}
        with solving(paths[0]):
            ranked = fastap.loss_augmented_ranking(scores, targets, **options, backend=backend_of(paths[0]), dim=-1)
        ranks, value = (each.numpy() for each in ranked)
        solutions = [_solve(scores, targets, options, path) for path in paths]
        for path, solution in zip(paths, solutions, strict=True):
            means[path].append(solution)
        for row in range(scores.shape[0]):
            taken = batch.targets[row] >= 0
            score, target = batch.scores[row, taken], batch.targets[row, taken] == 1
            task_scale = sign * batch.epsilon
            assert (ranks[row, ~taken] == -1).all()
            _check_ranking(score, target, task_scale, ranks[row, taken], float(value[row]), measure)
            if score.size <= 6:
                best, _ = reference.brute_force(score, target, task_scale, measure)
                absolute = 1e-14 * _scale(score, task_scale)
                np.testing.assert_allclose(value[row], best, rtol=RELATIVE, atol=absolute)
                counts["brute force"] += 1
            expected = reference.direct_ranking_loss(score, target, batch.epsilon, update, measure)
            unique = is_unique(score, target, task_scale, measure)
            for loss, gradient in solutions:
                _check_loss(score, target, task_scale, loss[row], expected.value, dtype, measure)
                assert (gradient[row, ~taken] == 0).all()
                if unique:
                    absolute = (1e-12 if dtype == torch.float64 else 1e-6) * np.abs(expected.gradient).max()
                    np.testing.assert_allclose(gradient[row, taken], expected.gradient, rtol=0, atol=absolute)
                    counts["gradients"] += 1
            if np.unique(score).size == score.size:
                by_score = reference.ap_of_order(target[np.argsort(-score)])
                np.testing.assert_allclose(metric[row], by_score, rtol=1e-12)
    # The symmetric update is the mean of the two, also where several choices are the best.
    absolute = 1e-13 if dtype == torch.float64 else 1e-6
    for path, both in means.items():
        symmetric = _solve(scores, targets, {**options, "update": "symmetric"}, path)
        for given, positive, negative in zip(symmetric, *both, strict=True):
            size = max(1.0, np.abs(positive).max(), np.abs(negative).max())
            np.testing.assert_allclose(given, (positive + negative) / 2, rtol=0, atol=absolute * size)
    counts["problems"] += scores.shape[0]
    return counts


def _solve(scores: torch.Tensor, targets: torch.Tensor, options: dict[str, object], path: str) -> Solution:
    leaf = scores.clone().requires_grad_()
    with solving(path):
        loss = fastap.direct_ranking_loss(leaf, targets, reduction="none", **options, backend=backend_of(path), dim=-1)
    loss.sum().backward()
    return Solution(loss.detach().double().numpy(), leaf.grad.double().numpy())


def _check_ranking(
    score: Floats, target: Bools, task_scale: float, place: Ints, value: float, measure: Measure = AP
) -> None:
    """The ranking is a permutation, it attains the value, and the value is the dynamic program's."""
    assert sorted(place) == list(range(score.size))
    order = np.argsort(place)
    task_loss = 1 - reference.measure_of_order(measure, target[order])
    attained = reference.ranking_score(score, target, order) + task_scale * task_loss
    ranked = np.argsort(-score, kind="stable")
    p, n = ranked[target[ranked]], ranked[~target[ranked]]
    best, _ = reference.augmented_choice(score[p], score[n], task_scale, measure)
    absolute = 1e-14 * _scale(score, task_scale)
    np.testing.assert_allclose(value, best, rtol=RELATIVE, atol=absolute)
    np.testing.assert_allclose(attained, best, rtol=RELATIVE, atol=absolute)


def _check_loss(
    score: Floats,
    target: Bools,
    task_scale: float,
    loss: float,
    expected: float,
    dtype: torch.dtype,
    measure: Measure = AP,
) -> None:
    """The loss is the oracle's, and ``0 <= D- <= 1 - M <= D+ <= 1``, the measure of any ranking by score."""
    # Sums of scores are rounded, and their difference is divided by epsilon; a float32 loss is rounded once more.
    rounding = 1e-13 * _scale(score, task_scale) / abs(task_scale) + (0 if dtype == torch.float64 else 2**-24)
    np.testing.assert_allclose(loss, expected, rtol=RELATIVE, atol=rounding)
    assert 0 <= loss <= 1
    # Equal scores may come in any order; a negative or a positive first is the worst and the best that can happen.
    worst, best = (
        1 - reference.measure_of_order(measure, target[np.lexsort((first, -score))]) for first in (target, ~target)
    )
    if task_scale > 0:
        assert worst <= loss + rounding
    else:
        assert loss <= best + rounding


def is_unique(score: Floats, target: Bools, task_scale: float, measure: Measure = AP, rounding: float = 1e-12) -> bool:
    """Whether one choice of ``a`` alone attains the optimum, clear of rounding."""
    p, n = np.sort(score[target])[::-1], np.sort(score[~target])[::-1]
    a = np.arange(n.size + 1)
    centre = np.median(p)
    term = np.concatenate([[0.0], np.cumsum(n - centre)]) - a * (p[:, None] - centre)
    rows, _ = reference.task_loss(measure, p.size, n.size)
    term = term + task_scale * p.size * n.size / 2 * np.stack([rows(i, a) for i in range(1, p.size + 1)])
    until = np.empty_like(term)
    after = np.empty_like(term)
    h = np.zeros(a.size)
    for row in range(p.size):
        h = np.maximum.accumulate(h) + term[row]
        until[row] = h
    h = np.zeros(a.size)
    for row in range(p.size - 1, -1, -1):
        h = np.maximum.accumulate(h[::-1])[::-1] + term[row]
        after[row] = h
    through = until + after - term
    close = rounding * np.abs(term).sum(0).max() + 1e-12
    return bool(((through >= through.max() - close).sum(1) == 1).all())


def _scale(score: Floats, task_scale: float) -> float:
    return float(np.abs(score - np.median(score)).max()) + abs(task_scale)


def batches(seed: int, largest: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        yield random_batch(rng, largest)


def check_many(
    problems: int,
    seed: int = 0,
    largest: int = 400,
    paths: Sequence[str] = PATHS,
    method: Method = "auto",
    measure: Measure = AP,
) -> Counter[str]:
    """Check that many rankings, float32 and float64 in turn; a failure says which batch it was."""
    counts: Counter[str] = Counter()
    for number, batch in enumerate(batches(seed, largest)):
        if counts["problems"] >= problems:
            break
        try:
            counts += check_batch(batch, torch.float64 if number % 2 else torch.float32, paths, method, measure)
        except AssertionError as error:
            where = f"batch {number} of seed {seed}: {batch.kind}, {batch.scores.shape}, epsilon {batch.epsilon}"
            raise AssertionError(where) from error
        counts[batch.kind] += batch.scores.shape[0]
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000, help="how many rankings (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=400, help="the most items in a ranking (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--path",
        choices=("all", "auto", *PATHS, *TRITON_PATHS),
        default="all",
        help="the path every loss is taken on; auto is the library's own choice (default: %(default)s)",
    )
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--measure", choices=MEASURES, default="ap", help="(default: %(default)s)")
    parser.add_argument("--parameter", type=float, default=1.0, help="of the measure")
    parser.add_argument("--k", type=int, help="of the measure")
    options = parser.parse_args()
    paths = PATHS if options.path == "all" else (options.path,)
    measure = Measure(options.measure, options.parameter, options.k)
    counts = check_many(options.problems, options.seed, options.largest, paths, options.method, measure)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()

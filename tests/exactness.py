"""Is the torch backend exact? Random problems of every kind against the dynamic program and brute force.

``python -m tests.exactness --problems 20000`` runs the whole; the test suite a fixed-seed slice of it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

import fastap
from fastap import reference
from tests.problems import Batch, Floats, random_batch

RELATIVE = 1e-9


def check_batch(batch: Batch, dtype: torch.dtype = torch.float64) -> Counter[str]:
    """Assert that values, ranks and gradients of one batch are right, for both updates; count what was checked."""
    counts: Counter[str] = Counter()
    scores, targets = torch.tensor(batch.scores, dtype=dtype), torch.tensor(batch.targets)
    metric = fastap.average_precision(scores, targets, ignore_index=-1).numpy()
    bracket = {}
    for update in ("positive", "negative"):
        options = {"epsilon": batch.epsilon, "update": update, "ignore_index": -1}
        ranks, value = fastap.loss_augmented_ranking(scores, targets, **options)
        leaf = scores.clone().requires_grad_()
        loss = fastap.direct_ap_loss(leaf, targets, reduction="none", **options)
        loss.sum().backward()
        bracket[update] = loss.detach().double().numpy()
        for row in range(scores.shape[0]):
            taken = batch.targets[row] >= 0
            score, target = batch.scores[row, taken], batch.targets[row, taken] == 1
            place = ranks[row].numpy()
            assert (place[~taken] == -1).all()
            sign = 1 if update == "positive" else -1
            _check_ranking(score, target, sign * batch.epsilon, place[taken], float(value[row]))
            counts["rankings"] += 1
            if score.size <= 6:
                brute, _ = reference.brute_force(score, target, sign * batch.epsilon)
                np.testing.assert_allclose(
                    float(value[row]), brute, rtol=RELATIVE, atol=1e-12 * _scale(score, batch)
                )
                counts["brute force"] += 1
            expected = reference.direct_ap_loss(score, target, batch.epsilon, update)
            rounding = 1e-13 * _scale(score, batch) / batch.epsilon + (0 if dtype == torch.float64 else 1e-6)
            np.testing.assert_allclose(bracket[update][row], expected.value, rtol=RELATIVE, atol=rounding)
            if is_unique(score, target, sign * batch.epsilon):
                given = leaf.grad[row].double().numpy()
                assert (given[~taken] == 0).all()
                largest = np.abs(expected.gradient).max()
                tolerance = 1e-12 if dtype == torch.float64 else 1e-6
                np.testing.assert_allclose(given[taken], expected.gradient, rtol=0, atol=tolerance * largest)
                counts["gradients"] += 1
            if np.unique(score).size == score.size:
                low, high = (0.0, metric[row]) if update == "positive" else (1 - metric[row], 1.0)
                assert low - rounding <= 1 - loss[row] <= high + rounding or update == "negative"
    assert (bracket["negative"] >= 0).all()
    assert (bracket["positive"] <= 1).all()
    assert (
        bracket["negative"] <= bracket["positive"] + 1e-13 * np.abs(batch.scores).max() / batch.epsilon + 1e-6
    ).all()
    return counts


def _check_ranking(
    score: Floats,
    target: npt.NDArray[np.bool_],
    task_scale: float,
    place: npt.NDArray[np.int64],
    value: float,
) -> None:
    """The ranking is a permutation, it attains the value, and the value is the dynamic program's."""
    assert sorted(place) == list(range(score.size))
    order = np.argsort(place)
    attained = reference.ranking_score(score, target, order) + task_scale * (
        1 - reference.ap_of_order(target[order])
    )
    ranked = np.argsort(-score, kind="stable")
    p, n = ranked[target[ranked]], ranked[~target[ranked]]
    best, _ = reference.augmented_choice(score[p], score[n], task_scale)
    scale = abs(task_scale) + np.abs(score - np.median(score)).max()
    np.testing.assert_allclose(value, best, rtol=RELATIVE, atol=1e-14 * scale)
    np.testing.assert_allclose(attained, best, rtol=RELATIVE, atol=1e-14 * scale)


def is_unique(score: Floats, target: npt.NDArray[np.bool_], task_scale: float) -> bool:
    """Whether one choice of ``a`` alone attains the optimum, clear of rounding."""
    p, n = np.sort(score[target])[::-1], np.sort(score[~target])[::-1]
    a = np.arange(n.size + 1)
    i = np.arange(1, p.size + 1)[:, None]
    centre = np.median(n)
    term = np.concatenate([[0.0], np.cumsum(n - centre)]) - a * (p[:, None] - centre)
    term = term + task_scale * n.size / 2 * (a / (i + a))
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
    close = 1e-12 * np.abs(term).sum(0).max() + 1e-12
    return bool(((through >= through.max() - close).sum(1) == 1).all())


def _scale(score: Floats, batch: Batch) -> float:
    return float(np.abs(score - np.median(score)).max()) + batch.epsilon


def batches(seed: int, largest: int) -> Iterable[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        yield random_batch(rng, largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--problems", type=int, default=20_000, help="how many rankings to solve (default: %(default)s)"
    )
    parser.add_argument(
        "--largest", type=int, default=400, help="the most items in a ranking (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for number, batch in enumerate(batches(options.seed, options.largest)):
        if counts["rankings"] >= options.problems:
            break
        try:
            counts += check_batch(batch, torch.float64 if number % 2 else torch.float32)
        except AssertionError:
            print(
                f"batch {number} of seed {options.seed}: {batch.kind}, {batch.scores.shape}, epsilon {batch.epsilon}"
            )
            raise
        counts[batch.kind] += 1
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()

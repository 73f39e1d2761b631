"""Is a case right? Asserted before its time counts, once for cases that are the same problem.

Small problems, and a cut-down one of the same kind and ratio of each larger one, are compared with the dynamic program
of ``fastap.reference``. At full size the loss-augmented ranking is evaluated from scratch, in NumPy and float64: it
must attain the value that is claimed for it, no positive may gain by moving past one negative, and loss and gradient
must be those of the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastap
from bench.cases import Case
from bench.inputs import Shape, cut
from fastap import reference
from tests.exactness import RELATIVE, is_unique

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What the dynamic program takes half a second for; it groups equal scores in time that is quadratic in the negatives.
REFERENCE_CELLS, REFERENCE_NEGATIVES = 2_000_000, 20_000
CUT_CELLS, CUT_NEGATIVES = 300_000, 5_000
# Of a batch at full size the first rankings stand for all.
ROWS = 2
# Of a gradient in half precision two roundings, relative.
HALF = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def assert_right(case: Case) -> str:
    """Raise AssertionError where the case's results are wrong; otherwise say what was asserted."""
    return _assert_right(replace(case, direction="both"))


@cache
def _assert_right(case: Case) -> str:
    shape = case.shape
    cells = shape.rankings * shape.positives * (shape.negatives + 1)
    one_class = min(shape.positives, shape.negatives) == 0
    small = one_class or (cells <= REFERENCE_CELLS and shape.negatives <= REFERENCE_NEGATIVES)
    judged = shape if small else cut(shape, CUT_CELLS, CUT_NEGATIVES)
    against_reference(replace(case, shape=judged))
    said = f"{judged} against {'its definition' if case.work == 'metric' else 'the dynamic program'}"
    return said if small else f"{said}; {at_full_size(case)}"


def solve(case: Case, scores: Tensor, targets: Tensor) -> tuple[Floats, Floats]:
    """Loss (or metric) of every ranking and its gradient, one ranking a row; zero for the metric."""
    leaf = scores.detach().clone().requires_grad_()
    if case.work == "metric":
        return _rows(case.forward(leaf, targets)[..., None]).ravel(), np.zeros(_rows(scores).shape)
    loss = case.forward(leaf, targets, reduction="none")
    loss.sum().backward()
    assert leaf.grad is not None
    return _rows(loss.detach()[..., None]).ravel(), _rows(leaf.grad, case.dim)


def against_reference(case: Case) -> None:
    """Value and gradient of a small problem against the dynamic program; where the optimum is one, the gradient."""
    scores, targets = next(case.inputs(seed=1))
    found, gradient = solve(case, scores, targets)
    score, target = _rows(scores, case.dim), _rows(targets, case.dim) > 0
    if case.work == "metric":
        expected = [reference.average_precision(*each) for each in zip(score, target, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        return
    for row, (one, its) in enumerate(zip(score, target, strict=True)):
        expected = _by_dynamic_program(case, one, its)
        within = rounding(case, one)
        np.testing.assert_allclose(found[row], expected.value, rtol=RELATIVE, atol=within, err_msg=f"loss, row {row}")
        takes_part = its.any() and not its.all()
        if not takes_part or case.work == "perceptron" or is_unique(one, its, task_scale(case)):
            _assert_gradient(case, gradient[row], expected.gradient)


def _by_dynamic_program(case: Case, score: Floats, target: Bools) -> reference.Loss:
    if case.work == "hinge":
        return reference.ap_hinge_loss(score, target, case.epsilon)
    if case.work == "perceptron":
        return reference.ap_perceptron_loss(score, target)
    return reference.direct_ap_loss(score, target, case.epsilon, "negative" if case.work == "negative" else "positive")


def at_full_size(case: Case) -> str:
    """Value, ranking, loss and gradient of the first rankings of the case's batch, from scratch."""
    scores, targets = _problem(case.shape, case.kind, case.dtype, case.device, case.dim)
    found, gradient = solve(case, scores, targets)
    ranks = value = None
    if case.work in ("positive", "negative", "hinge"):
        ranked = fastap.loss_augmented_ranking(
            scores,
            targets,
            epsilon=case.epsilon,
            update="negative" if case.work == "negative" else "positive",
            method=case.method,  # type: ignore[arg-type]
            dim=case.dim,
            backend=case.backend,
        )
        ranks, value = _rows(ranked.ranks, case.dim), ranked.value.cpu().numpy().ravel()
    rows = range(min(ROWS, case.shape.rankings))
    score, target = _rows(scores, case.dim), _rows(targets, case.dim) > 0
    for row in rows:
        truth = Standing(score[row] - score[row].mean(), target[row])
        if case.work == "metric":
            np.testing.assert_allclose(found[row], truth.average_precision, rtol=1e-12)
        elif ranks is None or value is None:
            _assert_loss(case, truth, truth.F(truth.standard) - truth.F(truth.perfect), found[row])
            _assert_gradient(case, gradient[row], truth.gradient(truth.standard, truth.perfect, 1.0))
        else:
            _assert_ranking(case, truth, ranks[row], value[row], found[row], gradient[row])
    size = "at full size" if len(rows) == case.shape.rankings else f"{len(rows)} rankings at full size"
    ranking = "ranking attains value, no better neighbour, loss, gradient"
    return f"{size}, by float64 NumPy: {({'metric': 'AP', 'perceptron': 'loss and gradient'}).get(case.work, ranking)}"


@dataclass(frozen=True)
class Standing:
    """One ranking in float64, both classes sorted, descending; scores from their mean, since differences count."""

    score: Floats
    target: Bools

    @cached_property
    def items(self) -> tuple[Ints, Ints]:
        """The positives and the negatives."""
        order = np.argsort(-self.score)
        is_positive = self.target[order]
        return order[is_positive], order[~is_positive]

    @cached_property
    def classes(self) -> tuple[Floats, Floats]:
        p, n = (self.score[each] for each in self.items)
        return p, n

    @cached_property
    def standard(self) -> tuple[Floats, Floats]:
        """``sum_j y_ij`` of every positive and ``sum_i y_ij`` of every negative, ranked by score; ties count 0."""
        p, n = self.classes
        above, at_or_above = (np.searchsorted(-n, -p, side) for side in ("left", "right"))
        before, at_or_before = (np.searchsorted(-p, -n, side) for side in ("left", "right"))
        return n.size - (above + at_or_above).astype(np.float64), (before + at_or_before) - float(p.size)

    @cached_property
    def perfect(self) -> tuple[Floats, Floats]:
        """The same of the ranking with all positives first."""
        p, n = self.classes
        return np.full(p.size, float(n.size)), np.full(n.size, float(p.size))

    def F(self, pairs: tuple[Floats, Floats]) -> float:  # noqa: N802
        p, n = self.classes
        return float(pairs[0] @ p - pairs[1] @ n) / (p.size * n.size)

    @cached_property
    def average_precision(self) -> float:
        """scikit-learn's definition: precision at every positive's threshold, equal scores being one threshold."""
        p, n = self.classes
        positives, negatives = (np.searchsorted(-each, -p, "right") for each in (p, n))
        return float(np.mean(positives / (positives + negatives)))

    def gradient(self, first: tuple[Floats, Floats], second: tuple[Floats, Floats], gain: float) -> Floats:
        """``gain * grad (F(first) - F(second))`` of every item; equal items get the mean."""
        result = np.empty(self.score.size)
        for item, values, one, two, sign in zip(self.items, self.classes, first, second, (1, -1), strict=True):
            group = np.concatenate([[0], np.cumsum(np.diff(values) != 0)])
            each = one - two
            if group[-1] + 1 < each.size:
                each = (np.bincount(group, each) / np.bincount(group))[group]
            result[item] = sign * each
        return result * (gain / (self.classes[0].size * self.classes[1].size))


def task_scale(case: Case) -> float:
    """What ``1 - AP`` is multiplied by in the loss-augmented inference."""
    return -case.epsilon if case.work == "negative" else case.epsilon


def rounding(case: Case, score: Floats) -> float:
    """How far a loss may be off: scores are summed and divided by epsilon, a float32 loss is rounded once more."""
    scale = float(np.abs(score - np.median(score)).max()) + case.epsilon
    largest = 1.0 if case.work in ("positive", "negative") else scale
    gain = 1 / case.epsilon if case.work in ("positive", "negative") else 1.0
    return 1e-13 * scale * gain + (0 if case.dtype == "float64" else 2**-23 * largest)


def _assert_ranking(case: Case, truth: Standing, ranks: Ints, value: float, found: float, gradient: Floats) -> None:
    scale = task_scale(case)
    p, n = truth.classes
    by_place = np.full(ranks.size, -1)
    by_place[ranks] = np.arange(ranks.size)
    assert by_place.min() >= 0, "the ranks are no permutation"
    is_positive = truth.target[by_place]
    a = np.flatnonzero(is_positive) - np.arange(p.size)
    before = np.cumsum(is_positive)[~is_positive]
    in_order = truth.score[by_place]
    assert (np.diff(in_order[is_positive]) <= 0).all(), "a positive stands above a better one"
    assert (np.diff(in_order[~is_positive]) <= 0).all(), "a negative stands above a better one"
    pairs = n.size - 2.0 * a, 2.0 * before - p.size
    index = np.arange(1, p.size + 1)
    task_loss = float(np.mean(a / (index + a)))
    within = 1e-13 * (float(np.abs(truth.score).max()) + abs(scale))
    attained = truth.F(pairs) + scale * task_loss
    np.testing.assert_allclose(attained, value, rtol=RELATIVE, atol=within, err_msg="F + s epsilon L of the ranking")
    _assert_no_better_neighbour(truth, a, scale)

    if case.work == "hinge":
        second, gain = truth.perfect, 1.0
    else:
        second, gain = truth.standard, 1 / scale
    _assert_loss(case, truth, gain * (value - truth.F(second)), found)
    # Where equal scores are the rule, rankings of equal value are, too, and gradients cannot be compared.
    if sum(np.count_nonzero(np.diff(each)) for each in truth.classes) > truth.score.size / 2:
        _assert_gradient(case, gradient, truth.gradient(pairs, second, gain))


def _assert_no_better_neighbour(truth: Standing, a: Ints, scale: float) -> None:
    """No positive gains by one negative more or less above it, the others staying where they are."""
    p, n = truth.classes
    index = np.arange(1, p.size + 1)
    # Sums of so many scores are rounded, and of choices that differ by less either may be taken.
    within = 1e-14 * (np.abs(n).sum() + n.size * abs(scale))
    for more in (1, 0):  # one more, one less
        can = a < np.append(a[1:], n.size) if more else a > np.append(0, a[:-1])
        last, i = (a + more)[can], index[can]
        marginal = n[last - 1] - p[can] + scale * n.size / 2 * i / ((i + last) * (i + last - 1.0))
        worse = marginal if more else -marginal
        assert (worse <= within).all(), "a positive gains by moving past one negative"


def _assert_loss(case: Case, truth: Standing, expected: float, found: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=RELATIVE, atol=rounding(case, truth.score), err_msg="loss")
    assert 0 <= found <= (1 if case.work in ("positive", "negative") else np.inf)


def _assert_gradient(case: Case, found: Floats, expected: Floats) -> None:
    absolute = (1e-12 if case.dtype == "float64" else 1e-6) * max(np.abs(expected).max(), np.finfo(np.float64).tiny)
    absolute += 2.0**-24 if case.dtype == "float16" else 0.0  # below it float16 keeps no digits
    np.testing.assert_allclose(found, expected, rtol=HALF.get(case.dtype, 0.0), atol=absolute, err_msg="gradient")


@lru_cache(maxsize=2)
def _problem(shape: Shape, kind: str, dtype: str, device: str, dim: int) -> tuple[Tensor, Tensor]:
    return next(Case(shape, kind=kind, dtype=dtype, device=device, dim=dim).inputs(seed=1))


def _rows(tensor: Tensor, dim: int = -1) -> npt.NDArray[np.float64]:
    """One ranking a row; integers stay integers."""
    tensor = tensor.detach().movedim(dim, -1).cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    return tensor.reshape(-1, tensor.shape[-1]).numpy()

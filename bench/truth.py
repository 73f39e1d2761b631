"""Is a case right? Asserted before its time counts, once for cases that are the same problem.

Small problems, and a cut-down one of the same kind and ratio of each larger one, are compared with the dynamic program
of ``fastap.backends.reference``, loss and gradient. Results at full size are the business of the tests.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.cases import Case
from bench.inputs import cut
from fastap.backends import reference
from fastap.types import UPDATES
from tests.exactness import RELATIVE, is_unique

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# What the dynamic program takes half a second for; it groups equal scores in time that is quadratic in the negatives.
REFERENCE_CELLS, REFERENCE_NEGATIVES = 2_000_000, 20_000
CUT_CELLS, CUT_NEGATIVES = 300_000, 5_000
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
    return f"{judged} against {'its definition' if case.work == 'metric' else 'the dynamic program'}"


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
    for row, (one, its) in enumerate(zip(_rows(scores, case.dim), _rows(targets, case.dim) > 0, strict=True)):
        if case.work == "metric":
            np.testing.assert_allclose(found[row], reference.plain_average_precision(one, its), rtol=1e-12)
            continue
        expected = _by_dynamic_program(case, one, its)
        within = rounding(case, one)
        np.testing.assert_allclose(found[row], expected.value, rtol=RELATIVE, atol=within, err_msg=f"loss, row {row}")
        takes_part = its.any() and not its.all()
        if not takes_part or all(is_unique(one, its, scale) for scale in task_scales(case)):
            atol = (1e-12 if case.dtype == "float64" else 1e-6) * max(np.abs(expected.gradient).max(), 1e-300)
            atol += 2.0**-24 if case.dtype == "float16" else 0.0  # below it float16 keeps no digits
            rtol = HALF.get(case.dtype, 0.0)
            np.testing.assert_allclose(gradient[row], expected.gradient, rtol=rtol, atol=atol, err_msg="gradient")


def _by_dynamic_program(case: Case, score: Floats, target: Bools) -> reference.Loss:
    if case.work == "hinge":
        return reference.ap_hinge_loss(score, target, case.epsilon)
    if case.work == "perceptron":
        return reference.ap_perceptron_loss(score, target)
    update: Any = case.work
    return reference.direct_ranking_loss(score, target, case.epsilon, update)


def task_scales(case: Case) -> list[float]:
    """What ``1 - AP`` is multiplied by in each loss-augmented inference."""
    signs = {"negative": [-1], "symmetric": [1, -1], "perceptron": []}.get(case.work, [1])
    return [sign * case.epsilon for sign in signs]


def rounding(case: Case, score: Floats) -> float:
    """How far a loss may be off: scores are summed and divided by epsilon, a float32 loss is rounded once more."""
    scale = float(np.abs(score - np.median(score)).max()) + case.epsilon
    largest = 1.0 if case.work in UPDATES else scale
    gain = 1 / case.epsilon if case.work in UPDATES else 1.0
    return 1e-13 * scale * gain + (0 if case.dtype == "float64" else 2**-23 * largest)


def _rows(tensor: Tensor, dim: int = -1) -> npt.NDArray[np.float64]:
    """One ranking a row; integers stay integers."""
    tensor = tensor.detach().movedim(dim, -1).cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    return tensor.reshape(-1, tensor.shape[-1]).numpy()

"""One call of the library as arguments name it: its inputs, its name, and whether its result is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastap
from bench.inputs import Shape, stream
from fastap import reference
from tests.exactness import is_unique
from tests.losses import LOSSES, value_and_gradient

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = ("direct", "hinge", "perceptron", "metric")
# Half of a unit in the last place, relative.
_ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# The reference looks at every pair of a positive and a negative: about a second for so many.
_MOST_PAIRS = 1_000_000
# In the name of a file these are left out.
_USUAL = {"epsilon": 1.0, "method": "auto", "backend": "auto", "dtype": "float32", "kind": "gaussian"}


@dataclass(frozen=True)
class OneCall:
    """What is called on what."""

    rows: int
    items: int
    positives: int
    loss: str = "direct"
    update: str = "positive"
    epsilon: float = 1.0
    method: str = "auto"
    backend: str = "auto"
    dtype: str = "float32"
    kind: str = "gaussian"
    device: str = "cpu"
    forward: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(self.rows, self.positives, self.items - self.positives)

    @property
    def cells(self) -> int | None:
        """Cells of the dynamic program; None where there is none, or only on some rows."""
        shape = self.shape
        return shape.rankings * shape.positives * (shape.negatives + 1) if self.method == "dp" else None

    @property
    def work(self) -> str:
        """``"positive"``, ``"negative"``, or the loss that has one form only."""
        return self.update if self.loss == "direct" else self.loss

    @property
    def title(self) -> str:
        work = f"{self.update} update" if self.loss == "direct" else self.loss
        weight = f", epsilon {self.epsilon:g}" if self.loss in ("direct", "hinge") else ""
        way = "forward" if self.forward or self.loss == "metric" else "forward + backward"
        return (
            f"{self.shape}, {self.kind}, {self.dtype}, {work}{weight}, {way}, method {self.method}, "
            f"backend {self.backend}"
        )

    @property
    def file_kind(self) -> str:
        """What tells the file of this call from those of others."""
        parts = ["profile", f"{self.rows}x{self.items}", f"p{self.positives}", self.work]
        for key, usual in _USUAL.items():
            value = getattr(self, key)
            if value != usual:
                parts.append(f"epsilon{value:g}" if key == "epsilon" else str(value))
        return "-".join([*parts, *(["forward"] if self.forward else [])])

    def inputs(self, seed: int = 0, shape: Shape | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        dtype = DTYPES[self.dtype]
        return stream(shape or self.shape, kind=self.kind, seed=seed, dtype=dtype, device=self.device)

    def settings(self, backend: str) -> dict[str, Any]:
        """Arguments of a loss of ``tests.losses``."""
        own = {} if self.loss == "perceptron" else {"weight": self.epsilon, "method": self.method}
        return {**own, "backend": backend}

    def make(self, scores: Tensor, targets: Tensor) -> Tensor | None:
        """The call, as a user makes it."""
        if self.loss == "metric":
            return fastap.average_precision(scores, targets)
        leaf = scores.detach().requires_grad_(not self.forward)
        loss = LOSSES[self.work](leaf, targets, reduction="mean", **self.settings(self.backend))
        if self.forward:
            return loss
        loss.backward()
        return leaf.grad


def what_is_wrong(call: OneCall) -> tuple[str, str | None]:
    """How the result was checked, and what is wrong with it, if anything.

    The reference solves as many rankings of the batch as it can in a second; of a ranking that is too long, one cut
    down.
    """
    shape = call.shape
    pairs = shape.positives * shape.negatives
    if pairs > _MOST_PAIRS:
        cut = (_MOST_PAIRS / pairs) ** 0.5
        positives = max(1, int(shape.positives * cut))
        negatives = max(1, min(_MOST_PAIRS // positives, int(shape.negatives * cut)))
        shape, pairs = Shape(1, positives, negatives), positives * negatives
    scores, targets = next(call.inputs(shape=shape))
    rankings = max(1, min(shape.rankings, _MOST_PAIRS // max(1, pairs)))
    what = f"{rankings:,} of {shape}, equal to the reference"
    # The lines that are compared, as (rankings, items) of float64 on the CPU.
    few = scores.double().cpu().reshape(-1, shape.items)[:rankings]
    marks = targets.cpu().reshape(-1, shape.items)[:rankings]
    try:
        if call.loss == "metric":
            given = fastap.average_precision(scores, targets).cpu().reshape(-1)[:rankings]
            expected = [reference.average_precision(*each) for each in zip(few.numpy(), marks.numpy(), strict=True)]
            np.testing.assert_allclose(given, expected, rtol=1e-12, err_msg="average precision")
        else:
            _check_loss(call, scores, targets, few, marks)
    except AssertionError as error:
        return what, str(error)
    return what, None


def _check_loss(call: OneCall, scores: Tensor, targets: Tensor, few: Tensor, marks: Tensor) -> None:
    rankings, items = few.shape
    value, gradient = value_and_gradient(LOSSES[call.work], scores, targets, **call.settings(call.backend))
    best, slopes = value_and_gradient(LOSSES[call.work], few, marks, **call.settings("reference"))
    sign = -1 if call.work == "negative" else 1
    task = 0.0 if call.loss == "perceptron" else sign * call.epsilon
    # Sums of scores are rounded, and of the direct loss their difference is divided by epsilon.
    absolute = 1e-12 * (float((few - few.median()).abs().max()) + abs(task))
    absolute /= call.epsilon if call.loss == "direct" else 1.0
    wide = value.dtype == torch.float64
    np.testing.assert_allclose(
        value.double().cpu().reshape(-1)[:rankings],
        best,
        rtol=1e-9 if wide else 2.0**-23,
        atol=absolute + (0.0 if wide else 2.0**-24),
        err_msg="loss",
    )
    given = gradient.double().cpu().reshape(-1, items)[:rankings]
    for score, mark, ours, slope in zip(few.numpy(), marks.numpy(), given.numpy(), slopes.numpy(), strict=True):
        takes_part = mark.any() and not mark.all()
        # Where several rankings attain the optimum, each has a gradient of its own.
        if not takes_part or call.loss == "perceptron" or is_unique(score, mark, task):
            np.testing.assert_allclose(
                ours,
                slope,
                rtol=2 * _ROUNDING[scores.dtype],
                atol=(1e-12 if scores.dtype == torch.float64 else 1e-6) * np.abs(slope).max()
                + (2.0**-24 if scores.dtype == torch.float16 else 0.0),  # below it float16 keeps no digits
                err_msg="gradient",
            )

"""What every backend is given: a batch of rankings and the loss to take of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

Update = Literal["positive", "negative", "symmetric"]
Method = Literal["auto", "dp"]
Reduction = Literal["mean", "sum", "none"]
Sharded = Literal["items", "rankings"]
Dim = int | Sequence[int] | None

ONE_SIDED = ("positive", "negative")
UPDATES = (*ONE_SIDED, "symmetric")
METHODS = ("auto", "dp")
REDUCTIONS = ("mean", "sum", "none")
SHARDED = ("items", "rankings")


class Batch(NamedTuple):
    """A batch of rankings as the user gave it, the ranked axis moved last; views, of any strides, never empty.

    A target is 1, 0 or ``ignore_index``. Several draws of noisy scores stand one after the other, (draws, ..., items),
    and share their targets, (..., items). Ragged, with ``offsets``, scores and targets are (items,) and contiguous, and
    ranking ``r`` has the items from ``offsets[r]`` to before ``offsets[r + 1]``, perhaps none; draws stand end to end.
    """

    scores: Tensor  # (..., items), detached
    targets: Tensor  # the same shape, of several draws that of one
    ignore_index: int | None
    offsets: Tensor | None = None  # (rankings + 1,) int64, from 0 to the number of items, never falling

    @property
    def rankings(self) -> int:
        return self.scores.shape[:-1].numel() if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def items(self) -> int:
        """In a ranking; of ragged ones in all."""
        return self.scores.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rankings, items), ragged (items,): of what there is one of an item."""
        return (self.rankings, self.items) if self.offsets is None else (self.items,)


@dataclass(frozen=True)
class Problem:
    """A batch of rankings, one a row; all three tensors are contiguous, (rankings, items).

    ``positive`` and ``negative`` are disjoint boolean masks; an item in neither is ignored.
    """

    scores: Tensor
    positive: Tensor
    negative: Tensor

    @property
    def loss_dtype(self) -> torch.dtype:
        """The type of losses and gradients: float64 for float64 scores, float32 for all others."""
        return loss_dtype(self.scores)


def loss_dtype(scores: Tensor) -> torch.dtype:
    """float64 for float64 scores, float32 for all others."""
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def weight_dtype(reduction: str, losses: torch.dtype) -> torch.dtype:
    """The type in which weights are to be finite: of a mean, the gradient is multiplied with shares of 1."""
    return torch.float64 if reduction == "mean" else losses


def own(values: Tensor) -> Tensor:
    """The same memory, which nobody else holds, in a tensor that is no view.

    Of an autograd function's result that is one, PyTorch refuses to change the values in place (``loss += 1``).
    """
    return values.new_empty(0).set_(cast(Any, values)) if values._is_view() else values


class Measure(NamedTuple):
    """What a ranking is measured by, in [0, 1]: a sum over its positives, of which the first has rank 1.

    ===============  =======================================================  ==================  ========
    name             of a positive at rank r, with a negatives above it       parameter           k
    ===============  =======================================================  ==================  ========
    ap               ``(r - a)/r / min(k, P)``                                                    or None
    ndcg             ``1/log2(1 + r)``, divided by the most there can be                          or None
    precision        ``1 / k``                                                                    a number
    recall           ``1 / P``                                                                    a number
    reciprocal_rank  ``1/r`` of the first, 0 of all others                                        or None
    auc              ``max(N - a, 0) / (P N)``                                1
    partial_auc      ``max(beta N - a, 0) / (P beta N)``                      ``beta``, to 1
    bedroc           ``exp(-alpha r/n)``, from the least to the most, 0 to 1  ``alpha``
    ===============  =======================================================  ==================  ========

    With ``k`` a positive at a rank beyond that counts nothing.
    """

    name: str
    parameter: float = 1.0
    k: int | None = None


AnyMeasure = Measure | str | tuple[str, float]
AP = Measure("ap")
MEASURES = ("ap", "ndcg", "precision", "recall", "reciprocal_rank", "auc", "partial_auc", "bedroc")


class Objective(NamedTuple):
    """A loss as a difference of two rankings: ``gain * (F(y_first) - F(y_second)) + task_weight * L(y_first)``.

    ==================  =================  =================  =============  ===========
    loss                y_first            y_second           gain           task_weight
    ==================  =================  =================  =============  ===========
    direct, positive    argmax F+epsilon*L argmax F           1/epsilon      1
    direct, negative    argmax F-epsilon*L argmax F           -1/epsilon     1
    direct, symmetric   argmax F+epsilon*L argmax F-epsilon*L 1/(2 epsilon)  1/2
    hinge               argmax F+margin*L  y*                 1              margin
    perceptron          argmax F           y*                 1              0
    ==================  =================  =================  =============  ===========

    ``L`` is 1 less the measure, which is AP of all but the direct losses, and ``y*`` puts every positive first. To the
    symmetric loss, the mean of the other two, ``task_weight * L(y_second)`` is added, too. ``method`` says how a
    loss-augmented ranking is found, and changes nothing else; the perceptron has none to find. SmoothAP, "smooth", is
    no such difference: its ``epsilon`` is the temperature.
    """

    loss: Literal["direct", "hinge", "perceptron", "smooth"]
    epsilon: float = 1.0
    update: Update = "positive"
    method: Method = "auto"
    measure: Measure = AP

    @property
    def is_symmetric(self) -> bool:
        return self.loss == "direct" and self.update == "symmetric"

    @property
    def rankings(self) -> tuple[str, str]:
        """The first and the second: "positive", "negative", of the update, "standard", by score, or "perfect"."""
        if self.loss == "direct":
            return ("positive", "negative") if self.is_symmetric else (self.update, "standard")
        if self.loss == "smooth":
            return "smooth", "smooth"
        return ("positive" if self.loss == "hinge" else "standard", "perfect")

    @property
    def sign(self) -> int:
        """+1 when the task loss is added to the score in the first ranking, -1 when it is taken off."""
        return -1 if self.update == "negative" else 1

    @property
    def gain(self) -> float:
        """What the difference of the scores of the two rankings counts."""
        if self.loss != "direct":
            return 1.0
        return self.sign * self.task_weight / self.epsilon

    @property
    def task_weight(self) -> float:
        """What ``L(y_first)`` counts by itself."""
        of_direct = 0.5 if self.is_symmetric else 1.0
        return {"direct": of_direct, "hinge": self.epsilon, "perceptron": 0.0, "smooth": 0.0}[self.loss]

    @property
    def ceiling(self) -> float:
        """The largest loss there is; rounding apart, none falls below 0 or rises above this."""
        return 1.0 if self.loss in ("direct", "smooth") else inf

    @property
    def without_kernels(self) -> str | None:
        """What of it Triton has no kernels for."""
        if self.loss == "smooth":
            return "SmoothAP"
        return None if self.measure == AP else f"measure {self.measure.name!r}"


class Arguments(NamedTuple):
    """Those of the operator ``fastap::ap_loss``, checked, in its order; an :class:`Objective` in words and numbers."""

    scores: Tensor
    targets: Tensor
    groups: Tensor | None
    offsets: Tensor | None
    weight: Tensor | None
    seed: Tensor | None  # of the noise, where there is any
    loss: str
    epsilon: float
    update: str
    method: str
    noise: float
    samples: int
    dim: int  # counted from the front
    ignore_index: int | None
    reduction: str
    backend: str
    process_group: str | None  # its name
    sharded: str
    needs_gradient: bool
    first: int = 0  # the number of the first ranking, of several calls that are one
    measure: str = "ap"
    parameter: float = 1.0  # of the measure
    k: int = 0  # of the measure, 0 for none

    @property
    def objective(self) -> Objective:
        return Objective(
            loss=cast(Any, self.loss),
            epsilon=self.epsilon,
            update=cast(Any, self.update),
            method=cast(Any, self.method),
            measure=Measure(self.measure, self.parameter, self.k or None),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of losses and gradients."""
        return loss_dtype(self.scores)


class Losses(NamedTuple):
    """One loss a ranking and its gradient, before any reduction."""

    loss: Tensor  # (rankings,) float64; 0 where the ranking takes no part, NaN where a score is not finite
    gradient: Tensor | None  # (rankings, items), ragged (items,); float32, float64 for float64 scores; None: not asked
    takes_part: Tensor  # (rankings,) bool: has a positive and a negative


class Precision(NamedTuple):
    """Average precision and what it is of, each (rankings,) float64."""

    value: Tensor
    positives: Tensor | None  # what the positives weigh, or how many there are; where asked for
    negatives: Tensor | None


class AugmentedRanking(NamedTuple):
    """The loss-augmented ranking of every item and what it attains."""

    ranks: Tensor
    value: Tensor

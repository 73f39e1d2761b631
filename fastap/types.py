"""What every backend is given: a batch of rankings and the loss to take of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

Update = Literal["positive", "negative"]
Method = Literal["auto", "dp"]
Reduction = Literal["mean", "sum", "none"]
Sharded = Literal["items", "rankings"]
Dim = int | Sequence[int] | None

UPDATES = ("positive", "negative")
METHODS = ("auto", "dp")
REDUCTIONS = ("mean", "sum", "none")
SHARDED = ("items", "rankings")


class Batch(NamedTuple):
    """A batch of rankings as the user gave it, the ranked axis moved last; views, of any strides, never empty.

    A target is 1, 0 or ``ignore_index``. Ragged, with ``offsets``, scores and targets are (items,) and contiguous, and
    ranking ``r`` has the items from ``offsets[r]`` to before ``offsets[r + 1]``, perhaps none.
    """

    scores: Tensor  # (..., items), detached
    targets: Tensor  # the same shape
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


class Objective(NamedTuple):
    """A loss as a difference of two rankings: ``gain * (F(y_first) - F(y_second)) + task_weight * L(y_first)``.

    ============  ==========================  ========  ========  ===========
    loss          y_first                     y_second  gain      task_weight
    ============  ==========================  ========  ========  ===========
    direct        argmax F + s*epsilon*L      argmax F  s/epsilon 1
    hinge         argmax F + margin*L         y*        1         margin
    perceptron    argmax F                    y*        1         0
    ============  ==========================  ========  ========  ===========

    ``s`` is +1 for the positive and -1 for the negative update, ``L = 1 - AP``, and ``y*`` puts every positive first.
    ``method`` says how the loss-augmented ranking is found, and changes nothing else; the perceptron has none to find.
    """

    loss: Literal["direct", "hinge", "perceptron"]
    epsilon: float = 1.0
    update: Update = "positive"
    method: Method = "auto"

    @property
    def sign(self) -> int:
        """+1 when the task loss is added to the score in the loss-augmented inference, -1 when it is taken off."""
        return 1 if self.update == "positive" else -1

    @property
    def gain(self) -> float:
        """What the difference of the scores of the two rankings counts."""
        return self.sign / self.epsilon if self.loss == "direct" else 1.0

    @property
    def task_weight(self) -> float:
        """What ``L(y_first)`` counts by itself."""
        return {"direct": 1.0, "hinge": self.epsilon, "perceptron": 0.0}[self.loss]

    @property
    def ceiling(self) -> float:
        """The largest loss there is; rounding apart, none falls below 0 or rises above this."""
        return 1.0 if self.loss == "direct" else inf


class Arguments(NamedTuple):
    """Those of the operator ``fastap::ap_loss``, checked, in its order; an :class:`Objective` in words and numbers."""

    scores: Tensor
    targets: Tensor
    groups: Tensor | None
    offsets: Tensor | None
    weight: Tensor | None
    loss: str
    epsilon: float
    update: str
    method: str
    dim: int  # counted from the front
    ignore_index: int | None
    reduction: str
    backend: str
    process_group: str | None  # its name
    sharded: str
    needs_gradient: bool

    @property
    def objective(self) -> Objective:
        return Objective(
            loss=cast(Any, self.loss),
            epsilon=self.epsilon,
            update=cast(Any, self.update),
            method=cast(Any, self.method),
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

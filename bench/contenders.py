"""Who is compared with, how each is called, what each must get right, and what about it is not the same work.

The losses and metrics of rankings get the scores and the targets. The losses of pytorch-metric-learning take embeddings
and labels and rank, for each item, all others; an item becomes the unit vector at the angle ``pi * sigmoid(score)``,
and labels are classes of P items that lie together, so that each item has P - 1 other positives, one less than the
ranking has.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench import baselines
from bench.inputs import Shape
from fastap.backends import reference

Rank = Callable[[Tensor], Any]  # scores to a loss or a metric
Check = Callable[[Any, Tensor, Tensor, "Tensor | None"], str]

SMALL = Shape(1, 10, 100)


@dataclass(frozen=True)
class Peer:
    """Who is compared with. ``build(targets)`` prepares what depends on the targets alone, which takes no time."""

    name: str
    build: Callable[[Tensor], Rank]
    check: Check
    package: str | None = None  # on PyPI
    gives: Literal["gradient", "metric"] = "gradient"
    note: str = ""  # what about its work differs from this library's
    small: Shape = SMALL  # it must be right here

    @property
    def source(self) -> str:
        if self.package is None:
            return "paper, in bench/baselines.py"
        return f"PyPI {self.package}" + (f"=={self.version}" if self.version else "")

    @property
    def version(self) -> str | None:
        try:
            return importlib.metadata.version(self.package or "fastap")
        except importlib.metadata.PackageNotFoundError:
            return None


# What is asserted on the small problem: functions of the result, the scores, the targets and the gradient.


def is_usable(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    """The least that a loss must do."""
    assert np.isfinite(float(value)), f"the value is {float(value)}"
    assert gradient is not None, "there is no gradient"
    assert gradient.isfinite().all(), "the gradient is not finite"
    assert gradient.any(), "the gradient is zero"
    up, down = gradient[targets].mean().item(), gradient[~targets].mean().item()
    assert up < 0 < down, f"a step against the gradient moves positives by {-up:.3g}, negatives by {-down:.3g}"
    return "gradient raises positives and lowers negatives"


def near_one_minus_ap(
    value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None, *, within: float = 1e-4
) -> str:
    expected = 1 - reference.plain_average_precision(scores.cpu(), targets.cpu())
    assert abs(float(value) - expected) < within, f"{float(value)} is not within {within:g} of 1 - AP, {expected}"
    return f"value within {within:g} of 1 - AP; {is_usable(value, scores, targets, gradient)}"


def error_driven(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    """What a positive loses to the negatives above it is its update, theirs, and its share of the value."""
    said = near_one_minus_ap(value, scores, targets, gradient, within=0.1)
    assert gradient is not None
    for moved in (-gradient[targets].sum().item(), gradient[~targets].sum().item()):
        assert abs(moved - float(value)) < 1e-5, f"the value is {float(value)}, a class moves by {moved}"
    return f"{said}, each class by the value in all"


def equals_definition(
    value: Any,
    scores: Tensor,
    targets: Tensor,
    gradient: Tensor | None,
    *,
    name: str,
    definition: Callable[[Tensor, Tensor], Tensor],
    value_too: bool = True,
    of_ranking: bool = True,
) -> str:
    """Value and gradient are those of ``definition(scores, targets)`` in float64.

    ``value_too``: or the gradient alone. ``of_ranking``: the loss is of this ranking, and so raises its positives.
    """
    assert gradient is not None, "there is no gradient"
    leaf = scores.double().requires_grad_()
    expected = definition(leaf, targets)
    expected.backward()
    assert leaf.grad is not None
    if value_too:
        assert abs(float(value) - expected.item()) < 1e-4, f"{float(value)} is not {name}, {expected.item()}"
    wrong, largest = (gradient - leaf.grad).abs().max().item(), leaf.grad.abs().max().item()
    assert wrong < 1e-3 * largest, f"the gradient is {wrong} away from that of {name}, at most {largest}"
    said = f"value and gradient equal those of {name}" if value_too else f"gradient equals that of {name}"
    return f"{said}; {is_usable(value, scores, targets, gradient)}" if of_ranking else said


def equals_ap(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    expected = reference.plain_average_precision(scores.cpu(), targets.cpu())
    assert abs(float(value) - expected) < 1e-5, f"{float(value)} is not AP, {expected}"
    return "value equals AP"


# What some are, stated once more and slowly.


def surrogate_of_ap(scores: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean over positives of two sums of squared hinges, over positives and over all items (Qi et al., 2021).

    Divided by ``gamma``: LibAUC's first moving average has that share of the batch in it.
    """
    probability = scores.sigmoid()
    hinges = (1 - (probability[targets][:, None] - probability)).relu().square()
    return -(hinges[:, targets].sum(1) / hinges.sum(1)).mean() / 0.9


def every_item_asks(scores: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """The mean over items i of ``loss(dot products with i, same class as i, i)``."""
    points, labels = embed(scores), classes(targets)
    return torch.stack([loss(points @ points[i], labels == labels[i], i) for i in range(labels.numel())]).mean()


def fast_ap_of_one(products: Tensor, same: Tensor, own: int) -> Tensor:
    """Ten bins wide, by squared distance, from 0 to 4; the item itself is left out."""
    others = torch.arange(same.numel(), device=same.device) != own
    return baselines.binned_ap_loss(2 * products[others] - 2, same[others], low=-4.0, high=0.0, bins=11)


def smooth_ap_of_one(products: Tensor, same: Tensor, own: int) -> Tensor:
    return baselines.smooth_ap_loss(products, same)


# How each is called.


def of_scores(loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> Rank:
    return lambda scores: loss(scores, targets)


def libauc(targets: Tensor) -> Rank:
    from libauc.losses import APLoss

    loss = APLoss(data_len=targets.numel(), margin=1.0, gamma=0.9, device=targets.device)
    labels, index = targets.float()[:, None], torch.arange(targets.numel(), device=targets.device)
    return lambda scores: loss(scores.sigmoid()[:, None], labels, index)


def embed(scores: Tensor) -> Tensor:
    angle = torch.pi * scores.sigmoid()
    return torch.stack([angle.cos(), angle.sin()], 1)


def classes(targets: Tensor) -> Tensor:
    return torch.arange(targets.numel(), device=targets.device) // int(targets.sum())


def metric_learning(name: str, targets: Tensor, **options: Any) -> Rank:
    from pytorch_metric_learning import losses

    loss, labels = getattr(losses, name)(**options), classes(targets)
    return lambda scores: loss(embed(scores), labels)


def torchmetrics(targets: Tensor) -> Rank:
    from torchmetrics.functional.classification import binary_average_precision

    labels = targets.long()
    return lambda scores: binary_average_precision(scores, labels, validate_args=False)


def torcheval(targets: Tensor) -> Rank:
    from torcheval.metrics.functional import binary_auprc

    return lambda scores: binary_auprc(scores, targets)


def scikit_learn(targets: Tensor) -> Rank:
    from sklearn.metrics import average_precision_score

    labels = targets.cpu().numpy()
    return lambda scores: average_precision_score(labels, scores.cpu().numpy())


# The scores are N(0, 1) and N(1, 1): next to none lies outside.
_BINNED = partial(baselines.binned_ap_loss, low=-3.0, high=4.0)
_OF_ALL = partial(equals_definition, of_ranking=False)
_METRIC_LEARNING = "pytorch-metric-learning"
_N_RANKINGS = "ranks every item against all others, P + N rankings in place of one, and by distance of vectors"
_TABLE = "a table of P x (P + N); temperature 0.01"

PEERS = (
    Peer(
        "blackbox AP",
        partial(of_scores, baselines.blackbox_ap_loss),
        near_one_minus_ap,
        note="without the margin its authors train with",
    ),
    Peer(
        "binned AP",
        partial(of_scores, _BINNED),
        partial(near_one_minus_ap, within=0.1),
        note="20 bins over scores from -3 to 4",
    ),
    Peer(
        "AP-loss",
        partial(of_scores, baselines.error_driven_ap_loss),
        error_driven,
        note="a loop over the positives, as published; its step is linear between scores within 1 of each other",
    ),
    Peer(
        "LibAUC APLoss",
        libauc,
        partial(equals_definition, name="its surrogate of AP", definition=surrogate_of_ap, value_too=False),
        "libauc",
        note="gets sigmoid(scores), for it wants probabilities; its first value is 0, whatever they are",
    ),
    Peer(
        "SmoothAP", partial(of_scores, baselines.smooth_ap_loss), partial(near_one_minus_ap, within=0.01), note=_TABLE
    ),
    Peer(
        f"{_METRIC_LEARNING} FastAP",
        partial(metric_learning, "FastAPLoss", num_bins=10),
        partial(_OF_ALL, name="FastAP", definition=partial(every_item_asks, loss=fast_ap_of_one)),
        _METRIC_LEARNING,
        note=f"{_N_RANKINGS}; 10 bins",
    ),
    Peer(
        f"{_METRIC_LEARNING} SmoothAP",
        partial(metric_learning, "SmoothAPLoss", temperature=0.01),
        partial(_OF_ALL, name="SmoothAP", definition=partial(every_item_asks, loss=smooth_ap_of_one)),
        _METRIC_LEARNING,
        note=f"{_N_RANKINGS}; checked with as many classes as items in each, for with others it mixes them up",
        small=Shape(1, 10, 90),
    ),
    Peer("torcheval", torcheval, equals_ap, "torcheval", "metric"),
    Peer("TorchMetrics", torchmetrics, equals_ap, "torchmetrics", "metric", note="validate_args=False"),
    Peer("scikit-learn", scikit_learn, equals_ap, "scikit-learn", "metric", note="NumPy, one thread"),
)

"""Who is compared with, how each is called, and what each must get right.

The losses and metrics of rankings get the scores and the targets. LibAUC wants probabilities and gets
``sigmoid(scores)``. The losses of pytorch-metric-learning take embeddings and labels and rank, for each item, all
others; an item becomes the unit vector at the angle ``pi * sigmoid(score)``, and labels are classes of P items that lie
together (the only layout on which its SmoothAP is right), so that each item has as many positives as the ranking has.
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
from fastap import reference

Rank = Callable[[Tensor], Any]  # scores to a loss or a metric


@dataclass(frozen=True)
class Peer:
    """Who is compared with. ``build(targets)`` prepares what depends on the targets alone, which takes no time."""

    name: str
    build: Callable[[Tensor], Rank]
    check: Callable[[Any, Tensor, Tensor, Tensor | None], str]
    package: str | None = None  # on PyPI
    gives: Literal["gradient", "metric"] = "gradient"

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


def equals_one_minus_ap(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    expected = 1 - reference.average_precision(scores.cpu(), targets.cpu())
    assert abs(float(value) - expected) < 1e-4, f"{float(value)} is not 1 - AP, {expected}"
    return f"value equals 1 - AP; {is_usable(value, scores, targets, gradient)}"


def equals_direct_loss(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    assert gradient is not None
    expected = reference.direct_ap_loss(scores.cpu(), targets.cpu())
    assert abs(float(value) - expected.value) < 1e-5, f"{float(value)} is not the direct loss, {expected.value}"
    wrong = np.abs(gradient.cpu().numpy() - expected.gradient).max()
    assert wrong < 1e-7, f"the gradient is {wrong} away from the direct loss's"
    return "value and gradient equal fastap.reference's"


def equals_ap(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    expected = reference.average_precision(scores.cpu(), targets.cpu())
    assert abs(float(value) - expected) < 1e-5, f"{float(value)} is not AP, {expected}"
    return "value equals AP"


def is_usable(value: Any, scores: Tensor, targets: Tensor, gradient: Tensor | None) -> str:
    assert np.isfinite(float(value)), f"the value is {float(value)}"
    assert gradient is not None, "there is no gradient"
    assert gradient.shape == scores.shape, f"the gradient has shape {tuple(gradient.shape)}"
    assert gradient.isfinite().all(), "the gradient is not finite"
    assert gradient.any(), "the gradient is zero"
    return "value and gradient finite, gradient not zero"


# How each is called.


def of_scores(loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> Rank:
    return lambda scores: loss(scores, targets)


def libauc(targets: Tensor) -> Rank:
    from libauc.losses import APLoss

    loss = APLoss(data_len=targets.numel(), margin=1.0, gamma=0.9, device=targets.device)
    labels, index = targets.float()[:, None], torch.arange(targets.numel(), device=targets.device)
    return lambda scores: loss(scores.sigmoid()[:, None], labels, index)


def proxy_losses(targets: Tensor) -> Rank:
    from proxy_losses import SmoothAPLoss

    loss, labels = SmoothAPLoss(num_classes=1, queue_size=0, temperature=0.01), targets.long()
    return lambda scores: loss(scores[:, None], labels)


def metric_learning(name: str, targets: Tensor, **options: Any) -> Rank:
    from pytorch_metric_learning import losses

    loss = getattr(losses, name)(**options)
    labels = torch.arange(targets.numel(), device=targets.device) // int(targets.sum())

    def rank(scores: Tensor) -> Tensor:
        angle = torch.pi * scores.sigmoid()
        return loss(torch.stack([angle.cos(), angle.sin()], 1), labels)

    return rank


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
_LOOPS = partial(baselines.full_table_direct_loss, compiled=False)
_METRIC_LEARNING = "pytorch-metric-learning"

PEERS = (
    Peer("blackbox MapLoss", partial(of_scores, baselines.blackbox_map_loss), is_usable),
    Peer("blackbox AP", partial(of_scores, baselines.blackbox_ap_loss), equals_one_minus_ap),
    Peer("binned AP", partial(of_scores, _BINNED), is_usable),
    Peer("AP-loss", partial(of_scores, baselines.error_driven_ap_loss), is_usable),
    Peer("LibAUC APLoss", libauc, is_usable, "libauc"),
    Peer("SmoothAP", partial(of_scores, baselines.smooth_ap_loss), is_usable),
    Peer("proxy-losses SmoothAP", proxy_losses, is_usable, "proxy-losses"),
    Peer(
        f"{_METRIC_LEARNING} FastAP", partial(metric_learning, "FastAPLoss", num_bins=10), is_usable, _METRIC_LEARNING
    ),
    Peer(
        f"{_METRIC_LEARNING} SmoothAP",
        partial(metric_learning, "SmoothAPLoss", temperature=0.01),
        is_usable,
        _METRIC_LEARNING,
    ),
    Peer("paper's DP, NumPy loops", partial(of_scores, _LOOPS), equals_direct_loss),
    Peer("paper's DP, compiled", partial(of_scores, baselines.full_table_direct_loss), equals_direct_loss),
    Peer("torcheval", torcheval, equals_ap, "torcheval", "metric"),
    Peer("TorchMetrics", torchmetrics, equals_ap, "torchmetrics", "metric"),
    Peer("scikit-learn", scikit_learn, equals_ap, "scikit-learn", "metric"),
)

"""What others published for average precision, each from the formula of its paper, in plain PyTorch.

``scores`` is one ranking, shape ``(items,)``; ``targets`` is bool of the same shape. Losses are scalars to be minimised
and differentiable in ``scores``. They are written to be compared with, the way their authors state them; nobody should
train with them from here. Every ranking needs a positive and a negative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def ranks(scores: Tensor) -> Tensor:
    """1 for the highest score, ``items`` for the lowest; among equal scores whatever the sort makes of them."""
    return scores.argsort(descending=True).argsort().to(scores.dtype) + 1


class BlackboxRanks(torch.autograd.Function):
    """:func:`ranks`, with ``[rk(scores + lambda * grad) - rk(scores)] / lambda`` for its derivative times ``grad``.

    That is the exact gradient of a piecewise linear function that agrees with the loss at the scores.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, strength: float) -> Tensor:
        ranked = ranks(scores)
        ctx.save_for_backward(scores, ranked)
        ctx.strength = strength
        return ranked

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        scores, ranked = ctx.saved_tensors
        return (ranks(scores + ctx.strength * grad) - ranked) / ctx.strength, None


def blackbox_ap_loss(scores: Tensor, targets: Tensor, strength: float = 4.0) -> Tensor:
    """``1 - 1/P * sum over positives of rk+(i) / rk(i)``, equal to ``1 - AP`` where no scores are equal.

    ``rk`` is the rank among all items and gets the gradient of :class:`BlackboxRanks`; ``rk+``, the rank among the
    positives, is a constant. ``strength`` is the paper's lambda.

    Source: Rolinek, Musil, Paulus, Vlastelica, Michaelis, Martius, Optimizing Rank-based Metrics with Blackbox
    Differentiation, CVPR 2020.
    """
    ranked = BlackboxRanks.apply(scores, strength)[targets]
    return 1 - (ranks(scores.detach()[targets]) / ranked).mean()


class ErrorDrivenAP(torch.autograd.Function):
    """Value and update of :func:`error_driven_ap_loss`, both in the forward pass."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, delta: float, interpolated: bool) -> Tensor:
        positives = scores[targets]
        # A negative that far below every positive is above none of them.
        near = ~targets & (scores >= positives.min() - delta)
        negatives = scores[near]
        precision, pushed = torch.empty_like(positives), torch.zeros_like(negatives)
        best = 0.0
        for i in positives.argsort().tolist():
            # The step is 1/2 at 0, where a positive meets itself and is to count 1.
            above = 0.5 + step(positives - positives[i], delta).sum().item()
            wrong = step(negatives - positives[i], delta)
            total = above + wrong.sum().item()
            now, weight = above / total, 1 / total
            if interpolated:
                best = max(best, now)
                # All of a row's errors add up to 1 - precision, interpolated or not.
                if best > now:
                    weight *= (1 - best) / (1 - now)
                now = best
            precision[i] = now
            pushed.add_(wrong, alpha=weight)
        gradient = torch.zeros_like(scores)
        gradient[targets] = precision - 1
        gradient[near] = pushed
        ctx.save_for_backward(gradient / positives.numel())
        return 1 - precision.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad * ctx.saved_tensors[0], None, None, None


def step(difference: Tensor, delta: float) -> Tensor:
    """0 below ``-delta``, 1 above ``delta``, linear between."""
    return (difference / (2 * delta)).add_(0.5).clamp_(0, 1)


def error_driven_ap_loss(scores: Tensor, targets: Tensor, delta: float = 1.0, interpolated: bool = True) -> Tensor:
    """AP-loss: ``1/P * sum over pairs of L_ij``, ``L_ij = H(s_j - s_i) / rk(i)`` for a positive i and a negative j.

    ``H`` is :func:`step` and ``rk(i) = 1 + sum over k other than i of H(s_k - s_i)`` runs over all items. Nothing is
    differentiated: the gradient is the perceptron's, ``-1/P * sum over j of L_ij`` for a positive and
    ``1/P * sum over i of L_ij`` for a negative. ``interpolated`` replaces the precision ``1 - sum_j L_ij`` by the best
    one at this recall or a higher one, and scales the row to it. A loop over the positives, lowest score first, as
    published.

    Source: Chen, Li, Lin, See, Wang, Duan, Chen, He, Zou, Towards Accurate One-Stage Object Detection with AP-Loss,
    CVPR 2019, algorithm 1.
    """
    return ErrorDrivenAP.apply(scores, targets, delta, interpolated)


def smooth_ap_loss(scores: Tensor, targets: Tensor, temperature: float = 0.01) -> Tensor:
    """``1 - 1/P * sum over positives of rk+(i) / rk(i)`` with ``rk(i) = 1 + sum over j other than i of
    sigmoid((s_j - s_i) / temperature)``, over the positives for ``rk+`` and over all items for ``rk``.

    Tends to ``1 - AP`` with the temperature, where no scores are equal. A table of positives x items.

    Source: Brown, Xie, Kalogeiton, Zisserman, Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval,
    ECCV 2020.
    """
    soft = ((scores[None, :] - scores[targets][:, None]) / temperature).sigmoid()
    # Each positive has met itself, at sigmoid(0) = 1/2, and is to count 1.
    return 1 - ((soft[:, targets].sum(1) + 0.5) / (soft.sum(1) + 0.5)).mean()


def binned_ap_loss(scores: Tensor, targets: Tensor, low: float = 0.0, high: float = 1.0, bins: int = 20) -> Tensor:
    """``1 - sum over bins of precision_m * (recall_m - recall_{m-1})``, bins from the highest score down.

    Item ``j`` falls into bin ``m``, with centre ``c_m``, by ``max(0, 1 - |s_j - c_m| / width)``, that is into two
    neighbouring bins in shares that add up to 1; the centres divide ``[low, high]`` evenly and the outermost bins reach
    on. Precision and recall are those of all bins down to ``m``. A table of bins x items.

    Source: Revaud, Almazan, Rezende, Souza, Learning with Average Precision: Training Image Retrieval with a Listwise
    Loss, ICCV 2019 (20 bins in their experiments).
    """
    centres = torch.linspace(high, low, bins, dtype=scores.dtype, device=scores.device)
    width = (high - low) / (bins - 1)
    shares = F.relu(1 - (scores.clamp(low, high)[None, :] - centres[:, None]).abs() / width)
    everything, positives = shares.sum(1), shares @ targets.to(scores.dtype)
    precision = positives.cumsum(0) / everything.cumsum(0).clamp(min=1e-16)
    return 1 - (precision * positives).sum() / positives.sum()

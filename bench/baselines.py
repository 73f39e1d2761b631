"""What others published for average precision, each from the formula of its paper, in plain PyTorch or NumPy.

``scores`` is one ranking, shape ``(items,)``; ``targets`` is bool of the same shape. Losses are scalars to be minimised
and differentiable in ``scores``. They are written to be compared with, the way their authors state them; nobody should
train with them from here. Every ranking needs a positive and a negative.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Floats = npt.NDArray[np.float64]


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


def blackbox_map_loss(scores: Tensor, targets: Tensor, strength: float = 4.0, margin: float = 0.02) -> Tensor:
    """:func:`blackbox_ap_loss` as its authors train with it: ranks divided by the number of items, and a noisy margin.

    Positives are lowered and negatives raised by ``margin/2 * |N(0, 1)|``; the ranks among the positives come from one
    more ranking of all items, in which every positive stands above every negative. Theirs also averages over a memory
    of past batches and over all classes as one ranking; with one ranking and no memory both are this.

    Source: Rolinek et al., CVPR 2020, section 4.
    """
    items = scores.numel()
    label = targets.to(scores.dtype)
    shifted = scores - margin * torch.randn_like(scores).abs() * (label - 0.5)
    ranked = BlackboxRanks.apply(shifted, strength * items) / items
    among_positives = ranks(2 * label - ranked.detach()) / items
    return 1 - (among_positives / ranked * label).sum() / (label.sum() + 1e-5)


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


def fill_table(p: Floats, n: Floats, task_scale: float) -> tuple[float, npt.NDArray[np.int64]]:
    """The paper's recursion over all ``(P + 1) x (N + 1)`` cells; ``p`` and ``n`` sorted, descending.

    ``h(i, j)`` is the best ranking of the first ``i`` positives and ``j`` negatives; its last item is a positive,
    with ``j`` negatives above it, or a negative, with ``i`` positives above it::

        h(i, j) = max( h(i-1, j) + B(i, j) + L(i, j),  h(i, j-1) + G(i, j) )
        B(i, j) = -1/(P N) * sum over k <= j of (p_i - n_k)     L(i, j) = task_scale/P * j/(i + j)
        G(i, j) =  1/(P N) * sum over k <= i of (p_k - n_j)

    Returns ``h(P, N)`` and, for each positive, how many negatives stand above it. The four tables are float64 and held
    at once, ``32 (P + 1) (N + 1)`` bytes. Plain loops, which Numba compiles.
    """
    P, N = p.size, n.size
    B, G = np.zeros((P + 1, N + 1)), np.zeros((P + 1, N + 1))
    L, h = np.zeros((P + 1, N + 1)), np.zeros((P + 1, N + 1))
    for i in range(1, P + 1):
        for j in range(1, N + 1):
            gap = (p[i - 1] - n[j - 1]) / (P * N)
            B[i, j] = b = B[i, j - 1] - gap
            G[i, j] = g = G[i - 1, j] + gap
            L[i, j] = task = task_scale / P * j / (i + j)
            h[i, j] = max(h[i - 1, j] + b + task, h[i, j - 1] + g)
    above = np.zeros(P, dtype=np.int64)
    i, j = P, N
    while i > 0:
        if j == 0 or h[i - 1, j] + B[i, j] + L[i, j] >= h[i, j - 1] + G[i, j]:
            above[i - 1] = j
            i -= 1
        else:
            j -= 1
    return h[P, N], above


@cache
def compiled_fill_table() -> Callable[[Floats, Floats, float], tuple[float, npt.NDArray[np.int64]]]:
    """:func:`fill_table` as machine code, by Numba; kept on disk beside this file."""
    from numba import njit

    return njit(cache=True)(fill_table)


class FullTableAP(torch.autograd.Function):
    """Value and gradient of :func:`full_table_direct_loss`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, epsilon: float, sign: float) -> Tensor:
        score, target = scores.detach().cpu().numpy().astype(np.float64), targets.cpu().numpy()
        order = np.argsort(-score, kind="stable")
        positive, negative = order[target[order]], order[~target[order]]
        p, n = score[positive], score[negative]
        best, above = compiled_fill_table()(p, n, sign * epsilon)
        standard = np.searchsorted(-n, -p)  # negatives with a higher score
        sums = np.concatenate([[0.0], np.cumsum(n)])
        plain = p.mean() - n.mean() + 2 * (sums[standard] - standard * p).sum() / (p.size * n.size)
        gradient = np.empty_like(score)
        gradient[positive] = (standard - above) * 2 / (p.size * n.size)
        # How many positives have their j-th negative, and so all before it, above them.
        over, over_standard = (
            p.size - np.searchsorted(each, np.arange(n.size), side="right") for each in (above, standard)
        )
        gradient[negative] = (over - over_standard) * 2 / (p.size * n.size)
        ctx.save_for_backward(torch.from_numpy(sign / epsilon * gradient).to(scores))
        return scores.new_tensor(sign / epsilon * (best - plain))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad * ctx.saved_tensors[0], None, None, None


def full_table_direct_loss(scores: Tensor, targets: Tensor, epsilon: float = 1.0, update: str = "positive") -> Tensor:
    """``s/epsilon * [max(F + s epsilon L) - max F]`` by the paper's own full-table program, :func:`fill_table`.

    ``s`` is +1 for the positive and -1 for the negative update; the gradient is the difference of the two rankings.
    Runs on the CPU in float64, whatever the scores. Of equal scores it takes any order.

    Source: Song, Schwing, Zemel, Urtasun, Training Deep Neural Networks via Direct Loss Minimization, ICML 2016,
    section 4.
    """
    sign = {"positive": 1.0, "negative": -1.0}[update]
    return FullTableAP.apply(scores, targets, epsilon, sign)

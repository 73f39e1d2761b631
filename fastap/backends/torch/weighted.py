"""Average precision of weighted items: one sort of every row and sums along it, whatever the device."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.torch.layout import pick, score_order


def weighted_precision(scores: Tensor, positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """``sklearn.metrics.average_precision_score(positive[r], scores[r], sample_weight=weight[r])`` for every row ``r``.

    ``sum over thresholds k of (T_k - T_{k-1}) / T * T_k / (T_k + F_k)``, where ``T_k`` and ``F_k`` are the weights of
    the positives and of the negatives at or above threshold ``k``, and ``T`` those of all positives. Equal scores form
    one threshold, -0.0 equals 0.0, and infinities are scores like any other.

    Args:
        scores: (rankings, items), floating.
        positive: (rankings, items), bool.
        negative: (rankings, items), bool, disjoint from ``positive``. Items in neither take no part: their scores and
            weights may be anything.
        weight: (rankings, items), any real type. An item of weight 0 changes nothing.

    Returns:
        (rankings,) float64. NaN where the positives weigh nothing or there are none, where an item that takes part has
        a NaN score or a weight that is negative, infinite or NaN, and where those of the positives add up to infinity.
    """
    if scores.shape[-1] == 0:
        return scores.new_full(scores.shape[:-1], torch.nan, dtype=torch.float64)
    weight = weight.to(torch.float64)
    wrong = (positive | negative) & (scores.isnan() | ~weight.isfinite() | (weight < 0))
    keys, order = torch.sort(_sort_keys(scores), stable=True)
    signed = torch.where(positive, weight, torch.where(negative, -weight, 0.0))
    signed = pick(signed.reshape(-1), order).view(scores.shape)

    # Two sums in one tensor: along a single row of a CUDA tensor `cumsum` may add in an order that changes from run to
    # run, along one of several it does not. That F is no difference of sums keeps every precision at most 1.
    true, false = torch.stack([signed, -signed]).clamp_(min=0.0).cumsum(-1)
    ends = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=ends[:-1])
    ends = ends.view(scores.shape)

    # T falls nowhere, so its largest value at the ends before this one is that at the last of them.
    gain = torch.where(ends, true, 0.0)
    gain[:, 1:] -= gain.cummax(-1).values[:, :-1]
    # Before the first weight T and F are both 0, and so is the gain.
    total = torch.where(ends & (true > 0), gain * (true / (true + false)), 0.0).sum(-1)
    result: Tensor = (total / true[:, -1]).clamp_(max=1.0)
    return result.masked_fill_(wrong.any(-1), torch.nan)


def _sort_keys(scores: Tensor) -> Tensor:
    """One int64 a score, flat: the row in the high half, the score, descending, in the low half."""
    halves = torch.empty(*scores.shape, 2, dtype=torch.int32, device=scores.device)
    halves[..., 0] = score_order(scores)
    halves[..., 1] = torch.arange(scores.shape[0], dtype=torch.int32, device=scores.device)[:, None]
    return halves.view(torch.int64).view(-1)

"""From the loss of each ranking to one number, and what each ranking's gradient is multiplied with for it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.types import Losses


def reduce(
    losses: Losses, dtype: torch.dtype, *, mean: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The weighted sum of the losses over the last axis, or their mean over those that take part; the share of each.

    The share is what the gradient of a ranking is to be multiplied with, one for all where there are no weights.
    """
    if weight is None:
        total, count = losses.loss.sum(-1), losses.takes_part.sum(-1, keepdim=True)
        if not mean:
            return total.to(dtype), None
        share = 1.0 / count.clamp_(min=1).to(torch.float64)
        return (total * share[..., 0]).to(dtype), share.to(dtype)
    share = losses.takes_part * weight
    if mean:
        # That weights add up to infinity is not to make each of them 0.
        share = torch.where(share.sum(-1, keepdim=True).isinf(), share * 2.0**-64, share)
        whole = share.sum(-1, keepdim=True)
        share = share / torch.where(whole == 0.0, 1.0, whole)
    return (losses.loss * share).sum(-1).to(dtype), share.to(dtype)


def mean_precision(precisions: Tensor, support: Tensor, *, weighted: bool) -> Tensor:
    """Over the rankings with positives: a NaN among these, of a NaN score, is none to leave out."""
    counts = support > 0
    share = support if weighted else counts.to(torch.float64)
    share = torch.where(share.sum().isinf(), share * 2.0**-64, share)
    return torch.where(counts, precisions * share, 0.0).sum() / share.sum()

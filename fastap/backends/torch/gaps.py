"""Scores that span so many epsilons that their sums have lost what is small against one: the gaps are cut.

AP does not pay a row for one negative more or less above it at a gap of ``epsilon N / 2`` or more, so that no larger
gap between neighbouring scores, of whatever class, is ever crossed, and one of twice that does as well: the same
optimum, in sums that keep their digits. What depends on which scores are equal is to look at the scores themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FAR = 2.0**20


def can_sum(span: Tensor, epsilon: float, n_positive: Tensor, n_negative: Tensor) -> Tensor:
    """Whether no sum over all pairs overflows, of gaps of up to ``span`` or of what AP pays; where not, all is lost."""
    pairs = n_positive.to(torch.float64) * n_negative
    return (16.0 * pairs * span).isfinite() & (8.0 * pairs * epsilon).isfinite()


def is_far(span: Tensor, epsilon: float, n_negative: Tensor) -> Tensor:
    """Whether to cut, where ``span`` is that of the scores above the lowest positive; of one shape with the counts."""
    return (span > _FAR * epsilon) & (span > _largest(epsilon, n_negative))


def _largest(epsilon: float, n_negative: Tensor) -> Tensor:
    return n_negative.to(torch.float64) * epsilon


def cut(scores: Tensor, epsilon: float, n_negative: Tensor) -> Tensor:
    """Finite scores, (rankings, items), in any order, less what no ranking crosses; ``n_negative`` is (rankings, 1)."""
    scores, order = scores.sort(-1, descending=True)
    gaps = torch.minimum(scores[:, :-1] - scores[:, 1:], _largest(epsilon, n_negative))
    near = torch.zeros_like(scores)
    near[:, 1:] = -gaps.cumsum(-1)
    return torch.empty_like(near).scatter_(-1, order, near)

"""What a metric asks of rankings, of any backend: AP, that of the best items alone, and what both classes weigh."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastap import backends
from fastap.backends import native
from fastap.types import Batch, Precision

_IGNORED = -1


def measure(batch: Batch, weight: Tensor | None = None, *, top_k: int | None = None, counts: bool = False) -> Precision:
    """AP of every ranking, and if ``counts`` what its positives and its negatives weigh.

    With ``top_k`` only so many of the best items take part, and all that tie with the last of these: AP is divided by
    the positives among them, and 0 where there are none. A NaN comes first and makes AP NaN. The classes weigh what all
    their items weigh; no target may be wrong then.
    """
    engine: Any = backends.get("auto", batch.scores.device)
    if engine is native:
        return native.precision(batch, weight, top_k=top_k, counts=counts)
    if top_k is None:
        value = engine.average_precision(batch, weight)
    else:
        best, first = _best(batch, top_k)
        value = engine.average_precision(best, weight)
        none = (_weigh(batch, 1, None) > 0) & (_weigh(best, 1, None) == 0) & ~first.isnan()
        value = value.masked_fill(none, 0.0)
    return Precision(value, *(_weigh(batch, target, weight) if counts else None for target in (1, 0)))


def _weigh(batch: Batch, target: int, weight: Tensor | None) -> Tensor:
    """The weights of all items with that target, (rankings,) float64."""
    taken = batch.targets == target
    each = taken.to(torch.float64) if weight is None else torch.where(taken, weight, 0.0).to(torch.float64)
    if batch.offsets is None:
        return each.sum(-1).reshape(-1)
    return torch.segment_reduce(each, "sum", offsets=batch.offsets, initial=0.0)


def _best(batch: Batch, top_k: int) -> tuple[Batch, Tensor]:
    """The same rankings, all items ignored that are not among the best; and the best score of each ranking."""
    scores, targets, offsets = batch.scores.reshape(-1), batch.targets.reshape(-1), batch.offsets
    items = scores.shape[0]
    if offsets is None:
        offsets = torch.arange(0, items + 1, batch.items, device=scores.device)
    numbers = torch.arange(batch.rankings, device=scores.device)
    ranking = numbers.repeat_interleave(offsets.diff(), output_size=items)
    positive = targets == 1
    taken = positive | (targets == 0)
    # By ranking, then what takes part before what does not, then by score.
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[torch.sort((2 * ranking + ~taken)[order], stable=True).indices]
    count = torch.zeros_like(numbers).index_add_(0, ranking, taken.to(torch.int64))
    first = scores[order[offsets[:-1].clamp(max=items - 1)]]
    last = scores[order[(offsets[:-1] + count.clamp(max=min(top_k, items)) - 1).clamp(0, items - 1)]]
    classes = torch.where(taken & ~(scores < last[ranking]), positive, _IGNORED).to(torch.int8)
    return Batch(batch.scores, classes.view(batch.targets.shape), _IGNORED, batch.offsets), first

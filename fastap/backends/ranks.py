"""Measures of rankings by the ranks of their positives, on any device: a sort, prefix sums, no loop over rankings.

Equal scores are a *level*. What an item of a level counts follows whoever defines the measure: see
:func:`fastap.ranking_measure`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fastap.backends.measure import measure as measured
from fastap.targets import allowed_targets
from fastap.types import AP, Batch, Measure


def value_of(batch: Batch, measure: Measure) -> Tensor:
    """(rankings,) float64: NaN without a positive, with a NaN score or a wrong target, and where one is needed, without
    a negative.
    """
    if measure == AP:
        return measured(batch).value
    levels, k = _Levels(batch), measure.k or torch.inf
    positives, negatives = levels.of_rankings(levels.positive), levels.of_rankings(levels.negative)
    within = (levels.rank <= k).to(torch.float64)
    if measure.name in ("precision", "recall"):
        counted = levels.of_rankings(levels.mean(within) * levels.positive)
        result = counted / (positives if measure.name == "recall" else k)
    elif measure.name == "ap":
        precision = (levels.positives_before + levels.positives) / levels.last
        total = levels.of_rankings(levels.mean(within) * levels.positive * precision)
        result = total / positives.clamp(max=k)
    elif measure.name == "ndcg":
        gain = within / torch.log2(levels.rank + 1.0)
        best = levels.of_rankings(gain * (levels.rank <= levels.by_item(positives)))
        result = levels.of_rankings(levels.mean(gain) * levels.positive) / best
    elif measure.name == "bedroc":
        # Of the first rank's, less that: digits are kept whatever the rate.
        early = torch.expm1(-levels.by_item(measure.parameter / (positives + negatives)) * (levels.rank - 1))
        total = levels.of_rankings(levels.mean(early) * levels.positive)
        best = levels.of_rankings(early * (levels.rank <= levels.by_item(positives)))
        last = levels.by_item(negatives) < levels.rank
        worst = levels.of_rankings(early * last * (levels.positive + levels.negative))
        result = ((total - worst) / (best - worst)).masked_fill(negatives == 0, torch.nan)
    elif measure.name == "reciprocal_rank":
        # Of equal items positives go last, as in no order is the first one worse.
        rank = levels.least(torch.where(levels.positive > 0, levels.last - levels.positives + 1, torch.inf))
        result = torch.where(rank <= k, 1 / rank, 0.0)
    else:
        most = negatives * measure.parameter
        # From level to level the ROC curve is a straight line; of a level the first item counts.
        share = torch.minimum((levels.by_item(most) - levels.negatives_before).clamp(min=0), levels.negatives)
        rise = levels.positives * share * share / (2 * levels.negatives.clamp(min=1))
        area = levels.of_rankings((levels.positives_before * share + rise) * levels.is_first)
        result = area / (positives * most)
    return torch.where((positives > 0) & ~levels.is_spoilt, result, torch.nan)


class _Levels:
    """The items of a batch by ranking and falling score, those that are ignored last; float64, one number an item.

    ``positives``, ``negatives``: how many the item's level has, ``..._before``: how many stand above that.
    """

    def __init__(self, batch: Batch) -> None:
        scores, targets, offsets = batch.scores.reshape(-1), batch.targets.reshape(-1), batch.offsets
        count, device = scores.shape[0], scores.device
        if offsets is None:
            offsets = torch.arange(0, count + 1, batch.items, device=device)
        self.offsets = offsets
        number = torch.arange(batch.rankings, device=device).repeat_interleave(offsets.diff(), output_size=count)
        positive, negative = targets == 1, targets == 0
        taken = positive | negative
        wrong = ~allowed_targets(targets, taken, batch.ignore_index)
        order = torch.sort(scores, descending=True, stable=True).indices
        order = order[torch.sort((2 * number + ~taken)[order], stable=True).indices]
        self._number, score, taken = number, scores[order], taken[order]  # each ranking keeps its places
        self.positive, self.negative = (each[order].to(torch.float64) for each in (positive, negative))
        self.is_spoilt = self.of_rankings(((score.isnan() & taken) | wrong[order]).to(torch.float64)) > 0
        place = torch.arange(count, device=device)
        self.rank = (place - offsets[number] + 1).to(torch.float64)
        begins = place == 0
        for each in (score, number, taken):
            begins[1:] |= each[1:] != each[:-1]
        self._level = begins.cumsum(0) - 1
        self._lengths = torch.zeros(count, dtype=torch.int64, device=device).index_add_(
            0, self._level, torch.ones_like(self._level)
        )
        self.is_first = begins.to(torch.float64)
        self._first, self._place = torch.where(begins, place, 0).cummax(0).values, place

    # Each where a measure asks for it.
    @cached_property
    def last(self) -> Tensor:
        """The last rank of the item's level."""
        return self.rank + (self._first + self._lengths[self._level] - 1 - self._place)

    @cached_property
    def positives(self) -> Tensor:
        return self._summed(self.positive)

    @cached_property
    def negatives(self) -> Tensor:
        return self._summed(self.negative)

    @cached_property
    def positives_before(self) -> Tensor:
        return self._before(self.positive)

    @cached_property
    def negatives_before(self) -> Tensor:
        return self._before(self.negative)

    def of_rankings(self, values: Tensor) -> Tensor:
        """The sum of each ranking."""
        return torch.segment_reduce(values, "sum", offsets=self.offsets, initial=0.0)

    def least(self, values: Tensor) -> Tensor:
        """The least of each ranking."""
        return torch.segment_reduce(values, "min", offsets=self.offsets, initial=torch.inf)

    def by_item(self, values: Tensor) -> Tensor:
        """One number a ranking, for each of its items."""
        return values[self._number]

    def mean(self, values: Tensor) -> Tensor:
        """Of the item's level: what it has on average over all orders of the level's items."""
        return self._summed(values) / self._lengths[self._level]

    def _summed(self, values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=self._lengths, initial=0.0)[self._level]

    def _before(self, values: Tensor) -> Tensor:
        through = torch.cat([values.new_zeros(1), values.cumsum(0)])  # whole numbers
        return through[self._first] - through[self.offsets[self._number]]

"""From chosen rankings back to the user's items: value, gradient, ranks, average precision. Counting, no pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastap.backends.torch import gaps
from fastap.backends.torch.augment import augmented
from fastap.backends.torch.layout import Layout, Rows, pick, rows_of, sort_batch
from fastap.backends.torch.terms import Terms
from fastap.types import AugmentedRanking, Losses, Objective, Problem


def losses(problem: Problem, objective: Objective) -> Losses:
    """Loss and gradient of every ranking."""
    layout = sort_batch(problem)
    rows = rows_of(layout, layout.takes_part)
    terms = Terms.of(layout, rows, objective.sign * objective.epsilon)
    near = terms if objective.loss == "perceptron" else _near(terms, problem, objective)
    chosen = rows.above if objective.loss == "perceptron" else augmented(near, objective.sign, objective.method)

    pairs = (layout.n_positive * layout.n_negative).clamp_(min=1).to(torch.float64)
    # The direct losses see only pairs that the two rankings order differently, none of them across a large gap.
    loss = _per_ranking(layout, rows, near.standard(chosen) - near.standard(rows.above))
    if objective.loss != "direct":
        loss += _standard_gap(layout, rows, problem.scores)
    loss.mul_(2.0 * objective.gain).div_(pairs)
    if objective.task_weight:
        task = _per_ranking(layout, rows, terms.task_loss(chosen)).div_(layout.n_positive.clamp(min=1))
        loss.add_(task, alpha=objective.task_weight)
    # Scores too large to be summed are as good as infinite.
    lost = layout.takes_part & ~(layout.finite & _can_sum(layout, objective) & loss.isfinite())
    loss.clamp_(min=0.0, max=objective.ceiling).masked_fill_(lost, torch.nan)

    # Twice a_first - a_second. sign(0) = 0: in the standard ranking half of the equal negatives stand above.
    standard = [(rows.above, 1), (rows.at_or_above, 1)]
    choices = standard if objective.loss == "perceptron" else [(chosen, 2)]
    if objective.loss == "direct":
        choices += [(a, -weight) for a, weight in standard]
    gradient = torch.empty(problem.scores.shape, dtype=problem.loss_dtype, device=pairs.device)
    torch.mul(_gain(layout, rows, choices), (objective.gain / pairs)[:, None], out=gradient)
    by_item = torch.empty_like(gradient)
    by_item.view(-1).index_copy_(0, layout.order, gradient.view(-1))
    if bool(lost.any()):
        by_item.masked_fill_(lost[:, None] & (problem.positive | problem.negative), torch.nan)
    return Losses(loss, by_item, layout.takes_part)


def ranking(problem: Problem, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and ``max F + s epsilon L``."""
    layout = sort_batch(problem)
    rows = rows_of(layout, layout.takes_part)
    terms = Terms.of(layout, rows, objective.sign * objective.epsilon)
    chosen = augmented(_near(terms, problem, objective), objective.sign, objective.method)

    place = torch.arange(layout.items, device=rows.base.device)
    ignored = place >= (layout.n_positive + layout.n_negative)[:, None]
    # A negative has its better negatives above it, and those positives that it does not stand before. Rankings
    # without positives or without negatives are ranked by score by the same formula.
    below = _positives_below(layout, rows, (chosen, 1)).view(-1, layout.items)
    ranks = (place - below.to(torch.int64)).masked_fill_(ignored, -1).view(-1)
    ranks[rows.place] = rows.index.to(torch.int64) - 1 + chosen

    positives = layout.n_positive.clamp(min=1).to(torch.float64)
    pairs = positives * layout.n_negative.clamp(min=1)
    last = torch.arange(layout.rankings, device=place.device) * layout.items + layout.n_positive + layout.n_negative - 1
    mean_negative = layout.prefix[last.clamp(min=0)] / layout.n_negative.clamp(min=1)
    value = _per_ranking(layout, rows, rows.score) / positives - mean_negative
    value += _per_ranking(layout, rows, terms.standard(chosen)) * (2.0 / pairs)
    value += _per_ranking(layout, rows, terms.task_loss(chosen)) / positives * (objective.sign * objective.epsilon)
    value.masked_fill_(~(layout.takes_part & layout.finite & _can_sum(layout, objective)), torch.nan)
    return AugmentedRanking(
        torch.empty_like(ranks).index_copy_(0, layout.order, ranks).view(problem.scores.shape), value
    )


def _standard_gap(layout: Layout, rows: Rows, scores: Tensor) -> Tensor:
    """The gaps of all pairs that the ranking by score has the wrong way round, summed over each ranking.

    From row to row, each a sum of nothing negative that loses no digits to scores far away: a row has the gaps of the
    row before it, ``lo (p_before - p)`` more, and those of the negatives between the two.
    """
    before = torch.where(rows.index > 1, rows.above.roll(1), 0)
    score = pick(scores.view(-1), pick(layout.order, rows.place)).to(torch.float64)
    gap = torch.where(before > 0, before * (score.roll(1) - score), 0.0)
    between = rows.above - before
    row = torch.repeat_interleave(between)
    number = torch.arange(row.shape[0], device=row.device) - pick(between.cumsum(0) - between, row)
    negative = pick(layout.order, pick(rows.base + 1 + before, row) + number)
    gap.index_add_(0, row, pick(scores.view(-1), negative).to(torch.float64) - pick(score, row))
    return _per_ranking(layout, rows, gap * (pick(layout.n_positive, rows.ranking) - rows.index + 1))


def _ends(layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best and the lowest positive, the best and the lowest negative of each ranking that has both."""
    start = torch.arange(0, layout.rankings * layout.items, layout.items, device=layout.order.device)
    split = start + layout.n_positive
    places = (start, split - 1, split, split + layout.n_negative - 1)
    best, lowest, rival, last = (pick(layout.values, each.clamp(0, layout.order.shape[0] - 1)) for each in places)
    return best, lowest, rival, last


def _can_sum(layout: Layout, objective: Objective) -> Tensor:
    best, lowest, rival, last = _ends(layout)
    span = torch.maximum(best, rival) - torch.minimum(lowest, last)
    return gaps.can_sum(span, objective.epsilon, layout.n_positive, layout.n_negative)


def _near(terms: Terms, problem: Problem, objective: Objective) -> Terms:
    """The same optimum where scores span too many epsilons, see :mod:`fastap.backends.torch.gaps`."""
    layout, epsilon = terms.layout, objective.epsilon
    best, lowest, rival, _ = _ends(layout)
    far = gaps.is_far(torch.maximum(best, rival) - lowest, epsilon, layout.n_negative)
    far &= layout.takes_part & layout.finite
    if not bool(far.any()):
        return terms
    values, prefix = layout.values.clone(), layout.prefix.clone()
    scores = pick(problem.scores.view(-1), layout.order).to(torch.float64)
    counts = torch.stack([layout.n_positive, layout.n_negative], 1)
    for ranking in far.nonzero().view(-1).tolist():
        n_positive, n_negative = counts[ranking].tolist()
        start = ranking * layout.items
        part = slice(start, start + n_positive + n_negative)
        near = gaps.cut(scores[None, part], epsilon, counts[ranking, 1])[0]
        near -= near[n_positive // 2].clone()
        values[part] = near
        near[:n_positive] = 0.0
        prefix[part] = near.cumsum(0)
    rows = replace(terms.rows, score=pick(values, terms.rows.place))
    return replace(terms, layout=replace(layout, values=values, prefix=prefix), rows=rows)


def average_precision(problem: Problem) -> Tensor:
    """AP of every ranking, equal scores forming one threshold group; NaN without a positive or with a NaN score."""
    layout = sort_batch(problem)
    rows = rows_of(layout, layout.n_positive > 0)
    positives_at_or_above = torch.searchsorted(layout.keys, layout.keys[rows.place], right=True)
    positives_at_or_above -= rows.ranking * layout.items
    precision = positives_at_or_above / (positives_at_or_above + rows.at_or_above).to(torch.float64)
    result = _per_ranking(layout, rows, precision) / layout.n_positive
    taken = problem.positive | problem.negative
    return result.masked_fill_((problem.scores.isnan() & taken).any(-1), torch.nan)


def _per_ranking(layout: Layout, rows: Rows, values: Tensor) -> Tensor:
    """Sum over the rows of each ranking."""
    total = torch.zeros(layout.rankings, dtype=torch.float64, device=values.device)
    return total.index_add_(0, rows.ranking, values)


def _gain(layout: Layout, rows: Rows, choices: Sequence[tuple[Tensor, int]]) -> Tensor:
    """``-sum of weight * a`` at the positives, ``sum of weight * b`` at the negatives, 0 elsewhere; (rankings, items).

    Only the first choice may tell equal scores apart, as a loss-augmented ranking does. Each then gets the mean of the
    group, which is a gradient as much as any other, and the same however the items came in.
    """
    below = _positives_below(layout, rows, *choices)
    above = torch.zeros_like(rows.score)
    for a, weight in choices:
        above.add_(a, alpha=weight)
    _share_cut_negatives(layout, rows, choices[0][0], below)
    _share_equal_positives(layout, rows, above)
    below.index_copy_(0, rows.place, above.neg_())
    return below.view(-1, layout.items)


def _share_cut_negatives(layout: Layout, rows: Rows, a: Tensor, below: Tensor) -> None:
    """Give equal negatives, some of which stand above a positive and some below it, the mean of what they got."""
    keys = layout.keys
    place = rows.base + a
    key = pick(keys, place)
    below_it = pick(keys, (place + 1).clamp_(max=keys.shape[0] - 1))
    # At a = 0 the place is that of a positive, at a = N the next is another class's: the keys differ by themselves.
    # At the last place of all it is no cut; the mean of its group is then what each has.
    key = key[key == below_it].unique_consecutive()
    if key.shape[0]:
        first, end = torch.searchsorted(keys, key), torch.searchsorted(keys, key, right=True)
        size = end - first
        group = torch.repeat_interleave(torch.arange(key.shape[0], device=key.device), size)
        member = torch.arange(group.shape[0], device=key.device) + pick(first - (size.cumsum(0) - size), group)
        below.index_copy_(0, member, _means(pick(below, member), group, size))


def _share_equal_positives(layout: Layout, rows: Rows, above: Tensor) -> None:
    """Give equal positives the mean of what they got."""
    key = pick(layout.keys, rows.place)
    if bool((key[1:] == key[:-1]).any()):
        _, group, size = key.unique_consecutive(return_inverse=True, return_counts=True)
        above.copy_(_means(above, group, size))


def _means(values: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """The mean of each group, at each of its members; sums of counts are exact in float64."""
    total = torch.zeros(size.shape, dtype=torch.float64, device=values.device).index_add_(0, group, values)
    return pick(total / size, group)


def _positives_below(layout: Layout, rows: Rows, *choices: tuple[Tensor, int]) -> Tensor:
    """``sum of weight * b``, ``b_j = #{i : a_i >= j}``, over the given ``(a, weight)``, at the place of every negative.

    float64, since one pass then serves counting and scaling; counts are exact to 2**53. 0 at ignored items, of no
    meaning at positives.
    """
    changes = torch.zeros(layout.rankings * layout.items + 1, dtype=torch.float64, device=rows.base.device)
    for a, weight in choices:
        changes.index_add_(0, rows.base + 1 + a, torch.full_like(rows.score, weight))
    until = changes.cumsum_(0)
    ends = until[layout.items :: layout.items].clone()
    table = until[:-1].view(-1, layout.items)
    return torch.sub(ends[:, None], table, out=table).view(-1)  # in place: a page not touched is time saved

"""The truth: measures of a ranking, their ranking problem and its losses by definition, in NumPy and float64.

Slow and meant to be read. One ranking at a time; nothing here is shared with the backends it judges. The first half is
the mathematics, functions of ``scores`` and ``targets`` of one dimension, targets 1 for positives and 0 for negatives.
The second half makes a backend of it.

Source: Song, Schwing, Zemel, Urtasun, Training Deep Neural Networks via Direct Loss Minimization, ICML 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastap.reduce import reduce
from fastap.targets import wrong_targets
from fastap.types import AP, AugmentedRanking, Batch, Losses, Measure, Objective, Update, loss_dtype

__all__ = ["average_precision", "losses", "ranking", "reduce"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def plain_average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """``1/P * sum over positives of precision at the positive's threshold``; equal scores form one threshold.

    NaN without a positive.
    """
    score, target = _split_checked(scores, targets)
    positives = score[target]
    if positives.size == 0:
        return float("nan")
    return float(np.mean([np.mean(target[score >= threshold]) for threshold in positives]))


def weighted_average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """``sum over thresholds k of (T_k - T_{k-1}) / T * T_k / (T_k + F_k)``; equal scores form one threshold.

    ``T_k`` and ``F_k`` are what the positives and the negatives at or above threshold ``k`` weigh, ``T`` what all
    positives do. NaN where that is nothing or infinite, and with a NaN score or a weight that is negative, infinite or
    NaN. An item of weight 2 counts as two, one of weight 0 changes nothing.
    """
    score, target = _split_checked(scores, targets)
    weight = np.asarray(weights, dtype=np.float64)
    right = ~np.isnan(score) & np.isfinite(weight) & (weight >= 0)
    with np.errstate(over="ignore"):
        whole = weight[target].sum()
    if not right.all() or not 0 < whole < np.inf:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(score[order[1:]] != score[order[:-1]], True)  # at each threshold
    true = np.cumsum((weight * target)[order])[last]
    false = np.cumsum((weight * ~target)[order])[last]
    gain = np.diff(true, prepend=0.0)
    counts = gain > 0  # before the first of them true and false may both be 0
    precision = true[counts] / (true[counts] + false[counts])
    return min(float(np.sum(gain[counts] / true[-1] * precision)), 1.0)


def ap_of_order(targets_in_order: npt.ArrayLike) -> float:
    """AP of a ranking given as its targets from first to last place."""
    target = np.asarray(targets_in_order, dtype=bool)
    places = np.flatnonzero(target) + 1
    return float(np.mean(np.arange(1, places.size + 1) / places))


Rows = Callable[[int, Ints], Floats]


class TaskLoss(NamedTuple):
    """``lowest + sum_i rows(i, a_i)``, positive ``i``, from 1, below ``a_i`` negatives; ``rows(i, 0)`` is 0."""

    rows: Rows
    lowest: float = 0.0


def task_loss(measure: Measure | Rows, n_positive: int, n_negative: int) -> TaskLoss:
    """``1 - measure``, by :class:`fastap.types.Measure`; or the sum of any function."""
    if not isinstance(measure, Measure):
        return TaskLoss(measure)
    n, value, k = n_positive + n_negative, measure.parameter, measure.k or np.inf
    every, constant = np.arange(1, n_positive + 1), 0.0
    best = float(n_positive)
    gain: Rows

    if measure.name == "ap":
        gain, best = lambda i, a: i / (i + a), min(k, n_positive)
    elif measure.name == "ndcg":
        gain, best = lambda i, a: 1 / np.log2(1.0 + i + a), float((1 / np.log2(1.0 + every[every <= k])).sum())
    elif measure.name == "precision":
        gain, best = lambda i, a: np.ones(np.shape(a)), k
    elif measure.name == "recall":
        gain = lambda i, a: np.ones(np.shape(a))  # noqa: E731
    elif measure.name == "bedroc":
        # Of the first rank's, less that: 0 and below.
        worst = float(np.expm1(-value / n * np.arange(n_negative, n)).sum())
        gain, best = (
            lambda i, a: np.expm1(-value / n * (i + a - 1)),
            float(np.expm1(-value / n * (every - 1)).sum()) - worst,
        )
        constant = -worst / best
    elif measure.name == "reciprocal_rank":
        gain, best = lambda i, a: (i == 1) / (1.0 + a), 1.0
    else:
        most = n_negative * value  # "auc": 1
        gain, best = lambda i, a: np.maximum(most - a, 0.0), most * n_positive

    def within(i: int, a: Ints) -> Floats:
        """``m_i(a)``, times ``best``."""
        gained: Floats = np.where(i + a <= k, gain(i, a), 0.0)
        return gained

    best_of_all = constant + sum(float(within(i, np.array(0))) for i in range(1, n_positive + 1)) / best
    return TaskLoss(lambda i, a: (within(i, np.zeros_like(a)) - within(i, a)) / best, 1.0 - best_of_all)


def measure_of_order(measure: Measure, targets_in_order: npt.ArrayLike) -> float:
    """A measure of a ranking given as its targets from first to last place."""
    target = np.asarray(targets_in_order, dtype=bool)
    above = np.cumsum(~target)[target]
    rows, lowest = task_loss(measure, above.size, target.size - above.size)
    return float(1 - lowest - sum(rows(i, a) for i, a in enumerate(above, 1)))


def ranking_score(scores: npt.ArrayLike, targets: npt.ArrayLike, order: npt.ArrayLike) -> float:
    """``F(y) = 1/(P N) * sum over pairs of y_ij (p_i - n_j)`` for the ranking that lists the items in ``order``."""
    score, target = _split_checked(scores, targets)
    place = np.empty(score.size, dtype=np.int64)
    place[np.asarray(order)] = np.arange(score.size)
    above = np.where(place[target][:, None] < place[~target][None, :], 1.0, -1.0)
    return float(np.mean(above * (score[target][:, None] - score[~target][None, :])))


def brute_force(
    scores: npt.ArrayLike, targets: npt.ArrayLike, task_scale: float, measure: Measure = AP
) -> tuple[float, list[Ints]]:
    """``max F + task_scale * (1 - measure)`` over all orderings, and every ordering that attains it to 1e-12.

    For at most 8 items. ``task_scale`` is ``epsilon`` for the positive update, ``-epsilon`` for the negative.
    """
    score, target = _split_checked(scores, targets)
    if score.size > 8:
        raise ValueError(f"brute_force takes at most 8 items, got {score.size}")
    orders = [np.array(order) for order in permutations(range(score.size))]
    losses = [1 - measure_of_order(measure, target[order]) for order in orders]
    values = np.array(
        [ranking_score(score, target, o) + task_scale * loss for o, loss in zip(orders, losses, strict=True)]
    )
    best = float(values.max())
    within = 1e-12 * max(1.0, float(np.abs(values).max()))
    return best, [order for order, value in zip(orders, values, strict=True) if value >= best - within]


def augmented_choice(
    positives: Floats, negatives: Floats, task_scale: float, measure: Measure | Rows = AP
) -> tuple[float, Ints]:
    """The paper's dynamic program: ``max F + task_scale * L`` and, for each positive, the negatives above it.

    ``L`` is ``1 - measure``, or the sum over the positives of any function ``rows(i, a)``.

    ``positives`` and ``negatives`` are sorted, descending. A ranking is ``a_1 <= ... <= a_P`` with ``a_i`` the number
    of negatives above positive ``i``. Of the ranking by score, ``F = mean |p_i - n_j|``; positive ``i`` (counted from
    1), moved from where it stands there, at ``w``, to ``a``, adds ``2/(P N) sum of (n_j - p_i) for j in (w, a]`` to
    that, less where it moves up, and ``task_scale * rows(i, a)``, of AP ``task_scale/P * a/(i + a)``:

        h_i(a) = max over a' <= a of [ h_{i-1}(a') + term_i(a') ].
    """
    n_positive, n_negative = positives.size, negatives.size
    rows, lowest = task_loss(measure, n_positive, n_negative)
    a = np.arange(n_negative + 1)
    best_at = np.empty((n_positive, n_negative + 1), dtype=np.int64)
    h = np.zeros(n_negative + 1)
    for i in range(1, n_positive + 1):
        gap = negatives - positives[i - 1]
        above = int((gap > 0).sum())
        # The gaps on one side have one sign: their sums lose no digits to scores far away.
        moved = np.concatenate([-np.cumsum(gap[:above][::-1])[::-1], [0.0], np.cumsum(gap[above:])])
        term = 2.0 / (n_positive * n_negative) * moved + task_scale * rows(i, a)
        total = h + term
        h = np.maximum.accumulate(total)
        # The first column that reaches the running maximum.
        best_at[i - 1] = np.maximum.accumulate(np.where(np.diff(h, prepend=-np.inf) > 0, a, 0))
    choice = np.empty(n_positive, dtype=np.int64)
    column = n_negative
    for i in range(n_positive - 1, -1, -1):
        column = choice[i] = best_at[i, column]
    best = h[-1] + task_scale * lowest + np.mean(np.abs(positives[:, None] - negatives))
    return float(best), choice


class Loss(NamedTuple):
    """A loss and its gradient with respect to the scores."""

    value: float
    gradient: Floats


def direct_ranking_loss(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    epsilon: float = 1.0,
    update: Update = "positive",
    measure: Measure | Rows = AP,
) -> Loss:
    """``s/epsilon * [max(F + s epsilon L) - max F]``, ``s`` = +1 or -1 for the positive or negative update.

    ``L`` is ``1 - measure``, or what :func:`augmented_choice` says.

    The symmetric one is the mean of both, ``1/(2 epsilon) * [max(F + epsilon L) - max(F - epsilon L)]``.
    """
    score, target = _split_checked(scores, targets)
    if update == "symmetric":
        return _symmetric_loss(score, target, epsilon, measure)
    sign = _sign(update)
    augmented = _augmented_pairs(score, target, sign * epsilon, measure)
    if augmented is None:
        return Loss(0.0, np.zeros_like(score))
    pairs, lost = augmented
    standard = _standard_pairs(score, target)
    gap = _pair_gap(score, target)
    # L(y_direct) + s/epsilon [F(y_direct) - F(y_w)], the two maxima without their common part.
    loss = lost + sign / epsilon * float(np.mean((pairs - standard) * gap))
    return Loss(loss, _gradient(target, pairs - standard, sign / epsilon))


def _symmetric_loss(score: Floats, target: npt.NDArray[np.bool_], epsilon: float, measure: Measure | Rows) -> Loss:
    more, less = (_augmented_pairs(score, target, scale, measure) for scale in (epsilon, -epsilon))
    if more is None or less is None:
        return Loss(0.0, np.zeros_like(score))
    pairs = more[0] - less[0]
    # The two maxima without what they have in common.
    loss = (more[1] + less[1]) / 2 + float(np.mean(pairs * _pair_gap(score, target))) / (2 * epsilon)
    return Loss(loss, _gradient(target, pairs, 1 / (2 * epsilon)))


def ap_hinge_loss(scores: npt.ArrayLike, targets: npt.ArrayLike, margin: float = 1.0) -> Loss:
    """``max(F + margin L) - F(y*)``, ``y*`` with every positive above every negative."""
    score, target = _split_checked(scores, targets)
    augmented = _augmented_pairs(score, target, margin)
    if augmented is None:
        return Loss(0.0, np.zeros_like(score))
    pairs, lost = augmented
    loss = margin * lost + float(np.mean((pairs - 1.0) * _pair_gap(score, target)))
    return Loss(loss, _gradient(target, pairs - 1.0, 1.0))


def ap_perceptron_loss(scores: npt.ArrayLike, targets: npt.ArrayLike) -> Loss:
    """``max F - F(y*)``."""
    score, target = _split_checked(scores, targets)
    if target.all() or not target.any():
        return Loss(0.0, np.zeros_like(score))
    pairs = _standard_pairs(score, target)
    return Loss(float(np.mean((pairs - 1.0) * _pair_gap(score, target))), _gradient(target, pairs - 1.0, 1.0))


def smooth_ap_loss(scores: npt.ArrayLike, targets: npt.ArrayLike, temperature: float = 0.01) -> Loss:
    """``1 - 1/P * sum over positives of R+_i / R_i``, by all pairs; ``G`` is the distribution function of Laplace.

    ``R_i = 1 + sum over all other items j of G((s_j - s_i) / temperature)``, ``R+_i`` the same over the positives.
    """
    score, target = _split_checked(scores, targets)
    if target.all() or not target.any():
        return Loss(0.0, np.zeros_like(score))
    gap = (score[None, :] - score[target][:, None]) / temperature
    near = np.exp(-np.abs(gap)) / 2
    other = np.arange(score.size)[None, :] != np.flatnonzero(target)[:, None]
    above = np.where(gap < 0, near, 1 - near) * other
    rank, own = 1 + above.sum(1), 1 + above[:, target].sum(1)
    # What each pair adds to the ranks of its positive, per unit of the other's score.
    pull = near * other * ((own / rank**2)[:, None] - target / rank[:, None]) / temperature / rank.size
    gradient = pull.sum(0)
    gradient[target] -= pull.sum(1)
    return Loss(float(1 - np.mean(own / rank)), gradient)


def augmented_ranking(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    epsilon: float = 1.0,
    update: Update = "positive",
    measure: Measure | Rows = AP,
) -> tuple[Ints, float]:
    """The place of every item in ``argmax F + s epsilon L``, and that maximum; NaN if a class is empty."""
    score, target = _split_checked(scores, targets)
    if target.all() or not target.any():
        return np.argsort(np.argsort(-score, kind="stable"), kind="stable"), float("nan")
    sign = _sign(update)
    p, n = _sorted_classes(score, target)
    value, choice = augmented_choice(score[p], score[n], sign * epsilon, measure)
    ranks = np.empty(score.size, dtype=np.int64)
    ranks[p] = np.arange(p.size) + choice
    ranks[n] = np.arange(n.size) + (choice[None, :] <= np.arange(n.size)[:, None]).sum(1)
    return ranks, value


def _sign(update: Update) -> float:
    if update not in ("positive", "negative"):
        raise ValueError(f"update must be 'positive' or 'negative', got {update!r}")
    return 1.0 if update == "positive" else -1.0


def _split_checked(scores: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    score, target = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if score.ndim != 1 or score.shape != target.shape:
        raise ValueError(f"scores and targets must share one dimension, got {score.shape} and {target.shape}")
    if not np.isin(target, (0, 1)).all():
        raise ValueError("targets must be 0 or 1")
    return score, target.astype(bool)


def _sorted_classes(score: Floats, target: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Indices of the positives and of the negatives, each by score, descending."""
    order = np.argsort(-score, kind="stable")
    return order[target[order]], order[~target[order]]


def _pair_gap(score: Floats, target: npt.NDArray[np.bool_]) -> Floats:
    """``p_i - n_j``."""
    return score[target][:, None] - score[~target][None, :]


def _standard_pairs(score: Floats, target: npt.NDArray[np.bool_]) -> Floats:
    """``y_ij`` of the ranking by score, 0 where the scores are equal."""
    return np.sign(_pair_gap(score, target))


def _augmented_pairs(
    score: Floats, target: npt.NDArray[np.bool_], task_scale: float, measure: Measure | Rows = AP
) -> tuple[Floats, float] | None:
    """``y_ij`` and ``L`` of the loss-augmented ranking; None if a class is empty.

    ``y_ij`` is averaged over positives of equal score and over negatives of equal score: any ranking among them is
    an optimum, and the mean of all these optima does not depend on the order of the items.
    """
    if target.all() or not target.any():
        return None
    p, n = _sorted_classes(score, target)
    _, choice = augmented_choice(score[p], score[n], task_scale, measure)
    rows, lowest = task_loss(measure, p.size, n.size)
    in_order = np.where(choice[:, None] <= np.arange(n.size)[None, :], 1.0, -1.0)
    pairs = np.empty_like(in_order)
    pairs[np.ix_(_places(p), _places(n))] = in_order
    loss = lowest + float(sum(rows(i, a) for i, a in enumerate(choice, 1)))
    for axis, group in enumerate((score[target], score[~target])):
        for equal in np.unique(group):
            which = np.flatnonzero(group == equal)
            mean = pairs.take(which, axis).mean(axis, keepdims=True)
            if axis == 0:
                pairs[which] = mean
            else:
                pairs[:, which] = mean
    return pairs, loss


def _places(indices: Ints) -> Ints:
    """For indices into all items, sorted by score: their places among the items of their class."""
    return np.argsort(np.argsort(indices))


def _gradient(target: npt.NDArray[np.bool_], pairs: Floats, gain: float) -> Floats:
    """``gain * d/d scores of 1/(P N) sum_ij pairs_ij (p_i - n_j)``."""
    gradient = np.empty(target.shape)
    gradient[target] = gain * pairs.mean(1) / pairs.shape[0]
    gradient[~target] = -gain * pairs.mean(0) / pairs.shape[1]
    return gradient


# A backend of it.


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss and gradient of every ranking."""
    loss, slope = np.zeros(batch.rankings), np.zeros(batch.scores.numel())
    takes_part = np.zeros(batch.rankings, dtype=bool)
    for number, items, score, target in _rankings(batch):
        takes_part[number] = target.any() and not target.all()
        if not takes_part[number]:
            continue
        if not np.isfinite(score).all():
            loss[number], slope[items] = np.nan, np.nan
        elif objective.loss == "direct":
            loss[number], slope[items] = direct_ranking_loss(
                score, target, objective.epsilon, objective.update, objective.measure
            )
        elif objective.loss == "smooth":
            loss[number], slope[items] = smooth_ap_loss(score, target, objective.epsilon)
        elif objective.loss == "hinge":
            loss[number], slope[items] = ap_hinge_loss(score, target, objective.epsilon)
        else:
            loss[number], slope[items] = ap_perceptron_loss(score, target)
    return Losses(
        torch.from_numpy(loss).to(dtype),
        torch.from_numpy(slope).to(loss_dtype(batch.scores)).view(batch.shape) if gradient else None,
        torch.from_numpy(takes_part),
    )


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and ``max F + s epsilon L``."""
    ranks, value = np.full(batch.scores.numel(), -1), np.full(batch.rankings, np.nan)
    for number, items, score, target in _rankings(batch):
        finite = bool(np.isfinite(score).all())
        # A ranking with a score that is not finite has no value; its items keep some order.
        known = score if finite else np.zeros_like(score)
        ranks[items], best = augmented_ranking(known, target, objective.epsilon, objective.update, objective.measure)
        value[number] = best if finite else np.nan
    return AugmentedRanking(torch.from_numpy(ranks).view(batch.shape), torch.from_numpy(value))


def average_precision(batch: Batch, weight: Tensor | None = None) -> Tensor:
    """AP of every ranking, float64."""
    weights = None if weight is None else weight.reshape(-1).to(torch.float64).numpy()
    value = np.full(batch.rankings, np.nan)
    for number, items, score, target in _rankings(batch):
        each = np.ones_like(score) if weights is None else weights[items]
        value[number] = weighted_average_precision(score, target, each)
    return torch.from_numpy(value)


def _rankings(batch: Batch) -> Iterator[tuple[int, Ints, Floats, npt.NDArray[np.bool_]]]:
    """Of every ranking its number, which items of the batch take part in it, their scores and which are positive."""
    targets = batch.targets.reshape(-1)
    positive = targets == 1 if targets.dtype != torch.bool else targets
    taken = positive | (targets == 0)
    wrong_targets(targets, taken, batch.ignore_index)
    scores = batch.scores.reshape(-1).to(torch.float64).numpy()
    is_positive, is_taken = positive.numpy(), taken.numpy()
    ends = np.arange(batch.rankings + 1) * batch.items if batch.offsets is None else batch.offsets.numpy()
    for number in range(batch.rankings):
        each = np.arange(ends[number], ends[number + 1])
        items = each[is_taken[each % is_taken.size]]
        yield number, items, scores[items], is_positive[items % is_taken.size]

"""A few short rankings on a CPU: every positive against every negative, in NumPy, in a table of bounded size.

For a few hundred scores an operation costs its start: about 1 us in NumPy, 3 us in PyTorch, and the search of long
rankings takes hundreds. Up to ``_CELLS`` pairs the plain table is cheaper; beyond it nothing here is used, so memory
stays O(scores).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fastap.backends.torch import gaps
from fastap.problem import Losses, Objective, Problem

# 512 KiB a table of float64.
_CELLS = 1 << 16

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """The rankings that take part and are finite, both classes sorted and padded to the longest."""

    rankings: Ints  # (lines,): which ranking of the batch a line is
    line: Ints  # (lines, 1): 0, 1, ...
    p: Floats  # (lines, P) positives, descending; padding -inf
    n: Floats  # (lines, N) negatives, descending; padding -inf
    p_item: Ints  # (lines, P): the item of the ranking; of no meaning at padding
    n_item: Ints  # (lines, N)
    centre: Floats  # (lines, 1): the middle positive; sums of scores are taken from there
    n_positive: Ints  # (lines, 1)
    n_negative: Ints  # (lines, 1)
    padded: bool
    takes_part: Bools  # (rankings,)
    lost: Bools | None  # (rankings,): takes part, but a score is not finite

    def sums(self) -> Floats:
        """``S[a]`` of the centred scores, a = 0..N; -inf where there are not so many negatives."""
        sums = np.zeros((self.n.shape[0], self.n.shape[1] + 1))
        (self.n - self.centre).cumsum(1, out=sums[:, 1:])
        return sums

    def can_sum(self, epsilon: float) -> Bools:
        """Whether no sum overflows, see :mod:`fastap.backends.torch.gaps`; one a line."""
        lowest = np.minimum(self.p[self.line, self.n_positive - 1], self.n[self.line, self.n_negative - 1])
        span = np.maximum(self.p[:, :1], self.n[:, :1]) - lowest
        given = map(torch.from_numpy, (self.n_positive, self.n_negative))
        return gaps.can_sum(torch.from_numpy(span), epsilon, *given)[:, 0].numpy()

    def near(self, epsilon: float) -> Table:
        """The same optimum where scores span too many epsilons, see :mod:`fastap.backends.torch.gaps`."""
        span = np.maximum(self.p[:, :1], self.n[:, :1]) - self.p[self.line, self.n_positive - 1]
        negatives = torch.from_numpy(self.n_negative)
        far = gaps.is_far(torch.from_numpy(span), epsilon, negatives)[:, 0]
        if not bool(far.any()):
            return self
        scores = np.concatenate([self.p, self.n], 1)
        real = np.isfinite(scores)
        # Padding gets a place at the end, and loses it again.
        near = torch.from_numpy(np.where(real, scores, scores.min(1, keepdims=True, where=real, initial=np.inf)))
        near[far] = gaps.cut(near[far], epsilon, negatives[far])
        p, n = np.split(np.where(real, near.numpy(), -np.inf), [self.p.shape[1]], 1)
        return replace(self, p=p, n=n, centre=p[self.line, self.n_positive >> 1])


def table_of(problem: Problem) -> Table | None:
    """The sorted table, or None where it would be large or the scores are not on a CPU."""
    rankings, items = problem.scores.shape
    if problem.scores.device.type != "cpu" or rankings * items > _CELLS:
        return None
    positive, negative = problem.positive.numpy(), problem.negative.numpy()
    n_positive, n_negative = positive.sum(1, keepdims=True), negative.sum(1, keepdims=True)
    widest_p, widest_n = int(n_positive.max()), int(n_negative.max())
    if rankings * widest_p * (widest_n + 1) > _CELLS:
        return None
    scores = problem.scores.double().numpy()
    takes_part = ((n_positive > 0) & (n_negative > 0))[:, 0]
    lost = None
    if not np.isfinite(scores).all():
        lost = takes_part & ~np.isfinite(np.where(positive | negative, scores, 0.0)).all(1)
    lines = np.flatnonzero(takes_part if lost is None else takes_part & ~lost)
    if lines.size < rankings:
        scores, positive, negative, n_positive, n_negative = (
            array[lines] for array in (scores, positive, negative, n_positive, n_negative)
        )
    line = np.arange(lines.size)[:, None]
    p, p_item = _sorted(scores, positive, line, widest_p)
    n, n_item = _sorted(scores, negative, line, widest_n)
    padded = bool((n_positive != widest_p).any() or (n_negative != widest_n).any())
    centre = p[line, n_positive >> 1]  # F sees differences only; see layout.sort_batch
    return Table(lines, line, p, n, p_item, n_item, centre, n_positive, n_negative, padded, takes_part, lost)


def losses(problem: Problem, table: Table, objective: Objective) -> Losses:
    """Loss and gradient of every ranking."""
    gradient = torch.zeros(problem.scores.shape, dtype=problem.loss_dtype, device="cpu")
    by_item = gradient.numpy()
    loss = np.zeros(problem.scores.shape[0])
    if table.rankings.size:
        # Padding less padding has no meaning anywhere; sums that overflow are NaN in the end.
        with np.errstate(invalid="ignore", over="ignore"):
            _fill(table, objective, loss, by_item)
    lost = np.isnan(loss)
    if table.lost is not None:
        lost |= table.lost
    if lost.any():
        by_item[lost[:, None] & (problem.positive | problem.negative).numpy()] = np.nan
        loss[lost] = np.nan
    return Losses(torch.from_numpy(loss), gradient, torch.from_numpy(table.takes_part))


def _fill(table: Table, objective: Objective, loss: Floats, by_item: npt.NDArray[np.floating]) -> None:
    """Write the loss and the gradient of every line to its ranking."""
    loss[table.rankings], p_gain, n_gain = _losses(table, objective)
    rankings = table.rankings[:, None]
    if table.padded:
        for gain, item, count in (
            (p_gain, table.p_item, table.n_positive),
            (n_gain, table.n_item, table.n_negative),
        ):
            line, column = np.nonzero(np.arange(gain.shape[1]) < count)
            by_item[table.rankings[line], item[line, column]] = gain[line, column]
    else:
        by_item[rankings, table.p_item] = p_gain
        by_item[rankings, table.n_item] = n_gain


def _losses(table: Table, objective: Objective) -> tuple[Floats, Floats, Floats]:
    """The loss of each line, and the gradient at its sorted positives and negatives."""
    p, n = table.p[:, :, None], table.n[:, None, :]
    near = table if objective.loss == "perceptron" else table.near(objective.epsilon)
    sums = near.sums()
    i = np.arange(1, p.shape[1] + 1)
    # Sums of counts by matrix products: exact in float64, and half the price of an integer reduction.
    over_p, over_n = np.ones(p.shape[1]), np.ones(n.shape[2])
    # Twice y_direct less twice y_second, 0 to 2 a pair: sign(0) = 0 counts equal pairs once.
    higher = n > p
    standard = np.add(higher, n >= p, dtype=np.float64)
    above = (higher @ over_n).astype(np.int64)
    if objective.loss == "perceptron":
        chosen, twice = above, standard
    else:
        chosen = _chosen(near, sums, objective)
        twice = (chosen[:, :, None] > np.arange(n.shape[2])) * 2.0
        if objective.loss == "direct":
            twice -= standard
    if table.padded:
        real = i <= table.n_positive
        twice *= real[:, :, None]
    scale = objective.gain / (table.n_positive * table.n_negative)
    n_gain = _shared(over_p @ twice, table.n) * scale
    p_gain = _shared(twice @ over_n, table.p) * -scale

    removed = chosen - above
    gap = sums[table.line, chosen] - sums[table.line, above] - removed * (near.p - near.centre)
    if objective.loss != "direct":
        # The gaps of all pairs that the ranking by score has the wrong way round; in order, for the reason below.
        gap += np.where(higher, n - p, 0.0).cumsum(2)[:, :, -1]
    worth = gap * (2.0 * scale) + chosen / (i + chosen) * (objective.task_weight / table.n_positive)
    # Summed in order, so that a ranking's loss does not hang on the padding of its neighbours.
    each = (np.where(real, worth, 0.0) if table.padded else worth).cumsum(1)[:, -1]
    each = np.where(np.isfinite(each), np.minimum(np.maximum(each, 0.0), objective.ceiling), np.nan)
    each[~table.can_sum(objective.epsilon)] = np.nan
    return each, p_gain, n_gain


def _chosen(table: Table, sums: Floats, objective: Objective) -> Ints:
    """``a``, the number of negatives above each positive in the loss-augmented ranking."""
    task = table.n_negative[:, :, None] * np.float64(0.5 * objective.sign * objective.epsilon)
    if objective.method == "auto" and objective.sign > 0:
        return _positive_update(table, task)
    term = _terms(table, sums, task)
    if objective.method == "auto":
        best: Ints = term.argmax(2)
        real = np.arange(1, best.shape[1]) < table.n_positive
        if ((best[:, 1:] >= best[:, :-1]) | ~real).all():
            return best
    return _program(table, term)


def _positive_update(table: Table, task: Floats) -> Ints:
    """Negative ``j`` goes before the rows from one on, those whose marginals ``d_i(j)`` sum to the most.

    The choices of the negatives agree with each other by themselves (Yue et al., SIGIR 2007).
    """
    i = np.arange(1, table.p.shape[1] + 1)[:, None]
    below = i + np.arange(1.0, table.n.shape[1] + 1.0)
    marginal = table.n[:, None, :] - table.p[:, :, None]
    marginal += task * (i / (below * (below - 1.0)))
    through = np.zeros((marginal.shape[0], i.size + 1, marginal.shape[2]))
    marginal.cumsum(1, out=through[:, 1:])
    # The last of equal cuts, as in the search of long rankings: the fewest rows fall behind.
    spared = i.size - through[:, ::-1].argmin(1)
    if table.padded:
        spared[np.arange(spared.shape[1]) >= table.n_negative] = table.p.shape[1]
    chosen: Ints = ((spared[:, None, :] < i) @ np.ones(spared.shape[1])).astype(np.int64)
    return chosen


def _terms(table: Table, sums: Floats, task: Floats) -> Floats:
    """``g_i(a)`` for every row and a = 0..N; (lines, P, N + 1), 0 in rows of padding."""
    i = np.arange(1, table.p.shape[1] + 1)[:, None]
    a = np.arange(table.n.shape[1] + 1.0)
    term: Floats = task * (a / (i + a))
    term += sums[:, None, :]
    term -= a * (table.p - table.centre)[:, :, None]
    if table.padded:
        term = np.where((i[:, 0] <= table.n_positive)[:, :, None], term, 0.0)
    return term


def _program(table: Table, term: Floats) -> Ints:
    """The dynamic program over all of the table, in place; it asks nothing of the terms, nor of their sign."""
    for row in range(term.shape[1]):
        if row:
            term[:, row] += term[:, row - 1]
        np.maximum.accumulate(term[:, row], axis=1, out=term[:, row])
    best = np.empty(term.shape[:2], np.int64)
    column = np.full(table.line.shape, term.shape[2] - 1)
    for row in range(term.shape[1] - 1, -1, -1):
        # The first column that reaches the maximum so far; NaN, which none reaches, stays where it is.
        reached = term[table.line, row, column]
        column = np.where(np.isnan(reached), column, (term[:, row] < reached).sum(1, keepdims=True))
        best[:, row] = column[:, 0]
    return best


def _shared(gain: Floats, scores: Floats) -> Floats:
    """The mean of ``gain`` over equal scores: which of them the ranking puts first is arbitrary."""
    changes = scores[:, 1:] != scores[:, :-1]
    if changes.all():
        return gain
    group = np.zeros(scores.shape, np.int64)
    changes.cumsum(1, out=group[:, 1:])
    group += np.arange(0, scores.size, scores.shape[1])[:, None]
    flat = group.ravel()
    total, size = np.bincount(flat, gain.ravel()), np.bincount(flat)
    shared: Floats = (total / np.maximum(size, 1))[group]
    return shared


def _sorted(scores: Floats, members: Bools, line: Ints, widest: int) -> tuple[Floats, Ints]:
    key = np.where(members, -scores, np.inf)
    order = key.argsort(1, kind="stable")[:, :widest]
    return -key[line, order], order

"""Loss-augmented inference coarse to fine, in NumPy, to be read: ``coarse.c`` without its prices, for both updates.

Nothing is shared with the engine. With the sorted scores of a ranking, ``s`` = +1 or -1 for the update, and ``a_i``
negatives above positive ``i``, both updates look for non-decreasing ``a`` with the largest sum of

    g_i(a) = S[a] - a p_i + s epsilon N / 2 * a / (i + a),        S[a] the sum of the best ``a`` negatives.

Every row ``i`` keeps disjoint intervals of columns, and a bound of ``g_i`` in each. A path takes one interval a row,
none wholly left of the one before. The best path bounds the optimum from above, a candidate from below; intervals that
no path needs to reach the candidate are dropped, loose ones cut in four. So a ranking of a million items has a proof of
its optimum that takes no program over all its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """The terms of one ranking; scores are less their centre, which costs the sums no digits."""

    positives: Floats  # descending
    negatives: Floats  # descending
    sums: Floats  # S, (negatives + 1,)
    task: float  # s epsilon N / 2

    @classmethod
    def of(cls, scores: Floats, targets: npt.NDArray[np.bool_], task_scale: float) -> Terms:
        """``task_scale`` is ``s epsilon``."""
        centre = float(np.median(scores[targets]))
        positives, negatives = (-np.sort(-(scores[which] - centre)) for which in (targets, ~targets))
        sums = np.concatenate([[0.0], np.cumsum(negatives)])
        return cls(positives, negatives, sums, task_scale * negatives.size / 2)

    def standard(self, row: Ints, a: Ints) -> Floats:
        return self.sums[a] - a * self.positives[row]

    def __call__(self, row: Ints, a: Ints) -> Floats:
        """``g``, rows counted from 0."""
        return self.standard(row, a) + self.task * (a / (row + 1 + a))

    def rounding(self, row: Ints, a: Ints) -> Floats:
        parts = np.abs(self.standard(row, a)) + np.abs(a * self.positives[row]) + abs(self.task)
        return 8 * np.finfo(np.float64).eps * parts

    def bound(self, row: Ints, left: Ints, right: Ints) -> Floats:
        """The most that ``g`` reaches in ``[left, right]``, or a little more.

        A concave function lies under its tangents at both ends, a convex one under its chord. What is standard is
        concave; the task's part is concave for the positive update and convex for the negative.
        """
        i, run = row + 1.0, np.maximum(right - left, 1)
        ends = np.maximum(self(row, left), self(row, right))
        last = self.negatives.size - 1
        rise = self.negatives[np.minimum(left, last)] - self.positives[row]  # of the standard part after `left`
        fall = self.negatives[np.maximum(right - 1, 0)] - self.positives[row]  # before `right`
        chord = self.task * i / ((i + left) * (i + right))
        if self.task > 0:
            rise = rise + self.task * i / ((i + left) * (i + left + 1))
            fall = fall + self.task * i / ((i + right) * (i + right - 1 + (right == 0)))
            length, chord = self(row, right) - self(row, left), np.zeros_like(chord)
        else:
            length = self.standard(row, right) - self.standard(row, left)
        bend = rise - fall
        cross = np.clip((length - run * fall) / np.where(bend > 0, bend, np.inf), 0, run)
        inside = self(row, left) + cross * (rise + chord)
        return np.where((right - left < 2) | ~(bend > 0), ends, np.maximum(ends, inside))


@dataclass
class Intervals:
    """Those of all rows, one after the other."""

    row: Ints
    left: Ints
    right: Ints
    bound: Floats  # less the term of the row at the first candidate

    def parts(self, rows: int) -> list[slice]:
        ends = np.cumsum(np.bincount(self.row, minlength=rows))
        return [slice(start, end) for start, end in zip(np.append(0, ends[:-1]), ends, strict=True)]

    def keep(self, which: npt.NDArray[np.bool_] | Ints) -> Intervals:
        return Intervals(self.row[which], self.left[which], self.right[which], self.bound[which])


def solve(terms: Terms, candidate: Ints, within: float = 0.0) -> tuple[Ints, float]:
    """The optimum, or what is ``within`` so much of it, and how much better it may be than ``candidate``.

    The second is an upper bound, rounding included: a candidate for which it is nothing but rounding is optimal.
    """
    rows = terms.positives.size
    every = np.arange(rows)
    base = terms(every, candidate)
    rounding = float(terms.rounding(every, candidate).sum())
    best, value = candidate, 0.0
    intervals, before = _first(terms, base), np.inf
    while True:
        parts = intervals.parts(rows)
        alone = np.maximum.reduceat(intervals.bound, [part.start for part in parts])
        top = float(alone.sum())  # of paths that need not be in order: a bound, too, and a cheap one
        ordered = top - value >= 0.7 * before
        if not ordered:
            before = top - value
            through = intervals.bound + top - alone[intervals.row]
        else:
            until = _sums(intervals, parts)
            top = float(until[parts[-1]].max())
            found = _path(terms, intervals, parts, until)
            gain = float((terms(every, found) - base).sum())
            if gain > value:
                best, value = found, gain
            through = until + _sums(intervals, parts, backward=True) - intervals.bound
        if top <= value + rounding + within:
            return best, max(top, value) + rounding
        intervals = intervals.keep(through >= value - rounding)
        if np.unique(intervals.row).size < rows:  # every path falls short of the candidate
            return best, value + rounding
        if ordered and (intervals.left == intervals.right).all():
            return best, max(top, value) + rounding
        intervals = _cut(terms, intervals, base, 0.25 * (top - value) / rows)


def _first(terms: Terms, base: Floats) -> Intervals:
    """16 a row, cut at the same columns for all rows, evenly on ``log(i + a)``."""
    rows, columns = terms.positives.size, terms.negatives.size
    middle = rows / 2 + 1
    ends = np.unique(
        np.append((middle * (1 + columns / middle) ** (np.arange(1, 16) / 16) - middle).astype(int), columns)
    )
    starts = np.append(0, ends[:-1] + 1)
    row = np.repeat(np.arange(rows), ends.size)
    left, right = np.tile(starts, rows), np.tile(ends, rows)
    return Intervals(row, left, right, terms.bound(row, left, right) - base[row])


def _sums(intervals: Intervals, parts: list[slice], *, backward: bool = False) -> Floats:
    """Of the bounds on the best path from the first row to each interval, or from each to the last row."""
    total = intervals.bound.copy()
    for before, part in pairwise(parts[::-1] if backward else parts):
        if backward:  # the best of those that end no further left
            best = np.append(np.maximum.accumulate(total[before][::-1])[::-1], -np.inf)
            total[part] += best[np.searchsorted(intervals.right[before], intervals.left[part])]
        else:
            best = np.append(np.maximum.accumulate(total[before]), -np.inf)
            total[part] += best[np.searchsorted(intervals.left[before], intervals.right[part], side="right") - 1]
    return total


def _path(terms: Terms, intervals: Intervals, parts: list[slice], until: Floats) -> Ints:
    """The better ends on the best path, made non-decreasing."""
    chosen = np.empty(len(parts), dtype=np.int64)
    reach = np.inf
    for row in range(len(parts) - 1, -1, -1):
        part = parts[row]
        count = int(np.searchsorted(intervals.left[part], reach, side="right"))
        chosen[row] = part.start + int(until[part][:count].argmax())
        reach = intervals.right[chosen[row]]
    every = np.arange(len(parts))
    left, right = intervals.left[chosen], intervals.right[chosen]
    return np.maximum.accumulate(np.where(terms(every, left) >= terms(every, right), left, right))


def _cut(terms: Terms, intervals: Intervals, base: Floats, loose: float) -> Intervals:
    """In four what exceeds its better end by more than ``loose``; all, if nothing does."""
    row, left, right = intervals.row, intervals.left, intervals.right
    gap = intervals.bound + base[row] - np.maximum(terms(row, left), terms(row, right))
    cut = (gap > loose) & (right > left)
    if not cut.any():
        cut = right > left
    pieces = np.where(cut, np.minimum(4, right - left + 1), 1)
    source = np.repeat(np.arange(row.size), pieces)
    piece = np.arange(source.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    finer = intervals.keep(source)
    width, pieces = (right - left + 1)[source], pieces[source]
    start = finer.left
    finer.left, finer.right = start + piece * width // pieces, start + (piece + 1) * width // pieces - 1
    new = cut[source]
    finer.bound[new] = terms.bound(finer.row[new], finer.left[new], finer.right[new]) - base[finer.row[new]]
    return finer

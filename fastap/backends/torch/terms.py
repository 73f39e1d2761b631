"""The separable terms of the ranking problem: one formula in one place.

With ``S[a]`` the sum of the ``a`` largest negatives, ``w = epsilon * N / 2`` and ``s`` the sign of the update::

    g_i(a) = S[a] - a p_i + s w a / (i + a)                                     the term row i maximises
    d_i(a) = g_i(a) - g_i(a - 1) = (n_a - p_i) + s w i / ((i + a)(i + a - 1))   its marginal, a >= 1

and ``F + s epsilon L`` is, up to a constant of the ranking, ``2 / (P N)`` times the sum of the terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastap.backends.torch.layout import Layout, Rows, pick


def term(sums: Tensor, a: Tensor, score: Tensor, index: Tensor, task: Tensor) -> Tensor:
    """``g_i(a)`` of ``sums = S[a]``, ``p_i``, ``i`` and ``s w``, all float64."""
    return torch.addcmul(sums, a, score, value=-1.0).addcmul_(task, a / (index + a))


@dataclass(frozen=True)
class Terms:
    """The terms of a set of rows. Arguments ``a`` are one choice a row; of ``upright()`` terms, a line of choices."""

    layout: Layout
    rows: Rows
    task: Tensor  # (rows,) float64: s w
    pull: Tensor  # (rows,) float64: s w i

    @staticmethod
    def of(layout: Layout, rows: Rows, task_scale: float) -> Terms:
        """``task_scale`` is ``s * epsilon`` of the direct losses, the margin of the hinge."""
        task = rows.n_negative.to(torch.float64) * (0.5 * task_scale)
        return Terms(layout, rows, task, task * rows.index)

    @property
    def count(self) -> int:
        return self.rows.count

    def take(self, which: Tensor) -> Terms:
        """The terms of the rows of these numbers."""
        return Terms(
            self.layout, self.rows.take(which), self.task.index_select(0, which), self.pull.index_select(0, which)
        )

    def part(self, first: int, last: int) -> Terms:
        """The terms of rows ``first`` to ``last - 1``."""
        return Terms(self.layout, self.rows.part(first, last), self.task[first:last], self.pull[first:last])

    def upright(self) -> Terms:
        """The same terms as a column, for arguments ``a`` of shape (rows, choices)."""
        return Terms(self.layout, self.rows.upright(), self.task[:, None], self.pull[:, None])

    def priced(self, price: Tensor) -> Terms:
        """The same terms plus ``price_i * a``."""
        return replace(self, rows=replace(self.rows, score=self.rows.score - price))

    def standard(self, a: Tensor) -> Tensor:
        """``S[a] - a p_i``."""
        return pick(self.layout.prefix, self.rows.base + a) - a * self.rows.score

    def task_loss(self, a: Tensor) -> Tensor:
        """``a / (i + a)``: what row i adds to ``P (1 - AP)``."""
        return a / (self.rows.index + a)

    def term(self, a: Tensor) -> Tensor:
        """``g_i(a)``."""
        rows = self.rows
        return term(pick(self.layout.prefix, rows.base + a), a.to(torch.float64), rows.score, rows.index, self.task)

    def marginal(self, a: Tensor) -> Tensor:
        """``d_i(a)`` for ``1 <= a <= N``."""
        below = self.rows.index + a
        gap = pick(self.layout.values, self.rows.base + a).sub_(self.rows.score)
        return gap.addcdiv_(self.pull, below * (below - 1.0))

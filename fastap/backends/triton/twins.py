"""The kernels of ``kernels/{layout,long,reduce,fused}.py`` in plain PyTorch, to be read and to judge them by.

The same arguments, less launch constants but the tile where it shows in the result. Slow: one ranking after the other,
every choice of every row. Where several choices are equally good a kernel may take another than its twin.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

# As in kernels/keys.py.
_POSITIVE, _NEGATIVE, _IGNORED = 0, 1, 2
_WRONG, _NOT_FINITE, _NAN, _FAR = 1, 2, 4, 8
_FAR_SPAN = 2.0**20


def encode_items(
    scores: Tensor, targets: Tensor,
    keys: Tensor, classes: Tensor, counts: Tensor,
    n_items: int, n_tiles: int, n_inner: int,
    stride_so: int, stride_si: int, stride_sn: int, stride_to: int, stride_ti: int, stride_tn: int,
    ignore_index: int,
    has_ignore: bool, tile: int,
) -> None:  # fmt: skip
    """``keys`` ascend as scores fall, ignored items last; ``classes``; positives, negatives and flags of each tile."""
    rankings = keys.shape[0]
    shape = rankings // n_inner, n_inner, n_items
    score = scores.as_strided(shape, (stride_so, stride_si, stride_sn)).reshape(rankings, n_items)
    target = targets.as_strided(shape, (stride_to, stride_ti, stride_tn)).reshape(rankings, n_items)
    score = score if score.dtype == torch.float64 else score.float()
    positive, negative = target == 1, target == 0
    taken = positive | negative
    wrong = ~taken & (target != ignore_index) if has_ignore else ~taken
    keys.copy_(torch.where(taken, keys_of(score), torch.iinfo(keys.dtype).max))
    classes.view(keys.shape).copy_(torch.where(positive, _POSITIVE, torch.where(negative, _NEGATIVE, _IGNORED)))
    counts = counts.view(rankings, n_tiles, 4)
    counts[..., 0] = _sum_tiles(positive, n_tiles, tile)
    counts[..., 1] = _sum_tiles(negative, n_tiles, tile)
    raised = {_WRONG: wrong, _NOT_FINITE: taken & ~score.isfinite(), _NAN: taken & score.isnan()}
    counts[..., 2] = _join({flag: _sum_tiles(items, n_tiles, tile) > 0 for flag, items in raised.items()})


def keys_of(score: Tensor) -> Tensor:
    """Integers that ascend as scores fall: float32 to int32, float64 to int64; one for both zeros."""
    bits = score.view(torch.int64 if score.dtype == torch.float64 else torch.int32)
    # A sign and a magnitude, which rises with |score|.
    magnitude = bits & torch.iinfo(bits.dtype).max
    return -1 - torch.where(bits < 0, -magnitude, magnitude)


def count_classes(tile_counts: Tensor, counts: Tensor, n_tiles: int) -> None:
    """``counts[r] = tile_counts[r].sum(0)``, but the flags are joined."""
    tiles = tile_counts.view(-1, n_tiles, 4)
    counts[:, :2] = tiles[..., :2].sum(1)
    counts[:, 2] = _join({flag: (tiles[..., 2] & flag > 0).any(1) for flag in (_WRONG, _NOT_FINITE, _NAN)})


def sum_tiles(
    keys: Tensor, index: Tensor, classes: Tensor, counts: Tensor,
    tile_counts: Tensor, tile_sums: Tensor, centre: Tensor,
    n_items: int, n_tiles: int,
    tile: int,
) -> None:  # fmt: skip
    """Of each tile of the sorted items: positives, negatives, ``sum(negatives - centre)``.

    ``centre`` is the score as many places from the top as half the positives are.
    """
    group, score = _sorted_items(keys, index, classes)
    middle = counts[:, 0] // 2
    centre.copy_(score.gather(1, middle[:, None].long())[:, 0])
    tile_counts = tile_counts.view(-1)[: 2 * keys.shape[0] * n_tiles].view(-1, n_tiles, 2)
    tile_counts[..., 0] = _sum_tiles(group == _POSITIVE, n_tiles, tile)
    tile_counts[..., 1] = _sum_tiles(group == _NEGATIVE, n_tiles, tile)
    gaps = torch.where(group == _NEGATIVE, score - centre[:, None], 0.0)
    tile_sums.view(-1, n_tiles).copy_(_sum_tiles(gaps, n_tiles, tile))


def split_classes(
    keys: Tensor, index: Tensor, classes: Tensor, counts: Tensor, tile_counts: Tensor, tile_sums: Tensor,
    v: Tensor, order: Tensor, s: Tensor,
    n_items: int, n_tiles: int,
) -> None:  # fmt: skip
    """A stable sort by class of what is sorted by score, and ``s = cumsum(negatives - centre)``."""
    group, score = _sorted_items(keys, index, classes)
    middle = counts[:, 0] // 2
    centre = score.gather(1, middle[:, None].long())
    group, place = group.sort(dim=1, stable=True)
    score = score.gather(1, place)
    v.view(keys.shape).copy_(score)
    order.view(keys.shape).copy_(index.gather(1, place))
    sums = torch.where(group == _NEGATIVE, score - centre, 0.0).cumsum(1)
    s.view(keys.shape)[group != _IGNORED] = torch.where(group == _NEGATIVE, sums, 0.0)[group != _IGNORED]


def cut_rankings(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor,
    rows: Tensor, sums: Tensor, by_score: Tensor,
    n_items: int, plane: int, epsilon_bits: int,
    loss: str,
) -> None:  # fmt: skip
    """Scores that span more than ``2**20 epsilon`` and ``epsilon N`` less all of a gap that is beyond ``epsilon N``.

    Gaps are those between neighbours in the sorted order of both classes; the highest score becomes 0. Sums and the
    middle positive, from where they count, follow. ``by_score`` is ``F(y_w)`` of the scores as they were for "ranking",
    ``F(y_w) - F(y*)`` for "hinge", else 0. A ranking whose sums may overflow is as good as infinite.
    """
    epsilon = _epsilon(epsilon_bits)
    by_score.fill_(0.0)
    for each in list(_solvable(v, s, counts, centre, n_items, loss)):
        pairs, largest = float(each.n_positive * each.n_negative), epsilon * each.n_negative
        scores = torch.cat([each.p, each.n])
        reach = float(scores.max() - each.p.min())
        span = float(scores.max() - scores.min())
        if not (isfinite(16 * pairs * span) and isfinite(8 * pairs * epsilon)):
            counts[each.number, 2] |= _NOT_FINITE
        if reach <= _FAR_SPAN * epsilon or reach <= largest:
            continue
        counts[each.number, 2] |= _FAR
        if loss == "perceptron" or int(counts[each.number, 2]) & _NOT_FINITE:
            continue
        gap = each.p[:, None] - each.n
        if loss == "hinge":
            by_score[each.number] = (gap.abs() - gap).sum() / pairs
        elif loss == "ranking":
            by_score[each.number] = gap.abs().sum() / pairs
        ordered, place = scores.sort(descending=True)
        gaps = torch.cat([scores.new_zeros(1), ordered[:-1] - ordered[1:]]).clamp(max=largest)
        near = torch.empty_like(scores)
        near[place] = -gaps.cumsum(0)
        line = slice(each.n_positive - 1, each.n_positive + each.n_negative)
        v.view(-1, n_items)[each.number, : scores.shape[0]] = near
        middle = near[each.n_positive // 2]
        centre[each.number] = middle
        negatives = torch.cat([middle[None], near[each.n_positive :]]) - middle
        s.view(-1, n_items)[each.number, line] = negatives.cumsum(0)


def search_rankings(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor,
    rows: Tensor,
    n_items: int, n_programs: int, epsilon_bits: int,
    loss: str, sign: int, method: str,
) -> None:  # fmt: skip
    """``a_i = argmax_a g_i(a)``; for method "standard" ``a_i = #{n > p_i}``."""
    for each in _solvable(v, s, counts, centre, n_items, loss):
        standard = (each.n > each.p[:, None]).sum(1)
        choice = standard if method == "standard" else each.terms(sign, epsilon_bits).argmax(1)
        _planes(rows, n_items)[0, each.number, : each.n_positive] = choice.int()


def find_extremes(
    counts: Tensor, centre: Tensor, rows: Tensor,
    extremes: Tensor,
    n_items: int, n_tiles: int,
    tile: int,
) -> None:  # fmt: skip
    """``a.max()`` and ``a.min()`` of each tile of rows."""
    for number, n_positive in _solvable_counts(counts):
        choice = rows.view(-1, n_items)[number, :n_positive]
        for column, part in enumerate(choice.split(tile)):
            extremes.view(2, -1, n_tiles)[:, number, column] = torch.stack([part.max(), part.min()])


def mark_tiles(
    counts: Tensor, centre: Tensor, extremes: Tensor,
    rows: Tensor,
    n_items: int, n_tiles: int, plane: int,
) -> None:  # fmt: skip
    """A block starts at row ``r`` if ``a[:r].max() <= a[r:].min()``; every row is its own last.

    ``low[r] = a[r:].min()`` and ``high[r] = a[: r + 1].max()`` are where the search for the block's optimum begins.
    """
    choice, starts, last, low, high, _ = _planes(rows, n_items)
    for number, n_positive in _solvable_counts(counts):
        a = choice[number, :n_positive]
        for row in range(n_positive):
            starts[number, row] = row == 0 or bool(a[:row].max() <= a[row:].min())
            last[number, row] = row
            low[number, row] = a[row:].min()
            high[number, row] = a[: row + 1].max()


def settle_tiles(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor,
    rows: Tensor, sums: Tensor,
    n_items: int, n_tiles: int, plane: int, epsilon_bits: int,
    sign: int,
) -> None:  # fmt: skip
    """``a`` of each block of several rows becomes the non-decreasing one of largest ``sum g_i(a_i)``.

    The kernel may cut a block of the negative update into smaller ones and do this for each: it leaves where they end
    in ``last``. What they reach together is then no less, but they may conflict.
    """
    choice, starts, last, *_ = _planes(rows, n_items)
    for each in _solvable(v, s, counts, centre, n_items, "direct"):
        terms = each.terms(sign, epsilon_bits)
        ends = [*starts[each.number, : each.n_positive].nonzero()[1:, 0].tolist(), each.n_positive]
        for first, end in zip([0, *ends], ends, strict=False):
            if end - first > 1:
                choice[each.number, first:end] = _best(terms[first:end])
                last[each.number, first:end] = end - 1


def finish_rankings(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor,
    rows: Tensor, sums: Tensor,
    n_items: int, plane: int, epsilon_bits: int,
) -> None:  # fmt: skip
    """``a`` of a ranking in which it falls anywhere becomes the optimum of the negative update."""
    for each in _solvable(v, s, counts, centre, n_items, "direct"):
        choice = _planes(rows, n_items)[0, each.number, : each.n_positive]
        if (choice.diff() < 0).any():
            choice.copy_(_best(each.terms(-1, epsilon_bits)))


def solve_whole(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor,
    rows: Tensor, sums: Tensor,
    n_items: int, plane: int, epsilon_bits: int,
    sign: int,
) -> None:  # fmt: skip
    """``argmax of sum g_i(a_i)`` over ``a_1 <= ... <= a_P``."""
    for each in _solvable(v, s, counts, centre, n_items, "direct"):
        _planes(rows, n_items)[0, each.number, : each.n_positive] = _best(each.terms(sign, epsilon_bits))


def sum_rows(
    v: Tensor, s: Tensor, counts: Tensor, centre: Tensor, rows: Tensor,
    parts: Tensor,
    n_items: int, n_tiles: int,
    loss: str, tile: int,
) -> None:  # fmt: skip
    """Sums over tiles of rows: of what the rows add to the score, to ``1 - AP`` (or to AP), and of ``a``.

    With ``A(a) = S[a] - a p_i`` and ``w_i = #{n > p_i}`` a row's score is ``A(a_i) - A(w_i)`` for "direct", ``A(a_i)``
    for "hinge", ``2 / N A(a_i) + p_i - centre`` for "ranking"; where gaps were cut, these are ``A(a_i) - A(w_i)`` and
    ``2 / N`` times that. For "perceptron" it is ``A(w_i)``, and a tile has its share of that from gap to gap.
    """
    for each in _solvable(v, s, counts, centre, n_items, loss):
        above = (each.n > each.p[:, None]).sum(1)
        sums = []
        if loss == "ap":
            positives, negatives = ((other >= each.p[:, None]).sum(1) for other in (each.p, each.n))
            sums = [torch.zeros_like(each.p), positives.double() / (positives + negatives)]
        else:
            a = rows.view(-1, n_items)[each.number, : each.n_positive].long()
            is_far = bool(counts[each.number, 2] & _FAR)
            score = each.standard(a)
            if loss == "direct" or is_far:
                score = score - each.standard(above)
            if loss == "ranking":
                score = 2 / each.n_negative * score + (each.p - each.centre) * (not is_far)
            if loss == "perceptron":
                score = _standard_gaps(each, above)
            sums = [score, a / (each.index + a), a]
        for part, values in zip(parts.view(3, -1, n_tiles)[:, each.number], sums, strict=False):
            used = -(-_summed(each.n_positive, each.n_negative, loss) // tile)
            part[:used] = _sum_tiles(values[None].double(), used, tile)[0]


def _summed(positives: int, negatives: int, loss: str) -> int:
    return max(positives, negatives) if loss == "perceptron" else positives


def _standard_gaps(each: _Ranking, above: Tensor) -> Tensor:
    """Numbers whose sum is that of ``S[w_i] - w_i p_i``, from gap to gap: one of every row and of every negative."""
    result = torch.zeros(max(each.n_positive, each.n_negative), dtype=torch.float64, device=each.p.device)
    left = each.n_positive - torch.arange(each.n_positive, device=each.p.device)
    result[1 : each.n_positive] = above[:-1] * -each.p.diff() * left[1:]
    below = each.p < each.n[:, None]
    row = each.n_positive - below.sum(1)
    nearest = torch.where(below, each.p, -torch.inf).amax(1)
    result[: each.n_negative] += torch.where(below.any(1), (each.n - nearest) * (each.n_positive - row), 0.0)
    return result


def sum_rankings(
    scores: Tensor, s: Tensor, order: Tensor, counts: Tensor, centre: Tensor, rows: Tensor,
    parts: Tensor, by_score: Tensor,
    value: Tensor, takes_part: Tensor, before: Tensor, v: Tensor,
    n_items: int, n_tiles: int, n_inner: int, stride_so: int, stride_si: int, stride_sn: int, epsilon_bits: int,
    loss: str, sign: int, tile: int,
) -> None:  # fmt: skip
    """``value`` from the sums of the tiles, ``before[i] = a[:i].sum()``; scores that were cut become what they were.

    ===================  ============================================================
    direct               ``s / epsilon 2 / (P N) score + task / P``, from 0 to 1
    hinge, perceptron    ``2 / (P N) score (+ epsilon task / P)``, at least 0
    ranking              ``score / P - S[N] / N + s epsilon task / P``
    ap                   ``task / P``
    ===================  ============================================================

    and ``by_score`` more; where gaps were cut, "ranking" is not less ``S[N] / N``.
    """
    epsilon = _epsilon(epsilon_bits)
    counts_in_mean = (counts[:, :2] > 0).all(1) | (counts[:, 2] & _WRONG > 0)
    value.fill_(torch.nan)
    if loss not in ("ap", "ranking"):
        value[~counts_in_mean] = 0.0
        takes_part.copy_(counts_in_mean)
    for number, positives in _solvable_counts(counts, loss):
        negatives = int(counts[number, 1])
        used = -(-_summed(positives, negatives, loss) // tile)
        score, task = parts.view(3, -1, n_tiles)[:2, number, :used].sum(-1)
        task = task / positives
        is_far = bool(counts[number, 2] & _FAR)
        if loss == "ap":
            result = task
        elif loss == "ranking":
            last_sum = s.view(-1, n_items)[number, positives - 1 + negatives] * (not is_far)
            result = by_score[number] + score / positives - last_sum / negatives + sign * epsilon * task
        else:
            result = 2 * score / (positives * negatives) + (0.0 if loss == "perceptron" else by_score[number])
            if loss == "direct":
                result = (sign * result / epsilon + task).clamp(max=1.0)
            elif loss == "hinge":
                result = result + epsilon * task
            result = result.clamp(min=0.0)
        value[number] = torch.where(result.isfinite(), result, torch.nan)
        if loss not in ("ap", "ranking"):
            a = rows.view(-1, n_items)[number, :positives].double()
            before.view(-1, n_items)[number, : positives + 1] = torch.cat([a[:0].sum()[None], a.cumsum(0)])
        if loss in ("direct", "hinge") and is_far:
            shape = counts.shape[0] // n_inner, n_inner, n_items
            line = scores.as_strided(shape, (stride_so, stride_si, stride_sn)).reshape(-1, n_items)[number]
            v.view(-1, n_items)[number] = line[order.view(-1, n_items)[number].long()].double()


def write_items(
    v: Tensor, order: Tensor, counts: Tensor, centre: Tensor, rows: Tensor, before: Tensor, value: Tensor,
    out: Tensor,
    n_items: int, n_tiles: int, epsilon_bits: int,
    loss: str, sign: int,
) -> None:  # fmt: skip
    """The gradient of the losses, or the rank of each item, -1 for ignored ones.

    With ``a_i`` negatives above positive ``i`` and ``b_j = #{i : a_i >= j}`` positives below negative ``j``, each the
    mean over equal scores, and ``a^w``, ``b^w`` those of the ranking by score, ``sign(0) = 0``, the gradient of
    "direct" is ``s / epsilon 2 / (P N)`` times ``-(a - a^w)`` and ``b - b^w``; that of "hinge" ``2 / (P N)`` times
    ``-a`` and ``b``, that of "perceptron" ``2 / (P N)`` times ``-a^w`` and ``b^w``.
    """
    solvable = {number for number, _ in _solvable_counts(counts, loss)}
    for number, (positives, negatives, flags, _) in enumerate(counts.tolist()):
        end = positives + negatives
        a = rows.view(-1, n_items)[number, :positives]
        # Which negatives (columns) stand above which positives (rows).
        pairs = torch.arange(1, negatives + 1, device=v.device) <= a[:, None]
        if loss == "ranking":
            result = torch.arange(n_items, device=v.device)
            if number in solvable:
                result[:positives] += a
                result[positives:end] += (~pairs).sum(0) - positives
            result[end:] = -1
        else:
            result = torch.zeros(n_items, dtype=torch.float64, device=v.device)
            result[: n_items if flags & _WRONG else end] = value[number]
            if number in solvable and not value[number].isnan():
                p, n = v.view(-1, n_items)[number, :end].split([positives, negatives])
                by_score = ((n > p[:, None]).double() + (n >= p[:, None]).double()) / 2
                scale = 2 / (positives * negatives)
                if loss == "direct":
                    scale *= sign / _epsilon(epsilon_bits)
                chosen_a, chosen_b = _mean_of_equal(pairs.sum(1), p), _mean_of_equal(pairs.sum(0), n)
                if loss == "direct":
                    chosen_a, chosen_b = chosen_a - by_score.sum(1), chosen_b - by_score.sum(0)
                elif loss == "perceptron":
                    chosen_a, chosen_b = by_score.sum(1), by_score.sum(0)
                result[:end] = torch.cat([-chosen_a, chosen_b]) * scale
        out.view(-1, n_items)[number, order.view(-1, n_items)[number].long()] = result.to(out.dtype)


def reduce_losses(
    value: Tensor, takes_part: Tensor,
    total: Tensor, share: Tensor,
    n_rankings: int,
    mean: bool,
) -> None:  # fmt: skip
    """``total = value.sum()``; for the mean times ``share = 1 / max(takes_part.sum(), 1)``."""
    each = 1.0 / takes_part.sum().clamp(min=1).double()
    total.copy_(value.sum() * each if mean else value.sum())
    if mean:
        share.copy_(each)


def short_rankings(
    scores: Tensor, targets: Tensor,
    out: Tensor, value: Tensor, takes_part: Tensor,
    v: Tensor, order: Tensor, s: Tensor, rows: Tensor, sums: Tensor,
    n_items: int, n_inner: int, plane: int,
    stride_so: int, stride_si: int, stride_sn: int, stride_to: int, stride_ti: int, stride_tn: int,
    ignore_index: int, epsilon_bits: int,
    loss: str, sign: int, method: str, has_ignore: bool,
) -> None:  # fmt: skip
    """All kernels of long rows one after the other, with one tile a ranking and ``torch.sort``."""
    rankings = plane // n_items
    wide = scores.dtype == torch.float64
    keys = torch.empty(rankings, n_items, dtype=torch.int64 if wide else torch.int32, device=v.device)
    classes = torch.empty(plane, dtype=torch.int8, device=v.device)
    counts = torch.zeros(rankings, 4, dtype=torch.int32, device=v.device)
    tile_counts = torch.zeros(rankings, 2, dtype=torch.int32, device=v.device)
    tile_sums, centre, by_score = torch.empty(3, rankings, dtype=torch.float64, device=v.device)
    parts = torch.empty(3, rankings, dtype=torch.float64, device=v.device)
    encode_items(
        scores, targets, keys, classes, counts,
        n_items, 1, n_inner, stride_so, stride_si, stride_sn, stride_to, stride_ti, stride_tn,
        ignore_index, has_ignore, n_items,
    )  # fmt: skip
    keys, index = keys.sort(dim=1, stable=True)
    sum_tiles(keys, index, classes, counts, tile_counts, tile_sums, centre, n_items, 1, n_items)
    split_classes(keys, index, classes, counts, tile_counts, tile_sums, v, order, s, n_items, 1)
    if loss != "ap":
        cut_rankings(v, s, counts, centre, rows, sums, by_score, n_items, plane, epsilon_bits, loss)
    if loss != "ap" and method == "standard":
        search_rankings(v, s, counts, centre, rows, n_items, 1, epsilon_bits, loss, sign, method)
    elif loss != "ap":
        solve_whole(v, s, counts, centre, rows, sums, n_items, plane, epsilon_bits, sign)
    sum_rows(v, s, counts, centre, rows, parts, n_items, 1, loss, n_items)
    sum_rankings(
        scores, s, order, counts, centre, rows, parts, by_score,
        value, takes_part, sums, v,
        n_items, 1, n_inner, stride_so, stride_si, stride_sn, epsilon_bits,
        loss, sign, n_items,
    )  # fmt: skip
    if loss != "ap":
        write_items(v, order, counts, centre, rows, sums, value, out, n_items, 1, epsilon_bits, loss, sign)


@dataclass(frozen=True)
class _Ranking:
    """One sorted ranking, in float64."""

    number: int
    p: Tensor  # (P,)
    n: Tensor  # (N,)
    sums: Tensor  # (N + 1,): S[a]
    centre: Tensor

    @property
    def n_positive(self) -> int:
        return self.p.shape[0]

    @property
    def n_negative(self) -> int:
        return self.n.shape[0]

    @property
    def index(self) -> Tensor:
        """1, ..., P."""
        return torch.arange(1, self.n_positive + 1, dtype=torch.float64, device=self.p.device)

    def standard(self, a: Tensor) -> Tensor:
        """``S[a_i] - a_i p_i``, for one ``a`` a row or a line of them."""
        p = (self.p - self.centre).view(-1, *[1] * (a.dim() - 1))
        return self.sums[a] - a * p

    def terms(self, sign: int, epsilon_bits: int) -> Tensor:
        """``g_i(a) = S[a] - a p_i + s epsilon N / 2 a / (i + a)`` for every row and a = 0..N."""
        a = torch.arange(self.n_negative + 1, device=self.p.device).expand(self.n_positive, -1)
        task = sign * _epsilon(epsilon_bits) * self.n_negative / 2
        return self.standard(a) + task * (a / (self.index[:, None] + a))


def _solvable_counts(counts: Tensor, loss: str = "direct") -> Iterator[tuple[int, int]]:
    """Number and positives of the rankings that have something to solve."""
    for number, (positives, negatives, flags, _) in enumerate(counts.tolist()):
        lost = flags & (_WRONG | (_NAN if loss == "ap" else _NOT_FINITE))
        if positives > 0 and (negatives > 0 or loss == "ap") and not lost:
            yield number, positives


def _solvable(v: Tensor, s: Tensor, counts: Tensor, centre: Tensor, n_items: int, loss: str) -> Iterator[_Ranking]:
    for number, positives in _solvable_counts(counts, loss):
        end = positives + int(counts[number, 1])
        p, n = v.view(-1, n_items)[number, :end].double().tensor_split([positives])
        yield _Ranking(number, p, n, s.view(-1, n_items)[number, positives - 1 : end], centre[number])


def _best(terms: Tensor) -> Tensor:
    """The non-decreasing choice, one a row, of largest sum: the dynamic program of the paper; of equals the least."""
    reached = [torch.zeros_like(terms[0])]
    for term in terms:
        reached.append((reached[-1] + term).cummax(0).values)
    choice = torch.empty(terms.shape[0], dtype=torch.int32, device=terms.device)
    column = terms.shape[1] - 1
    for row in range(terms.shape[0] - 1, -1, -1):
        column = int((reached[row + 1] < reached[row + 1][column]).sum())
        choice[row] = column
    return choice


def _sorted_items(keys: Tensor, index: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Class and score, in float64, at every place of the sorted order."""
    ascending = -1 - keys
    bits = torch.where(ascending < 0, -ascending | torch.iinfo(keys.dtype).min, ascending)
    score = bits.view(torch.float64 if keys.dtype == torch.int64 else torch.float32)
    return classes.view(keys.shape).gather(1, index.long()), score.double()


def _planes(rows: Tensor, n_items: int) -> Tensor:
    """(6, rankings, n_items): choice, starts, last, low, high, work."""
    return rows.view(6, -1, n_items)


def _sum_tiles(values: Tensor, n_tiles: int, tile: int) -> Tensor:
    """(rankings, n) to sums (rankings, n_tiles) of so many columns."""
    padded = torch.nn.functional.pad(values, (0, n_tiles * tile - values.shape[1]))
    return padded.view(-1, n_tiles, tile).sum(-1)


def _join(raised: dict[int, Tensor]) -> Tensor:
    """Flags in one number."""
    return torch.stack([flag * where for flag, where in raised.items()]).sum(0)


def _mean_of_equal(values: Tensor, scores: Tensor) -> Tensor:
    """For every item the mean over those of its score."""
    same = (scores == scores[:, None]).double()
    return same @ values.double() / same.sum(1)


def _epsilon(epsilon_bits: int) -> float:
    """The float64 of these bits."""
    return float(struct.unpack("<d", struct.pack("<q", epsilon_bits))[0])

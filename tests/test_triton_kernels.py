"""Every kernel of the losses against its plain twin, on small tiles, in memory full of NaN.

Without a GPU the kernels run in Triton's interpreter, which shows wrong indices and wrong arithmetic, no races.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from fastap.kernels import blocks, fused, layout, long, program, proof
from fastap.kernels import reduce as reduction
from fastap.kernels.proof import set_prices
from fastap.kernels.search import search_band
from fastap.kernels.terms import count_above, task_scale
from torch import Tensor

from fastap.backends.triton import solve, twins
from fastap.backends.triton.launch import Waves
from tests.kernels import DEVICE, TILE, interpreted, poisoned, quiet, small_long_launch
from tests.problems import KINDS, draw

pytestmark = quiet

SMALL = {"BLOCK": TILE, "num_warps": 1}
SEARCH = {**SMALL, "ROWS": 4, "PIECES": 8, "COLUMNS": TILE}
SCAN = 2
ITEMS = 3 * TILE - 3


def bits_of(epsilon: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", epsilon))
    return int(bits)


def memory(*shape: int, dtype: torch.dtype) -> Tensor:
    """New and full of what must not be read."""
    with poisoned():
        return torch.empty(shape, dtype=dtype, device=DEVICE)


def agree(ours: Tensor, theirs: Tensor, *, rounding: float = 0.0) -> None:
    """Equal, or as close as that times the largest number of the line; NaN equals NaN."""
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    assert ours.shape == theirs.shape
    both_nan = ours.isnan() & theirs.isnan()
    largest = theirs.nan_to_num(0.0, 0.0, 0.0).abs().amax(-1, keepdim=True)
    close = (ours == theirs) | ((ours - theirs).abs() <= rounding * largest)
    assert (close | both_nan).all(), f"{ours[~(close | both_nan)][:5]} is not {theirs[~(close | both_nan)][:5]}"


@contextmanager
def counted(module: ModuleType, name: str) -> Iterator[mock.Mock]:
    """Count the calls of a device function, which only the interpreter makes one by one."""
    with mock.patch.object(module, name, wraps=getattr(module, name)) as calls:
        yield calls


def both(
    module: ModuleType, name: str, programs: int, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...],
    sizes: tuple[int, ...], *twin_constants: Any, **constants: Any,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """The outputs of the kernel and of its twin, each from its own copy of the given ones."""
    ours, theirs = (tuple(each.clone() for each in outputs) for _ in range(2))
    getattr(module, name)[(programs,)](*inputs, *ours, *sizes, **constants)
    getattr(twins, name)(*inputs, *theirs, *sizes, *twin_constants)
    return zip(ours, theirs, strict=True)


# Rankings


def ranking(kind: str, seed: int, n_positive: int, n_negative: int, items: int = ITEMS) -> tuple[Tensor, Tensor]:
    """One of that kind, padded with ignored items anywhere."""
    rng = np.random.default_rng(seed)
    places = torch.tensor(rng.permutation(items)[: n_positive + n_negative])
    drawn, classes = draw(rng, kind, n_positive, n_negative)
    scores, targets = torch.tensor(rng.normal(size=items)), torch.full((items,), -1)
    scores[places], targets[places] = torch.tensor(drawn), torch.tensor(classes)
    return scores, targets


def corners(items: int = ITEMS) -> dict[str, tuple[Tensor, Tensor]]:
    """Rankings that are special in one way each."""

    def changed(change: Callable[[Tensor, Tensor], Any]) -> tuple[Tensor, Tensor]:
        scores, targets = ranking("gaussian", 50, items // 5, items // 2, items)
        change(scores, targets)
        return scores, targets

    zeros = torch.tensor([0.0, -0.0]).repeat(items)[:items].double()
    scores, targets = ranking("gaussian", 51, items // 3, items - items // 3, items)
    place = torch.arange(items)
    taken, other = (int((targets == kind).nonzero()[0]) for kind in (1, 0))
    alone = torch.full_like(targets, -1)
    alone[5] = 1
    return {
        "no item ignored": (scores, targets),
        "all ignored": (scores, torch.full_like(targets, -1)),
        "all positive": (scores, torch.ones_like(targets)),
        "all negative": (scores, torch.zeros_like(targets)),
        "one item": (scores, alone),
        "one of each": (scores, alone.index_fill(0, torch.tensor([7]), 0)),
        "one positive": (scores, (torch.arange(items) == taken).long()),
        "one negative": (scores, (torch.arange(items) != taken).long()),
        "all equal": (torch.full_like(scores, 3.0), targets),
        "zeros of both signs": (zeros, targets),
        "zeros among others": (torch.where(scores.abs() < 0.7, zeros, scores), targets),
        "huge": (scores * 1e30, targets),
        "one positive far above": (scores.index_fill(0, torch.tensor([taken]), 1e20), targets),
        "one positive far below": (scores.index_fill(0, torch.tensor([taken]), -1e20), targets),
        "one negative far above": (scores.index_fill(0, torch.tensor([other]), 1e20), targets),
        "one negative far below": (scores.index_fill(0, torch.tensor([other]), -1e20), targets),
        "many scales": (scores * torch.tensor([1e-3, 1.0, 1e6, 1e20]).double()[place % 4], targets),
        "tied and far apart": ((3 * scores).round() + 2.0**27 * (place % 5 - 2), targets),
        "tiny": (scores * 1e-30, targets),
        "far from zero": (scores + 1e6, targets),
        "nan": changed(lambda s, t: s.index_fill_(0, (t == 1).nonzero()[:1, 0], torch.nan)),
        "infinite": changed(lambda s, t: s.index_fill_(0, (t == 0).nonzero()[:1, 0], torch.inf)),
        "minus infinity": changed(lambda s, t: s.index_fill_(0, (t == 1).nonzero()[-1:, 0], -torch.inf)),
        "ignored nan": changed(lambda s, t: s.index_fill_(0, (t == -1).nonzero()[:, 0], torch.nan)),
        "infinities, all positive": (torch.where(scores > 0, torch.inf, -torch.inf), torch.ones_like(targets)),
        "wrong target": changed(lambda s, t: t.index_fill_(0, torch.tensor([3]), 7)),
    }


def everything(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A batch of all corners and of a ranking of every kind."""
    rows = [*corners().values()]
    rows += [
        ranking(kind, number, 6, 30) if number % 4 else ranking(kind, number, TILE + 2, 20)
        for number, kind in enumerate(KINDS)
    ]
    return torch.stack([scores for scores, _ in rows]).to(DEVICE, dtype), torch.stack([t for _, t in rows]).to(DEVICE)


def some(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A few, for kernels that take their time: of a tile and a half of positives, of one, and with nothing to do."""
    special = corners()
    rows = [special[name] for name in ("nan", "all negative", "one of each", "one positive", "zeros among others")]
    rows += [ranking("gaussian", 1, TILE + 5, 20), ranking("tied", 2, 7, 30), ranking("cauchy", 3, TILE, ITEMS - TILE)]
    return torch.stack([scores for scores, _ in rows]).to(DEVICE, dtype), torch.stack([t for _, t in rows]).to(DEVICE)


@dataclass(frozen=True)
class Keys:
    """A batch before its split."""

    keys: Tensor
    index: Tensor
    classes: Tensor
    counts: Tensor

    @staticmethod
    def of(scores: Tensor, targets: Tensor) -> Keys:
        """As the twins make it."""
        rankings, items = scores.shape
        keys = memory(rankings, items, dtype=torch.int64 if scores.dtype == torch.float64 else torch.int32)
        classes = memory(rankings, items, dtype=torch.int8)
        counts = memory(rankings, 4, dtype=torch.int32)
        strides = (*scores.stride()[:1], 0, scores.stride(1), *targets.stride()[:1], 0, targets.stride(1))
        twins.encode_items(scores, targets, keys, classes, counts, items, 1, 1, *strides, -1, True, items)
        keys, index = keys.sort(dim=1, stable=True)
        return Keys(keys, index.int(), classes, counts)


@dataclass(frozen=True)
class Batch:
    """A batch after its split."""

    v: Tensor
    order: Tensor
    s: Tensor
    counts: Tensor
    centre: Tensor

    @staticmethod
    def of(scores: Tensor, targets: Tensor) -> Batch:
        """As the twins make it."""
        given = Keys.of(scores, targets)
        rankings, items = scores.shape
        tile_counts, tile_sums = memory(rankings, 2, dtype=torch.int32), memory(rankings, dtype=torch.float64)
        centre = memory(rankings, dtype=torch.float64)
        v, order, s = (memory(rankings, items, dtype=dtype) for dtype in (torch.float64, torch.int32, torch.float64))
        tiles = given.keys, given.index, given.classes, given.counts, tile_counts, tile_sums
        twins.sum_tiles(*tiles, centre, items, 1, items)
        twins.split_classes(*tiles, v, order, s, items, 1)
        return Batch(v, order, s, given.counts, centre)

    def cut(self, loss: str, epsilon: float) -> tuple[Batch, Tensor]:
        """The same with near scores where they are too far apart, and what the ranking by score adds to the value."""
        cut, by_score = Batch(*(each.clone() for each in self.arrays)), memory(self.rankings, dtype=torch.float64)
        twins.cut_rankings(
            *cut.problem, cut.rows(), cut.sums(), by_score, cut.items, cut.plane, bits_of(epsilon), loss
        )  # fmt: skip
        return cut, by_score

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.v, self.order, self.s, self.counts, self.centre

    @property
    def rankings(self) -> int:
        return self.v.shape[0]

    @property
    def items(self) -> int:
        return self.v.shape[1]

    @property
    def plane(self) -> int:
        return self.v.numel()

    @property
    def row_tiles(self) -> int:
        return triton.cdiv(self.items, TILE)

    @property
    def problem(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.v, self.s, self.counts, self.centre

    def rows(self) -> Tensor:
        return memory(6, *self.v.shape, dtype=torch.int32)

    def sums(self) -> Tensor:
        return memory(2, *self.v.shape, dtype=torch.float64)

    def searched(self, sign: int, epsilon: float, method: str = "auto") -> Tensor:
        """``rows`` after the search of the twin."""
        rows = self.rows()
        twins.search_rankings(*self.problem, rows, self.items, 1, bits_of(epsilon), "direct", sign, method)
        return rows

    def terms(self, sign: int, epsilon: float) -> list[tuple[int, Tensor]]:
        """Number and ``g_i(a)`` of the rankings that have something to solve."""
        rankings = twins._solvable(*self.problem, self.items, "direct")
        return [(each.number, each.terms(sign, bits_of(epsilon))) for each in rankings]


def attained(terms: Tensor, choice: Tensor) -> float:
    return float(terms.gather(1, choice.long()[:, None]).sum())


def same_optimum(terms: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Both reach as much, but for rounding."""
    largest = float(terms.abs().amax(1).sum())
    assert attained(terms, ours) == pytest.approx(attained(terms, theirs), rel=0, abs=1e-13 * largest)


# Before the search


@pytest.mark.parametrize(
    ("dtype", "has_ignore"),
    [(torch.float16, True), (torch.bfloat16, False), (torch.float32, True), (torch.float64, True)],
)
def test_encode_items(dtype: torch.dtype, has_ignore: bool) -> None:
    scores, targets = everything(dtype)
    rankings, items = scores.shape
    # Three axes of any strides, other ones for the targets.
    scores = scores.view(-1, 3, items).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    targets = targets.view(-1, 3, items).repeat_interleave(2, 2).to(torch.int16)[..., ::2]
    n_tiles = triton.cdiv(items, TILE)
    outputs = (
        memory(rankings, items, dtype=torch.int64 if dtype == torch.float64 else torch.int32),
        memory(rankings * items, dtype=torch.int8),
        memory(rankings * n_tiles, 4, dtype=torch.int32),
    )
    sizes = items, n_tiles, 3, *scores.stride(), *targets.stride(), -1
    results = both(
        layout, "encode_items", rankings * n_tiles, (scores, targets), outputs, sizes,
        has_ignore, TILE, HAS_IGNORE=has_ignore, BLOCK_N=TILE,
    )  # fmt: skip
    for ours, theirs in results:
        assert torch.equal(ours, theirs)
    flags = theirs.view(rankings, n_tiles, 4)[..., 2].amax(1)
    assert (flags & 1 > 0).sum() == ((targets > 1) | (targets < 0) & (not has_ignore)).any(-1).sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_keys_are_ordered_as_scores_are(dtype: torch.dtype) -> None:
    """That the twin is right."""
    info = torch.finfo(dtype)
    ends = [0.0, -0.0, torch.inf, -torch.inf, info.max, info.min, info.tiny, -info.tiny, 1.0, 1.0 + info.eps, -1.0]
    scores = torch.tensor([ends], dtype=dtype, device=DEVICE)
    given = Keys.of(scores, torch.zeros_like(scores))
    keys = torch.empty_like(given.keys).scatter_(1, given.index.long(), given.keys)[0]
    assert torch.equal(keys[:, None] < keys, scores[0][:, None] > scores[0])
    assert torch.equal(keys[:, None] == keys, scores[0][:, None] == scores[0])
    group, score = twins._sorted_items(given.keys, given.index, given.classes)
    assert (group == 1).all()
    assert torch.equal(score, scores.double().sort(descending=True).values)


@pytest.mark.parametrize("n_tiles", [1, 4, 9])
def test_count_classes(n_tiles: int) -> None:
    generator = torch.Generator().manual_seed(n_tiles)
    tiles = torch.randint(1000, (5, n_tiles, 4), dtype=torch.int32, generator=generator)
    tiles[..., 2] = torch.randint(8, (5, n_tiles), generator=generator) & torch.tensor([[0], [1], [2], [5], [7]])
    (result,) = both(
        layout, "count_classes", 5, (tiles.to(DEVICE),), (memory(5, 4, dtype=torch.int32),), (n_tiles,), BLOCK_T=4
    )
    assert torch.equal(*result)
    assert torch.equal(result[0][:, :2].cpu(), tiles.sum(1, dtype=torch.int32)[:, :2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_tiles_and_split_classes(dtype: torch.dtype) -> None:
    scores, targets = everything(dtype)
    given = Keys.of(scores, targets)
    rankings, items = scores.shape
    n_tiles = triton.cdiv(items, TILE)
    # The memory of the counts of items, of which there are four a tile.
    tile_counts = memory(rankings * n_tiles, 4, dtype=torch.int32)
    tile_sums, centre = (memory(count, dtype=torch.float64) for count in (rankings * n_tiles, rankings))
    inputs = given.keys, given.index, given.classes, given.counts
    counts, sums, centre = both(
        layout, "sum_tiles", rankings * n_tiles, inputs, (tile_counts, tile_sums, centre),
        (items, n_tiles), TILE, BLOCK_N=TILE,
    )  # fmt: skip
    assert torch.equal(*counts)
    agree(*(each.view(rankings, n_tiles) for each in sums), rounding=1e-14)
    taken = given.counts[:, :2].sum(1) > 0
    agree(*(each[taken, None] for each in centre))

    outputs = [memory(rankings, items, dtype=each) for each in (torch.float64, torch.int32, torch.float64)]
    v, order, s = both(
        layout, "split_classes", rankings * n_tiles, (*inputs, counts[1], sums[1]), tuple(outputs),
        (items, n_tiles), BLOCK_N=TILE, BLOCK_T=SCAN,
    )  # fmt: skip
    agree(*v)
    assert torch.equal(*order)
    agree(*s, rounding=1e-14)
    # The twin says what it is to say.
    group = given.classes.gather(1, order[1].long())
    place = torch.arange(items, device=DEVICE)
    again = scores.double().gather(1, order[1].long())
    for number in range(rankings):
        expected = np.lexsort((place.cpu(), -scores[number].double().cpu(), given.classes[number].cpu()))
        kept = int(given.counts[number, :2].sum())
        if not again[number, :kept].isnan().any():
            np.testing.assert_array_equal(order[1][number, :kept].cpu(), expected[:kept])
        torch.testing.assert_close(v[1][number, :kept], again[number, :kept], rtol=0, atol=0, equal_nan=True)
    assert (group.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("loss", ["direct", "hinge", "perceptron", "ranking"])
@pytest.mark.parametrize("epsilon", [0.7, 1e-9, 1e300])
def test_cut_rankings(loss: str, epsilon: float) -> None:
    batch = Batch.of(*everything(torch.float64))
    outputs = *batch.problem, batch.rows(), batch.sums(), memory(batch.rankings, dtype=torch.float64)
    v, s, counts, centre, _, _, by_score = both(
        long, "cut_rankings", batch.rankings, (), outputs,
        (batch.items, batch.plane, bits_of(epsilon)), loss, LOSS=loss, **SMALL,
    )  # fmt: skip
    assert torch.equal(*counts)
    agree(*v, rounding=1e-14)
    agree(*s, rounding=1e-14)
    agree(*(each[:, None] for each in centre), rounding=1e-14)
    if loss != "perceptron":
        agree(*(each[:, None] for each in by_score), rounding=1e-14)
    far = counts[0][:, 2] & 8 > 0
    assert far.any() == (epsilon < 1)
    for number, (positives, negatives, *_) in enumerate(batch.counts.tolist()):
        if not far[number] or loss == "perceptron":
            assert torch.equal(v[0][number].nan_to_num(7.0), batch.v[number].nan_to_num(7.0))
            continue
        # In the same order, none of it twice, and equal where the scores are.
        taken = positives + negatives
        before, after = batch.v[number, :taken], v[0][number, :taken]
        assert (after[:positives].diff() <= 0).all()
        assert (after[positives:].diff() <= 0).all()
        same = before[:, None] == before
        assert (after[:, None] == after)[same].all()
        order = before.argsort(descending=True)
        gaps = -after[order].diff()
        assert (gaps >= 0).all()
        assert (gaps <= epsilon * negatives * (1 + 1e-12) + 1e-15 * float(after.abs().max())).all()


# The search and the conflicts


def search_both(batch: Batch, loss: str, sign: int, method: str, epsilon: float) -> list[Tensor]:
    """The choices of kernel and twin, (rankings, items); what nobody is to write is the same."""
    programs = 2
    (result,) = both(
        long, "search_rankings", batch.rankings * programs, batch.problem, (batch.rows(),),
        (batch.items, programs, bits_of(epsilon)), loss, sign, method,
        LOSS=loss, SIGN=sign, METHOD=method, ROWS=4, PIECES=8, num_warps=1,
    )  # fmt: skip
    ours, theirs = result
    assert torch.equal(ours[1:], theirs[1:])
    for number, (positives, *_) in enumerate(batch.counts.tolist()):
        assert torch.equal(ours[0, number, positives:], theirs[0, number, positives:])
    return [ours[0], theirs[0]]


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_search_rankings(sign: int, epsilon: float) -> None:
    batch = Batch.of(*everything(torch.float64) if epsilon == 1.0 else some(torch.float32))
    ours, theirs = search_both(batch, "direct", sign, "auto", epsilon)
    solved = batch.terms(sign, epsilon)
    assert len(solved) > (len(KINDS) + 8 if epsilon == 1.0 else 4)
    for number, terms in solved:
        positives = terms.shape[0]
        largest = terms.abs().amax(1)
        reached = terms.gather(1, ours[number, :positives].long()[:, None])[:, 0]
        assert (reached >= terms.amax(1) - 1e-14 * largest).all()
        # What later stages count on.
        p, n = batch.v[number, :positives, None], batch.v[number, positives : int(batch.counts[number, :2].sum())]
        if sign > 0:
            assert (ours[number, :positives] >= (n > p).sum(1)).all()
        else:
            assert (ours[number, :positives] <= (n >= p).sum(1)).all()
    for number in {*range(batch.rankings)} - {number for number, _ in solved}:
        assert torch.equal(ours[number], theirs[number])


def test_search_by_score() -> None:
    batch = Batch.of(*everything(torch.float32))
    ours, theirs = search_both(batch, "perceptron", 1, "standard", 1.0)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("items", [1, 2, 3, 500])
def test_search_of_rows_of_many_lengths(items: int) -> None:
    """Windows that are clipped at once, and those that go several levels down."""
    rng = np.random.default_rng(items)
    scores, targets = torch.tensor(rng.standard_cauchy((3, items + 2))), torch.zeros(3, items + 2, dtype=torch.int64)
    targets[:, :2] = 1
    scores[:, :2] = scores.quantile(torch.tensor([0.02, 0.5], dtype=torch.float64), dim=1).T
    batch = Batch.of(scores.to(DEVICE), targets.to(DEVICE))
    for epsilon in (1e-3, 1.0, 30.0):
        ours, _ = search_both(batch, "direct", -1, "auto", epsilon)
        for number, terms in batch.terms(-1, epsilon):
            reached = terms.gather(1, ours[number, :2].long()[:, None])[:, 0]
            assert (reached >= terms.amax(1) - 1e-14 * terms.abs().amax(1)).all()


def choices(batch: Batch, seed: int) -> Tensor:
    """``rows`` with choices that climb, not without falls."""
    rows = batch.rows()
    generator = torch.Generator().manual_seed(seed)
    for number, (positives, negatives, *_) in enumerate(batch.counts.tolist()):
        noise = torch.randint(4, (positives,), generator=generator)
        climb = torch.arange(positives) * (0.1 + number % 3)
        rows[0, number, :positives] = (climb.int() + noise).clamp(max=negatives).to(DEVICE)
    return rows


@pytest.mark.parametrize("seed", [1, 2])
def test_find_extremes_and_mark_tiles(seed: int) -> None:
    batch = Batch.of(*everything(torch.float32))
    rows, programs = choices(batch, seed), batch.rankings * batch.row_tiles
    inputs = batch.counts, batch.centre
    (extremes,) = both(
        long, "find_extremes", programs, (*inputs, rows), (memory(2, programs, dtype=torch.int32),),
        (batch.items, batch.row_tiles), TILE, **SMALL,
    )  # fmt: skip
    assert torch.equal(*extremes)
    ((ours, theirs),) = both(
        long, "mark_tiles", programs, (*inputs, extremes[1]), (rows,), (batch.items, batch.row_tiles, batch.plane),
        **SMALL, BLOCK_T=SCAN,
    )  # fmt: skip
    assert torch.equal(ours, theirs)
    starts = ours[1][ours[1] != rows[1]]
    assert {*starts.tolist()} == {0, 1}


def marked(batch: Batch, sign: int, epsilon: float) -> Tensor:
    """``rows`` as the settling finds it."""
    rows = batch.searched(sign, epsilon)
    extremes = memory(2, batch.rankings * batch.row_tiles, dtype=torch.int32)
    twins.find_extremes(batch.counts, batch.centre, rows, extremes, batch.items, batch.row_tiles, TILE)
    twins.mark_tiles(batch.counts, batch.centre, extremes, rows, batch.items, batch.row_tiles, batch.plane)
    return rows


def runs(starts: list[int]) -> list[tuple[int, int]]:
    """First row and row past the last of each block."""
    firsts = [row for row, start in enumerate(starts) if start]
    return list(zip(firsts, [*firsts[1:], len(starts)], strict=True))


def settle_both(batch: Batch, sign: int, epsilon: float) -> tuple[Tensor, int]:
    """``rows`` as the kernel settles it, checked, and how many blocks had several rows."""
    rows = marked(batch, sign, epsilon)
    (ours, theirs), _ = both(
        long, "settle_tiles", batch.rankings * batch.row_tiles, batch.problem, (rows, batch.sums()),
        (batch.items, batch.row_tiles, batch.plane, bits_of(epsilon)), sign, SIGN=sign, **SEARCH,
    )  # fmt: skip
    several = 0
    for number, terms in batch.terms(sign, epsilon):
        positives = terms.shape[0]
        choice, _, last = ours[:3, number, :positives]
        assert ((choice >= 0) & (choice < terms.shape[1])).all()
        for first, end in runs(rows[1, number, :positives].tolist()):
            best = theirs[0, number, first:end]
            if end - first == 1:
                assert choice[first] == best[0]
                continue
            several += 1
            if sign > 0:
                assert (choice[first:end].diff() >= 0).all()
                same_optimum(terms[first:end], choice[first:end], best)
                continue
            # Level sets: each at its optimum, which may leave them in conflict.
            row = first
            while row < end:
                stop = int(last[row]) + 1
                assert row < stop <= end
                assert (last[row:stop] == stop - 1).all()
                assert (choice[row:stop].diff() >= 0).all()
                same_optimum(terms[row:stop], choice[row:stop], twins._best(terms[row:stop]).to(DEVICE))
                row = stop
        # Rows beyond are nobody's.
        assert torch.equal(ours[:, number, positives:], rows[:, number, positives:])
    return ours, several


# Kind, seed, positives of 45 items, epsilon. One block of all rows, over two tiles; one of most; several.
POOLED = [
    ("tied", 88723, 29, 2.931),
    ("two-valued", 15526, 26, 2.546),
    ("saturated", 65304, 25, 1.877),
    ("gaussian", 33557, 20, 0.511),
    ("cauchy", 44955, 27, 0.668),
]
# Of the negative update; pooling does not prove an optimum here, and the first takes another round after that.
UNPROVED = [
    ("conflicting", 26646, 23, 1.8057268857955933),
    ("conflicting", 20898, 23, 0.6746818423271179),
    ("conflicting", 97919, 18, 28.26013946533203),
]


def hard(kind: str, seed: int, n_positive: int, dtype: torch.dtype = torch.float64) -> Batch:
    scores, targets = ranking(kind, seed, n_positive, 45 - n_positive, 45)
    return Batch.of(scores[None].to(DEVICE, dtype), targets[None].to(DEVICE))


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), POOLED)
def test_settle_tiles_of_the_positive_update(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    ours, several = settle_both(hard(kind, seed, n_positive), 1, epsilon)
    assert several
    assert (ours[0, 0, :n_positive].diff() >= 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_settle_tiles_of_a_batch(sign: int) -> None:
    """Rankings with nothing to do beside one that is a single block."""
    scores, targets = some(torch.float32)
    scores[0], targets[0] = (each[:ITEMS].to(scores.device) for each in ranking("tied", 88723, TILE + 4, 20))
    _, several = settle_both(Batch.of(scores, targets), sign, 2.9)
    assert several or sign < 0


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_settle_tiles_and_finish_rankings(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    batch, another_round = hard(kind, seed, n_positive), seed == UNPROVED[0][1]
    with counted(proof, "solve_block") as programs, counted(program, "_middle_choice") as steps:
        settled, several = settle_both(batch, -1, epsilon)
        falls = bool((settled[0, 0, :n_positive].diff() < 0).any())
        once = programs.call_count
        finish_both(batch, settled, epsilon)
    assert several
    assert falls == another_round
    if DEVICE == "cpu":
        assert once >= 1
        assert programs.call_count > once or not another_round
        assert steps.call_count >= 8


def finish_both(batch: Batch, rows: Tensor, epsilon: float) -> None:
    (ours, theirs), _ = both(
        long, "finish_rankings", batch.rankings, batch.problem, (rows, batch.sums()),
        (batch.items, batch.plane, bits_of(epsilon)), **SEARCH, BLOCK_W=2 * TILE,
    )  # fmt: skip
    for number, terms in batch.terms(-1, epsilon):
        choice = ours[0, number, : terms.shape[0]]
        assert (choice.diff() >= 0).all()
        same_optimum(terms, choice, theirs[0, number, : terms.shape[0]])


@triton.jit
def _without_prices(
    v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr,
    first, end, n_negative, task,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Prices of nothing are prices too, but prove little."""
    set_prices(v_ptr, n_ptr, last_ptr, low_ptr, work_ptr, x_ptr, y_ptr, first, end, n_negative, task, BLOCK)
    for base in range(first, end, BLOCK):
        row = base + tl.arange(0, BLOCK)
        tl.store(x_ptr + row, row * 0.0, mask=row < end)


@interpreted
@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_blocks_are_solved_whatever_is_proved(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    """Wide bands, and more of them."""
    batch = hard(kind, seed, n_positive, torch.float32)
    with (
        mock.patch.object(blocks, "set_prices", _without_prices),
        counted(proof, "search_band") as bands,
    ):
        settled, several = settle_both(batch, -1, epsilon)
        finish_both(batch, settled, epsilon)
    assert several
    assert bands.call_count >= 2


@pytest.mark.parametrize("sign", [1, -1])
def test_solve_whole(sign: int) -> None:
    batch = Batch.of(*some(torch.float32 if sign > 0 else torch.float64))
    (ours, theirs), _ = both(
        long, "solve_whole", batch.rankings, batch.problem, (batch.rows(), batch.sums()),
        (batch.items, batch.plane, bits_of(0.7)), sign, SIGN=sign, **SMALL, COLUMNS=TILE,
    )  # fmt: skip
    check_solution(batch, ours[0], theirs[0], sign, 0.7)


def check_solution(batch: Batch, ours: Tensor, theirs: Tensor, sign: int, epsilon: float) -> None:
    solved = batch.terms(sign, epsilon)
    assert solved
    for number, terms in solved:
        positives = terms.shape[0]
        assert (ours[number, :positives].diff() >= 0).all()
        same_optimum(terms, ours[number, :positives], theirs[number, :positives])
    for number in {*range(batch.rankings)} - {number for number, _ in solved}:
        assert torch.equal(ours[number], theirs[number])


@pytest.mark.parametrize(("segments", "stripes"), [(2, (2, 1)), (3, (1,)), (5, (1,))])
@pytest.mark.parametrize("sign", [1, -1])
def test_waves(sign: int, segments: int, stripes: tuple[int, ...]) -> None:
    """The same, cut across rows and columns: with fewer rows than segments, and many more."""
    batch = Batch.of(*some(torch.float32))
    rows, theirs = batch.rows(), batch.rows()
    task = solve.Task("direct", sign, "dp", 0.7)
    launch = replace(small_long_launch(), waves=Waves(segments, stripes, TILE, 1, None))
    inputs = SimpleNamespace(rankings=batch.rankings, items=batch.items)
    solve.solve(inputs, task, launch, solve.Sorted(*batch.arrays), rows, batch.sums())
    twins.solve_whole(*batch.problem, theirs, batch.sums(), batch.items, batch.plane, task.epsilon_bits, sign)
    check_solution(batch, rows[0], theirs[0], sign, 0.7)


# After the search

LOSSES = [("direct", 1), ("direct", -1), ("hinge", 1), ("perceptron", 1), ("ranking", 1), ("ranking", -1), ("ap", 1)]


def solved(batch: Batch, sign: int, epsilon: float) -> Tensor:
    """``rows`` with the optimum of every ranking."""
    rows = batch.rows()
    twins.solve_whole(*batch.problem, rows, batch.sums(), batch.items, batch.plane, bits_of(epsilon), sign)
    return rows


def parts_of(batch: Batch, rows: Tensor, loss: str) -> Tensor:
    parts = memory(3, batch.rankings * batch.row_tiles, dtype=torch.float64)
    twins.sum_rows(*batch.problem, rows, parts, batch.items, batch.row_tiles, loss, TILE)
    return parts


@pytest.mark.parametrize(("loss", "sign"), LOSSES)
def test_sum_rows_and_sum_rankings(loss: str, sign: int) -> None:
    scores, targets = everything(torch.float32 if sign > 0 else torch.float64)
    given, epsilon = Batch.of(scores, targets), 0.7
    batch, by_score = given.cut(loss, epsilon) if loss != "ap" else (given, memory(given.rankings, dtype=torch.float64))
    programs = batch.rankings * batch.row_tiles
    rows = solved(batch, sign, epsilon)
    (parts,) = both(
        long, "sum_rows", programs, (*batch.problem, rows), (memory(3, programs, dtype=torch.float64),),
        (batch.items, batch.row_tiles), loss, TILE, LOSS=loss, **SMALL,
    )  # fmt: skip
    agree(*(each.view(-1, batch.row_tiles) for each in parts), rounding=1e-13)

    outputs = (
        memory(batch.rankings, dtype=torch.float64),
        memory(batch.rankings, dtype=torch.int8),
        memory(batch.rankings, batch.items, dtype=torch.float64),
        batch.v,
    )
    arrays = scores, batch.s, batch.order, batch.counts, batch.centre, rows, parts[1], by_score
    value, takes_part, before, v = both(
        long, "sum_rankings", programs, arrays, outputs,
        (batch.items, batch.row_tiles, 1, batch.items, 0, 1, bits_of(epsilon)), loss, sign, TILE,
        LOSS=loss, SIGN=sign, **SMALL, BLOCK_T=SCAN,
    )  # fmt: skip
    agree(*v)
    if loss in ("direct", "hinge"):
        agree(v[0], given.v)
    agree(value[0][:, None], value[1][:, None], rounding=1e-12)
    assert torch.equal(*takes_part)
    agree(*before)
    assert value[0].isnan().any()
    assert value[0].isfinite().sum() > len(KINDS)


@pytest.mark.parametrize(("loss", "sign"), LOSSES[:-1])
def test_write_items(loss: str, sign: int) -> None:
    dtype = torch.float64 if sign > 0 else torch.float32
    scores, targets = everything(dtype)
    batch = Batch.of(scores, targets)
    n_tiles, epsilon = triton.cdiv(batch.items, TILE), 0.7
    # Any choices that do not fall.
    rows = choices(batch, 5)
    for number, (positives, *_) in enumerate(batch.counts.tolist()):
        if positives:
            rows[0, number, :positives] = rows[0, number, :positives].cummax(0).values
    before = memory(batch.rankings, batch.items, dtype=torch.float64)
    value, takes_part = memory(batch.rankings, dtype=torch.float64), memory(batch.rankings, dtype=torch.int8)
    twins.sum_rankings(
        scores, batch.s, batch.order, batch.counts, batch.centre, rows,
        parts_of(batch, rows, loss), torch.zeros_like(value), value, takes_part, before, batch.v,
        batch.items, batch.row_tiles, 1, batch.items, 0, 1, bits_of(epsilon), loss, sign, TILE,
    )  # fmt: skip
    value[-1] = torch.nan  # as if its scores were too large to be summed
    (result,) = both(
        long, "write_items", batch.rankings * n_tiles,
        (batch.v, batch.order, batch.counts, batch.centre, rows, before, value),
        (memory(batch.rankings, batch.items, dtype=torch.int64 if loss == "ranking" else dtype),),
        (batch.items, n_tiles, bits_of(epsilon)), loss, sign, LOSS=loss, SIGN=sign, **SMALL,
    )  # fmt: skip
    agree(*result, rounding=0 if loss == "ranking" else 1e-14 if dtype == torch.float64 else 1e-7)
    if loss != "ranking":
        assert result[0][-1].isnan().any()


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("rankings", "dtype"), [(1, torch.float32), (5, torch.float64), (19, torch.float32)])
def test_reduce_losses(rankings: int, dtype: torch.dtype, mean: bool) -> None:
    value = torch.rand(rankings, dtype=torch.float64, generator=torch.Generator().manual_seed(rankings)).to(DEVICE)
    takes_part = (torch.arange(rankings, device=DEVICE) % 3 > 0).to(torch.int8)
    outputs = memory(dtype=dtype), memory(1, dtype=dtype)
    for given in (value, value.index_fill(0, torch.tensor([rankings - 1], device=DEVICE), torch.nan)):
        for ours, theirs in both(
            reduction, "reduce_losses", 1, (given, takes_part), outputs, (rankings,), mean, MEAN=mean, BLOCK_R=8
        ):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-14 if dtype == torch.float64 else 1e-7, atol=0, equal_nan=True
            )


# Short rankings


def short_batch(dtype: torch.dtype, items: int) -> tuple[Tensor, Tensor]:
    rows = [*corners(items).values()]
    rows += [ranking(kind, number, items // 3 + number % 3, items // 2, items) for number, kind in enumerate(KINDS)]
    return torch.stack([scores for scores, _ in rows]).to(DEVICE, dtype), torch.stack([t for _, t in rows]).to(DEVICE)


SHORT = [
    *((loss, sign, method) for loss, sign in LOSSES[:3] for method in ("auto", "dp")),
    ("perceptron", 1, "standard"),
    ("ap", 1, "standard"),
]


def short_both(
    scores: Tensor, targets: Tensor, loss: str, sign: int, method: str, epsilon: float, has_ignore: bool = True
) -> None:
    rankings, items = scores.shape[:-1].numel(), scores.shape[-1]
    plane = rankings * items
    outputs = (
        memory(rankings, items, dtype=torch.float32),
        memory(rankings, dtype=torch.float64),
        memory(rankings, dtype=torch.int8),
        memory(rankings, items, dtype=torch.float64),
        memory(rankings, items, dtype=torch.int32),
        memory(rankings, items, dtype=torch.float64),
        memory(6, rankings, items, dtype=torch.int32),
        memory(2, rankings, items, dtype=torch.float64),
    )
    strides = (*scores.stride(), *targets.stride())
    out, value, takes_part, _, _, _, rows, _ = both(
        fused, "short_rankings", rankings, (scores, targets), outputs,
        (items, scores.shape[1], plane, *strides, -1, bits_of(epsilon)), loss, sign, method, has_ignore,
        LOSS=loss, SIGN=sign, METHOD=method, HAS_IGNORE=has_ignore, **SEARCH,
        BLOCK_N=triton.next_power_of_2(items), BLOCK_W=2 * TILE,
    )  # fmt: skip
    agree(value[0][:, None], value[1][:, None], rounding=1e-12)
    assert torch.equal(*takes_part)
    if loss == "ap":
        agree(*out)
        return
    # Another optimum has another gradient: that of the kernel's own choice.
    batch = Batch.of(scores.reshape(-1, items), targets.reshape(-1, items))
    expected = torch.empty_like(out[1])
    twins.write_items(
        batch.v, batch.order, batch.counts, batch.centre, rows[0], memory(plane, dtype=torch.float64), value[1],
        expected, items, 1, bits_of(epsilon), loss, sign,
    )  # fmt: skip
    agree(out[0], expected, rounding=1e-7)


@pytest.mark.parametrize(("loss", "sign", "method"), SHORT)
def test_short_rankings(loss: str, sign: int, method: str) -> None:
    dtype = {"auto": torch.float32, "dp": torch.float16, "standard": torch.bfloat16}[method]
    scores, targets = short_batch(dtype, 21)
    if method == "dp":
        scores, targets = scores[::2], targets[::2]
    # Two leading axes of any strides; other ones for the targets.
    scores = scores.view(-1, 3, 21).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    targets = targets.view(-1, 3, 21).repeat_interleave(2, 2).to(torch.int16)[..., ::2]
    short_both(scores, targets, loss, sign, method, 0.7)


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_short_rankings_in_conflict(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    scores, targets = ranking(kind, seed, n_positive, 45 - n_positive, 45)
    short_both(
        scores.to(DEVICE, torch.float32)[None, None], targets.to(DEVICE)[None, None], "direct", -1, "auto", epsilon
    )


@pytest.mark.parametrize("items", [1, 2, 16])
def test_short_rankings_of_few_items(items: int) -> None:
    """Rows that fill the block, and no ignored index."""
    scores, targets = short_batch(torch.float32, 21)
    scores, targets = scores[:9, None, :items], targets[:9, None, :items].clamp(min=0).byte()
    short_both(scores, targets, "direct", -1, "auto", 0.3, has_ignore=False)


# Device functions that nothing but blocks in conflict reach


@triton.jit
def _find_bands(
    v_ptr, s_ptr, centre_ptr, inside_ptr, floor_ptr,
    low_ptr, high_ptr,
    n_positive, n_negative, epsilon_bits,
    ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    n_ptr = v_ptr + n_positive - 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_positive
    p = tl.load(v_ptr + row, mask=mask, other=0.0).to(tl.float64)
    top = count_above(n_ptr, n_negative, p, mask, True)
    task = task_scale(epsilon_bits, n_negative, -1)
    low, high = search_band(
        s_ptr + n_positive - 1, n_ptr, p, p - tl.load(centre_ptr), row + 1, top, task,
        tl.load(inside_ptr + row, mask=mask, other=0), tl.load(floor_ptr + row, mask=mask, other=0.0), mask, PIECES,
    )  # fmt: skip
    tl.store(low_ptr + row, low, mask=mask)
    tl.store(high_ptr + row, high, mask=mask)


@pytest.mark.parametrize("kind", ["gaussian", "cauchy", "tied", "conflicting"])
def test_search_band(kind: str) -> None:
    """The least and the greatest ``a`` that is high enough, wherever between them others are not."""
    for seed, epsilon in ((1, 0.05), (2, 3.0), (3, 40.0)):
        n_positive, n_negative = 8, 70
        batch = Batch.of(*(each[None].to(DEVICE) for each in ranking(kind, seed, n_positive, n_negative, 78)))
        ((_, terms),) = batch.terms(-1, epsilon)
        p, n = batch.v[0, :n_positive, None], batch.v[0, n_positive:]
        reachable = torch.arange(n_negative + 1, device=DEVICE) <= (n >= p).sum(1)[:, None]
        terms = terms.where(reachable, -torch.inf)
        best, inside = terms.max(1)
        generator = torch.Generator().manual_seed(seed)
        lowest = terms.where(reachable, torch.inf).amin(1)
        slack = torch.tensor([0.0, 1e-6, 0.05, 0.5])[torch.randint(4, (n_positive,), generator=generator)].to(DEVICE)
        largest = terms.where(reachable, 0.0).abs().amax(1)
        floor = best - slack * (best - lowest) - 1e-12 * largest
        low, high = (memory(n_positive, dtype=torch.int32) for _ in range(2))
        _find_bands[(2,)](
            batch.v, batch.s, batch.centre, inside.int(), floor, low, high, n_positive, n_negative, bits_of(epsilon),
            ROWS=4, PIECES=8, num_warps=1,
        )  # fmt: skip
        for number in range(n_positive):
            # Within rounding of the floor either answer is right.
            surely, perhaps = (
                (terms[number] >= floor[number] + sign * 1e-13 * largest[number]).nonzero()[:, 0] for sign in (1, -1)
            )
            assert perhaps[0] <= low[number] <= surely[0]
            assert surely[-1] <= high[number] <= perhaps[-1]

"""Batches as the kernels of long rankings have them, in memory full of NaN, and a kernel beside its plain twin.

Without a GPU the kernels run in Triton's interpreter, which shows wrong indices and wrong arithmetic, no races.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import triton
from torch import Tensor

from fastap.backends.triton import twins
from tests.kernels import DEVICE, TILE, poisoned
from tests.problems import KINDS, draw

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


def choices(batch: Batch, seed: int) -> Tensor:
    """``rows`` with choices that climb, not without falls."""
    rows = batch.rows()
    generator = torch.Generator().manual_seed(seed)
    for number, (positives, negatives, *_) in enumerate(batch.counts.tolist()):
        noise = torch.randint(4, (positives,), generator=generator)
        climb = torch.arange(positives) * (0.1 + number % 3)
        rows[0, number, :positives] = (climb.int() + noise).clamp(max=negatives).to(DEVICE)
    return rows


# Of the negative update; pooling does not prove an optimum here, and the first takes another round after that.
UNPROVED = [
    ("conflicting", 26646, 23, 1.8057268857955933),
    ("conflicting", 20898, 23, 0.6746818423271179),
    ("conflicting", 97919, 18, 28.26013946533203),
]

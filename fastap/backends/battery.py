"""A small fixed battery of rankings that are easy to get wrong, and what is wrong about results for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from math import inf, nan
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastap.types import AugmentedRanking, Batch

Row = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]  # scores and targets

# For all rankings: so small that the scores of some span more than 2**20 of it, and that in others what a row gains by
# one more negative above it is near what it loses.
EPSILON = 2.0**-8
IGNORED, WRONG = -1, -2
KINDS = 16
# Scores are multiples of this up to 8, and powers of two times that: float16 and bfloat16 hold them as they are.
_STEP = 1 / 32
# Positives times items: with more the dynamic program over all cells takes the C engine more than a millisecond.
_MOST_CELLS = 110_000
_TOLERANCE = {torch.float32: 2.0**-20, torch.float64: 1e-9}


class Battery(NamedTuple):
    """Rankings end to end, on the CPU. The optimum of each is unique, so that gradients can be compared."""

    scores: Tensor  # float64
    targets: Tensor  # int64: 1, 0, IGNORED or WRONG
    weight: Tensor  # float64, of each item; some are 0
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    @property
    def is_wrong(self) -> Tensor:
        """Which rankings have a wrong target."""
        return torch.segment_reduce((self.targets == WRONG).float(), "max", offsets=self.offsets, initial=0.0) > 0

    def batch(self, dtype: torch.dtype) -> Batch:
        """For an engine of the CPU, which refuses wrong targets: it gets 0 in their place."""
        targets = self.targets.masked_fill(self.targets == WRONG, 0)
        return Batch(self.scores.to(dtype), targets, IGNORED, self.offsets)


@lru_cache(maxsize=64)
def battery(lengths: tuple[int, ...], *, has_ignore: bool, kinds: int = KINDS) -> Battery:
    """So many kinds of rankings of each length, and an empty one for each 0."""
    rows: list[Row] = []
    for items in lengths:
        rng = np.random.default_rng(items)
        found = [_NOTHING] if items == 0 else list(_rows(rng, items, has_ignore))[:kinds]
        for scores, targets in found:
            order = rng.permutation(scores.size)
            rows.append((scores[order], targets[order]))
    scores, targets = (np.concatenate(each) for each in zip(*rows, strict=True))
    ends = np.array([0, *accumulate(scores.size for scores, _ in rows)])
    weight = np.arange(scores.size) % 7 / 4
    return Battery(*(torch.from_numpy(each) for each in (scores, targets, weight, ends)))


_NOTHING: Row = np.zeros(0), np.zeros(0, np.int64)


def _rows(rng: np.random.Generator, items: int, has_ignore: bool) -> Iterator[Row]:
    """One ranking after the other, the positives first."""
    place = np.arange(items)
    targets = (place < max(1, min(items // 3, _MOST_CELLS // items))).astype(np.int64)

    def drawn(targets: npt.NDArray[np.int64], shift: float = 1.0) -> Row:
        return _rounded(np.clip(rng.normal(size=items) + shift * targets, -7, 7)), targets

    scores, _ = drawn(targets)
    yield scores, targets
    yield scores, np.where(rng.random(items) < 0.5, IGNORED, targets) if has_ignore else targets
    yield scores, np.where(place == items // 3, WRONG, targets)
    yield np.where(place == items // 2, nan, scores), targets
    yield np.where(place == items - 1, -inf, scores), targets
    for positives in (0, 1, items - 1, items):
        yield drawn((place < positives).astype(np.int64))
    yield np.round(scores), targets  # few levels
    yield np.where(place % 2, 0.0, -0.0), targets
    # Nearly equal positives under most negatives: of the negative update, rows in conflict.
    below = _rounded(rng.uniform(0, 2, items))
    yield np.where(targets == 1, 0.25 + _STEP * rng.integers(0, 3, items), below), targets
    yield np.where(targets == 1, 0.25, np.round(4 * below) / 4), targets
    # Far apart: one alone, and all at several scales.
    yield np.where(place == 0, -8192.0, scores), targets
    yield scores * 2.0 ** rng.choice([0, 5, 9, 12], items), targets
    yield drawn(targets, shift=-2.0)


def _rounded(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.round(scores / _STEP) * _STEP)


def difference(given: Any, right: Any, offsets: Tensor) -> str | None:
    """What is wrong first, in words; None if nothing is.

    Both are Losses, an AugmentedRanking or a tensor of values. Ranks are compared where their ranking has a value,
    numbers within a few roundings of their type; of a gradient, of the largest in its ranking.
    """
    if isinstance(given, Tensor):
        return difference(AugmentedRanking(cast(Any, None), given), (None, right), offsets)
    lengths = offsets.diff()
    numbers = torch.arange(lengths.shape[0], device="cpu")
    for name, found, wanted in zip(given._fields, given, right, strict=True):
        if found is None or wanted is None:
            continue
        one, other = found.cpu().double().flatten(), wanted.double().flatten()
        ranking = numbers.repeat_interleave(lengths) if name in ("gradient", "ranks") else numbers
        size = other.nan_to_num().abs()
        if name == "gradient":
            size = torch.segment_reduce(size, "max", offsets=offsets, initial=0.0)[ranking]
        off = (one - other).abs() > _TOLERANCE.get(wanted.dtype, 0.0) * (size + (name != "gradient"))
        off |= one.isnan() != other.isnan()
        if name == "ranks":
            off &= ~right[1].isnan()[ranking]
        if off.any():
            at = int(off.nonzero()[0])
            where = f"a ranking of {int(lengths[ranking[at]])} items, number {int(ranking[at])} of {len(numbers)}"
            return f"{name} {float(one[at])} in place of {float(other[at])} in {where}"
    return None

"""What is ranked: fresh scores at every call, one stream a case.

A small array that is sorted again and again is learnt by the branch predictors and looks 4 to 5 times cheaper than it
is, so every benchmark draws from a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from tests.problems import draw

Inputs = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """A batch of rankings, all with as many positives and negatives."""

    rankings: int
    positives: int
    negatives: int

    @property
    def items(self) -> int:
        return self.positives + self.negatives

    @property
    def scores(self) -> int:
        return self.rankings * self.items

    def __str__(self) -> str:
        return f"{self.rankings:,} x {self.items:,}, P = {self.positives:,}"


# One ranking each, P positives and N negatives: where this library is compared with others.
PEER_SHAPES = tuple(
    Shape(1, p, n) for p, n in ((10, 100), (100, 1_000), (1_000, 10_000), (1_000, 100_000), (10_000, 1_000_000))
)


def stream(
    shape: Shape,
    *,
    kind: str = "gaussian",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Endless fresh ``(scores, targets)`` of shape ``(rankings, items)``; ``(items,)`` where there is one ranking.

    ``"gaussian"`` has positives N(1, 1) and negatives N(0, 1), and the positives in the same random places at every
    call; the other kinds are those of :mod:`tests.problems`. Targets are bool.
    """
    size = (shape.rankings, shape.items) if shape.rankings > 1 else (shape.items,)
    if kind == "gaussian":
        generator = torch.Generator().manual_seed(seed)
        targets = torch.zeros(shape.rankings, shape.items, dtype=torch.bool)
        for line in targets:
            line[torch.randperm(shape.items, generator=generator)[: shape.positives]] = True
        targets = targets.view(size)
        placed = targets.to(device)
        while True:
            yield (torch.randn(size, generator=generator) + targets).to(device, dtype), placed
    rng = np.random.default_rng(seed)
    while True:
        drawn = [draw(rng, kind, shape.positives, shape.negatives) for _ in range(shape.rankings)]
        scores = torch.from_numpy(np.stack([each for each, _ in drawn])).view(size)
        targets = torch.from_numpy(np.stack([each for _, each in drawn]) == 1).view(size)
        yield scores.to(device, dtype), targets.to(device)


def with_ratio(scores: int, positives: int = 1, negatives: int = 100) -> Shape:
    """One ranking of so many scores with this ratio of positives to negatives; the default is that of growth."""
    p = max(1, round(scores * positives / (positives + negatives)))
    return Shape(1, p, scores - p)


def shrink(shape: Shape, items: int = 2_000, rankings: int = 8) -> Shape:
    """A small batch of the same ratio of positives to negatives."""
    share = min(1.0, items / shape.items)
    p, n = max(1, round(shape.positives * share)), max(1, round(shape.negatives * share))
    return Shape(min(shape.rankings, rankings), p, n)


def cut(shape: Shape, cells: int, negatives: int) -> Shape:
    """Fewer rankings, and if one is too large a smaller one of the same ratio: ``P (N + 1)`` cells in all at most."""
    of_one = shape.positives * (shape.negatives + 1)
    share = min(1.0, sqrt(cells / of_one), negatives / shape.negatives)
    if share < 1.0:
        return Shape(1, max(1, int(shape.positives * share)), max(1, int(shape.negatives * share)))
    return replace(shape, rankings=max(1, min(shape.rankings, cells // of_one)))

"""Batches for the metrics, and the metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastap.metrics import AveragePrecision, RetrievalMAP


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(seed: int, items: int = 60, labels: int = 4, levels: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores on both sides of 0, equal ones too if there are levels; targets of many labels; and weights."""
    g = generator(seed)
    scores = torch.randn(items, labels, generator=g)
    if levels:
        scores = torch.randint(-levels, levels, (items, labels), generator=g).float()
    targets = (torch.rand(items, labels, generator=g) < torch.linspace(0.1, 0.6, labels)).long()
    targets[0] = 1
    return scores, targets, torch.rand(items, generator=g) * (torch.rand(items, generator=g) < 0.8)


def queries(seed: int, items: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Positive scores, no two equal; targets, some of them -1; ids in any order, one query all ignored, one empty."""
    g = generator(seed)
    scores = (torch.randperm(items, generator=g) + 1) / items
    ids = torch.randint(0, 40, (items,), generator=g) * 7 - 100
    targets = (torch.rand(items, generator=g) < 0.15).long()
    targets[torch.rand(items, generator=g) < 0.1] = -1
    targets[ids == -100] = -1
    targets[ids == -93] = 0
    return scores, targets, ids


def value_in_parts(metric: Any, *tensors: Tensor, parts: int = 3) -> Tensor:
    metric.reset()
    for part in zip(*(each.tensor_split(parts) for each in tensors), strict=True):
        metric.update(*part)
    value: Tensor = metric.compute()
    return value


# Both


METRICS: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Tensor, ...]]]] = {
    "binary": (lambda **options: AveragePrecision("binary", **options), labelled),
    "multiclass": (
        lambda **options: AveragePrecision("multiclass", num_classes=4, **options),
        lambda seed: (labelled(seed)[0], torch.arange(60) % 4),
    ),
    "multilabel": (
        lambda **options: AveragePrecision("multilabel", num_labels=4, average="none", **options),
        lambda seed: labelled(seed, levels=2),
    ),
    "retrieval": (lambda **options: RetrievalMAP(ignore_index=-1, **options), queries),
}


def batch(name: str, seed: int) -> tuple[Tensor, ...]:
    tensors = METRICS[name][1](seed)
    return tuple(each[:, 0] if name == "binary" and each.dim() == 2 else each for each in tensors)


def joined(name: str, *seeds: int) -> tuple[Tensor, ...]:
    return tuple(torch.cat(each) for each in zip(*(batch(name, seed) for seed in seeds), strict=True))

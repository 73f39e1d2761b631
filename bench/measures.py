"""What the loss of another measure takes beside that of AP: ``python -m bench.measures``, the figures of the guide.

On one thread, forward and backward, fresh gradients at every call; each measure takes turns with AP, and the table has
medians of their ratio. First of 10,000 positives N(1, 1) and 1,000,000 negatives N(0, 1), then of as many positives as
negatives, with a ``k`` of half of them, which is the slow case.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

import fastap
from bench.environment import about, machine
from bench.figures import duration
from bench.markdown import table
from fastap.types import ONE_SIDED

ROUNDS = 5
MEASURES: tuple[dict[str, Any], ...] = (
    {"measure": "ndcg"},
    {"measure": "bedroc"},
    {"measure": "auc"},
    {"measure": ("partial_auc", 0.1)},
    {"measure": "reciprocal_rank"},
    {"measure": "precision", "k": 1000},
    {"measure": "recall", "k": 50_000},
    {"measure": "ap", "k": 100},
    {"measure": "ndcg", "k": 10},
    {"measure": "ndcg", "k": 100_000},
)
CASES = (
    *((10_000, 1_000_000, each) for each in MEASURES),
    *((each, each, {"measure": "ndcg", "k": each // 2}) for each in (10_000, 20_000)),
)


def seconds_of(scores: Tensor, targets: Tensor, options: dict[str, Any]) -> float:
    start = time.perf_counter()
    torch.autograd.grad(fastap.direct_ranking_loss(scores, targets, **options), scores)
    return time.perf_counter() - start


def compared(positives: int, negatives: int, options: dict[str, Any]) -> str:
    """Time, and in brackets how many times that of AP."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(positives + negatives) < positives
    scores = (torch.randn(positives + negatives, generator=generator) + targets).requires_grad_()
    both = [
        [seconds_of(scores, targets, each) for each in (options, {**options, "measure": "ap", "k": None})]
        for _ in range(ROUNDS)
    ]
    ratio = statistics.median(one / other for one, other in both)
    return f"{duration(statistics.median(one for one, _ in both))} ({ratio:.1f})"


def rows() -> list[list[str]]:
    return [
        [
            f"{positives:,} + {negatives:,}",
            str(options["measure"]),
            str(options.get("k", "")),
            *(compared(positives, negatives, {**options, "update": update}) for update in ONE_SIDED),
        ]
        for positives, negatives, options in CASES
    ]


def main() -> None:
    torch.set_num_threads(1)
    print(machine(about()))
    print("In brackets: times that of AP.\n")
    print(table(rows(), ["P + N", "measure", "k", *ONE_SIDED], 3))


if __name__ == "__main__":
    main()

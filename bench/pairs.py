"""Work and ``torch.sort`` in turns on the same fresh scores, under pytest-benchmark."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cases import Case, Job, Prepare
from bench.clock import quantiles, wait

# More rounds than these are of no use.
MOST = 300
# From so many seconds on a pair is long, and so many rounds must do; quantiles of fewer are single rounds.
LONG, OF_LONG = 1.0, 7


class Pairs:
    """The rounds of one case, each with fresh scores.

    The sort of them goes first in one round and last in the next: who comes second finds scores in the cache and the
    first one's memory.
    """

    def __init__(self, case: Case, prepare: Prepare) -> None:
        self.case, self.prepare = case, prepare
        self.inputs = case.inputs()
        self.sorts: list[float] = []
        self.unsorted: Tensor | None = None  # scores of a round whose sort goes last

    def set_up(self) -> tuple[tuple[Job], dict[str, Any]]:
        self.tear_down()
        scores, targets = next(self.inputs)
        if len(self.sorts) % 2 == 0:
            self._sort(scores)
        else:
            self.unsorted = scores.detach()
        job = self.prepare(scores, targets)
        wait(self.case.device)
        return (job,), {}

    def run(self, job: Job) -> None:
        job()
        wait(self.case.device)

    def tear_down(self, *_: Any) -> None:
        """End the round: its scores are sorted if they have not been."""
        if self.unsorted is not None:
            scores, self.unsorted = self.unsorted, None
            self._sort(scores)

    def _sort(self, scores: Tensor) -> None:
        wait(self.case.device)
        start = time.perf_counter()
        self.run(lambda: torch.sort(scores, dim=self.case.dim, descending=True))
        self.sorts.append(time.perf_counter() - start)

    def warm_up(self) -> float:
        """Load code, start threads; seconds of a round with all that belongs to it."""
        taken = []
        # A long round shows what it takes at once.
        while len(taken) < 3 and sum(taken) < LONG:
            start = time.perf_counter()
            self.run(*self.set_up()[0])
            self.tear_down()
            taken.append(time.perf_counter() - start)
        self.sorts.clear()
        return min(taken)


def rounds_for(pair: float, seconds: float, least: int) -> int:
    """Of ``pair`` seconds each, for so many ``seconds`` in all: at least ``least``, six times that of short ones."""
    if pair >= LONG:
        return max(least, OF_LONG)
    # What a round takes is known roughly, and quantiles of short ones are to be worth something on a busy machine too.
    return int(min(MOST, max(6 * least if pair < seconds / 10 else least, seconds / pair)))


def measure(benchmark: Any, pairs: Pairs, seconds: float, least: int) -> dict[str, Any] | None:
    """Run the rounds; ``seconds``, ``sort`` and ``ratio``, None where nothing is to be measured."""
    if not benchmark.enabled:
        benchmark.pedantic(pairs.run, setup=pairs.set_up, teardown=pairs.tear_down)
        return None
    rounds = rounds_for(pairs.warm_up(), seconds, least)
    benchmark.pedantic(pairs.run, setup=pairs.set_up, teardown=pairs.tear_down, rounds=rounds)
    stats = benchmark.stats.stats
    taken = {key: getattr(stats, key) for key in ("median", "q1", "q3", "rounds")}
    return {"seconds": taken, **summary(pairs.sorts[:rounds], stats.data)}


def summary(sorts: list[float], works: list[float]) -> dict[str, Any]:
    return {"sort": quantiles(sorts), "ratio": quantiles(np.array(works) / np.array(sorts))}

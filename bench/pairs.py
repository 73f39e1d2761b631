"""Work and ``torch.sort`` in turns on the same fresh scores, under pytest-benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from bench.cases import Case, Job, Prepare

# More rounds than these are of no use.
MOST = 300
# From so many seconds on a pair is long, and the least rounds must do.
LONG = 1.0


class Pairs:
    """The rounds of one case. Setting up a round draws its scores and times the sort of them."""

    def __init__(self, case: Case, prepare: Prepare, stack: ExitStack) -> None:
        self.case, self.prepare, self.stack = case, prepare, stack
        self.inputs = case.inputs()
        self.sorts: list[float] = []
        self.sync: Callable[[], None] = torch.cuda.synchronize if case.device == "cuda" else lambda: None

    def set_up(self) -> tuple[tuple[Job], dict[str, Any]]:
        self.tear_down()
        scores, targets = next(self.inputs)
        self.sorts.append(self._seconds(lambda: torch.sort(scores, dim=self.case.dim, descending=True)))
        job = self.prepare(scores, targets, self.stack)
        self.sync()
        return (job,), {}

    def run(self, job: Job) -> None:
        job()
        self.sync()

    def tear_down(self, *_: Any) -> None:
        self.stack.close()

    def _seconds(self, job: Job) -> float:
        self.sync()
        start = time.perf_counter()
        self.run(job)
        return time.perf_counter() - start

    def warm_up(self) -> float:
        """Load code, start threads; seconds of a round with all that belongs to it."""
        taken = []
        # A long round shows what it takes at once.
        while len(taken) < 3 and sum(taken) < LONG:
            start = time.perf_counter()
            self.run(*self.set_up()[0])
            taken.append(time.perf_counter() - start)
        self.sorts.clear()
        return min(taken)


def rounds_for(pair: float, seconds: float, least: int) -> int:
    """Of ``pair`` seconds each, for so many ``seconds`` in all: at least ``least``, six times that of short ones."""
    if pair >= LONG:
        return least
    # What a round takes is known roughly, and quantiles of short ones are to be worth something on a busy machine too.
    return int(min(MOST, max(6 * least if pair < seconds / 10 else least, seconds / pair)))


def measure(benchmark: Any, pairs: Pairs, seconds: float, least: int) -> dict[str, Any] | None:
    """Run the rounds; ``sort`` and ``ratio`` of the schema, None where pytest-benchmark is told not to measure."""
    if not benchmark.enabled:
        benchmark.pedantic(pairs.run, setup=pairs.set_up, teardown=pairs.tear_down)
        return None
    rounds = rounds_for(pairs.warm_up(), seconds, least)
    benchmark.pedantic(pairs.run, setup=pairs.set_up, teardown=pairs.tear_down, rounds=rounds)
    return summary(pairs.sorts[:rounds], benchmark.stats.stats.data)


def summary(sorts: list[float], works: list[float]) -> dict[str, Any]:
    ratios = np.array(works) / np.array(sorts)
    return {"sort": quantiles(sorts), "ratio": {**quantiles(ratios), "rounds": len(works)}}


def quantiles(values: Any) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"median": float(middle), "p10": float(low), "p90": float(high)}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, PyTorch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

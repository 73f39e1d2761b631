"""What the GPU gate times, and how: GPU time between two events, beside it the host's own time.

Everything between the events is queued before the first is reached, so that the host does not show. Between calls the
L2 cache is flushed. ``torch.sort`` of the same scores takes turns with the losses in the same process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastap
from bench.clock import Machine, quantiles, seconds_on
from bench.inputs import Shape, stream
from bench.isolated import peak_bytes
from bench.store import Row
from fastap.types import ONE_SIDED, UPDATES

SECONDS = 0.4  # of calls for one figure
REPEATS = (5, 100)


def losses(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Forward and backward."""
    leaf = scores.detach().requires_grad_()
    return torch.autograd.grad(fastap.direct_ap_loss(leaf, targets, dim=-1, **options), leaf)[0]


def forward(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    return fastap.direct_ap_loss(scores, targets, dim=-1, reduction="none", **options)


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    return fastap.average_precision(scores, targets, dim=-1)


def float_sort(scores: Tensor, targets: Tensor) -> Tensor:
    return torch.sort(scores, dim=-1, descending=True)[1]


def key_sort(scores: Tensor, targets: Tensor) -> Tensor:
    """The sort of the long path, of keys that are the bits of the scores."""
    return torch.sort(scores.view(torch.int32), dim=-1, stable=True)[1]


class Work(NamedTuple):
    """What is timed."""

    call: Callable[[Tensor, Tensor], Any]
    bytes: int  # that it must read and write at least, a float32 score with its bool target
    solves: tuple[str, str] | None = None  # update and method


WORKS = {
    "torch.sort": Work(float_sort, 4 + 4 + 8),
    "sort of keys": Work(key_sort, 4 + 4 + 8),
    "average_precision": Work(average_precision, 4 + 1),
    **{
        f"{prefix}{update}": Work(partial(call, update=update, **options), 4 + 1 + 4, solves)
        for update in UPDATES
        for prefix, call, options, solves in (
            ("", losses, {}, (update, "auto")),
            ("forward ", forward, {}, (update, "auto")),
            ("dp ", losses, {"method": "dp"}, (update, "dp")),
        )
        if update in ONE_SIDED or not prefix
    },
}


@dataclass(frozen=True)
class Case:
    """A batch of rankings and what is timed on it."""

    rankings: int
    positives: int
    negatives: int
    works: tuple[str, ...]
    kind: str = "gaussian"  # of the tests' problems

    @property
    def items(self) -> int:
        return self.positives + self.negatives

    @property
    def name(self) -> str:
        kind = "" if self.kind == "gaussian" else f", {self.kind}"
        return f"{self.rankings:,} x {self.items:,}, P = {self.positives:,}{kind}"


ONE_LONG = Case(1, 10_000, 1_000_000, ("torch.sort", *UPDATES, "average_precision", "sort of keys"))
MULTI_LABEL = Case(80, 100, 924, ("torch.sort", "forward positive", "forward negative", *UPDATES, "average_precision"))
RETRIEVAL = Case(4096, 20, 980, ("torch.sort", *UPDATES, "average_precision"))
FULL_BANDS = Case(1, 2_000, 200_000, ("torch.sort", "dp positive", "dp negative", *UPDATES))
MANY_LONG = Case(64, 6_553, 58_983, ("torch.sort", "sort of keys", *UPDATES, "average_precision"))
CASES = (
    ONE_LONG,
    MULTI_LABEL,
    RETRIEVAL,
    FULL_BANDS,
    MANY_LONG,
    Case(1, 1_000, 99_000, ("torch.sort", *UPDATES)),
    Case(1, 100_000, 9_900_000, ("torch.sort", *UPDATES)),
    *(
        Case(1, 10_000, 1_000_000, ("torch.sort", *UPDATES), kind)
        for kind in ("cauchy", "saturated", "tied", "anti-correlated")
    ),
)


def draw_inputs(case: Case, device: torch.device, copies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """float32 scores, different ones in every copy, and bool targets, a row a ranking."""
    shape = Shape(case.rankings, case.positives, case.negatives)
    for scores, targets in itertools.islice(stream(shape, kind=case.kind, device=device), copies):
        yield scores.view(case.rankings, -1), targets.view(case.rankings, -1)


def time_work(work: Work, case: Case, inputs: list[tuple[Tensor, Tensor]], machine: Machine, seconds: float) -> Row:
    """Quantiles of the GPU time of one work, host time, peak memory, and bandwidth by the bytes it must move."""
    turns = itertools.cycle(inputs)

    def call() -> Any:
        return work.call(*next(turns))

    call()  # compiles
    peak = peak_bytes(call, machine.device)
    hosts = []
    for _ in range(REPEATS[0]):
        machine.flush()
        start = time.perf_counter()
        call()
        hosts.append(time.perf_counter() - start)
        machine.wait()
    host = float(np.median(hosts))
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < REPEATS[0] or (len(taken) < REPEATS[1] and time.perf_counter() < until):
        machine.flush()
        # The GPU spins until everything is queued, so that it never waits for the host.
        taken.append(seconds_on(machine.device, call, spin=min(2 * host + 50e-6, 0.05)))
    scores = inputs[0][0].numel()
    figures: Row = {**quantiles(taken), "repeats": len(taken), "host": host}
    figures["GB/s"] = scores * work.bytes / figures["median"] / 1e9
    figures["bytes a score"] = None if peak is None else peak / scores
    if work.solves is not None and work.solves[1] == "dp":
        figures["cells a second"] = case.rankings * case.positives * (case.negatives + 1) / figures["median"]
    return figures


def time_case(case: Case, device: torch.device, deadline: float, seconds: float = SECONDS) -> list[Row]:
    """A row for every work of a case: its figures, or what kept them from being taken."""
    rows: list[Row] = []
    inputs: list[tuple[Tensor, Tensor]] = []
    for name in case.works:
        row: Row = {"case": case.name, "work": name}
        try:
            if time.monotonic() > deadline:
                raise TimeoutError("no time was left")
            inputs = inputs or list(draw_inputs(case, device, 3))
            row |= time_work(WORKS[name], case, inputs, Machine(device.type), seconds)
        except Exception as error:
            row["error"] = describe(error)
        rows.append(row)
    return rows


def describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def count_launches(device: torch.device) -> int | str:
    """Kernels, fills and copies of one forward call on 80 rankings."""
    from tests.device_checks import launched_kernels

    try:
        scores, targets = next(draw_inputs(MULTI_LABEL, device, 1))
        kernels = launched_kernels(lambda: forward(scores, targets))
    except Exception as error:
        return describe(error)
    return "the profiler saw no kernels" if kernels is None else len(kernels)


def judge(rows: Sequence[Row], launches: int | str) -> list[tuple[str, str, str, str]]:
    """What was to be reached on an H200, what was, and ``"met"``, ``"missed"`` or ``"not measured"``."""
    verdicts = []
    found = {(row["case"], row["work"]): row for row in rows}

    def add(what: str, target: str, value: float | None, met: Callable[[float], bool], show: str) -> None:
        measured = "" if value is None else show.format(value)
        verdict = "not measured" if value is None else "met" if met(value) else "missed"
        verdicts.append((what, target, measured, verdict))

    def figure(case: Case, work: str, key: str = "median", unit: float | None = 1.0) -> float | None:
        value = found.get((case.name, work), {}).get(key)
        return None if value is None or unit is None else value / unit

    def to_sort(case: Case, work: str) -> float | None:
        return figure(case, work, unit=figure(case, "torch.sort"))

    count = float(launches) if isinstance(launches, int) else None
    add("80 x 1,024, launches in forward", "2", count, lambda x: x == 2, "{:.0f}")
    for update in ONE_SIDED:
        long, short = to_sort(ONE_LONG, update), figure(MULTI_LABEL, f"forward {update}", unit=1e-6)
        many, cells = figure(RETRIEVAL, update, unit=1e-3), figure(FULL_BANDS, f"dp {update}", "cells a second")
        what = f"{ONE_LONG.name}, forward + backward, {update}"
        add(what, "<= 1.5 x torch.sort", long, lambda x: x <= 1.5, "{:.2f} x")
        add(f"80 x 1,024, forward, {update}", "<= 40 us", short, lambda x: x <= 40, "{:.1f} us")
        add(f"{RETRIEVAL.name}, {update}", "<= 0.6 ms", many, lambda x: x <= 0.6, "{:.3f} ms")
        add(f'{FULL_BANDS.name}, method="dp", {update}', ">= 1e11 cells/s", cells, lambda x: x >= 1e11, "{:.2e}")
    return verdicts

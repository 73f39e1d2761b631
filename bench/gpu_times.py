"""What the GPU gate times, and how: GPU time between two events, beside it the host's own time.

Everything between the events is queued before the first is reached, so that the host does not show. Between calls the
L2 cache is flushed. ``torch.sort`` of the same scores takes turns with the losses in the same process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.clock import Machine, quantiles
from bench.environment import is_installed, stand_in_for_installation

if not is_installed():
    stand_in_for_installation()

import fastap
from fastap.backends.triton.sort import sort_rows

SECONDS = 0.4  # of calls for one figure
REPEATS = (5, 100)


def losses(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Forward and backward."""
    leaf = scores.detach().requires_grad_()
    return torch.autograd.grad(fastap.direct_ap_loss(leaf, targets, **options), leaf)[0]


def forward(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    return fastap.direct_ap_loss(scores, targets, reduction="none", **options)


def float_sort(scores: Tensor, targets: Tensor) -> Tensor:
    return torch.sort(scores, dim=-1, descending=True)[1]


def key_sort(scores: Tensor, targets: Tensor, algorithm: str) -> Tensor:
    """The sort of the long path, of keys that are the bits of the scores."""
    return sort_rows(scores.view(torch.int32), algorithm)[1]


class Work(NamedTuple):
    """What is timed."""

    call: Callable[[Tensor, Tensor], Any]
    bytes: int  # that it must read and write at least, a float32 score with its bool target
    solves: tuple[str, str] | None = None  # update and method


WORKS = {
    "torch.sort": Work(float_sort, 4 + 4 + 8),
    "sort_rows torch": Work(partial(key_sort, algorithm="torch"), 4 + 4 + 4),
    "sort_rows triton": Work(partial(key_sort, algorithm="triton"), 4 + 4 + 4),
    "average_precision": Work(fastap.average_precision, 4 + 1),
    **{
        f"{prefix}{update}": Work(partial(call, update=update, **options), 4 + 1 + 4, solves)
        for update in ("positive", "negative")
        for prefix, call, options, solves in (
            ("", losses, {}, (update, "auto")),
            ("forward ", forward, {}, (update, "auto")),
            ("dp ", losses, {"method": "dp"}, (update, "dp")),
            ("torch backend ", losses, {"backend": "torch"}, None),
        )
    },
}
UPDATES = ("positive", "negative")
TORCH_BACKEND = ("torch backend positive", "torch backend negative")
SORTS = ("sort_rows torch", "sort_rows triton")


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


ONE_LONG = Case(1, 10_000, 1_000_000, ("torch.sort", *UPDATES, "average_precision", *SORTS, *TORCH_BACKEND))
MULTI_LABEL = Case(
    80, 100, 924, ("torch.sort", "forward positive", "forward negative", *UPDATES, "average_precision", *TORCH_BACKEND)
)
RETRIEVAL = Case(4096, 20, 980, ("torch.sort", *UPDATES, "average_precision", *TORCH_BACKEND))
FULL_BANDS = Case(1, 2_000, 200_000, ("torch.sort", "dp positive", "dp negative", *UPDATES))
MANY_LONG = Case(64, 6_553, 58_983, ("torch.sort", *SORTS, *UPDATES, "average_precision"))
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
    """float32 scores and bool targets: different scores in every copy, and other places of the positives."""
    from tests.problems import draw

    generator = torch.Generator(device).manual_seed(0)
    rng = np.random.default_rng(0)
    shape = (case.rankings, case.items)
    for _ in range(copies):
        if case.kind == "gaussian":
            places = torch.rand(shape, generator=generator, device=device).argsort(-1)
            targets = places < case.positives
            yield torch.randn(shape, generator=generator, device=device) + targets, targets
        else:
            drawn = [draw(rng, case.kind, case.positives, case.negatives) for _ in range(case.rankings)]
            scores = torch.from_numpy(np.stack([each for each, _ in drawn])).float()
            yield scores.to(device), torch.from_numpy(np.stack([each for _, each in drawn]) == 1).to(device)


class Stopwatch(Machine):
    """Times calls on a device, each with the L2 cache flushed."""

    def by_host(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Seconds until the call returns, and until its work is done."""
        self.flush()
        start = time.perf_counter()
        call()
        returned = time.perf_counter()
        self.wait()
        return returned - start, time.perf_counter() - start

    def by_device(self, call: Callable[[], Any], returns_within: float) -> float:
        """Seconds of GPU time; the GPU spins until everything is queued, so that it never waits for the host."""
        if not self.on_gpu:
            return self.by_host(call)[1]
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush()
        torch.cuda._sleep(int(min(2 * returns_within + 50e-6, 0.05) * 2e9))  # cycles, of 2 GHz
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def statistics_of(seconds: list[float]) -> dict[str, float]:
    return {**quantiles(seconds), "repeats": len(seconds)}


def time_work(
    work: Work, case: Case, inputs: list[tuple[Tensor, Tensor]], watch: Stopwatch, seconds: float = SECONDS
) -> dict[str, Any]:
    """Quantiles of the GPU time of one work, host time, peak memory, and bandwidth by the bytes it must move."""
    turns = itertools.cycle(inputs)

    def call() -> Any:
        return work.call(*next(turns))

    call()  # compiles
    peak = peak_bytes(call) if watch.on_gpu else None
    hosts = [watch.by_host(call) for _ in range(REPEATS[0])]
    host, wall = (float(np.median([each[number] for each in hosts])) for number in (0, 1))
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < REPEATS[0] or (len(taken) < REPEATS[1] and time.perf_counter() < until):
        taken.append(watch.by_device(call, host))
    scores = inputs[0][0].numel()
    figures: dict[str, Any] = {**statistics_of(taken), "host": host, "wall": wall}
    figures["GB/s"] = scores * work.bytes / figures["median"] / 1e9
    if peak is not None:
        figures["bytes a score"] = peak / scores
    if work.solves is not None and work.solves[1] == "dp":
        cells = case.rankings * case.positives * (case.negatives + 1)
        figures["cells a second"] = cells / figures["median"]
    return figures


def peak_bytes(call: Callable[[], Any]) -> int:
    """What a call takes at its peak, results and all."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def time_case(case: Case, device: torch.device, deadline: float, seconds: float = SECONDS) -> dict[str, Any]:
    """Figures of every work of a case, or what kept them from being taken."""
    figures: dict[str, Any] = {}
    result = {"case": case.name, **asdict(case), "works": figures}
    try:
        inputs = list(draw_inputs(case, device, 3))
        watch = Stopwatch(device.type)
    except Exception as error:
        figures.update({name: {"error": describe(error)} for name in case.works})
        return result
    for name in case.works:
        if time.monotonic() > deadline:
            figures[name] = {"error": "no time was left"}
            continue
        try:
            figures[name] = time_work(WORKS[name], case, inputs, watch, seconds)
        except Exception as error:
            figures[name] = {"error": describe(error)}
    return result


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

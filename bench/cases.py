"""One case of the suites: which scores are ranked, what is done with them, and how."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fastap
from bench import isolated
from bench.inputs import Inputs, Shape, shrink, stream
from fastap.backends import native
from fastap.types import UPDATES, Batch, Objective

LOSSES = (*UPDATES, "hinge", "perceptron")
WORKS = (*LOSSES, "metric")
# Of a process that weighs a call: ten million scores take 5 s, and one that hangs must not hang the suites.
WEIGHING_SECONDS = 120.0
DIRECTIONS = ("forward", "backward", "both")

Job = Callable[[], Any]  # what is timed, once everything is at hand
Prepare = Callable[[Tensor, Tensor], Job]


@dataclass(frozen=True)
class Case:
    """``work`` is a loss, or the metric; its gradient is a part of it unless ``direction`` says otherwise."""

    shape: Shape
    work: str = "positive"
    kind: str = "gaussian"
    epsilon: float = 1.0
    noise: float = 0.0
    samples: int = 1
    backend: str = "auto"
    method: str = "auto"
    dim: int = -1
    direction: str = "both"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def inputs(self, seed: int = 0) -> Inputs:
        """Fresh scores and targets without end, laid out so that ``dim`` is the ranked axis."""
        dtype = getattr(torch, self.dtype)
        for scores, targets in stream(self.shape, kind=self.kind, seed=seed, dtype=dtype, device=self.device):
            if self.dim == 0 and scores.dim() == 2:
                yield scores.t().contiguous(), targets.t().contiguous()
            else:
                yield scores, targets

    def forward(self, scores: Tensor, targets: Tensor, **changes: Any) -> Tensor:
        if self.work == "metric":
            return fastap.average_precision(scores, targets, dim=self.dim)
        noise = {"noise": self.noise, "samples": self.samples}
        options: dict[str, Any] = {"backend": self.backend, "dim": self.dim, **noise, **changes}
        if self.work == "perceptron":
            return fastap.ap_perceptron_loss(scores, targets, **options)
        options.setdefault("method", self.method)
        if self.work == "hinge":
            return fastap.ap_hinge_loss(scores, targets, margin=self.epsilon, **options)
        update: Any = self.work
        return fastap.direct_ap_loss(scores, targets, epsilon=self.epsilon, update=update, **options)

    def prepare(self, scores: Tensor, targets: Tensor) -> Job:
        """The call as a user makes it, gradient included; or one direction of it alone."""
        if self.work == "metric":
            return lambda: self.forward(scores, targets)
        leaf = scores.requires_grad_()
        if self.direction == "forward":
            return lambda: self.forward(leaf, targets)
        if self.direction == "backward":
            return self.forward(leaf, targets).backward
        return lambda: self.forward(leaf, targets).backward()

    def describe(self) -> dict[str, Any]:
        """What is kept of a case beside its times."""
        return {
            "work": self.work,
            "rankings": self.shape.rankings,
            "P": self.shape.positives,
            "N": self.shape.negatives,
            "kind": self.kind,
            "epsilon": self.epsilon,
            "noise": self.noise,
            "samples": self.samples,
            "dtype": self.dtype,
            "backend": self.backend,
            "method": self.method,
            "dim": self.dim,
            "threads": self.threads,
            "direction": "forward" if self.work == "metric" else self.direction,
        }


def peak_bytes(case: Case) -> int | None:
    """Peak memory of a call beyond its inputs and their gradient, in a process of its own; None where nothing tells."""
    outcome = isolated.run(_peak_bytes, case, seconds=WEIGHING_SECONDS, device=case.device)
    if outcome.status != "ok":
        raise RuntimeError(f"measuring memory {outcome.status}: {outcome.reason}")
    found: int | None = outcome.value
    return found


def _peak_bytes(case: Case) -> int | None:
    torch.set_num_threads(case.threads)
    small = replace(case, shape=shrink(case.shape, 40_000))
    found = None
    for each in (small, case):  # the first loads code and starts threads
        scores, targets = next(each.inputs())
        scores.grad = torch.zeros_like(scores)  # the gradient is the caller's
        found = isolated.peak_bytes(each.prepare(scores, targets), each.device)
    return found


def stage_seconds(case: Case, repeats: int = 5) -> dict[str, float]:
    """Medians of what the stages of the engine in C take of the case's direct loss, on one thread, by its own clock."""
    update: Any = case.work
    method: Any = case.method
    objective = Objective("direct", epsilon=case.epsilon, update=update, method=method)
    batches = itertools.islice(case.inputs(seed=2), repeats)
    found = [native.stage_seconds(Batch(scores, targets, None), objective) for scores, targets in batches]
    return {stage: statistics.median(each[stage] for each in found) for stage in found[0]}

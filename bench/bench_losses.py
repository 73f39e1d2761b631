"""The suites: what a loss or the metric costs, beside ``torch.sort`` of the same scores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import truth
from bench.cases import DIRECTIONS, LOSSES, WORKS, Case, Job
from bench.clock import seconds_on
from bench.conftest import Suite
from bench.inputs import Shape, with_ratio
from fastap import backends
from fastap.backends import native
from fastap.types import UPDATES
from tests.problems import ORDINARY

LONG = Shape(1, 1_000, 100_000)
MANY_POSITIVES = Shape(1, 10_000, 100_000)


def needs_engine(timed: Suite) -> None:
    if timed.device == "cuda":
        pytest.skip("the engine in C is for tensors of the CPU")
    if not native.IS_BUILT:
        pytest.skip("installed without a C compiler: there is no engine")


# Twice as dense where the exponent is fitted.
SIZES = (100, 1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("scores", [pytest.param(size, id=f"{size:.0e}".replace("e+0", "e")) for size in SIZES])
def test_growth(timed: Suite, scores: int, work: str) -> None:
    """100 to 10,000,000 scores in one ranking, a positive to a hundred negatives."""
    timed("growth", timed.case(with_ratio(scores), work=work), memory=True)


@pytest.mark.parametrize("work", ["positive", "negative", "hinge"])
@pytest.mark.parametrize("ratio", [1e-4, 1e-3, 1e-2, 1e-1, 1.0], ids="{:g}".format)
def test_balance(timed: Suite, ratio: float, work: str) -> None:
    """From a positive to ten thousand negatives to as many of both, 100,000 scores in one ranking."""
    timed("balance", timed.case(with_ratio(100_000, 1, round(1 / ratio)), work=work), memory=True)


BATCHES = {
    "multi-label": (Shape(80, 100, 924), 0),  # a batch of 1,024 examples, 80 classes
    "retrieval": (Shape(4096, 20, 980), -1),
    "detection": (Shape(1, 500, 199_500), -1),
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batches(timed: Suite, batch: str, work: str) -> None:
    shape, dim = BATCHES[batch]
    timed("batches", timed.case(shape, work=work, dim=dim), batch=batch)


def arranged(layout: str, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Scores and targets in that layout, and what else the call is given."""
    rankings, items = scores.shape
    if layout == "rows":
        return scores, targets, {}
    scores, targets = scores.reshape(-1), targets.reshape(-1)
    if layout == "offsets":
        return scores, targets, {"offsets": torch.arange(rankings + 1, device=scores.device) * items}
    order = torch.randperm(scores.numel(), generator=torch.Generator().manual_seed(0)).to(scores.device)
    return scores[order], targets[order], {"groups": order // items}


def prepare_layout(case: Case, layout: str, scores: Tensor, targets: Tensor) -> Job:
    """The call, gradient included; what arranges its inputs is not timed."""
    scores, targets, where = arranged(layout, scores, targets)
    leaf = scores.requires_grad_()
    return lambda: case.forward(leaf, targets, **where).backward()


def check_layout(layout: str, case: Case) -> str:
    """The rankings as rows against the dynamic program, and the layout against the rows."""
    said = truth.assert_right(case)
    scores, targets = next(case.inputs())
    flat, wanted, where = arranged(layout, scores, targets)
    given = case.forward(flat, wanted, reduction="none", **where)
    torch.testing.assert_close(given, case.forward(scores, targets, reduction="none"), rtol=1e-6, atol=1e-7)
    return f"{said}; as in rows"


@pytest.mark.parametrize("work", LOSSES)
@pytest.mark.parametrize("layout", ["rows", "offsets", "groups"])
def test_ragged(timed: Suite, layout: str, work: str) -> None:
    """Many short queries in one call: one a row, end to end with offsets, and mixed with an id an item."""
    case = timed.case(Shape(10_000, 2, 18), work=work)
    prepare, check = partial(prepare_layout, case, layout), partial(check_layout, layout)
    timed("ragged", case, prepare=prepare, check=check, layout=layout)


# As scores come, and as they are hard: in conflict with the order that is wanted.
KINDS = ("gaussian", *ORDINARY, "cauchy", "two-valued", "conflicting")
KIND_SIZES = (10_000, 100_000, 1_000_000)
# Positives to negatives; with as many of both only the negative update has rows in conflict that take long.
BALANCES = [
    ((1, 99), ("positive", "negative", "hinge")),
    ((1, 1), ("negative",)),
    ((9, 1), ("positive", "negative", "hinge")),
]
EPSILONS = (0.01, 0.1, 1.0, 10.0, 100.0)
CONFLICTS = tuple(0.3 * 10 ** (step / 4) for step in range(14))  # to 533: where rows are in conflict


def _kinds() -> Iterator[Any]:
    for ((positives, negatives), works), kind, scores in itertools.product(BALANCES, KINDS, KIND_SIZES):
        if kind == "conflicting" and positives >= negatives and scores > 100_000:
            continue  # some of its 112 calls take minutes
        for work in works:
            yield pytest.param(
                scores, positives, negatives, kind, work, id=f"{scores:,}-{positives}:{negatives}-{kind}-{work}"
            )


def at_its_slowest(case: Case) -> Case:
    """The case at the epsilon that takes longest; conflicts are tried on eight inputs."""
    epsilons, draws = (CONFLICTS, 8) if case.kind == "conflicting" else (EPSILONS, 1)
    seconds = dict.fromkeys(epsilons, 0.0)
    for scores, targets in itertools.islice(case.inputs(seed=3), draws):
        for epsilon in epsilons:
            job = replace(case, epsilon=epsilon).prepare(scores.detach(), targets)
            seconds[epsilon] = max(seconds[epsilon], min(seconds_on(torch.device(case.device), job) for _ in range(2)))
    return replace(case, epsilon=max(seconds, key=seconds.__getitem__))


@pytest.mark.parametrize(("scores", "positives", "negatives", "kind", "work"), _kinds())
def test_kinds(timed: Suite, scores: int, positives: int, negatives: int, kind: str, work: str) -> None:
    """How every kind of scores grows, at the epsilon that takes longest."""
    timed("kinds", at_its_slowest(timed.case(with_ratio(scores, positives, negatives), work=work, kind=kind)))


@cache
def _epsilon_of_updates(case: Case) -> float:
    return at_its_slowest(case).epsilon


def _updates() -> Iterator[Any]:
    for (positives, negatives), kind, scores, work in itertools.product(((1, 99), (1, 1)), KINDS, KIND_SIZES, UPDATES):
        if not (kind == "conflicting" and positives == negatives and scores > 100_000):
            case = f"{scores:,}-{positives}:{negatives}-{kind}-{work}"
            yield pytest.param(scores, positives, negatives, kind, work, id=case)


@pytest.mark.parametrize(("scores", "positives", "negatives", "kind", "work"), _updates())
def test_updates(timed: Suite, scores: int, positives: int, negatives: int, kind: str, work: str) -> None:
    """The symmetric update beside the two that it is the mean of, all at the epsilon at which it takes longest."""
    case = timed.case(with_ratio(scores, positives, negatives), work="symmetric", kind=kind)
    timed("updates", replace(case, work=work, epsilon=_epsilon_of_updates(case)))


NOISY = {
    "multi-label": (Shape(80, 100, 924), 0),
    "short": (Shape(1, 100, 900), -1),
    "middle": (Shape(1, 1_000, 99_000), -1),
    "long": (Shape(1, 10_000, 990_000), -1),
}


def without_noise(case: Case) -> str:
    """The same problem without noise against the dynamic program; that noise is added right is a test's business."""
    return truth.assert_right(replace(case, noise=0.0, samples=1)) + ", without noise"


@pytest.mark.parametrize("samples", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("batch", NOISY)
def test_noise(timed: Suite, batch: str, samples: int) -> None:
    """So many draws of noise; of 0 the loss without any."""
    shape, dim = NOISY[batch]
    noise = {"noise": 1.0, "samples": samples} if samples else {"samples": 1}
    case = timed.case(shape, work="symmetric", dim=dim, **noise)
    timed("noise", case, check=without_noise, memory=True, draws=samples, batch=batch)


@pytest.mark.parametrize("work", ["positive", "negative", "hinge"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 10.0], ids="{:g}".format)
def test_epsilon(timed: Suite, epsilon: float, work: str) -> None:
    """The weight of the task loss, from almost none to far above the scores' spread."""
    timed("epsilon", timed.case(MANY_POSITIVES, work=work, epsilon=epsilon))


@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("work", UPDATES)
@pytest.mark.parametrize("shape", [Shape(1, 100, 10_000), Shape(1, 1_000, 10_000)], ids=lambda shape: shape.positives)
def test_methods(timed: Suite, shape: Shape, work: str, method: str) -> None:
    """The search of ``method="auto"`` against the paper's dynamic program over all cells."""
    timed("methods", timed.case(shape, work=work, method=method))


BACKENDS = [("small", each) for each in ("auto", "native", "triton", "reference")]
BACKENDS += [("large", each) for each in ("auto", "native", "triton")]


@pytest.mark.parametrize("work", UPDATES)
@pytest.mark.parametrize(("size", "backend"), BACKENDS)
def test_backends(timed: Suite, size: str, backend: str, work: str) -> None:
    """The reference on a small problem only, since it fills the table."""
    if backend == "triton" and not (timed.device == "cuda" and backends.HAS_TRITON):
        pytest.skip("the Triton backend takes CUDA tensors: --device cuda")
    if backend == "native":
        needs_engine(timed)
    timed("backends", timed.case(Shape(1, 10, 1_000) if size == "small" else LONG, work=work, backend=backend))


@pytest.mark.parametrize("threads", sorted({1, 2, os.cpu_count() or 1}))
@pytest.mark.parametrize("work", UPDATES)
@pytest.mark.parametrize("shape", [Shape(1, 10_000, 1_000_000), Shape(1024, 20, 980)], ids=["long", "batch"])
def test_threads(timed: Suite, shape: Shape, work: str, threads: int) -> None:
    """What a second CPU thread is worth, and all of them."""
    if timed.device == "cuda":
        pytest.skip("on CUDA the CPU's threads do nothing")
    timed("threads", timed.case(shape, work=work, threads=threads))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("work", LOSSES)
def test_directions(timed: Suite, work: str, direction: str) -> None:
    """The forward computes the gradient too, where the order of the scores is at hand; the backward only scales it."""
    timed("directions", timed.case(LONG, work=work, direction=direction))

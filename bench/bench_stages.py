"""Every stage of a loss alone, and the whole, forward and backward."""

from __future__ import annotations

from functools import partial

import pytest

from bench import stages, truth
from bench.cases import Case
from bench.conftest import Suite
from bench.inputs import Shape
from fastap.backends import native

SHAPES = {
    "1000+10000": Shape(1, 1_000, 10_000),
    "1000+100000": Shape(1, 1_000, 100_000),
    "10000+1000000": Shape(1, 10_000, 1_000_000),
}
# The dynamic program's tables of the others have a hundred times the cells and more.
SOLVED = [(shape, method) for shape in SHAPES for method in ("auto", "dp") if method == "auto" or shape == "1000+10000"]


def names_of(backend: str, method: str) -> list[str]:
    return list({**stages.STAGES, **stages.REPORTED}[backend, method])


WHOLE = [(*each, backend, "whole") for each in SOLVED for backend in ("torch", "native")]
APART = [(*each, "torch", stage) for each in SOLVED for stage in names_of("torch", each[1])]
REPORTED = [(*each, "native", stage) for each in SOLVED for stage in names_of("native", each[1])]


@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize(("shape", "method", "backend", "stage"), [*APART, *WHOLE])
def test_stages(timed: Suite, shape: str, method: str, backend: str, stage: str, update: str) -> None:
    time_stage(timed, shape, method, backend, stage, update)


@pytest.mark.benchmark(timer=stages.reported)
@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize(("shape", "method", "backend", "stage"), REPORTED)
def test_reported_stages(timed: Suite, shape: str, method: str, backend: str, stage: str, update: str) -> None:
    """The times are those of stages within whole calls, as the backend says them."""
    time_stage(timed, shape, method, backend, stage, update)


def check(case: Case) -> str:
    return f"{truth.assert_right(case)}; {stages.assert_whole(case)}"


def time_stage(timed: Suite, shape: str, method: str, backend: str, stage: str, update: str) -> None:
    options = {}
    if backend == "native":
        if timed.device == "cuda":
            pytest.skip("the native backend is for tensors of the CPU")
        if not native.IS_BUILT:
            pytest.skip("installed without a C compiler: there is no native backend")
        options["threads"] = 1  # its stages are those of one thread, and so is the whole to which they add up
    case = timed.case(SHAPES[shape], work=update, backend=backend, method=method, **options)
    prepare = None if stage == "whole" else partial(stages.prepare, case, stage)
    group = f"{case.shape}, {update}, {backend}, {method}"
    timed("stages", group, case, prepare=prepare, check=check, work=stage, update=update)

"""Every stage of a loss alone, and the whole, forward and backward."""

from __future__ import annotations

from functools import partial

import pytest

from bench import stages, truth
from bench.conftest import Suite
from bench.inputs import Shape

SHAPES = {
    "1000+10000": Shape(1, 1_000, 10_000),
    "1000+100000": Shape(1, 1_000, 100_000),
    "10000+1000000": Shape(1, 10_000, 1_000_000),
}
CASES = [
    (shape, backend, method, stage)
    for shape in SHAPES
    for (backend, method), names in stages.STAGES.items()
    if method == "auto" or shape == "1000+10000"  # the table of the others has a hundred times the cells and more
    for stage in (*names, "whole")
]


@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize(("shape", "backend", "method", "stage"), CASES)
def test_stages(timed: Suite, shape: str, backend: str, method: str, stage: str, update: str) -> None:
    case = timed.case(SHAPES[shape], work=update, backend=backend, method=method)
    checked = f"{truth.assert_right(case)}; {stages.assert_whole(case)}"
    prepare = None if stage == "whole" else partial(stages.prepare, case, stage)
    timed(
        "stages", f"{case.shape}, {method}, {update}", case, prepare=prepare, checked=checked, work=stage, update=update
    )

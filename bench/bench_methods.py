"""The search of ``method="auto"`` against the paper's dynamic program over all cells."""

from __future__ import annotations

import pytest

from bench.conftest import Suite
from bench.inputs import Shape

SHAPES = {"100+10000": Shape(1, 100, 10_000), "1000+10000": Shape(1, 1_000, 10_000)}


@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("work", ["positive", "negative"])
@pytest.mark.parametrize("shape", SHAPES)
def test_methods(timed: Suite, shape: str, work: str, method: str) -> None:
    timed("methods", f"{SHAPES[shape]}, {work}", timed.case(SHAPES[shape], work=work, method=method))

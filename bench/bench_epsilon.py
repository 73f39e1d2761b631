"""The weight of the task loss, from almost none to far above the scores' spread."""

from __future__ import annotations

import pytest

from bench.conftest import Suite
from bench.inputs import Shape

SHAPE = Shape(1, 10_000, 100_000)


@pytest.mark.parametrize("work", ["positive", "negative", "hinge"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 10.0], ids="{:g}".format)
def test_epsilon(timed: Suite, epsilon: float, work: str) -> None:
    timed("epsilon", f"{work}", timed.case(SHAPE, work=work, epsilon=epsilon))

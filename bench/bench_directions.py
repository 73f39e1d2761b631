"""Forward and backward apart, and together.

The forward computes the gradient too, where the order of the scores is at hand; the backward only scales it.
"""

from __future__ import annotations

import pytest

from bench.cases import DIRECTIONS, LOSSES
from bench.conftest import Suite
from bench.inputs import Shape

SHAPE = Shape(1, 1_000, 100_000)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("work", LOSSES)
def test_directions(timed: Suite, work: str, direction: str) -> None:
    timed("directions", work, timed.case(SHAPE, work=work, direction=direction))

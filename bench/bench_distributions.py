"""Scores that have been hard: tied, clustered, saturated, with long tails, in conflict with the order wanted."""

from __future__ import annotations

import pytest

from bench.conftest import Suite
from bench.inputs import Shape
from tests.problems import KINDS

SHAPE = Shape(1, 10_000, 100_000)


@pytest.mark.parametrize("work", ["positive", "negative"])
@pytest.mark.parametrize("kind", KINDS)
def test_distributions(timed: Suite, kind: str, work: str) -> None:
    timed("distributions", kind, timed.case(SHAPE, work=work, kind=kind))

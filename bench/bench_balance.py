"""From a positive to ten thousand negatives to as many of both, 100,000 scores in one ranking."""

from __future__ import annotations

import pytest

from bench.cases import with_ratio
from bench.conftest import Suite

SCORES = 100_000


@pytest.mark.parametrize("work", ["positive", "negative", "hinge"])
@pytest.mark.parametrize("ratio", [1e-4, 1e-3, 1e-2, 1e-1, 1.0], ids="{:g}".format)
def test_balance(timed: Suite, ratio: float, work: str) -> None:
    case = timed.case(with_ratio(SCORES, 1, round(1 / ratio)), work=work)
    timed("balance", f"P/N = {ratio:g}", case, memory=True)

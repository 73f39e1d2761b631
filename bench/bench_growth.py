"""How cost grows: 100 to 10,000,000 scores in one ranking, a positive to a hundred negatives."""

from __future__ import annotations

import pytest

from bench.cases import WORKS, with_ratio
from bench.conftest import Suite

# Twice as dense where the exponent is fitted.
SIZES = (100, 1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("scores", [pytest.param(size, id=f"{size:.0e}".replace("e+0", "e")) for size in SIZES])
def test_growth(timed: Suite, scores: int, work: str) -> None:
    case = timed.case(with_ratio(scores), work=work)
    timed("growth", f"{scores:,} scores", case, memory=True)

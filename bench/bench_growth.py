"""How cost grows: 100 to 10,000,000 scores in one ranking, a positive to a hundred negatives."""

from __future__ import annotations

import pytest

from bench.cases import WORKS, with_ratio
from bench.conftest import Suite

SIZES = tuple(10**power for power in range(2, 8))


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("scores", [pytest.param(size, id=f"1e{len(str(size)) - 1}") for size in SIZES])
def test_growth(timed: Suite, scores: int, work: str) -> None:
    case = timed.case(with_ratio(scores), work=work)
    timed("growth", f"{scores:,} scores", case, memory=True)

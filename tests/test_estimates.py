"""The committed cost table is what the kernels cost, by the emulated GPU."""

from __future__ import annotations

import pytest
import triton

from bench import estimates, store
from bench.environment import RESULTS
from emulator import compiler
from tests.kernels import often

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

(STORED,) = (result for result in store.newest(RESULTS) if result.kind == "estimates")
# Of what is counted, and of the times derived from it; the inputs are the same, the compiler may not be.
TOLERANCE = 0.03
NAMES = [f"{each.case.shape}, {each.case.work}" for each in estimates.SMALL]


@pytest.mark.parametrize("number", often(1, full=[0, 2]))
def test_the_committed_costs_are_those_of_the_kernels(number: int) -> None:
    """Otherwise run ``python -m bench.estimates --out bench/results`` and ``python -m bench.page``, and say why."""
    if triton.__version__ != STORED.about["versions"]["triton"]:
        pytest.skip(f"the table is of Triton {STORED.about['versions']['triton']}")
    for row in estimates.measure(estimates.SMALL[number]):
        (stored,) = (
            each
            for each in STORED.rows
            if all(each[key] == row[key] for key in ("work", "rankings", "P", "N", "kind", "epsilon", "kernel"))
        )
        for key, value in row.items():
            wanted = stored[key] if isinstance(value, str) else pytest.approx(stored[key], rel=TOLERANCE, abs=1e-9)
            assert value == wanted, f"{row['kernel']}: {key}"


def test_a_slice_stands_for_the_batch() -> None:
    """Counts of a few rankings, scaled up, are those of all."""
    some, every = (estimates.measure(estimates._workload(12, 5, 95, runs, work="positive"))[-1] for runs in (6, 12))
    assert some["launches"] == every["launches"]
    assert some["instructions"] == pytest.approx(every["instructions"], rel=0.1)

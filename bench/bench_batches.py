"""Batches as they come: multi-label classification (ranked along the batch), retrieval, detection."""

from __future__ import annotations

import pytest

from bench.cases import WORKS
from bench.conftest import Suite
from bench.inputs import Shape

BATCHES = {
    "multi-label": (Shape(80, 100, 924), 0),  # a batch of 1,024 examples, 80 classes
    "retrieval": (Shape(4096, 20, 980), -1),
    "detection": (Shape(1, 500, 199_500), -1),
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batches(timed: Suite, batch: str, work: str) -> None:
    shape, dim = BATCHES[batch]
    timed("batches", f"{batch}, {shape}", timed.case(shape, work=work, dim=dim), batch=batch)

"""What a second CPU thread is worth, and all of them."""

from __future__ import annotations

import os

import pytest

from bench.conftest import Suite
from bench.inputs import Shape

SHAPES = {"long": Shape(1, 10_000, 1_000_000), "batch": Shape(1024, 20, 980)}
THREADS = sorted({1, 2, os.cpu_count() or 1})


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("work", ["positive", "negative"])
@pytest.mark.parametrize("batch", SHAPES)
def test_threads(timed: Suite, batch: str, work: str, threads: int) -> None:
    if timed.device == "cuda":
        pytest.skip("on CUDA the CPU's threads do nothing")
    timed("threads", f"{SHAPES[batch]}, {work}", timed.case(SHAPES[batch], work=work, threads=threads))

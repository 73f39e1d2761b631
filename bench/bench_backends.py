"""The backends side by side; the reference on a small problem only, since it fills the table."""

from __future__ import annotations

import pytest

from bench.conftest import Suite
from bench.inputs import Shape
from fastap import backends
from fastap.backends import native

SMALL, LARGE = Shape(1, 10, 1_000), Shape(1, 1_000, 100_000)
CASES = [("small", each) for each in ("auto", "native", "torch", "triton", "reference")]
CASES += [("large", each) for each in ("auto", "native", "torch", "triton")]


@pytest.mark.parametrize("work", ["positive", "negative"])
@pytest.mark.parametrize(("size", "backend"), CASES)
def test_backends(timed: Suite, size: str, backend: str, work: str) -> None:
    if backend == "triton" and timed.device != "cuda":
        pytest.skip("the Triton backend takes CUDA tensors: --device cuda")
    if backend == "triton" and not backends.HAS_TRITON:
        pytest.skip("Triton is not installed")
    if backend == "native" and timed.device == "cuda":
        pytest.skip("the native backend is for tensors of the CPU")
    if backend == "native" and not native.IS_BUILT:
        pytest.skip("installed without a C compiler: there is no native backend")
    shape = SMALL if size == "small" else LARGE
    timed("backends", f"{shape}, {work}", timed.case(shape, work=work, backend=backend))

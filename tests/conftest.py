from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.losses import LOSSES, Loss
from tests.paths import PATHS, solving


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on each path of the CPU."""
    with solving(request.param):
        yield request.param


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    """Each of the losses, under one signature."""
    return LOSSES[request.param]


@pytest.fixture
def gpu() -> Iterator[object]:
    """A GPU, or an emulated one, on which the test must leave no fault."""
    from tests import kernels  # imports Triton, which takes a second

    with kernels.gpu() as device:
        yield device

from __future__ import annotations

import os

import torch

# Triton reads this when it is imported, and PyTorch alone does not import it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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

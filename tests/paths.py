"""The ways to a loss on the CPU, for tests to choose from: the engine, and where it is not built the reference.

The kernels of the Triton backend get tiles so small that a few dozen items fill several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from fastap.backends import native

# That the engine is built where there is a compiler is a test of its own.
PATHS = ("native",) if native.IS_BUILT else ("reference",)
TRITON_PATHS = ("triton-short", "triton-long")


def backend_of(path: str) -> str:
    """The backend whose path this is."""
    return "triton" if path in TRITON_PATHS else "auto"


@contextmanager
def solving(path: str) -> Iterator[None]:
    """Inside, every loss is taken on this path whatever its size; ``"auto"`` leaves the choice to the library.

    Of the Triton backend, rankings and float64 scores have one path only.
    """
    if path in TRITON_PATHS:
        from fastap.backends import triton
        from tests.kernels import gpu, small_short_launch, small_tiled_launch

        def launch(rankings: int, items: int, dtype: torch.dtype, architecture: str) -> object:
            long = path == "triton-long" or dtype == torch.float64
            return small_tiled_launch() if long else small_short_launch(items)

        with gpu(), mock.patch.object(triton, "launch_for", launch):
            yield
    else:
        yield

"""What tests of Triton kernels share. Without a GPU they run in Triton's interpreter: see ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from fastap.backends import INTERPRETS_TRITON
from fastap.backends.triton.launch import RaggedLaunch, ShortLaunch, TiledLaunch, Tiles, Waves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# In masked lanes NumPy divides by zero and subtracts infinities, as a GPU does without a word.
quiet = [
    pytest.mark.filterwarnings(f"ignore:{words}:RuntimeWarning")
    for words in ("invalid value", "divide by zero", "overflow")
]


def often(*first: Any, full: Iterable[Any]) -> list[Any]:
    """Parameters of a test, of which ``make test`` takes the first ones only."""
    return [
        *first,
        *(pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.full) for each in full),
    ]


interpreted = pytest.mark.skipif(DEVICE != "cpu", reason="for Triton's interpreter")

# One row a thread, of which a warp has 32.
TILE = 16 if DEVICE == "cpu" else 32
TILES = Tiles(rows=TILE, search_rows=4, pieces=8, columns=TILE, num_warps=1, max_registers=None)

# Odd, large, and in another place than any test would look for.
_POISON = 0x5A5A5A5B


def _mend_interpreter() -> None:
    """Loops to a bound that is an argument: Triton 3.6 makes an int of an array of one element, NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend


if INTERPRETS_TRITON:
    _mend_interpreter()


def small_short_launch(items: int) -> ShortLaunch:
    """One program a ranking, which goes through its rows in small tiles."""
    return ShortLaunch(max(TILE, 1 << (items - 1).bit_length()), 2 * TILE, TILES)


def small_tiled_launch() -> TiledLaunch:
    """Several programs a ranking of a few dozen items, and several tiles to add up at a time."""
    return TiledLaunch(TILE, 2, TILE, 2, TILES, 1, Waves(2, (2, 1), TILE, 1, None))


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, ``torch.empty`` comes full of NaN, or of a large odd number: what nobody wrote shows."""
    empty = torch.empty

    def filled(*args: Any, **options: Any) -> Tensor:
        memory = empty(*args, **options)
        if memory.dtype == torch.bool:
            return memory.fill_(True)
        if memory.is_floating_point():
            return memory.fill_(float("nan"))
        return memory.fill_(_POISON & torch.iinfo(memory.dtype).max)

    with mock.patch.object(torch, "empty", filled):
        yield


@contextmanager
def few_programs(programs: int = 3) -> Iterator[None]:
    """Ragged rankings in small tiles, memory full of NaN, and at most so many programs."""
    from fastap.backends import triton

    def launch(rankings: int, items: int, architecture: str) -> RaggedLaunch:
        return RaggedLaunch(TILE, 1, TILE, min(rankings, programs), TILES)

    with mock.patch.object(triton, "ragged_launch", launch), poisoned():
        yield

"""What tests of Triton kernels share. Without a GPU they run on an emulated one: see :mod:`emulator`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from triton.runtime import driver

from emulator import Device, compiler
from fastap.backends.triton import plan
from fastap.backends.triton.launch import RaggedLaunch, ShortLaunch, ShortSort, TiledLaunch, Tiles, Waves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WITHOUT_A_GPU = "needs a CUDA device, or a C compiler to emulate one"

# One row a thread, of which a warp has 32.
TILE = 32
TILES = Tiles(rows=TILE, search_rows=4, pieces=8, columns=TILE, num_warps=1, max_registers=None)

# Odd, large, and in another place than any test would look for.
_POISON = 0x5A5A5A5B


def often(*first: Any, full: Iterable[Any]) -> list[Any]:
    """Parameters of a test, of which ``make test`` takes the first ones only."""
    return [
        *first,
        *(pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.full) for each in full),
    ]


def emulated() -> Device | None:
    """The emulated GPU that is active, if it is one."""
    return driver._active if isinstance(driver._active, Device) else None


@contextmanager
def gpu(**options: Any) -> Iterator[Device | None]:
    """Inside, kernels run: on a GPU, or on an emulated one, with these options, which must find nothing wrong."""
    if DEVICE == "cuda":
        yield None
        return
    active = emulated()
    if active and not options:
        yield active
        return
    if compiler() is None:
        pytest.skip(WITHOUT_A_GPU)
    with Device(**options) as device:
        yield device
    assert not device.faults, "\n".join(str(finding) for finding in device.faults)


def small_short_launch(items: int) -> ShortLaunch:
    """One program a ranking, which goes through its rows in small tiles."""
    size = max(TILE, 1 << (items - 1).bit_length())
    return ShortLaunch(ShortSort(size, size // TILE, 1), 2 * TILE, TILES)


def small_tiled_launch() -> TiledLaunch:
    """Several programs a ranking of a few dozen items, and several tiles to add up at a time."""
    return TiledLaunch(TILE, 2, TILE, 2, 4, TILES, 3, TILES, TILES, 1, Waves(2, (2, 1), TILE, 1, None))


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, new memory comes full of NaN, or of a large odd number: what nobody wrote shows."""
    if emulated():  # which poisons memory itself, and knows who writes it
        yield
        return

    def filled(*args: Any, allocate: Callable[..., Tensor] = torch.empty, **options: Any) -> Tensor:
        memory = allocate(*args, **options)
        if memory.dtype == torch.bool:
            return memory.fill_(True)
        if memory.is_floating_point():
            return memory.fill_(float("nan"))
        return memory.fill_(_POISON & torch.iinfo(memory.dtype).max)

    new_memory = partial(filled, allocate=plan.new_memory)
    with mock.patch.object(torch, "empty", filled), mock.patch.object(plan, "new_memory", new_memory):
        yield


@contextmanager
def few_programs(programs: int = 3) -> Iterator[None]:
    """Ragged rankings in small tiles, memory full of NaN, and at most so many programs."""
    from fastap.backends import triton

    def launch(rankings: int, items: int, architecture: str) -> RaggedLaunch:
        return RaggedLaunch(TILE, 1, TILE, min(rankings, programs), TILES)

    with mock.patch.object(triton, "ragged_launch", launch), poisoned():
        yield

"""Stable ascending sort of long rows of integers: PyTorch's own, or the radix sort of ``kernels/sort.py``.

Nothing here waits for the device: sizes come from shapes, every pass is made whatever the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from fastap.backends.triton.bound import start
from fastap.kernels import sort

# Two programs to each of the 132 multiprocessors of an H100 or H200.
_PROGRAMS = 264


def choose_algorithm(rows: int, items: int, dtype: torch.dtype) -> str:
    """``"torch"`` or ``"triton"``, whichever sorts such keys faster."""
    # Neither has been timed on a GPU yet. Until `python -m bench.gpu` has measured both, PyTorch's (CUB) is taken.
    return "torch"


def sort_rows(keys: Tensor, algorithm: str) -> tuple[Tensor, Tensor]:
    """``torch.sort(keys, dim=-1, stable=True)`` with an int32 index.

    ``keys`` are (rows, items), contiguous, int32 or int64, with less than 2**31 items, on the current device.
    """
    if algorithm == "torch":
        ordered, index = torch.sort(keys, dim=-1, stable=True)
        return ordered, index.to(torch.int32)
    if algorithm != "triton":
        raise ValueError(f"no such sort: {algorithm!r}")
    rows, items = keys.shape
    return radix_sort(keys, radix_launch(rows, items, keys.dtype))


@dataclass(frozen=True)
class RadixLaunch:
    """How :func:`radix_sort` cuts its work."""

    digit_bits: int
    passes: int
    tile: int  # items a program counts or moves
    num_warps: int
    scan_tiles: int  # tiles and digits that a program of the scan holds at a time
    scan_digits: int
    scan_warps: int

    @property
    def digits(self) -> int:
        return 1 << self.digit_bits

    @property
    def per_thread(self) -> int:
        """Items a thread of 32-thread warps holds."""
        return max(self.tile // (32 * self.num_warps), 1)


def radix_launch(rows: int, items: int, dtype: torch.dtype) -> RadixLaunch:
    """The launch for keys of that shape and type."""
    digit_bits = 8
    # Items of a digit leave a large tile in longer runs; small ones reach every multiprocessor with little work.
    tile, num_warps = (2048, 4) if rows * triton.cdiv(items, 2048) >= _PROGRAMS else (512, 2)
    # 8 digits are one sector of memory. The widths keep a thread to 16 counts and 128 registers.
    n_tiles = triton.cdiv(items, tile)
    scan_tiles, scan_warps = (16, 1) if n_tiles <= 16 else (128, 4) if n_tiles <= 128 else (1024, 16)
    return RadixLaunch(
        digit_bits=digit_bits,
        passes=triton.cdiv(torch.iinfo(dtype).bits, digit_bits),
        tile=tile,
        num_warps=num_warps,
        scan_tiles=scan_tiles,
        scan_digits=8,
        scan_warps=scan_warps,
    )


def radix_sort(keys: Tensor, launch: RadixLaunch) -> tuple[Tensor, Tensor]:
    """:func:`sort_rows` in Triton: three launches a pass, and one more pair of keys and index as work space."""
    rows, n_items = keys.shape
    n_tiles = triton.cdiv(n_items, launch.tile)
    digits = launch.digits

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=keys.device)

    pairs = [(empty(keys.dtype, rows, n_items), empty(torch.int32, rows, n_items)) for _ in range(2)]
    if keys.numel() == 0:
        return pairs[0]
    table, totals = empty(torch.int32, rows, n_tiles, digits), empty(torch.int32, rows, digits)
    source, index = keys, pairs[0][1]  # the first pass makes the index and reads none
    for number in range(launch.passes):
        is_last = number == launch.passes - 1
        shift, flip = number * launch.digit_bits, digits // 2 if is_last else 0
        start(
            sort.count_digits, rows * n_tiles,
            source,
            table,
            n_items, n_tiles, shift, flip,
            TILE=launch.tile, DIGITS=digits, num_warps=launch.num_warps,
        )  # fmt: skip
        start(
            sort.scan_tiles, rows * digits // launch.scan_digits,
            table,
            totals,
            n_tiles,
            DIGITS=digits, BLOCK_T=launch.scan_tiles, BLOCK_D=launch.scan_digits, num_warps=launch.scan_warps,
        )  # fmt: skip
        out_keys, out_index = pairs[number % 2]
        start(
            sort.scatter, rows * n_tiles,
            source, index, table, totals,
            out_keys, out_index,
            n_items, n_tiles, shift, flip,
            FIRST=number == 0, TILE=launch.tile, DIGITS=digits, PER_THREAD=launch.per_thread,
            num_warps=launch.num_warps,
        )  # fmt: skip
        source, index = out_keys, out_index
    return source, index

"""The radix sort: each kernel against a sum or a sort of PyTorch, and all of it against ``torch.sort``."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import triton
from fastap.kernels import sort as kernels
from torch import Tensor

from fastap.backends.triton import sort
from fastap.backends.triton.sort import RadixLaunch, radix_launch, radix_sort, sort_rows
from tests.kernel_batches import memory
from tests.kernels import DEVICE, often, poisoned

pytestmark = pytest.mark.usefixtures("gpu")
DTYPES = [torch.int32, torch.int64]
TILE = 16
SHAPES = [(torch.int32, 2, 33), (torch.int64, 1, 33)]
MORE = [(torch.int32, *shape) for shape in [(1, 1), (3, 7), (2, 16), (1, 129)]]


def small(dtype: torch.dtype, **changes: int) -> RadixLaunch:
    """The library's launch with tiles of 16, and a scan that takes two steps from 5 tiles on."""
    launch = replace(radix_launch(1, 1, dtype), tile=TILE, num_warps=1, scan_tiles=4, scan_warps=1, **changes)
    return replace(launch, scan_digits=launch.digits // 4)


def random_keys(rows: int, items: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Keys of all magnitudes and both signs."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.iinfo(dtype)
    keys = torch.randint(limits.min, limits.max, (rows, items), dtype=dtype, generator=generator)
    magnitude = torch.randint(limits.bits, (rows, items), generator=generator)
    return (keys >> magnitude.to(dtype)).to(DEVICE)


def assert_sorted_as_torch_does(keys: Tensor, launch: RadixLaunch) -> None:
    before = keys.clone()
    with poisoned():
        ordered, index = radix_sort(keys, launch)
    expected, expected_index = torch.sort(keys, dim=-1, stable=True)
    assert (ordered.dtype, index.dtype) == (keys.dtype, torch.int32)
    assert torch.equal(ordered, expected)
    assert torch.equal(index.long(), expected_index)
    assert torch.equal(keys, before)


def digit_of(keys: Tensor, shift: int, flip: int, digits: int) -> Tensor:
    return ((keys >> shift) & (digits - 1)) ^ flip


def counts_of(keys: Tensor, shift: int, flip: int, digits: int) -> Tensor:
    """Of every tile, (rows, tiles, digits)."""
    digit = digit_of(keys, shift, flip, digits).cpu()
    tiles = [[torch.bincount(tile, minlength=digits) for tile in row.split(TILE)] for row in digit]
    return torch.stack([torch.stack(row) for row in tiles]).int().to(DEVICE)


# (shift, flip): the first digit, one within, the last of an int32 with its sign, and one that reaches beyond it.
DIGITS_32 = [(0, 0, 256), (11, 0, 64), (24, 128, 256), (28, 64, 128)]
# Beyond 32 bits, and the sign of an int64.
DIGITS_64 = [(0, 0, 256), (40, 0, 256), (56, 128, 256)]
PASSES = [(torch.int32, *case) for case in DIGITS_32] + [(torch.int64, *case) for case in DIGITS_64]


@pytest.mark.parametrize("items", often(37, full=[1, 16]))
@pytest.mark.parametrize(("dtype", "shift", "flip", "digits"), often(*PASSES[2::4], full=PASSES[:2] + PASSES[3:6]))
def test_digits_are_counted_and_items_scattered(
    dtype: torch.dtype, shift: int, flip: int, digits: int, items: int
) -> None:
    keys = random_keys(2, items, dtype)
    n_tiles = triton.cdiv(items, TILE)
    sizes = items, n_tiles, shift, flip
    table = memory(2, n_tiles, digits, dtype=torch.int32)
    kernels.count_digits[(2 * n_tiles,)](keys, table, *sizes, TILE=TILE, DIGITS=digits, num_warps=1)
    counts = counts_of(keys, shift, flip, digits)
    assert torch.equal(table, counts)

    before = (counts.cumsum(1) - counts).int()
    index = torch.randperm(2 * items, device=DEVICE).view(2, items).to(torch.int32)
    place = digit_of(keys, shift, flip, digits).argsort(stable=True)
    for first in (True, False):
        ordered, moved = memory(2, items, dtype=dtype), memory(2, items, dtype=torch.int32)
        kernels.scatter[(2 * n_tiles,)](
            keys, index, before, counts.sum(1, dtype=torch.int32), ordered, moved, *sizes,
            FIRST=first, TILE=TILE, DIGITS=digits, PER_THREAD=1 if first else 4, num_warps=1,
        )  # fmt: skip
        assert torch.equal(ordered, keys.gather(1, place))
        assert torch.equal(moved, place.int() if first else index.gather(1, place))


@pytest.mark.parametrize(("block_t", "block_d"), often((4, 16), full=[(16, 8), (2, 1)]))
@pytest.mark.parametrize("n_tiles", often(9, full=[1, 4]))
def test_tiles_are_scanned(n_tiles: int, block_t: int, block_d: int) -> None:
    counts = torch.randint(0, 1 << 20, (3, n_tiles, 16), dtype=torch.int32, device=DEVICE)
    table, totals = counts.clone(), memory(3, 16, dtype=torch.int32)
    kernels.scan_tiles[(3 * 16 // block_d,)](
        table, totals, n_tiles, DIGITS=16, BLOCK_T=block_t, BLOCK_D=block_d, num_warps=1
    )
    assert torch.equal(table.long(), counts.cumsum(1) - counts)
    assert torch.equal(totals.long(), counts.sum(1))


@pytest.mark.parametrize(("dtype", "rows", "items"), often(*SHAPES, full=MORE))
def test_rows_are_sorted(dtype: torch.dtype, rows: int, items: int) -> None:
    assert_sorted_as_torch_does(random_keys(rows, items, dtype), small(dtype))


@pytest.mark.parametrize("dtype", often(torch.int32, full=[torch.int64]))
def test_equal_keys_keep_their_order(dtype: torch.dtype) -> None:
    few = torch.randint(-2, 2, (2, 21), dtype=dtype, device=DEVICE)
    few[1] = -5
    assert_sorted_as_torch_does(few, small(dtype))


@pytest.mark.parametrize("dtype", often(torch.int64, full=[torch.int32]))
def test_extreme_keys(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    half = 1 << limits.bits // 2
    values = [*range(-3, 4), limits.max, limits.min, limits.min + 1, limits.max - 1, half, half - 1, -half, -half - 1]
    ends = [limits.max] * len(values) + [limits.min] * len(values)
    keys = torch.tensor([values * 2, ends], dtype=dtype, device=DEVICE)
    assert_sorted_as_torch_does(keys, small(dtype))


@pytest.mark.full
@pytest.mark.parametrize(("digit_bits", "passes"), [(7, 5), (6, 6), (11, 3)])
def test_digits_of_other_widths(digit_bits: int, passes: int) -> None:
    """Odd numbers of passes, and last digits that reach beyond the key."""
    launch = small(torch.int32, digit_bits=digit_bits, passes=passes)
    assert_sorted_as_torch_does(random_keys(1, 40, torch.int32), launch)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
@pytest.mark.parametrize("algorithm", ["torch", "triton"])
def test_nothing_to_sort(shape: tuple[int, int], algorithm: str) -> None:
    ordered, index = sort_rows(torch.zeros(shape, dtype=torch.int64, device=DEVICE), algorithm)
    assert (ordered.shape, ordered.dtype) == (shape, torch.int64)
    assert (index.shape, index.dtype) == (shape, torch.int32)


@pytest.mark.parametrize("algorithm", often("torch", full=["triton"]))
def test_either_algorithm(algorithm: str) -> None:
    keys = random_keys(1, 33, torch.int32).remainder(7)
    with poisoned():
        ordered, index = sort_rows(keys, algorithm)
    expected, expected_index = torch.sort(keys, dim=-1, stable=True)
    assert torch.equal(ordered, expected)
    assert torch.equal(index, expected_index.int())


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="bubble"):
        sort_rows(torch.zeros((1, 1), dtype=torch.int32), "bubble")


def test_launches_cover_the_key_and_the_machine() -> None:
    for rows, items, dtype in itertools.product([1, 3, 4096], [1, 1000, 100_000, 10_000_000], DTYPES):
        launch = radix_launch(rows, items, dtype)
        bits = torch.iinfo(dtype).bits
        assert bits <= launch.passes * launch.digit_bits < bits + launch.digit_bits
        # The sort in the scatter packs a digit, or one past the last, with a place in the tile; blocks divide evenly.
        assert (launch.digits + 1) * launch.tile < 1 << 31
        assert launch.digits % launch.scan_digits == 0
        assert launch.per_thread * 32 * launch.num_warps == launch.tile
        # A thread's registers hold its share: no spills were seen up to here (ahead of time, sm_80 to sm_100).
        assert launch.per_thread <= 16
        assert launch.scan_tiles * launch.scan_digits <= 16 * 32 * launch.scan_warps
        # Large tiles only where they leave no multiprocessor idle.
        assert launch.tile == 512 or rows * triton.cdiv(items, launch.tile) >= sort._PROGRAMS

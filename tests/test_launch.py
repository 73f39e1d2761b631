"""The launch as a function of shapes, and where kernels look for the items of tensors that they get uncopied."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastap.backends.triton.inputs import Inputs, inputs_of
from fastap.backends.triton.launch import (
    MOST_ITEMS,
    MOST_PROGRAMS,
    MOST_SHORT_ITEMS,
    SHORT_ITEMS,
    ShortLaunch,
    TiledLaunch,
    launch_for,
    short_items,
)
from fastap.types import Batch

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REGISTERS = 65536  # of a multiprocessor: what one program can have

sizes = st.one_of(st.integers(1, 2 * MOST_SHORT_ITEMS), st.integers(1, MOST_ITEMS))


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@given(sizes, sizes, st.sampled_from(DTYPES), st.sampled_from(ARCHITECTURES))
def test_every_shape_has_a_launch_that_fits(rankings: int, items: int, dtype: torch.dtype, architecture: str) -> None:
    launch = launch_for(rankings, items, dtype, architecture)
    tiles = launch.tiles
    threads = tiles.num_warps * (64 if architecture == "gfx942" else 32)
    assert all(map(is_power_of_two, (tiles.rows, tiles.search_rows, tiles.pieces, tiles.columns)))
    assert is_power_of_two(tiles.num_warps)
    # With fewer, threads would hold the same row or column, and each write it.
    assert min(tiles.rows, tiles.columns) >= threads
    if architecture.startswith("sm_"):
        assert tiles.max_registers is not None
        assert tiles.max_registers <= 255
        assert tiles.max_registers * threads <= REGISTERS
    else:
        assert tiles.max_registers is None
    if isinstance(launch, ShortLaunch):
        assert is_power_of_two(launch.written)
        assert dtype != torch.float64
        sort = launch.sort
        assert is_power_of_two(sort.items)
        assert items <= sort.items <= MOST_SHORT_ITEMS
        # Whatever the type, a sort key of 32 bits has room for the place beside half of a score and the class.
        assert sort.items <= 2**13
        assert sort.per_thread * sort.num_warps * (threads // tiles.num_warps) >= sort.items
    else:
        assert isinstance(launch, TiledLaunch)
        assert is_power_of_two(launch.items)
        assert is_power_of_two(launch.scan)
        assert is_power_of_two(launch.num_warps)
        assert is_power_of_two(launch.chunk)
        # Each is kept within what a multiprocessor has of registers.
        for each in (launch.single, launch.wide):
            assert (each.max_registers or 0) * each.num_warps * 32 <= REGISTERS
        if launch.waves is not None:
            waves = launch.waves
            assert is_power_of_two(waves.columns)
            # A checkpoint between segments has a plane of work space, and the choice and the waves have two.
            assert waves.segments - 1 + 2 <= 6
            assert (waves.max_registers or 0) * waves.num_warps * 32 <= REGISTERS
            assert waves.columns >= waves.num_warps * (64 if architecture == "gfx942" else 32)
        # What is launched over all rankings stays a grid that a GPU takes.
        assert rankings * launch.programs(items, 1) < rankings + MOST_PROGRAMS


def test_short_rows_are_padded_to_the_next_size() -> None:
    assert tuple(sorted(SHORT_ITEMS)) == SHORT_ITEMS
    for size, smaller in pairwise(SHORT_ITEMS[::-1]):
        assert (short_items(size), short_items(smaller + 1)) == (size, size)


@pytest.mark.parametrize(
    ("items", "dtype", "kind"),
    [
        (1, torch.float32, ShortLaunch),
        (MOST_SHORT_ITEMS, torch.bfloat16, ShortLaunch),
        (MOST_SHORT_ITEMS + 1, torch.float32, TiledLaunch),
        (1, torch.float64, TiledLaunch),  # a sort key of 64 bits has no room for an index
    ],
)
def test_which_path(items: int, dtype: torch.dtype, kind: type) -> None:
    assert isinstance(launch_for(7, items, dtype, "sm_90"), kind)


def test_launches_are_values() -> None:
    assert launch_for(3, 9999, torch.float32, "sm_90") == launch_for(3, 9999, torch.float32, "sm_90")
    assert hash(launch_for(3, 99, torch.float32, "sm_90")) == hash(launch_for(5, 98, torch.float16, "sm_80"))


def test_programs_of_a_ranking() -> None:
    launch = launch_for(1, 10**6, torch.float32, "sm_90")
    assert isinstance(launch, TiledLaunch)
    assert launch.programs(10**6, 1) == MOST_PROGRAMS
    assert launch.programs(1000, 512) == 2
    assert launch.wide_programs(1, 10**6, 1) == launch.sharing
    assert launch.wide_programs(launch.sharing - 1, 10**6, 1) == 2
    assert launch.wide_programs(10**6, 10**6, 1) == 1
    assert launch.wide_programs(1, 1000, 512) == 2


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Every element is its place in memory."""
    return torch.arange(math.prod(shape), dtype=dtype).view(shape)


def read(inputs: Inputs, tensor: Tensor, which: str) -> Tensor:
    """(rankings, items) as kernels read it: ``start + outer * so + inner * si + item * sn``."""
    outer, inner, item = inputs.strides[:3] if which == "scores" else inputs.strides[3:]
    ranking = torch.arange(inputs.rankings)[:, None]
    offset = ranking // inputs.inner * outer + ranking % inputs.inner * inner + torch.arange(inputs.items) * item
    end = tensor.untyped_storage().nbytes() // tensor.element_size()
    memory = tensor.as_strided((end,), (1,), 0)
    return memory[offset + tensor.storage_offset()]


def assert_read_as(scores: Tensor, targets: Tensor, *, copied: bool = False) -> None:
    """Kernels see the tensors' elements in the tensors' order, in the tensors' own memory unless copied."""
    inputs, memory = inputs_of(Batch(scores, targets, None))
    assert (inputs.rankings, inputs.items) == (scores.shape[:-1].numel(), scores.shape[-1])
    for which, tensor, there in zip(("scores", "targets"), (scores, targets), memory, strict=False):
        assert torch.equal(read(inputs, there, which), tensor.reshape(inputs.rankings, inputs.items))
        own = there.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        assert own == (not copied or tensor.is_contiguous())


def test_any_axis_of_a_contiguous_tensor() -> None:
    for shape in ((1,), (3, 5), (3, 1), (2, 1, 5), (1, 3, 1), (2, 3, 4, 5), (2, 1, 3, 5), (1, 1, 1, 1)):
        for dim in range(len(shape)):
            assert_read_as(numbered(*shape).movedim(dim, -1), numbered(*shape, dtype=torch.int64).movedim(dim, -1))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[1::2, :, 1::3].transpose(0, 1), id="steps"),
        pytest.param(lambda x: x[:, :, :1].expand(-1, -1, 9), id="one item throughout"),
        pytest.param(lambda x: x[:1].expand(5, -1, -1), id="one outer ranking throughout"),
        pytest.param(lambda x: x[:, :1].expand(-1, 4, -1), id="one inner ranking throughout"),
        pytest.param(lambda x: x.diagonal(dim1=0, dim2=1).T, id="diagonal"),
        pytest.param(lambda x: x.unsqueeze(1).unsqueeze(0), id="axes of one"),
    ],
)
def test_views_are_read_where_they_are(view: Callable[[Tensor], Tensor]) -> None:
    assert_read_as(view(numbered(4, 3, 7)), view(numbered(4, 3, 7, dtype=torch.int64)))


def test_scores_and_targets_lie_differently() -> None:
    scores = numbered(4, 3, 5)
    targets = numbered(5, 3, 4, dtype=torch.int64).permute(2, 1, 0)
    for dim in range(3):
        assert_read_as(scores.movedim(dim, -1), targets.movedim(dim, -1))
        assert_read_as(scores.movedim(dim, -1), torch.arange(scores.shape[dim]).expand(scores.movedim(dim, -1).shape))
    assert_read_as(scores, torch.tensor(1).expand(4, 3, 5))


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        pytest.param(numbered(2, 3, 4, 5).permute(2, 1, 0, 3), numbered(4, 3, 2, 5), id="three leading axes"),
        pytest.param(
            numbered(4, 6, 5)[:, :3].unsqueeze(1).reshape(2, 2, 3, 5),
            numbered(4, 6, 5).reshape(2, 2, 6, 5)[:, :, :3].permute(1, 0, 2, 3),
            id="axes of both cut elsewhere",
        ),
    ],
)
def test_what_two_strides_cannot_say_is_copied(scores: Tensor, targets: Tensor) -> None:
    assert scores.shape == targets.shape
    assert_read_as(scores, targets, copied=True)


axis_kinds = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.booleans()), max_size=4)


@given(axis_kinds, st.data())
def test_any_view(kinds: list[tuple[int, int, int, bool]], data: st.DataObject) -> None:
    """Axes of some size, with steps, offsets and repetition, in any order."""

    def view(dtype: torch.dtype) -> Tensor:
        order = data.draw(st.permutations(range(len(kinds))))
        memory = numbered(*(kinds[axis][0] * kinds[axis][1] + kinds[axis][2] for axis in order), dtype=dtype)
        memory = memory.permute([order.index(axis) for axis in range(len(kinds))])
        index = tuple(slice(offset, offset + size * step, step) for size, step, offset, _ in kinds)
        cut = memory[index]
        repeated = data.draw(st.booleans())
        for axis, (size, _, _, is_repeated) in enumerate(kinds):
            if is_repeated and repeated:
                cut = cut.narrow(axis, 0, 1).expand([size if i == axis else -1 for i in range(len(kinds))])
        return cut.unsqueeze(0) if cut.dim() == 0 else cut

    scores, targets = view(torch.float32), view(torch.int64)
    inputs, memory = inputs_of(Batch(scores, targets, None))
    for which, tensor, there in zip(("scores", "targets"), (scores, targets), memory, strict=False):
        assert torch.equal(read(inputs, there, which), tensor.reshape(inputs.rankings, inputs.items))


def test_types_that_kernels_do_not_read() -> None:
    scores, targets = torch.zeros(2, 3), torch.ones(2, 3)
    assert inputs_of(Batch(scores.to(torch.float8_e4m3fn), targets, None))[0].scores.dtype == torch.float32
    assert inputs_of(Batch(scores, targets.bool(), None))[0].targets.dtype == torch.uint8
    assert inputs_of(Batch(scores, targets.to(torch.float8_e4m3fn), None))[0].targets.dtype == torch.float32
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, *DTYPES):
        assert inputs_of(Batch(scores, targets.to(dtype), None))[0].targets.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "ignore_index", "held"),
    [
        (torch.int64, -1, True),
        (torch.uint8, -1, False),
        (torch.int8, 127, True),
        (torch.int8, 128, False),
        (torch.float16, 2049, False),
        (torch.float32, 2, True),
        (torch.int64, None, False),
        (torch.bool, None, False),
    ],
)
def test_an_ignore_index_that_no_target_can_have(dtype: torch.dtype, ignore_index: int | None, held: bool) -> None:
    inputs, _ = inputs_of(Batch(torch.zeros(3), torch.zeros(3, dtype=dtype), ignore_index))
    assert inputs.has_ignore == held
    assert inputs.ignore_index == (ignore_index if held else 0)

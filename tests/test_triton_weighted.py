"""Average precision of weighted items on the Triton backend, against exact fractions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastap.backends import triton
from fastap.types import Batch
from tests.kernel_batches import corners, exact_precision, stacked
from tests.kernels import DEVICE, TILE, few_programs, often, poisoned
from tests.losses import random_batch
from tests.paths import solving

pytestmark = pytest.mark.usefixtures("gpu")

LAYOUTS = ("rows", "ragged")


def precision(layout: str, scores: Tensor, targets: Tensor, weight: Tensor, ignore_index: int | None = -1) -> Tensor:
    """Of every row; ragged, the rows end to end, among empty rankings."""
    given = [each.to(DEVICE) for each in (scores, targets, weight)]
    if layout == "rows":
        with solving("triton-long"), poisoned():
            return triton.average_precision(Batch(given[0], given[1], ignore_index), given[2]).cpu()
    rankings, items = scores.shape
    offsets = torch.arange(0, rankings * items + 1, items, device=DEVICE).repeat_interleave(2)
    flat = [each.reshape(-1) for each in given]
    with few_programs():
        result = triton.average_precision(Batch(flat[0], flat[1], ignore_index, offsets), flat[2]).cpu()
    assert result[::2].isnan().all()
    return result[1::2]


def weights(seed: int, scores: Tensor, zeros: float = 0.0) -> Tensor:
    """Of very different sizes, that share of them 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(scores.shape, generator=generator, dtype=torch.float64).mul(2).exp()
    weight[torch.rand(scores.shape, generator=generator) < zeros] = 0
    return weight


def check(given: Tensor, scores: Tensor, targets: Tensor, weight: Tensor) -> None:
    assert given.dtype == torch.float64
    for number, row in enumerate(zip(scores.tolist(), targets.tolist(), weight.double().tolist(), strict=True)):
        expected = exact_precision(*row)
        value = float(given[number])
        assert math.isnan(value) == (expected is None)
        if expected is not None:
            assert value == pytest.approx(float(expected), rel=1e-14)
            assert value <= 1


@pytest.mark.parametrize(
    ("layout", "dtype", "rows"),
    often(
        ("rows", torch.float64, slice(0, None, 2)),
        ("ragged", torch.float64, slice(1, None, 2)),
        full=[(layout, dtype, slice(None)) for layout in LAYOUTS for dtype in (torch.float16, torch.float64)],
    ),
)
def test_equals_the_definition(layout: str, dtype: torch.dtype, rows: slice) -> None:
    """Every corner, infinities among the scores too, with weights of very different sizes, some of them 0."""
    scores, targets = (each.cpu() for each in stacked([*corners(2 * TILE + 3).values()][rows], dtype))
    weight = weights(1, scores, 0.3)
    check(precision(layout, scores, targets, weight), scores, targets, weight)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_any_size_and_wrong_ones(layout: str) -> None:
    """A ranking each: one that is wrong spoils no other, and ignored items may have any."""
    scores, targets = random_batch(3, 16, 12, ignored=0.3, levels=4)
    targets[:, 2] = -1
    weight = weights(3, scores)
    weight[:, 2] = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0]).repeat(4)
    scores[:, 2] = torch.tensor([torch.nan, torch.inf]).repeat(8)
    for row, wrong in enumerate((torch.nan, torch.inf, -torch.inf, -1e-9)):
        weight[2 * row, 0] = weight[2 * row + 1, 1] = wrong
    weight[8] = torch.where(targets[8] == 1, 0.0, 1.0)  # positives that weigh nothing
    weight[9], weight[10], weight[11] = 1e-300, 5e-324, 1e306
    weight[12].masked_fill_(targets[12] == 1, 1.7e308)
    weight[13], weight[13, :2] = (
        0.0,
        torch.tensor([1e308, 1.5e308], dtype=torch.float64),
    )  # beyond the largest
    targets[12, :2], targets[13, :2] = 1, torch.tensor([1, 0])
    scores[13, :2] = 0
    given = precision(layout, scores, targets, weight)
    assert given[12].isnan()  # the positives add up to infinity
    rest = torch.arange(16) != 12
    check(given[rest], scores[rest], targets[rest], weight[rest])
    assert float(given[13]) == pytest.approx(0.4, rel=1e-14)


@pytest.mark.parametrize("dtype", often(torch.bool, full=[torch.int64, torch.uint8, torch.bfloat16]))
def test_whole_weights_of_any_type_count_so_many_items(dtype: torch.dtype) -> None:
    scores, targets = random_batch(4, 1, 20, levels=6)
    counts = torch.randint(0, 2 if dtype == torch.bool else 4, (1, 20), generator=torch.Generator().manual_seed(4))
    counts[0, 0] = 1
    repeated = [each.repeat_interleave(counts[0], 1) for each in (scores, targets)]
    with solving("triton-long"), poisoned():
        expected = triton.average_precision(Batch(*(each.to(DEVICE) for each in repeated), None)).cpu()
    for layout in LAYOUTS:
        given = precision(layout, scores, targets, counts.to(dtype), None)
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-15)


def test_views_and_axes() -> None:
    scores, targets = (each.view(2, 3, 4) for each in random_batch(5, 6, 4))
    weight = weights(5, scores)
    expected = precision("rows", *(each.movedim(1, -1).reshape(-1, 3) for each in (scores, targets, weight)))
    with solving("triton-long"), poisoned():
        moved = [each.to(DEVICE).movedim(1, -1) for each in (scores, targets, weight)]
        given = triton.average_precision(Batch(moved[0], moved[1], None), moved[2]).cpu()
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)

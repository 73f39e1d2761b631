"""Rankings of different lengths on the Triton backend: results against the reference of each ranking by itself.

Without a GPU the kernels run on an emulated one, on tiles so small that a ranking fills several, from memory full
of NaN, and with so few programs that each has several rankings.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
from fastap.kernels import ragged as kernels
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastap
from emulator import Device
from fastap import backends
from fastap.backends import triton as backend
from fastap.backends.triton import inputs
from fastap.backends.triton.launch import MOST_ITEMS, MOST_PROGRAMS, ragged_launch
from fastap.types import Batch, Losses, Objective
from tests import device_checks as checks
from tests.kernel_batches import memory
from tests.kernels import DEVICE, TILE, few_programs, often

pytestmark = pytest.mark.usefixtures("gpu")

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OBJECTIVES = {
    "positive": Objective("direct", 0.7, "positive"),
    "negative": Objective("direct", 0.7, "negative"),
    "hinge": Objective("hinge", 0.7),
    "perceptron": Objective("perceptron"),
}
# Empty ones anywhere, one item, one tile and more, as many rankings as the programs that share them and more.
LENGTHS = (0, 5, 1, 0, 0, 2 * TILE + 1, TILE, 3, 0, 0)


def draw(
    seed: int,
    lengths: tuple[int, ...] = LENGTHS,
    *,
    ignored: float = 0.15,
    levels: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Scores on that many levels, if any; a positive and a negative first, then a quarter of positives."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    items = int(offsets[-1])
    scores = torch.randn(items, generator=generator, dtype=torch.float64)
    if levels:
        scores = torch.randint(levels, (items,), generator=generator) - levels / 2
    targets = (torch.rand(items, generator=generator) < 0.25).long()
    targets[torch.rand(items, generator=generator) < ignored] = -1
    for start, end in pairwise(offsets.tolist()):
        targets[start:end][:2] = torch.tensor([1, 0])[: end - start]
    return Batch(scores.to(dtype), targets, -1, offsets)


def moved(batch: Batch) -> Batch:
    assert batch.offsets is not None
    return Batch(batch.scores.to(DEVICE), batch.targets.to(DEVICE), batch.ignore_index, batch.offsets.to(DEVICE))


def on(batch: Batch, objective: Objective, dtype: torch.dtype = torch.float64, programs: int = 3) -> Losses:
    with few_programs(programs):
        return Losses(*(each.cpu() for each in backend.losses(moved(batch), objective, dtype)))


def pieces(batch: Batch) -> Iterator[tuple[int, slice, Batch | None]]:
    """Each ranking by itself, in float64; None for an empty one."""
    assert batch.offsets is not None
    for number, (start, end) in enumerate(batch.offsets.unfold(0, 2, 1).tolist()):
        where = slice(start, end)
        alone = Batch(batch.scores[None, where].double(), batch.targets[None, where], batch.ignore_index)
        yield number, where, alone if start < end else None


def same(given: Tensor, expected: Tensor) -> None:
    """To the bit, type and shape included."""
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


def near(given: Tensor, expected: Tensor) -> None:
    """But for the order in which sums are taken, and the rounding of the result."""
    rounding = max(1e-12, torch.finfo(given.dtype).eps)
    torch.testing.assert_close(
        given, expected.to(given.dtype), rtol=rounding, atol=max(1e-13, rounding / 8), equal_nan=True
    )


def check_losses(batch: Batch, objective: Objective, dtype: torch.dtype = torch.float64) -> Losses:
    """Every ranking against the reference of it alone."""
    result = on(batch, objective, dtype)
    assert result.gradient.shape == batch.scores.shape
    assert result.gradient.dtype == (torch.float64 if batch.scores.dtype == torch.float64 else torch.float32)
    for number, where, alone in pieces(batch):
        if alone is None:
            assert (result.loss[number], result.takes_part[number]) == (0, False)
            continue
        expected = backends.get("reference", alone.scores.device).losses(alone, objective, torch.float64)
        near(result.loss[number], expected.loss[0])
        near(result.gradient[where], expected.gradient[0])
        assert result.takes_part[number] == expected.takes_part[0]
    return result


# Every ranking by itself


@pytest.mark.parametrize("method", often("auto", full=["dp"]))
@pytest.mark.parametrize(("name", "dtype"), [*zip(OBJECTIVES, DTYPES, strict=True)])
def test_losses(name: str, dtype: torch.dtype, method: str) -> None:
    """Each of a type of scores of its own."""
    if name == "perceptron" and method == "dp":
        pytest.skip("the perceptron has no method")
    result = check_losses(draw(1, dtype=dtype), OBJECTIVES[name]._replace(method=method))
    assert result.takes_part.sum() >= 3
    assert (result.loss > 0).sum() >= 3


@pytest.mark.parametrize("name", often("negative", full=["positive", "hinge", "perceptron"]))
def test_ties(name: str) -> None:
    batch = draw(2, (9, 0, TILE + 2), levels=4)
    batch.scores[:9] = torch.where(torch.arange(9) % 2 > 0, -0.0, 0.0)
    batch.targets[9:] = torch.arange(TILE + 2) < TILE  # a tile of positives, and no more
    result = check_losses(batch, OBJECTIVES[name])
    # The order of the items says nothing.
    order = torch.cat([part.flip(0) for part in torch.arange(batch.items).tensor_split(batch.offsets[1:-1])])
    permuted = on(Batch(batch.scores[order], batch.targets[order], -1, batch.offsets), OBJECTIVES[name])
    same(permuted.loss, result.loss)
    same(permuted.gradient, result.gradient[order])


@pytest.mark.parametrize(
    ("dtype", "index"),
    often((torch.bool, None), (torch.int64, 2**40), full=[(torch.int8, -1), (torch.uint8, 255), (torch.float16, 3)]),
)
def test_target_types(dtype: torch.dtype, index: int | None) -> None:
    batch = draw(4, (8, 0, 9), ignored=0.0 if index is None else 0.2)
    targets = torch.where(batch.targets < 0, index or 0, batch.targets).to(dtype)
    given = on(Batch(batch.scores, targets, index, batch.offsets), OBJECTIVES["perceptron"])
    for one, other in zip(given, on(batch, OBJECTIVES["perceptron"]), strict=True):
        same(one, other)


# One spoils no other


def test_a_wrong_target_alone_takes_part() -> None:
    batch = Batch(torch.randn(5), torch.tensor([0, 2, 0, 1, 0]), None, torch.tensor([0, 3, 5]))
    result = on(batch, OBJECTIVES["perceptron"])
    assert result.loss.isnan().tolist() == [True, False]
    assert result.takes_part.tolist() == [True, True]
    assert result.gradient.isnan().tolist() == [True] * 3 + [False] * 2
    with few_programs():
        ranks, value = backend.ranking(moved(batch), OBJECTIVES["positive"])
    assert ranks[1] == -1
    assert value.isnan().tolist() == [True, False]


def test_where_a_ranking_stands_says_nothing() -> None:
    """To the bit: alone, in front, behind, and however many programs there are."""
    batch = draw(10, (TILE + 3, 6))
    objective = OBJECTIVES["positive"]
    first = on(batch, objective)
    for programs, lengths in ((1, (0, TILE + 3, 0, 6, 0)), (5, (0, 0, 0, TILE + 3, 6))):
        offsets = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
        result = on(Batch(batch.scores, batch.targets, -1, offsets), objective, programs=programs)
        same(result.gradient, first.gradient)
        same(result.loss[torch.tensor(lengths) > 0], first.loss)
    turned = torch.arange(batch.items).roll(6)
    swapped = on(Batch(batch.scores[turned], batch.targets[turned], -1, torch.tensor([0, 6, batch.items])), objective)
    same(swapped.loss, first.loss.flip(0))
    same(swapped.gradient, first.gradient[turned])


def test_empty_rankings_at_the_end_cost_nothing(gpu: Device | None) -> None:
    batch = draw(11, (6, 7))
    first = on(batch, OBJECTIVES["perceptron"])
    offsets = torch.nn.functional.pad(batch.offsets, (0, 5000), value=batch.items)
    padded = Batch(batch.scores, batch.targets, -1, offsets)
    result = on(padded, OBJECTIVES["perceptron"], programs=7)
    if gpu:
        (_, once), (_, again) = gpu.launches[:2], gpu.launches[2:]
        assert again.counts["issue"] <= 1.1 * once.counts["issue"]
    same(result.loss, torch.nn.functional.pad(first.loss, (0, 5000)))
    same(result.takes_part, torch.nn.functional.pad(first.takes_part, (0, 5000)))
    same(result.gradient, first.gradient)
    with few_programs():
        ranks, value = backend.ranking(moved(padded), OBJECTIVES["positive"])
        metric = backend.average_precision(moved(padded))
    for each in (value, metric):
        assert each.isfinite().tolist() == [True] * 2 + [False] * 5000
    assert ranks.shape == (13,)


# Weights, and what a user sees


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reduce(mean: bool, dtype: torch.dtype) -> None:
    loss = torch.tensor([0.5, 0.0, 0.25, 0.75], dtype=torch.float64, device=DEVICE)
    losses = Losses(loss, torch.zeros(9, device=DEVICE), torch.tensor([True, False, True, True], device=DEVICE))
    weight = torch.tensor([2.0, 5.0, 0.0, 1.0], dtype=torch.float64, device=DEVICE)
    total, share = backend.reduce(losses, dtype, mean=mean, weight=weight)
    assert total.dtype == dtype
    assert total.shape == ()
    assert share is not None
    whole = 3.0 if mean else 1.0
    torch.testing.assert_close(total.cpu(), torch.tensor(1.75 / whole, dtype=dtype))
    taken = losses.takes_part.cpu()
    torch.testing.assert_close(share.cpu()[taken], (weight.cpu()[taken] / whole).to(dtype))
    total, share = backend.reduce(losses, dtype, mean=mean, weight=0 * weight)
    assert total == 0
    assert share is not None
    assert (share == 0).all()
    whole, right = (1 / 3 if mean else 1.0), torch.tensor(0.5 if mean else 1.5, dtype=dtype)
    with mock.patch.object(backend, "_REDUCED_BY_ONE", 3):  # PyTorch takes over
        total, share = backend.reduce(losses, dtype, mean=mean)
    torch.testing.assert_close(total.cpu(), right)
    assert (share is None) == (not mean)
    if share is not None:
        torch.testing.assert_close(share.cpu(), torch.tensor([whole], dtype=dtype))
    for items in (0, 3, 1024, 1500, 5000):  # by three programs at most
        gradient = torch.arange(items, dtype=dtype, device=DEVICE)
        losses = losses._replace(gradient=gradient.clone() if items else None)
        with mock.patch.object(backend, "_REDUCING", 3):
            total, share = backend.reduce(losses, dtype, mean=mean)
        torch.testing.assert_close(total.cpu(), right)
        assert share is None
        if losses.gradient is not None:
            torch.testing.assert_close(losses.gradient, gradient * torch.tensor(whole, dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", often("hinge", full=["positive", "negative", "perceptron"]))
def test_groups_and_weights(name: str) -> None:
    """What the reference makes of the same call."""
    batch = draw(13, (5, 6, 2, 4))
    generator = torch.Generator().manual_seed(13)
    order = torch.randperm(batch.items, generator=generator)
    groups = torch.repeat_interleave(torch.tensor([3, 5, 11, -2]), batch.offsets.diff())[order]
    call = {"scores": batch.scores[order], "targets": batch.targets[order], "groups": groups}
    call["weight_of"] = torch.tensor([0.5, 2.0, 0.0, 1.5])
    for reduction in ("mean", "none"):
        given = _called(name, {key: value.to(DEVICE) for key, value in call.items()}, "triton", reduction)
        expected = _called(name, call, "reference", reduction)
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-7)


def _called(name: str, call: dict[str, Tensor], backend: str, reduction: str) -> tuple[Tensor, Tensor]:
    leaf = call["scores"].clone().requires_grad_()
    functions: dict[str, Any] = {"hinge": fastap.ap_hinge_loss, "perceptron": fastap.ap_perceptron_loss}
    options = {} if name in functions else {"update": name}
    with few_programs():
        value = functions.get(name, fastap.direct_ap_loss)(
            leaf, call["targets"], groups=call["groups"], weight=call["weight_of"], ignore_index=-1,
            reduction=reduction, backend=backend, **options,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_checks_of_a_gpu(dtype: torch.dtype) -> None:
    with few_programs():
        for name in ("negative", "hinge"):
            checks.check_ragged(name, DEVICE, dtype, (4, 0, 11, 1, 7, 0))
        checks.check_ragged_ranking("positive", DEVICE, dtype, (0, 9, 3, 0, 6))
        checks.check_ragged_metric(DEVICE, dtype, (0, 9, 3, 0, 6))


# Launches


@given(st.integers(1, MOST_ITEMS), st.integers(1, MOST_ITEMS), st.sampled_from(("sm_90", "gfx942")))
def test_every_shape_has_a_launch_that_fits(rankings: int, items: int, architecture: str) -> None:
    launch = ragged_launch(rankings, items, architecture)
    tiles, lanes = launch.tiles, 32 if architecture == "sm_90" else 64
    assert 1 <= launch.programs <= min(rankings, MOST_PROGRAMS)
    assert min(tiles.rows, tiles.columns) >= tiles.num_warps * lanes
    for number in (launch.items, launch.num_warps, launch.written, tiles.num_warps):
        assert number & (number - 1) == 0
    assert (tiles.max_registers is None) == (architecture != "sm_90")
    # A warp for short ones, and for those that nobody knows to be long.
    assert tiles.num_warps == (1 if items / rankings <= 128 else 4)


def test_more_items_or_rankings_than_indices() -> None:
    offsets = torch.tensor([0, 2, 5])
    message = "at most 4 items and 4 rankings .* got 5 and 2"
    with mock.patch.object(inputs, "MOST_ITEMS", 4), pytest.raises(ValueError, match=message):
        inputs.inputs_of(Batch(torch.zeros(5), torch.zeros(5), None, offsets))
    many = torch.nn.functional.pad(offsets, (0, 9), value=5)
    with mock.patch.object(inputs, "MOST_ITEMS", 10), pytest.raises(ValueError, match="got 5 and 11"):
        inputs.inputs_of(Batch(torch.zeros(5), torch.zeros(5), None, many))


# Kernels


@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_ragged(dtype: torch.dtype) -> None:
    """Groups that ascend from ranking to ranking and in each from class to class, keys that descend with the scores."""
    batch = moved(draw(15, (0, 0, 5, 2 * TILE, 0, 3, 1, 0, 9, 0, 0), levels=5, dtype=dtype))
    assert batch.offsets is not None
    batch.scores[8], batch.scores[9] = torch.inf, -torch.inf
    batch.targets[11] = 5
    items, rankings = batch.items, batch.rankings
    ranking = torch.repeat_interleave(torch.arange(rankings), batch.offsets.diff().cpu())
    for has_ignore in (True, False):
        keys = memory(items, dtype=torch.int64 if dtype == torch.float64 else torch.int32)
        groups = memory(items, dtype=torch.int32)
        kernels.encode_ragged[(-(-items // TILE),)](
            batch.scores, batch.targets, batch.offsets, keys, groups, items, items, rankings, -1,
            HAS_IGNORE=has_ignore, BLOCK_N=TILE, num_warps=1,
        )  # fmt: skip
        targets = batch.targets.cpu()
        group = torch.where(targets == 1, 0, torch.where(targets == 0, 1, 3))
        group[(targets == -1) & has_ignore] = 2
        assert torch.equal(groups.cpu().long() - 4 * (ranking - 2**29), group)
        assert torch.equal(keys[:, None] < keys, batch.scores[:, None] > batch.scores)


def test_every_ranking_is_launched_at_once() -> None:
    """One call of each kernel and two sorts, however many rankings."""
    with (
        mock.patch.object(kernels, "encode_ragged") as encode,
        mock.patch.object(kernels, "ragged_rankings") as solve,
        mock.patch.object(torch, "sort", wraps=torch.sort) as sort,
    ):
        on(draw(17, (3,) * 9), OBJECTIVES["perceptron"])
    assert encode.__getitem__.call_count == solve.__getitem__.call_count == 1
    assert sort.call_count == 2

"""Kernels after the search, values, gradients and reductions, and those of short rankings; each against its twin."""

from __future__ import annotations

import pytest
import torch
import triton
from fastap.kernels import fused, long
from fastap.kernels import reduce as reduction
from torch import Tensor

from fastap.backends.triton import twins
from tests.kernel_batches import (
    SCAN,
    SEARCH,
    SMALL,
    UNPROVED,
    Batch,
    agree,
    bits_of,
    both,
    choices,
    corners,
    everything,
    memory,
    ranking,
)
from tests.kernels import DEVICE, TILE, quiet
from tests.problems import KINDS

pytestmark = quiet


LOSSES = [("direct", 1), ("direct", -1), ("hinge", 1), ("perceptron", 1), ("ranking", 1), ("ranking", -1), ("ap", 1)]


def solved(batch: Batch, sign: int, epsilon: float) -> Tensor:
    """``rows`` with the optimum of every ranking."""
    rows = batch.rows()
    twins.solve_whole(*batch.problem, rows, batch.sums(), batch.items, batch.plane, bits_of(epsilon), sign)
    return rows


def parts_of(batch: Batch, rows: Tensor, loss: str) -> Tensor:
    parts = memory(3, batch.rankings * batch.row_tiles, dtype=torch.float64)
    twins.sum_rows(*batch.problem, rows, parts, batch.items, batch.row_tiles, loss, TILE)
    return parts


@pytest.mark.parametrize(("loss", "sign"), LOSSES)
def test_sum_rows_and_sum_rankings(loss: str, sign: int) -> None:
    scores, targets = everything(torch.float32 if sign > 0 else torch.float64)
    given, epsilon = Batch.of(scores, targets), 0.7
    batch, by_score = given.cut(loss, epsilon) if loss != "ap" else (given, memory(given.rankings, dtype=torch.float64))
    programs = batch.rankings * batch.row_tiles
    rows = solved(batch, sign, epsilon)
    (parts,) = both(
        long, "sum_rows", programs, (*batch.problem, rows), (memory(3, programs, dtype=torch.float64),),
        (batch.items, batch.row_tiles), loss, TILE, LOSS=loss, **SMALL,
    )  # fmt: skip
    agree(*(each.view(-1, batch.row_tiles) for each in parts), rounding=1e-13)

    outputs = (
        memory(batch.rankings, dtype=torch.float64),
        memory(batch.rankings, dtype=torch.int8),
        memory(batch.rankings, batch.items, dtype=torch.float64),
        batch.v,
    )
    arrays = scores, batch.s, batch.order, batch.counts, batch.centre, rows, parts[1], by_score
    value, takes_part, before, v = both(
        long, "sum_rankings", programs, arrays, outputs,
        (batch.items, batch.row_tiles, 1, batch.items, 0, 1, bits_of(epsilon)), loss, sign, TILE,
        LOSS=loss, SIGN=sign, **SMALL, BLOCK_T=SCAN,
    )  # fmt: skip
    agree(*v)
    if loss in ("direct", "hinge"):
        agree(v[0], given.v)
    agree(value[0][:, None], value[1][:, None], rounding=1e-12)
    assert torch.equal(*takes_part)
    agree(*before)
    assert value[0].isnan().any()
    assert value[0].isfinite().sum() > len(KINDS)


@pytest.mark.parametrize(("loss", "sign"), LOSSES[:-1])
def test_write_items(loss: str, sign: int) -> None:
    dtype = torch.float64 if sign > 0 else torch.float32
    scores, targets = everything(dtype)
    batch = Batch.of(scores, targets)
    n_tiles, epsilon = triton.cdiv(batch.items, TILE), 0.7
    # Any choices that do not fall.
    rows = choices(batch, 5)
    for number, (positives, *_) in enumerate(batch.counts.tolist()):
        if positives:
            rows[0, number, :positives] = rows[0, number, :positives].cummax(0).values
    before = memory(batch.rankings, batch.items, dtype=torch.float64)
    value, takes_part = memory(batch.rankings, dtype=torch.float64), memory(batch.rankings, dtype=torch.int8)
    twins.sum_rankings(
        scores, batch.s, batch.order, batch.counts, batch.centre, rows,
        parts_of(batch, rows, loss), torch.zeros_like(value), value, takes_part, before, batch.v,
        batch.items, batch.row_tiles, 1, batch.items, 0, 1, bits_of(epsilon), loss, sign, TILE,
    )  # fmt: skip
    value[-1] = torch.nan  # as if its scores were too large to be summed
    (result,) = both(
        long, "write_items", batch.rankings * n_tiles,
        (batch.v, batch.order, batch.counts, batch.centre, rows, before, value),
        (memory(batch.rankings, batch.items, dtype=torch.int64 if loss == "ranking" else dtype),),
        (batch.items, n_tiles, bits_of(epsilon)), loss, sign, LOSS=loss, SIGN=sign, **SMALL,
    )  # fmt: skip
    agree(*result, rounding=0 if loss == "ranking" else 1e-14 if dtype == torch.float64 else 1e-7)
    if loss != "ranking":
        assert result[0][-1].isnan().any()


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("rankings", "dtype"), [(1, torch.float32), (5, torch.float64), (19, torch.float32)])
def test_reduce_losses(rankings: int, dtype: torch.dtype, mean: bool) -> None:
    value = torch.rand(rankings, dtype=torch.float64, generator=torch.Generator().manual_seed(rankings)).to(DEVICE)
    takes_part = (torch.arange(rankings, device=DEVICE) % 3 > 0).to(torch.int8)
    outputs = memory(dtype=dtype), memory(1, dtype=dtype)
    for given in (value, value.index_fill(0, torch.tensor([rankings - 1], device=DEVICE), torch.nan)):
        for ours, theirs in both(
            reduction, "reduce_losses", 1, (given, takes_part), outputs, (rankings,), mean, MEAN=mean, BLOCK_R=8
        ):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-14 if dtype == torch.float64 else 1e-7, atol=0, equal_nan=True
            )


def short_batch(dtype: torch.dtype, items: int) -> tuple[Tensor, Tensor]:
    rows = [*corners(items).values()]
    rows += [ranking(kind, number, items // 3 + number % 3, items // 2, items) for number, kind in enumerate(KINDS)]
    return torch.stack([scores for scores, _ in rows]).to(DEVICE, dtype), torch.stack([t for _, t in rows]).to(DEVICE)


SHORT = [
    *((loss, sign, method) for loss, sign in LOSSES[:3] for method in ("auto", "dp")),
    ("perceptron", 1, "standard"),
    ("ap", 1, "standard"),
]


def short_both(
    scores: Tensor, targets: Tensor, loss: str, sign: int, method: str, epsilon: float, has_ignore: bool = True
) -> None:
    rankings, items = scores.shape[:-1].numel(), scores.shape[-1]
    plane = rankings * items
    outputs = (
        memory(rankings, items, dtype=torch.float32),
        memory(rankings, dtype=torch.float64),
        memory(rankings, dtype=torch.int8),
        memory(rankings, items, dtype=torch.float64),
        memory(rankings, items, dtype=torch.int32),
        memory(rankings, items, dtype=torch.float64),
        memory(6, rankings, items, dtype=torch.int32),
        memory(2, rankings, items, dtype=torch.float64),
    )
    strides = (*scores.stride(), *targets.stride())
    out, value, takes_part, _, _, _, rows, _ = both(
        fused, "short_rankings", rankings, (scores, targets), outputs,
        (items, scores.shape[1], plane, *strides, -1, bits_of(epsilon)), loss, sign, method, has_ignore,
        LOSS=loss, SIGN=sign, METHOD=method, HAS_IGNORE=has_ignore, **SEARCH,
        BLOCK_N=triton.next_power_of_2(items), BLOCK_W=2 * TILE,
    )  # fmt: skip
    agree(value[0][:, None], value[1][:, None], rounding=1e-12)
    assert torch.equal(*takes_part)
    if loss == "ap":
        agree(*out)
        return
    # Another optimum has another gradient: that of the kernel's own choice.
    batch = Batch.of(scores.reshape(-1, items), targets.reshape(-1, items))
    expected = torch.empty_like(out[1])
    twins.write_items(
        batch.v, batch.order, batch.counts, batch.centre, rows[0], memory(plane, dtype=torch.float64), value[1],
        expected, items, 1, bits_of(epsilon), loss, sign,
    )  # fmt: skip
    agree(out[0], expected, rounding=1e-7)


@pytest.mark.parametrize(("loss", "sign", "method"), SHORT)
def test_short_rankings(loss: str, sign: int, method: str) -> None:
    dtype = {"auto": torch.float32, "dp": torch.float16, "standard": torch.bfloat16}[method]
    scores, targets = short_batch(dtype, 21)
    if method == "dp":
        scores, targets = scores[::2], targets[::2]
    # Two leading axes of any strides; other ones for the targets.
    scores = scores.view(-1, 3, 21).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    targets = targets.view(-1, 3, 21).repeat_interleave(2, 2).to(torch.int16)[..., ::2]
    short_both(scores, targets, loss, sign, method, 0.7)


@pytest.mark.parametrize(("kind", "seed", "n_positive", "epsilon"), UNPROVED)
def test_short_rankings_in_conflict(kind: str, seed: int, n_positive: int, epsilon: float) -> None:
    scores, targets = ranking(kind, seed, n_positive, 45 - n_positive, 45)
    short_both(
        scores.to(DEVICE, torch.float32)[None, None], targets.to(DEVICE)[None, None], "direct", -1, "auto", epsilon
    )


@pytest.mark.parametrize("items", [1, 2, 16])
def test_short_rankings_of_few_items(items: int) -> None:
    """Rows that fill the block, and no ignored index."""
    scores, targets = short_batch(torch.float32, 21)
    scores, targets = scores[:9, None, :items], targets[:9, None, :items].clamp(min=0).byte()
    short_both(scores, targets, "direct", -1, "auto", 0.3, has_ignore=False)

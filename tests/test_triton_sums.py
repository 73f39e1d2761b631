"""Kernels before the search: keys, counts, the split by class, sums, gaps that are cut; each against its twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
from fastap.kernels import layout, long

from fastap.backends.triton import twins
from tests.kernel_batches import SCAN, SMALL, Batch, Keys, agree, bits_of, both, everything, memory
from tests.kernels import DEVICE, TILE, quiet

pytestmark = quiet


@pytest.mark.parametrize(
    ("dtype", "has_ignore"),
    [(torch.float16, True), (torch.bfloat16, False), (torch.float32, True), (torch.float64, True)],
)
def test_encode_items(dtype: torch.dtype, has_ignore: bool) -> None:
    scores, targets = everything(dtype)
    rankings, items = scores.shape
    # Three axes of any strides, other ones for the targets.
    scores = scores.view(-1, 3, items).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    targets = targets.view(-1, 3, items).repeat_interleave(2, 2).to(torch.int16)[..., ::2]
    n_tiles = triton.cdiv(items, TILE)
    outputs = (
        memory(rankings, items, dtype=torch.int64 if dtype == torch.float64 else torch.int32),
        memory(rankings * items, dtype=torch.int8),
        memory(rankings * n_tiles, 4, dtype=torch.int32),
    )
    sizes = items, n_tiles, 3, *scores.stride(), *targets.stride(), -1
    results = both(
        layout, "encode_items", rankings * n_tiles, (scores, targets), outputs, sizes,
        has_ignore, TILE, HAS_IGNORE=has_ignore, BLOCK_N=TILE,
    )  # fmt: skip
    for ours, theirs in results:
        assert torch.equal(ours, theirs)
    flags = theirs.view(rankings, n_tiles, 4)[..., 2].amax(1)
    assert (flags & 1 > 0).sum() == ((targets > 1) | (targets < 0) & (not has_ignore)).any(-1).sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_keys_are_ordered_as_scores_are(dtype: torch.dtype) -> None:
    """That the twin is right."""
    info = torch.finfo(dtype)
    ends = [0.0, -0.0, torch.inf, -torch.inf, info.max, info.min, info.tiny, -info.tiny, 1.0, 1.0 + info.eps, -1.0]
    scores = torch.tensor([ends], dtype=dtype, device=DEVICE)
    given = Keys.of(scores, torch.zeros_like(scores))
    keys = torch.empty_like(given.keys).scatter_(1, given.index.long(), given.keys)[0]
    assert torch.equal(keys[:, None] < keys, scores[0][:, None] > scores[0])
    assert torch.equal(keys[:, None] == keys, scores[0][:, None] == scores[0])
    group, score = twins._sorted_items(given.keys, given.index, given.classes)
    assert (group == 1).all()
    assert torch.equal(score, scores.double().sort(descending=True).values)


@pytest.mark.parametrize("n_tiles", [1, 4, 9])
def test_count_classes(n_tiles: int) -> None:
    generator = torch.Generator().manual_seed(n_tiles)
    tiles = torch.randint(1000, (5, n_tiles, 4), dtype=torch.int32, generator=generator)
    tiles[..., 2] = torch.randint(8, (5, n_tiles), generator=generator) & torch.tensor([[0], [1], [2], [5], [7]])
    (result,) = both(
        layout, "count_classes", 5, (tiles.to(DEVICE),), (memory(5, 4, dtype=torch.int32),), (n_tiles,), BLOCK_T=4
    )
    assert torch.equal(*result)
    assert torch.equal(result[0][:, :2].cpu(), tiles.sum(1, dtype=torch.int32)[:, :2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_tiles_and_split_classes(dtype: torch.dtype) -> None:
    scores, targets = everything(dtype)
    given = Keys.of(scores, targets)
    rankings, items = scores.shape
    n_tiles = triton.cdiv(items, TILE)
    # The memory of the counts of items, of which there are four a tile.
    tile_counts = memory(rankings * n_tiles, 4, dtype=torch.int32)
    tile_sums, centre = (memory(count, dtype=torch.float64) for count in (rankings * n_tiles, rankings))
    inputs = given.keys, given.index, given.classes, given.counts
    counts, sums, centre = both(
        layout, "sum_tiles", rankings * n_tiles, inputs, (tile_counts, tile_sums, centre),
        (items, n_tiles), TILE, BLOCK_N=TILE,
    )  # fmt: skip
    assert torch.equal(*counts)
    agree(*(each.view(rankings, n_tiles) for each in sums), rounding=1e-14)
    taken = given.counts[:, :2].sum(1) > 0
    agree(*(each[taken, None] for each in centre))

    outputs = [memory(rankings, items, dtype=each) for each in (torch.float64, torch.int32, torch.float64)]
    v, order, s = both(
        layout, "split_classes", rankings * n_tiles, (*inputs, counts[1], sums[1]), tuple(outputs),
        (items, n_tiles), BLOCK_N=TILE, BLOCK_T=SCAN,
    )  # fmt: skip
    agree(*v)
    assert torch.equal(*order)
    agree(*s, rounding=1e-14)
    # The twin says what it is to say.
    group = given.classes.gather(1, order[1].long())
    place = torch.arange(items, device=DEVICE)
    again = scores.double().gather(1, order[1].long())
    for number in range(rankings):
        expected = np.lexsort((place.cpu(), -scores[number].double().cpu(), given.classes[number].cpu()))
        kept = int(given.counts[number, :2].sum())
        if not again[number, :kept].isnan().any():
            np.testing.assert_array_equal(order[1][number, :kept].cpu(), expected[:kept])
        torch.testing.assert_close(v[1][number, :kept], again[number, :kept], rtol=0, atol=0, equal_nan=True)
    assert (group.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("loss", ["direct", "hinge", "perceptron", "ranking"])
@pytest.mark.parametrize("epsilon", [0.7, 1e-9, 1e300])
def test_cut_rankings(loss: str, epsilon: float) -> None:
    batch = Batch.of(*everything(torch.float64))
    outputs = *batch.problem, batch.rows(), batch.sums(), memory(batch.rankings, dtype=torch.float64)
    v, s, counts, centre, _, _, by_score = both(
        long, "cut_rankings", batch.rankings, (), outputs,
        (batch.items, batch.plane, bits_of(epsilon)), loss, LOSS=loss, **SMALL,
    )  # fmt: skip
    assert torch.equal(*counts)
    agree(*v, rounding=1e-14)
    agree(*s, rounding=1e-14)
    agree(*(each[:, None] for each in centre), rounding=1e-14)
    if loss != "perceptron":
        agree(*(each[:, None] for each in by_score), rounding=1e-14)
    far = counts[0][:, 2] & 8 > 0
    assert far.any() == (epsilon < 1)
    for number, (positives, negatives, *_) in enumerate(batch.counts.tolist()):
        if not far[number] or loss == "perceptron":
            assert torch.equal(v[0][number].nan_to_num(7.0), batch.v[number].nan_to_num(7.0))
            continue
        # In the same order, none of it twice, and equal where the scores are.
        taken = positives + negatives
        before, after = batch.v[number, :taken], v[0][number, :taken]
        assert (after[:positives].diff() <= 0).all()
        assert (after[positives:].diff() <= 0).all()
        same = before[:, None] == before
        assert (after[:, None] == after)[same].all()
        order = before.argsort(descending=True)
        gaps = -after[order].diff()
        assert (gaps >= 0).all()
        assert (gaps <= epsilon * negatives * (1 + 1e-12) + 1e-15 * float(after.abs().max())).all()

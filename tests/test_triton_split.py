"""Kernels before the search: keys, counts, the split by class, sums, gaps that are cut; each against its definition."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from fastap.kernels import sort

from fastap.backends import triton
from fastap.backends.triton.inputs import Task
from tests import device_checks as checks
from tests.kernel_batches import Split, check_cut, everything, memory, spanning
from tests.kernels import DEVICE, TILE, often

pytestmark = pytest.mark.usefixtures("gpu")

FAR = 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keys_are_ordered_as_scores_are(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    ends = [0.0, -0.0, torch.inf, -torch.inf, info.max, info.min, info.tiny, -info.tiny, 1.0, 1.0 + info.eps, -1.0]
    scores = torch.tensor([*ends, torch.nan], dtype=dtype, device=DEVICE)
    targets = torch.zeros(12, device=DEVICE, dtype=torch.int64).index_fill(0, torch.tensor([11], device=DEVICE), -1)
    keys, lowest = (memory(n, dtype=torch.int64 if dtype == torch.float64 else torch.int32) for n in (12, 1))
    sort.encode_items[(1,)](
        scores, targets, keys, memory(12, dtype=torch.int8), memory(2, dtype=torch.int32), lowest,
        12, 1, 1, 12, 0, 1, 12, 0, 1, -1, HAS_IGNORE=True, BLOCK_N=16,
    )  # fmt: skip
    *keys, last = keys.tolist()
    assert last > max(keys)  # which is ignored
    for one, score in zip(keys, ends, strict=True):
        assert [one < key for key in keys] == [score > other for other in ends]
        assert [one == key for key in keys] == [score == other for other in ends]


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    often((torch.float64, -1), full=[(torch.bfloat16, None), (torch.float16, -1), (torch.float32, -1)]),
)
def test_sort_and_split(dtype: torch.dtype, ignore_index: int | None) -> None:
    scores, targets = everything(dtype)
    rankings, items = scores.shape
    # Three axes of any strides, other ones for the targets.
    strided = scores.view(-1, 4, items).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    sparse = targets.view(-1, 4, items).repeat_interleave(2, 2).to(torch.int16)[..., ::2]
    given = Split.of(strided, sparse, ignore_index).sorted
    v, order, s = (each.view(rankings, items).cpu() for each in (given.v, given.order, given.s))
    for number, (score, target) in enumerate(zip(scores.double().cpu(), targets.cpu(), strict=True)):
        group = torch.where(target == 1, 0, torch.where(target == 0, 1, 2))
        positives, negatives = int((group == 0).sum()), int((group == 1).sum())
        taken = score[group < 2]
        wrong = bool(((group == 2) & ((target != -1) | (ignore_index is None))).any())
        flags = wrong + 2 * int(not taken.isfinite().all()) + 4 * int(taken.isnan().any())
        assert given.counts[number, :3].tolist() == [positives, negatives, flags]
        kept = positives + negatives
        if taken.isnan().any() or not kept:
            assert sorted(order[number].tolist()) == list(range(items))
            continue
        expected = np.lexsort((np.arange(items), -score, group))[:kept]
        np.testing.assert_array_equal(order[number, :kept], expected)
        np.testing.assert_array_equal(v[number, :kept], score[expected])
        # From where sums count: the score as many places from the top as half the positives are.
        centre = float(taken.sort(descending=True).values[positives // 2])
        assert given.centre[number] == centre
        if taken.isfinite().all():
            gaps = score[expected][positives:] - centre
            sums = torch.cat([torch.zeros(positives, dtype=torch.float64), gaps.cumsum(0)])
            torch.testing.assert_close(s[number, :kept], sums, rtol=0, atol=1e-14 * float(gaps.abs().sum()))


@pytest.mark.parametrize(
    ("loss", "epsilon"), often(("direct", 0.7), ("perceptron", 0.7), full=[("direct", 1e-9), ("ranking", 1e300)])
)
def test_what_is_cut(loss: str, epsilon: float) -> None:
    """Near scores are in the same order, equal where the scores are, and no gap is wider than is ever crossed."""
    uncut_batch = Split.of_everything(torch.float64)
    uncut = uncut_batch.sorted
    batch = Split.of(*everything(torch.float64), task=Task(loss, 1, "auto", epsilon))
    before, flags = uncut.v.view(batch.rankings, -1), uncut.counts[:, 2]
    after, far = batch.sorted.v.view(batch.rankings, -1), batch.sorted.counts[:, 2] & FAR > 0
    assert far.any() == (epsilon < 1)
    assert (batch.sorted.counts[:, 2] & 5 == flags & 5).all()
    for number, (positives, negatives, flag, _) in enumerate(uncut.counts.tolist()):
        if positives and negatives and not flag:
            p, n = uncut_batch.classes(number)
            reach = float(torch.cat([p, n]).max() - p.min())
            assert far[number] == (reach > epsilon * max(2.0**20, negatives))
    sums = batch.sorted.s.view(batch.rankings, -1)
    for number, (positives, negatives, *_) in enumerate(batch.sorted.counts.tolist()):
        if not far[number] or loss == "perceptron":
            assert torch.equal(after[number].nan_to_num(7.0), before[number].nan_to_num(7.0))
            continue
        taken = positives + negatives
        old, new = before[number, :taken], after[number, :taken]
        assert (new[:positives].diff() <= 0).all()
        assert (new[positives:].diff() <= 0).all()
        assert (new[:, None] == new)[old[:, None] == old].all()
        largest = float(new.abs().max())
        # Of all items by score. Of equal ones of two classes the positive may stand a rounding off.
        gaps = -new[old.argsort(descending=True, stable=True)].diff()
        assert (gaps >= 0).all()
        assert (gaps <= epsilon * negatives * (1 + 1e-12) + 1e-15 * largest).all()
        wide = -old.sort(descending=True).values.diff()
        narrow = wide <= epsilon * negatives
        assert ((gaps - wide).abs()[narrow] <= 1e-13 * largest).all()
        expected = (new[positives:] - batch.sorted.centre[number]).cumsum(0)
        torch.testing.assert_close(sums[number, positives:taken], expected, rtol=0, atol=1e-13 * taken * largest)


@pytest.mark.parametrize(
    ("loss", "dtype", "items", "span"),
    often(
        ("direct", torch.float64, 13 * TILE - 1, 1),
        ("ranking", torch.float32, 7 * TILE, 3),
        full=[
            ("hinge", torch.float64, 8 * TILE + 5, 2),
            ("ranking", torch.float64, 25 * TILE - 1, 2),
            ("direct", torch.float64, 25 * TILE, 5),
            ("hinge", torch.float32, 8 * TILE - 1, 8),
            ("direct", torch.float16, 7 * TILE + 1, 2),
        ],
    ),
)
def test_gaps_are_cut_across_spans(loss: str, dtype: torch.dtype, items: int, span: int) -> None:
    check_cut(loss, dtype, items, span)


@pytest.mark.parametrize(
    ("name", "dtype", "span"),
    often(
        ("negative", torch.float64, 3),
        full=[
            ("positive", torch.float32, 2),
            ("symmetric", torch.float64, 2),
            ("hinge", torch.float64, 1),
            ("hinge", torch.float32, 4),
            ("perceptron", torch.float64, 2),
        ],
    ),
)
def test_losses_of_gaps_cut_across_spans(name: str, dtype: torch.dtype, span: int) -> None:
    with mock.patch.object(triton, "launch_for", lambda rankings, items, *_: spanning(span, rankings, items)):
        checks.check_far(name, DEVICE, dtype, 301)
        if name in ("positive", "negative"):
            checks.check_far_ranking(name, DEVICE, dtype, 301)

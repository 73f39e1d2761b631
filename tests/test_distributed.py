"""Rankings spread over processes: losses and gradients are those of one process.

The workers run in processes of their own and return what they saw, or raise.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import fastap
from fastap.distributed import gather
from fastap.distributed import loss as exchange
from tests.processes import results
from tests.spread import EVEN, SIZES, by_item, numbers, same_as_one_process, value_and_gradient


def every_layout(rank: int) -> list[Tensor]:
    items = same_as_one_process(rank, "items", [*EVEN, "groups", "offsets"], "cpu")
    return items + same_as_one_process(rank, "rankings", ["rows", "columns", "groups", "offsets"], "cpu")


@SIZES
def test_losses_are_those_of_one_process(ranks: int, tmp_path: Path) -> None:
    first, *others = results(every_layout, ranks, tmp_path)
    assert len(first) > 150
    for values in others:
        for ours, theirs in zip(first, values, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def shared_out(rank: int) -> tuple[int, int]:
    """How many items of how many rankings this rank solved."""
    solved, solve = [], exchange._solve

    def spy(batch: Any, call: Any, ids: Any) -> Any:
        solved.append((batch.scores.numel(), batch.rankings))
        return solve(batch, call, ids)

    exchange._solve = spy  # of this process alone, and last
    given = by_item("columns", [8, 8, 8, 8], torch.float32, "cpu").parts[rank]
    fastap.direct_ap_loss(**given, ignore_index=-1, process_group=dist.group.WORLD)
    return solved[0]


def test_ids_are_spread_evenly() -> None:
    for stride, ranks in itertools.product([1, 2, 64, 1000, 4096, 80 * 7], [2, 3, 4, 64]):
        owners = exchange._owners(torch.arange(-3000, 3000) * stride, ranks)
        counts = owners.bincount(minlength=ranks)
        assert counts.shape[0] == ranks
        assert counts.min() > 0.5 * 6000 / ranks
        assert counts.max() < 1.5 * 6000 / ranks
    extremes = exchange._owners(torch.tensor([-(2**63), 2**63 - 1, -1]), 3)
    assert ((extremes >= 0) & (extremes < 3)).all()


def spoiled(rank: int) -> None:
    """A NaN on one rank is in its ranking on all ranks, and in no other."""
    given = by_item("columns", [2, 3, 0, 1], torch.float64, "cpu").parts[rank]
    if rank == 1:
        given["scores"][2, 4] = torch.nan
    loss = partial(fastap.direct_ap_loss, ignore_index=-1, reduction="none", process_group=dist.group.WORLD)
    value, gradient = value_and_gradient(loss, given, torch.ones(7))
    assert value.isnan().nonzero().tolist() == [[4]]
    assert gradient[:, 4].isnan().all()
    assert gradient[:, :4].isfinite().all()
    assert gradient[:, 5:].isfinite().all()


def in_subgroups(rank: int) -> None:
    """Ranks 0 and 2 have one batch, 1 and 3 another."""
    even, odd = dist.new_group([0, 2]), dist.new_group([1, 3])
    ours, theirs = (odd, even) if rank % 2 else (even, odd)
    spread = by_item("columns", [4 + rank % 2, 5], torch.float64, "cpu")
    loss = partial(fastap.ap_hinge_loss, ignore_index=-1)
    value, gradient = value_and_gradient(partial(loss, process_group=ours), spread.parts[rank // 2], None)
    wanted, wanted_gradient = value_and_gradient(loss, spread.whole, None)
    torch.testing.assert_close(value, wanted, rtol=0, atol=0)
    torch.testing.assert_close(gradient / 2, spread.of_part(wanted_gradient, rank // 2), rtol=0, atol=0)
    part = spread.parts[rank // 2]["scores"]
    torch.testing.assert_close(gather(part, process_group=ours), spread.whole["scores"], rtol=0, atol=0)
    for call in (lambda: loss(**spread.whole, process_group=theirs), lambda: gather(part, process_group=theirs)):
        with pytest.raises(ValueError, match="process_group must be a group that this process is in"):
            call()
    if rank % 2:
        dist.destroy_process_group(odd)
        with pytest.raises(ValueError, match="process_group must be a group that has not been destroyed"):
            loss(**spread.whole, process_group=odd)


def four(rank: int) -> tuple[int, int]:
    spoiled(rank)
    in_subgroups(rank)
    return shared_out(rank)


def test_ranks_divide_the_work_nan_stays_in_its_ranking_and_groups_may_be_some_ranks(tmp_path: Path) -> None:
    assert results(four, 4, tmp_path) == [(32, 1), (64, 2), (64, 2), (64, 2)]


IDS = [1, 2, 2**63 + 5]


def large_ids(part: slice, group: Any) -> Tensor:
    """Losses of groups whose ids only an unsigned type holds, weighted by their places in the order of ids."""
    generator = numbers(3)
    scores, targets = torch.randn(24, generator=generator), torch.arange(24) % 2
    groups = torch.tensor(IDS * 8, dtype=torch.uint64)
    weight = torch.tensor([1.0, 10.0, 100.0])
    return fastap.direct_ap_loss(
        scores[part], targets[part], groups=groups[part], weight=weight, reduction="none", process_group=group
    )


def large_ids_of(rank: int) -> Tensor:
    return large_ids(slice(13 * rank, 13 + 11 * rank), dist.group.WORLD)


def test_ids_beyond_64_signed_bits_keep_their_order(tmp_path: Path) -> None:
    expected = large_ids(slice(None), None)
    assert (expected > 0).all()
    for value in results(large_ids_of, 2, tmp_path):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)

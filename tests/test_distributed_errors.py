"""What is wrong on one rank shows on all of them, and nobody waits for one that is gone."""

from __future__ import annotations

import os
import time
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.masked import masked_tensor

import fastap
from fastap.distributed import gather, gather_scores
from fastap.distributed import loss as exchange
from tests.processes import outcomes, results
from tests.spread import SIZES, by_item

BASE: dict[str, Any] = {"scores": torch.arange(4.0), "targets": torch.tensor([1, 0, 1, 0])}
RAGGED: dict[str, Any] = {**BASE, "offsets": torch.tensor([0, 1, 4])}
# The call of all ranks, what differs on rank 1, and the error on all of them.
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "targets": (
        BASE,
        {"targets": torch.tensor([1, 0, 2, 0])},
        "rank 1 of process_group: targets must be 0 or 1, got 2",
    ),
    "targets of its own rankings": (
        {**BASE, "sharded": "rankings"},
        {"targets": torch.tensor([1, 0, 0.5, 0])},
        "rank 1 of process_group: targets must be 0 or 1, got 0.5",
    ),
    "offsets": (RAGGED, {"offsets": torch.tensor([0, 1, 3])}, "rank 1 of process_group: offsets must begin with 0"),
    "offsets of its own rankings": (
        {**RAGGED, "sharded": "rankings"},
        {"offsets": torch.tensor([0, 3, 2, 4])},
        "rank 1 of process_group: offsets must not fall",
    ),
    "weights of its own rankings": (
        {**RAGGED, "sharded": "rankings", "weight": torch.ones(2)},
        {"weight": -torch.ones(2)},
        "rank 1 of process_group: weight must be finite in torch.float64 and not negative",
    ),
    "number of rankings": (
        RAGGED,
        {"offsets": torch.tensor([0, 1, 2, 4])},
        "must make the same call, got on rank 0: .*, 2 rankings.* on rank 1: .*, 3 rankings",
    ),
    "shape": (
        {**BASE, "dim": 0},
        {name: tensor[:, None] for name, tensor in BASE.items()},
        r"must make the same call, got on rank 0: .* shape \(\*\).* on rank 1: .* shape \(1, \*\)",
    ),
    "dtype": (BASE, {"scores": torch.arange(4).double()}, "must make the same call, .*float32.*float64"),
    "epsilon": (BASE, {"epsilon": 0.5}, "must make the same call, .*epsilon=1.0.*epsilon=0.5"),
    "reduction": (BASE, {"reduction": "sum"}, "must make the same call, .*reduction='mean'.*reduction='sum'"),
    "sharded": (BASE, {"sharded": "rankings"}, "must make the same call, .*sharded='items'.*sharded='rankings'"),
    "weight": (
        {**RAGGED, "weight": torch.tensor([1.0, 2.0])},
        {"weight": torch.tensor([2.0, 1.0])},
        "weight must be the same on every rank",
    ),
    "length of weight": (
        {**BASE, "groups": torch.tensor([7, 8, 7, 8]), "weight": torch.ones(3)},
        {},
        "weight must have one entry for each of the 2 rankings, got 3",
    ),
}


def refused(rank: int) -> None:
    for case, (call, differing, message) in WRONG.items():
        given = {**call, **(differing if rank == 1 else {})}
        begun = time.monotonic()
        with pytest.raises(ValueError, match=message):
            fastap.direct_ap_loss(**given, process_group=dist.group.WORLD)
        assert time.monotonic() - begun < 5, case
    for given, message in (
        (BASE["scores"].double() if rank == 1 else BASE["scores"], "must make the same call, .*float32.*float64"),
        (torch.zeros(2, 3 + rank), r"must make the same call, .*\(\*, 3\).*\(\*, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            gather(given)
    with pytest.raises(ValueError, match=r"must make the same call, got on rank 0: gather .*; on rank 1: Objective"):
        gather(BASE["scores"]) if rank == 0 else fastap.direct_ap_loss(**BASE, process_group=dist.group.WORLD)
    # And the group goes on to be used.
    assert fastap.direct_ap_loss(**BASE, process_group=dist.group.WORLD) > 0


@SIZES
def test_what_is_wrong_on_one_rank_is_an_error_on_all(ranks: int, tmp_path: Path) -> None:
    results(refused, ranks, tmp_path)


TIMEOUT = 3.0


def left_alone(rank: int, how: str) -> None:
    # Of this group only, so that a busy machine has time to start.
    group = dist.new_group(timeout=timedelta(seconds=TIMEOUT))
    given = by_item("columns", [3, 3, 3, 3], torch.float64, "cpu").parts[rank]
    loss = partial(fastap.direct_ap_loss, ignore_index=-1, process_group=group)
    loss(**given)
    if rank == 1:
        if how == "dies before":
            os._exit(9)
        if how == "stays away":
            return
        exchange.Link.exchange = lambda *_: os._exit(9)  # after the header
    if how == "dies in the backward pass of gather":
        gather(given["scores"].requires_grad_(), process_group=group).sum().backward()
    loss(**given)


@SIZES
@pytest.mark.parametrize("how", ["dies before", "dies within", "dies in the backward pass of gather", "stays away"])
def test_nobody_waits_for_a_rank_that_is_gone_longer_than_the_timeout(ranks: int, how: str, tmp_path: Path) -> None:
    ended = outcomes(left_alone, ranks, tmp_path, how)
    assert ended.pop(1).died == how.startswith("dies")
    for outcome in ended:
        assert isinstance(outcome.raised, RuntimeError), outcome
        assert "of process_group could not" in str(outcome.raised)
        assert "another rank has died" in str(outcome.raised)
        assert outcome.has_cause
        # With what came before.
        assert outcome.seconds < TIMEOUT + 4


@pytest.mark.parametrize("layout", range(8))
def test_gather_refuses_what_does_not_lie_in_one_piece(layout: int) -> None:
    given = torch.ones(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are in beta, some deprecated
        tensors = [
            given.to_sparse(),
            given.to_sparse_csr(),
            given.to_mkldnn(),
            torch.quantize_per_tensor(given, 1.0, 0, torch.quint8),
            torch.quantize_per_channel(given, torch.ones(2), torch.zeros(2), 0, torch.qint8),
            masked_tensor(given, given > 0),
            *(torch.nested.nested_tensor(list(given), layout=how) for how in (torch.strided, torch.jagged)),
        ]
    with pytest.raises(TypeError, match=r"^tensor must"):
        gather(tensors[layout])


@pytest.mark.parametrize("place", [0, 1, 65_519, 65_520, 69_999])
def test_other_weights_have_another_checksum(place: int) -> None:
    weight = torch.ones(70_000)
    other = weight.clone()
    other[place] = 5.0
    assert not torch.equal(exchange._checksum(weight), exchange._checksum(other))


def test_wrong_arguments_of_gather() -> None:
    scores, targets = torch.zeros(3), torch.zeros(3)
    for call, error, message in (
        (lambda: gather(scores), RuntimeError, "torch.distributed is not initialized"),
        (lambda: gather_scores(scores, targets), RuntimeError, "torch.distributed is not initialized"),
        (lambda: gather([1.0]), TypeError, "tensor must be a torch.Tensor, got list"),
        (lambda: gather(torch.tensor(1.0)), ValueError, "tensor must have at least one dimension"),
        (lambda: gather(scores, dim=1), ValueError, r"dim must be in \[-1, 0\]"),
        (lambda: gather(scores, process_group="world"), TypeError, "process_group must be a .*, got str"),
        (lambda: gather_scores(scores, targets[:2]), ValueError, "targets must have the shape of scores"),
        (lambda: gather_scores(scores, targets, groups=targets), TypeError, "groups must have an integer dtype"),
        (lambda: gather_scores(scores, targets, groups=targets[:2].long()), ValueError, "groups must have the shape"),
    ):
        with pytest.raises(error, match=message):
            call()

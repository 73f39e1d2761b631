"""Rankings spread over processes: losses and gradients are those of one process, errors show on all ranks, none hangs.

The workers run in processes of their own and return what they saw, or raise.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastap
from fastap import exchange
from fastap.distributed import gather, gather_scores
from tests.processes import outcomes, results

SIZES = pytest.mark.parametrize("ranks", [2, 4])
LOSSES: dict[str, Callable[..., Tensor]] = {
    "positive": partial(fastap.direct_ap_loss, epsilon=0.7),
    "negative": partial(fastap.direct_ap_loss, epsilon=0.7, update="negative"),
    "hinge": partial(fastap.ap_hinge_loss, margin=0.7),
    "perceptron": fastap.ap_perceptron_loss,
}
REDUCTIONS = ("mean", "sum", "none")
# Items of each rank; as many as there are ranks are used.
SHARES = ([5, 2, 0, 9], [0, 7, 1, 0], [0, 3, 0, 0])
# (items of a rank) to the shape, and the axis along which they lie
EVEN = {
    "one ranking": (lambda n: (n,), 0),
    "rows": (lambda n: (3, n), 1),
    "columns": (lambda n: (n, 7), 0),
    "middle": (lambda n: (2, n, 3), 1),
}


class Spread:
    """A batch in parts, one a rank, and whole, for one process."""

    def __init__(self, parts: list[dict[str, Any]], whole: dict[str, Any], of_part: Callable[[Tensor, int], Tensor]):
        self.parts, self.whole, self.of_part = parts, whole, of_part


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def items(
    shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype, device: str, *, tied: bool = True
) -> dict[str, Any]:
    """Scores, some of them equal, and targets; -1 is to be ignored."""
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = (torch.rand(shape, generator=generator) < 0.4).long()
    targets[torch.rand(shape, generator=generator) < 0.1] = -1
    return {"scores": ((scores * 4).round() / 4).to(dtype).to(device), "targets": targets.to(device)}


def by_item(layout: str, lengths: list[int], dtype: torch.dtype, device: str) -> Spread:
    """Some items of every ranking on every rank."""
    generator = numbers(sum(lengths) + 17 * len(layout))
    if layout == "offsets":
        return _by_offset(lengths, generator, dtype, device)
    shape, dim = EVEN.get(layout, EVEN["one ranking"])
    parts = [items(shape(length), generator, dtype, device) for length in lengths]
    names = ["scores", "targets"]
    if layout == "groups":
        names.append("groups")
        # Multiples, negative ones, and such as only 64 bits hold.
        ids = torch.tensor([-4096, 0, 4096, 8192, 2**62, -(2**63)])
        for part in parts:
            part["groups"] = ids[torch.randint(6, part["scores"].shape, generator=generator)].to(device)
    else:
        for part in parts:
            part["dim"] = dim
    whole = {**parts[0], **{name: torch.cat([part[name] for part in parts], dim) for name in names}}
    return Spread(parts, whole, lambda tensor, rank: tensor.split(lengths, dim)[rank])


def _by_offset(lengths: list[int], generator: torch.Generator, dtype: torch.dtype, device: str) -> Spread:
    rankings, parts, pieces = 5, [], []
    for length in lengths:
        cuts = torch.randint(length + 1, (rankings - 1,), generator=generator).sort().values
        offsets = torch.tensor([0, *cuts.tolist(), length])
        parts.append({**items((length,), generator, dtype, device), "offsets": offsets.to(device)})
    ends = list(itertools.accumulate(lengths))
    for ranking in range(rankings):
        for part, end, length in zip(parts, ends, lengths, strict=True):
            first, last = part["offsets"][ranking : ranking + 2].tolist()
            pieces.append(torch.arange(first, last) + end - length)
    order = torch.cat(pieces)
    total = sum(part["offsets"].cpu().diff() for part in parts)
    whole = {name: torch.cat([part[name] for part in parts])[order] for name in ("scores", "targets")}
    whole["offsets"] = nn.functional.pad(total.cumsum(0), (1, 0)).to(device)
    return Spread(parts, whole, lambda tensor, rank: tensor[order.argsort()].split(lengths)[rank])


def by_ranking(layout: str, rankings: list[int], dtype: torch.dtype, device: str) -> Spread:
    """Whole rankings, so many on each rank."""
    generator, length = numbers(sum(rankings) + 17 * len(layout)), 9
    if layout in ("rows", "columns"):
        axis = 0 if layout == "rows" else 1
        shape = (lambda n: (n, length)) if layout == "rows" else (lambda n: (length, n))
        parts = [{**items(shape(count), generator, dtype, device), "dim": 1 - axis} for count in rankings]
        whole = {**parts[0], **{name: torch.cat([p[name] for p in parts], axis) for name in ("scores", "targets")}}
        return Spread(parts, whole, lambda tensor, rank: tensor.split(rankings, axis)[rank])
    parts, first = [], 0
    for count in rankings:
        sizes = torch.randint(1, 12, (count,), generator=generator)
        part = items((int(sizes.sum()),), generator, dtype, device)
        if layout == "groups":
            part["groups"] = (torch.arange(count) + first - 3).repeat_interleave(sizes).to(device)
            # In whatever order they come.
            order = torch.randperm(int(sizes.sum()), generator=generator).to(device)
            part["groups"] = part["groups"][order]
        else:
            part["offsets"] = nn.functional.pad(sizes.cumsum(0), (1, 0)).to(device)
        parts.append(part)
        first += count
    lengths = [part["scores"].shape[0] for part in parts]
    names = ["scores", "targets", *(["groups"] if layout == "groups" else [])]
    whole = {name: torch.cat([part[name] for part in parts]) for name in names}
    if layout == "offsets":
        sizes = torch.cat([part["offsets"].diff() for part in parts])
        whole["offsets"] = nn.functional.pad(sizes.cumsum(0), (1, 0))
    return Spread(parts, whole, lambda tensor, rank: tensor.split(lengths)[rank])


def value_and_gradient(
    loss: Callable[..., Tensor], given: dict[str, Any], weigh: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = given["scores"].detach().clone().requires_grad_()
    value = loss(**{**given, "scores": scores})
    (value if weigh is None else (value * weigh).sum()).backward()
    assert scores.grad is not None
    assert scores.grad.dtype == scores.dtype
    return value.detach(), scores.grad


def number_of_rankings(whole: dict[str, Any]) -> tuple[int, ...]:
    if "groups" in whole:
        return (whole["groups"].unique().shape[0],)
    if "offsets" in whole:
        return (whole["offsets"].shape[0] - 1,)
    shape = list(whole["scores"].shape)
    del shape[whole["dim"]]
    return tuple(shape)


CASES: list[tuple[str, str, bool, torch.dtype]] = [
    *itertools.product(LOSSES, ["mean"], [False], [torch.float64]),
    *itertools.product(["negative"], REDUCTIONS, [False, True], [torch.float64, torch.float32]),
    *itertools.product(["hinge"], ["mean", "none"], [True], [torch.float16, torch.bfloat16]),
]


def same_as_one_process(rank: int, sharded: str, layouts: Sequence[str], device: str) -> list[Tensor]:
    """Every case on every layout; returns the values, which are to be the same on all ranks."""
    ranks, group, values = dist.get_world_size(), dist.group.WORLD, []
    spread_by, shares = (by_item, SHARES) if sharded == "items" else (by_ranking, [[2, 0, 3, 1], [0, 4, 0, 0]])
    for layout, share, (name, reduction, weighted, dtype) in itertools.product(layouts, shares, CASES):
        case = f"{sharded}, {layout}, {share[:ranks]}, {name}, {reduction}, {weighted=}, {dtype}"
        spread = spread_by(layout, share[:ranks], dtype, device)
        mine, whole, loss = dict(spread.parts[rank]), dict(spread.whole), LOSSES[name]
        shape = number_of_rankings(whole)
        incoming = torch.rand(shape, generator=numbers(5), dtype=torch.float64).to(device)
        weigh = None if reduction != "none" else incoming.to(torch.float64 if dtype == torch.float64 else torch.float32)
        if weighted:
            whole["weight"] = torch.rand(shape, generator=numbers(6)).to(device)
            mine["weight"] = whole["weight"]
        if sharded == "rankings":
            held = number_of_rankings(mine)[0]
            first = sum(number_of_rankings(part)[0] for part in spread.parts[:rank])
            if weighted:
                mine["weight"] = whole["weight"][first : first + held]
        both = partial(loss, ignore_index=-1, reduction=reduction)
        wanted, wanted_gradient = value_and_gradient(both, whole, weigh)
        if sharded == "rankings" and reduction == "none":
            assert weigh is not None
            wanted, weigh = wanted[first : first + held], weigh[first : first + held]
        got, gradient = value_and_gradient(partial(both, process_group=group, sharded=sharded), mine, weigh)
        # On a GPU one process adds up in another order.
        exact = device == "cpu"
        torch.testing.assert_close(
            got,
            wanted,
            rtol=0 if exact else 1e-6,
            atol=0 if exact else 1e-6,
            msg=lambda text, case=case: f"{case}: {text}",
        )
        # Both are rounded to 16 bits, one of them after it was doubled.
        torch.testing.assert_close(
            gradient / ranks,
            spread.of_part(wanted_gradient, rank),
            rtol=0,
            atol={torch.float64: 0 if exact else 1e-7, torch.float32: 0 if exact else 1e-6}.get(dtype, 1e-6),
            msg=lambda text, case=case: f"{case}: {text}",
        )
        if sharded == "items" or reduction != "none":
            values.append(got.cpu())
    return values


@SIZES
@pytest.mark.parametrize(
    ("sharded", "layouts"),
    [
        ("items", ["one ranking", "rows", "columns", "middle"]),
        ("items", ["groups", "offsets"]),
        ("rankings", ["rows", "columns", "groups", "offsets"]),
    ],
    ids=["items", "items of ragged rankings", "rankings"],
)
def test_losses_are_those_of_one_process(ranks: int, sharded: str, layouts: list[str], tmp_path: Path) -> None:
    first, *others = results(same_as_one_process, ranks, tmp_path, sharded, layouts, "cpu")
    assert len(first) > 50
    for values in others:
        for ours, theirs in zip(first, values, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_group_of_one_is_no_group(tmp_path: Path) -> None:
    for sharded in ("items", "rankings"):
        results(same_as_one_process, 1, tmp_path, sharded, ["columns", "groups", "offsets"], "cpu")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def examples(rank: int, ranks: int, batch: int) -> tuple[Tensor, Tensor, slice]:
    """A whole batch of inputs and targets, of several classes, and which part of it is the rank's; one has nothing."""
    bounds = {1: [0, 23], 2: [0, 0, 23], 4: [0, 6, 6, 19, 23]}[ranks]
    generator = numbers(batch)
    inputs = torch.randn(23, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.rand(23, 5, generator=generator) < 0.3, slice(bounds[rank], bounds[rank + 1])


def gradients(model: nn.Module) -> list[Tensor]:
    each = [parameter.grad for parameter in model.parameters()]
    # FSDP's are spread too.
    return [gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient for gradient in each]


def trained(rank: int, shard: str, how: str) -> None:
    """Parameters of one process on the whole batch and of the ranks on their parts get the same gradients and steps."""
    from torch.distributed.fsdp import fully_shard

    ranks, group = dist.get_world_size(), dist.group.WORLD
    alone, spread = network(), network()
    spread = fully_shard(spread) if shard == "FSDP2" else DistributedDataParallel(spread)
    options: dict[str, Any] = {"dim": 0, "process_group": group}
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (alone, spread)]
    for name, step in itertools.product(LOSSES if shard == "DDP" else ["negative"], range(2)):
        loss, scale = LOSSES[name], 1024.0 if step else 1.0
        for optimizer in optimizers:
            optimizer.zero_grad()
        for batch in range(3):
            inputs, targets, mine = examples(rank, ranks, 10 * step + batch)
            wanted = loss(alone(inputs), targets, dim=0)
            last = batch == 2
            if shard == "FSDP2":
                spread.set_requires_gradient_sync(last)
                pause: Any = contextlib.nullcontext()
            else:
                pause = contextlib.nullcontext() if last else spread.no_sync()
            with pause:
                scores = spread(inputs[mine])
                if how == "process_group":
                    got = loss(scores, targets[mine], **options)
                else:
                    got = loss(*gather_scores(scores, targets[mine], dim=0), dim=0)
                (got * scale / 3).backward()
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
            (wanted * scale / 3).backward()
        assert alone[0].weight.grad.abs().max() > 1e-3
        for ours, theirs in zip(gradients(spread), gradients(alone), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * scale)
        for model, optimizer in zip((alone, spread), optimizers, strict=True):
            for parameter in model.parameters():
                parameter.grad /= scale
            optimizer.step()


@SIZES
@pytest.mark.parametrize("shard", ["DDP", "FSDP2"])
@pytest.mark.parametrize("how", ["process_group", "gather_scores"])
def test_averaged_gradients_are_those_of_one_process(ranks: int, shard: str, how: str, tmp_path: Path) -> None:
    """With gradients accumulated over batches, and a scaled loss."""
    results(trained, ranks, tmp_path, shard, how)


def shared_out(rank: int) -> tuple[int, int]:
    """How many items of how many rankings this rank solved."""
    solved, solve = [], exchange._solve

    def spy(batch: Any, call: Any) -> Any:
        solved.append((batch.scores.numel(), batch.rankings))
        return solve(batch, call)

    exchange._solve = spy
    given = by_item("columns", [8, 8, 8, 8], torch.float32, "cpu").parts[rank]
    fastap.direct_ap_loss(**given, ignore_index=-1, process_group=dist.group.WORLD)
    return solved[0]


def test_ranks_divide_the_work(tmp_path: Path) -> None:
    assert results(shared_out, 4, tmp_path) == [(32, 1), (64, 2), (64, 2), (64, 2)]


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


def test_nan_stays_in_its_ranking(tmp_path: Path) -> None:
    results(spoiled, 4, tmp_path)


def compiled(rank: int) -> None:
    spreads = {
        "rankings": by_ranking("rows", [3, 1], torch.float64, "cpu"),
        "items": by_item("columns", [3, 9], torch.float64, "cpu"),
    }
    for sharded, spread in spreads.items():
        options = {"dim": spread.whole["dim"], "ignore_index": -1, "process_group": dist.group.WORLD}
        loss = fastap.DirectAPLoss(epsilon=0.7, sharded=sharded, **options)
        given = {name: spread.parts[rank][name] for name in ("scores", "targets")}
        wanted = value_and_gradient(loss, given, None)
        got = value_and_gradient(torch.compile(loss, backend="aot_eager", fullgraph=True), given, None)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert wanted[1].abs().max() > 0
    # Gathering breaks the graph.
    leaf = given["scores"].clone().requires_grad_()
    value = torch.compile(lambda part: (gather(part * 2) ** 2).sum(), backend="aot_eager")(leaf)
    torch.testing.assert_close(value, (spread.whole["scores"] * 2).square().sum())
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(gradient, 8 * leaf.detach() * dist.get_world_size())


def test_compiled(tmp_path: Path) -> None:
    results(compiled, 2, tmp_path)


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


def test_subgroups(tmp_path: Path) -> None:
    results(in_subgroups, 4, tmp_path)


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


@pytest.mark.parametrize(
    ("ranks", "how"),
    [
        (2, "dies before"),
        (4, "dies before"),
        (4, "dies within"),
        (4, "dies in the backward pass of gather"),
        (4, "stays away"),
    ],
)
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


def gathered(rank: int, device: str) -> None:
    """Equal to ``torch.cat``, in value, gradient and second derivative, each rank with a loss of its own."""
    ranks, group = dist.get_world_size(), dist.group.WORLD
    for share, dim in itertools.product(SHARES, (0, 1, -1)):
        lengths = share[:ranks]
        whole = torch.randn(3, 4, sum(lengths), generator=numbers(1), dtype=torch.float64).movedim(-1, dim).to(device)
        leaves = [part.clone().requires_grad_() for part in whole.split(lengths, dim)]
        theirs = torch.cat(leaves, dim)
        leaf = leaves[rank].detach().clone().requires_grad_()
        got = gather(leaf, dim=dim, process_group=group)
        torch.testing.assert_close(got, whole, rtol=0, atol=0)
        (first,) = torch.autograd.grad((got**3 * (rank + 1)).sum(), leaf, create_graph=True)
        expected = sum(((theirs**3) * (each + 1)).sum() for each in range(ranks))
        wanted = torch.autograd.grad(expected, leaves, create_graph=True)
        torch.testing.assert_close(first, wanted[rank], rtol=1e-13, atol=1e-13)
        (second,) = torch.autograd.grad((first * (rank + 2)).sum(), leaf)
        expected = sum((each * (place + 2)).sum() for place, each in enumerate(wanted))
        torch.testing.assert_close(second, torch.autograd.grad(expected, leaves)[rank], rtol=1e-13, atol=1e-13)

    # Every type, and a view that is laid out in another way.
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.complex64):
        parts = [(torch.arange(6).view(2, 3) % (each + 2)).to(dtype).to(device) for each in range(ranks)]
        torch.testing.assert_close(gather(parts[rank].t()), torch.cat([part.t() for part in parts]), rtol=0, atol=0)
    conjugates = gather(torch.tensor([1 + 2j], device=device).conj())
    torch.testing.assert_close(conjugates, torch.tensor([1 - 2j] * ranks, device=device), rtol=0, atol=0)

    # A part that needs no gradient takes part in the backward pass; without any, nobody needs one.
    part = torch.ones(1 + rank, device=device, requires_grad=rank == 0)
    gather(part).sum().backward()
    assert (part.grad is None) == (rank > 0)
    if rank == 0:
        torch.testing.assert_close(part.grad, torch.full((1,), float(ranks), device=device))
    assert not gather(part.detach()).requires_grad
    with torch.no_grad():
        assert not gather(part).requires_grad

    for layout in ("columns", "rows", "groups"):
        spread = by_item(layout, SHARES[1][:ranks], torch.float32, device)
        given, names = spread.parts[rank], ("scores", "targets", *(["groups"] if layout == "groups" else []))
        together = gather_scores(**given)
        assert len(together) == len(names)
        for name, each in zip(names, together, strict=True):
            torch.testing.assert_close(each, spread.whole[name], rtol=0, atol=0)


@SIZES
def test_gather_is_cat(ranks: int, tmp_path: Path) -> None:
    results(gathered, ranks, tmp_path, "cpu")


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


@pytest.mark.gpu
@pytest.mark.skipif(not (torch.cuda.is_available() and dist.is_nccl_available()), reason="needs CUDA devices and NCCL")
@pytest.mark.filterwarnings("default")
def test_over_nccl(tmp_path: Path) -> None:
    """On as many GPUs as there are, up to four."""
    ranks = min(torch.cuda.device_count(), 4)
    options: dict[str, Any] = {"backend": "nccl", "timeout": 120.0, "limit": 600.0}
    for sharded, layouts in (
        ("items", ["one ranking", "rows", "columns", "groups", "offsets"]),
        ("rankings", ["rows", "columns", "groups", "offsets"]),
    ):
        results(same_as_one_process, ranks, tmp_path, sharded, layouts, "cuda", **options)
    results(gathered, ranks, tmp_path, "cuda", **options)


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

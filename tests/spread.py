"""Batches in parts, one a rank, and whole; and the losses of the parts compared with those of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastap


def _at_noisy_scores(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Every rank has a seed of its own: that of the first counts."""
    seed = 3 if options.get("process_group") is None else 3 + dist.get_rank()
    generator = torch.Generator(scores.device).manual_seed(seed)
    return fastap.direct_ap_loss(
        scores, targets, **options, epsilon=0.7, update="symmetric", noise=0.5, samples=3, generator=generator
    )


SIZES = pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.full)])
LOSSES: dict[str, Callable[..., Tensor]] = {
    "positive": partial(fastap.direct_ap_loss, epsilon=0.7),
    "negative": partial(fastap.direct_ap_loss, epsilon=0.7, update="negative"),
    "symmetric": partial(fastap.direct_ap_loss, epsilon=0.7, update="symmetric"),
    "at noisy scores": _at_noisy_scores,
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

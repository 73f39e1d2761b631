"""Models trained by DDP and FSDP, and compiled, with rankings spread over processes."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastap
from fastap.distributed import gather, gather_scores
from tests.processes import results
from tests.spread import LOSSES, SIZES, by_item, by_ranking, numbers, value_and_gradient


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


def trained_every_way(rank: int) -> None:
    for shard, how in itertools.product(("DDP", "FSDP2"), ("process_group", "gather_scores")):
        trained(rank, shard, how)


@SIZES
def test_averaged_gradients_are_those_of_one_process(ranks: int, tmp_path: Path) -> None:
    """With gradients accumulated over batches, and a scaled loss."""
    results(trained_every_way, ranks, tmp_path)


def compiled(rank: int) -> None:
    spreads = {
        "rankings": by_ranking("rows", [3, 1], torch.float64, "cpu"),
        "items": by_item("columns", [3, 9], torch.float64, "cpu"),
    }
    for sharded, spread in spreads.items():
        options = {"dim": spread.whole["dim"], "ignore_index": -1, "process_group": dist.group.WORLD}
        loss = fastap.DirectAPLoss(epsilon=0.7, noise=0, sharded=sharded, **options)
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

"""Tensors gathered from all processes, in value, gradient and second derivative; and all of it over NCCL."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fastap.distributed import gather, gather_scores
from tests.processes import results
from tests.spread import SHARES, SIZES, by_item, numbers, same_as_one_process


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

"""Whatever is given with a process group: what one process gives without it, or a clear error on every rank."""

from __future__ import annotations

import inspect
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastap
from tests.bad_arguments import BAD, SCORES, TARGETS, refused
from tests.hostile import CHANGES, NAMES, SHARDED, hostile, hostile_retrieval, loss_of
from tests.processes import results
from tests.spread import REDUCTIONS, SIZES, by_item, by_ranking
from tests.strategies import TIMES, examples, scales
from tests.test_robustness import batches
from tests.test_robustness_retrieval import WRONG, Case, arguments, cases


@pytest.fixture(scope="module")
def alone() -> Iterator[dist.ProcessGroup]:
    """A group of this process alone, which meets nobody."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield dist.group.WORLD
        dist.destroy_process_group()


def value_and_gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The gradients of several losses weighted otherwise each."""
    weigh = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).view(value.shape)
    return [value.detach(), *torch.autograd.grad((value * weigh).sum(), leaves)]


def same(given: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, equal_nan=True, **(tolerance or {"rtol": 0, "atol": 0}))


# One process


@examples(60)
@given(
    batch=batches(),
    name=st.sampled_from(NAMES),
    scale=scales(),
    reduction=st.sampled_from(REDUCTIONS),
    sharded=st.sampled_from(SHARDED),
    weighted=st.sampled_from([None, 1.0, 1e-30, 1e30]),
)
def test_a_group_of_one_changes_nothing(
    alone: dist.ProcessGroup,
    batch: dict[str, Any],
    name: str,
    scale: float,
    reduction: str,
    sharded: str,
    weighted: float | None,
) -> None:
    scores, dim = batch["scores"], batch["dim"]
    options: dict[str, Any] = {"dim": dim, "ignore_index": batch["ignore_index"], "reduction": reduction}
    if weighted is not None:
        shape = [*scores.shape]
        del shape[dim]
        options["weight"] = torch.arange(float(torch.Size(shape).numel())).view(shape) * weighted
    both = []
    for more in ({}, {"process_group": alone, "sharded": sharded}):
        leaf = scores.detach().clone().requires_grad_()
        value = loss_of(name, scale)(leaf, batch["targets"], **options, **more)
        both.append(value_and_gradients(value, [leaf]))
    same(*both)


@examples(50)
@given(
    layout=st.sampled_from(["groups", "offsets"]),
    share=st.lists(st.integers(0, 9), min_size=1, max_size=1),
    name=st.sampled_from(NAMES),
    scale=scales(),
    reduction=st.sampled_from(REDUCTIONS),
    sharded=st.sampled_from(SHARDED),
    change=st.sampled_from([*CHANGES]),
)
def test_a_group_of_one_changes_nothing_of_ragged_rankings(
    alone: dist.ProcessGroup,
    layout: str,
    share: list[int],
    name: str,
    scale: float,
    reduction: str,
    sharded: str,
    change: str,
) -> None:
    whole = (by_item if sharded == "items" else by_ranking)(layout, share, torch.float64, "cpu").whole
    both = []
    for more in ({}, {"process_group": alone, "sharded": sharded}):
        leaf = CHANGES[change](whole["scores"]).requires_grad_()
        given = {**whole, "scores": leaf, "ignore_index": -1, "reduction": reduction, **more}
        both.append(value_and_gradients(loss_of(name, scale)(**given), [leaf]))
    same(*both)


@examples(50)
@given(case=cases(similarity="cosine", epsilon=scales()))
def test_a_group_of_one_changes_nothing_of_retrieval(alone: dist.ProcessGroup, case: Case) -> None:
    if case.pairs is not None or case.labels is None:
        return
    both = []
    for group in (None, alone):
        leaves = [
            each.detach().clone().requires_grad_() for each in (case.embeddings, case.references) if each is not None
        ]
        loss = fastap.retrieval_ap_loss(
            leaves[0],
            case.labels,
            *leaves[1:],
            ref_labels=case.ref_labels,
            weight=case.weight,
            process_group=group,
            **case.options,
        )
        both.append(value_and_gradients(loss, leaves))
    # One shares out a mean before it adds up, the other the gradient of each loss.
    wide = all(each.dtype == torch.float64 for each in both[0])
    tolerance = 1e-12 if wide else max(2e-6, *(2 * torch.finfo(each.dtype).eps for each in both[0]))
    same(both[1], both[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("function", ["direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss"])
def test_every_bad_argument_is_named_with_a_group(alone: dist.ProcessGroup, function: str) -> None:
    run = getattr(fastap, function)
    for name in inspect.signature(run).parameters:
        for value, sharded in itertools.product(BAD[name], SHARDED):
            call = {"scores": SCORES, "targets": TARGETS, "dim": -1, "process_group": alone, "sharded": sharded}
            call[name] = value
            if name in ("groups", "offsets"):
                call |= {"scores": SCORES.view(-1), "targets": TARGETS.view(-1)}
            refused(lambda: run(**call), name, value)  # noqa: B023


@pytest.mark.parametrize("name", [name for name in WRONG if name != "indices_tuple"])
def test_every_bad_argument_of_retrieval_is_named_with_a_group(alone: dist.ProcessGroup, name: str) -> None:
    for value in WRONG[name]:
        call = {"process_group": alone, **arguments(name, value)}
        refused(lambda: fastap.retrieval_ap_loss(**call), name, value)  # noqa: B023


# Several


@SIZES
def test_hostile_batches_over_processes(ranks: int, tmp_path: Path) -> None:
    results(hostile, ranks, tmp_path, ranks, 30 * TIMES)


@SIZES
def test_hostile_retrieval_over_processes(ranks: int, tmp_path: Path) -> None:
    results(hostile_retrieval, ranks, tmp_path, ranks, 20 * TIMES)

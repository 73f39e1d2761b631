"""Queries spread over processes: loss and gradient of one process with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastap.retrieval import retrieval_ap_loss
from tests import processes

LENGTHS = {2: (9, 14), 4: (5, 0, 17, 1)}


def whole_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and weights of the queries, for all ranks."""
    generator = torch.Generator().manual_seed(60)
    items = sum(LENGTHS[2])
    assert items == sum(LENGTHS[4])
    inputs = torch.randn(items, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (items,), generator=generator), torch.rand(items, generator=generator)


def parameters() -> Tensor:
    generator = torch.Generator().manual_seed(61)
    return torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()


def options_of_processes() -> list[dict[str, Any]]:
    return [
        {},
        {"reduction": "sum", "similarity": "dot"},
        {"weight": True, "max_pairs": 40},
        {"references": True, "reduction": "mean"},
        {"many": True, "weight": True},
        {"cameras": True, "distractor_label": 2},
        {"reduction": "none"},
    ]


def losses_of(part: slice, group: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The loss of these queries, and the gradient of the parameters times what DDP divides by."""
    inputs, labels, weight = whole_batch()
    options = dict(options)
    if options.pop("many", False):
        also = (labels == 1)[:, None] * F.one_hot(torch.tensor(4))  # a fifth label, beside the second
        labels = F.one_hot(labels, 5) + also
    parameter = parameters()
    references = (inputs.flip(0)[:7] @ parameter, labels.flip(0)[:7]) if options.pop("references", False) else ()
    if options.pop("cameras", False):
        options["cameras"] = torch.arange(len(labels))[part] % 3
    if options.pop("weight", False):
        options["weight"] = weight[part]
    value = retrieval_ap_loss(inputs[part] @ parameter, labels[part], *references, process_group=group, **options)
    total = value.sum() if value.dim() == 0 else (value * torch.arange(1, 1 + len(value))).sum()
    return value.detach(), torch.autograd.grad(total, parameter)[0]


def losses_of_rank(rank: int, ranks: int) -> list[tuple[Tensor, Tensor]]:
    ends = torch.tensor([0, *LENGTHS[ranks]]).cumsum(0).tolist()
    group = torch.distributed.group.WORLD
    results = []
    for options in options_of_processes():
        value, gradient = losses_of(slice(*ends[rank : rank + 2]), group, options)
        torch.distributed.all_reduce(gradient)
        results.append((value, gradient / ranks))
    return results


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.full)])
def test_queries_spread_over_processes(ranks: int, tmp_path: Path) -> None:
    """Value and gradient are those of one process with all of them; one rank has no query, another a single one."""
    found = processes.results(losses_of_rank, ranks, tmp_path, ranks)
    for number, options in enumerate(options_of_processes()):
        value, gradient = losses_of(slice(None), None, options)
        given = [each[number] for each in found]
        if options.get("reduction") == "none":
            torch.testing.assert_close(torch.cat([each for each, _ in given]), value, rtol=1e-12, atol=1e-14)
            continue
        for each, slope in given:
            torch.testing.assert_close(each, value, rtol=1e-12, atol=0)
            torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-12)


# What rank 1 does otherwise than rank 0, and what both are told.
WRONG = {
    "epsilon": ({"epsilon": 0.5}, "must make the same call"),
    "similarity": ({"similarity": "dot"}, "must make the same call"),
    "reduction": ({"reduction": "sum"}, "must make the same call"),
    "weight": ({"weight": torch.ones(4)}, "must make the same call"),
    "references": ({"ref_embeddings": torch.eye(4), "ref_labels": torch.arange(4)}, "must make the same call"),
    "labels": ({"labels": torch.tensor([[0], [1], [1], [0]])}, "must make the same call"),
    "a wrong weight": ({"weight": -torch.ones(4)}, "rank 1 of process_group: weight must be"),
    "a wrong label": ({"labels": torch.tensor([[0], [1], [2], [0]])}, "rank 1 of process_group: labels of shape"),
}


def told(rank: int) -> dict[str, str]:
    found = {}
    for name, (changes, _) in WRONG.items():
        call: dict[str, Any] = {"labels": torch.tensor([0, 0, 1, 1])}
        if name == "a wrong weight":
            call["weight"] = torch.ones(4)
        if name == "a wrong label":
            call["labels"] = torch.tensor([[0], [1], [1], [0]])
        call |= changes if rank else {}
        try:
            retrieval_ap_loss(torch.eye(4), process_group=torch.distributed.group.WORLD, **call)
            found[name] = "nothing"
        except ValueError as error:
            found[name] = str(error)
    pairs = [torch.tensor([0, 1])] * 4
    with pytest.raises(ValueError, match="indices_tuple must be None with a process_group"):
        retrieval_ap_loss(torch.eye(3), None, indices_tuple=pairs, process_group=torch.distributed.group.WORLD)
    value = retrieval_ap_loss(torch.eye(4), torch.tensor([0, 0, 1, 1]), process_group=torch.distributed.group.WORLD)
    found["then"] = str(value.isfinite().item())
    return found


def test_what_is_wrong_on_one_rank_is_an_error_on_all(tmp_path: Path) -> None:
    for found in processes.results(told, 2, tmp_path):
        assert found.pop("then") == "True"  # the group goes on
        for name, (_, message) in WRONG.items():
            assert message in found[name], name

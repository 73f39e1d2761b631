"""The loss is the caller's own: no result is a view of anything, and all may be changed in place."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from fastap import metrics

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "positive": (fastap.direct_ap_loss, {}),
    "negative": (fastap.direct_ap_loss, {"update": "negative"}),
    "hinge": (fastap.ap_hinge_loss, {}),
    "perceptron": (fastap.ap_perceptron_loss, {}),
}


def every_result(name: str, **options: Any) -> list[Tensor]:
    """Losses of one ranking and of some, reduced in every way."""
    function, own = OBJECTIVES[name]
    loss = functools.partial(function, **own)
    leaf, column = scores().requires_grad_(), scores(1, 3, 30).requires_grad_()
    groups = torch.arange(30) % 2
    return [
        each
        for reduction in ("mean", "sum", "none")
        for each in (
            loss(leaf, TARGETS, reduction=reduction, **options),
            loss(leaf, TARGETS, reduction=reduction, weight=torch.tensor(2.0), **options),
            loss(column, TARGETS.expand(3, 30), dim=-1, reduction=reduction, **options),
            loss(column.T, TARGETS[:, None].expand(30, 3), dim=0, reduction=reduction, **options),
            loss(leaf, TARGETS, groups=groups, reduction=reduction, **options),
        )
    ]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_loss_may_be_changed_in_place(name: str, backend: str) -> None:
    for value in every_result(name, backend=backend):
        assert not value._is_view()
        value.add_(1).div_(4).mul_(2)
        value.sum().backward()
    for value in every_result(name, backend=backend):
        value.detach_()


@pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", ["direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss", "direct_cost_loss"])
def test_a_loss_may_be_changed_in_place_inside_a_compiled_function(name: str, reduction: str) -> None:
    targets = torch.arange(30) % 3 if "cost" in name else TARGETS
    loss = getattr(fastap, name)

    def scaled(leaf: Tensor) -> Tensor:
        value: Tensor = loss(leaf, targets, reduction=reduction)
        value += 1
        value /= 2
        return value

    leaf = scores(2, *((30, 3) if "cost" in name else (30,))).requires_grad_()
    given = torch.compile(scaled, backend="aot_eager", fullgraph=True)(leaf)
    torch.testing.assert_close(given, (loss(leaf, targets, reduction=reduction) + 1) / 2)
    given.sum().backward()


def nested(items: Tensor) -> Tensor:
    """As three rankings."""
    given: Tensor = torch.nested.nested_tensor_from_jagged(items, torch.tensor([0, 12, 17, 30]))
    return given


def test_no_result_is_a_view() -> None:
    leaf, logits = scores(3, 4, 30).requires_grad_(), scores(4, 6, 3).requires_grad_()
    targets, classes = TARGETS.expand(4, 30), torch.arange(6) % 3
    embeddings, labels = scores(5, 12, 4).requires_grad_(), torch.arange(12) // 3
    ranked = fastap.loss_augmented_ranking(leaf.T, targets.T, dim=0)
    metric = metrics.AveragePrecision("binary").set_dtype(torch.float64)
    of_queries = metrics.RetrievalMAP().set_dtype(torch.float64)
    values: list[Tensor] = [
        *ranked,
        *fastap.loss_augmented_ranking(leaf, targets, dim=-1),
        *fastap.loss_augmented_ranking(*(nested(each[0]) for each in (leaf, targets))),
        fastap.average_precision(leaf, targets, dim=-1),
        fastap.average_precision(leaf[0], TARGETS),
        fastap.average_precision(leaf.T, targets.T, dim=0),
        fastap.average_precision(leaf[0], TARGETS, groups=torch.arange(30) % 2),
        *(
            fastap.average_precision(leaf, targets, average=each, dim=-1)
            for each in ("macro", "micro", "weighted", "samples")
        ),
        metric(leaf.detach()[0], TARGETS),
        of_queries(leaf.detach()[0], TARGETS, torch.arange(30) % 2),
    ]
    for reduction in ("mean", "sum", "none"):
        values += [
            fastap.direct_cost_loss(logits, classes, reduction=reduction),
            fastap.direct_cost_loss(logits, classes, torch.rand(3, 3), reduction=reduction),
            fastap.cost_hinge_loss(logits, classes, reduction=reduction),
            fastap.cost_perceptron_loss(logits, classes, reduction=reduction),
            fastap.direct_loss(lambda y: logits[y].sum().view(1), 0, 1, reduction=reduction),
            fastap.retrieval_ap_loss(embeddings, labels, reduction=reduction),
            fastap.retrieval_ap_loss(embeddings, labels, reduction=reduction, max_pairs=20),
        ]
    for value in values:
        assert not value._is_view()
        value.add_(1)

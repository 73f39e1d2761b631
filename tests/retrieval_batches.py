"""Embeddings and labels, and the loss of retrieval by definition: a loop over queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap

EXACT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}
# Classes of rows in the order they come.
LAYOUTS = {
    "shuffled": [3, 0, 1, 3, 3, 0, 7, 1, 3, 0, 1, 3],
    "blocks of unequal size": [1, 1, 0, 0, 0, 0, 2, 2, 2],
    "classes of one member": [5, 0, 0, 1, 2, 0, 3],
    "all of one class": [4, 4, 4, 4],
    "no two alike": [3, 1, 2, 0],
    "two alike": [-1, -1],
    "one row": [0],
    "no row": [],
    "large and negative": [2**62, -(2**62), 2**62, 2**53, 2**53 + 1, -(2**62), 2**53],
}
SIMILARITIES: dict[str, Any] = {
    "cosine": "cosine",
    "dot": "dot",
    "euclidean": "euclidean",
    "a function": lambda queries, references: -torch.cdist(queries, references),
}
ONE_QUERY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda query, references: F.cosine_similarity(query[None], references),
    "dot": lambda query, references: (query * references).sum(1),
    "euclidean": lambda query, references: -(query - references).square().sum(1).sqrt(),
    "a function": lambda query, references: -(query - references).square().sum(1).sqrt(),
}


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(seed: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 5, generator=numbers(seed), dtype=dtype).requires_grad_()


def loop(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    similarity: str = "cosine",
    keep: Tensor | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Tensor:
    """The loss by definition: each query's ranking by itself, of the references that ``keep`` (N, M) leaves."""
    options = {"epsilon": 0.1, **options}
    losses, count = [], 0
    for i, query in enumerate(embeddings):
        items, of_items = (embeddings, labels) if references is None else (references, ref_labels)
        kept = torch.ones(len(items), dtype=torch.bool) if keep is None else keep[i].clone()
        if references is None:
            kept[i] = False
        targets = torch.tensor([label == labels[i].item() for label in of_items.tolist()], dtype=torch.bool)[kept]
        takes_part = bool(targets.any() and not targets.all())
        scores = ONE_QUERY[similarity](query, items[kept])
        losses.append(fastap.direct_ap_loss(scores, targets, **options) if takes_part else query.sum() * 0)
        count += takes_part
    if reduction == "none":
        return torch.stack(losses)
    total = sum(losses, embeddings.sum() * 0)
    return total if reduction == "sum" or not count else total / count


def agree(ours: Tensor, theirs: Tensor, leaves: Sequence[Tensor], **tolerance: Any) -> None:
    """Value and gradients; those of several numbers weighted alike."""
    tolerance = tolerance or EXACT
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, **tolerance)
    size = torch.linspace(0.5, 2, ours.numel()).view(ours.shape).to(ours)
    torch.testing.assert_close(
        torch.autograd.grad((ours * size).sum(), leaves),
        torch.autograd.grad((theirs * size).sum(), leaves, materialize_grads=True),
        **tolerance,
    )


# Pairs that are named


def named_pairs(seed: int, queries: int, items: int, share: float) -> tuple[Tensor, Tensor]:
    """Random (N, M) masks of named pairs, relevant and irrelevant, whatever the labels say."""
    relevant, irrelevant = (torch.rand(2, queries, items, generator=numbers(seed)) < share).unbind()
    return relevant & ~irrelevant, irrelevant


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5, generator=numbers(49), dtype=torch.float64))
        self.dropout = nn.Dropout(0.3)

    def forward(self, queries: Tensor, references: Tensor) -> Tensor:
        return self.dropout(queries) @ self.weight @ references.T

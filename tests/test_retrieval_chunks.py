"""Similarities taken in chunks: nothing changes, and nothing is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastap.retrieval import retrieval_ap_loss
from tests.retrieval_batches import EXACT, LAYOUTS, agree, named_pairs, numbers, rows


@pytest.mark.parametrize("kind", ["batch", "references", "pairs", "many labels", "ignored", "weighted"])
@pytest.mark.parametrize("max_pairs", [1, 24, 60])
def test_chunks_change_nothing(max_pairs: int, kind: str) -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(29, 12)
    given: dict[str, Any] = {"labels": labels}
    leaves = [leaf]
    if kind == "references":
        leaves.append(rows(30, 17))
        given.update(ref_embeddings=leaves[1], ref_labels=labels.repeat(2)[:17])
    elif kind == "pairs":
        masks = named_pairs(31, 12, 12, 0.3)
        given.update(indices_tuple=[index for mask in masks for index in torch.where(mask)])
    elif kind == "many labels":
        given.update(labels=torch.rand(12, 6, generator=numbers(32)) < 0.25)
    elif kind == "ignored":
        given.update(ignore_index=1)
    elif kind == "weighted":
        given.update(weight=torch.rand(12, generator=numbers(33)))
    for reduction in ("mean", "sum", "none"):
        whole, parts = (
            retrieval_ap_loss(leaf, **given, reduction=reduction, max_pairs=most) for most in (10**6, max_pairs)
        )
        agree(parts, whole, leaves)


def test_similarities_held_at_a_time() -> None:
    asked: list[tuple[int, int]] = []

    def dot(queries: Tensor, references: Tensor) -> Tensor:
        asked.append((len(queries), len(references)))
        return queries @ references.T

    labels, leaf = torch.arange(10) % 3, rows(34, 10)
    loss = retrieval_ap_loss(leaf, labels, similarity=dot, max_pairs=35)
    assert asked == [(3, 10), (3, 10), (3, 10), (1, 10)]
    loss.backward()
    assert sorted(asked[4:]) == sorted(asked[:4])
    asked.clear()
    retrieval_ap_loss(leaf, labels, similarity=dot, max_pairs=5)
    assert asked == [(1, 10)] * 10
    asked.clear()
    retrieval_ap_loss(leaf, labels, similarity=dot, max_pairs=100).backward()
    assert asked == [(10, 10)]
    asked.clear()
    with torch.no_grad():
        retrieval_ap_loss(leaf, labels, similarity=dot, max_pairs=35)
    assert len(asked) == 4


def test_chunks_keep_no_similarity_for_the_backward_pass() -> None:
    labels, leaf = torch.arange(60) % 7, rows(35, 60)
    kept = []
    for max_pairs in (60 * 60, 60 * 10):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            retrieval_ap_loss(leaf, labels, max_pairs=max_pairs)
        kept.append(max(sizes))
    assert kept[0] == 60 * 60  # the gradient of all similarities
    assert kept[1] == 60 * 5  # embeddings


def test_a_memory_may_be_written_over_before_the_backward_pass() -> None:
    """As a cross-batch memory is, when two losses share a backward pass."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(36, 12)
    for max_pairs in (30, 1000):
        memory, ref_labels = rows(37, 12).detach(), labels.clone()
        expected = torch.autograd.grad(retrieval_ap_loss(leaf, labels, memory, ref_labels), leaf)
        loss = retrieval_ap_loss(leaf, labels, memory, ref_labels, max_pairs=max_pairs)
        memory.zero_()
        ref_labels.zero_()
        torch.testing.assert_close(torch.autograd.grad(loss, leaf), expected, **EXACT)


@pytest.mark.parametrize("max_pairs", [30, 1000])
def test_what_the_backward_pass_needs_must_not_be_written_over(max_pairs: int) -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(38, 12)
    memory = rows(39, 12).detach()
    loss = retrieval_ap_loss(leaf, labels, memory, labels, similarity="dot", max_pairs=max_pairs)
    memory.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

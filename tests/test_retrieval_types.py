"""Retrieval of any type, layout and similarity: values and gradients, also under autocast and compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

import fastap
from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss
from tests.losses import AS_FUNCTION
from tests.retrieval_batches import LAYOUTS, SIMILARITIES, Bilinear, agree, named_pairs, numbers, rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    """Half precision is widened before similarities are taken, and its gradient narrowed last."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(40, 12).detach().to(dtype).requires_grad_()
    wide_type = torch.float64 if dtype == torch.float64 else torch.float32
    wide = leaf.detach().to(wide_type).requires_grad_()
    ours, theirs = retrieval_ap_loss(leaf, labels), retrieval_ap_loss(wide, labels)
    assert ours.dtype == wide_type
    assert ours == theirs
    ours.backward()
    theirs.backward()
    assert leaf.grad.dtype == dtype
    assert torch.equal(leaf.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("max_pairs", [30, 1000])
def test_autocast_changes_nothing(max_pairs: int, similarity: str) -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(41, 12, torch.float32)
    given = {"similarity": SIMILARITIES[similarity], "max_pairs": max_pairs}
    expected = retrieval_ap_loss(leaf, labels, **given)
    with torch.autocast("cpu", torch.bfloat16):
        ours = retrieval_ap_loss(leaf, labels, **given)
        assert (leaf @ leaf.T).dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    agree(ours, expected, [leaf], rtol=0, atol=0)


@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.parametrize("max_pairs", [20, 1000])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradcheck(similarity: str, max_pairs: int, update: str) -> None:
    labels, ref_labels = torch.tensor([0, 1, 1, 0, 2, 2, 5]), torch.tensor([1, 0, 2, 0, 1, 2])
    options = {"similarity": SIMILARITIES[similarity], "update": update, "max_pairs": max_pairs, "epsilon": 0.3}
    leaf, memory = rows(47, 7), rows(48, 6)
    assert torch.autograd.gradcheck(lambda e: retrieval_ap_loss(e, labels, **options), leaf)
    assert torch.autograd.gradcheck(
        lambda e, r: retrieval_ap_loss(e, labels, r, ref_labels, **options, reduction="none"), (leaf, memory)
    )


@pytest.mark.parametrize("training", [True, False])
def test_a_similarity_that_learns(training: bool) -> None:
    """In chunks, the backward pass draws the random numbers of the forward pass again."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(50, 12)
    similarity = Bilinear().train(training)
    for max_pairs in (30, 1000):
        loss = RetrievalAPLoss(similarity, **AS_FUNCTION, max_pairs=max_pairs)
        assert [name for name, _ in loss.named_parameters()] == ["similarity.weight"]
        torch.manual_seed(0)
        ours = loss(leaf, labels)
        torch.manual_seed(0)
        chunks = leaf.split(2 if max_pairs == 30 else 12)
        scores = torch.cat([similarity(chunk, leaf) for chunk in chunks])
        targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
        theirs = fastap.direct_ap_loss(scores, targets, ignore_index=-1, epsilon=0.1, dim=-1)
        agree(ours, theirs, [leaf, similarity.weight])


def test_a_similarity_of_sets() -> None:
    """Embeddings of any shape, for a function that knows what to do with them: here the best match of several."""

    def best(queries: Tensor, references: Tensor) -> Tensor:
        return torch.einsum("ntd,msd->nmts", queries, references).amax(3).sum(2)

    labels = torch.tensor([0, 1, 0, 1, 1])
    leaf = torch.randn(5, 3, 4, generator=numbers(51)).requires_grad_()
    targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
    theirs = fastap.direct_ap_loss(best(leaf, leaf), targets, ignore_index=-1, epsilon=0.1, dim=-1)
    agree(retrieval_ap_loss(leaf, labels, similarity=best), theirs, [leaf], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["batch", "references", "pairs", "many labels", "chunks"])
def test_compiled(kind: str) -> None:
    """In one graph; the second and third batch size, taken of one kind, share one, which is dynamic."""
    graphs = 0

    def backend(module: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return aot_eager(module, inputs)

    torch._dynamo.reset()
    loss = RetrievalAPLoss(**AS_FUNCTION, max_pairs=200 if kind == "chunks" else 2**24)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for count in (24, 30, 37) if kind == "references" else (24,):
        labels, leaf = torch.arange(count) % 5, rows(count, count)
        given: dict[str, Any] = {}
        leaves = [leaf]
        if kind == "references":
            leaves.append(rows(52, count + 3))
            given.update(ref_embeddings=leaves[1], ref_labels=torch.arange(count + 3) % 5)
            given.update(weight=torch.rand(count, generator=numbers(54)))
        elif kind == "pairs":
            masks = named_pairs(count, count, count, 0.3)
            given.update(indices_tuple=tuple(index for mask in masks for index in torch.where(mask)))
        elif kind == "many labels":
            labels = torch.rand(count, 6, generator=numbers(53)) < 0.25
        agree(compiled(leaf, labels, **given), loss(leaf, labels, **given), leaves)
    assert graphs == (2 if kind == "references" else 1)

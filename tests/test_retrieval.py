"""Retrieval from embeddings, against a loop over queries in which everything is left out that takes no part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastap
from fastap.retrieval import retrieval_ap_loss
from tests.retrieval_batches import EXACT, LAYOUTS, SIMILARITIES, agree, loop, rows

# Against the loop


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_classes_in_any_order(layout: str, reduction: str) -> None:
    labels = torch.tensor(LAYOUTS[layout], dtype=torch.int64)
    if not len(labels):
        leaf = rows(0, 0)
        loss = retrieval_ap_loss(leaf, labels, reduction=reduction)
        assert loss.tolist() == ([] if reduction == "none" else 0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        assert gradient.shape == (0, 5)
        return
    leaf = rows(1, len(labels))
    ours = retrieval_ap_loss(leaf, labels, reduction=reduction)
    agree(ours, loop(leaf, labels, reduction=reduction), [leaf])
    if layout in ("all of one class", "no two alike", "two alike", "one row"):
        assert not ours.any()
    else:
        assert ours.max() > 0


@pytest.mark.parametrize("references", [False, True], ids=["batch", "references"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    "options", [{"epsilon": 2.0}, {"epsilon": 0.7, "update": "negative", "method": "dp", "backend": "reference"}]
)
def test_options_and_similarities(similarity: str, options: dict[str, Any], references: bool) -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(2, 12)
    others: list[Tensor] = [rows(3, 7)] if references else []
    ref_labels = [torch.tensor([0, 3, 1, 9, 3, 1, 0])] if references else []
    ours = retrieval_ap_loss(leaf, labels, *others, *ref_labels, similarity=SIMILARITIES[similarity], **options)
    theirs = loop(leaf, labels, *others, *ref_labels, similarity=similarity, **options)
    agree(ours, theirs, [leaf, *others])


def test_one_label_an_item_is_a_class() -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(8, 12)
    assert retrieval_ap_loss(leaf, F.one_hot(labels)) == retrieval_ap_loss(leaf, labels)


def test_the_very_embeddings_as_references_are_the_batch() -> None:
    """A copy of them is not: there a query finds itself first."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(9, 12)
    batch = retrieval_ap_loss(leaf, labels)
    assert retrieval_ap_loss(leaf, labels, leaf, labels) == batch
    assert retrieval_ap_loss(leaf, labels, leaf, labels.clone()) == batch
    assert retrieval_ap_loss(leaf, labels, leaf) == batch
    other = labels.roll(1)
    agree(
        retrieval_ap_loss(leaf, labels, leaf, other),
        loop(leaf, labels, leaf, other, keep=~torch.eye(12, dtype=torch.bool)),
        [leaf],
    )
    twin = leaf.detach().clone()
    found = retrieval_ap_loss(leaf, labels, twin, labels)
    assert found < batch
    agree(found, loop(leaf, labels, twin, labels), [leaf])


def test_only_the_references_have_a_gradient() -> None:
    labels, fixed, memory = torch.tensor([0, 1, 2]), rows(10, 3).detach(), rows(11, 8)
    ref_labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 5])
    for max_pairs in (1, 100):
        ours = retrieval_ap_loss(fixed, labels, memory, ref_labels, max_pairs=max_pairs)
        agree(ours, loop(fixed, labels, memory, ref_labels), [memory])


def test_triplets_are_two_pairs_each() -> None:
    leaf, labels = rows(16, 6), torch.tensor([0, 0, 0, 1, 1, 1])
    a, p, n = torch.tensor([[0, 1, 3], [0, 2, 4], [0, 1, 5], [3, 4, 1], [5, 3, 0]]).T
    ours = retrieval_ap_loss(leaf, labels, indices_tuple=(a, p, n), reduction="none")
    assert torch.equal(ours, retrieval_ap_loss(leaf, labels, indices_tuple=(a, p, a, n), reduction="none"))
    chosen = fastap.direct_ap_loss(
        F.cosine_similarity(leaf[:1], leaf[[1, 2, 3, 4, 5]]), torch.tensor([1, 1, 0, 0, 0]), epsilon=0.1
    )
    assert ours[0] > 0
    torch.testing.assert_close(ours[0], chosen, **EXACT)


# Items that are ignored, and numbers that are none


@pytest.mark.parametrize("references", [False, True], ids=["batch", "references"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_ignored_items_are_as_if_absent(similarity: str, references: bool) -> None:
    """Neither queries nor references, whatever they hold."""
    labels = torch.tensor([0, -100, 1, 0, -100, 1, 1])
    data = rows(19, 7).detach()
    data[1], data[4] = torch.nan, torch.inf
    leaf, there = data.requires_grad_(), labels != -100
    others = [leaf.detach().flip(0) + 0.1, labels.flip(0)] if references else []
    ours = retrieval_ap_loss(
        leaf, labels, *others, similarity=SIMILARITIES[similarity], epsilon=5.0, ignore_index=-100, reduction="none"
    )
    kept = leaf[there]
    others = [others[0][there.flip(0)], others[1][there.flip(0)]] if references else []
    theirs = retrieval_ap_loss(
        kept, labels[there], *others, similarity=SIMILARITIES[similarity], epsilon=5.0, reduction="none"
    )
    torch.testing.assert_close(ours[there], theirs, **EXACT)
    assert not ours[~there].any()
    (gradient,) = torch.autograd.grad(ours.sum(), leaf)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), leaf)[0], **EXACT)
    assert not gradient[~there].any()
    assert gradient[there].any()


def test_ignore_index_does_not_wrap() -> None:
    leaf, labels = rows(22, 6), torch.tensor([255, 255, 1, 1, 2, 2])
    assert retrieval_ap_loss(leaf, labels.to(torch.uint8), ignore_index=-1) == retrieval_ap_loss(leaf, labels)
    with pytest.raises(ValueError, match="got 255"):
        retrieval_ap_loss(leaf, labels[:, None].to(torch.uint8), ignore_index=-1)
    with pytest.raises(ValueError, match="got 256"):
        retrieval_ap_loss(leaf, (labels[:, None] + 1).bfloat16(), ignore_index=257)


def test_a_zero_embedding_is_like_nothing_and_has_no_gradient() -> None:
    labels, data = torch.tensor([0, 1, 0, 1, 1, 0]), rows(27, 6).detach()
    data[2] = 0
    leaf = data.requires_grad_()
    loss = retrieval_ap_loss(leaf, labels, epsilon=2.0)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert not gradient[2].any()
    assert gradient[[0, 1, 3, 4, 5]].any(1).all()
    assert gradient.isfinite().all()
    unit = F.normalize(data, dim=1)
    relevant = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
    torch.testing.assert_close(
        loss, fastap.direct_ap_loss(unit @ unit.T, relevant, ignore_index=-1, epsilon=2.0, dim=-1)
    )

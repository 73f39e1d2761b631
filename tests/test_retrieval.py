"""Retrieval from embeddings, against a loop over queries in which everything is left out that takes no part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastap
from fastap.retrieval import retrieval_ap_loss
from tests.retrieval_batches import EXACT, LAYOUTS, SIMILARITIES, agree, loop, named_pairs, numbers, rows

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


@pytest.mark.parametrize("references", [False, True], ids=["batch", "references"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_many_labels_an_item(dtype: torch.dtype, references: bool) -> None:
    """With items of no label, whom nothing is relevant to."""
    entries = (torch.rand(14, 6, generator=numbers(5)) < 0.25).to(dtype)
    entries[3] = 0
    labels, ref_labels = (entries[:9], entries[9:]) if references else (entries, None)
    leaf = rows(6, len(labels))
    others = rows(7, 5) if references else None
    ours = retrieval_ap_loss(leaf, labels, others, ref_labels, reduction="none")
    leaves = [leaf] if others is None else [leaf, others]
    agree(ours, loop(leaf, labels, others, ref_labels, reduction="none"), leaves)
    assert ours[3] == 0
    assert ours.max() > 0


def test_who_finds_everything_relevant_is_left_out_of_the_mean() -> None:
    labels, leaf = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]), rows(60, 5)
    ours = retrieval_ap_loss(leaf, labels, epsilon=2.0)
    agree(ours, loop(leaf, labels, epsilon=2.0), [leaf])
    torch.testing.assert_close(ours, retrieval_ap_loss(leaf, labels, epsilon=2.0, reduction="sum") / 4, **EXACT)


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


def test_weights() -> None:
    labels, leaf = torch.tensor([0, 1, 1, 0, 2, 0, 1]), rows(12, 7)
    weight = [0.5, 2.0, 0.0, 1.0, 100.0, 3.0, 0.25]  # the fifth, of a class of its own, takes no part
    for given in (torch.tensor(weight), torch.tensor(weight, dtype=torch.float64), torch.tensor(weight).bfloat16()):
        for reduction in ("mean", "sum", "none"):
            ours = retrieval_ap_loss(leaf, labels, weight=given, reduction=reduction)
            agree(ours, loop(leaf, labels, weight=weight, reduction=reduction), [leaf])
    agree(retrieval_ap_loss(leaf, labels, weight=torch.full((7,), 3)), retrieval_ap_loss(leaf, labels), [leaf])
    nothing = retrieval_ap_loss(leaf, labels, weight=torch.zeros(7))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, leaf)[0].any()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("references", [False, True], ids=["batch", "references"])
def test_pairs(references: bool, labelled: bool) -> None:
    leaf = rows(13, 8)
    others = rows(14, 6) if references else None
    items = 6 if references else 8
    relevant, irrelevant = named_pairs(15, 8, items, 0.3)
    relevant[2], irrelevant[5] = False, False
    pairs = (*torch.where(relevant), *torch.where(irrelevant))
    pairs = tuple(torch.cat([index, index[:2]]) for index in pairs)  # some of them twice
    labels = torch.arange(8) if labelled else None
    ref_labels = torch.arange(items) if labelled and references else None
    ours = retrieval_ap_loss(leaf, labels, others, ref_labels, indices_tuple=pairs, reduction="none")
    theirs = loop(
        leaf,
        torch.zeros(8),
        others,
        torch.zeros(items),
        keep=relevant | irrelevant,
        relevant=relevant,
        reduction="none",
    )
    agree(ours, theirs, [leaf] if others is None else [leaf, others])
    assert not ours[[2, 5]].any()
    assert ours.max() > 0


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


def test_named_as_both_is_irrelevant_and_the_query_itself_never_takes_part() -> None:
    leaf = rows(17, 4)
    index = torch.tensor
    both = (index([0, 0, 0]), index([1, 2, 0]), index([0, 0]), index([2, 3]))
    plain = (index([0]), index([1]), index([0, 0]), index([2, 3]))
    ours, theirs = (retrieval_ap_loss(leaf, indices_tuple=pairs, epsilon=3.0) for pairs in (both, plain))
    assert ours == theirs > 0


def test_no_pairs_no_loss() -> None:
    leaf, nothing = rows(18, 4), torch.empty(0, dtype=torch.int64)
    loss = retrieval_ap_loss(leaf, torch.tensor([0, 0, 1, 1]), indices_tuple=(nothing,) * 4)
    assert loss == 0
    assert not torch.autograd.grad(loss, leaf)[0].any()


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


def test_ignored_items_are_ignored_in_named_pairs() -> None:
    leaf, labels = rows(20, 5), torch.tensor([0, 0, 7, 1, 1])
    index = torch.tensor
    with_them = (index([0, 0, 2]), index([1, 2, 1]), index([0, 0, 2]), index([2, 3, 3]))
    without = (index([0]), index([1]), index([0]), index([3]))
    ours = retrieval_ap_loss(leaf, labels, indices_tuple=with_them, ignore_index=7, epsilon=3.0)
    assert ours == retrieval_ap_loss(leaf, labels, indices_tuple=without, epsilon=3.0) > 0


def test_a_label_that_may_be_a_class_can_be_ignored() -> None:
    leaf, labels = rows(21, 6), torch.tensor([0, 0, 1, 1, 2, 2])
    assert retrieval_ap_loss(leaf, labels, ignore_index=0) == retrieval_ap_loss(leaf[2:], labels[2:]) > 0


def test_ignore_index_does_not_wrap() -> None:
    leaf, labels = rows(22, 6), torch.tensor([255, 255, 1, 1, 2, 2])
    assert retrieval_ap_loss(leaf, labels.to(torch.uint8), ignore_index=-1) == retrieval_ap_loss(leaf, labels)
    with pytest.raises(ValueError, match="got 255"):
        retrieval_ap_loss(leaf, labels[:, None].to(torch.uint8), ignore_index=-1)
    with pytest.raises(ValueError, match="got 256"):
        retrieval_ap_loss(leaf, (labels[:, None] + 1).bfloat16(), ignore_index=257)


def test_unknown_entries_of_many_labels() -> None:
    """Sharing a known label is relevant, sharing none for certain irrelevant, everything else ignored."""
    entries = torch.tensor([-1, 0, 0, 1])[torch.randint(4, (17, 4), generator=numbers(23))]
    relevant, keep = torch.zeros(2, 17, 17, dtype=torch.bool)
    for i, one in enumerate(entries.tolist()):
        for j, other in enumerate(entries.tolist()):
            relevant[i, j] = any(a == b == 1 for a, b in zip(one, other, strict=True))
            keep[i, j] = relevant[i, j] or all(0 in pair for pair in zip(one, other, strict=True))
    assert not keep.all()
    leaf = rows(24, 17)
    ours = retrieval_ap_loss(leaf, entries, ignore_index=-1, reduction="none")
    agree(ours, loop(leaf, torch.zeros(17), keep=keep, relevant=relevant, reduction="none"), [leaf])
    assert ours.max() > 0


def test_a_nan_embedding_is_nan_for_every_query_that_it_is_ranked_for() -> None:
    labels = torch.tensor([0, 1, 0, 1, 2])
    data = rows(25, 5).detach()
    data[1, 2] = torch.nan
    batch = retrieval_ap_loss(data, labels, reduction="none")
    assert batch.isnan().tolist() == [True, True, True, True, False]  # the last has nothing to retrieve
    assert retrieval_ap_loss(data, labels).isnan()
    memory = rows(26, 6).detach()
    against = retrieval_ap_loss(data, labels, memory, torch.tensor([0, 1, 2, 0, 1, 2]), reduction="none")
    assert against.isnan().tolist() == [False, True, False, False, False]


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


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e37])
def test_cosines_do_not_depend_on_length(scale: float) -> None:
    """Squares of these lengths are not to be had in float32."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(28, 12, torch.float32)
    scaled = (leaf * scale).detach().requires_grad_()
    loss = retrieval_ap_loss(scaled, labels)
    torch.testing.assert_close(loss, retrieval_ap_loss(leaf, labels))
    loss.backward()
    expected = torch.autograd.grad(retrieval_ap_loss(leaf, labels), leaf)[0]
    torch.testing.assert_close(scaled.grad.double() * scale, expected.double(), rtol=1e-3, atol=1e-5)

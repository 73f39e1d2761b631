"""Retrieval from embeddings, against a loop over queries in which everything is left out that takes no part."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch.nn import functional as F

import fastap
from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss

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
    "a function": lambda queries, references: -torch.cdist(queries, references),
}
ONE_QUERY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda query, references: F.cosine_similarity(query[None], references),
    "dot": lambda query, references: (query * references).sum(1),
    "a function": lambda query, references: -(query - references).square().sum(1).sqrt(),
}


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(seed: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 5, generator=numbers(seed), dtype=dtype).requires_grad_()


def same(label: Tensor, ref_labels: Tensor) -> Tensor:
    """Which references are relevant, by sets of labels."""
    if label.dim() == 0:
        return torch.tensor([label.item() == other for other in ref_labels.tolist()], dtype=torch.bool)
    chosen = {k for k, entry in enumerate(label.tolist()) if entry == 1}
    others = [{k for k, entry in enumerate(entries) if entry == 1} for entries in ref_labels.tolist()]
    return torch.tensor([bool(chosen & other) for other in others], dtype=torch.bool)


def loop(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    similarity: str = "cosine",
    keep: Tensor | None = None,
    relevant: Tensor | None = None,
    weight: Sequence[float] | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Tensor:
    """The loss by definition: each query's ranking by itself, of the references that ``keep`` (N, M) leaves."""
    options = {"epsilon": 0.1, **options}
    losses, weights = [], []
    for i, query in enumerate(embeddings):
        items, of_items = (embeddings, labels) if references is None else (references, ref_labels)
        kept = torch.ones(len(items), dtype=torch.bool) if keep is None else keep[i].clone()
        if references is None:
            kept[i] = False
        targets = (same(labels[i], of_items) if relevant is None else relevant[i])[kept]
        w = 1.0 if weight is None else weight[i]
        if targets.any() and not targets.all():
            losses.append(w * fastap.direct_ap_loss(ONE_QUERY[similarity](query, items[kept]), targets, **options))
            weights.append(w)
        else:
            losses.append(query.sum() * 0)
            weights.append(0.0)
    if reduction == "none":
        return torch.stack(losses)
    total = sum(losses, embeddings.sum() * 0)
    return total if reduction == "sum" or not sum(weights) else total / sum(weights)


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
    "options", [{"epsilon": 2.0}, {"epsilon": 0.7, "update": "negative", "method": "dp", "backend": "torch"}]
)
def test_options_and_similarities(similarity: str, options: dict[str, Any], references: bool) -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(2, 12)
    others: list[Tensor] = [rows(3, 7)] if references else []
    ref_labels = [torch.tensor([0, 3, 1, 9, 3, 1, 0])] if references else []
    ours = retrieval_ap_loss(leaf, labels, *others, *ref_labels, similarity=SIMILARITIES[similarity], **options)
    theirs = loop(leaf, labels, *others, *ref_labels, similarity=similarity, **options)
    agree(ours, theirs, [leaf, *others])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    labels, leaf = torch.tensor([1, 0, 0, 1, 1, 0, 1]), rows(4, 7)
    expected = retrieval_ap_loss(leaf, labels)
    assert retrieval_ap_loss(leaf, labels.to(dtype)) == expected
    assert retrieval_ap_loss(leaf, labels.to(dtype), leaf, labels) == expected


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


# Pairs that are named


def named_pairs(seed: int, queries: int, items: int, share: float) -> tuple[Tensor, Tensor]:
    """Random (N, M) masks of named pairs, relevant and irrelevant, whatever the labels say."""
    relevant, irrelevant = (torch.rand(2, queries, items, generator=numbers(seed)) < share).unbind()
    return relevant & ~irrelevant, irrelevant


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
    torch.testing.assert_close(loss, fastap.direct_ap_loss(unit @ unit.T, relevant, ignore_index=-1, epsilon=2.0))


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


# Chunks


@pytest.mark.parametrize("kind", ["batch", "references", "pairs", "many labels", "ignored", "weighted"])
@pytest.mark.parametrize("max_pairs", [1, 23, 24, 60, 143])
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


# Types, layouts, gradients


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


def test_memory_of_another_precision() -> None:
    """As in training under autocast."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(42, 12).detach().bfloat16().requires_grad_()
    memory = rows(43, 12, torch.float32).detach()
    for references in (memory, memory.double(), memory.half()):
        wide = torch.promote_types(references.dtype, torch.float32)
        ours = retrieval_ap_loss(leaf, labels, references, labels)
        assert ours == retrieval_ap_loss(leaf.to(wide), labels, references.to(wide), labels)
        assert torch.autograd.grad(ours, leaf)[0].dtype == torch.bfloat16


def test_strides() -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(44, 12)
    strided = leaf.detach().T.contiguous().T.requires_grad_()
    far = torch.stack([labels, labels + 1], 1)[:, 0]
    ours = retrieval_ap_loss(strided, far, strided.flip(0), far.flip(0))
    agree(
        ours, retrieval_ap_loss(strided.contiguous(), labels, strided.flip(0).contiguous(), labels.flip(0)), [strided]
    )
    torch.testing.assert_close(retrieval_ap_loss(strided, far), retrieval_ap_loss(leaf, labels), **EXACT)


def test_rows_in_another_order() -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(45, 12)
    order = torch.randperm(12, generator=numbers(46))
    agree(retrieval_ap_loss(leaf[order], labels[order]), retrieval_ap_loss(leaf, labels), [leaf])


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


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5, generator=numbers(49), dtype=torch.float64))
        self.dropout = nn.Dropout(0.3)

    def forward(self, queries: Tensor, references: Tensor) -> Tensor:
        return self.dropout(queries) @ self.weight @ references.T


@pytest.mark.parametrize("training", [True, False])
def test_a_similarity_that_learns(training: bool) -> None:
    """In chunks, the backward pass draws the random numbers of the forward pass again."""
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(50, 12)
    similarity = Bilinear().train(training)
    for max_pairs in (30, 1000):
        loss = RetrievalAPLoss(similarity, max_pairs=max_pairs)
        assert [name for name, _ in loss.named_parameters()] == ["similarity.weight"]
        torch.manual_seed(0)
        ours = loss(leaf, labels)
        torch.manual_seed(0)
        chunks = leaf.split(2 if max_pairs == 30 else 12)
        scores = torch.cat([similarity(chunk, leaf) for chunk in chunks])
        targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
        theirs = fastap.direct_ap_loss(scores, targets, ignore_index=-1, epsilon=0.1)
        agree(ours, theirs, [leaf, similarity.weight])


def test_a_similarity_of_sets() -> None:
    """Embeddings of any shape, for a function that knows what to do with them: here the best match of several."""

    def best(queries: Tensor, references: Tensor) -> Tensor:
        return torch.einsum("ntd,msd->nmts", queries, references).amax(3).sum(2)

    labels = torch.tensor([0, 1, 0, 1, 1])
    leaf = torch.randn(5, 3, 4, generator=numbers(51)).requires_grad_()
    targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
    theirs = fastap.direct_ap_loss(best(leaf, leaf), targets, ignore_index=-1, epsilon=0.1)
    agree(retrieval_ap_loss(leaf, labels, similarity=best), theirs, [leaf], rtol=1e-5, atol=1e-6)


# Compiled


@pytest.mark.parametrize("kind", ["batch", "references", "pairs", "many labels", "chunks"])
def test_compiled(kind: str) -> None:
    """In one graph; the second and third batch size share one, which is dynamic."""
    graphs = 0

    def backend(module: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return aot_eager(module, inputs)

    torch._dynamo.reset()
    loss = RetrievalAPLoss(max_pairs=200 if kind == "chunks" else 2**24)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for count in (24,) if kind == "chunks" else (24, 30, 37):
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
    assert graphs == (1 if kind == "chunks" else 2)


# The module


def test_a_module_is_its_function_with_options_held() -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(55, 12)
    options: dict[str, Any] = {
        "epsilon": 0.3,
        "update": "negative",
        "method": "dp",
        "ignore_index": 1,
        "reduction": "none",
        "backend": "torch",
        "max_pairs": 30,
    }
    module = RetrievalAPLoss("dot", **options)
    expected = retrieval_ap_loss(leaf, labels, similarity="dot", **options)
    assert torch.equal(module(leaf, labels), expected)
    assert repr(module) == f"RetrievalAPLoss(similarity='dot', {', '.join(f'{k}={v!r}' for k, v in options.items())})"
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module)
        assert torch.equal(twin(leaf, labels), expected)
    assert RetrievalAPLoss(epsilon=2).epsilon == 2.0
    assert RetrievalAPLoss()(leaf, labels) == retrieval_ap_loss(leaf, labels)
    assert not module.state_dict()
    assert "(similarity): Bilinear" in repr(RetrievalAPLoss(Bilinear()))


def test_two_ways_to_call_it() -> None:
    """References third, as documented here, or pairs third, as in pytorch-metric-learning."""
    labels, leaf, memory = torch.tensor(LAYOUTS["shuffled"]), rows(56, 12), rows(57, 9)
    ref_labels = labels[:9]
    pairs = tuple(index for mask in named_pairs(58, 12, 9, 0.4) for index in torch.where(mask))
    loss = RetrievalAPLoss()
    batch = retrieval_ap_loss(leaf, labels)
    assert loss(leaf, labels) == loss(leaf, labels, None) == loss(leaf, labels, None, None, None) == batch
    assert loss(embeddings=leaf, labels=labels) == loss(leaf, labels, None, None) == batch
    against = retrieval_ap_loss(leaf, labels, memory, ref_labels)
    assert loss(leaf, labels, memory, ref_labels) == loss(leaf, labels, memory, ref_labels=ref_labels) == against
    assert loss(leaf, labels, ref_embeddings=memory, ref_labels=ref_labels) == against
    assert loss(leaf, labels, None, memory, ref_labels) == against
    assert loss(embeddings=leaf, labels=labels, ref_emb=memory, ref_labels=ref_labels) == against
    named = retrieval_ap_loss(leaf, labels, memory, ref_labels, indices_tuple=pairs)
    assert loss(leaf, labels, pairs, memory, ref_labels) == loss(leaf, None, pairs, memory) == named
    assert loss(leaf, labels, list(pairs), ref_emb=memory) == named
    assert loss(leaf, labels, memory, ref_labels, indices_tuple=pairs) == named
    assert len({batch.item(), against.item(), named.item()}) == 3
    weight = torch.rand(12, generator=numbers(59))
    assert loss(leaf, labels, weight=weight) == retrieval_ap_loss(leaf, labels, weight=weight) != batch


# Errors

LEAF, LABELS = torch.randn(4, 5), torch.tensor([0, 1, 0, 1])
INDEX = torch.tensor([0, 1])
MISTAKES: dict[str, tuple[type[Exception], tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = {
    "list": (TypeError, ([[1.0]], LABELS), {}, ("embeddings", "Tensor", "list")),
    "integers": (TypeError, (LEAF.long(), LABELS), {}, ("embeddings", "floating", "int64")),
    "three dimensions": (ValueError, (LEAF[None], LABELS), {}, ("embeddings", "(items, features)", "(1, 4, 5)")),
    "no dimension": (ValueError, (LEAF[0, 0], LABELS), {"similarity": torch.mm}, ("embeddings", "0-dimensional")),
    "references of a list": (TypeError, (LEAF, LABELS, [1], LABELS), {}, ("ref_embeddings", "Tensor", "list")),
    "integer references": (TypeError, (LEAF, LABELS, LEAF.int(), LABELS), {}, ("ref_embeddings", "int32")),
    "other features": (ValueError, (LEAF, LABELS, LEAF[:, 1:], LABELS), {}, ("ref_embeddings", "5", "4")),
    "another device": (ValueError, (LEAF, LABELS, LEAF.to("meta"), LABELS), {}, ("ref_embeddings", "cpu", "meta")),
    "no labels": (ValueError, (LEAF,), {}, ("labels must", "embeddings", "indices_tuple")),
    "no ref_labels": (ValueError, (LEAF, LABELS, LEAF + 1), {}, ("ref_labels must", "ref_embeddings")),
    "no ref_embeddings": (ValueError, (LEAF, LABELS, None, LABELS), {}, ("ref_labels", "without ref_embeddings")),
    "labels of a list": (TypeError, (LEAF, [0, 1, 0, 1]), {}, ("labels", "Tensor", "list")),
    "floating classes": (TypeError, (LEAF, LABELS.float()), {}, ("labels", "integer", "float32")),
    "complex labels": (TypeError, (LEAF, LABELS[:, None].cfloat()), {}, ("labels", "complex64")),
    "labels of no dimension": (ValueError, (LEAF, LABELS[0]), {}, ("labels", "(items,)", "()")),
    "too few labels": (ValueError, (LEAF, LABELS[:3]), {}, ("labels", "4", "3")),
    "too many ref_labels": (ValueError, (LEAF, LABELS, LEAF[:2], LABELS), {}, ("ref_labels", "2", "4")),
    "labels of two kinds": (ValueError, (LEAF, LABELS, LEAF + 1, F.one_hot(LABELS)), {}, ("ref_labels", "(4, 2)")),
    "other columns": (
        ValueError,
        (LEAF, F.one_hot(LABELS), LEAF + 1, F.one_hot(LABELS, 3)),
        {},
        ("ref_labels", "(4, 2)", "(4, 3)"),
    ),
    "entries": (ValueError, (LEAF, LABELS.view(2, 2).repeat(2, 1) * 3), {}, ("labels", "0 or 1", "got 3")),
    "entries not ignored": (
        ValueError,
        (LEAF, F.one_hot(LABELS), LEAF + 1, F.one_hot(LABELS) * 2),
        {"ignore_index": -1},
        ("ref_labels", "ignore_index = -1", "got 2"),
    ),
    "an ignored entry": (
        ValueError,
        (LEAF, F.one_hot(LABELS)),
        {"ignore_index": 1},
        ("ignore_index", "0 and 1", "got 1"),
    ),
    "a name": (ValueError, (LEAF, LABELS), {"similarity": "euclid"}, ("similarity", "'cosine', 'dot'", "'euclid'")),
    "a number": (ValueError, (LEAF, LABELS), {"similarity": 3}, ("similarity", "function", "3")),
    "similarities of a list": (
        TypeError,
        (LEAF, LABELS),
        {"similarity": lambda q, r: [1]},
        ("similarity must return", "Tensor", "list"),
    ),
    "integer similarities": (
        TypeError,
        (LEAF, LABELS),
        {"similarity": lambda q, r: (q @ r.T).long()},
        ("similarity must return", "floating", "int64"),
    ),
    "similarities of another shape": (
        ValueError,
        (LEAF, LABELS),
        {"similarity": lambda q, r: q @ r[1:].T},
        ("similarity must return", "(4, 4)", "(4, 3)"),
    ),
    "similarities of another device": (
        ValueError,
        (LEAF, LABELS),
        {"similarity": lambda q, r: (q @ r.T).to("meta")},
        ("similarity must return", "cpu", "meta"),
    ),
    "epsilon": (ValueError, (LEAF, LABELS), {"epsilon": 0.0}, ("epsilon", "positive", "0.0")),
    "update": (ValueError, (LEAF, LABELS), {"update": "up"}, ("update", "'positive'", "'up'")),
    "method": (ValueError, (LEAF, LABELS), {"method": "m"}, ("method", "'dp'", "'m'")),
    "reduction": (ValueError, (LEAF, LABELS), {"reduction": "r"}, ("reduction", "'mean'", "'r'")),
    "backend": (ValueError, (LEAF, LABELS), {"backend": "b"}, ("backend", "'auto'", "'b'")),
    "ignore_index": (TypeError, (LEAF, LABELS), {"ignore_index": 1.0}, ("ignore_index", "float")),
    "max_pairs": (ValueError, (LEAF, LABELS), {"max_pairs": 0}, ("max_pairs", "1", "0")),
    "max_pairs type": (TypeError, (LEAF, LABELS), {"max_pairs": 1e6}, ("max_pairs", "int", "float")),
    "weight type": (TypeError, (LEAF, LABELS), {"weight": [1.0]}, ("weight", "Tensor", "list")),
    "weight dtype": (TypeError, (LEAF, LABELS), {"weight": LABELS.bool()}, ("weight", "bool")),
    "weight shape": (ValueError, (LEAF, LABELS), {"weight": torch.ones(3)}, ("weight", "(4,)", "(3,)")),
    "weight device": (
        ValueError,
        (LEAF, LABELS),
        {"weight": torch.ones(4, device="meta")},
        ("weight", "cpu", "meta"),
    ),
    "weight gradient": (
        ValueError,
        (LEAF, LABELS),
        {"weight": torch.ones(4, requires_grad=True)},
        ("weight", "detach"),
    ),
    "negative weight": (ValueError, (LEAF, LABELS), {"weight": torch.arange(4) - 1}, ("weight", "negative", "-1")),
    "infinite weight": (
        ValueError,
        (LEAF, LABELS),
        {"weight": torch.tensor([1, torch.inf, 0, 0])},
        ("weight", "finite", "inf"),
    ),
    "nan weight": (ValueError, (LEAF, LABELS), {"weight": torch.full((4,), torch.nan)}, ("weight", "finite", "nan")),
    "pairs in a tensor": (TypeError, (LEAF, LABELS), {"indices_tuple": INDEX}, ("indices_tuple", "tuple", "Tensor")),
    "two indices": (ValueError, (LEAF, LABELS), {"indices_tuple": (INDEX,) * 2}, ("indices_tuple", "(a, p, n)", "2")),
    "indices of lists": (TypeError, (LEAF, LABELS), {"indices_tuple": ([0],) * 3}, ("a of indices_tuple", "list")),
    "floating indices": (
        TypeError,
        (LEAF, LABELS),
        {"indices_tuple": (INDEX, INDEX.float(), INDEX)},
        ("p of indices_tuple", "integer", "float32"),
    ),
    "indices of two dimensions": (
        ValueError,
        (LEAF, LABELS),
        {"indices_tuple": (INDEX, INDEX, INDEX, INDEX[None])},
        ("n of indices_tuple", "one dimension", "(1, 2)"),
    ),
    "indices of other lengths": (
        ValueError,
        (LEAF, LABELS),
        {"indices_tuple": (INDEX, INDEX, INDEX, INDEX[:1])},
        ("indices_tuple", "lengths", "[2, 2, 2, 1]"),
    ),
    "triplets of other lengths": (
        ValueError,
        (LEAF, LABELS),
        {"indices_tuple": (INDEX, INDEX, INDEX[:1])},
        ("indices_tuple", "lengths", "[2, 2, 1]"),
    ),
    "an index too large": (
        ValueError,
        (LEAF, LABELS, LEAF[:2], LABELS[:2]),
        {"indices_tuple": (INDEX + 2, INDEX, INDEX, INDEX + 1)},
        ("n of indices_tuple", "[0, 1]", "2"),
    ),
    "a negative index": (
        ValueError,
        (LEAF, LABELS),
        {"indices_tuple": (INDEX - 1, INDEX, INDEX)},
        ("a of indices_tuple", "[0, 3]", "-1"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    error, given, options, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        retrieval_ap_loss(*given, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


@pytest.mark.parametrize(
    "mistake", ["a name", "epsilon", "update", "method", "reduction", "backend", "ignore_index", "max_pairs"]
)
def test_mistakes_show_when_the_module_is_made(mistake: str) -> None:
    error, _, options, words = MISTAKES[mistake]
    with pytest.raises(error, match=words[0]):
        RetrievalAPLoss(**options)


@pytest.mark.parametrize(
    ("given", "named", "words"),
    [
        ((LEAF, LABELS, LEAF, LABELS, None), {}, "ref_embeddings, ref_labels can be given by position, got 5"),
        (
            (LEAF, LABELS, None, LEAF, LABELS, None),
            {},
            "indices_tuple, ref_emb, ref_labels can be given by position, got 6",
        ),
        ((LEAF, LABELS, LEAF + 1), {"ref_embeddings": LEAF}, "ref_embeddings was given by position and by name"),
        ((LEAF, LABELS, None, LEAF), {"ref_emb": LEAF}, "ref_emb was given by position and by name"),
        ((LEAF, LABELS, LEAF + 1), {"ref_emb": LEAF}, "another name of ref_embeddings"),
    ],
)
def test_arguments_given_twice(given: tuple[Any, ...], named: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        RetrievalAPLoss()(*given, **named)


def test_wrong_values_that_cannot_be_errors_are_nan() -> None:
    """Where values are not looked at, as on CUDA; here, in a compiled graph. A wrong label is the operator's error."""
    loss = torch.compile(RetrievalAPLoss(), fullgraph=True, backend="aot_eager")
    assert loss(LEAF, LABELS, weight=torch.tensor([1.0, 1.0, -1.0, 1.0])).isnan()
    with pytest.raises(ValueError, match="got 2"):
        loss(LEAF, F.one_hot(LABELS) * 3)

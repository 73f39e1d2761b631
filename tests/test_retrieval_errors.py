"""Bad arguments of retrieval: the right exception, naming the argument, what was given and what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss

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
    "a distance": (ValueError, (LEAF, LABELS), {"similarity": torch.cdist}, ("higher for more alike", "'euclidean'")),
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

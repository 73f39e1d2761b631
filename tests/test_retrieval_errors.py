"""Bad arguments of retrieval: the right exception, naming the argument, what was given and what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss
from tests.test_errors import refuses

LEAF, LABELS = torch.randn(4, 5), torch.tensor([0, 1, 0, 1])
INDEX = torch.tensor([0, 1])
# What differs from the right call, and the words of the error; test_robustness_retrieval.py has far more of them.
MISTAKES: dict[str, tuple[type[Exception], dict[str, Any], str]] = {
    "three dimensions": (ValueError, {"embeddings": LEAF[None]}, "embeddings; (items, features); (1, 4, 5)"),
    "no dimension": (ValueError, {"embeddings": LEAF[0, 0], "similarity": torch.mm}, "embeddings; 0-dimensional"),
    "other features": (ValueError, {"ref_embeddings": LEAF[:, 1:], "ref_labels": LABELS}, "ref_embeddings; 5; 4"),
    "another device": (
        ValueError,
        {"ref_embeddings": LEAF.to("meta"), "ref_labels": LABELS},
        "ref_embeddings; cpu; meta",
    ),
    "no labels": (ValueError, {"labels": None}, "labels must; embeddings; indices_tuple"),
    "no ref_labels": (ValueError, {"ref_embeddings": LEAF + 1}, "ref_labels must; ref_embeddings"),
    "no ref_embeddings": (ValueError, {"ref_labels": LABELS}, "ref_labels; without ref_embeddings"),
    "floating classes": (TypeError, {"labels": LABELS.float()}, "labels; integer; float32"),
    "labels of no dimension": (ValueError, {"labels": LABELS[0]}, "labels; (items,); ()"),
    "too few labels": (ValueError, {"labels": LABELS[:3]}, "labels; 4; 3"),
    "too many ref_labels": (ValueError, {"ref_embeddings": LEAF[:2], "ref_labels": LABELS}, "ref_labels; 2; 4"),
    "labels of two kinds": (
        ValueError,
        {"ref_embeddings": LEAF + 1, "ref_labels": F.one_hot(LABELS)},
        "ref_labels; (4, 2)",
    ),
    "other columns": (
        ValueError,
        {"labels": F.one_hot(LABELS), "ref_embeddings": LEAF + 1, "ref_labels": F.one_hot(LABELS, 3)},
        "ref_labels; (4, 2); (4, 3)",
    ),
    "entries": (ValueError, {"labels": LABELS.view(2, 2).repeat(2, 1) * 3}, "labels; 0 or 1; got 3"),
    "entries not ignored": (
        ValueError,
        {
            "labels": F.one_hot(LABELS),
            "ref_embeddings": LEAF + 1,
            "ref_labels": F.one_hot(LABELS) * 2,
            "ignore_index": -1,
        },
        "ref_labels; ignore_index = -1; got 2",
    ),
    "an ignored entry": (ValueError, {"labels": F.one_hot(LABELS), "ignore_index": 1}, "ignore_index; 0 and 1; got 1"),
    "a name": (ValueError, {"similarity": "euclid"}, "similarity; 'cosine', 'dot'; 'euclid'"),
    "a distance": (ValueError, {"similarity": torch.cdist}, "higher for more alike; 'euclidean'"),
    "similarities of another shape": (
        ValueError,
        {"similarity": lambda q, r: q @ r[1:].T},
        "similarity must return; (4, 4); (4, 3)",
    ),
    "max_pairs": (ValueError, {"max_pairs": 0}, "max_pairs; 1; 0"),
    "weight shape": (ValueError, {"weight": torch.ones(3)}, "weight; (4,); (3,)"),
    "negative weight": (ValueError, {"weight": torch.arange(4) - 1}, "weight; negative; -1"),
    "pairs in a tensor": (TypeError, {"indices_tuple": INDEX}, "indices_tuple; tuple; Tensor"),
    "two indices": (ValueError, {"indices_tuple": (INDEX,) * 2}, "indices_tuple; (a, p, n); 2"),
    "floating indices": (
        TypeError,
        {"indices_tuple": (INDEX, INDEX.float(), INDEX)},
        "p of indices_tuple; integer; float32",
    ),
    "indices of two dimensions": (
        ValueError,
        {"indices_tuple": (INDEX, INDEX, INDEX, INDEX[None])},
        "n of indices_tuple; one dimension; (1, 2)",
    ),
    "indices of other lengths": (
        ValueError,
        {"indices_tuple": (INDEX, INDEX, INDEX, INDEX[:1])},
        "indices_tuple; lengths; [2, 2, 2, 1]",
    ),
    "an index too large": (
        ValueError,
        {"ref_embeddings": LEAF[:2], "ref_labels": LABELS[:2], "indices_tuple": (INDEX + 2, INDEX, INDEX, INDEX + 1)},
        "n of indices_tuple; [0, 1]; 2",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    error, given, words = MISTAKES[mistake]
    refuses(error, lambda: retrieval_ap_loss(**{"embeddings": LEAF, "labels": LABELS, **given}), *words.split("; "))


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

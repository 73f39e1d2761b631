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
# What differs from the right call, and the words of the error.
MISTAKES: dict[str, tuple[type[Exception], dict[str, Any], str]] = {
    "list": (TypeError, {"embeddings": [[1.0]]}, "embeddings; Tensor; list"),
    "integers": (TypeError, {"embeddings": LEAF.long()}, "embeddings; floating; int64"),
    "three dimensions": (ValueError, {"embeddings": LEAF[None]}, "embeddings; (items, features); (1, 4, 5)"),
    "no dimension": (ValueError, {"embeddings": LEAF[0, 0], "similarity": torch.mm}, "embeddings; 0-dimensional"),
    "references of a list": (TypeError, {"ref_embeddings": [1], "ref_labels": LABELS}, "ref_embeddings; Tensor; list"),
    "integer references": (TypeError, {"ref_embeddings": LEAF.int(), "ref_labels": LABELS}, "ref_embeddings; int32"),
    "other features": (ValueError, {"ref_embeddings": LEAF[:, 1:], "ref_labels": LABELS}, "ref_embeddings; 5; 4"),
    "another device": (
        ValueError,
        {"ref_embeddings": LEAF.to("meta"), "ref_labels": LABELS},
        "ref_embeddings; cpu; meta",
    ),
    "no labels": (ValueError, {"labels": None}, "labels must; embeddings; indices_tuple"),
    "no ref_labels": (ValueError, {"ref_embeddings": LEAF + 1}, "ref_labels must; ref_embeddings"),
    "no ref_embeddings": (ValueError, {"ref_labels": LABELS}, "ref_labels; without ref_embeddings"),
    "labels of a list": (TypeError, {"labels": [0, 1, 0, 1]}, "labels; Tensor; list"),
    "floating classes": (TypeError, {"labels": LABELS.float()}, "labels; integer; float32"),
    "complex labels": (TypeError, {"labels": LABELS[:, None].cfloat()}, "labels; complex64"),
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
    "a number": (ValueError, {"similarity": 3}, "similarity; function; 3"),
    "similarities of a list": (TypeError, {"similarity": lambda q, r: [1]}, "similarity must return; Tensor; list"),
    "integer similarities": (
        TypeError,
        {"similarity": lambda q, r: (q @ r.T).long()},
        "similarity must return; floating; int64",
    ),
    "similarities of another shape": (
        ValueError,
        {"similarity": lambda q, r: q @ r[1:].T},
        "similarity must return; (4, 4); (4, 3)",
    ),
    "similarities of another device": (
        ValueError,
        {"similarity": lambda q, r: (q @ r.T).to("meta")},
        "similarity must return; cpu; meta",
    ),
    "epsilon": (ValueError, {"epsilon": 0.0}, "epsilon; positive; 0.0"),
    "update": (ValueError, {"update": "up"}, "update; 'positive'; 'up'"),
    "method": (ValueError, {"method": "m"}, "method; 'dp'; 'm'"),
    "reduction": (ValueError, {"reduction": "r"}, "reduction; 'mean'; 'r'"),
    "backend": (ValueError, {"backend": "b"}, "backend; 'auto'; 'b'"),
    "ignore_index": (TypeError, {"ignore_index": 1.0}, "ignore_index; float"),
    "max_pairs": (ValueError, {"max_pairs": 0}, "max_pairs; 1; 0"),
    "max_pairs type": (TypeError, {"max_pairs": 1000000.0}, "max_pairs; int; float"),
    "weight type": (TypeError, {"weight": [1.0]}, "weight; Tensor; list"),
    "weight dtype": (TypeError, {"weight": LABELS.bool()}, "weight; bool"),
    "weight shape": (ValueError, {"weight": torch.ones(3)}, "weight; (4,); (3,)"),
    "weight device": (ValueError, {"weight": torch.ones(4, device="meta")}, "weight; cpu; meta"),
    "weight gradient": (ValueError, {"weight": torch.ones(4, requires_grad=True)}, "weight; detach"),
    "negative weight": (ValueError, {"weight": torch.arange(4) - 1}, "weight; negative; -1"),
    "infinite weight": (ValueError, {"weight": torch.tensor([1, torch.inf, 0, 0])}, "weight; finite; inf"),
    "nan weight": (ValueError, {"weight": torch.full((4,), torch.nan)}, "weight; finite; nan"),
    "pairs in a tensor": (TypeError, {"indices_tuple": INDEX}, "indices_tuple; tuple; Tensor"),
    "two indices": (ValueError, {"indices_tuple": (INDEX,) * 2}, "indices_tuple; (a, p, n); 2"),
    "indices of lists": (TypeError, {"indices_tuple": ([0],) * 3}, "a of indices_tuple; list"),
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
    "triplets of other lengths": (
        ValueError,
        {"indices_tuple": (INDEX, INDEX, INDEX[:1])},
        "indices_tuple; lengths; [2, 2, 1]",
    ),
    "an index too large": (
        ValueError,
        {"ref_embeddings": LEAF[:2], "ref_labels": LABELS[:2], "indices_tuple": (INDEX + 2, INDEX, INDEX, INDEX + 1)},
        "n of indices_tuple; [0, 1]; 2",
    ),
    "a negative index": (ValueError, {"indices_tuple": (INDEX - 1, INDEX, INDEX)}, "a of indices_tuple; [0, 3]; -1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    error, given, words = MISTAKES[mistake]
    refuses(error, lambda: retrieval_ap_loss(**{"embeddings": LEAF, "labels": LABELS, **given}), *words.split("; "))


@pytest.mark.parametrize(
    "mistake", ["a name", "epsilon", "update", "method", "reduction", "backend", "ignore_index", "max_pairs"]
)
def test_mistakes_show_when_the_module_is_made(mistake: str) -> None:
    error, given, words = MISTAKES[mistake]
    refuses(error, lambda: RetrievalAPLoss(**given), words.split("; ")[0])


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

"""The module of retrieval: its options, and the two ways to call it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch

from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss
from tests.losses import AS_FUNCTION
from tests.retrieval_batches import LAYOUTS, Bilinear, named_pairs, numbers, rows


def test_a_module_is_its_function_with_options_held() -> None:
    labels, leaf = torch.tensor(LAYOUTS["shuffled"]), rows(55, 12)
    options: dict[str, Any] = {
        "epsilon": 0.3,
        "update": "negative",
        "method": "dp",
        "ignore_index": 1,
        "distractor_label": 2,
        "reduction": "none",
        "backend": "reference",
        "max_pairs": 30,
    }
    module = RetrievalAPLoss("dot", noise=0, **options)
    expected = retrieval_ap_loss(leaf, labels, similarity="dot", **options)
    assert torch.equal(module(leaf, labels), expected)
    assert repr(module) == f"RetrievalAPLoss(similarity='dot', {', '.join(f'{k}={v!r}' for k, v in options.items())})"
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module)
        assert torch.equal(twin(leaf, labels), expected)
    assert RetrievalAPLoss(epsilon=2).epsilon == 2.0
    assert RetrievalAPLoss().eval()(leaf, labels) == retrieval_ap_loss(leaf, labels, update="symmetric")
    assert not module.state_dict()
    assert "(similarity): Bilinear" in repr(RetrievalAPLoss(Bilinear()))


def test_two_ways_to_call_it() -> None:
    """References third, as documented here, or pairs third, as in pytorch-metric-learning."""
    labels, leaf, memory = torch.tensor(LAYOUTS["shuffled"]), rows(56, 12), rows(57, 9)
    ref_labels = labels[:9]
    pairs = tuple(index for mask in named_pairs(58, 12, 9, 0.4) for index in torch.where(mask))
    loss = RetrievalAPLoss(**AS_FUNCTION)
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

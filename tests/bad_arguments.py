"""Arguments that are to be refused, each by an error that names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.masked import masked_tensor

SCORES = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.7, 0.3]])
TARGETS = torch.tensor([[1, 0, 0], [0, 1, 0]])
LOGITS, CLASSES = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.7, 0.3]]), torch.tensor([2, 0])
NO_TENSORS = [None, "0.5", 1, 1.5, True, [[0.5, 0.1, 0.9], [0.2, 0.7, 0.3]], SCORES.numpy(), object(), {}]
NO_NUMBERS = ["1", b"1", [1.0], 1j, torch.tensor(1.0), torch.ones(2), np.array(1.0), True, np.bool_(True), object()]
NO_INTS = [1.0, "1", [1], torch.tensor(1), np.array(1), np.bool_(True), np.float32(1), True, 1j, object()]
NO_WORDS = ["", "Mean", b"mean", 0, True, ["mean"], torch.tensor(1), np.array(["mean"]), np.array(["a", "b"]), object()]
NO_SCALES = [*NO_NUMBERS, None, 0.0, -0.0, -1, torch.nan, torch.inf, -torch.inf, 1e-310, 10**400, -(10**400)]


NESTED = (torch.strided, torch.jagged)


def exotic(values: Tensor) -> list[Tensor]:
    """The same numbers in tensors of a kind that no loss is made for."""
    floats = values.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are in beta, some deprecated
        return [
            floats.to_sparse(),
            values.to_sparse(),
            floats.to_sparse_csr() if values.dim() == 2 else floats.to_sparse(),
            floats.to_mkldnn(),
            torch.quantize_per_tensor(floats, 1.0, 0, torch.quint8),
            values.to(torch.complex64),
            floats.to(torch.float8_e4m3fn),
            floats.to(torch.float8_e8m0fnu),  # it has no zero
            torch.zeros(values.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            values.to(torch.uint8).view(torch.uint4),
            values.to(torch.uint8).view(torch.bits8),
            masked_tensor(values, torch.ones(values.shape, dtype=torch.bool)),
            values.to("meta"),
            *(torch.nested.nested_tensor(list(floats), layout=how) for how in NESTED if values.dim() == 2),
        ]


def wrong_shapes(values: Tensor) -> list[Tensor]:
    return [
        values.reshape(-1)[0],
        values[:1],
        values[..., :1],
        values[None],
        values.reshape(-1)[:0],
        values.reshape(3, 2),
    ]


FLAT_WEIGHTS = [*NO_TENSORS[1:], *exotic(torch.ones(2)), torch.tensor([True, True]), torch.ones(2, requires_grad=True)]
SMALL_TABLE = torch.eye(2)
BAD: dict[str, list[Any]] = {
    "scores": [*NO_TENSORS, *exotic(SCORES), SCORES.long(), SCORES > 0, SCORES.to(torch.uint16)],
    "targets": [*NO_TENSORS, *exotic(TARGETS), *wrong_shapes(TARGETS), TARGETS - 1, TARGETS * 0.5, TARGETS + torch.nan],
    "dim": [
        *(each for each in NO_INTS if not isinstance(each, list)),
        None,
        (),
        (0, 0),
        (0, 2),
        (0.0,),
        [True],
        2,
        -3,
        2**70,
        -(2**70),
    ],
    "ignore_index": [*NO_INTS, 0, 1, 2**63, -(2**63) - 1],
    "update": [*NO_WORDS, None, "Positive", np.array(["positive"])],
    "measure": [
        *(each for each in NO_WORDS if not isinstance(each, torch.Tensor)),
        None,
        "NDCG",
        "precision",  # which wants a k
        "partial_auc",  # and this a number
        ("ndcg",),
        ("ndcg", 2.0),
        ("ndcg", 1.0, None, 1),
        ("partial_auc", 1.1),
        *(("bedroc", each) for each in NO_SCALES),
    ],
    "k": [*NO_INTS, 0, -1, 2**31, 2**70],
    "method": [*NO_WORDS, None, "DP", np.array(["dp"])],
    "reduction": [*NO_WORDS, None, "average"],
    "average": [*NO_WORDS, "mean"],
    "backend": [*NO_WORDS, None, "numpy", np.array(["auto"])],
    "sharded": [*NO_WORDS, None, np.array(["items"])],
    "process_group": ["world", 0, True, object(), [0, 1]],
    "noise": [each for each in NO_SCALES if not isinstance(each, float) or each != 0],
    "samples": [*NO_INTS, None, 0, -1],
    "generator": [5, "cpu", True, object(), torch.Generator],
    "epsilon": NO_SCALES,
    "temperature": NO_SCALES,
    "margin": NO_SCALES,
    "groups": [*NO_TENSORS[1:], *exotic(TARGETS.view(-1)), TARGETS, TARGETS.view(-1)[:5], TARGETS.view(-1) > 0],
    "offsets": [
        *NO_TENSORS[1:],
        *exotic(torch.tensor([0, 3, 6])),
        torch.tensor([0.0, 3.0, 6.0]),
        *(torch.tensor(wrong) for wrong in (0, [[0, 6]], [0, 5], [1, 6], [0, 7, 6], [0, 4, 3, 6], [6, 0], [-1, 6], [])),
        *(torch.tensor([0, 2**63, 6], dtype=torch.uint64), torch.tensor([0, 2**62, -(2**62), 6])),
    ],
    "weight": [
        *FLAT_WEIGHTS,
        torch.ones(3),
        torch.ones(2, 1),
        *(torch.tensor([1.0, w]) for w in (-1, torch.nan, torch.inf)),
    ],
    "sample_weight": [
        *FLAT_WEIGHTS,
        torch.ones(2),
        torch.ones(2, 1),
        *(torch.full((2, 3), wrong) for wrong in (-1.0, torch.nan, torch.inf)),
    ],
    "logits": [*NO_TENSORS, *exotic(LOGITS), torch.tensor(0.5), LOGITS[:, :0], LOGITS.long()],
    "cost": [
        *NO_TENSORS[1:],
        *exotic(torch.eye(3)),
        SMALL_TABLE,
        torch.ones(3),
        torch.ones(3, 3) / 0,
        torch.eye(3) > 0,
    ],
    "score_fn": [None, 1, "f", torch.ones(2), lambda y: None, lambda y: 1.0, lambda y: torch.ones(2).long()],
    "task_loss": [1, "f", torch.ones(2), lambda y: None, lambda y: torch.ones(3), lambda y: torch.ones(2).to("meta")],
}
# The devices of scores are the user's, but those of a task loss are the scores'.
RETURNED = [each for each in exotic(torch.ones(2)) if each.device.type != "meta"]
BAD["score_fn"] += [lambda y, given=given: given for given in RETURNED]
BAD["task_loss"] += [lambda y, given=given: given for given in RETURNED]
BAD_CLASSES = [*NO_TENSORS, *exotic(CLASSES), CLASSES[:1], CLASSES[None], CLASSES + 1, CLASSES - 1, CLASSES.float()]


def refused(call: Callable[[], Any], name: str, value: Any) -> None:
    try:
        with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
            call()
    except pytest.fail.Exception:
        pytest.fail(f"{name} = {value!r} was taken")
    assert name in str(caught.value), f"{name} = {value!r}: the message names no {name}: {caught.value}"

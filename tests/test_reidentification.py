"""Distractors, which are relevant to nothing, and cameras, whose own pictures leave the ranking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import fastap
from tests.losses import AS_FUNCTION

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(embeddings: Tensor, labels: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """The loss of the rankings of cosines with these targets, -1 for what takes no part."""
    unit = normalize(embeddings, dim=1)
    return fastap.direct_ap_loss(
        unit @ unit.T, targets.fill_diagonal_(-1), ignore_index=-1, epsilon=0.1, **options, dim=-1
    )


@pytest.mark.parametrize("distractor", [0, -1])
def test_distractors_are_relevant_to_nothing(distractor: int) -> None:
    """Of the report: taken as a class of its own, the loss is another."""
    embeddings, labels = scores(7, 24, 5), torch.arange(24) % 6 + 1
    labels[::4] = distractor
    targets = (labels[:, None] == labels).to(torch.int8)
    as_a_class = by_hand(embeddings, labels, targets.clone())
    targets[labels == distractor] = 0
    right = by_hand(embeddings, labels, targets)
    assert abs(right - as_a_class) > 1e-3
    for options in ({}, {"max_pairs": 60}):
        given = fastap.retrieval_ap_loss(embeddings, labels, distractor_label=distractor, **options)
        torch.testing.assert_close(given, right)
    assert fastap.RetrievalAPLoss(**AS_FUNCTION, distractor_label=distractor)(embeddings, labels) == right
    references = fastap.retrieval_ap_loss(embeddings, labels, embeddings.clone(), labels, distractor_label=distractor)
    assert references != right  # there every query finds itself first
    # With several labels an item, a row of zeros.
    several = torch.nn.functional.one_hot(labels.clamp(min=0), 7)
    several[labels == distractor] = 0
    torch.testing.assert_close(fastap.retrieval_ap_loss(embeddings, several), right)
    with pytest.raises(ValueError, match="distractor_label must be None for labels of 2 dimensions"):
        fastap.retrieval_ap_loss(embeddings, several, distractor_label=0)
    with pytest.raises(ValueError, match="distractor_label must differ from ignore_index, got 3"):
        fastap.retrieval_ap_loss(embeddings, labels, distractor_label=3, ignore_index=3)


def test_pairs_that_miners_name_of_distractors_are_irrelevant() -> None:
    embeddings, labels = scores(8, 6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    same = labels[:, None] == labels
    pairs = tuple(index for mask in (same & ~torch.eye(6, dtype=torch.bool), ~same) for index in torch.where(mask))
    given = fastap.retrieval_ap_loss(embeddings, labels, indices_tuple=pairs, distractor_label=0)
    torch.testing.assert_close(given, fastap.retrieval_ap_loss(embeddings, labels, distractor_label=0))


@pytest.mark.parametrize("several", [False, True])
def test_the_same_identity_of_the_same_camera_leaves_the_ranking(several: bool) -> None:
    embeddings, identity, camera = scores(9, 30, 5), torch.arange(30) % 5, torch.arange(30) % 3
    targets = (identity[:, None] == identity).to(torch.int8)
    right = by_hand(embeddings, identity, targets.masked_fill((targets == 1) & (camera[:, None] == camera), -1))
    labels = torch.nn.functional.one_hot(identity) if several else identity
    for options in ({}, {"max_pairs": 70}):
        given = fastap.retrieval_ap_loss(embeddings, labels, cameras=camera, **options)
        torch.testing.assert_close(given, right)
    torch.testing.assert_close(fastap.RetrievalAPLoss(**AS_FUNCTION)(embeddings, labels, cameras=camera), right)
    assert abs(right - fastap.retrieval_ap_loss(embeddings, labels)) > 1e-3


def test_cameras_of_references() -> None:
    """Market-1501: junk -1, distractors 0, and the rule of cameras, in one call."""
    queries, gallery = scores(10, 8, 5), scores(11, 40, 5)
    identity, ids = torch.arange(8) % 4 + 1, torch.arange(40) % 6 - 1
    camera, cameras = torch.arange(8) % 3, torch.arange(40) % 4
    targets = (identity[:, None] == ids).to(torch.int8)
    targets.masked_fill_((targets == 1) & (camera[:, None] == cameras), -1).masked_fill_(ids == -1, -1)
    unit, others = normalize(queries, dim=1), normalize(gallery, dim=1)
    right = fastap.direct_ap_loss(unit @ others.T, targets, ignore_index=-1, epsilon=0.1, dim=-1)
    given = fastap.retrieval_ap_loss(
        queries, identity, gallery, ids, cameras=camera, ref_cameras=cameras, ignore_index=-1, distractor_label=0
    )
    torch.testing.assert_close(given, right)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"cameras": torch.arange(5)}, ValueError, r"cameras must have the shape \(6,\), got \(5,\)"),
        ({"cameras": torch.rand(6)}, TypeError, "cameras must have an integer dtype"),
        (
            {"cameras": list(range(6))},
            TypeError,
            "must be a torch.Tensor or None, got list; give torch.as_tensor",
        ),
        ({"ref_cameras": torch.arange(6)}, ValueError, "cameras must be given where ref_cameras are"),
        (
            {"cameras": torch.arange(6), "ref_embeddings": torch.rand(4, 3), "ref_labels": torch.arange(4)},
            ValueError,
            "ref_cameras must be given where cameras are",
        ),
        (
            {"cameras": torch.arange(6), "indices_tuple": (torch.tensor([0]),) * 3},
            ValueError,
            "cameras must be None with indices_tuple",
        ),
        ({"distractor_label": 0.5}, TypeError, "distractor_label must be an int or None, got float"),
    ],
)
def test_errors_of_cameras_and_distractors(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        fastap.retrieval_ap_loss(torch.rand(6, 3), torch.arange(6) // 2, **options)

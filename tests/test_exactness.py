"""A fixed-seed slice of :mod:`tests.exactness`, and that the slice meets what it is meant to meet."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

import fastap
from fastap.backends.torch import augment
from tests.exactness import check_many
from tests.problems import KINDS, random_batch


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_problems_of_every_kind(seed: int) -> None:
    counts = check_many(400, seed)
    assert counts["problems"] >= 400
    assert counts["brute force"] >= 100
    assert counts["gradients"] >= 1400  # two updates, two paths or three; nearly every optimum is unique
    assert all(counts[kind] > 0 for kind in KINDS)


@pytest.mark.parametrize("seed", [5, 6])
def test_random_problems_by_the_dynamic_program(seed: int) -> None:
    counts = check_many(250, seed, method="dp")
    assert counts["problems"] >= 250
    assert counts["gradients"] >= 850


def test_the_library_s_own_choice_of_path() -> None:
    assert check_many(100, seed=4, paths=("auto",))["problems"] >= 100


def test_random_problems_provoke_conflicts_and_the_dynamic_program() -> None:
    rng = np.random.default_rng(100)
    with (
        mock.patch.object(augment, "_prove_or_solve", wraps=augment._prove_or_solve) as conflicts,
        mock.patch.object(augment, "solve_blocks", wraps=augment.solve_blocks) as programs,
    ):
        for _ in range(300):
            batch = random_batch(rng, 100)
            scores, targets = torch.tensor(batch.scores), torch.tensor(batch.targets)
            fastap.loss_augmented_ranking(
                scores, targets, epsilon=batch.epsilon, update="negative", ignore_index=-1, backend="torch"
            )
    assert conflicts.call_count >= 8
    assert programs.call_count >= 2

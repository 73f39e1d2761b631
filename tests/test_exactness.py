"""A fixed-seed slice of :mod:`tests.exactness`, and that the slice meets what it is meant to meet."""

from __future__ import annotations

import pytest

from tests.exactness import check_many
from tests.kernels import often
from tests.problems import KINDS


@pytest.mark.parametrize("seed", often(1, full=[2, 3]))
def test_random_problems_of_every_kind(seed: int) -> None:
    counts = check_many(400, seed)
    assert counts["problems"] >= 400
    assert counts["brute force"] >= 100
    assert counts["gradients"] >= 700  # two updates; nearly every optimum is unique
    assert all(counts[kind] > 0 for kind in KINDS)


@pytest.mark.parametrize("seed", often(5, full=[6]))
def test_random_problems_by_the_dynamic_program(seed: int) -> None:
    counts = check_many(250, seed, method="dp")
    assert counts["problems"] >= 250
    assert counts["gradients"] >= 425

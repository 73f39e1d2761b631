"""No thread of a kernel reads what another is writing: every access of every path, in Triton's interpreter.

The interpreter runs the lanes of a tile together, so that every result there is right. What it cannot show by results
is seen by :mod:`tests.races`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import fastap
from tests.kernels import few_programs, interpreted, often, quiet
from tests.paths import solving
from tests.problems import draw
from tests.races import Race, watched

pytestmark = [interpreted, *quiet]

# What the last lane of a tile of columns writes depends by a scan on what the first lane has read there.
ORDERED_BY_A_SCAN = {"_middle_choice", "advance_wave"}

# With seeds that reach what they name.
CASES: dict[str, dict[str, Any]] = {
    "search, pooling": {"kind": "tied", "seed": 1, "epsilon": 0.5},
    "search, prices, bands, the program": {"update": "negative", "kind": "conflicting", "seed": 3, "epsilon": 5.0},
    "the program over all columns": {"update": "negative", "kind": "gaussian", "epsilon": 0.5, "method": "dp"},
    "gaps": {"update": "negative", "kind": "gaussian", "epsilon": 0.5, "far": True},
}


def unordered(races: set[Race]) -> set[Race]:
    return {race for race in races if race.function not in ORDERED_BY_A_SCAN}


@pytest.mark.parametrize(
    ("layout", "case"),
    often(
        *product(["triton-long"], CASES),
        ("ragged", "search, prices, bands, the program"),
        full=[*product(["triton-short"], CASES), *product(["ragged"], [*CASES][::2] + [*CASES][3:])],
    ),
)
def test_no_races(case: str, layout: str) -> None:
    options = dict(CASES[case])
    kind, seed, far = options.pop("kind"), options.pop("seed", 0), options.pop("far", False)
    scores, targets = draw(np.random.default_rng(seed), kind, 22, 30)
    if far:
        scores[0] = 1e20
    if layout == "ragged":
        options["groups"] = torch.arange(len(scores)) // 40
    leaf = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    solved = few_programs() if layout == "ragged" else solving(layout)
    with solved, watched() as races:
        loss = fastap.direct_ap_loss(leaf, torch.tensor(targets), backend="triton", **options)
    assert not unordered(races)
    wanted = fastap.direct_ap_loss(leaf, torch.tensor(targets), backend="reference", **options)
    torch.testing.assert_close(loss, wanted)


@triton.jit
def shift(x_ptr, ORDERED: tl.constexpr, BLOCK: tl.constexpr):
    """Each element to its neighbour's place, and the last one to all, as wrong loops end."""
    lane = tl.arange(0, BLOCK)
    value = tl.load(x_ptr + lane)
    if ORDERED:
        tl.debug_barrier()
    tl.store(x_ptr + lane + 1, value)


@triton.jit
def count_down(x_ptr, ORDERED: tl.constexpr, BLOCK: tl.constexpr):
    """All threads go by one number, and one of them writes it anew: the fault that was in ``solve_block``."""
    lane = tl.arange(0, BLOCK)
    step = 0
    while step < tl.load(x_ptr):
        step = step + 1
    if ORDERED:
        tl.debug_barrier()
    tl.store(x_ptr + lane, lane * 0 + 1)


@pytest.mark.parametrize("kernel", [shift, count_down])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_race_is_seen(kernel: Any, ordered: bool) -> None:
    with watched(__file__) as races:
        kernel[(2,)](torch.full((9,), 3, dtype=torch.int32), ORDERED=ordered, BLOCK=8)
    assert {race.function for race in races} == (set() if ordered else {kernel.__name__})

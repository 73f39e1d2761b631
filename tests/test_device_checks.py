"""The kernels as Triton compiles them, on an emulated GPU: right against the reference, and no fault on any path.

Sizes and types are those that ``tests/compiled.py`` compiles for, so that one compilation serves both: what kernels are
compiled for is whether a number is 1 or a multiple of 16. Scores of float64 take the path of long rankings at any
length. ``make test-emulated`` runs what is marked ``whole`` too: every loss, type and size, for all architectures.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from emulator.device import CAPABILITIES
from tests import device_checks as checks
from tests.kernels import DEVICE, gpu, often
from tests.losses import LOSSES

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="test_gpu.py checks the same on the GPU")

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
DIRECT = ("positive", "negative", "symmetric")
SOLVED = [*product(LOSSES, ["auto"]), *product([*DIRECT, "hinge"], ["dp"])]
# One of each path and launch, then the types.
SIZES = [(F32, 100), (F32, 500), (F32, 1000), (F32, 4001), (F32, 4113), (F64, 301)]
HALVES = [(F16, 500), (BF16, 500), (F16, 4113), (BF16, 4113)]
RAGGED = {"short": (0, 1, 2, 0, *range(3, 130, 7), 33, 32, 0, 0), "long": (700, 0, 1, 2011, 512, 513, 0, 130)}
Check = tuple[str, str, torch.dtype, int]


def whole(*cases: Any) -> list[Any]:
    """For every architecture, and left to ``make test-emulated``."""
    return [pytest.param(*case, number, marks=pytest.mark.whole) for case, number in product(cases, CAPABILITIES)]


def name_of(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


@pytest.mark.parametrize(
    ("name", "method", "dtype", "items", "capability"),
    [
        *often(
            ("negative", "auto", F32, 100, 90),
            ("positive", "auto", F64, 301, 90),
            ("negative", "auto", F64, 301, 90),
            ("negative", "dp", F64, 301, 90),
            full=[
                ("positive", "auto", F32, 1000, 90),
                ("symmetric", "auto", F32, 4001, 90),
                ("symmetric", "auto", F32, 4113, 90),
                ("positive", "dp", F32, 100, 90),
                ("negative", "dp", F32, 4113, 90),
                *(("positive", "auto", *half, 90) for half in HALVES),
                *((loss, "auto", F32, items, 90) for loss in ("hinge", "perceptron") for items in (500, 4113)),
            ],
        ),
        *whole(*((*solved, *size) for solved, size in product(SOLVED, [*SIZES, *HALVES]))),
    ],
    ids=name_of,
)
def test_losses(name: str, method: str, dtype: torch.dtype, items: int, capability: int) -> None:
    gradients = 0
    with gpu(capability=capability):
        for batch in checks.padded_batches(items, 3, items, 3):
            gradients += checks.check_losses(batch, name, DEVICE, dtype, method)["gradients"]
    assert gradients >= 1


@pytest.mark.parametrize(
    ("update", "method", "dtype", "items", "capability"),
    [
        *often(full=[("positive", "auto", F64, 301, 90), ("negative", "auto", F32, 4113, 90)]),
        *whole(*((*solved, *size) for solved, size in product(SOLVED, [*SIZES, *HALVES]) if solved[0] in DIRECT[:2])),
    ],
    ids=name_of,
)
def test_rankings(update: str, method: str, dtype: torch.dtype, items: int, capability: int) -> None:
    with gpu(capability=capability):
        for batch in checks.padded_batches(items + 1, 3, items, 3):
            checks.check_rankings(batch, update, DEVICE, dtype, method)


@pytest.mark.parametrize(
    ("dtype", "items", "capability"),
    [*often((F64, 301, 90), full=[(F32, 500, 90)]), *whole(*SIZES, *HALVES)],
    ids=name_of,
)
def test_metrics(dtype: torch.dtype, items: int, capability: int) -> None:
    with gpu(capability=capability):
        for batch in checks.padded_batches(items + 2, 3, items, 3):
            checks.check_metric(batch, DEVICE, dtype)


@pytest.mark.parametrize(
    ("name", "method", "dtype", "lengths", "capability"),
    [
        *often(
            ("negative", "auto", F32, "short", 90),
            full=[
                ("positive", "auto", F32, "long", 90),
                ("symmetric", "auto", F32, "long", 90),
                ("hinge", "auto", F32, "long", 90),
            ],
        ),
        *whole(*((*solved, dtype, lengths) for solved, dtype, lengths in product(SOLVED, (F16, F32, F64), RAGGED))),
    ],
    ids=name_of,
)
def test_ragged(name: str, method: str, dtype: torch.dtype, lengths: str, capability: int) -> None:
    with gpu(capability=capability):
        checks.check_ragged(name, DEVICE, dtype, RAGGED[lengths], method)
        checks.check_ragged_metric(DEVICE, dtype, RAGGED[lengths])
        if name in DIRECT[:2]:
            checks.check_ragged_ranking(name, DEVICE, dtype, RAGGED[lengths], method)


# What is special, each on the path that it is about.
SPECIAL: dict[str, Callable[[], object]] = {
    "odd rankings": lambda: checks.check_losses(checks.odd_batch(301), "negative", DEVICE, F64),
    "odd rankings, ranks": lambda: checks.check_rankings(checks.odd_batch(301), "positive", DEVICE, F64),
    "odd rankings, short": lambda: checks.check_losses(checks.odd_batch(100), "negative", DEVICE, F32),
    "far apart": lambda: checks.check_far("negative", DEVICE, F64, 301),
    "far apart, dp": lambda: checks.check_far("negative", DEVICE, F64, 301, "dp"),
    "far apart, ragged": lambda: checks.check_far("negative", DEVICE, F64, 301, ragged=True),
    "far apart, ranks": lambda: checks.check_far_ranking("positive", DEVICE, F64, 301),
    "zeros": lambda: checks.check_zeros(DEVICE, 301),
    "spoiled, long": lambda: checks.check_spoiled(LOSSES["positive"], DEVICE, 301, F64),
    "spoiled, short": lambda: checks.check_spoiled(LOSSES["positive"], DEVICE, 100),
    "axes": lambda: checks.check_axes(LOSSES["positive"], DEVICE, (5, 6, 7), F64),
    "views": lambda: [checks.check_view(LOSSES["perceptron"], view, DEVICE, 4, 12) for view in checks.VIEWS],
    "again": lambda: checks.check_repeats("negative", checks.full_batch(0, 3, 301), DEVICE, F64),
    "again, short": lambda: checks.check_repeats("negative", checks.full_batch(0, 3, 100), DEVICE, F32),
}


@pytest.mark.parametrize(
    "case",
    often("far apart", "spoiled, long", full=[each for each in SPECIAL if each not in ("far apart", "spoiled, long")]),
)
def test_special_rankings(case: str) -> None:
    with gpu(fuzz=1):  # another unit in the last place of what is approximate
        SPECIAL[case]()


@pytest.mark.full
@pytest.mark.parametrize("update", ["positive", "negative"])
def test_a_long_ranking(update: str) -> None:
    batch = checks.full_batch(0, 1, 20_011)
    with gpu():
        checks.check_long(torch.from_numpy(batch.scores).float(), torch.from_numpy(batch.targets == 1), update, DEVICE)

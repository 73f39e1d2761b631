"""Faults planted in every file of kernels are found on the emulated GPU.

A barrier less, an index too far, memory without a start: each makes a check of :mod:`tests.device_checks` red, by a
wrong result or by what the emulator sees. Of barriers, those that no reduction stands beside: Triton puts one of its
own into each, and the one in the source is then a promise, not an instruction that anything hangs on.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import fastap
from emulator import Device, GivenUpError, compiler
from fastap.backends import triton
from fastap.types import Batch
from tests import device_checks as checks
from tests.kernel_batches import check_cut
from tests.kernels import TILE, often
from tests.rewritten import rewritten

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
CPU, F32, F64 = "cpu", torch.float32, torch.float64
BARRIER = "tl.debug_barrier()"


def _conflicts() -> None:
    """Rows in conflict, of which prices prove some blocks and others are solved."""
    for seed in (0, 1, 2):
        checks.check_losses(checks.full_batch(seed, 3, 301, "conflicting", 0.5), "negative", CPU, F64)


def _weighted() -> None:
    batch = checks.full_batch(0, 3, 301)
    scores, targets = torch.from_numpy(batch.scores), torch.from_numpy(batch.targets)
    weight = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    given = triton.average_precision(Batch(scores, targets, None), weight)
    torch.testing.assert_close(given, fastap.average_precision(scores, targets, sample_weight=weight, dim=-1))


def _dp_of_one(items: int) -> None:
    checks.check_losses(checks.full_batch(0, 1, items, share=0.01), "negative", CPU, F64, "dp")


PROBLEMS: dict[str, Callable[[], object]] = {
    "conflicts": _conflicts,
    "positive": lambda: checks.check_losses(checks.odd_batch(301), "positive", CPU, F64),
    "ranks": lambda: checks.check_rankings(checks.full_batch(0, 3, 301), "positive", CPU, F64),
    "perceptron": lambda: checks.check_losses(checks.odd_batch(301), "perceptron", CPU, F64),
    "dp": lambda: checks.check_losses(checks.full_batch(0, 3, 301), "negative", CPU, F64, "dp"),
    "waves": lambda: _dp_of_one(4113),
    "gaps": lambda: checks.check_far("negative", CPU, F64, 301),
    "hinge gaps": lambda: checks.check_far("hinge", CPU, F64, 301),
    "spans": lambda: check_cut("ranking", F64, 13 * TILE - 1, 2),
    "short": lambda: checks.check_losses(checks.odd_batch(500), "positive", CPU, F32),
    "short gaps": lambda: checks.check_far("positive", CPU, F32, 500),
    "ragged": lambda: checks.check_ragged("positive", CPU, F32, (700, 0, 130, 1)),
    "ragged perceptron": lambda: checks.check_ragged("perceptron", CPU, F32, (700, 0, 130, 1)),
    "weighted": _weighted,
    "hard": lambda: checks.check_losses(checks.hard_batch(*checks.HARD[0]), "negative", CPU, F64),
}

# Kernel file and function, what is there, what is put in its place, and the problem that finds it.
PLANTED = {
    "certify: an index too far": (
        "certify.set_bands",
        "y_ptr + row, mask=row < end",
        "y_ptr + row, mask=row <= end",
        "conflicts",
    ),
    "coarse: a barrier less": ("coarse._sum_paths", BARRIER, "pass", "hard"),
    "coarse: an index too far": (
        "coarse._range_of",
        "(row >= first) & (row < end)",
        "(row >= first) & (row <= end)",
        "hard",
    ),
    "coarse: no start": (
        "coarse._count",
        "tl.store(rows_ptr + 4 * plane + room + row - first, count, mask=row < end)",
        "pass",
        "hard",
    ),
    "output: an index too far": (
        "output.gradient_at",
        "v_ptr + place, mask=taken",
        "v_ptr + place, mask=place >= 0",
        "positive",
    ),
    "output: no start": (
        "output.row_sums",
        "a = tl.load(choice_ptr + row",
        "a = tl.load(choice_ptr + row + 1",
        "positive",
    ),
    "pool: a barrier less": (
        "pool.pool",
        f"place, mask=mask)\n            {BARRIER}",
        "place, mask=mask)",
        "conflicts",
    ),
    "pool: an index too far": ("pool.find_last", "mask & (row + 1 < end)", "mask", "conflicts"),
    "pool: no start": ("pool.pool", "tl.store(work_ptr + row, place, mask=mask)", "pass", "conflicts"),
    "prices: a barrier less": ("prices.set_prices", f"        {BARRIER}\n    for", "    for", "conflicts"),
    "prices: an index too far": ("prices.price_of", "row - 1, mask=is_inside", "row - 1, mask=mask", "hard"),
    "program: a barrier less": ("program._middle_choice", f"        {BARRIER}\n        base", "        base", "dp"),
    "program: an index too far": (
        "program._middle_choice",
        "mask=inside, other=0.0",
        "mask=column <= right + 1, other=0.0",
        "dp",
    ),
    "program: no start": ("program.solve_all", "tl.store(low_ptr + row, row * 0, mask=mask)", "pass", "dp"),
    "ragged: an index too far": ("ragged.take_in", "mask = place < size", "mask = place <= size", "ragged"),
    "ragged: no start": (
        "ragged.encode_ragged",
        "tl.store(keys_ptr + item, key_of(score), mask=mask)",
        "pass",
        "ragged",
    ),
    "scans: an index too far": ("scans.next_set", "mask=place < end", "mask=place <= end", "conflicts"),
    "search: an index too far": ("search.search_concave", "tl.minimum(a + step, n_negative)", "a + step", "positive"),
    "search: no start": ("search.search_rows", "tl.store(choice_ptr + row, choice, mask=mask)", "pass", "positive"),
    "short: a barrier less": ("short.finish_ranking", f"n_items)\n                {BARRIER}", "n_items)", "short gaps"),
    "short: an index too far": (
        "short.sort_short",
        "neighbours(item, PER_THREAD), mask=mask",
        "neighbours(item, PER_THREAD)",
        "short",
    ),
    "short: no start": (
        "short.sort_short",
        "tl.store(s_ptr + place, neighbours(sums, PER_THREAD), mask=mask)",
        "pass",
        "short",
    ),
    "sort: an index too far": ("sort.encode_items", "mask = item < n_items", "mask = item <= n_items", "positive"),
    "sort: no start": ("sort.encode_items", "tl.store(counts_ptr + 2 * program + 1, flags)", "pass", "positive"),
    "sort: another": ("sort.encode_items", "tl.max(tl.where", "tl.min(tl.where", "gaps"),
    "split: a barrier less": ("split.cut_gaps", f"    {BARRIER}\n    largest", "    largest", "short gaps"),
    "split: an index too far": ("split.cut_gaps", "has_gap = mask & (place > 0)", "has_gap = mask", "short gaps"),
    "split: a place too far": ("split._gaps", "(place < n_taken)", "(place <= n_taken)", "spans"),
    "split: a span too few": ("split._join_spans", "each <= number", "each < number", "spans"),
    "split: equal scores part": ("split.split_classes", "tl.where(score == last, end, ", "(", "spans"),
    "split: no centre": ("split.sum_spans", "tl.store(span_falls_ptr + n_spans, to_middle)", "pass", "gaps"),
    "split: no start": (
        "split.sum_spans",
        "tl.store(centre_ptr + ranking, centre)",
        "pass",
        "positive",
    ),
    "terms: an index too far": (
        "terms.count_above",
        "tl.minimum(count + step, n_negative)",
        "count + step",
        "positive",
    ),
    "terms: another": ("terms.marginal", "n_ptr + a, mask", "n_ptr + a + 1, mask", "positive"),
    "tiled: a span too few": ("tiled.sum_rankings", "n_spans, BLOCK_T)", "n_spans - 1, BLOCK_T)", "hinge gaps"),
    "tiled: an index too far": (
        "tiled.write_items",
        "place, mask=mask, other=0)",
        "place, mask=place <= n_items, other=0)",
        "positive",
    ),
    "tiled: no start": ("tiled.sum_rankings", "tl.store(value_ptr + ranking, value)", "pass", "positive"),
    "wave: a barrier less": ("wave.solve_segments", BARRIER, "pass", "waves"),
    "wave: no start": (
        "wave.solve_segments",
        "tl.store(high_ptr + row, row * 0 + most, mask=row < end)",
        "pass",
        "waves",
    ),
    "weighted: an index too far": ("weighted._sum_weights", "mask = place < end", "mask = place <= end", "weighted"),
    "weighted: no start": (
        "weighted._sum_weights",
        "tl.store(sums_ptr + place, above",
        "tl.store(sums_ptr + place + 1, above",
        "weighted",
    ),
}
OFTEN = ("coarse: a barrier less", "split: no start", "wave: a barrier less")


@pytest.mark.parametrize("fault", often(*OFTEN, full=[each for each in PLANTED if each not in OFTEN]))
def test_it_is_found(fault: str) -> None:
    place, old, new, problem = PLANTED[fault]
    module, name = place.split(".")
    function = getattr(import_module(f"fastap.kernels.{module}"), name)
    right = True
    with rewritten(function, old, new), Device(budget=1 << 24) as device:
        try:
            PROBLEMS[problem]()
        except (AssertionError, GivenUpError):
            right = False
    assert device.faults or not right


def test_every_file_has_one() -> None:
    files = {file.stem for file in KERNELS.glob("*.py")} - {"__init__"}
    assert {place.split(".")[0] for place, *_ in PLANTED.values()} == files


@pytest.mark.full
@pytest.mark.parametrize("problem", PROBLEMS)
def test_nothing_is_found_where_nothing_is(problem: str) -> None:
    with Device() as device:
        PROBLEMS[problem]()
    assert not device.faults

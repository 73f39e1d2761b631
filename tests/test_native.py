"""The engine in C: that it is there, and where it differs from the other backends in more than speed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import fastap
from fastap import backends
from fastap.backends import native
from fastap.types import UPDATES, Batch, Objective
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient
from tests.problems import KINDS, draw

pytestmark = pytest.mark.skipif(
    not native.IS_BUILT and shutil.which("cc") is None, reason="without a C compiler the engine is not built"
)

LONG = 3 << 17  # scores enough for three threads on one ranking


def one_ranking(
    kind: str, n_positive: int, n_negative: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    scores, targets = draw(np.random.default_rng(seed), kind, n_positive, n_negative)
    return torch.tensor(scores, dtype=dtype), torch.tensor(targets)


@pytest.fixture
def threads() -> Any:
    """Sets how many threads PyTorch has, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_it_is_built_where_there_is_a_compiler() -> None:
    assert native.IS_BUILT


def test_auto_takes_it_on_the_cpu() -> None:
    with mock.patch.object(native, "_call", wraps=native._call) as call:
        fastap.direct_ap_loss(torch.tensor([0.1, 0.2]), torch.tensor([1, 0]))
        fastap.average_precision(torch.tensor([0.1, 0.2]), torch.tensor([1, 0]))
        fastap.loss_augmented_ranking(torch.tensor([0.1, 0.2]), torch.tensor([1, 0]))
    assert call.call_count == 3


def test_it_needs_tensors_of_the_cpu() -> None:
    with pytest.raises(ValueError, match="backend 'native' needs tensors on the CPU, got meta"):
        fastap.direct_ap_loss(torch.zeros(2, device="meta"), torch.zeros(2, device="meta"), backend="native")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", ["positive", "negative"])
def test_long_rankings_against_the_dynamic_program(kind: str, update: str) -> None:
    """Thousands of rows, hundreds of them in conflict in some kinds: the search against the program over all cells."""
    for number, (n_positive, n_negative, epsilon) in enumerate([(3_000, 5_000, 0.1), (2_000, 20_000, 1.0)]):
        scores, targets = one_ranking(kind, n_positive, n_negative, torch.float64, seed=number)
        results = []
        for method in ("auto", "dp"):
            value, gradient = value_and_gradient(
                LOSSES[update], scores, targets, weight=epsilon, method=method, reduction="none"
            )
            results.append((value, gradient))
            attained = fastap.loss_augmented_ranking(scores, targets, epsilon=epsilon, update=update, method=method)
            results[-1] += (attained.value,)
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-9, atol=1e-12)
        # Where optima are not unique, which of them is found hangs on the last bit of a sum.
        differ = (results[0][1] - results[1][1]).abs() > 1e-9 * results[1][1].abs().max()
        assert differ.double().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_bit_depends_on_the_threads(dtype: torch.dtype, threads: Any, loss: Loss) -> None:
    scores, targets = one_ranking("gaussian", 40_000, LONG - 40_000, dtype)
    many_scores, many_targets = random_batch(1, 50, 2_000, levels=300, ignored=0.1, dtype=dtype)
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(
            (
                *value_and_gradient(loss, scores, targets, weight=0.3),
                *value_and_gradient(loss, many_scores, many_targets, weight=0.3, ignore_index=-1),
                fastap.average_precision(scores, targets),
            )
        )
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("name", ["direct", "hinge", "perceptron"])
@pytest.mark.parametrize("update", UPDATES)
def test_a_loss_without_its_gradient(update: Any, name: Any) -> None:
    """The same bits, of any layout, NaN and rankings of one class too; of the reference as well."""
    scores, targets = random_batch(6, 9, 60, levels=25, ignored=0.1)
    scores[2, 5], targets[3], targets[4] = torch.nan, 1, -1
    objective = Objective(name, 0.4, update)
    flat = Batch(scores.reshape(-1), targets.reshape(-1), -1, torch.tensor([0, 60, 60, 200, 540]))
    for batch in (Batch(scores, targets, -1), flat):
        for backend in ("native", "reference"):
            engine = backends.get(backend, torch.device("cpu"))
            whole = engine.losses(batch, objective, torch.float64)
            alone = engine.losses(batch, objective, torch.float64, gradient=False)
            assert whole.gradient is not None
            assert alone.gradient is None
            torch.testing.assert_close(alone.loss, whole.loss, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(alone.takes_part, whole.takes_part)


def test_rankings_longer_than_places_can_count() -> None:
    scores, targets = torch.zeros(1).expand(2**31 - 1), torch.ones(1).expand(2**31 - 1)
    for function in (fastap.direct_ap_loss, fastap.average_precision, fastap.loss_augmented_ranking):
        with pytest.raises(ValueError, match="scores must have at most 2147483646 items in a ranking, got 2147483647"):
            function(scores, targets)
    # Of ragged rankings each may be as long.
    offsets = torch.tensor([0, 3, 8])
    for most in (4, 5):
        with mock.patch.object(native, "_MOST_ITEMS", most):
            given = torch.arange(8.0), torch.arange(8) % 2
            if most == 5:
                assert fastap.average_precision(*given, offsets=offsets).shape == (2,)
                continue
            with pytest.raises(ValueError, match="scores must have at most 4 items in a ranking, got 5"):
                fastap.average_precision(*given, offsets=offsets)


@pytest.mark.skipif(not native.IS_BUILT, reason="the engine in C was not built")
def test_every_interpreter_and_import_has_a_module_of_its_own() -> None:
    """Of a module that is initialised in one phase there is one a process."""
    spec = importlib.util.find_spec("fastap.backends.native._engine")
    assert spec is not None
    assert importlib.util.module_from_spec(spec) is not native._engine
    with pytest.raises(TypeError, match="expected 27 arguments, got 1"):
        native._engine.solve(1)
    with pytest.raises(TypeError, match="expected 16 arguments, got 1"):
        native._engine.measure(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [23, 200, 7_000, LONG])
@pytest.mark.parametrize("kind", ["gaussian", "one octave", "few", "equal", "sign alone", "powers"])
def test_rankings_of_one_class_are_sorted(kind: str, items: int, dtype: torch.dtype, threads: Any) -> None:
    """By every road of the radix sort: insertion, two widths of digits, high digit first, digits that all share."""
    generator = torch.Generator().manual_seed(items)
    uniform = torch.rand(items, generator=generator, dtype=dtype)
    scores = {
        "gaussian": torch.randn(items, generator=generator, dtype=dtype),
        "one octave": 0.5 + uniform / 2,
        "few": (uniform * 5).floor(),
        "equal": torch.full((items,), 0.1, dtype=dtype),
        "sign alone": torch.where(uniform < 0.5, -0.0, 0.0).to(dtype) + (uniform > 0.9) - 1.0 * (uniform < 0.1),
        "powers": (uniform * 120 - 60).exp2(),
    }[kind]
    expected = torch.empty(items, dtype=torch.int64)
    expected[torch.sort(scores, descending=True, stable=True)[1]] = torch.arange(items)
    for number in (1, 3):
        threads(number)
        for target in (0, 1):
            found = fastap.loss_augmented_ranking(scores, torch.full((items,), target), backend="native")
            assert torch.equal(found.ranks, expected)


@pytest.mark.parametrize("update", UPDATES)
def test_ties_across_the_parts_of_a_long_ranking(update: str, threads: Any) -> None:
    """Equal scores share their gradient however many threads fill it in."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 5, (LONG,), generator=generator).float()
    targets = torch.rand(LONG, generator=generator) < 0.3
    threads(3)
    _, gradient = value_and_gradient(LOSSES[update], scores, targets, weight=0.5)
    # A common offset of all scores changes nothing.
    assert abs(gradient.double().sum()) < 1e-6 * gradient.double().abs().sum()
    for value in range(5):
        for member in (targets, ~targets):
            assert gradient[member & (scores == value)].unique().numel() <= 1


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_a_program_of_more_cells_than_are_held(update: str) -> None:
    scores, targets = one_ranking("conflicting", 3_000, 4_000, torch.float64)
    options = {"epsilon": 1.0, "update": update}
    by_program = fastap.loss_augmented_ranking(scores, targets, **options, method="dp", backend="native")
    by_search = fastap.loss_augmented_ranking(scores, targets, **options, backend="native")
    torch.testing.assert_close(by_program.value, by_search.value, rtol=1e-12, atol=0)
    # The ranks are a ranking that attains it.
    assert torch.equal(by_program.ranks.sort().values, torch.arange(7_000))


def test_a_bool_that_is_no_bool_stays_inside_memory() -> None:
    """Bytes other than 0 and 1 are possible in a view; they count as true."""
    targets = torch.tensor([0, 255, 2, 0, 1], dtype=torch.uint8).view(torch.bool)
    scores = torch.tensor([0.5, 0.1, 0.7, 0.2, 0.4])
    given = fastap.direct_ap_loss(scores, targets, backend="native")
    assert given == fastap.direct_ap_loss(scores, torch.tensor([0, 1, 1, 0, 1]), backend="native")


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e100, 1e150, 1e200])
@pytest.mark.parametrize("update", UPDATES)
def test_the_answer_scales_with_the_scores(scale: float, update: str) -> None:
    """Products of the search overflow long before the sums do; then it must not look through every place, either."""
    scores, targets = one_ranking("gaussian", 300, 4_000, torch.float64)
    expected = value_and_gradient(LOSSES[update], scores, targets, weight=0.1)
    value, gradient = value_and_gradient(LOSSES[update], scores * scale, targets, weight=0.1 * scale)
    torch.testing.assert_close(value, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient * scale, expected[1], rtol=1e-9, atol=1e-12)


def test_sums_that_overflow_are_lost_at_once() -> None:
    """10**9 cells would be looked through if NaN were taken for a bound."""
    scores = torch.linspace(-1.5e308, 1.5e308, 60_000, dtype=torch.float64)
    targets = torch.arange(60_000) % 2
    for update in ("positive", "negative"):
        value, gradient = value_and_gradient(LOSSES[update], scores, targets)
        assert value.isnan()
        assert gradient.isnan().all()


def test_scores_near_the_largest_are_right_or_lost() -> None:
    """Prices are sums of gaps over the rows: where they would overflow, all is lost, with no answer in between."""
    scores, targets = one_ranking("conflicting", 1_500, 2_500, torch.float64)
    scores /= scores.abs().max()
    expected = fastap.direct_ap_loss(scores, targets, epsilon=0.5, update="negative", backend="native")
    found = []
    for power in (295, 300, 302, 303, 304, 306):
        scale = 10.0**power
        options: Any = {"epsilon": 0.5 * scale, "update": "negative", "backend": "native"}
        found.append(fastap.direct_ap_loss(scores * scale, targets, **options))
        value = fastap.loss_augmented_ranking(scores * scale, targets, **options).value
        assert found[-1].isnan() == value.isnan()
    for value in found:
        assert value.isnan() or torch.isclose(value, expected, rtol=1e-9, atol=0)
    assert not found[0].isnan()
    assert found[-1].isnan()


WORKERS = """
import torch, fastap
from pathlib import Path
def busy():
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in Path("/proc/self/task").iterdir()}
scores, targets = torch.randn(3_000_000), torch.rand(3_000_000) < 0.01
torch.set_num_threads(8)
fastap.direct_ap_loss(scores, targets)
torch.set_num_threads(2)
before = busy()
for _ in range(5):
    fastap.average_precision(scores, targets)
print(sum(taken > before.get(name, 0) + 1_000_000 for name, taken in busy().items()))
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells what a thread has worked")
def test_no_more_threads_work_than_pytorch_has() -> None:
    done = subprocess.run([sys.executable, "-c", WORKERS], timeout=120, check=True, capture_output=True, text=True)
    assert int(done.stdout) <= 2


@pytest.mark.skipif(not native.IS_BUILT or shutil.which("nm") is None, reason="nm reads the symbols")
def test_one_symbol_is_visible() -> None:
    """Others could be taken for, or replaced by, those of another library."""
    listed = subprocess.run(["nm", "-D", "--defined-only", native._engine.__file__], check=True, capture_output=True)
    assert [line.split()[-1] for line in listed.stdout.decode().splitlines()] == ["PyInit__engine"]


def test_long_rankings_on_a_small_stack() -> None:
    found: list[Tensor] = []
    scores = 1 + 0.2 * torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(1_000_000) % 100 == 0
    before = threading.stack_size(256 << 10)
    try:
        worker = threading.Thread(target=lambda: found.append(fastap.direct_ap_loss(scores, targets)))
        worker.start()
        worker.join()
    finally:
        threading.stack_size(before)
    assert found[0] == fastap.direct_ap_loss(scores, targets)


def test_stage_seconds_sum_to_a_call() -> None:
    scores, targets = one_ranking("gaussian", 1_000, 20_000, torch.float32)
    seconds = native.stage_seconds(Batch(scores, targets, None), Objective("direct", 0.1, "negative"))
    assert tuple(seconds) == native.STAGES
    assert min(seconds.values()) >= 0
    assert seconds["sort"] > 0
    assert seconds["search"] > 0

"""The Triton kernels on a GPU: right against the float64 reference at every size, and what only a GPU can show.

``python -m bench.gpu`` runs this file in several processes at once, and what is marked ``slow`` by itself: that takes
tens of GB of the device.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from bench import gpu_times
from fastap.__main__ import of_kernels
from fastap.types import ONE_SIDED, UPDATES
from tests import device_checks as checks
from tests.kernels import poisoned
from tests.losses import LOSSES, Loss, value_and_gradient
from tests.problems import KINDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Drivers and compilers warn of what is not ours, each version of something else.
    pytest.mark.filterwarnings("default"),
]

CUDA = "cuda"
# The perceptron has no method.
SOLVED = pytest.mark.parametrize(
    ("name", "method"), [*product(LOSSES, ["auto"]), *product(["positive", "negative", "symmetric", "hinge"], ["dp"])]
)
# Types and sizes, and how many batches of them: short rows in each of the four sizes, and long ones.
RANDOM = [
    (torch.float32, 127, 60),
    (torch.float32, 500, 20),
    (torch.float32, 1000, 10),
    (torch.float32, 4095, 4),
    (torch.float32, 4999, 4),
    (torch.float64, 127, 60),
    (torch.float64, 4999, 4),
    (torch.float16, 127, 30),
    (torch.float16, 4999, 2),
    (torch.bfloat16, 127, 30),
    (torch.bfloat16, 4999, 2),
]
# No power of two, and on both sides of what the launches of short rankings take.
SIZES = (1, 2, 31, 1000, 1024, 1025, 4095, 4096, 4097, 4113)


def name_of(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def gaussian(rankings: int, items: int, seed: int = 0, share: float = 0.05) -> tuple[Tensor, Tensor]:
    """float32 scores and bool targets, on the CPU."""
    batch = checks.full_batch(seed, rankings, items, share=share)
    return torch.from_numpy(batch.scores).float(), torch.from_numpy(batch.targets == 1)


def options_of(name: str, method: str) -> dict[str, Any]:
    return {"backend": "triton"} if name == "perceptron" else {"backend": "triton", "method": method}


@SOLVED
@pytest.mark.parametrize(("dtype", "items", "count"), RANDOM, ids=name_of)
def test_random_losses(dtype: torch.dtype, items: int, count: int, name: str, method: str) -> None:
    gradients = 0
    for batch in checks.padded_batches(items, count, items):
        gradients += checks.check_losses(batch, name, CUDA, dtype, method)["gradients"]
    assert gradients >= count / 2


@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize(("dtype", "items", "count"), RANDOM, ids=name_of)
def test_random_rankings(dtype: torch.dtype, items: int, count: int, update: str, method: str) -> None:
    for batch in checks.padded_batches(items + 1, count // 2, items):
        checks.check_rankings(batch, update, CUDA, dtype, method)


@pytest.mark.parametrize(("dtype", "items", "count"), RANDOM, ids=name_of)
def test_random_metrics(dtype: torch.dtype, items: int, count: int) -> None:
    for batch in checks.padded_batches(items + 2, count, items):
        checks.check_metric(batch, CUDA, dtype)


@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize("items", SIZES)
def test_sizes_around_the_limits(items: int, update: str) -> None:
    for kind in ("gaussian", "conflicting") if items > 2 else ("gaussian",):
        batch = checks.full_batch(items, 3, items, kind, share=0.1)
        checks.check_losses(batch, update, CUDA, torch.float32)
        checks.check_rankings(batch, update, CUDA, torch.float32)
        checks.check_metric(batch, CUDA, torch.float32)


# Lengths of ragged rankings: with one warp each and with four, empty ones anywhere, one long ranking among short ones.
RAGGED = {
    "short": (0, 1, 2, 0, *range(3, 130, 7), 33, 32, 0, 0),
    "many": tuple(number * 37 % 101 for number in range(10_000)),
    "long": (700, 0, 4097, 1, 20_011, 512, 513, 0, 130),
}


@SOLVED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("lengths", ["short", "long"])
def test_ragged_losses(lengths: str, dtype: torch.dtype, name: str, method: str) -> None:
    checks.check_ragged(name, CUDA, dtype, RAGGED[lengths], method)


@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("lengths", ["short", "long"])
def test_ragged_augmented_rankings(lengths: str, dtype: torch.dtype, update: str, method: str) -> None:
    checks.check_ragged_ranking(update, CUDA, dtype, RAGGED[lengths], method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("lengths", RAGGED)
def test_ragged_metrics(lengths: str, dtype: torch.dtype) -> None:
    checks.check_ragged_metric(CUDA, dtype, RAGGED[lengths])


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_more_ragged_rankings_than_programs(name: str) -> None:
    checks.check_ragged(name, CUDA, torch.float32, RAGGED["many"])


def test_ragged_rankings_are_equal_to_the_bit_wherever_they_stand(loss: Loss) -> None:
    scores, targets, offsets = (each.to(CUDA) for each in checks.ragged_batch(5, RAGGED["long"], torch.float32))
    options = {"ignore_index": -1, "backend": "triton"}
    value, gradient = value_and_gradient(loss, scores, targets, offsets=offsets, **options)
    again = value_and_gradient(loss, scores, targets, offsets=offsets, **options)
    padded = value_and_gradient(
        loss, scores, targets, offsets=torch.nn.functional.pad(offsets, (0, 7), value=scores.shape[0]), **options
    )
    for others in (again, (padded[0][:-7], padded[1])):
        assert torch.equal(value, others[0])
        assert torch.equal(gradient, others[1])
    assert (padded[0][-7:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("items", [7, 100, 4999])
def test_odd_rankings(items: int, name: str, dtype: torch.dtype) -> None:
    batch = checks.odd_batch(items)
    checks.check_losses(batch, name, CUDA, dtype)
    checks.check_metric(batch, CUDA, dtype)
    if name in ONE_SIDED:
        checks.check_rankings(batch, name, CUDA, dtype)


@SOLVED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("items", [7, 100, 1000, 4999])
def test_scores_far_apart(items: int, name: str, dtype: torch.dtype, method: str) -> None:
    for ragged in (False, True):
        checks.check_far(name, CUDA, dtype, items, method, ragged=ragged)
    if name in ONE_SIDED and items <= 1000:
        checks.check_far_ranking(name, CUDA, dtype, items, method)


@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rankings", "items"), [(2, 65_537), (1, 1_000_003)])
def test_long_rankings(rankings: int, items: int, kind: str, update: str) -> None:
    batch = checks.full_batch(items, rankings, items, kind, share=0.01)
    scores, targets = torch.from_numpy(batch.scores).float(), torch.from_numpy(batch.targets == 1)
    checks.check_long(scores, targets, update, CUDA, unique=kind in checks.CONTINUOUS)


@pytest.mark.parametrize("share", [1e-4, 0.5, 0.99])
def test_few_and_many_positives(share: float) -> None:
    scores, targets = gaussian(1, 100_003, share=share)
    checks.check_long(scores, targets, "negative", CUDA)
    checks.check_long(scores, targets, "positive", CUDA)


@pytest.mark.parametrize("update", ONE_SIDED)
def test_ten_million_items(update: str) -> None:
    checks.check_long(*gaussian(1, 10_000_000, share=0.01), update, CUDA)


@pytest.mark.parametrize("update", ONE_SIDED)
def test_the_dynamic_program_at_length(update: str) -> None:
    checks.check_long(*gaussian(1, 50_001, share=0.01), update, CUDA, method="dp")
    checks.check_long(*gaussian(1, 23_001, share=0.13), update, CUDA, method="dp")
    checks.check_long(*gaussian(5, 6_001, share=0.1), update, CUDA, method="dp")
    checks.check_long(*gaussian(150, 4_500, share=0.02), update, CUDA, method="dp")


@pytest.mark.parametrize("update", ONE_SIDED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=name_of)
def test_other_types_at_length(dtype: torch.dtype, update: str) -> None:
    scores, targets = gaussian(3, 65_537)
    checks.check_long(scores.to(dtype), targets, update, CUDA, unique=dtype == torch.float64)


@pytest.mark.parametrize("case", gpu_times.CASES, ids=lambda case: case.name)
def test_what_is_timed_is_right(case: gpu_times.Case) -> None:
    scores, targets = next(gpu_times.draw_inputs(case, torch.device("cpu"), 1))
    for update, method in sorted({gpu_times.WORKS[name].solves for name in case.works} - {None}):
        few = slice(0, max(1, 3_000_000 // case.items))
        checks.check_long(scores[few], targets[few], update, CUDA, method=method, unique=case.kind in checks.CONTINUOUS)


@pytest.mark.parametrize("items", [100, 5000])
def test_zeros_of_both_signs(items: int) -> None:
    checks.check_zeros(CUDA, items)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("items", [100, 5000])
def test_a_spoiled_ranking_spoils_no_other(loss: Loss, items: int, dtype: torch.dtype) -> None:
    checks.check_spoiled(loss, CUDA, items, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
def test_every_axis_can_be_ranked(loss: Loss, dtype: torch.dtype) -> None:
    checks.check_axes(loss, CUDA, (9, 8, 7), dtype)


@pytest.mark.parametrize("items", [100, 5000])
@pytest.mark.parametrize("view", checks.VIEWS)
def test_views(view: str, items: int) -> None:
    checks.check_view(LOSSES["positive"], view, CUDA, 6, items)


@pytest.mark.parametrize("levels", [0, 5])
def test_average_precision_equals_scikit_learn(levels: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for items in (50, 1000, 30_011):
        scores, targets = gaussian(1, items, share=0.2)
        if levels:
            scores = (scores * levels).round()
        given = fastap.average_precision(scores[0].to(CUDA), targets[0].to(CUDA))
        assert float(given) == pytest.approx(metrics.average_precision_score(targets[0], scores[0]), abs=1e-12)


def test_auto_is_this_backend(loss: Loss) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(3, 500))
    given = value_and_gradient(loss, scores, targets)
    expected = value_and_gradient(loss, scores, targets, backend="triton")
    assert all(torch.equal(*pair) for pair in zip(given, expected, strict=True))


@pytest.mark.parametrize("method", ["auto", "dp"])
@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize(
    ("rankings", "items", "dtype"),
    [(300, 1000, torch.float32), (40, 5000, torch.float32), (200, 1000, torch.float64), (1, 300_000, torch.float32)],
    ids=name_of,
)
def test_two_runs_are_equal_to_the_bit(rankings: int, items: int, dtype: torch.dtype, name: str, method: str) -> None:
    share = 0.2 if rankings > 1 else 0.001
    for kind in ("gaussian", "conflicting"):
        checks.check_repeats(name, checks.full_batch(3, rankings, items, kind, share), CUDA, dtype, method)


@pytest.mark.parametrize("number", range(24))
def test_kernels_prove_themselves_soon(number: int) -> None:
    """As ``python -m fastap --check`` has them do; once they are compiled, in the time that a first call may take."""
    _, compare = list(of_kernels(torch.device(CUDA)))[number]
    assert compare().wrong is None
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        compare()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.03


SHAPES = [(80, 1024), (3, 5000)]


@contextmanager
def no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_waiting_would_be_seen() -> None:
    ones = torch.ones(3, device=CUDA)
    with pytest.raises(RuntimeError), no_waiting():
        ones.sum().item()


@SOLVED
@pytest.mark.parametrize("shape", SHAPES)
def test_no_loss_waits(shape: tuple[int, int], name: str, method: str) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(*shape))
    ignoring = torch.where(targets, 1, -1)
    ignoring[:, ::2] = 0
    leaf = scores.requires_grad_()

    def work(targets: Tensor, reduction: str, index: int | None) -> None:
        loss = LOSSES[name](leaf, targets, reduction=reduction, ignore_index=index, **options_of(name, method))
        torch.autograd.grad(loss.sum(), leaf)

    for arguments in ((targets, "mean", None), (ignoring, "none", -1)):
        work(*arguments)
        with no_waiting():
            work(*arguments)


def ragged_arguments(name: str, method: str, layout: str) -> tuple[Tensor, dict[str, Any]]:
    """Scores, and what else a call with weights takes of ragged rankings, on the device."""
    scores, targets, offsets = (each.to(CUDA) for each in checks.ragged_batch(6, RAGGED["long"], torch.float32))
    lengths = offsets.diff()
    if layout == "groups":
        # Of ids that nobody has in order; empty rankings have none.
        numbers = torch.repeat_interleave(torch.arange(lengths.shape[0], device=CUDA) % 5, lengths)
        rankings: dict[str, Tensor] = {"groups": numbers, "weight": torch.rand(5, device=CUDA)}
    else:
        rankings = {"offsets": offsets, "weight": torch.rand(lengths.shape[0], device=CUDA)}
    return scores, {"targets": targets, "ignore_index": -1, **rankings, **options_of(name, method)}


def ragged_loss(name: str, scores: Tensor, **options: Any) -> Tensor:
    """The loss by its own name: ``weight`` is that of the rankings."""
    functions = {"hinge": fastap.ap_hinge_loss, "perceptron": fastap.ap_perceptron_loss}
    return (
        functions[name](scores, **options)
        if name in functions
        else fastap.direct_ap_loss(scores, update=name, **options)
    )


@pytest.mark.parametrize("layout", ["offsets", "groups"])
@SOLVED
def test_no_ragged_loss_waits(name: str, method: str, layout: str) -> None:
    scores, options = ragged_arguments(name, method, layout)
    leaf = scores.requires_grad_()
    # How many groups there are the host has to wait for, where it is to return a loss of each.
    for reduction in ("mean", "sum", "none") if layout == "offsets" else ("mean", "sum"):

        def work(reduction: str = reduction) -> None:
            loss = ragged_loss(name, leaf, reduction=reduction, **options)
            torch.autograd.grad(loss.sum(), leaf)

        work()
        with no_waiting():
            work()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("shape", [*SHAPES, "ragged"])
def test_neither_metric_nor_ranking_waits(shape: Any, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"dim": -1}
    if shape == "ragged":
        scores, targets, offsets = (each.to(CUDA) for each in checks.ragged_batch(7, RAGGED["long"], dtype))
        options = {"offsets": offsets, "ignore_index": -1}
    else:
        scores, targets = (each.to(CUDA) for each in gaussian(*shape))
    for work in (fastap.average_precision, fastap.loss_augmented_ranking):
        work(scores.to(dtype), targets, **options)
        with no_waiting():
            work(scores.to(dtype), targets, **options)


def captured(work: Callable[[], tuple[Tensor, ...]]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


@SOLVED
@pytest.mark.parametrize("shape", SHAPES)
def test_a_captured_graph_replays_on_changed_inputs(shape: tuple[int, int], name: str, method: str) -> None:
    first, second = ([each.to(CUDA) for each in gaussian(*shape, seed, share)] for seed, share in ((0, 0.05), (1, 0.4)))
    leaf, targets = first[0].clone().requires_grad_(), first[1].clone()

    def work() -> tuple[Tensor, Tensor]:
        loss = LOSSES[name](leaf, targets, **options_of(name, method))
        return loss, torch.autograd.grad(loss, leaf)[0]

    graph, result = captured(work)
    for scores, chosen in (second, first, second):
        leaf.data.copy_(scores)
        targets.copy_(chosen)
        graph.replay()
        expected = value_and_gradient(LOSSES[name], scores, chosen, reduction="mean", **options_of(name, method))
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])


@pytest.mark.parametrize("layout", ["offsets", "groups"])
@pytest.mark.parametrize("name", ["negative", "hinge"])
def test_a_captured_ragged_loss_replays_on_changed_inputs(name: str, layout: str) -> None:
    """Other scores, and other rankings."""
    scores, options = ragged_arguments(name, "auto", layout)
    leaf = scores.clone().requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        loss = ragged_loss(name, leaf, **options)
        return loss, torch.autograd.grad(loss, leaf)[0]

    graph, result = captured(work)
    for _ in range(3):
        leaf.data.normal_()
        given = options[layout]
        changed = torch.cat([(given[:-1] * 0.7).long(), given[-1:]]) if layout == "offsets" else given.roll(11)
        given.copy_(changed)
        graph.replay()
        expected = work()
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])


@pytest.mark.parametrize("layout", ["rows", "offsets", "groups"])
def test_noise_is_drawn_anew_in_every_replay_and_nobody_waits(layout: str) -> None:
    if layout == "rows":
        scores, targets = (each.to(CUDA) for each in gaussian(4, 1000))
        options: dict[str, Any] = {"targets": targets, "dim": -1}
    else:
        scores, options = ragged_arguments("symmetric", "auto", layout)
    leaf = scores.clone().requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        loss = fastap.direct_ap_loss(leaf, update="symmetric", noise=1.0, samples=3, **options)
        return loss, torch.autograd.grad(loss, leaf)[0]

    work()
    with no_waiting():
        work()
    graph, (loss, gradient) = captured(work)
    values = []
    for _ in range(3):
        graph.replay()
        values.append((loss.item(), gradient.sum().item()))
    assert len({value for value, _ in values}) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_captured_metric_replays_on_changed_inputs(shape: tuple[int, int]) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(*shape))
    graph, (result,) = captured(lambda: (fastap.average_precision(scores, targets, dim=-1),))
    scores.copy_(torch.randn_like(scores))
    graph.replay()
    assert torch.equal(result, fastap.average_precision(scores, targets, dim=-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_run_on_the_current_stream(loss: Loss, shape: tuple[int, int]) -> None:
    """Scores that a side stream is still busy with are read when it is done with them."""
    scores, targets = (each.to(CUDA) for each in gaussian(*shape))
    expected = value_and_gradient(loss, scores, targets, backend="triton")
    late = torch.full_like(scores, torch.nan).requires_grad_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.data.copy_(scores)
        value = loss(late, targets, reduction="none", backend="triton")
        (gradient,) = torch.autograd.grad(value.sum(), late)
    stream.synchronize()
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_run_on_the_device_of_the_scores(loss: Loss, shape: tuple[int, int]) -> None:
    scores, targets = gaussian(*shape)
    expected = value_and_gradient(loss, scores.to("cuda:0"), targets.to("cuda:0"), backend="triton")
    with torch.cuda.device(0):
        given = value_and_gradient(loss, scores.to("cuda:1"), targets.to("cuda:1"), backend="triton")
    assert all(each.device == torch.device("cuda:1") for each in given)
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(given, expected, strict=True))


def test_a_short_batch_is_two_launches(loss: Loss) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(80, 1024))
    for leaf in (scores, scores.clone().requires_grad_()):
        kernels = checks.launched_kernels(lambda leaf=leaf: loss(leaf, targets, reduction="none", backend="triton"))
        if kernels is None:
            pytest.skip("the profiler sees no kernels here")
        assert len(kernels) == 2, kernels


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize(
    ("rankings", "items", "method"),
    [(1, 1_010_000, "auto"), (64, 65_536, "auto"), (64, 65_536, "dp"), (4096, 1000, "auto"), (4096, 1000, "dp")],
)
def test_work_space_is_at_most_64_bytes_a_score(rankings: int, items: int, method: str, name: str) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(rankings, items, share=0.01))
    leaf = scores.requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        loss = LOSSES[name](leaf, targets, **options_of(name, method))
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    assert checks.work_space(work) <= (68 if name == "symmetric" else 64) * scores.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
@pytest.mark.parametrize("lengths", [(100,) * 10_000, (1000,) * 1000])
def test_ragged_work_space_is_at_most_64_bytes_a_score(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    scores, targets, offsets = (each.to(CUDA) for each in checks.ragged_batch(8, lengths, dtype))
    leaf = scores.requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        loss = fastap.direct_ap_loss(leaf, targets, offsets=offsets, update="negative", ignore_index=-1)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    # PyTorch hands out memory by the half kilobyte.
    assert checks.work_space(work) <= 64 * scores.numel() + 17 * len(lengths) + 2**16


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["negative", "hinge"])
def test_compiled_whole(name: str, shape: tuple[int, int]) -> None:
    scores, targets = (each.to(CUDA) for each in gaussian(*shape))

    def work(scores: Tensor, targets: Tensor) -> Tensor:
        return LOSSES[name](scores * 2, targets) + fastap.average_precision(scores, targets, dim=-1).mean().float()

    leaf = scores.requires_grad_()
    torch.testing.assert_close(torch.compile(work, fullgraph=True)(leaf, targets), work(leaf, targets))
    (gradient,) = torch.autograd.grad(torch.compile(work, fullgraph=True)(leaf, targets), leaf)
    torch.testing.assert_close(gradient, torch.autograd.grad(work(leaf, targets), leaf)[0])


@contextmanager
def room_for(gigabytes: float) -> Iterator[None]:
    """Inside there is that much memory; a test is skipped where the device has less."""
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:.0f} GB of the device, {free:.0f} are free")
    try:
        yield
    finally:
        torch.cuda.empty_cache()


@pytest.mark.full
@pytest.mark.parametrize("items", [1000, 5000])
def test_strides_beyond_32_bits(loss: Loss, items: int) -> None:
    with room_for(20):
        scores, targets = (each.to(CUDA) for each in gaussian(3, items))
        expected = value_and_gradient(loss, scores, targets, backend="triton")
        stride = 2**30 + 3
        base = torch.empty(2 * stride + items, dtype=torch.float32, device=CUDA)
        far = base.as_strided((3, items), (stride, 1))
        far.copy_(scores)
        value = loss(far.requires_grad_(), targets, reduction="none", backend="triton")
        assert torch.equal(value, expected[0])


@pytest.mark.full
@pytest.mark.parametrize(("rankings", "items"), [(400_000, 1000), (200, 2_000_000)])
@pytest.mark.parametrize("name", ONE_SIDED)
def test_work_space_beyond_32_bits(name: str, rankings: int, items: int) -> None:
    """Work space holds six whole numbers a score."""
    with room_for(40):
        _check_some_rows(name, rankings, items)


@pytest.mark.full
@pytest.mark.parametrize(("rankings", "items"), [(2_200_000, 1000), (1100, 2_000_000)])
@pytest.mark.parametrize("name", [None, "positive"])
def test_scores_beyond_32_bits(name: str | None, rankings: int, items: int) -> None:
    with room_for(100):
        try:
            _check_some_rows(name, rankings, items)
        except torch.cuda.OutOfMemoryError as error:
            pytest.skip(f"64 bytes of work space a score do not fit: {str(error).splitlines()[0]}")


def _check_some_rows(name: str | None, rankings: int, items: int) -> None:
    """The first, a middle and the last rows of a large batch of float16, by the loss of that name or the metric."""
    generator = torch.Generator(CUDA).manual_seed(0)
    scores = torch.empty((rankings, items), dtype=torch.float16, device=CUDA).normal_(generator=generator)
    targets = torch.empty((rankings, items), dtype=torch.bool, device=CUDA)
    for rows in range(0, rankings, max(1, 200_000_000 // items)):
        part = targets[rows : rows + max(1, 200_000_000 // items)]
        part.copy_(torch.rand(part.shape, dtype=torch.float16, device=CUDA, generator=generator) < 0.002)
    rows = torch.tensor([0, 1, rankings // 2, rankings - 2, rankings - 1])
    few = scores[rows.to(CUDA)].cpu().double(), targets[rows.to(CUDA)].cpu()
    if name is None:
        value, expected = (fastap.average_precision(*given, dim=-1) for given in ((scores, targets), few))
    else:
        value = LOSSES[name](scores, targets, reduction="none", backend="triton")
        expected = LOSSES[name](*few, reduction="none")
    torch.testing.assert_close(value[rows.to(CUDA)].cpu().double(), expected, rtol=1e-6, atol=2e-7, equal_nan=True)


def test_poison_is_seen_on_the_device() -> None:
    with poisoned():
        assert torch.empty(3, device=CUDA).isnan().all()

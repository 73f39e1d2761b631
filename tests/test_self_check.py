"""Kernels that prove themselves on the battery, what happens if they cannot, and ``python -m fastap``."""

from __future__ import annotations

import operator
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from fastap.kernels import output, ragged, search, weighted
from torch import Tensor

import fastap
from emulator import Device, compiler
from fastap import __main__ as program
from fastap import warning
from fastap.backends import about, native, reference, triton
from fastap.backends.battery import EPSILON, IGNORED, KINDS, battery, difference
from fastap.backends.triton import bound, prove
from fastap.types import Batch, Losses, Objective
from tests.exactness import is_unique
from tests.kernels import often
from tests.losses import LOSSES, value_and_gradient
from tests.rewritten import rewritten

needs_a_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
F32, F64 = torch.float32, torch.float64
PERCEPTRON, NEGATIVE = Objective("perceptron"), Objective("direct", 0.5, "negative")
proves_kernels = bound.proves_kernels  # before an emulated device says


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no kernel had been launched yet, and nothing warned of."""
    proven: set[tuple[int, str]] = set()
    monkeypatch.setattr(bound, "PROVEN", proven)
    monkeypatch.setattr(prove, "PROVEN", proven)
    monkeypatch.setattr(prove, "_FAULTY", {})
    monkeypatch.setattr(warning, "_WARNED", set())
    bound.unproven.take()
    bound.forget()


@pytest.fixture
def gpu() -> Iterator[Device]:
    """Kernels that are new prove themselves there."""
    with Device(proves=True) as device:
        yield device


def given(*shape: int, dtype: torch.dtype = F32, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(*shape, generator=generator).to(dtype), torch.rand(*shape, generator=generator) < 0.3, None
    )


def flat(rankings: int, items: int, dtype: torch.dtype = F32) -> Batch:
    return given(rankings * items, dtype=dtype)._replace(offsets=torch.arange(0, rankings * items + 1, items))


def weights(batch: Batch) -> Tensor:
    return torch.rand(batch.scores.shape, generator=torch.Generator().manual_seed(1), dtype=F64)


def assert_same(one: Any, other: Any) -> None:
    for x, y in zip(*(each if isinstance(each, tuple) else (each,) for each in (one, other)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@needs_a_compiler
def test_new_kernels_prove_themselves_once(gpu: Device) -> None:
    batch = given(3, 100)
    counts = []
    for _ in range(3):
        before = gpu.started
        losses = triton.losses(batch, PERCEPTRON, F64)
        triton.reduce(losses, F32, mean=True)
        counts.append(gpu.started - before)
    assert counts == [3 + 3 * 2 + 3, 3, 3]
    triton.losses(given(5, 90), PERCEPTRON, F64)  # the same kernel
    assert gpu.started == sum(counts) + 2
    assert not bound.unproven.kernels
    assert not gpu.faults


@needs_a_compiler
def test_a_first_call_without_a_gradient_proves_it_too(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(native, "losses", lambda *options: asked.append(options[-1]) or reference.losses(*options))
    triton.losses(given(3, 100), PERCEPTRON, F64, False)
    assert asked == [True] * 3


WEIGHTED = given(3, 100)
# A function, what stands there, what is put there, and a call that it spoils.
PLANTED: dict[str, tuple[Any, str, str, tuple[Any, ...]]] = {
    "gradient": (output.gradient_at, "-twice, twice) * scale", "-twice, twice) * 2 * scale",
                 ("losses", given(3, 100), PERCEPTRON, F64, True)),
    "metric": (output.summed, "number = n_positive\n", "number = n_positive - 1\n",
               ("average_precision", given(3, 100), None)),
    "weighted": (weighted._sum_weights, "mask = place < end", "mask = place + 1 < end",
                 ("average_precision", WEIGHTED, weights(WEIGHTED))),
    "ragged": (ragged.take_in, "mask = place < size", "mask = place + 1 < size",
               ("losses", flat(3, 100), PERCEPTRON, F32, True)),
    "ranks": (output._counted, "tl.where(is_positive, own, below)", "tl.where(is_positive, own, below + 1)",
              ("ranking", given(3, 100, dtype=F64), NEGATIVE)),
    "search": (search.search_rows, "tl.store(choice_ptr + row, choice, mask=mask)",
               "tl.store(choice_ptr + row, choice + (choice > 0), mask=mask)",
               ("losses", given(3, 100, dtype=F64), NEGATIVE._replace(update="positive"), F64, True)),
}  # fmt: skip


@needs_a_compiler
@pytest.mark.parametrize("fault", often("gradient", "ragged", "weighted", full=["metric", "ranks", "search"]))
def test_a_wrong_kernel_is_found_and_the_cpu_serves(fault: str, gpu: Device) -> None:
    function, old, new, (name, batch, *options) = PLANTED[fault]
    right = getattr(native, name)(batch, *options)
    with rewritten(function, old, new):
        with pytest.warns(
            fastap.FastapWarning, match="wrong on this GPU.*python -m fastap --check.*in place of"
        ) as told:
            result = getattr(triton, name)(batch, *options)
        assert_same(result, right)
        started = gpu.started
        assert_same(getattr(triton, name)(batch, *options), right)
        assert gpu.started == started  # nor is it warned of again
    assert len(told) == 1
    for words in (name, str(batch.scores.dtype).removeprefix("torch."), about.versions()):
        assert words in str(told[0].message)
    assert not bound.PROVEN


@needs_a_compiler
def test_the_loss_of_a_wrong_kernel_is_that_of_the_cpu(gpu: Device) -> None:
    """With its gradient, from the top; and other kinds of calls are not concerned."""
    batch = given(4, 100)
    function, old, new, _ = PLANTED["gradient"]

    def solve(backend: str) -> tuple[Tensor, Tensor]:
        return value_and_gradient(LOSSES["perceptron"], batch.scores, batch.targets, backend=backend, reduction="mean")

    with rewritten(function, old, new):
        with pytest.warns(fastap.FastapWarning, match="losses, perceptron"):
            given_here = solve("triton")
        assert_same(given_here, solve("native"))
        before = gpu.started
        torch.testing.assert_close(triton.average_precision(batch), native.average_precision(batch))
        assert gpu.started > before
        assert len(prove._FAULTY) == 1


@needs_a_compiler
@pytest.mark.parametrize(
    "fault",
    [
        ("tl.sum(number, axis=0), 1", "tl.sum(number, axis=0) + 1, 1"),
        ("item < n_items", "item + 1 < n_items"),
        ("tl.num_programs(0).to(tl.int64) * BLOCK_N\n    if", "BLOCK_N\n    if"),
    ],
    ids=["number", "gradient", "second tile"],
)
def test_a_wrong_reduction_is_pytorch_s_own(fault: tuple[str, str], gpu: Device) -> None:
    gradient = torch.rand(7, 5)
    losses = Losses(torch.rand(7, dtype=F64), gradient.clone(), torch.arange(7) % 3 > 0)
    right = reference.reduce(losses, F32, mean=True)
    with rewritten(output.reduce_losses, *fault):
        with pytest.warns(fastap.FastapWarning, match="mean of losses float64 as float32") as told:
            assert_same(triton.reduce(losses, F32, mean=True), right)
        assert len(str(told[0].message)) < 1000
        before = gpu.started
        assert_same(triton.reduce(losses, F32, mean=True), right)
        assert gpu.started == before
    assert_same(losses.gradient, gradient)  # no wrong kernel has been near it


@needs_a_compiler
def test_a_reduction_is_compared_once(gpu: Device) -> None:
    """Whatever the shape, and before it comes near the gradient."""
    counts = []
    for rankings, items in ((5, 16), (6, 16), (16, 1), (1, 17), (700, 3)):
        losses = Losses(torch.rand(rankings, dtype=F64), torch.rand(rankings, items), torch.arange(rankings) % 3 > 0)
        right, share = reference.reduce(losses, F32, mean=True)
        expected, before = losses.gradient * share, gpu.started
        assert_same(triton.reduce(losses, F32, mean=True), (right, None))
        torch.testing.assert_close(losses.gradient, expected, rtol=0, atol=0)
        counts.append(gpu.started - before)
    assert counts == [4, 1, 1, 1, 1]


def test_the_battery_of_a_reduction_is_the_cpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the losses are elsewhere, which without a GPU are nowhere."""
    seen = []

    def reduced(plan: object, losses: Losses) -> Tensor:
        total, share = reference.reduce(losses, F32, mean=True)
        losses.gradient.mul_(share)
        return total

    monkeypatch.setattr(prove, "_placed", lambda values, *_: seen.append(values.device.type) or values.clone())
    monkeypatch.setattr(prove, "run_reduction", reduced)
    there = Losses(*(torch.empty(3, dtype=dtype, device="meta") for dtype in (F64, F32, torch.bool)))
    assert prove.judge_reduction(lambda *_: None, there, F32, True).wrong is None
    assert seen == ["cpu"] * 9


@needs_a_compiler
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_comparison_that_is_cut_short_proves_nothing(
    error: type[BaseException], gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, old, new, (name, batch, *options) = PLANTED["gradient"]
    losses = Losses(torch.rand(7, dtype=F64), torch.rand(7, 5), torch.arange(7) % 3 > 0)

    def fails(*_: object, **__: object) -> None:
        raise error

    with rewritten(function, old, new), rewritten(output.reduce_losses, "axis=0), 1", "axis=0) + 1, 1"):
        with monkeypatch.context() as failing:
            failing.setattr(prove, "difference", fails)
            failing.setattr(prove, "reduce", fails)
            for call in (lambda: getattr(triton, name)(batch, *options), lambda: triton.reduce(losses, F32, mean=True)):
                with pytest.raises(error):
                    call()
        triton.average_precision(batch)
        with pytest.warns(fastap.FastapWarning, match="losses, perceptron"):
            assert_same(getattr(triton, name)(batch, *options), getattr(native, name)(batch, *options))
        with pytest.warns(fastap.FastapWarning, match="mean of losses"):
            assert_same(triton.reduce(losses, F32, mean=True), reference.reduce(losses, F32, mean=True))


@needs_a_compiler
def test_nothing_is_compared_while_a_graph_is_captured(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = given(3, 100)
    with monkeypatch.context() as captured:
        captured.setattr(prove, "_is_capturing", lambda device: True)
        for launches in (2, 4):
            triton.losses(batch, PERCEPTRON, F64)
            assert gpu.started == launches
    assert not bound.PROVEN
    triton.losses(batch, PERCEPTRON, F64)
    assert gpu.started == 4 + 2 + 3 * 2
    assert bound.PROVEN


@needs_a_compiler
@pytest.mark.usefixtures("gpu")
def test_what_goes_through_the_cpu_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    function, old, new, (name, batch, *options) = PLANTED["gradient"]
    with rewritten(function, old, new):
        with pytest.warns(fastap.FastapWarning, match="wrong on this GPU"):
            getattr(triton, name)(batch, *options)
        monkeypatch.setattr(prove, "_is_capturing", lambda device: True)
        with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"):
            getattr(triton, name)(batch, *options)


@needs_a_compiler
@pytest.mark.parametrize(("value", "launches"), [(None, 2 + 3 * 2), ("1", 2 + 3 * 2), ("0", 2)])
def test_the_environment_switches_it_off(
    value: str | None, launches: int, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("FASTAP_SELF_CHECK", raising=False)
    else:
        monkeypatch.setenv("FASTAP_SELF_CHECK", value)
    with mock.patch.object(bound, "proves_kernels", proves_kernels):
        triton.losses(given(3, 100), PERCEPTRON, F64)
    assert gpu.started == launches


@needs_a_compiler
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("value", ["", "yes", "2"])
def test_the_environment_says_0_or_1(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAP_SELF_CHECK", value)
    with mock.patch.object(bound, "proves_kernels", proves_kernels):
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"FASTAP_SELF_CHECK must be 0 or 1, got '{value}'"):
                triton.losses(given(3, 100), PERCEPTRON, F64)


@needs_a_compiler
@pytest.mark.usefixtures("gpu")
def test_defaults_of_the_program_do_not_matter() -> None:
    batch = given(3, 100)
    battery.cache_clear()
    torch.set_default_device("meta")
    torch.set_default_dtype(F64)
    try:
        with torch.inference_mode():
            assert triton.verdict("losses", batch, PERCEPTRON, F64, True).wrong is None
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(F32)


def transposed(batch: Batch, *axes: int) -> Batch:
    return batch._replace(scores=batch.scores.movedim(*axes), targets=batch.targets.movedim(*axes))


def cut(batch: Batch) -> Batch:
    """Memory that begins at no multiple of 16 bytes."""
    return batch._replace(scores=batch.scores[..., 1:], targets=batch.targets[..., 1:])


AP, SYMMETRIC = ("average_precision", None), ("losses", Objective("direct", 1.0, "symmetric"), F64, True)
LAYOUTS: dict[str, tuple[tuple[Any, ...], Callable[[], Batch]]] = {
    "short": (AP, lambda: given(3, 100)),
    "short view": (AP, lambda: cut(given(3, 101))),
    "odd": (AP, lambda: given(3, 99, dtype=F64)),
    "one": (AP, lambda: given(1, 99, dtype=F64)),
    "multiple of 16": (AP, lambda: given(3, 4112)),
    "one item": (AP, lambda: given(3, 1, dtype=F64)),
    "columns": (AP, lambda: transposed(given(100, 5, dtype=F64), 0, -1)),
    "16 columns": (AP, lambda: transposed(given(100, 16, dtype=F64), 0, -1)),
    "middle": (AP, lambda: transposed(given(6, 100, 4, dtype=F64), 1, -1)),
    "16 in the middle": (AP, lambda: transposed(given(2, 100, 16, dtype=F64), 1, -1)),
    "view": (AP, lambda: cut(given(3, 101, dtype=F64))),
    "ragged": (AP, lambda: flat(3, 100)),
    "ragged view": (AP, lambda: cut(given(301))._replace(offsets=torch.arange(-100, 301, 100)[1:])),
    "symmetric": (SYMMETRIC, lambda: given(4, 99, dtype=F64)),
    "odd symmetric": (SYMMETRIC, lambda: given(3, 99, dtype=F64)),
}


@needs_a_compiler
@pytest.mark.parametrize("layout", often(*list(LAYOUTS)[:-2], full=["symmetric", "odd symmetric"]))
def test_the_battery_is_solved_by_the_kernels_of_the_call(layout: str) -> None:
    """Not a kernel is compiled for it, and none is left out."""
    (name, *options), batch = LAYOUTS[layout]
    with Device() as device:
        getattr(triton, name)(batch(), *options)
        first = {each.kernel.hash for each in device.launches}
        count = len(device.launches)
        assert triton.verdict(name, batch(), *options).wrong is None
        assert {each.kernel.hash for each in device.launches[count:]} == first
    assert not device.faults


LENGTHS = (0, 1, 2, 33, 128, 129, 150, 257, 511, 512, 600, 1024, 1025, 1037, 1040, 4096, 4112, 4113)


@pytest.mark.parametrize("items", LENGTHS)
def test_optima_of_the_battery_are_unique(items: int) -> None:
    """So that gradients can be compared; in all types of scores, which hold the same numbers."""
    each = battery((items,), has_ignore=True)
    assert len(each.lengths) == (KINDS if items else 1)
    for dtype in (torch.float16, torch.bfloat16, F32):
        assert_same(each.scores.to(dtype).double(), each.scores)
    batch = each.batch(F64)
    solved = 0
    for scores, targets in zip(
        each.scores.split(each.lengths.tolist()), batch.targets.split(each.lengths.tolist()), strict=True
    ):
        taken = targets != IGNORED
        score, target = scores[taken].numpy(), targets[taken].numpy() == 1
        if target.any() and not target.all() and np.isfinite(score).all():
            solved += 1
            for sign in (1, -1):
                # The scores are few bits wide: most sums of them are not rounded.
                assert is_unique(near(score, target), target, sign * EPSILON, rounding=1e-14)
    assert solved >= 10 or items <= 2


def near(score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same optimum, with no gap between neighbouring scores larger than it takes; see ``kernels/split.py``."""
    order = np.argsort(score)
    gaps = np.minimum(np.diff(score[order], prepend=score.min()), EPSILON * (~target).sum())
    cut = np.empty_like(score)
    cut[order] = np.cumsum(gaps)
    return cut


def test_a_difference_is_put_into_words() -> None:
    each = battery((0, 33), has_ignore=False)
    batch = each.batch(F32)
    right = native.losses(batch, PERCEPTRON, F32)
    assert difference(right, right, each.offsets) is None
    gradient = right.gradient.clone()
    gradient[40] += 1e-3
    says = r"gradient \S+ in place of \S+ in a ranking of 33 items, number 2 of 17"
    assert_says(says, difference(right._replace(gradient=gradient), right, each.offsets))
    loss = torch.where(right.loss.isnan(), 0.0, right.loss)
    assert_says("loss 0.0 in place of nan", difference(right._replace(loss=loss), right, each.offsets))
    assert_says("takes_part", difference(right._replace(takes_part=~right.takes_part), right, each.offsets))
    value = native.average_precision(batch)
    assert_says("value", difference(value + 1e-6, value, each.offsets))


def assert_says(pattern: str, text: str | None) -> None:
    assert text is not None
    assert re.search(pattern, text), text


def test_the_program_says_what_is_here_and_checks_it() -> None:
    done = subprocess.run([sys.executable, "-m", "fastap", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    words = ["fastap ", f"PyTorch {torch.__version__}", "CPU: ", "CUDA: ", "threads: ", "GPUs: ", "FASTAP_SELF_CHECK: "]
    if native.IS_BUILT:
        words += ["C: direct symmetric by the dynamic program", "C: average precision, weighted"]
    if not torch.cuda.is_available():
        words += ["no kernel was compared: there is no GPU"]
    for each in (*words, "nothing is wrong"):
        assert each in done.stdout, done.stdout
    assert "WRONG" not in done.stdout


def test_the_program_fails_if_anything_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [("this", lambda: program.Result(3, None)), ("that", lambda: program.Result(3, "1 in place of 2"))]
    monkeypatch.setattr(program, "of_the_engine", lambda: iter(lines))
    monkeypatch.setattr(native, "IS_BUILT", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.check() == 1
    assert_says(r"this +3 +right.*\nthat +3 +WRONG.*\n +1 in place of 2\n", capsys.readouterr().out)
    lines[1] = "that", lambda: 1 // 0
    assert program.check() == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.full
def test_kernels_are_compared_side_by_side() -> None:
    assert sorted(program.side_by_side(operator.neg, 3, 60)) == [(0, 0), (1, -1), (2, -2)]
    assert sorted(program.side_by_side(operator.neg, 3, 0)) == [(0, None), (1, None), (2, None)]


@needs_a_compiler
@pytest.mark.parametrize("number", often(0, 1, 2, full=range(3, 24)))
def test_lines_of_the_table(number: int) -> None:
    with Device(checks=False):
        lines = list(program.of_kernels(torch.device("cpu")))
        assert len(lines) == 24
        rankings, wrong, _ = lines[number][1]()
    assert rankings >= 15
    assert wrong is None

"""Launches that are bound to their kernels, and work space in one allocation."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton import knobs

from emulator import Device
from fastap.backends.triton import bound
from fastap.backends.triton.bound import Space, start
from tests.kernels import DEVICE, gpu, often
from tests.losses import LOSSES, value_and_gradient

pytestmark = pytest.mark.usefixtures("gpu")


@triton.jit
def add(x_ptr, out_ptr, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0) + STEP, mask=i < n)


def added(x: torch.Tensor, n: int, step: int = 1, **options: int) -> list[int]:
    out = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    start(add, 2, x, out, n, STEP=step, BLOCK=32, num_warps=1, **options)
    return [int(each) for each in out[:n]]


def test_a_bound_launch_takes_what_is_given_to_it() -> None:
    """The same kernel at other memory; another one for another type, alignment, number, constant or option."""
    bound.forget()
    x = torch.arange(64, device=DEVICE)
    assert added(x, 40) == added(x, 40) == list(range(1, 41))
    assert added(x + 5, 40) == list(range(6, 46))
    assert len(bound._BOUND) == 1
    seen = 1
    for given, n, options in (
        (x.int(), 40, {}),
        (torch.arange(65, device=DEVICE)[1:], 40, {}),
        (x, 1, {}),
        (x, 48, {}),
        (x, 40, {"step": 2}),
        (x, 40, {"maxnreg": 64}),
    ):
        wanted = (given[:n] + options.get("step", 1)).tolist()
        assert added(given, n, **options) == added(given, n, **options) == wanted
        seen += 1
        assert len(bound._BOUND) == seen


def test_more_shapes_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    bound.forget()
    monkeypatch.setattr(bound, "_MOST", 3)
    x = torch.arange(64, device=DEVICE)
    for n in range(20, 30):
        assert added(x, n) == list(range(1, n + 1))
        assert len(bound._BOUND) <= 3


def test_a_profiler_is_told_of_each_launch() -> None:
    x, told = torch.arange(64, device=DEVICE), []
    added(x, 40)
    knobs.runtime.launch_enter_hook.add(told.append)
    try:
        if DEVICE == "cuda":
            added(x, 40)
            assert len(told) == 1
        else:  # which calls no hook itself: by Triton's own call it went, which hands it on
            before = dict(bound._BOUND)
            bound._BOUND.update(dict.fromkeys(before, lambda *_: pytest.fail("not told")))
            assert added(x, 40) == list(range(1, 41))
            bound._BOUND.update(before)
    finally:
        knobs.runtime.launch_enter_hook.remove(told.append)


def test_parts_of_a_work_space_do_not_touch() -> None:
    parts = (5, torch.int8), (3, torch.float64), (0, torch.int32), (7, torch.int32)
    with gpu(apart=False):
        spaces = Space.cut(torch.device(DEVICE), *parts)
    ends = [space.address + count * dtype.itemsize for space, (count, dtype) in zip(spaces, parts, strict=True)]
    assert all(end <= space.address for end, space in zip(ends, spaces[1:], strict=False))
    assert all(space.address % 16 == 0 for space in spaces)
    for number, (space, (count, _)) in enumerate(zip(spaces, parts, strict=True)):
        space.tensor()[:count] = number
    for number, (space, (count, dtype)) in enumerate(zip(spaces, parts, strict=True)):
        assert space.tensor().dtype == dtype
        assert space.tensor()[:count].tolist() == [number] * count
    assert spaces[3].at(2).tensor()[:5].tolist() == [3] * 5
    assert spaces[3].view(torch.float32).dtype == torch.float32


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has no other layout")
@pytest.mark.parametrize(
    ("name", "dtype", "ragged"),
    often(
        ("symmetric", torch.float64, False),
        ("negative", torch.float32, True),
        full=[("positive", torch.float32, False), ("perceptron", torch.float64, False), ("hinge", torch.float64, True)],
    ),
)
def test_a_work_space_in_one_piece(name: str, dtype: torch.dtype, ragged: bool) -> None:
    """Parts side by side, as on a GPU: the results are those of parts apart, to the bit, launched and bound."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 100, generator=generator).to(dtype)
    targets = torch.rand(3, 100, generator=generator) < 0.3
    options = {"backend": "triton"}
    if ragged:
        scores, targets, options["offsets"] = scores.flatten(), targets.flatten(), torch.arange(0, 301, 100)
    expected = value_and_gradient(LOSSES[name], scores, targets, **options)
    with Device(apart=False) as device:
        for _ in range(2):
            before = device.allocations
            given = value_and_gradient(LOSSES[name], scores, targets, **options)
            assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))
            assert device.allocations - before <= 8
    assert not device.faults

"""Calls that are planned: launches bound to their kernels, work space in one allocation, memory freed in time."""

from __future__ import annotations

import weakref

import pytest
import torch
import triton
import triton.language as tl
from triton import knobs

from emulator import Device
from fastap.backends import triton as triton_backend
from fastap.backends.triton import bound
from fastap.backends.triton.plan import Place, Plan, place_of
from tests.kernels import DEVICE, gpu, often
from tests.losses import LOSSES, value_and_gradient

pytestmark = pytest.mark.usefixtures("gpu")


@triton.jit
def add(x_ptr, out_ptr, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0) + STEP, mask=i < n)


def added(x: torch.Tensor, n: int, step: int = 1, **options: int) -> list[int]:
    out = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    plan = Plan(x.device, 2)
    plan.start(add, 2, place_of(1, x), place_of(2, out), n, STEP=step, BLOCK=32, num_warps=1, **options)
    plan.end()
    plan.run((x, out))
    return [int(each) for each in out[:n]]


def test_a_bound_launch_takes_what_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernel at other memory; another one for another type, alignment, number, constant or option."""
    monkeypatch.setattr(bound, "_BOUND", {})
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
    assert all(each.run is not None for each in bound._BOUND.values())


def test_more_shapes_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "_MOST", 3)
    x = torch.arange(64, device=DEVICE)
    for n in range(20, 30):
        assert added(x, n) == list(range(1, n + 1))
        assert len(bound._BOUND) <= 3


def test_more_plans_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "_MOST_PLANS", 2)
    for items in (5, 6, 7, 8, 5):
        scores, targets = torch.arange(items, device=DEVICE).float(), torch.arange(items, device=DEVICE) < 2
        given, right = (LOSSES["perceptron"](scores, targets, backend=each) for each in ("triton", "auto"))
        torch.testing.assert_close(given, right)
        assert len(triton_backend.PLANS) <= 2


def test_a_profiler_is_told_of_each_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, told = torch.arange(64, device=DEVICE), []
    added(x, 40)
    knobs.runtime.launch_enter_hook.add(told.append)
    try:
        if DEVICE == "cuda":
            added(x, 40)
            assert len(told) == 1
        else:  # which calls no hook itself: by Triton's own call it went, which hands it on
            for each in bound._BOUND.values():
                monkeypatch.setattr(each, "run", lambda *_: pytest.fail("not told"))
            assert added(x, 40) == list(range(1, 41))
    finally:
        knobs.runtime.launch_enter_hook.remove(told.append)


def test_parts_of_a_work_space_do_not_touch() -> None:
    parts = (5, torch.int8), (3, torch.float64), (0, torch.int32), (7, torch.int32)
    with gpu(apart=False):
        plan = Plan(torch.device(DEVICE), 0)
        places = plan.cut(*parts)
        plan.end(*places, places[3].at(2), places[3].view(torch.float32))
        *spaces, later, floats = plan.run(())
    starts = [space.data_ptr() for space in spaces]
    ends = [start + count * dtype.itemsize for start, (count, dtype) in zip(starts, parts, strict=True)]
    assert ends[0] <= starts[1]
    assert ends[1] <= starts[3]
    assert all(start % 16 == 0 for start in starts)
    for number, (space, (count, _)) in enumerate(zip(spaces, parts, strict=True)):
        space[:count] = number
    for number, (space, (count, dtype)) in enumerate(zip(spaces, parts, strict=True)):
        assert space.dtype == dtype
        assert space[:count].tolist() == [number] * count
    assert later[:5].tolist() == [3] * 5
    assert floats.dtype == torch.float32


def test_memory_is_freed_when_its_last_step_is_done() -> None:
    """What is made for one step is gone in the next, and results are kept."""
    plan, held = Plan(torch.device(DEVICE), 1), []

    def made(x: torch.Tensor) -> list[torch.Tensor]:
        held.append(sum(each() is not None for each in alive))
        alive.append(weakref.ref(y := x + 1))
        return [y]

    alive: list[weakref.ref[torch.Tensor]] = []
    place = Place(1, torch.float32)
    for _ in range(4):
        (place,) = plan.call(made, place, into=[torch.float32])
    plan.end(place)
    x = torch.zeros(3, device=DEVICE)
    assert plan.run([x])[0].tolist() == [4, 4, 4]
    assert held == [0, 1, 1, 1]


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

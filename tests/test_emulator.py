"""The emulated GPU itself: small kernels with known answers, and faults that it must see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

import emulator
from emulator import Device, GivenUpError
from emulator import device as emulator_device
from emulator.assembler import Program, UnknownError
from tests.kernels import often

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="needs a C compiler")

TYPES = (torch.int32, torch.int64, torch.float32, torch.float64)
WARPS = often(1, 4, full=[2, 8])


@pytest.fixture(params=[90, pytest.param(80, marks=pytest.mark.whole), pytest.param(100, marks=pytest.mark.whole)])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with Device(request.param) as device:
        yield device
    assert not device.faults


def numbers(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """Of either sign, the whole ones up to some thousands."""
    drawn = np.random.default_rng(seed).normal(size=shape) * 1000
    return torch.from_numpy(drawn if dtype.is_floating_point else np.round(drawn)).to(dtype)


def same(given: Tensor, expected: npt.ArrayLike, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(given.double().numpy(), np.asarray(expected, float), rtol=tolerance, atol=tolerance)


@triton.jit
def sort_row(x_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.sort(tl.load(x_ptr + i)))


@pytest.mark.parametrize("warps", WARPS)
@pytest.mark.parametrize(("dtype", "items"), often((torch.int64, 128), full=[(each, 1024) for each in TYPES]))
def test_sort(device: Device, dtype: torch.dtype, items: int, warps: int) -> None:
    x = numbers(dtype, items)
    out = torch.empty_like(x)
    sort_row[(1,)](x, out, items, num_warps=warps)
    same(out, x.sort().values)


@triton.jit
def _first_greatest(a, i, b, j):
    later = b > a
    return tl.where(later, b, a), tl.where(later, j, i)


@triton.jit
def scan_row(x_ptr, sum_ptr, max_ptr, arg_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(sum_ptr + i, tl.cumsum(x, axis=0))
    best, place = tl.associative_scan((x, i), 0, _first_greatest)
    tl.store(max_ptr + i, best)
    tl.store(arg_ptr + i, place)


@pytest.mark.parametrize("warps", WARPS)
@pytest.mark.parametrize(("dtype", "items"), often((torch.float64, 256), full=[(each, 1024) for each in TYPES]))
def test_scans(device: Device, dtype: torch.dtype, items: int, warps: int) -> None:
    x = numbers(dtype, items)
    total, best, place = torch.empty_like(x), torch.empty_like(x), torch.empty(items, dtype=torch.int32)
    scan_row[(1,)](x, total, best, place, items, num_warps=warps)
    same(total, x.double().cumsum(0), {torch.float64: 1e-9, torch.float32: 1e-2}.get(dtype, 0))
    expected, index = x.cummax(0)
    same(best, expected)
    assert torch.equal(x[place.long()], x[index])


@triton.jit
def reduce_both(x_ptr, out_ptr, k_ptr, M: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, M)[:, None]
    j = tl.arange(0, N)[None, :]
    x = tl.load(x_ptr + i * N + j)
    tl.store(out_ptr + tl.arange(0, N), tl.sum(x, axis=0))
    tl.store(out_ptr + N + tl.arange(0, N), tl.max(x, axis=0))
    tl.store(out_ptr + 2 * N + tl.arange(0, M), tl.min(x, axis=1))
    tl.store(k_ptr + tl.arange(0, M), tl.argmax(x, axis=1))
    tl.store(k_ptr + M + tl.arange(0, N), tl.argmin(x, axis=0))


@pytest.mark.parametrize("warps", WARPS)
@pytest.mark.parametrize(
    ("dtype", "shape"),
    often((torch.int32, (16, 64)), full=[(each, shape) for each in TYPES for shape in ((32, 4), (2, 128))]),
)
def test_reductions(device: Device, dtype: torch.dtype, shape: tuple[int, int], warps: int) -> None:
    m, n = shape
    x = numbers(dtype, m, n).round()
    out, place = torch.empty(2 * n + m, dtype=dtype), torch.empty(m + n, dtype=torch.int32)
    reduce_both[(1,)](x, out, place, m, n, num_warps=warps)
    same(out, torch.cat([x.sum(0), x.max(0).values, x.min(1).values]))
    same(place, torch.cat([x.argmax(1), x.argmin(0)]))


@triton.jit
def compute_integers(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    tl.store(out_ptr + i, a // b)
    tl.store(out_ptr + N + i, a % b)
    tl.store(out_ptr + 2 * N + i, (a * b) >> 3)
    tl.store(out_ptr + 3 * N + i, tl.minimum(a, b) ^ (a & b) | (a << 2))


@pytest.mark.parametrize("dtype", often(torch.int64, full=[torch.int32]))
def test_integers(device: Device, dtype: torch.dtype) -> None:
    a, b = numbers(dtype, 256), numbers(dtype, 256, seed=1)
    b[b == 0] = 1
    out = torch.empty(4 * 256, dtype=dtype)
    compute_integers[(1,)](a, b, out, 256)
    quotient = torch.div(a, b, rounding_mode="trunc")  # as in C
    bits = torch.minimum(a, b) ^ (a & b) | (a << 2)
    same(out, torch.cat([quotient, a - quotient * b, (a * b) >> 3, bits]))


@triton.jit
def compute_floats(a_ptr, b_ptr, out_ptr, k_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    tl.store(out_ptr + i, a / b)
    tl.store(out_ptr + N + i, a * b + a)
    tl.store(out_ptr + 2 * N + i, tl.sqrt(tl.abs(a)))
    tl.store(out_ptr + 3 * N + i, tl.exp2(a.to(tl.float32)).to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + 4 * N + i, tl.log2(tl.abs(a).to(tl.float32) + 1.0).to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + 5 * N + i, tl.where(a < b, a, b))
    tl.store(k_ptr + i, (a * 1000).to(tl.int32))


@pytest.mark.parametrize("dtype", often(torch.float64, full=[torch.float32]))
def test_floats(device: Device, dtype: torch.dtype) -> None:
    a, b = numbers(dtype, 256) / 100, numbers(dtype, 256, seed=1) / 100
    a[:3] = torch.tensor([torch.nan, torch.inf, -0.0])
    out, truncated = torch.empty(6 * 256, dtype=dtype), torch.empty(256, dtype=torch.int32)
    compute_floats[(1,)](a, b, out, truncated, 256)
    single = a.float()
    expected = [a / b, a * b + a, a.abs().sqrt(), single.exp2(), (single.abs() + 1).log2(), torch.where(a < b, a, b)]
    same(out, torch.cat([each.to(dtype) for each in expected]), 3e-6)
    same(truncated[3:], (a[3:] * 1000).trunc())


@triton.jit
def look_up(x_ptr, i_ptr, key_ptr, bins_ptr, taken_ptr, found_ptr, n, N: tl.constexpr, BINS: tl.constexpr):
    """A histogram, a gather, and a bisection of sorted numbers by a loop over a number that is loaded."""
    lane = tl.arange(0, N)
    i = tl.load(i_ptr + lane)
    tl.store(bins_ptr + tl.arange(0, BINS), tl.histogram(i % BINS, BINS, mask=lane < n))
    tl.store(taken_ptr + lane, tl.gather(tl.load(x_ptr + lane), i, 0))
    key = tl.load(key_ptr + lane)
    count = tl.zeros([N], tl.int32)
    step = 1
    while step <= n // 2:
        step *= 2
    while step > 0:
        further = tl.minimum(count + step, n)
        count = tl.where(tl.load(x_ptr + further - 1, mask=lane < N - 3, other=0.0) < key, further, count)
        step = step // 2
    tl.store(found_ptr + lane, count)


@pytest.mark.parametrize("warps", WARPS)
def test_histogram_gather_and_bisection(device: Device, warps: int) -> None:
    items, n = 256, 201
    x, key = numbers(torch.float64, items).sort().values, numbers(torch.float64, items, seed=1)
    index = torch.randint(items, (items,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    bins, taken = torch.empty(32, dtype=torch.int32), torch.empty_like(x)
    found = torch.empty(items, dtype=torch.int32)
    look_up[(1,)](x, index, key, bins, taken, found, n, items, 32, num_warps=warps)
    same(bins, torch.bincount(index[:n] % 32, minlength=32))
    same(taken, x[index.long()])
    expected = torch.searchsorted(x[:n], key)
    expected[-3:] = torch.where(key[-3:] > 0, n, 0)
    same(found, expected)


@triton.jit
def transpose(x_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    tl.store(out_ptr + tl.arange(0, N)[:, None] * M + tl.arange(0, M)[None, :], tl.trans(x))


@pytest.mark.parametrize("warps", WARPS)
@pytest.mark.parametrize("dtype", often(torch.int32, full=[torch.float64]))
def test_transpose(device: Device, dtype: torch.dtype, warps: int) -> None:
    x = numbers(dtype, 32, 64)
    out = torch.empty(64, 32, dtype=dtype)
    transpose[(1,)](x, out, 32, 64, num_warps=warps)
    same(out, x.T)


@triton.jit
def err(x_ptr, y_ptr, n, KIND: tl.constexpr, N: tl.constexpr):
    """Wrong in one way each."""
    i = tl.arange(0, N)
    if KIND == "outside":
        tl.store(y_ptr + i, tl.load(x_ptr + i + n))
    if KIND == "unwritten":
        tl.store(x_ptr + i, tl.load(y_ptr + i))
    if KIND == "misaligned":
        tl.store(
            (y_ptr.to(tl.pointer_type(tl.int8)) + 4 * i + 2).to(tl.pointer_type(tl.float32)),
            tl.load(x_ptr + i),
            mask=i < 3,
        )
    if (KIND == "race-warps") or (KIND == "ordered"):  # noqa: PLR1714 (no sets in kernels)
        tl.store(y_ptr + i, tl.load(x_ptr + i))
        if KIND == "ordered":
            tl.debug_barrier()
        tl.store(y_ptr + N + i, tl.load(y_ptr + N - 1 - i))
    if KIND == "late":  # all threads go by a number, and one of them writes it anew
        step = 0
        while step < tl.load(y_ptr + n):
            step = step + 1
        tl.store(y_ptr + n + i * 0, tl.load(x_ptr + i) * 0)
        tl.store(y_ptr + N + i, step)
    if KIND == "race-changed":  # one block changes it, others store the same, and one of them reads it
        if tl.program_id(0) < 2:
            tl.store(y_ptr + i, tl.load(x_ptr + i))
        else:
            tl.store(y_ptr + N + i, tl.load(y_ptr + i))
    if KIND == "race-lanes":
        tl.store(y_ptr + i, tl.load(x_ptr + i))
        tl.store(y_ptr + N + i, tl.load(y_ptr + N - 1 - i))
    if KIND == "race-blocks":
        tl.store(y_ptr + i, tl.load(x_ptr + i) + tl.program_id(0))
    if KIND == "same-value":
        tl.store(y_ptr + i, tl.load(x_ptr + i))
    if KIND == "endless":
        while tl.load(x_ptr + n) >= 0:
            tl.store(y_ptr + i, tl.load(x_ptr + i))


SEEN = {
    "outside": {"outside"},
    "unwritten": {"unwritten"},
    "misaligned": {"misaligned"},
    "race-warps": {"race-warps"},
    "ordered": set(),
    "late": {"race-warps"},
    "race-blocks": {"race-blocks"},
    "race-changed": {"race-blocks"},
    "same-value": set(),
    "endless": {"endless"},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", SEEN)
def test_faults_are_seen(kind: str, seed: int) -> None:
    blocks = {"race-blocks": 2, "same-value": 2, "race-changed": 3}.get(kind, 1)
    x, device = torch.arange(128.0), Device(budget=1 << 14, seed=seed)
    with device:
        y = torch.empty(256) if kind == "unwritten" else torch.full((256,), 3.0)
        if kind == "endless":
            with pytest.raises(GivenUpError, match=r"endless in err, test_emulator.py"):
                err[(blocks,)](x, y, 3, kind, 128, num_warps=4)
        else:
            err[(blocks,)](x, y, 3, kind, 128, num_warps=4)
    assert {finding.kind for finding in device.faults} == SEEN[kind]
    assert all(finding.line.startswith("test_emulator.py:") for finding in device.faults)
    assert ("same-value" in {finding.kind for finding in device.remarks}) >= (kind == "same-value")


def test_lanes_of_a_warp_are_a_remark() -> None:
    x, y = torch.arange(32.0), torch.zeros(64)
    with Device() as device:
        err[(1,)](x, y, 3, "race-lanes", 32, num_warps=1)
    assert not device.faults
    assert {finding.kind for finding in device.remarks} == {"race-lanes"}


def test_an_address_beyond_everything() -> None:
    x, y = torch.arange(128.0), torch.zeros(256)
    for offset in (3 << 38, -(2**29)):
        with Device() as device:
            err[(1,)](x, y, offset, "outside", 128, num_warps=4)
        (finding,) = device.faults
        assert (finding.kind, finding.tensor) == ("outside", "" if offset > 0 else "x_ptr")


PTX = ".visible .entry hand(\n)\n.reqntid 64\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<4>;\n{}\nret;\n}}\n"
BY_HAND = {
    "other-bar": "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 bra $A;\nbar.sync 0;\nret;\n$A:\nbar.sync 0;",
    "exited-bar": "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 ret;\nbar.sync 0;",
    "diverged-bar": "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 16;\n@%p1 bar.sync 0;",
    "diverged-sync": "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 16;\n@%p1 redux.sync.add.s32 %r2, %r1, -1;",
    "shared-outside": "mov.u32 %r1, 4096;\nld.shared.b32 %r2, [%r1];",
    "shared-unwritten": "mov.u32 %r1, 16;\nld.shared.b32 %r2, [%r1];",
    "same-store": "mov.u32 %r1, %tid.x;\nmov.u32 %r2, 16;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 st.shared.b32 [%r2], %r1;",
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_faults_of_barriers_and_shared_memory(kind: str) -> None:
    """Which Triton writes by itself: a program in PTX for each."""
    program = Program(PTX.format(BY_HAND[kind]))
    kernel = SimpleNamespace(metadata=SimpleNamespace(shared=1024), hash=kind, asm={"ptx": ""})
    kernel.src = SimpleNamespace(fn=SimpleNamespace(arg_names=[]), signature={})
    device = Device()
    with mock.patch.dict(emulator_device._PROGRAMS, {kind: program}), suppress(GivenUpError):
        device.launch(kernel, (1, 1, 1, *[None] * 6))
    assert kind in {finding.kind for finding in device.faults}
    (finding, *_) = device.faults
    assert finding.example.startswith(("bar", "redux", "ld", "st"))


def test_the_order_of_warps_is_drawn() -> None:
    """Of a race, one seed or another shows the result that is wrong."""
    results = set()
    for seed in range(6):
        x, y = torch.arange(128.0), torch.zeros(256)
        with Device(seed=seed) as device:
            err[(1,)](x, y, 3, "race-warps", 128, num_warps=4)
        assert device.faults
        results.add(tuple(y.tolist()))
    assert len(results) > 1


def test_what_is_counted() -> None:
    x, y = torch.arange(128.0), torch.zeros(256)
    with Device(timing=True) as device:
        err[(2,)](x, y, 3, "same-value", 128, num_warps=4)
    (launch,) = device.launches
    assert (launch.name, launch.grid, launch.warps) == ("err", 2, 4)
    assert (launch.counts["ldg"], launch.counts["stg"]) == (8, 8)  # a warp each
    assert launch.counts["sectors_ld"] == 2 * 128 * 4 / 32
    assert launch.counts["missed"] == launch.counts["sectors_ld"]  # a block finds none of them in L1
    assert launch.cycles.tolist() == [launch.cycles[0]] * 2
    assert device.l2 < launch.cycles[0] < 2 * device.l2


def test_a_clock_beyond_32_bits_goes_on() -> None:
    """An H100 makes 2**31 cycles in 1.3 s."""
    x, y = torch.arange(128.0), torch.zeros(256)
    with Device(timing=True, l2=1 << 30, hit=1 << 30) as device:
        err[(1,)](x, y, 3, "ordered", 128, num_warps=4)
    assert device.launches[0].cycles[0] > 2 << 30


def test_nothing_runs_where_nothing_is_to() -> None:
    x, y = torch.arange(128.0), torch.zeros(256)
    with Device(executes=False) as device:
        err[(1,)](x, y, 3, "ordered", 128, num_warps=4)
    assert (y == 0).all()
    assert not device.launches


def test_what_it_has_no_rule_for() -> None:
    text = ".visible .entry k(\n)\n.reqntid 32\n{\n\ttanh.approx.f32 \t%r1, %r2;\n\tret;\n}\n"
    with pytest.raises(UnknownError, match="tanh"):
        Program(text)
    with pytest.raises(ValueError, match="capability"):
        Device(75)


def test_pytorch_writes_too() -> None:
    """What PyTorch has written may be read."""
    with Device() as device:
        y = torch.empty(256).fill_(3.0)
        err[(1,)](torch.arange(128.0), y, 3, "unwritten", 128, num_warps=4)
    assert not device.faults


def test_grids_have_one_axis() -> None:
    with Device(), pytest.raises(NotImplementedError, match="one axis"):
        err[(1, 2)](torch.arange(128.0), torch.zeros(256), 3, "ordered", 128, num_warps=4)

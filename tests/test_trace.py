"""What the profiler reads from traces: hand-made ones, of a GPU too, and PyTorch's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ExecutionTraceObserver

from bench import trace
from bench.launches import project_kernels
from bench.trace import CALL, HOST, LAUNCH, OUTSIDE, OperatorBytes, Row, Step
from tests.traces import cuda_call, span


def test_kernels_of_a_gpu() -> None:
    # What flushes the cache before a call belongs to none, nor does what was launched before one and runs inside.
    flush = [
        span("cuda_runtime", "cudaLaunchKernel", 900, 902, correlation=1),
        span("kernel", "fill", 1001, 1011, correlation=1, device=0),
    ]
    first, second = trace.steps([*flush, *cuda_call(1000, 100), *cuda_call(2000, 200)], on_gpu=True)
    assert {name: row.launches for name, row in first.rows.items()} == dict.fromkeys(first.rows, 1)
    assert "fill" not in first.rows
    assert len(first.rows) == 5
    assert first.rows["radixSortKVInPlace"].seconds == pytest.approx(40e-6)
    assert first.rows["radixSortKVInPlace"].sources == {"aten::sort": 1}
    assert first.busy == pytest.approx(110e-6)  # 20..50, 60..130, 150..160
    assert first.gaps == pytest.approx(30e-6)  # 50..60, 130..150
    assert first.wall == pytest.approx(160e-6)
    assert first.host == pytest.approx(60e-6)
    assert second == first


def test_bytes_of_kernels() -> None:
    (step,) = trace.steps(cuda_call(0, 100), on_gpu=True)
    operators = {"aten::sort": OperatorBytes(600, 1, 1), "aten::mul": OperatorBytes(900, 6, 3)}
    trace.add_bytes(step.rows, operators, {"encode_items": OperatorBytes(5000, 2, 2)}, on_gpu=True)
    assert {name: row.bytes for name, row in step.rows.items()} == {
        "encode_items": 2500,
        "radixSortKVInPlace": None,  # of a sort in two kernels nobody knows which moved what
        "sort_postprocess_kernel": None,
        "vectorized_elementwise_kernel<4, Mul>": 300,
        "Memcpy DtoD (Device -> Device)": 2000,  # read and written
    }


def test_a_kernel_longer_than_the_host_is_part_of_its_call() -> None:
    events = [
        span("user_annotation", CALL, 0, 50),
        span("user_annotation", HOST, 0, 10),
        span("cuda_driver", "cuLaunchKernel", 5, 6, correlation=1),
        span("kernel", "short_rankings", 7, 52, correlation=1, device=0),  # the clocks differ a little
    ]
    (step,) = trace.steps(events, on_gpu=True)
    assert (step.wall, step.busy, step.gaps) == pytest.approx((52e-6, 45e-6, 0.0))


def test_operators_of_a_cpu_count_their_own_time() -> None:
    events = [
        span("user_annotation", CALL, 0, 100),
        span("user_annotation", HOST, 0, 100),
        span("cpu_op", "EagerAPLoss", 0, 100),  # a wrapper
        span("cpu_op", "aten::to", 10, 40),
        span("cpu_op", "wrapper", 12, 40),
        span("cpu_op", "aten::copy_", 20, 40),
        span("cpu_op", "aten::copy_", 50, 60),
        span("user_annotation", LAUNCH + "native engine", 60, 90),
        span("cpu_op", "aten::empty", 61, 66),
        span("cpu_op", "aten::add", 120, 130),  # after the call
    ]
    (step,) = trace.steps(events, on_gpu=False)
    times = {name: (row.launches, round(row.seconds * 1e6)) for name, row in step.rows.items()}
    assert times == {
        "aten::to": (1, 10),
        "aten::copy_": (2, 30),
        "native engine": (1, 25),
        "aten::empty": (1, 5),
        OUTSIDE: (0, 30),
    }
    assert (step.wall, step.busy, step.gaps) == pytest.approx((100e-6, 70e-6, 30e-6))


def test_the_mean_leaves_out_interrupted_calls() -> None:
    steps = [Step({"a": Row(1, wall / 2), **({"b": Row(4, 1)} if wall == 2 else {})}, wall, 0, 0, 0) for wall in (3, 2)]
    steps += [Step({"a": Row(1, 9)}, 90, 9, 9, 9), Step({"a": Row(1, 0)}, 0, 0, 0, 0)]
    mean = trace.mean_step(steps)
    assert mean.wall == 2.5
    assert mean.rows["a"].seconds == 1.25
    assert mean.rows["b"].launches == 2  # of every other call


def test_union_of_intervals() -> None:
    assert trace.union([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert trace.union([]) == 0


def moved_by(work: Any, folder: Path) -> dict[str, float]:
    """Bytes by operator, from PyTorch's own execution trace."""
    observer = ExecutionTraceObserver()
    observer.register_callback(str(folder / "trace.json"))
    observer.start()
    work()
    observer.stop()
    observer.unregister_callback()
    nodes = json.loads((folder / "trace.json").read_text())["nodes"]
    found = trace.bytes_of_operators(nodes, lambda name: torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"))
    return {name: each.total for name, each in found.items() if each.total}


def test_bytes_of_operators(tmp_path: Path) -> None:
    x, y = torch.zeros(100), torch.zeros(50, 100)
    few = torch.zeros(3, dtype=torch.int64)

    def check(work: Any, expected: dict[str, float]) -> None:
        assert moved_by(work, tmp_path) == expected

    check(lambda: x + x.view(4, 25).view(100), {"aten::add": 800.0})  # one tensor twice, and the sum; views are free
    check(lambda: x.add_(x), {"aten::add_": 400.0})
    check(lambda: y + x.expand(50, 100), {"aten::add": 2 * 20000.0 + 400})  # what is expanded is there once
    check(x.double, {"aten::copy_": 1200.0})  # and nothing for what only calls it
    check(lambda: torch.cat([x, x.clone()]), {"aten::copy_": 800.0, "aten::cat": 1600.0})
    check(lambda: x.index_select(0, few), {"aten::index_select": 3 * (4 + 8 + 4)})
    check(lambda: x.index_fill_(0, few, 2.0), {"aten::index_fill_": 3 * (4 + 8)})
    assert moved_by(x.sort, tmp_path)["aten::sort"] == 100 * (4 + 4 + 8)


def test_every_launched_kernel_has_a_stage() -> None:
    sources = (Path(__file__).parent.parent / "fastap" / "backends" / "triton").glob("*.py")
    launched = {name for file in sources for name in re.findall(r"\b\w+\.(\w+)\[\(", file.read_text(encoding="utf-8"))}
    assert launched
    known = {kernel.__name__ for kernel in project_kernels()}
    assert launched <= known
    assert [name for name in sorted(launched) if trace.stage_of(name) is None] == []


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("void at_cuda_detail::cub::DeviceSegmentedRadixSortKernel<...>", "sort"),
        ("aten::searchsorted", "search"),
        ("aten::cumsum", "prefix sums"),
        ("short_rankings", "all stages"),
        ("aten::mul", None),
    ],
)
def test_stages(name: str, stage: str | None) -> None:
    assert trace.stage_of(name) == stage

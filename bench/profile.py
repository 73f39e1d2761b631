"""Where the time of a call goes: ``python -m bench.profile --rows 80 --items 1024 --positives 20 --update negative``.

One row a kernel, on a CPU one row an operator, by PyTorch's profiler. Then a call's wall time, busy time, host time,
peak memory, and what the stages of the engine in C take by its own clock.
The result is checked first, as the suites do it; the exit status is 1 if it is wrong. PyTorch and NumPy are enough.

``--emulate`` shows each kernel's part of the time that an H100 may take, by the counts of an emulated one, and the
lines of the source that take most of it: an estimate, for machines without a GPU; ``--picture FILE`` draws it.

The profiler slows down the host: wall time, host time and peak memory are those of calls without it. Every call gets
fresh scores; on a GPU the L2 cache is flushed before it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import profile, record_function, supported_activities

from bench import isolated, truth
from bench.cases import Case, stage_seconds
from bench.clock import Machine
from bench.environment import about, machine
from bench.figures import duration, memory
from bench.inputs import Shape
from bench.store import Row
from fastap.arguments import check_scale
from fastap.backends import BACKENDS, check_backend, native
from fastap.types import METHODS, UPDATES
from tests.problems import KINDS

CALL = "fastap call"
DTYPES = ("float32", "float64", "float16", "bfloat16")
OUTSIDE = "outside operators (Python, NumPy)"
LOSSES = ("direct", "hinge", "perceptron", "metric")


def measure(case: Case, repeats: int, trace: Path | None = None) -> tuple[dict[str, float], list[Row]]:
    """Times and memory of a call, in seconds and bytes, and its rows, the longest first."""
    device = Machine(case.device)

    def jobs(number: int) -> Iterator[Callable[[], Any]]:
        """Calls with their inputs at hand."""
        inputs = case.inputs(seed=2)
        for _ in range(number):
            job = case.prepare(*next(inputs))
            device.flush()
            yield job
            device.wait()

    for job in jobs(2):
        job()  # compiles, starts threads
    walls, hosts = [], []
    for job in jobs(repeats):
        start = time.perf_counter()
        job()
        hosts.append(time.perf_counter() - start)
        device.wait()
        walls.append(time.perf_counter() - start)
    (peak,) = [isolated.peak_bytes(job, case.device) for job in jobs(1)]
    with profile(activities=supported_activities(), acc_events=True) as profiler:
        for job in jobs(repeats):
            with record_function(CALL):
                job()
                device.wait()
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    wall, rows = rows_of(profiler.events(), repeats, on_gpu=device.on_gpu)
    whole = {"wall": statistics.median(walls), "host": statistics.median(hosts), "under the profiler": wall}
    return {**whole, "in rows": sum(row["seconds"] for row in rows), "peak bytes": peak or 0}, rows


def rows_of(events: Sequence[Any], repeats: int, *, on_gpu: bool) -> tuple[float, list[Row]]:
    """Wall time of a call under the profiler, and a row a kernel, or an operator, with its own time in a call."""
    calls = sorted(
        (each.time_range.start, each.time_range.end, each.self_cpu_time_total)
        for each in events
        if each.name == CALL and each.device_type == DeviceType.CPU
    )
    rows: dict[str, Row] = {}
    for each in events:
        number = bisect([start for start, *_ in calls], each.time_range.start) - 1
        inside = number >= 0 and each.time_range.start <= calls[number][1]
        if inside and each.name != CALL and (each.device_type == DeviceType.CUDA) == on_gpu:
            row = rows.setdefault(each.name, {"name": each.name, "launches": 0.0, "seconds": 0.0})
            row["launches"] += 1 / repeats
            row["seconds"] += (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / (1e6 * repeats)
    if not on_gpu:
        rows[OUTSIDE] = {"name": OUTSIDE, "launches": 0, "seconds": sum(own for *_, own in calls) / (1e6 * repeats)}
    wall = sum(end - start for start, end, _ in calls) / (1e6 * repeats)
    return wall, sorted(rows.values(), key=lambda row: -row["seconds"])


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, Case]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, words in (
        ("--rows", 80, "rankings"),
        ("--items", 1024, "scores a ranking"),
        ("--positives", 20, "of a ranking's items"),
        ("--repeats", 20, "calls to measure"),
        ("--top", 20, "rows to print"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{words} (default: %(default)s)")
    for name, choices, words in (
        ("--loss", LOSSES, ""),
        ("--update", UPDATES, "of the direct loss"),
        ("--method", METHODS, ""),
        ("--backend", BACKENDS, ""),
        ("--dtype", DTYPES, "of the scores"),
        ("--kind", tuple(KINDS), "how scores are distributed"),
        ("--device", ("auto", "cpu", "cuda"), ""),
    ):
        parser.add_argument(name, choices=choices, default=choices[0], help=words)
    parser.add_argument("--epsilon", type=float, default=1.0, help="of the direct loss; the margin of the hinge")
    parser.add_argument("--forward", action="store_true", help="without the backward pass")
    parser.add_argument("--emulate", action="store_true", help="estimate an H100 by an emulated GPU")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="of what --emulate shows")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace")
    options = parser.parse_args(arguments)
    if min(options.rows, options.items, options.repeats, options.top) < 1:
        parser.error("--rows, --items, --repeats and --top must be at least 1")
    if not 0 <= options.positives <= options.items:
        parser.error("--positives must be from 0 to --items")
    if options.loss in ("perceptron", "metric") and options.method != "auto":
        parser.error(f"--loss {options.loss} has one method only")
    if options.picture and not options.emulate:
        parser.error("--picture is of what --emulate shows")
    if options.emulate:
        if options.backend not in ("auto", "triton") or options.device == "cuda" or options.trace:
            parser.error("--emulate runs Triton's kernels on an emulated GPU, with no trace")
        if options.loss == "metric" or options.repeats != parser.get_default("repeats"):
            parser.error("--emulate counts one call of a loss: no --loss metric, no --repeats")
        options.device, options.backend = "cpu", "triton"
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here")
    try:
        check_backend(options.backend, None if options.emulate else torch.device(options.device))
        check_scale("epsilon", options.epsilon)
    except ValueError as error:
        parser.error(str(error))
    case = Case(
        Shape(options.rows, options.positives, options.items - options.positives),
        work=options.update if options.loss == "direct" else options.loss,
        direction="forward" if options.forward else "both",
        threads=torch.get_num_threads(),
        **{key: getattr(options, key) for key in ("kind", "epsilon", "backend", "method", "dtype", "device")},
    )
    return options, case


def show_estimate(case: Case, top: int, picture: Path | None) -> None:
    """Each kernel's part of an H100's time, and where its cycles go."""
    from bench import estimates
    from emulator.estimate import hottest

    workload = estimates.Workload(case, case.shape.rankings)
    device = estimates.emulate(workload)
    *kernels, whole = estimates.rows_of(device, workload)
    print(
        f"{case.shape}, {case.work}: an H100, estimated by the counts of an emulated one, PyTorch's sort not among them"
    )
    lines = {launch.name: hottest(launch, 3) for launch in device.launches}
    for row in sorted(kernels, key=lambda row: -row["seconds"])[:top]:
        where = ", ".join(f"{line} {share:.0%}" for line, share in lines[row["kernel"]])
        print(f"{duration(row['seconds']):>10}  {row['launches']:6.4g} x  {row['kernel']:16}  {where}")
    counts = ", ".join(f"{whole[key]:,.0f} {key}" for key in ("instructions", "float64", "sectors", "bytes"))
    calls = f"{whole['launches']} launches, {whole['allocations']} allocations"
    print(f"all {duration(whole['seconds'])}, {calls}; a score: {counts}")
    if picture:
        from bench import plots

        plots.save(plots.kernels(kernels, f"{case.shape}, {case.work}: an H100, estimated"), picture)


def main(arguments: list[str] | None = None) -> int:
    options, case = parse(arguments)
    if options.emulate:
        show_estimate(case, options.top, options.picture)
        return 0
    try:
        checked = truth.assert_right(case)
    except AssertionError as wrong:
        print(f"wrong result, so nothing was measured: {wrong}", file=sys.stderr)
        return 1
    whole, rows = measure(case, options.repeats, options.trace)
    print(f"{case.shape}, {case.work}, {machine(about(case.device))}\nchecked: {checked}")
    for row in rows[: options.top]:
        print(f"{duration(row['seconds']):>10}  {row['launches']:6.4g} x  {row['name'][:90]}")
    peak = memory(whole.pop("peak bytes"))
    print(", ".join(f"{name} {duration(seconds)}" for name, seconds in whole.items()), f"peak memory {peak}", sep=", ")
    if native.IS_BUILT and case.device == "cpu" and case.work in UPDATES and case.backend in ("auto", "native"):
        stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stage_seconds(case).items())
        print(f"stages of the engine in C, by its own clock and on one thread: {stages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

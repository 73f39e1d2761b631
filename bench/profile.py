"""Where the time of a call goes: ``python -m bench.profile --rows 80 --items 1024 --positives 20 --update negative``.

One row a kernel, on a CPU one row an operator, by PyTorch's profiler. Then a call's wall time, busy time, host time,
peak memory, and what the stages of the engine in C take by its own clock.
The result is checked first, as the suites do it; the exit status is 1 if it is wrong. PyTorch and NumPy are enough.

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
from torch.profiler import ProfilerActivity, profile, record_function

from bench import isolated, store, truth
from bench.cases import Case, stage_seconds
from bench.clock import Machine
from bench.environment import about
from bench.figures import OUTSIDE, duration
from bench.inputs import Shape
from bench.store import Row
from fastap.arguments import check_scale
from fastap.backends import BACKENDS, check_backend, native
from fastap.types import METHODS, UPDATES
from tests.problems import KINDS

CALL = "fastap call"
DTYPES = ("float32", "float64", "float16", "bfloat16")
LOSSES = ("direct", "hinge", "perceptron", "metric")

# In the name of a file these are left out.
USUAL = {"epsilon": 1.0, "method": "auto", "backend": "auto", "dtype": "float32", "kind": "gaussian", "forward": False}


def measure(case: Case, repeats: int, trace: Path | None = None) -> tuple[Row, list[Row]]:
    """What is said of a whole call, and its rows, the longest first."""
    machine = Machine(case.device)

    def jobs(number: int) -> Iterator[Callable[[], Any]]:
        """Calls with their inputs at hand."""
        inputs = case.inputs(seed=2)
        for _ in range(number):
            job = case.prepare(*next(inputs))
            machine.flush()
            yield job
            machine.wait()

    for job in jobs(2):
        job()  # compiles, starts threads
    walls, hosts = [], []
    for job in jobs(repeats):
        start = time.perf_counter()
        job()
        hosts.append(time.perf_counter() - start)
        machine.wait()
        walls.append(time.perf_counter() - start)
    peaks = [isolated.peak_bytes(job, case.device) for job in jobs(1)]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if machine.on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        for job in jobs(repeats):
            with record_function(CALL):
                job()
                machine.wait()
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    wall, rows = rows_of(profiler.events(), repeats, on_gpu=machine.on_gpu)
    busy = sum(row["seconds"] for row in rows if row["name"] != OUTSIDE)
    direct = native.IS_BUILT and not machine.on_gpu and case.work in UPDATES
    facts = {
        "wall": statistics.median(walls),
        "host": statistics.median(hosts),
        "busy": busy,
        "gaps": max(0.0, wall - busy),
        "profiled_wall": wall,
        "peak_bytes": peaks[0],
        "engine_stages": stage_seconds(case) if direct and case.backend in ("auto", "native") else None,
    }
    return facts, rows


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
        parser.add_argument(name, choices=choices, default=USUAL.get(name[2:], choices[0]), help=words)
    parser.add_argument("--epsilon", type=float, default=1.0, help="of the direct loss; the margin of the hinge")
    parser.add_argument("--forward", action="store_true", help="without the backward pass")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures there as CSV")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace")
    options = parser.parse_args(arguments)
    if min(options.rows, options.items, options.repeats, options.top) < 1:
        parser.error("--rows, --items, --repeats and --top must be at least 1")
    if not 0 <= options.positives <= options.items:
        parser.error("--positives must be from 0 to --items")
    if options.loss in ("perceptron", "metric") and options.method != "auto":
        parser.error(f"--loss {options.loss} has one method only")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here")
    try:
        check_backend(options.backend, torch.device(options.device))
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


def main(arguments: list[str] | None = None) -> int:
    options, case = parse(arguments)
    try:
        checked = truth.assert_right(case)
    except AssertionError as wrong:
        print(f"wrong result, so nothing was measured: {wrong}", file=sys.stderr)
        return 1
    facts, rows = measure(case, options.repeats, options.trace)
    call = {key: value for key, value in vars(options).items() if key not in ("top", "out", "trace")}
    where = about(case.device)
    print(f"{case.shape}, {case.work}, {where['device']}\nchecked: {checked}")
    for row in rows[: options.top]:
        print(f"{duration(row['seconds']):>10}  {row['launches']:6.4g} x  {row['name'][:90]}")
    for name, value in facts.items():
        print(f"{name}: {value}")
    if options.out is not None:
        unusual = [str(call[key]) for key in call if call[key] != USUAL.get(key, call[key])]
        name = "-".join([f"profile-{options.rows}x{options.items}-p{options.positives}-{case.work}", *unusual])
        print(store.write(options.out, name, where, rows, call=call, **facts, checked=checked))
    return 0


if __name__ == "__main__":
    sys.exit(main())

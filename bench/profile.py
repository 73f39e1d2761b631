"""Where the time of a call goes: ``python -m bench.profile --rows 80 --items 1024 --positives 20 --update negative``.

One row a kernel, on a CPU one row an operator: time, share of the busy time, launches, bytes moved, bandwidth and its
share of that of a copy measured in the same run; the engine in C is a row, with its stages below. Then a call's wall
time, busy time, gaps, host time, peak memory and cells of the dynamic program a second. The result is checked
first, as the suites do it; the exit status is 1 if it is wrong, and 3 if the figures are there but a picture or
Proton's profile that was asked for is not. PyTorch and NumPy are enough; without tabulate, tqdm and matplotlib there is
a plain table, no bar and no picture.

Bytes are nominal: every tensor that a kernel is handed, or an operator takes and returns, counts once. A kernel may
read some of them twice, and what it finds in a cache costs no memory traffic, so a share above 100 % is possible. Of
Triton's work space with one number a positive, the positives count; of a tensor that is indexed, what is taken from
it. Where bytes are not known the cell is empty.

Times of kernels and operators are taken under ``torch.profiler``, which slows down the host: wall time, host time and
peak memory are those of calls without it. Every call gets fresh scores; on a GPU the L2 cache is flushed before it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

# PyTorch reads them when it is imported: its profiler would announce on the terminal that it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from torch import Tensor
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile, record_function

from bench.environment import about, file_name, is_installed, stand_in_for_installation

if not is_installed():
    stand_in_for_installation()

from bench import isolated, proton, trace, truth
from bench.clock import Machine
from bench.launches import ENGINE, Launches
from bench.one_call import DTYPES, NAMES, OneCall
from bench.plain import progress
from bench.profile_report import draw_chart, show
from bench.trace import CALL, HOST, OUTSIDE, OperatorBytes, Row, Step
from fastap.arguments import check_scale
from fastap.backends import BACKENDS, check_backend, native
from fastap.types import METHODS, UPDATES, Batch, Objective
from tests.problems import KINDS

TRACED = 3  # calls whose tensors are looked at
SLOWED = 1.2  # from so many times a call's wall time on, the profiler is said to have slowed it down


class Profiler:
    """Takes every figure of one call, each by runs of its own."""

    def __init__(self, call: OneCall, repeats: int, folder: Path, bar: Any) -> None:
        self.call, self.repeats, self.folder, self.bar = call, repeats, folder, bar
        self.machine = Machine(call.device)

    def _inputs(self, seed: int, repeats: int) -> Iterator[tuple[Tensor, Tensor]]:
        inputs = self.call.inputs(seed)
        for _ in range(repeats):
            scores, targets = next(inputs)
            self.machine.flush()
            yield scores, targets
            self.bar.update()

    def times(self) -> dict[str, float]:
        """Medians of calls that no profiler looks at: until their work is done, and until they return."""
        walls, hosts = [], []
        for scores, targets in self._inputs(1, self.repeats):
            start = time.perf_counter()
            self.call.make(scores, targets)
            hosts.append(time.perf_counter() - start)
            self.machine.wait()
            walls.append(time.perf_counter() - start)
        return {"wall": statistics.median(walls), "host": statistics.median(hosts)}

    def peak_bytes(self) -> int:
        """What a call takes at its peak, its gradient included.

        On a CPU the larger of what PyTorch allocated, which knows nothing of the engine in C, and of resident memory,
        which does not see memory used again.
        """
        inputs = self._inputs(1, 1 if self.machine.on_gpu else 2)
        scores, targets = next(inputs)
        found = isolated.peak_bytes(lambda: self.call.make(scores, targets), self.call.device) or 0
        path = self.folder / "memory.json"
        for scores, targets in inputs:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
                self.call.make(scores, targets)
            profiler.export_chrome_trace(str(path))
            found = max(found, trace.peak_bytes(_events(path)))
        return found

    def trace(self, path: Path | None) -> Step:
        """The mean call as PyTorch's profiler sees it; its Chrome trace is left at ``path``."""
        path = path or self.folder / "trace.json"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.machine.on_gpu else [])]
        with ExitStack() as stack:
            if not self.machine.on_gpu:
                stack.enter_context(Launches(annotated=True))
            # PyTorch 2.11 warns of several cycles, which there are not, unless told to keep them.
            profiler = stack.enter_context(profile(activities=activities, acc_events=True))
            for scores, targets in self._inputs(2, self.repeats):
                with record_function(CALL):
                    with record_function(HOST):
                        self.call.make(scores, targets)
                    self.machine.wait()
        profiler.export_chrome_trace(str(path))
        return trace.mean_step(trace.steps(_events(path), on_gpu=self.machine.on_gpu))

    def tensors(self) -> tuple[dict[str, OperatorBytes], dict[str, OperatorBytes]]:
        """Bytes of the operators and of Triton's launches, of a few calls whose times do not count."""
        call, path = self.call, self.folder / "operators.json"
        # The dynamic program has work space with one number a column in the same arrays.
        share = call.positives / call.items if call.method == "auto" else 1.0
        observer = ExecutionTraceObserver()
        observer.register_callback(str(path))
        inputs = list(self._inputs(2, min(TRACED, self.repeats)))
        with Launches(share) as launches:
            observer.start()
            try:
                for scores, targets in inputs:
                    call.make(scores, targets)
                self.machine.wait()
            finally:
                observer.stop()
                observer.unregister_callback()
        key = "CUDA" if self.machine.on_gpu else "CPU"

        def has_kernel(name: str) -> bool:
            return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))

        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        return trace.bytes_of_operators(nodes, has_kernel), dict(launches.seen)

    def engine_stages(self) -> dict[str, float]:
        """Medians of what the stages of the engine in C take, on one thread, by its own clock."""
        call = self.call
        objective = Objective(call.loss, call.epsilon, call.update, call.method)  # type: ignore[arg-type]
        found = [
            native.stage_seconds(Batch(scores, targets, None), objective)
            for scores, targets in self._inputs(1, min(TRACED, self.repeats))
        ]
        return {stage: statistics.median(each[stage] for each in found) for stage in native.STAGES}


def _events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def measure(call: OneCall, repeats: int, chrome: Path | None = None) -> dict[str, Any]:
    """Everything the report says."""
    calls = 4 + 2 * repeats + 2 * min(TRACED, repeats)
    with tempfile.TemporaryDirectory() as folder, progress(calls) as bar:
        profiler = Profiler(call, repeats, Path(folder), bar)
        for scores, targets in profiler._inputs(0, 2):
            call.make(scores, targets)  # compiles, starts threads
        bandwidth = profiler.machine.copy_bandwidth()
        plain = {**profiler.times(), "peak_bytes": profiler.peak_bytes()}
        step = profiler.trace(chrome)
        operators, launches = profiler.tensors()
        stages = profiler.engine_stages() if ENGINE in launches and call.loss != "metric" else None
    trace.add_bytes(step.rows, operators, launches, on_gpu=profiler.machine.on_gpu)
    return {
        "about": about(call.device),
        "call": {**asdict(call), "repeats": repeats},
        "copy_bandwidth": bandwidth,
        "kernels": kernels_of(step, bandwidth),
        **plain,
        "busy": step.busy,
        "gaps": step.gaps,
        "profiled_wall": step.wall,
        "profiled_host": step.host,
        "launches": sum(row.launches for row in step.rows.values()),
        "engine_stages": stages,
        "cells": call.cells,
        "cells_per_second": call.cells / plain["wall"] if call.cells is not None else None,
    }


def kernels_of(step: Step, bandwidth: float) -> list[dict[str, Any]]:
    """The rows of a call, the longest first; ``share`` is of the bandwidth of a copy."""

    def entry(name: str, row: Row) -> dict[str, Any]:
        rate = row.bytes / row.seconds if row.bytes is not None and row.seconds > 0 else None
        return {
            "name": name,
            "stage": trace.stage_of(name),
            "launches": row.launches,
            "seconds": row.seconds,
            "busy_share": row.seconds / step.busy if name != OUTSIDE and step.busy else None,
            "bytes": row.bytes,
            "bandwidth": rate,
            "share": rate / bandwidth if rate is not None else None,
        }

    return sorted((entry(*each) for each in step.rows.items()), key=lambda each: -each["seconds"])


def save(result: dict[str, Any], call: OneCall, folder: Path) -> Path:
    path = folder / file_name(call.file_kind, result["about"])
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, OneCall]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=80, help="rankings (default: %(default)s)")
    parser.add_argument("--items", type=int, default=1024, help="scores a ranking (default: %(default)s)")
    parser.add_argument("--positives", type=int, default=20, help="of a ranking's items (default: %(default)s)")
    parser.add_argument("--loss", choices=NAMES, default="direct")
    parser.add_argument("--update", choices=UPDATES, default="positive", help="of the direct loss")
    parser.add_argument("--epsilon", type=float, default=1.0, help="of the direct loss; the margin of the hinge")
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the scores")
    parser.add_argument("--kind", choices=tuple(KINDS), default="gaussian", help="how scores are distributed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--forward", action="store_true", help="without the backward pass")
    parser.add_argument("--repeats", type=int, default=20, help="calls to measure (default: %(default)s)")
    parser.add_argument("--top", type=int, default=20, help="rows of the table (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures there as JSON")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace")
    parser.add_argument("--proton", type=Path, metavar="FILE", help="write Proton's profile, on a GPU")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a bar chart")
    options = parser.parse_args(arguments)
    if min(options.rows, options.items, options.repeats, options.top) < 1:
        parser.error("--rows, --items, --repeats and --top must be at least 1")
    if not 0 <= options.positives <= options.items:
        parser.error("--positives must be from 0 to --items")
    if options.loss in ("perceptron", "metric") and options.method != "auto":
        parser.error(f"--loss {options.loss} has one method only")
    if options.loss == "metric" and options.backend != "auto":
        parser.error("--loss metric takes the backend of its device")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    missing = proton.why_not(on_gpu=options.device == "cuda") if options.proton else None
    if missing:
        parser.error(missing)
    try:
        check_backend(options.backend, torch.device(options.device))
        check_scale("epsilon", options.epsilon)
    except ValueError as error:
        parser.error(str(error))
    return options, OneCall(**{each.name: getattr(options, each.name) for each in fields(OneCall)})


def main(arguments: list[str] | None = None) -> int:
    options, call = parse(arguments)
    print(call.title)
    try:
        checked = truth.assert_right(call.case)
    except AssertionError as wrong:
        print(f"wrong result, so nothing was measured: {wrong}", file=sys.stderr)
        return 1
    for path in (options.trace, options.proton):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    result = {**measure(call, options.repeats, options.trace), "checked": checked}
    if options.out:
        saved = save(result, call, options.out)
    where = result["about"]
    machine = f"{where['device']}, {where['threads']} threads, torch {where['versions']['torch']}"
    print(f"{machine}, commit {where['commit']}")
    if where["type"] != "cuda":
        there = "CPU asked for" if torch.cuda.is_available() else "no GPU here"
        print(f"{there}: what follows are the operators of the CPU")
    print(f"checked: {checked}\n\n{show(result, options.top)}\n")
    if note := slowed(result):
        print(f"{note}\n")
    if options.out:
        print(f"figures: {saved}")
    if options.trace:
        print(f"trace: {options.trace}")
    sys.stdout.flush()
    return extras(result, call, options, f"{call.title}\n{machine}")


def slowed(result: dict[str, Any]) -> str:
    """That the rows of a CPU are of slower calls than those of the wall time, where they are; empty where not."""
    times = result["profiled_wall"] / result["wall"]
    if result["about"]["type"] == "cuda" or times < SLOWED:
        return ""
    note = f"note: the rows are of calls under the profiler, which took {times:.2g} times as long as those without it"
    if result["about"]["threads"] > 1 and any(each["name"] == ENGINE for each in result["kernels"]):
        # 80 x 1,024 on two cores: 1.27 ms on one thread, 1.45 on two; without the profiler two save 0.6 ms.
        note += f";\nif the {ENGINE} takes several threads, they help it little or not at all there"
    return note


def extras(result: dict[str, Any], call: OneCall, options: argparse.Namespace, title: str) -> int:
    """What was asked for beside the figures; 3 if some of it could not be had, which is printed."""
    status = 0
    if options.png:
        try:
            draw_chart(result, title, options.png)
            print(f"png: {options.png}")
        except ImportError as error:
            print(f"no picture: {error}", file=sys.stderr)
            status = 3
    if options.proton:
        written, why = proton.write(call, options.repeats, options.proton)
        if why:
            print(f"no Proton profile: {why}", file=sys.stderr)
            status = 3
        else:
            print(f"proton: {written}")
    return status


if __name__ == "__main__":
    sys.exit(main())

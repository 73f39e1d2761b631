"""The GPU gate: tests on the GPU, and only if they are green the times, with what they were to reach.

``python -m bench.gpu --out DIR`` takes at most 8 minutes and needs pytest, NumPy, PyTorch and Triton, nothing else;
this checkout need not be installed. It prints a table last and writes ``gpu-<device>-torch-<version>-<commit>.json`` to
the folder. The exit status is 0 after green tests, 1 after red ones, 2 without a GPU.

Times are GPU time between two events, with everything between them queued before the first is reached, so the host
does not show; the host's own time stands beside it. Between calls the L2 cache is flushed. ``torch.sort`` of the same
scores takes turns with the losses in the same process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from bench.clock import beyond_cache, quantiles
from bench.environment import ROOT, commit, cpu, is_installed, stand_in_for_installation, stem, versions

if not is_installed():
    stand_in_for_installation()

import fastap
from fastap.backends.triton.sort import choose_algorithm, sort_rows

# Seconds of the whole, and of its parts at most; what is left is for the times.
TOTAL = 470.0
TESTING = 280.0
SANITIZING = 60.0
SHARES = max(1, min(14, (os.cpu_count() or 1) - 1))  # processes of tests, which mostly compile
WRONG = 7  # exit status of a wrong result under a sanitizer
FOUND = 9  # and of a sanitizer that has found something
SECONDS = 0.4  # of calls for one figure
REPEATS = (5, 100)


def losses(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Forward and backward."""
    leaf = scores.detach().requires_grad_()
    return torch.autograd.grad(fastap.direct_ap_loss(leaf, targets, **options), leaf)[0]


def forward(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    return fastap.direct_ap_loss(scores, targets, reduction="none", **options)


def float_sort(scores: Tensor, targets: Tensor) -> Tensor:
    return torch.sort(scores, dim=-1, descending=True)[1]


def key_sort(scores: Tensor, targets: Tensor, algorithm: str) -> Tensor:
    """The sort of the long path, of keys that are the bits of the scores."""
    return sort_rows(scores.view(torch.int32), algorithm)[1]


class Work(NamedTuple):
    """What is timed."""

    call: Callable[[Tensor, Tensor], Any]
    bytes: int  # that it must read and write at least, a float32 score with its bool target
    solves: tuple[str, str] | None = None  # update and method


WORKS = {
    "torch.sort": Work(float_sort, 4 + 4 + 8),
    "sort_rows torch": Work(partial(key_sort, algorithm="torch"), 4 + 4 + 4),
    "sort_rows triton": Work(partial(key_sort, algorithm="triton"), 4 + 4 + 4),
    "average_precision": Work(fastap.average_precision, 4 + 1),
    **{
        f"{prefix}{update}": Work(partial(call, update=update, **options), 4 + 1 + 4, solves)
        for update in ("positive", "negative")
        for prefix, call, options, solves in (
            ("", losses, {}, (update, "auto")),
            ("forward ", forward, {}, (update, "auto")),
            ("dp ", losses, {"method": "dp"}, (update, "dp")),
            ("torch backend ", losses, {"backend": "torch"}, None),
        )
    },
}
UPDATES = ("positive", "negative")
TORCH_BACKEND = ("torch backend positive", "torch backend negative")
SORTS = ("sort_rows torch", "sort_rows triton")


@dataclass(frozen=True)
class Case:
    """A batch of rankings and what is timed on it."""

    rankings: int
    positives: int
    negatives: int
    works: tuple[str, ...]
    kind: str = "gaussian"  # of the tests' problems

    @property
    def items(self) -> int:
        return self.positives + self.negatives

    @property
    def name(self) -> str:
        kind = "" if self.kind == "gaussian" else f", {self.kind}"
        return f"{self.rankings:,} x {self.items:,}, P = {self.positives:,}{kind}"


ONE_LONG = Case(1, 10_000, 1_000_000, ("torch.sort", *UPDATES, "average_precision", *SORTS, *TORCH_BACKEND))
MULTI_LABEL = Case(
    80, 100, 924, ("torch.sort", "forward positive", "forward negative", *UPDATES, "average_precision", *TORCH_BACKEND)
)
RETRIEVAL = Case(4096, 20, 980, ("torch.sort", *UPDATES, "average_precision", *TORCH_BACKEND))
FULL_BANDS = Case(1, 2_000, 200_000, ("torch.sort", "dp positive", "dp negative", *UPDATES))
MANY_LONG = Case(64, 6_553, 58_983, ("torch.sort", *SORTS, *UPDATES, "average_precision"))
CASES = (
    ONE_LONG,
    MULTI_LABEL,
    RETRIEVAL,
    FULL_BANDS,
    MANY_LONG,
    Case(1, 1_000, 99_000, ("torch.sort", *UPDATES)),
    Case(1, 100_000, 9_900_000, ("torch.sort", *UPDATES)),
    *(
        Case(1, 10_000, 1_000_000, ("torch.sort", *UPDATES), kind)
        for kind in ("cauchy", "saturated", "tied", "anti-correlated")
    ),
)


def draw_inputs(case: Case, device: torch.device, copies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """float32 scores and bool targets: different scores in every copy, and other places of the positives."""
    from tests.problems import draw

    generator = torch.Generator(device).manual_seed(0)
    rng = np.random.default_rng(0)
    shape = (case.rankings, case.items)
    for _ in range(copies):
        if case.kind == "gaussian":
            places = torch.rand(shape, generator=generator, device=device).argsort(-1)
            targets = places < case.positives
            yield torch.randn(shape, generator=generator, device=device) + targets, targets
        else:
            drawn = [draw(rng, case.kind, case.positives, case.negatives) for _ in range(case.rankings)]
            scores = torch.from_numpy(np.stack([each for each, _ in drawn])).float()
            yield scores.to(device), torch.from_numpy(np.stack([each for _, each in drawn]) == 1).to(device)


class Stopwatch:
    """Times calls on a device, each with the L2 cache flushed."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            self.flushed = beyond_cache(device)

    def by_host(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Seconds until the call returns, and until its work is done."""
        self._flush()
        self._wait()
        start = time.perf_counter()
        call()
        returned = time.perf_counter()
        self._wait()
        return returned - start, time.perf_counter() - start

    def by_device(self, call: Callable[[], Any], returns_within: float) -> float:
        """Seconds of GPU time; the GPU spins until everything is queued, so that it never waits for the host."""
        if not self.on_gpu:
            return self.by_host(call)[1]
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush()
        torch.cuda._sleep(int(min(2 * returns_within + 50e-6, 0.05) * 2e9))  # cycles, of 2 GHz
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def _flush(self) -> None:
        if self.on_gpu:
            self.flushed.zero_()

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def statistics_of(seconds: list[float]) -> dict[str, float]:
    return {**quantiles(seconds), "repeats": len(seconds)}


def time_work(
    work: Work, case: Case, inputs: list[tuple[Tensor, Tensor]], watch: Stopwatch, seconds: float = SECONDS
) -> dict[str, Any]:
    """Quantiles of the GPU time of one work, host time, peak memory, and bandwidth by the bytes it must move."""
    turns = itertools.cycle(inputs)

    def call() -> Any:
        return work.call(*next(turns))

    call()  # compiles
    peak = peak_bytes(call) if watch.on_gpu else None
    hosts = [watch.by_host(call) for _ in range(REPEATS[0])]
    host, wall = (float(np.median([each[number] for each in hosts])) for number in (0, 1))
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < REPEATS[0] or (len(taken) < REPEATS[1] and time.perf_counter() < until):
        taken.append(watch.by_device(call, host))
    scores = inputs[0][0].numel()
    figures: dict[str, Any] = {**statistics_of(taken), "host": host, "wall": wall}
    figures["GB/s"] = scores * work.bytes / figures["median"] / 1e9
    if peak is not None:
        figures["bytes a score"] = peak / scores
    if work.solves is not None and work.solves[1] == "dp":
        cells = case.rankings * case.positives * (case.negatives + 1)
        figures["cells a second"] = cells / figures["median"]
    return figures


def peak_bytes(call: Callable[[], Any]) -> int:
    """What a call takes at its peak, results and all."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def time_case(case: Case, device: torch.device, deadline: float, seconds: float = SECONDS) -> dict[str, Any]:
    """Figures of every work of a case, or what kept them from being taken."""
    figures: dict[str, Any] = {}
    result = {"case": case.name, **asdict(case), "works": figures}
    try:
        inputs = list(draw_inputs(case, device, 3))
        watch = Stopwatch(device)
    except Exception as error:
        figures.update({name: {"error": describe(error)} for name in case.works})
        return result
    for name in case.works:
        if time.monotonic() > deadline:
            figures[name] = {"error": "no time was left"}
            continue
        try:
            figures[name] = time_work(WORKS[name], case, inputs, watch, seconds)
        except Exception as error:
            figures[name] = {"error": describe(error)}
    return result


def describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def count_launches(device: torch.device) -> int | str:
    """Kernels, fills and copies of one forward call on 80 rankings."""
    from tests.device_checks import launched_kernels

    try:
        scores, targets = next(draw_inputs(MULTI_LABEL, device, 1))
        kernels = launched_kernels(lambda: forward(scores, targets))
    except Exception as error:
        return describe(error)
    return "the profiler saw no kernels" if kernels is None else len(kernels)


class Verdict(NamedTuple):
    what: str
    target: str
    figure: str
    verdict: str  # "met", "missed", or why there is none


def judge(results: dict[str, Any]) -> list[Verdict]:
    """What was to be reached on an H200, and what was."""
    cases = {each["case"]: each["works"] for each in results["times"]}

    def figure(case: Case, work: str, key: str = "median") -> float | None:
        return cases.get(case.name, {}).get(work, {}).get(key)

    def verdict(what: str, target: str, measured: float | None, met: Callable[[float], bool], show: str) -> Verdict:
        if measured is None:
            return Verdict(what, target, "", "not measured")
        return Verdict(what, target, show.format(measured), "met" if met(measured) else "missed")

    def ratio(*parts: float | None) -> float | None:
        """The first over the sum of the others."""
        known = [each for each in parts if each is not None]
        return known[0] / sum(known[1:]) if len(known) == len(parts) else None

    verdicts = []
    for update in UPDATES:
        measured = ratio(figure(ONE_LONG, update), figure(ONE_LONG, "torch.sort"))
        what = f"{ONE_LONG.name}, forward + backward, {update}"
        verdicts.append(verdict(what, "<= 1.5 x torch.sort", measured, lambda x: x <= 1.5, "{:.2f} x"))
    launches = results.get("launches")
    measured = float(launches) if isinstance(launches, int) else None
    verdicts.append(verdict("80 x 1,024, launches in forward", "1", measured, lambda x: x == 1, "{:.0f}"))
    for update in UPDATES:
        measured = ratio(figure(MULTI_LABEL, f"forward {update}"), 1e-6)
        verdicts.append(verdict(f"80 x 1,024, forward, {update}", "<= 40 us", measured, lambda x: x <= 40, "{:.1f} us"))
    for update in UPDATES:
        ours, others = figure(RETRIEVAL, update), ("torch.sort", f"torch backend {update}")
        what = f"{RETRIEVAL.name}, {update}"
        verdicts.append(verdict(what, "<= 0.6 ms", ratio(ours, 1e-3), lambda x: x <= 0.6, "{:.3f} ms"))
        inverse = ratio(ours, *(figure(RETRIEVAL, name) for name in others))
        speed = None if inverse is None else 1 / inverse
        target = ">= 10 x torch.sort + torch backend"
        verdicts.append(verdict(what, target, speed, lambda x: x >= 10, "{:.1f} x"))
    for update in UPDATES:
        measured = figure(FULL_BANDS, f"dp {update}", "cells a second")
        what = f'{FULL_BANDS.name}, method="dp", {update}'
        verdicts.append(verdict(what, ">= 1e11 cells/s", measured, lambda x: x >= 1e11, "{:.2e}"))
    for case in (ONE_LONG, MANY_LONG):
        measured = ratio(figure(case, "sort_rows triton"), figure(case, "torch.sort"))
        chosen = choose_algorithm(case.rankings, case.items, torch.int32)
        found = verdict(
            f"Triton's sort, {case.rankings:,} x {case.items:,}",
            "<= 1.3 x torch.sort, or auto takes torch",
            measured,
            lambda x, chosen=chosen: x <= 1.3 or chosen == "torch",
            "{:.2f} x",
        )
        verdicts.append(found._replace(figure=f"{found.figure}, auto takes {chosen}" if found.figure else ""))
    return verdicts


def table(rows: list[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    """A Markdown table."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def table_of_times(results: dict[str, Any]) -> str:
    rows = []
    for case in results["times"]:
        base = case["works"].get("torch.sort", {}).get("median")
        for name, figures in case["works"].items():
            if "error" in figures:
                rows.append((case["case"], name, figures["error"][:60], "", "", "", "", ""))
                continue
            rows.append(
                (
                    case["case"],
                    name,
                    f"{figures['median'] * 1e6:,.1f}",
                    f"{figures['p10'] * 1e6:,.1f} - {figures['p90'] * 1e6:,.1f}",
                    f"{figures['median'] / base:.2f}" if base else "",
                    f"{figures['GB/s']:,.1f}",
                    f"{figures['bytes a score']:.0f}" if "bytes a score" in figures else "",
                    f"{figures['host'] * 1e6:,.0f}",
                )
            )
    return table(rows, ("rankings", "work", "us", "p10 - p90", "x torch.sort", "GB/s", "bytes a score", "host us"))


def files_with_gpu_tests() -> list[str]:
    """Other files may need more than is installed."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]


def run_share(number: int, of: int, expression: str, report: str) -> int:
    """Of all GPU tests every so-many-th: several processes compile kernels at once."""
    import pytest

    class Share:
        @pytest.hookimpl(trylast=True)  # after those that the expression leaves out
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            items[:] = items[number::of]

    arguments = ["-m", expression, "-p", "no:cacheprovider", "-W", "default", "-q", f"--junitxml={report}"]
    return int(pytest.main([f"--rootdir={ROOT}", *arguments, *files_with_gpu_tests()], plugins=[Share()]))


def run_tests(deadline: float, folder: Path) -> dict[str, Any]:
    """All GPU tests: most of them in several processes, then, alone, what needs the device's memory."""
    outcome: dict[str, Any] = {"passed": 0, "skipped": {}, "failed": [], "seconds": 0.0}
    start = time.monotonic()
    for expression, shares in (("gpu and not slow", SHARES), ("gpu and slow", 1)):
        started = [_start_share(number, shares, expression, folder) for number in range(shares)]
        for process, log, report in started:
            status = _finish(process, deadline)
            read_report(report, outcome)
            if status in (0, 5):  # 5: no test fell to this share
                continue
            print(log.read_text(errors="replace")[-6000:], flush=True)
            if status != 1:
                how = "ran out of time" if status is None else f"exit status {status}"
                outcome["failed"].append(f"{report.stem}: {how}")
    outcome["seconds"] = time.monotonic() - start
    outcome["green"] = not outcome["failed"] and outcome["passed"] > 0
    return outcome


def _start_share(number: int, of: int, expression: str, folder: Path) -> tuple[subprocess.Popen[bytes], Path, Path]:
    name = f"tests-{'slow-' if expression == 'gpu and slow' else ''}{number}"
    log, report = folder / f"{name}.log", folder / f"{name}.xml"
    command = [sys.executable, "-m", "bench.gpu", "--share", f"{number}/{of}", expression, str(report)]
    threads = str(max(1, (os.cpu_count() or 1) // of))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    return _start(command, log, environment), log, report


def _start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process at the head of its own group, for what it starts to end with it."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _finish(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """The exit status, or None if it had to be ended."""
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def read_report(report: Path, outcome: dict[str, Any]) -> None:
    """Add what a JUnit file says."""
    if not report.exists():
        return
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome["failed"].append(name)
        elif skipped is not None:
            reason = skipped.get("message", "")
            outcome["skipped"][reason] = outcome["skipped"].get(reason, 0) + 1
        else:
            outcome["passed"] += 1


def sanitize(deadline: float, folder: Path) -> dict[str, str]:
    """memcheck and racecheck on small cases, side by side, where NVIDIA's tool is."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return dict.fromkeys(("memcheck", "racecheck"), "compute-sanitizer is not here")
    # Out of bounds is beyond an allocation, not beyond what PyTorch keeps for later.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    this = [sys.executable, "-m", "bench.gpu", "--sanitize-case"]
    started = {}
    for check in ("memcheck", "racecheck"):
        log = folder / f"{check}.log"
        started[check] = _start([tool, "--tool", check, "--error-exitcode", str(FOUND), *this], log, environment), log
    outcomes = {}
    for check, (process, log) in started.items():
        outcomes[check] = outcome_of_sanitizer(_finish(process, deadline))
        if outcomes[check] != "clean":
            print(f"{check}:\n{log.read_text(errors='replace')[-3000:]}", flush=True)
    return outcomes


def outcome_of_sanitizer(status: int | None) -> str:
    known = {None: "ran out of time", 0: "clean", WRONG: "wrong results", FOUND: "errors found"}
    return known.get(status, f"could not run, exit {status}")


def sanitize_case(device: str = "cuda", items: int = 40, rankings: int = 2) -> int:
    """Every path of the kernels once, on a few items."""
    from tests import device_checks as checks

    batch = checks.full_batch(0, rankings, items, "conflicting", share=0.4)
    try:
        for method in ("auto", "dp"):
            for dtype in (torch.float32, torch.float64):
                checks.check_losses(batch, "negative", device, dtype, method)
        checks.check_losses(batch, "positive", device, torch.float32)
        checks.check_metric(batch, device, torch.float64)
        checks.check_sort(device, torch.int32, rankings, items, 31)
    except AssertionError as error:
        print(error)
        return WRONG
    return 0


def is_green(results: dict[str, Any]) -> bool:
    found = {"wrong results", "errors found"} & set(results["sanitizer"].values())
    return bool(results["tests"].get("green", True)) and not found


def file_name(results: dict[str, Any]) -> str:
    return stem("gpu", results) + ".json"


def save(results: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / file_name(results)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def run(out: Path, *, skip_tests: bool, of_commit: str | None) -> int:
    start = time.monotonic()
    device = torch.device("cuda")
    about = torch.cuda.get_device_properties(device)
    results: dict[str, Any] = {
        "device": about.name,
        "memory": about.total_memory,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cpu": cpu(),
        "versions": {**versions(), "triton": triton.__version__, "cuda": torch.version.cuda},
        "commit": of_commit or commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tests": {"skipped": "by --skip-tests"},
        "sanitizer": {},
        "times": [],
    }
    print(", ".join(f"{key} {results[key]}" for key in ("device", "versions", "commit", "date")), flush=True)
    if not skip_tests:
        with tempfile.TemporaryDirectory() as folder:
            results["tests"] = run_tests(start + TESTING, Path(folder))
            print("tests: " + json.dumps(results["tests"], indent=1), flush=True)
            if is_green(results):
                results["sanitizer"] = sanitize(time.monotonic() + SANITIZING, Path(folder))
                print("sanitizer: " + json.dumps(results["sanitizer"]), flush=True)
    if not is_green(results):
        print(f"red: no times were taken. {save(results, out)}")
        return 1
    results["launches"] = count_launches(device)
    for case in CASES:
        results["times"].append(time_case(case, device, start + TOTAL))
        save(results, out)
    verdicts = judge(results)
    results["targets"] = [each._asdict() for each in verdicts]
    results["seconds"] = time.monotonic() - start
    path = save(results, out)
    print(table_of_times(results), table(list(verdicts), ("what", "target", "measured", "verdict")), sep="\n\n")
    print(f"\n{results['device']}, tests {'skipped' if skip_tests else 'green'}, {results['seconds']:.0f} s, {path}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    parser.add_argument("--skip-tests", action="store_true", help="take times at once")
    parser.add_argument("--commit", help="what the JSON says where this is a copy without its history")
    parser.add_argument("--sanitize-case", action="store_true", help="run every kernel once, for compute-sanitizer")
    parser.add_argument("--share", nargs=3, metavar=("I/N", "MARKS", "XML"), help="run one share of the GPU tests")
    options = parser.parse_args()
    if options.share:
        number, of = map(int, options.share[0].split("/"))
        return run_share(number, of, *options.share[1:])
    if not torch.cuda.is_available():
        print("bench.gpu needs a CUDA device, and PyTorch sees none here.", file=sys.stderr)
        return 2
    if options.sanitize_case:
        return sanitize_case()
    if options.out is None:
        parser.error("--out DIR is needed")
    return run(options.out, skip_tests=options.skip_tests, of_commit=options.commit)


if __name__ == "__main__":
    sys.exit(main())

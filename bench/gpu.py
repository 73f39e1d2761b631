"""The GPU gate: tests on the GPU, and only if they are green the times, with what they were to reach.

``python -m bench.gpu --out DIR`` takes at most 8 minutes and needs pytest, NumPy, PyTorch and Triton, nothing else;
this checkout need not be installed. It prints what was to be reached last and writes a CSV to the folder. The exit
status is 0 after green tests, 1 after red ones, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import torch
import triton

from bench import store
from bench.environment import ROOT, about
from bench.gpu_times import CASES, count_launches, judge, time_case

# Seconds of the whole, and of its tests at most; what is left is for the times.
TOTAL, TESTING = 470.0, 280.0
SHARES = max(1, min(14, (os.cpu_count() or 1) - 1))  # processes of tests, which mostly compile


def run_share(number: int, of: int, expression: str, report: str) -> int:
    """Of all GPU tests every so-many-th: several processes compile kernels at once."""
    import pytest

    class Share:
        @pytest.hookimpl(trylast=True)  # after those that the expression leaves out
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            items[:] = items[number::of]

    # Other files may need more than is installed.
    files = [str(file) for file in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in file.read_text()]
    arguments = ["-m", expression, "-p", "no:cacheprovider", "-W", "default", "-q", f"--junitxml={report}"]
    return int(pytest.main([f"--rootdir={ROOT}", *arguments, *files], plugins=[Share()]))


def run_tests(deadline: float, folder: Path) -> dict[str, Any]:
    """All GPU tests: most of them in several processes, then, alone, what needs the device's memory."""
    outcome: dict[str, Any] = {"passed": 0, "skipped": {}, "failed": []}
    start = time.monotonic()
    for expression, shares in (("gpu and not full", SHARES), ("gpu and full", 1)):
        reports = [folder / f"{expression.split()[-2]}-{number}.xml" for number in range(shares)]
        threads = str(max(1, (os.cpu_count() or 1) // shares))
        started = [
            start_process(
                share_command(number, shares, expression, report), report.with_suffix(".log"), OMP_NUM_THREADS=threads
            )
            for number, report in enumerate(reports)
        ]
        for process, report in zip(started, reports, strict=True):
            status = finish(process, deadline)
            read_report(report, outcome)
            if status in (0, 5):  # 5: no test fell to this share
                continue
            print(report.with_suffix(".log").read_text(errors="replace")[-6000:], flush=True)
            if status != 1:
                how = "ran out of time" if status is None else f"exit status {status}"
                outcome["failed"].append(f"{report.stem}: {how}")
    green = not outcome["failed"] and outcome["passed"] > 0
    return {**outcome, "seconds": round(time.monotonic() - start), "green": green}


def share_command(number: int, of: int, expression: str, report: Path) -> list[str]:
    return [sys.executable, "-m", "bench.gpu", "--share", f"{number}/{of}", expression, str(report)]


def start_process(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """A process at the head of its own group, for what it starts to end with it."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], deadline: float) -> int | None:
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
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome["failed"].append(f"{case.get('classname')}::{case.get('name')}")
        elif skipped is not None:
            reason = skipped.get("message", "")
            outcome["skipped"][reason] = outcome["skipped"].get(reason, 0) + 1
        else:
            outcome["passed"] += 1


def sanitize_case(device: str = "cuda", items: int = 40, rankings: int = 2) -> int:
    """Every path of the kernels once, on a few items; 1 where a result is wrong."""
    from tests import device_checks as checks

    batch = checks.full_batch(0, rankings, items, "conflicting", share=0.4)
    try:
        for method in ("auto", "dp"):
            for dtype in (torch.float32, torch.float64):
                checks.check_losses(batch, "negative", device, dtype, method)
        checks.check_losses(batch, "positive", device, torch.float32)
        checks.check_metric(batch, device, torch.float64)
    except AssertionError as error:
        print(error)
        return 1
    return 0


def run(out: Path, *, skip_tests: bool, of_commit: str | None) -> int:
    start = time.monotonic()
    device = torch.device("cuda")
    where = about(device)
    where["versions"]["triton"] = triton.__version__
    where |= {"commit": of_commit or where["commit"], "capability": list(torch.cuda.get_device_capability(device))}
    facts: dict[str, Any] = {"tests": {"skipped": "by --skip-tests"}}
    print(where, flush=True)
    if not skip_tests:
        with tempfile.TemporaryDirectory() as folder:
            facts["tests"] = run_tests(start + TESTING, Path(folder))
    print(facts, flush=True)
    if not facts["tests"].get("green", True):
        print(f"red: no times were taken. {store.write(out, 'gpu', where, [], **facts)}")
        return 1
    rows: list[store.Row] = []
    facts["launches"] = count_launches(device)
    for case in CASES:
        rows += time_case(case, device, start + TOTAL)
        store.write(out, "gpu", where, rows, **facts)  # what there is, should the machine go
        print(*rows[-len(case.works) :], sep="\n", flush=True)
    facts["targets"] = judge(rows, facts["launches"])
    path = store.write(out, "gpu", where, rows, **facts)
    print(*(": ".join(each) for each in facts["targets"]), sep="\n")
    print(f"tests {'skipped' if skip_tests else 'green'}, {time.monotonic() - start:.0f} s, {path}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the CSV")
    parser.add_argument("--skip-tests", action="store_true", help="take times at once")
    parser.add_argument("--commit", help="what the CSV says where this is a copy without its history")
    parser.add_argument("--sanitize-case", action="store_true", help="run every kernel once, under compute-sanitizer")
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

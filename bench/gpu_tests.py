"""The tests of the GPU gate: in several processes at once, and a few under NVIDIA's sanitizers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import torch

from bench.environment import ROOT

SHARES = max(1, min(14, (os.cpu_count() or 1) - 1))  # processes of tests, which mostly compile
WRONG = 7  # exit status of a wrong result under a sanitizer
FOUND = 9  # and of a sanitizer that has found something


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

"""The GPU gate without a GPU: its cases run once, small, on an emulated one; its verdicts and files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bench import gpu, gpu_times, store
from bench.environment import ROOT
from tests import device_checks as checks
from tests.kernels import DEVICE

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.full
def test_checks_under_a_sanitizer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.sanitize_case(DEVICE, 5, 1) == 0
    monkeypatch.setattr(checks, "check_losses", mock.Mock(side_effect=AssertionError))
    assert gpu.sanitize_case(DEVICE, 5, 1) == 1


def tiny(case: gpu_times.Case) -> gpu_times.Case:
    return replace(case, rankings=min(case.rankings, 2), positives=2, negatives=4)


@pytest.mark.full
def test_every_work_is_timed_once_and_none_too_late() -> None:
    device, soon = torch.device(DEVICE), time.monotonic() + 3600
    seen: set[str] = set()
    with mock.patch.object(gpu_times, "REPEATS", (1, 1)):
        for case in gpu_times.CASES:
            once = replace(tiny(case), works=tuple(name for name in case.works if name not in seen))
            seen.update(once.works)
            for row in gpu_times.time_case(once, device, soon, 0.0):
                assert "error" not in row
                assert min(row["median"], row["GB/s"], row["repeats"]) > 0
                assert ("cells a second" in row) == row["work"].startswith("dp ")
    assert seen == set(gpu_times.WORKS)
    late = gpu_times.time_case(gpu_times.ONE_LONG, device, time.monotonic() - 1)
    assert [row["error"] for row in late] == ["TimeoutError: no time was left"] * len(gpu_times.ONE_LONG.works)


def test_no_figure_after_a_red_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"device": "some GPU", "type": "cuda", "cpu": "x", "versions": {"torch": "2"}, "commit": "", "date": "now"}
    monkeypatch.setattr(gpu, "about", lambda device: {**about, "versions": {"torch": "2"}})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "time_case", mock.Mock(side_effect=AssertionError))
    monkeypatch.setattr(gpu, "run_tests", lambda deadline, folder: {"green": False, "failed": ["a test"]})
    assert gpu.run(tmp_path, skip_tests=False, of_commit="abc") == 1
    (path,) = tmp_path.iterdir()
    kept = store.read(path)
    assert (kept.facts["tests"]["failed"], kept.rows) == (["a test"], [])


# Of what is installed here the gate must not need these; fastap itself among them.
SPARE = re.compile(
    r"(__editable__|fastap|hypothesis|sklearn|scikit_learn|tabulate|pytest_benchmark|matplotlib|scipy|tqdm)",
    re.IGNORECASE,
)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with pytest, NumPy, PyTorch and Triton, and without a GPU."""
    site = Path(sysconfig.get_paths()["purelib"])
    for path in site.iterdir():
        if not SPARE.match(path.name):
            (tmp_path / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.full
def test_the_gate_needs_no_more_than_it_says(bare: dict[str, str], tmp_path: Path) -> None:
    """Of a checkout that is not installed every GPU test is collected, and skipped for want of a device."""
    report = tmp_path / "report.xml"
    command = [sys.executable, "-S", "-m", "bench.gpu", "--share", "1/20", "gpu and not full", str(report)]
    done = subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    outcome: dict[str, Any] = {"passed": 0, "skipped": {}, "failed": []}
    gpu.read_report(report, outcome)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome["failed"] == []
    assert outcome["skipped"]["needs a CUDA device"] >= 10

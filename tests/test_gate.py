"""The GPU gate without a GPU: its checks and cases run once, tiny, in Triton's interpreter; its verdicts and files."""

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
from fastap.backends.triton import launch
from tests import device_checks as checks
from tests.kernels import DEVICE
from tests.losses import LOSSES

# NumPy warns of lanes that kernels mask; a GPU says nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in .*:RuntimeWarning")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.full
def test_checks_of_losses(name: str, dtype: torch.dtype) -> None:
    (batch,) = checks.padded_batches(7, 1, 12, 2)
    counts = checks.check_losses(batch, name, DEVICE, dtype)
    assert counts["problems"] == 2


@pytest.fixture
def one_program_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dynamic program of long rankings otherwise starts hundreds of programs, 20 s in the interpreter."""
    monkeypatch.setattr(launch, "_PROCESSORS", 0)


@pytest.mark.usefixtures("one_program_a_ranking")
@pytest.mark.full
def test_checks_of_the_dynamic_program() -> None:
    (batch,) = checks.padded_batches(8, 1, 6, 1)
    checks.check_losses(batch, "negative", DEVICE, torch.float32, "dp")
    checks.check_rankings(batch, "negative", DEVICE, torch.float32, "dp")


@pytest.mark.full
def test_checks_of_odd_rankings() -> None:
    batch = checks.odd_batch(6)
    counts = checks.check_losses(batch, "negative", DEVICE, torch.float32)
    assert counts["problems"] == 12
    assert counts["gradients"] >= 4
    checks.check_rankings(batch, "positive", DEVICE, torch.float32)
    checks.check_metric(batch, DEVICE, torch.float32)


@pytest.mark.usefixtures("one_program_a_ranking")
@pytest.mark.full
def test_checks_of_scores_far_apart() -> None:
    checks.check_far("perceptron", DEVICE, torch.float32, 6)
    checks.check_far("hinge", DEVICE, torch.float64, 6, ragged=True)
    checks.check_far("negative", DEVICE, torch.float64, 6, "dp")
    checks.check_far_ranking("positive", DEVICE, torch.float32, 6)


@pytest.mark.parametrize("update", ["positive", "negative"])
@pytest.mark.full
def test_checks_of_long_rankings(update: str) -> None:
    scores, targets = torch.randn(2, 20, dtype=torch.float64), torch.arange(40).view(2, 20) % 3 == 0
    checks.check_long(scores, targets, update, DEVICE)


@pytest.mark.full
def test_checks_of_zeros() -> None:
    checks.check_zeros(DEVICE, 5)


@pytest.mark.full
def test_checks_of_spoiled_rankings() -> None:
    checks.check_spoiled(LOSSES["positive"], DEVICE, 5)


@pytest.mark.full
def test_checks_of_axes() -> None:
    checks.check_axes(LOSSES["positive"], DEVICE, (2, 2, 2))


@pytest.mark.parametrize("view", [each for each in checks.VIEWS if each != "four axes"])  # 30 s; axes are above
@pytest.mark.full
def test_checks_of_views(view: str) -> None:
    checks.check_view(LOSSES["perceptron"], view, DEVICE, 4, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.full
def test_checks_of_repeated_calls(dtype: torch.dtype) -> None:
    checks.check_repeats("negative", checks.full_batch(0, 2, 8), DEVICE, dtype)


@pytest.mark.usefixtures("one_program_a_ranking")
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
    with mock.patch.object(gpu_times, "REPEATS", (1, 1)), mock.patch.object(launch, "_PROCESSORS", 0):
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

"""The GPU gate without a GPU: its checks and cases run once, tiny, in Triton's interpreter; its verdicts and files."""

from __future__ import annotations

import math
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

import fastap
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


def test_checks_of_zeros() -> None:
    checks.check_zeros(DEVICE, 5)


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


def test_a_work_that_fails_loses_no_other() -> None:
    def fail(scores: torch.Tensor, targets: torch.Tensor) -> None:
        raise ValueError("first line\nsecond line")

    works = {"broken": gpu_times.Work(fail, 9), "torch.sort": gpu_times.WORKS["torch.sort"]}
    with mock.patch.object(gpu_times, "WORKS", works):
        case = gpu_times.Case(1, 2, 3, ("broken", "torch.sort"))
        broken, sort = gpu_times.time_case(case, torch.device(DEVICE), math.inf, 0.0)
    assert broken["error"] == "ValueError: first line"
    assert sort["median"] > 0


@pytest.mark.parametrize("kind", ["gaussian", "cauchy"])
def test_inputs(kind: str) -> None:
    case = gpu_times.Case(3, 2, 5, (), kind)
    (first, targets), (second, _) = gpu_times.draw_inputs(case, torch.device("cpu"), 2)
    assert first.shape == targets.shape == (3, 7)
    assert (first.dtype, targets.dtype) == (torch.float32, torch.bool)
    assert targets.sum(1).tolist() == [2, 2, 2]
    assert not torch.equal(first, second)


# Microseconds that just meet every target.
REACHED = {
    gpu_times.ONE_LONG.name: {"torch.sort": 100, "positive": 150, "negative": 150, "sort_rows triton": 130},
    gpu_times.MULTI_LABEL.name: {"forward positive": 40, "forward negative": 40},
    gpu_times.RETRIEVAL.name: {"positive": 600, "negative": 600},
    gpu_times.FULL_BANDS.name: {"dp positive": 1, "dp negative": 1},
    gpu_times.MANY_LONG.name: {"torch.sort": 100, "sort_rows triton": 130},
}


def judged(slower: float, algorithm: str = "triton") -> list[tuple[str, str, str, str]]:
    """Verdicts where all that was to be fast takes this much longer."""
    rows = [
        {
            "case": case,
            "work": name,
            "median": us * 1e-6 * (1 if name == "torch.sort" else slower),
            "cells a second": 1e11 / slower,
        }
        for case, works in REACHED.items()
        for name, us in works.items()
    ]
    with mock.patch.object(gpu_times, "choose_algorithm", return_value=algorithm):
        return gpu_times.judge(rows, 1 if slower <= 1 else 2)


def test_targets_are_judged() -> None:
    assert {verdict for *_, verdict in judged(0.999)} == {"met"}
    assert {verdict for *_, verdict in judged(1.01)} == {"missed"}
    chosen = [what for what, _, _, verdict in judged(1.01, "torch") if verdict == "met"]
    assert chosen == ["Triton's sort, 1 x 1,010,000", "Triton's sort, 64 x 65,536"]
    nothing = gpu_times.judge([], "the profiler saw no kernels")
    assert {verdict for *_, verdict in nothing} == {"not measured"}
    assert len(nothing) == len(judged(1)) == 11


def test_no_figure_after_a_red_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"device": "some GPU", "type": "cuda", "cpu": "x", "versions": {"torch": "2"}, "commit": "", "date": "now"}
    monkeypatch.setattr(gpu, "about", lambda device: {**about, "versions": {"torch": "2"}})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "time_case", mock.Mock(side_effect=AssertionError))
    monkeypatch.setattr(gpu, "run_tests", lambda deadline, folder: {"green": False, "failed": ["a test"]})
    assert gpu.run(tmp_path, skip_tests=False, of_commit="abc") == 1
    (path,) = tmp_path.iterdir()
    kept = store.read(path)
    assert kept.facts["tests"]["failed"] == ["a test"]
    assert (path.name, kept.rows, kept.about["capability"]) == ("gpu-some-gpu-torch-2-abc.csv", [], [9, 0])

    monkeypatch.setattr(gpu, "run_tests", lambda deadline, folder: {"green": True})
    monkeypatch.setattr(gpu, "count_launches", lambda device: 1)
    monkeypatch.setattr(gpu, "time_case", lambda case, *_: [{"case": case.name, "work": "positive", "median": 1e-6}])
    assert gpu.run(tmp_path, skip_tests=False, of_commit="abc") == 0
    kept = store.read(path)
    assert {each[3] for each in kept.facts["targets"]} == {"met", "not measured"}
    assert [row["case"] for row in kept.rows] == [case.name for case in gpu_times.CASES]


def test_shares_of_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: one writes a report with a failure, the other does not end."""
    report = (
        '<testsuites><testsuite><testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two">'
        '<failure message="no"/></testcase><testcase classname="tests.a" name="three"><skipped message="no room"/>'
        "</testcase></testsuite></testsuites>"
    )

    def command(number: int, of: int, expression: str, path: Path) -> list[str]:
        if expression == "gpu and full":
            return ["sleep", "60"]
        path.write_text(report)
        return ["sh", "-c", "echo told; exit 1"]

    monkeypatch.setattr(gpu, "share_command", command)
    monkeypatch.setattr(gpu, "SHARES", 1)
    outcome = gpu.run_tests(time.monotonic() + 1.0, tmp_path)
    assert outcome["failed"] == ["tests.a::two", "and-0: ran out of time"]
    assert (outcome["passed"], outcome["skipped"], outcome["green"]) == (1, {"no room": 1}, False)


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


def on_bare_machine(bare: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_without_a_gpu_there_is_a_message(bare: dict[str, str], tmp_path: Path) -> None:
    done = on_bare_machine(bare, "-m", "bench.gpu", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == "bench.gpu needs a CUDA device, and PyTorch sees none here."
    assert not (tmp_path / "out").exists()


def test_gpu_tests_need_no_more_than_the_gate_does(bare: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = on_bare_machine(bare, "-m", "bench.gpu", "--share", "1/20", "gpu and not full", str(report))
    outcome: dict[str, Any] = {"passed": 0, "skipped": {}, "failed": []}
    gpu.read_report(report, outcome)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome["failed"] == []
    assert outcome["skipped"]["needs a CUDA device"] >= 10


def test_a_checkout_that_is_not_installed_has_version_and_kernels(bare: dict[str, str]) -> None:
    code = "import bench.gpu, fastap, fastap.kernels.sort as sort; print(fastap.__version__, sort.__file__, sep='\\n')"
    done = on_bare_machine(bare, "-c", code)
    assert done.stdout.splitlines() == [fastap.__version__, str(ROOT / "kernels" / "sort.py")], done.stderr

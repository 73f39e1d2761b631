"""The profiling command, as far as it goes without a GPU; see ``test_trace.py`` for what it reads from traces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import clock, one_call, plain, profile, profile_report, proton, trace, truth
from bench.cases import Case
from bench.environment import ROOT
from bench.launches import ENGINE, Launches, project_kernels
from bench.one_call import OneCall
from bench.trace import CALL, HOST, OUTSIDE, Event, OperatorBytes
from fastap.backends import native
from tests.kernels import interpreted, quiet
from tests.paths import solving
from tests.traces import cuda_call, span

pytestmark = quiet
SMALL = ["--rows", "3", "--items", "40", "--positives", "5", "--repeats", "4", "--device", "cpu"]


@contextmanager
def small_copies() -> Iterator[None]:
    with mock.patch.dict(clock.COPIED, {"cpu": 1 << 16}):
        yield


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """What is stored, and what is printed."""
    with small_copies():
        assert profile.main([*SMALL, *arguments, "--out", str(folder)]) == 0
    (path,) = folder.glob("profile-*.json")
    return json.loads(path.read_text()), capsys.readouterr().out


def test_a_cpu_is_profiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chrome, chart = tmp_path / "traces" / "chrome.json", tmp_path / "chart.png"
    options = ["--update", "negative", "--backend", "torch", "--method", "dp"]
    options += ["--trace", str(chrome), "--png", str(chart)]
    with solving("torch"):
        stored, printed = run(options, tmp_path, capsys)
    assert stored["call"] == {
        **{"rows": 3, "items": 40, "positives": 5, "loss": "direct", "update": "negative", "epsilon": 1.0},
        **{"method": "dp", "backend": "torch", "dtype": "float32", "kind": "gaussian", "device": "cpu"},
        **{"forward": False, "repeats": 4},
    }
    kernels = {each["name"]: each for each in stored["kernels"]}
    # The keys of both classes, among which positives look for their place; so short a batch is sorted by NumPy.
    assert kernels["aten::searchsorted"]["stage"] == "search"
    assert kernels["aten::searchsorted"]["launches"] >= 1
    assert kernels["aten::searchsorted"]["bytes"] >= 3 * 40 * 8
    assert kernels["aten::view"]["bytes"] is None
    busy = sum(each["seconds"] for name, each in kernels.items() if name != OUTSIDE)
    assert busy == pytest.approx(stored["busy"], rel=1e-3)  # ends are rounded to nanoseconds
    assert stored["busy"] + stored["gaps"] == pytest.approx(stored["profiled_wall"], rel=1e-6)
    for each in kernels.values():
        if each["bandwidth"] is not None:
            assert each["bandwidth"] == pytest.approx(each["bytes"] / each["seconds"])
            assert each["share"] == pytest.approx(each["bandwidth"] / stored["copy_bandwidth"])
    assert stored["cells"] == 3 * 5 * 36
    assert stored["cells_per_second"] == pytest.approx(stored["cells"] / stored["wall"])
    assert stored["peak_bytes"] > 3 * 40 * 4
    events = json.loads(chrome.read_text())["traceEvents"]
    assert sum(event["name"] == CALL for event in events) == 4
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "what follows are the operators of the CPU" in printed
    assert "540 cells" in printed
    assert "3 x 40, P = 5 against the dynamic program" in printed


def test_files_of_different_calls_have_different_names(tmp_path: Path) -> None:
    calls = [
        OneCall(3, 40, 5),
        OneCall(3, 40, 5, update="negative"),
        OneCall(3, 40, 5, epsilon=0.1),
        OneCall(3, 40, 5, loss="metric"),
        OneCall(3, 40, 5, method="dp", dtype="float16", kind="cauchy", backend="torch"),
        OneCall(3, 40, 5, forward=True),
        OneCall(3, 40, 6),
    ]
    about = {"device": "Some (R) CPU", "versions": {"torch": "2"}, "commit": "abc"}
    names = {profile.save({"about": about}, call, tmp_path).name for call in calls}
    assert len(names) == len(calls)
    assert "profile-3x40-p5-negative-some-r-cpu-torch-2-abc.json" in names


@pytest.mark.skipif(not native.IS_BUILT, reason="the engine in C was not built")
@pytest.mark.parametrize("loss", ["direct", "metric"])
def test_the_engine_is_a_row(loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored, printed = run(["--loss", loss], tmp_path, capsys)
    (engine,) = (each for each in stored["kernels"] if each["name"] == ENGINE)
    assert engine["launches"] == 1
    assert engine["bytes"] == 3 * 40 * (4 + 1 + (4 if loss == "direct" else 0))
    assert 0 < engine["seconds"] <= stored["busy"]
    if loss == "direct":
        assert set(stored["engine_stages"]) == set(native.STAGES)
        assert all(seconds >= 0 for seconds in stored["engine_stages"].values())
        assert "stages of the native engine" in printed
    else:
        assert stored["engine_stages"] is None


@pytest.mark.parametrize("options", [["--loss", "hinge", "--dtype", "float16"], ["--loss", "perceptron", "--forward"]])
def test_other_losses_and_types(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored, _ = run([*options, "--kind", "cauchy", "--backend", "torch", "--rows", "1"], tmp_path, capsys)
    assert stored["wall"] > 0
    assert stored["cells"] is None


@interpreted
@pytest.mark.parametrize("path", ["triton-short", "triton-long"])
def test_launches_of_triton_are_seen(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--rows", "2", "--items", "12", "--positives", "3", "--repeats", "1", "--backend", "triton"]
    with solving(path):
        stored, _ = run([*small, "--epsilon", "0.5"], tmp_path, capsys)
    kernels = {each["name"]: each for each in stored["kernels"]}
    assert kernels["reduce_losses"]["launches"] == 1
    assert kernels["reduce_losses"]["stage"] == "gradient"
    # Two float64 losses and the flags that tell who takes part in; the mean and each one's share of it out.
    assert kernels["reduce_losses"]["bytes"] == 2 * 8 + 2 * 1 + 2 * 4
    if path == "triton-short":
        one, per_positive = kernels["short_rankings"], (6 * 4 + 2 * 8) * 2 * 3
        assert one["launches"] == 1
        assert one["seconds"] > 0
        # Scores, targets, gradient, sorted scores, their order, prefix sums; losses and flags; work space.
        assert one["bytes"] == 2 * 12 * (4 + 1 + 4 + 8 + 4 + 8) + 2 * (8 + 1) + per_positive
    else:
        assert kernels["search_rankings"]["stage"] == "search"
        assert "short_rankings" not in kernels


def test_launches_are_seen_inside_only() -> None:
    kernels = project_kernels()
    runs = [kernel.run for kernel in kernels]
    with Launches() as launches:
        assert all("watched" in kernel.run.__qualname__ for kernel in kernels)
    assert [kernel.run for kernel in kernels] == runs
    assert launches.seen == {}


@pytest.mark.parametrize("loss", one_call.NAMES)
def test_a_wrong_result_ends_the_program(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = Case.forward

    def wrong(*inputs: Any, **options: Any) -> Tensor:
        return right(*inputs, **options) + 1e-3

    with mock.patch.object(Case, "forward", wrong), mock.patch.object(profile, "measure") as measured:
        assert profile.main([*SMALL, "--loss", loss, "--rows", "2"]) == 1
    measured.assert_not_called()
    assert "wrong result" in capsys.readouterr().err


@pytest.mark.parametrize("loss", one_call.NAMES)
@pytest.mark.parametrize("forward", [False, True])
def test_what_is_measured_is_what_is_checked(loss: str, forward: bool) -> None:
    """The mean of the losses that the check takes one by one, or its gradient."""
    call = OneCall(3, 40, 5, loss=loss, update="negative", epsilon=0.5, forward=forward)
    scores, targets = next(call.inputs())
    given = call.make(scores, targets)
    losses, gradient = truth.solve(call.case, scores, targets)
    assert given is not None
    if loss == "metric":
        np.testing.assert_array_equal(given, losses)
    elif forward:
        assert not given.requires_grad
        assert float(given) == pytest.approx(losses.mean(), rel=1e-6)
    else:
        np.testing.assert_allclose(given, gradient / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "checked"),
    [
        (OneCall(200, 100, 20), "200 x 100, P = 20 against the dynamic program"),
        (OneCall(4, 2000, 500), "1 x 1,264, P = 316 against the dynamic program; 2 rankings at full size"),
        (OneCall(1, 1, 1), "1 x 1, P = 1 against"),  # nothing to rank
        (OneCall(1, 30_000, 0, loss="metric"), "1 x 30,000, P = 0 against its definition"),
        (OneCall(1, 40, 5, dtype="float16", kind="cauchy"), "1 x 40, P = 5 against"),
        (OneCall(2, 40, 5, dtype="bfloat16", loss="hinge"), "2 x 40, P = 5 against"),
    ],
)
def test_what_is_checked_is_said(call: OneCall, checked: str) -> None:
    assert truth.assert_right(call.case).startswith(checked)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_gradient_in_half_precision_may_be_off_by_its_rounding_only(dtype: str) -> None:
    call, right = OneCall(1, 40, 5, dtype=dtype), truth.solve

    def off(*inputs: Any) -> Any:
        value, gradient = right(*inputs)
        return value, gradient * (1 + 3 * truth.HALF[dtype])

    with mock.patch.object(truth, "solve", off), pytest.raises(AssertionError, match="gradient"):
        truth.against_reference(call.case)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--positives", "2000"], "--positives must be from 0 to --items"),
        (["--repeats", "0"], "at least 1"),
        (["--loss", "metric", "--method", "dp"], "one method only"),
        (["--loss", "metric", "--backend", "torch"], "backend of its device"),
        (["--epsilon", "-1"], "epsilon must be finite and positive"),
        (["--device", "cpu", "--proton", "x.hatchet"], "--proton needs a CUDA device"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        profile.main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_proton_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs a CUDA device" in (proton.why_not(on_gpu=False) or "")
    monkeypatch.setattr(proton, "MODULE", "triton_without.profiler")
    assert "needs triton_without.profiler, and there is none" in (proton.why_not(on_gpu=True) or "")
    monkeypatch.setattr(proton, "MODULE", "json.decoder")
    assert proton.why_not(on_gpu=True) is None


FAKE = """
from contextlib import contextmanager
from pathlib import Path
told = []
def start(name, hook):
    if name.endswith("no"):
        raise RuntimeError("CUPTI has a subscriber")
    told.append(f"{name} {hook}")
    return 7
@contextmanager
def scope(name):
    told.append(name)
    yield
def finalize(session):
    assert session == 7
    Path(told[0].split()[0] + ".hatchet").write_text("\\n".join(told))
"""


def test_proton_sees_every_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, which is really started here."""
    (tmp_path / "fake_proton.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(proton, "MODULE", "fake_proton")
    written, why = proton.write(OneCall(2, 20, 4), 3, tmp_path / "p.hatchet")
    assert (written, why) == (tmp_path / "p.hatchet", "")
    assert written.read_text().splitlines() == [f"{tmp_path / 'p'} triton", proton.WARM_UP, *[CALL] * 3]
    assert "fake_proton" not in sys.modules
    (tmp_path / "no.hatchet").write_text("of an earlier run")
    assert proton.write(OneCall(2, 20, 4), 3, tmp_path / "no") == (
        tmp_path / "no.hatchet",
        "Proton failed: RuntimeError: CUPTI has a subscriber",
    )
    assert not (tmp_path / "no.hatchet").exists()


def test_proton_may_fail_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proton, "why_not", lambda **_: None)
    monkeypatch.setattr(proton, "MODULE", "triton_without.profiler")
    with small_copies():
        assert profile.main([*SMALL, "--out", str(tmp_path), "--proton", str(tmp_path / "p")]) == 3
    told = capsys.readouterr()
    assert "wall time of a call" in told.out
    assert "no Proton profile: Proton failed: ModuleNotFoundError" in told.err
    (stored,) = tmp_path.glob("profile-*.json")
    assert json.loads(stored.read_text())["wall"] > 0


def test_pytorch_is_enough(tmp_path: Path) -> None:
    """Without tabulate, tqdm and matplotlib there are figures and a plain table, no bar, and no picture."""
    missing = "import sys; sys.modules.update(dict.fromkeys(('tabulate', 'tqdm', 'matplotlib')))"
    program = f"{missing}; from bench import clock, profile; clock.COPIED['cpu'] = 1 << 16; sys.exit(profile.main())"
    command = [sys.executable, "-c", program, *SMALL, "--out", str(tmp_path), "--png", str(tmp_path / "chart.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("no picture: ")
    (heads,) = (line for line in done.stdout.splitlines() if line.startswith("operator"))
    assert " ".join(heads.split()) == "operator stage us a call of busy launches a call MB moved GB/s of a copy"
    assert len(list(tmp_path.glob("profile-*.json"))) == 1
    assert not (tmp_path / "chart.png").exists()


def test_the_plain_table_says_what_tabulate_does() -> None:
    tabulate = pytest.importorskip("tabulate").tabulate
    rows, heads = [["a long name", "1.5"], ["b", "1,000.0"]], ["what", "us"]
    options = {"disable_numparse": True, "colalign": ("left", "right")}
    found, expected = plain.plain_table(rows, heads, **options), tabulate(rows, heads, **options)
    assert [line.split() for line in found.splitlines()[::2]] == [line.split() for line in expected.splitlines()[::2]]
    assert len({len(found.splitlines()[line]) for line in (0, 2, 3)}) == 1, "the right column ends at one place"


def test_a_copy_on_a_gpu_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two events, with the host waiting for the last one."""
    done: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("recorded")

        def synchronize(self) -> None:
            done.append("waited")

        def elapsed_time(self, _: Any) -> float:
            return 4.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: done.append("idle"))
    assert clock.seconds_on(torch.device("cuda"), lambda: done.append("copied")) == 4e-3
    assert done == ["idle", "recorded", "copied", "recorded", "waited"]


def test_several_copies_are_several_times_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    monkeypatch.setattr(clock, "COPIED", {"cpu": 1000})
    monkeypatch.setattr(clock, "COPIES", {"cpu": 8})
    monkeypatch.setattr(clock, "_copy", lambda _source, _target, number: copies.append(number))
    monkeypatch.setattr(clock, "seconds_on", lambda _, call: call() or 2.0)
    assert clock.Machine("cpu").copy_bandwidth(3) == 2 * 1000 * 8 / 2.0
    assert copies == [8] * 4


@pytest.mark.parametrize(
    ("where", "profiled", "name", "threads", "says"),
    [
        ("cpu", 1.6e-3, ENGINE, 2, ("1.6 times as long", "several threads")),
        ("cpu", 1.6e-3, ENGINE, 1, ("1.6 times as long",)),
        ("cpu", 1.6e-3, "aten::sort", 2, ("1.6 times as long",)),
        ("cpu", 1.1e-3, ENGINE, 2, ()),
        ("cuda", 1.6e-3, "encode_items", 2, ()),
    ],
)
def test_rows_of_slower_calls_are_said_to_be(
    where: str, profiled: float, name: str, threads: int, says: tuple[str, ...]
) -> None:
    result = {
        "about": {"type": where, "threads": threads},
        "wall": 1e-3,
        "profiled_wall": profiled,
        "kernels": [{"name": name}],
    }
    note = profile.slowed(result)
    assert all(each in note for each in says)
    assert bool(note) == bool(says)
    assert ("threads" in note) == (len(says) == 2)


def gpu_result(events: list[Event]) -> dict[str, Any]:
    step = trace.mean_step(trace.steps(events, on_gpu=True))
    trace.add_bytes(step.rows, {}, {"encode_items": OperatorBytes(3000, 1, 1)}, on_gpu=True)
    return {
        "about": {"type": "cuda"},
        "kernels": profile.kernels_of(step, 1e9),
        **{"wall": 2e-4, "host": 7e-5, "peak_bytes": 3 << 20, "copy_bandwidth": 1e9, "engine_stages": None},
        **{"busy": step.busy, "gaps": step.gaps, "profiled_wall": step.wall, "profiled_host": step.host},
        **{"launches": sum(row.launches for row in step.rows.values()), "cells": 10**6, "cells_per_second": 5e9},
    }


def test_the_table_of_a_gpu(tmp_path: Path) -> None:
    result = gpu_result(cuda_call(0, 100))
    lines = profile_report.show(result, top=2).splitlines()
    assert lines[0].split()[0] == "kernel"
    assert lines[2].split() == ["radixSortKVInPlace", "sort", "40.0", "36.4%", "1"]  # bytes unknown, cells empty
    assert lines[3].split() == ["encode_items", "sort", "30.0", "27.3%", "1", "0.003", "0.10", "10.0%"]
    assert lines[4].split() == ["3", "others", "50.0", "45.5%", "3"]
    told = dict(line.split("  ", 1) for line in lines[6:])
    assert {name: value.strip() for name, value in told.items()} == {
        "wall time of a call": "200.0 us; under the profiler 160.0 us",
        "busy time": "110.0 us in kernels",
        "gaps": "30.0 us between kernels",
        "host time": "70.0 us; under the profiler 60.0 us",
        "launches": "5 kernels, copies and fills a call",
        "peak memory": "3.00 MiB beyond the inputs",
        "copy bandwidth": "1.00 GB/s, read and written",
        "dynamic program": "1,000,000 cells, 5e+09 a second of wall time",
    }
    profile_report.draw_chart(result, "title", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000


def test_a_profiler_that_saw_nothing_is_not_taken_for_an_idle_gpu(tmp_path: Path) -> None:
    result = gpu_result([span("user_annotation", CALL, 0, 9), span("user_annotation", HOST, 0, 5)])
    assert result["kernels"] == []
    assert "saw no kernels" in profile_report.show(result, top=20)
    profile_report.draw_chart(result, "title", tmp_path / "chart.png")

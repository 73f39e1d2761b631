"""The profiling command, as far as it goes without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.autograd import DeviceType

from bench import clock, profile
from bench.cases import Case
from bench.inputs import Shape
from fastap.backends import native

SMALL = ["--rows", "3", "--items", "40", "--positives", "5", "--repeats", "4", "--device", "cpu"]


@pytest.mark.parametrize("loss", profile.LOSSES)
def test_a_cpu_is_profiled(loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chrome = tmp_path / "traces" / "chrome.json"
    assert profile.main([*SMALL, "--loss", loss, "--update", "negative", "--trace", str(chrome)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 x 40, P = 5, ")
    assert "checked: 3 x 40, P = 5 against " in printed
    assert profile.OUTSIDE in printed
    assert "normal_" not in printed  # drawing the scores is no part of a call
    assert all(f"{name} " in printed for name in ("wall", "host", "under the profiler", "in rows", "peak memory"))
    assert ("stages of the engine" in printed) == (loss == "direct" and native.IS_BUILT)
    events = json.loads(chrome.read_text())["traceEvents"]
    assert sum(event["name"] == profile.CALL for event in events) == 4


def test_rows_add_up() -> None:
    whole, rows = profile.measure(Case(Shape(3, 5, 35)), 4)
    assert min(whole.values()) >= 0
    assert whole["in rows"] <= 1.01 * whole["under the profiler"]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds, reverse=True)


def event(name: str, start: float, end: float, seconds: float, kind: DeviceType = DeviceType.CPU) -> Any:
    """Microseconds, as PyTorch's profiler tells them."""
    span = SimpleNamespace(start=start, end=end)
    own = {"self_cpu_time_total": seconds, "self_device_time_total": seconds}
    return SimpleNamespace(name=name, time_range=span, device_type=kind, **own)


def test_kernels_of_calls_count_and_nothing_between_them() -> None:
    cuda = DeviceType.CUDA
    events = [
        event(profile.CALL, 100, 200, 30),
        event(profile.CALL, 100, 200, 30, cuda),  # the annotation once more, as a GPU's
        event(profile.CALL, 300, 420, 30),
        event("fill", 90, 99, 9, cuda),  # flushes the cache
        event("sort", 120, 160, 40, cuda),
        event("sort", 320, 360, 40, cuda),
        event("search", 165, 175, 10, cuda),
        event("aten::sort", 110, 119, 9),
    ]
    wall, rows = profile.rows_of(events, 2, on_gpu=True)
    assert wall == pytest.approx(110e-6)
    assert [(row["name"], row["launches"]) for row in rows] == [("sort", 1.0), ("search", 0.5)]
    assert [row["seconds"] for row in rows] == pytest.approx([40e-6, 5e-6])
    _, rows = profile.rows_of(events, 2, on_gpu=False)
    assert [row["name"] for row in rows] == [profile.OUTSIDE, "aten::sort"]
    assert [row["seconds"] for row in rows] == pytest.approx([30e-6, 4.5e-6])


@pytest.mark.parametrize("loss", profile.LOSSES)
def test_a_wrong_result_ends_the_program(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = Case.forward

    def wrong(*inputs: Any, **options: Any) -> Tensor:
        return right(*inputs, **options) + 1e-3

    with mock.patch.object(Case, "forward", wrong), mock.patch.object(profile, "measure") as measured:
        assert profile.main([*SMALL, "--loss", loss, "--rows", "2"]) == 1
    measured.assert_not_called()
    assert "wrong result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--positives", "2000"], "--positives must be from 0 to --items"),
        (["--repeats", "0"], "at least 1"),
        (["--loss", "metric", "--method", "dp"], "one method only"),
        (["--epsilon", "-1"], "epsilon must be finite and positive"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        profile.main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_call_on_a_gpu_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two events, with the host waiting for the last one, after a spin in which the call is queued."""
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
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append(f"spun {cycles}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: done.append("idle"))
    assert clock.seconds_on(torch.device("cuda"), lambda: done.append("called"), spin=1e-6) == 4e-3
    assert done == ["idle", "spun 2000", "recorded", "called", "recorded", "waited"]

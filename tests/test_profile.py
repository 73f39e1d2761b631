"""The profiling command, as far as it goes without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from bench import host, measures, profile
from bench.cases import Case
from fastap.backends import native

SMALL = ["--rows", "3", "--items", "40", "--positives", "5", "--repeats", "4", "--device", "cpu"]


@pytest.mark.parametrize("loss", ["direct", "metric"])
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


def test_a_wrong_result_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    right = Case.forward

    def wrong(*inputs: Any, **options: Any) -> Tensor:
        return right(*inputs, **options) + 1e-3

    with mock.patch.object(Case, "forward", wrong), mock.patch.object(profile, "measure") as measured:
        assert profile.main(SMALL) == 1
    measured.assert_not_called()
    assert "wrong result" in capsys.readouterr().err


def test_a_gpu_is_emulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "kernels.png"
    shape = ["--emulate", "--rows", "1", "--items", "5001", "--positives", "9"]
    assert profile.main([*shape, "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "an H100, estimated" in printed
    assert all(name in printed for name in ("encode_items", "search_rankings", "write_items", "allocations"))
    assert picture.stat().st_size > 1000
    for wrong in (["--loss", "metric"], ["--repeats", "3"], ["--backend", "native"]):
        with pytest.raises(SystemExit):
            profile.main([*shape, *wrong])
    with pytest.raises(SystemExit):
        profile.main(["--picture", str(picture)])


def test_the_host_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ROUNDS", 1)
    monkeypatch.setattr(host, "CALLS", 1)
    monkeypatch.setattr(host, "SHAPES", ((1, 1_000_000),))
    monkeypatch.setattr(host, "UPDATES", ("positive",))
    ((shape, update, launches, allocations, inner, whole),) = host.rows()
    assert (shape, update, launches, allocations) == ("1 x 1,000,000", "positive", "10", "8")
    assert all("(" in each for each in (inner, whole))


def test_measures_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "ROUNDS", 1)
    monkeypatch.setattr(measures, "CASES", ((10, 100, {"measure": "ndcg", "k": 3}), (10, 10, {"measure": "auc"})))
    (first, second) = measures.rows()
    assert first[:3] == ["10 + 100", "ndcg", "3"]
    assert second[:3] == ["10 + 10", "auc", ""]
    assert all("(" in cell for cell in (*first[3:], *second[3:]))

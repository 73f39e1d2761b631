"""The profiling command, as far as it goes without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from bench import profile
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

"""The tuning command, as far as it goes without a GPU: candidates are launched, compared and printed."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

from bench import tune
from fastap.backends.triton import launch
from tests.kernels import DEVICE

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
TINY = launch.Tiles(rows=16, search_rows=4, pieces=8, columns=16, num_warps=1, max_registers=None)


def test_every_candidate_is_timed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def tiny(num_warps: int, nvidia: bool) -> launch.Tiles:
        return replace(TINY, rows=16 * num_warps, columns=16 * num_warps)

    with (
        mock.patch.object(tune, "median_seconds", return_value=42e-6),
        mock.patch.object(launch, "tiles_for", tiny),
    ):
        tune.tune((1, 9, 3), "positive", "auto", DEVICE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 x 9, 3 positives, positive update, method auto"
    assert len(lines) == 1 + 1 + 3  # the present launch, and 1, 2 and 4 warps for rows of up to 128
    assert all("42.0 us  ShortLaunch(" in line for line in lines[1:])


def test_a_candidate_with_another_result_is_not_timed() -> None:
    present = launch.SHORT[True][128]
    results = iter([torch.tensor(1.0), torch.tensor(2.0)])
    with mock.patch.object(tune, "median_seconds") as timed:
        assert tune.seconds(lambda: next(results), present, present) is None
    timed.assert_not_called()


def test_a_candidate_that_fails_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    present = launch.SHORT[True][128]
    results = iter([torch.tensor(1.0)])
    with mock.patch.object(tune, "median_seconds") as timed:
        assert tune.seconds(lambda: next(results), present, present) is None
    timed.assert_not_called()
    assert "StopIteration" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch("sys.argv", ["tune"]):
        assert tune.main() == 2
    assert "needs a CUDA device" in capsys.readouterr().err

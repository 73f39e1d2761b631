"""The suites: a wrong result gives no time, and the truth that they are held to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fastap
from bench import store, truth
from bench.cases import WORKS, Case
from bench.environment import ROOT
from bench.inputs import Shape

LONG = Shape(1, 250, 25_000)  # more than is compared with the dynamic program as it is


def test_a_wrong_result_gives_no_time(tmp_path: Path) -> None:
    """In a quick run in a process of its own."""
    pytest.importorskip("pytest_benchmark", reason="the suites need pytest-benchmark")
    (tmp_path / "off.py").write_text(
        "import fastap\n"
        "right = fastap.ap_hinge_loss\n"
        "fastap.ap_hinge_loss = lambda *inputs, **options: right(*inputs, **options) * 1.00001\n"
    )
    options = ("--quick", "--bench-threads=1", f"--out={tmp_path}", f"--benchmark-storage={tmp_path}", "-p", "off")
    chosen = ("bench", "-k", "growth and 1e2 and (hinge or positive)")
    # Beside pytest-xdist, whose workers tell by these that they are some, pytest-benchmark measures nothing.
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *chosen],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**others, "PYTHONPATH": str(tmp_path)},
    )
    (stored,) = [store.read(path) for path in tmp_path.glob("suites-*.csv")]
    assert done.returncode == 1
    assert "loss, row 0" in done.stdout
    assert [row["work"] for row in stored.rows] == ["positive"]


class Bent(torch.autograd.Function):
    """The identity, but for the gradient, of which one item's is lost."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, incoming: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        bent = incoming.clone()
        bent.view(-1)[incoming.abs().argmax()] = 0.0
        return bent


NAMES = {"hinge": "ap_hinge_loss", "perceptron": "ap_perceptron_loss", "metric": "average_precision"}


@pytest.mark.parametrize("work", WORKS)
def test_values_and_gradients_are_checked(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    case = Case(Shape(1, 30, 300), work=work)
    assert truth.assert_right(case)
    name = NAMES.get(work, "direct_ap_loss")
    right = getattr(fastap, name)
    if work != "metric":
        monkeypatch.setattr(fastap, name, lambda scores, *rest, **options: right(Bent.apply(scores), *rest, **options))
        with pytest.raises(AssertionError, match="gradient"):
            truth.against_reference(case)
    monkeypatch.setattr(fastap, name, lambda *inputs, **options: right(*inputs, **options) + 1e-5)
    with pytest.raises(AssertionError):
        truth.against_reference(case)

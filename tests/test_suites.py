"""The suites: what their files say, that a wrong result gives no time, and the truth they are held to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastap
from bench import pairs, store, truth
from bench.cases import WORKS, Case
from bench.environment import ROOT
from bench.inputs import Shape
from fastap.backends import native, reference
from tests.problems import KINDS, draw

LONG = Shape(1, 250, 25_000)  # more than is compared with the dynamic program as it is


def run_suites(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[store.Result]]:
    """A quick run in a process of its own, and its file."""
    pytest.importorskip("pytest_benchmark", reason="the suites need pytest-benchmark")
    options = ("--quick", "--bench-threads=1", f"--out={folder}", f"--benchmark-storage={folder}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *arguments]
    # Beside pytest-xdist, whose workers tell by these that they are some, pytest-benchmark measures nothing.
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = {**others, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    return done, [store.read(path) for path in folder.glob("suites-*.csv")]


@pytest.mark.full
def test_what_a_run_keeps(tmp_path: Path) -> None:
    chosen = "(growth and 1e3) or (stages and auto and negative) or (batches and multi-label and metric)"
    done, (stored,) = run_suites(tmp_path, "bench", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"device", "type", "cpu", "threads", "versions", "commit", "date"} <= stored.about.keys()
    for row in stored.rows:
        assert row["threads"] == stored.about["threads"] == 1
        assert row["seconds"]["rounds"] >= 3
        assert 0 < row["seconds"]["q1"] <= row["seconds"]["median"] <= row["seconds"]["q3"]
        for quantiles in (row["sort"], row["ratio"]):
            assert 0 < quantiles["p10"] <= quantiles["median"] <= quantiles["p90"]
        assert "against" in row["checked"]
    growth = {row["work"]: row for row in stored.suite("growth")}
    assert set(growth) == set(WORKS)
    expected = {"rankings": 1, "P": 10, "N": 990, "kind": "gaussian", "epsilon": 1, "dtype": "float32", "dim": -1}
    expected |= {"backend": "auto", "method": "auto", "direction": "both"}
    assert expected.items() <= growth["positive"].items()
    assert {row["dim"] for row in stored.suite("batches")} == {0}
    for row in stored.suite("stages"):
        assert set(row["stages"]) == set(native.STAGES)
    assert len(stored.suite("stages")) == (3 if native.IS_BUILT else 0)


def test_a_wrong_result_gives_no_time(tmp_path: Path) -> None:
    (tmp_path / "off.py").write_text(
        "import fastap\n"
        "right = fastap.ap_hinge_loss\n"
        "fastap.ap_hinge_loss = lambda *inputs, **options: right(*inputs, **options) * 1.00001\n"
    )
    done, (stored,) = run_suites(tmp_path, "-p", "off", "bench", "-k", "growth and 1e2 and (hinge or positive)")
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


@pytest.mark.parametrize("check", [truth.against_reference, truth.at_full_size])
@pytest.mark.parametrize("work", WORKS)
def test_values_and_gradients_are_checked(
    monkeypatch: pytest.MonkeyPatch, work: str, check: Callable[[Case], Any]
) -> None:
    case = Case(LONG if check is truth.at_full_size else Shape(1, 30, 300), work=work)
    assert truth.assert_right(case)
    name = NAMES.get(work, "direct_ap_loss")
    right = getattr(fastap, name)
    if work != "metric":
        monkeypatch.setattr(fastap, name, lambda scores, *rest, **options: right(Bent.apply(scores), *rest, **options))
        with pytest.raises(AssertionError, match="gradient"):
            check(case)
    monkeypatch.setattr(fastap, name, lambda *inputs, **options: right(*inputs, **options) + 1e-5)
    with pytest.raises(AssertionError):
        check(case)


def test_rounds_pair_work_with_its_own_sort() -> None:
    found = pairs.summary([1.0, 2.0, 4.0], [2.0, 4.0, 12.0])
    assert found["ratio"] == {"median": 2.0, "p10": 2.0, "p90": pytest.approx(2.8)}
    assert found["sort"]["median"] == 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_agrees_with_the_oracle(kind: str) -> None:
    """F, 1 - AP and AP in O(n log n) as the oracle has them from all pairs, equal scores included."""
    score, labels = draw(np.random.default_rng(1), kind, 12, 40)
    target = labels == 1
    for order in (np.argsort(-score), np.argsort(~target), np.random.default_rng(0).permutation(52)):
        value, task_loss = truth.evaluate(score, target, order)
        np.testing.assert_allclose(value, reference.ranking_score(score, target, order), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(task_loss, 1 - reference.ap_of_order(target[order]), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        truth.average_precision(score, target), reference.plain_average_precision(score, target), rtol=1e-12
    )

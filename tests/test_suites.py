"""The suites: what their files say, that a wrong result gives no time, and the truth they are held to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastap
from bench import cases, pairs, store, truth
from bench.cases import WORKS, Case, peak_bytes, stage_seconds
from bench.environment import ROOT
from bench.inputs import Shape, cut, shrink, with_ratio
from fastap.backends import native


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


def test_what_a_run_keeps(tmp_path: Path) -> None:
    chosen = "(growth and 1e3) or (batches and multi-label and metric)"
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


def test_a_gradient_in_half_precision_may_be_off_by_its_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    right = truth.solve
    for dtype, rounding in truth.HALF.items():
        case = Case(Shape(1, 5, 35), dtype=dtype)
        assert truth.assert_right(case)
        off = lambda *inputs, by=1 + 3 * rounding: (right(*inputs)[0], right(*inputs)[1] * by)  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr(truth, "solve", off)
            with pytest.raises(AssertionError, match="gradient"):
                truth.against_reference(case)


@pytest.mark.skipif(not native.IS_BUILT, reason="installed without a C compiler")
@pytest.mark.parametrize("method", ["auto", "dp"])
def test_stages_are_those_of_the_engine(method: str) -> None:
    found = stage_seconds(Case(Shape(2, 30, 300), method=method), repeats=2)
    assert tuple(found) == native.STAGES
    assert min(found.values()) >= 0
    assert sum(found.values()) > 0


def test_rounds_pair_work_with_its_own_sort() -> None:
    found = pairs.summary([1.0, 2.0, 4.0], [2.0, 4.0, 12.0])
    assert found["ratio"] == {"median": 2.0, "p10": 2.0, "p90": pytest.approx(2.8)}
    assert found["sort"]["median"] == 2.0


@pytest.mark.parametrize(
    ("pair", "rounds"), [(1e-5, pairs.MOST), (0.01, 50), (0.04, 30), (0.2, 5), (0.9, 5), (1.0, 7), (30.0, 7)]
)
def test_rounds_adapt(pair: float, rounds: int) -> None:
    assert pairs.rounds_for(pair, seconds=0.5, least=5) == rounds


def test_the_sort_goes_first_and_last_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same fresh scores as the work."""
    done: list[tuple[str, Any]] = []
    right = torch.sort

    def sorting(scores: torch.Tensor, **options: Any) -> Any:
        assert not scores.requires_grad
        done.append(("sort", scores.tolist()))
        return right(scores, **options)

    def prepare(scores: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
        scores.requires_grad_()
        return lambda: done.append(("work", scores.tolist()))

    monkeypatch.setattr(torch, "sort", sorting)
    rounds = pairs.Pairs(Case(Shape(1, 10, 90)), prepare)
    rounds.warm_up()
    assert rounds.sorts == []
    done.clear()
    for _ in range(4):
        (job,), _ = rounds.set_up()
        rounds.run(job)
        rounds.tear_down(job)
    assert [name for name, _ in done] == ["sort", "work", "work", "sort"] * 2
    scores = [tuple(each) for _, each in done]
    assert scores[::2] == scores[1::2]
    assert len(set(scores)) == len(rounds.sorts) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_is_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some arrays of 4 and 8 bytes a score; of one that hangs nobody waits."""
    case = Case(with_ratio(400_000))
    found = peak_bytes(case)
    assert found is not None
    assert 8 < found / case.shape.scores < 160
    monkeypatch.setattr(cases, "WEIGHING_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"out of time: more than 0\.01 s"):
        peak_bytes(Case(with_ratio(1_000)))


def test_a_round_on_cuda_ends_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what was queued before nor what is still running at its end falls out of its time."""
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: events.append("waited"))
    case = Case(Shape(1, 10, 90), device="cuda")
    monkeypatch.setattr(Case, "inputs", lambda self: iter([(torch.zeros(100), torch.zeros(100) > 0)]))
    rounds = pairs.Pairs(case, lambda *_: lambda: events.append("worked"))
    (job,), _ = rounds.set_up()
    assert events[-1] == "waited"
    events.clear()
    rounds.run(job)
    assert events == ["worked", "waited"]


def test_shapes() -> None:
    assert with_ratio(101_000) == Shape(1, 1_000, 100_000)
    assert with_ratio(100_000, 1, 1) == Shape(1, 50_000, 50_000)
    assert shrink(Shape(4096, 20, 980)) == Shape(8, 20, 980)
    assert shrink(Shape(1, 10_000, 90_000)) == Shape(1, 200, 1_800)
    for shape in (Shape(4096, 20, 980), Shape(1, 10_000, 1_000_000), Shape(1, 50_000, 50_000), Shape(1, 1, 9)):
        small = cut(shape, truth.CUT_CELLS, truth.CUT_NEGATIVES)
        assert small.rankings * small.positives * (small.negatives + 1) <= truth.CUT_CELLS
        assert small.negatives <= truth.CUT_NEGATIVES
    scores, targets = next(Case(Shape(3, 2, 5), dim=0).inputs())
    assert scores.shape == targets.shape == (7, 3)
    assert targets.sum(0).tolist() == [2, 2, 2]

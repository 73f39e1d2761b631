"""The suites: what their files say, that a wrong result gives no time, and the truth they are held to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastap.backends.torch import augment, layout, outcome, rowsearch

import fastap
from bench import cases, pairs, stages, truth
from bench.cases import LOSSES, WORKS, Case, cut, peak_bytes, shrink, with_ratio
from bench.environment import ROOT
from bench.inputs import Shape
from fastap.backends import native, reference
from tests.problems import KINDS, draw

LONG = Shape(1, 250, 25_000)  # more than is compared with the dynamic program as it is


def run_suites(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A quick run in a process of its own, and its JSON."""
    pytest.importorskip("pytest_benchmark", reason="the suites need pytest-benchmark")
    stored = folder / "suites.json"
    options = ("--quick", "--bench-threads=1", f"--benchmark-json={stored}", f"--benchmark-storage={folder}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    return done, json.loads(stored.read_text()) if stored.exists() else {}


def test_what_a_run_keeps(tmp_path: Path) -> None:
    chosen = "(growth and 1e3) or (stages and 1000+10000-auto and negative) or (batches and multi-label and metric)"
    done, stored = run_suites(tmp_path, "bench", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    about = stored["machine_info"]["fastap"]
    assert {"device", "type", "cpu", "threads", "versions", "commit", "date"} <= about.keys()
    found = {each["fullname"]: each for each in stored["benchmarks"]}
    for name, each in found.items():
        extra, stats = each["extra_info"], each["stats"]
        assert "data" not in stats, name
        assert each["group"].startswith(extra["suite"] + ": ")
        assert extra["scores"] == extra["rankings"] * (extra["P"] + extra["N"])
        assert extra["threads"] == about["threads"] == 1
        assert stats["rounds"] == extra["ratio"]["rounds"] >= 3
        assert extra["ratio_to_sort"] == extra["ratio"]["median"]
        for quantiles in (extra["sort"], extra["ratio"]):
            assert 0 < quantiles["p10"] <= quantiles["median"] <= quantiles["p90"]
        assert "against" in extra["checked"]
    growth = found["bench/bench_growth.py::test_growth[1e3-positive]"]
    assert growth["params"] == {"scores": 1000, "work": "positive"}
    expected = {"P": 10, "N": 990, "kind": "gaussian", "epsilon": 1.0, "dtype": "float32", "device": "cpu"}
    expected |= {"backend": "auto", "method": "auto", "work": "positive", "suite": "growth", "direction": "both"}
    assert expected.items() <= growth["extra_info"].items()
    works = {each["extra_info"]["work"] for each in found.values() if each["extra_info"]["suite"] == "growth"}
    assert works == set(WORKS)
    parts = [each["extra_info"] for each in found.values() if each["extra_info"]["suite"] == "stages"]
    assert {(each["backend"], each["work"], each["update"]) for each in parts} == {
        (backend, stage, "negative")
        for backend in ("torch", *(["native"] if native.IS_BUILT else []))
        for stage in ("sort", "rows", "search", "repair", "gradient", "whole")
    }
    assert {each["extra_info"]["dim"] for each in found.values()} == {0, -1}


def test_a_wrong_result_gives_no_time(tmp_path: Path) -> None:
    (tmp_path / "off.py").write_text(
        "import fastap\n"
        "right = fastap.ap_hinge_loss\n"
        "fastap.ap_hinge_loss = lambda *inputs, **options: right(*inputs, **options) * 1.00001\n"
    )
    done, stored = run_suites(tmp_path, "-p", "off", "bench/bench_growth.py", "-k", "1e2 and (hinge or positive)")
    assert done.returncode == 1
    assert "loss, row 0" in done.stdout
    assert [each["name"] for each in stored["benchmarks"]] == ["test_growth[1e2-positive]"]


def changed(name: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
    right = getattr(fastap, name)
    return lambda *inputs, **options: change(right(*inputs, **options))


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


@pytest.mark.parametrize("shape", [Shape(1, 30, 300), LONG], ids=str)
@pytest.mark.parametrize("work", WORKS)
def test_values_are_checked(monkeypatch: pytest.MonkeyPatch, work: str, shape: Shape) -> None:
    case = Case(shape, work=work)
    assert truth.assert_right(case)
    names = {"hinge": "ap_hinge_loss", "perceptron": "ap_perceptron_loss", "metric": "average_precision"}
    name = names.get(work, "direct_ap_loss")
    monkeypatch.setattr(fastap, name, changed(name, lambda value: value + 1e-5))
    check = truth.against_reference if shape is not LONG else truth.at_full_size
    with pytest.raises(AssertionError):
        check(case)


@pytest.mark.parametrize("shape", [Shape(1, 30, 300), LONG], ids=str)
@pytest.mark.parametrize("work", LOSSES)
def test_gradients_are_checked(monkeypatch: pytest.MonkeyPatch, work: str, shape: Shape) -> None:
    name = {"hinge": "ap_hinge_loss", "perceptron": "ap_perceptron_loss"}.get(work, "direct_ap_loss")
    right = getattr(fastap, name)

    def bent(scores: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        loss: torch.Tensor = right(
            scores if options["backend"] == "reference" else Bent.apply(scores), *inputs, **options
        )
        return loss

    monkeypatch.setattr(fastap, name, bent)
    check = truth.against_reference if shape is not LONG else truth.at_full_size
    with pytest.raises(AssertionError, match="gradient"):
        check(Case(shape, work=work))


@pytest.mark.parametrize("work", ["positive", "negative", "hinge"])
def test_rankings_are_checked_at_full_size(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    right = fastap.loss_augmented_ranking

    def swapped(*inputs: Any, **options: Any) -> Any:
        ranked = right(*inputs, **options)
        ranks = ranked.ranks
        first, second = (ranks == 0).nonzero(), (ranks == ranks.numel() // 2).nonzero()
        ranks[first], ranks[second] = ranks.numel() // 2, 0
        return ranked

    monkeypatch.setattr(fastap, "loss_augmented_ranking", swapped)
    with pytest.raises(AssertionError):
        truth.at_full_size(Case(LONG, work=work))


def test_a_poorer_ranking_of_consistent_value_is_found_out() -> None:
    """One negative too many above one positive: the ranking attains the value that is claimed, and is no optimum."""
    rng = np.random.default_rng(0)
    score, target = draw(rng, "gaussian", 50, 500)
    standing = truth.Standing(score - score.mean(), target == 1)
    p, n = standing.classes
    _, a = reference.augmented_choice(p, n, 1.0)
    truth._assert_no_better_neighbour(standing, a, 1.0)
    movable = int(np.flatnonzero(np.diff(a) > 1)[0])
    a[movable] += 1
    with pytest.raises(AssertionError, match="moving past"):
        truth._assert_no_better_neighbour(standing, a, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_standing_agrees_with_the_oracle(kind: str) -> None:
    """F, AP and gradients in O(n log n) as the oracle has them from all pairs, equal scores included."""
    score, labels = draw(np.random.default_rng(1), kind, 12, 40)
    target = labels == 1
    standing = truth.Standing(score - score.mean(), target)
    order = np.argsort(-score, kind="stable")
    np.testing.assert_allclose(
        standing.standard_score, reference.ranking_score(score, target, order), rtol=1e-11, atol=1e-14
    )
    np.testing.assert_allclose(standing.average_precision, reference.plain_average_precision(score, target), rtol=1e-12)
    loss, gradient = reference.ap_perceptron_loss(score, target)
    np.testing.assert_allclose(standing.standard_score - standing.perfect_score, loss, rtol=1e-10, atol=1e-13)
    found = standing.gradient(standing.standard, standing.perfect, 1.0)
    np.testing.assert_allclose(found, gradient, atol=1e-15)
    worst, best = standing.task_losses
    for first, task_loss in ((target, worst), (~target, best)):
        by_score = reference.ap_of_order(target[np.lexsort((first, -score))])
        np.testing.assert_allclose(1 - by_score, task_loss, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", ["positive", "negative"])
def test_stages_make_up_the_whole(kind: str, update: str) -> None:
    case = Case(Shape(1, 300, 1_000), work=update, kind=kind, backend="torch")
    before = (layout._sorted, outcome.sort_batch, outcome.augmented, rowsearch.argmax)
    for method in ("auto", "dp"):
        assert stages.assert_whole(Case(**{**vars(case), "method": method}))
    assert before == (layout._sorted, outcome.sort_batch, outcome.augmented, rowsearch.argmax)


@pytest.mark.skipif(not native.IS_BUILT, reason="installed without a C compiler")
@pytest.mark.parametrize(("backend", "method"), stages.REPORTED)
def test_reported_stages_move_the_timer(backend: str, method: str) -> None:
    case = Case(Shape(1, 300, 3_000), backend=backend, method=method)
    assert stages.assert_whole(case)
    for stage in stages.REPORTED[backend, method]:
        with ExitStack() as stack:
            job = stages.prepare(case, stage, *next(case.inputs()), stack)
        before = stages.reported()
        found = job()
        assert stages.reported() - before == pytest.approx(
            max(found[stages.REPORTED[backend, method][stage]], 1e-9), abs=1e-12
        )


def test_repair_is_timed_without_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    right = rowsearch.concave_argmax
    monkeypatch.setattr(rowsearch, "concave_argmax", lambda terms: searched.append(terms.count) or right(terms))
    case = Case(Shape(1, 300, 1_000), backend="torch")
    with ExitStack() as stack:
        job = stages.prepare(case, "repair", *next(case.inputs()), stack)
        assert searched == [300]
        chosen = job()
        assert searched == [300]
    assert torch.equal(chosen.sort().values, chosen)
    assert augment.rowsearch is rowsearch


def test_rounds_pair_work_with_its_own_sort() -> None:
    found = pairs.summary([1.0, 2.0, 4.0], [2.0, 4.0, 12.0])
    assert found["ratio"] == {"median": 2.0, "p10": 2.0, "p90": pytest.approx(2.8), "rounds": 3}
    assert found["sort"]["median"] == 2.0


@pytest.mark.parametrize(
    ("pair", "rounds"), [(1e-5, pairs.MOST), (0.01, 50), (0.04, 30), (0.2, 5), (0.9, 5), (1.0, 7), (30.0, 7)]
)
def test_rounds_adapt(pair: float, rounds: int) -> None:
    assert pairs.rounds_for(pair, seconds=0.5, least=5) == rounds


def test_every_round_is_fresh_and_ends_what_it_began() -> None:
    case = Case(Shape(1, 10, 90))
    seen, ended = [], []

    def prepare(scores: torch.Tensor, targets: torch.Tensor, stack: ExitStack) -> Callable[[], None]:
        stack.callback(lambda: ended.append(len(seen)))
        return lambda: seen.append(scores)

    with ExitStack() as stack:
        rounds = pairs.Pairs(case, prepare, stack)
        rounds.warm_up()
        assert rounds.sorts == []
        (job,), _ = rounds.set_up()
        rounds.run(job)
        rounds.tear_down()
    assert ended == [1, 2, 3, 4]
    assert len({tuple(each.tolist()) for each in seen}) == 4
    assert len(rounds.sorts) == 1


def test_the_sort_goes_first_and_last_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same scores as the work, with what was changed for the work put back."""
    done: list[tuple[str, Any]] = []
    right = torch.sort

    def sorting(scores: torch.Tensor, **options: Any) -> Any:
        assert not scores.requires_grad
        done.append(("sort", scores.tolist()))
        return right(scores, **options)

    def prepare(scores: torch.Tensor, targets: torch.Tensor, stack: ExitStack) -> Callable[[], None]:
        stack.callback(lambda: done.append(("back", None)))
        scores.requires_grad_()
        return lambda: done.append(("work", scores.tolist()))

    monkeypatch.setattr(torch, "sort", sorting)
    with ExitStack() as stack:
        rounds = pairs.Pairs(Case(Shape(1, 10, 90)), prepare, stack)
        rounds.warm_up()
        done.clear()
        for _ in range(4):
            (job,), _ = rounds.set_up()
            rounds.run(job)
            rounds.tear_down(job)
    first, last = ["sort", "work", "back"], ["work", "back", "sort"]
    assert [name for name, _ in done] == [*first, *last, *first, *last]
    scores = [each for _, each in done if each is not None]
    assert scores[::2] == scores[1::2]
    assert len({tuple(each) for each in scores}) == len(rounds.sorts) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_is_that_of_the_call() -> None:
    """The backend in PyTorch operations keeps some arrays of 8 bytes a score, and not ten times as much."""
    case = Case(with_ratio(400_000), backend="torch")
    found = peak_bytes(case)
    assert found is not None
    assert 16 < found / case.shape.scores < 160


def test_weighing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "WEIGHING_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"out of time: more than 0\.01 s"):
        peak_bytes(Case(with_ratio(1_000)))


def test_a_round_on_cuda_ends_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what was queued before nor what is still running at its end falls out of its time."""
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: events.append("waited"))
    case = Case(Shape(1, 10, 90), device="cuda")
    monkeypatch.setattr(Case, "inputs", lambda self: iter([(torch.zeros(100), torch.zeros(100) > 0)]))
    with ExitStack() as stack:
        rounds = pairs.Pairs(case, lambda *_: lambda: events.append("worked"), stack)
        (job,), _ = rounds.set_up()
        assert events[-1] == "waited"
        events.clear()
        rounds.run(job)
    assert events == ["worked", "waited"]


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pairs.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_shapes() -> None:
    assert with_ratio(101_000) == Shape(1, 1_000, 100_000)
    assert with_ratio(100) == Shape(1, 1, 99)
    assert with_ratio(100_000, 1, 1) == Shape(1, 50_000, 50_000)
    assert shrink(Shape(4096, 20, 980)) == Shape(8, 20, 980)
    assert shrink(Shape(1, 10_000, 90_000)) == Shape(1, 200, 1_800)
    for shape in (Shape(4096, 20, 980), Shape(1, 10_000, 1_000_000), Shape(1, 50_000, 50_000), Shape(1, 1, 9)):
        small = cut(shape, truth.CUT_CELLS, truth.CUT_NEGATIVES)
        assert small.rankings * small.positives * (small.negatives + 1) <= truth.CUT_CELLS
        assert small.negatives <= truth.CUT_NEGATIVES
    assert cut(Shape(1, 1, 9), truth.CUT_CELLS, truth.CUT_NEGATIVES) == Shape(1, 1, 9)


def test_classes_are_ranked_along_the_batch() -> None:
    case = Case(Shape(3, 2, 5), dim=0)
    scores, targets = next(case.inputs())
    assert scores.shape == targets.shape == (7, 3)
    assert scores.is_contiguous()
    assert targets.sum(0).tolist() == [2, 2, 2]

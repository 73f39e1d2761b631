"""The regression check: what counts as slower, what is noise, and what cannot be compared."""

from __future__ import annotations

import copy
import json
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import compare

ABOUT = {"device": "a CPU", "type": "cpu", "cpu": "a CPU", "threads": 2, "versions": {"torch": "2.13.0"}}
ABOUT |= {"commit": "abc", "date": "2026-01-01"}


def benchmark(
    name: str, ratio: float, noise: float = 0.02, rounds: int = 30, sort: float = 1e-3, **problem: Any
) -> dict[str, Any]:
    """As the suites keep it; ``noise`` is the standard deviation of the logarithm of one round."""
    far = exp(noise * compare.spread_of(rounds) / 2)
    quantiles = {"median": ratio, "p10": ratio / far, "p90": ratio * far, "rounds": rounds}
    extra = {"suite": "growth", "work": "positive", "P": 10, "N": 1_000, **problem}
    extra |= {"ratio": quantiles, "sort": {"median": sort, "p10": 0.9 * sort, "p90": 1.1 * sort}}
    stats = {"median": ratio * sort, "iqr": 1.349 * noise * ratio * sort, "rounds": rounds, "min": ratio * sort / far}
    return {"fullname": name, "name": name, "extra_info": extra, "stats": stats}


def suites(*benchmarks: dict[str, Any], **about: Any) -> dict[str, Any]:
    return {"machine_info": {"node": "x", "fastap": {**ABOUT, **about}}, "benchmarks": list(benchmarks)}


def peers(*rows: tuple[int, float], **about: Any) -> dict[str, Any]:
    """Rows of ``(P, time in sorts)``, each of a peer's own process."""

    def quantiles(median: float) -> dict[str, float]:
        return {"median": median, "p10": 0.98 * median, "p90": 1.02 * median, "calls": 20}

    return {
        "about": {**ABOUT, **about},
        "rows": [
            {"peer": f"peer {number}", "P": p, "N": 10 * p, "status": "failed", "sort": quantiles(1e-3)}
            | {"fastap positive": quantiles(ratio * 1e-3), "fastap negative": None, "seconds": None}
            for number, (p, ratio) in enumerate(rows)
        ],
    }


def run(folder: Path, old: Any, new: Any, *options: str) -> int:
    paths = []
    for name, content in (("old", old), ("new", new)):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    return compare.main([*map(str, paths), *options])


def statuses(folder: Path, old: Any, new: Any) -> list[str]:
    run(folder, old, new)
    (before, _), (after, _) = compare.read(folder / "old.json"), compare.read(folder / "new.json")
    return [each.verdict for each in compare.compare(before, after, 0.05)]


def test_slower_beyond_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suites(benchmark("a", 2.0), benchmark("b", 1.0), benchmark("c", 1.0))
    new = suites(benchmark("a", 2.6), benchmark("b", 1.01), benchmark("c", 0.5))
    assert run(tmp_path, old, new) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out if "sorts" in line] == ["a"]
    assert "+30.0%" in out[2]
    assert out[-3] == "1 slower, 1 faster, 1 within noise"
    # 5 % and three standard errors of a difference of two medians, each 1.2533 x 2 % / sqrt(30).
    assert out[-1].startswith("noticed would have been: 7% more in half of the 3 compared, 7% more in nine of ten")


@pytest.mark.parametrize("plain", [False, True], ids=["ratios", "times"])
@pytest.mark.parametrize("change", [10.0, 0.1])
def test_rounds_of_two_humps_are_no_change(tmp_path: Path, change: float, plain: bool) -> None:
    """The median jumps from one hump to the other; the fast rounds are where they were."""
    old, new = suites(benchmark("a", 1.0)), suites(benchmark("a", change))
    for each in (old, new):
        one = each["benchmarks"][0]
        if plain:
            one["extra_info"] = {}
    assert statuses(tmp_path, old, new) == ["slower" if change > 1 else "faster"]
    for each in (old, new):
        one = each["benchmarks"][0]
        one["stats"]["min"] = 0.98e-4
        if not plain:
            one["extra_info"]["ratio"] |= {"p10": 0.098, "p90": 10.2, "rounds": 30_000}
    assert statuses(tmp_path, old, new) == ["within noise"]


def test_nothing_is_in_sight_of_one_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suites(benchmark("a", 1.0, rounds=2))
    old["benchmarks"][0]["extra_info"]["ratio"]["rounds"] = 1
    assert run(tmp_path, old, old) == 0
    assert "nothing in half of the 1 compared" in capsys.readouterr().out


def test_all_is_shown_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suites(benchmark("gone", 1.0), benchmark("same", 1.0), benchmark("quick", 1.0))
    new = suites(benchmark("same", 1.0), benchmark("quick", 0.5), benchmark("added", 1.0))
    assert run(tmp_path, old, new) == 0
    assert "quick" not in capsys.readouterr().out
    assert run(tmp_path, old, new, "--all") == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for name, verdict in (("gone", "missing"), ("same", "within noise"), ("quick", "faster"), ("added", "new")):
        assert rows[name].rstrip().endswith(verdict)


@pytest.mark.parametrize(
    ("noise", "rounds", "status"), [(0.02, 30, 1), (0.5, 30, 0), (0.5, 3_000, 1), (0.1, 3, 0), (0.0, 1, 0)]
)
def test_the_same_change_may_be_noise(tmp_path: Path, noise: float, rounds: int, status: int) -> None:
    """20 % more is slower if the rounds are many enough for their noise; one round says nothing."""
    old, new = (suites(benchmark("a", ratio, noise, max(rounds, 2))) for ratio in (1.0, 1.2))
    for each in (old, new) if rounds == 1 else ():
        each["benchmarks"][0]["extra_info"]["ratio"]["rounds"] = 1
    assert run(tmp_path, old, new) == status


def test_the_threshold_is_on_top_of_noise(tmp_path: Path) -> None:
    old, new = suites(benchmark("a", 1.0, noise=0.001)), suites(benchmark("a", 1.08, noise=0.001))
    assert run(tmp_path, old, new) == 1
    assert run(tmp_path, old, new, "--threshold", "0.1") == 0
    assert run(tmp_path, old, new, "--threshold", "0") == 1


def test_ratios_count_and_not_times(tmp_path: Path) -> None:
    old, new = suites(benchmark("a", 1.0)), suites(benchmark("a", 1.0, sort=3e-3))
    assert run(tmp_path, old, new) == 0


@pytest.mark.parametrize(("sort", "status"), [(1e-3, 1), (1.1e-3, 1), (1.3e-3, 0), (0.7e-3, 0)])
def test_what_the_sort_has_changed_is_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sort: float, status: int
) -> None:
    assert run(tmp_path, suites(benchmark("a", 1.0)), suites(benchmark("a", 1.25, sort=sort))) == status
    assert ("torch.sort itself" in capsys.readouterr().err) == (status == 0)


def test_a_stage_with_nothing_to_do_is_no_slower(tmp_path: Path) -> None:
    old, new = suites(benchmark("a", 1e-6)), suites(benchmark("a", 2e-6))
    assert run(tmp_path, old, new) == 0
    assert run(tmp_path, old, suites(benchmark("a", 1e-4))) == 1


def test_plain_files_are_compared_by_their_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = suites(benchmark("a", 1.0)), suites(benchmark("a", 1.5))
    for each in (old, new):
        each["machine_info"] = {"node": "x"}
        each["benchmarks"][0]["extra_info"] = {}
    assert run(tmp_path, old, new) == 1
    captured = capsys.readouterr()
    assert "1 without ratios to torch.sort" in captured.err
    assert "0.0015 s" in captured.out


def test_other_machines_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suites(benchmark("a", 1.0))
    new = suites(benchmark("a", 1.0), threads=1, versions={"torch": "2.14.0"}, commit="def", date="2026-02-02")
    assert run(tmp_path, old, new) == 0
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "warning: threads was 2, is 1",
        "warning: versions was {'torch': '2.13.0'}, is {'torch': '2.14.0'}",
    ]
    del new["machine_info"]["fastap"]
    run(tmp_path, old, new)
    assert "does not say where" in capsys.readouterr().err


def test_other_problems_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suites(benchmark("a", 1.0, scores=2_000, P=20), benchmark("b", 1.0))
    new = suites(benchmark("a", 9.0, scores=100_000, P=1_000), benchmark("b", 1.0))
    assert run(tmp_path, old, new) == 0
    assert "1 another problem" in capsys.readouterr().out
    old["benchmarks"].pop()
    assert run(tmp_path, old, new) == 2
    assert "in common" in capsys.readouterr().err


def test_peers_are_compared_over_their_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = peers((10, 2.0), (10, 2.02), (10, 1.98), (100, 1.0))
    new = peers((10, 3.0), (10, 3.02), (10, 2.98), (100, 1.0))
    assert run(tmp_path, old, new) == 1
    captured = capsys.readouterr()
    assert "positive, P = 10, N = 100" in captured.out
    assert "+50.0%" in captured.out
    assert "note" not in captured.err
    # Processes that disagree by more than the change tell of no change.
    assert run(tmp_path, peers((10, 1.0), (10, 2.0), (10, 3.0)), peers((10, 1.5), (10, 3.0), (10, 4.5))) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not as expected"),
        ("[]", "not as expected"),
        ('{"cases": []}', "neither"),
        ('{"benchmarks": [{}]}', "fullname"),
        ('{"rows": [{"P": 1}]}', "about"),
        ('{"benchmarks": []}', "in common"),
    ],
)
def test_unusable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, says: str) -> None:
    good = suites(benchmark("a", 1.0))
    for old, new in ((content, good), (good, content)):
        assert run(tmp_path, old, new) == 2
        assert says in capsys.readouterr().err


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tmp_path / "none.json"), str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        compare.main(["a", "b", "--threshold", "-1"])


@pytest.mark.parametrize("rounds", [3, 5, 30, 300])
def test_the_error_of_a_median_is_that_of_repeated_runs(rounds: int) -> None:
    """Estimated from p10, p90 and the number of rounds, on average as large as medians of runs really scatter."""
    runs = np.random.default_rng(0).normal(0, 0.1, (4_000, rounds))
    low, middle, high = np.exp(np.quantile(runs, (0.1, 0.5, 0.9), axis=1))
    errors = [
        compare.figure({"median": m, "p10": lo, "p90": hi}, rounds).error
        for m, lo, hi in zip(middle, low, high, strict=True)
    ]
    assert np.mean(errors) == pytest.approx(np.log(middle).std(), rel=0.1)


def test_runs_of_the_same_agree(tmp_path: Path) -> None:
    """Two runs without a change: none of 200 benchmarks is called slower by more than 5 %."""
    rng = np.random.default_rng(1)

    def drawn() -> dict[str, Any]:
        names = [f"case {number}" for number in range(200)]
        return suites(*(benchmark(name, exp(rng.normal(0, 0.1 * 1.2533 / sqrt(30))), 0.1) for name in names))

    old, new = drawn(), drawn()
    assert run(tmp_path, old, new) == 0
    slow = copy.deepcopy(new)
    slow["benchmarks"][7]["extra_info"]["ratio"] = benchmark("", 1.5, 0.1)["extra_info"]["ratio"]
    assert run(tmp_path, old, slow) == 1
    found, _ = compare.read(tmp_path / "new.json")
    assert found["case 7"].ratio is not None
    assert found["case 7"].ratio.log == pytest.approx(log(1.5))

"""The page, its pictures and the guide's table are what the command makes of the committed CSV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import figures, page, store
from bench.environment import RESULTS, ROOT
from bench.store import Result

STORED = store.newest(RESULTS)
ABOUT = {"device": "AMD EPYC", "type": "cpu", "cpu": "AMD EPYC", "threads": 2, "versions": {"torch": "2.13.0"}}


def test_the_committed_page_and_guide_are_what_the_files_give() -> None:
    """Otherwise run ``python -m bench.page``."""
    made = page.write(STORED, RESULTS, page.DOCS)
    assert (page.DOCS / page.PAGE).read_text(encoding="utf-8") == str(made)
    shown = {(page.DOCS / file).name for file in made.pictures}
    assert {path.name for path in (page.DOCS / "images").glob("bench-*.png")} == shown
    text = page.GUIDE.read_text(encoding="utf-8")
    assert page.put_into(text, page.in_guide(STORED)) == text


def test_links() -> None:
    for file in (page.GUIDE, page.DOCS / page.PAGE):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.relative_to(ROOT)} links to {link}"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"peer": 'DP, "loops"', "P": 10, "sort": {"median": 1.23456789e-5}, "reason": "two\nlines", "bytes": None},
        {"peer": "1e5", "times": {"fastap positive": 2.0}},
    ]
    where = {**ABOUT, "commit": "abc", "date": "2025"}
    path = store.write(tmp_path / "new", "peers", where, rows, cap={"seconds": 20.0})
    assert path.name == "peers-amd-epyc-torch-2.13.0-abc.csv"
    found = store.read(path)
    assert (found.kind, found.about, found.facts) == ("peers", where, {"cap": {"seconds": 20.0}})
    assert found.rows[0] == {"peer": 'DP, "loops"', "P": 10, "sort": {"median": 1.23457e-5}, "reason": "two\nlines"}
    assert found.rows[1]["times"] == {"fastap positive": 2}


def test_the_newest_of_a_kind_and_device_counts(tmp_path: Path) -> None:
    """By the date inside, whatever the names say; other devices are other files."""
    for commit, date, device in (("a", "2025-03-02", "x"), ("b", "2025-03-01", "x"), ("c", "2025-03-01", "y")):
        where = {**ABOUT, "device": device, "commit": commit, "date": date}
        store.write(tmp_path, "peers", where, [{"name": "a"}])
    (tmp_path / "other-x.csv").write_text("a,b\n")
    assert [each.about["commit"] for each in store.newest(tmp_path)] == ["a", "c"]


@pytest.mark.parametrize("exponent", [1.0, 1.1, 2.0])
def test_an_exponent_is_found_again(exponent: float) -> None:
    """Small sizes, where starting a call costs more than its work, and too large ones do not count."""
    points = [(float(n), 3e-9 * n**exponent) for n in (1e5, 1e6, 1e7)]
    found = figures.fit([(1e2, 1.0), *points, (1e9, 1e-3)])
    assert found is not None
    np.testing.assert_allclose([found.exponent, found.factor], [exponent, 3e-9], rtol=1e-9)
    assert found[2:5] == (1e5, 1e7, 3)
    np.testing.assert_allclose(found.error, 0, atol=1e-7)
    assert figures.fit([(1e5, 1.0), (1e6, 2.0), (1e3, 0.1)]) is None


def test_the_error_of_an_exponent_is_the_spread_of_exponents() -> None:
    rng = np.random.default_rng(0)
    sizes = (1e5, 3e5, 1e6, 3e6, 1e7)
    copies = [[(n, 1e-9 * n**1.05 * np.exp(rng.normal(0, 0.05))) for n in sizes] for _ in range(2_000)]
    fits = [found for points in copies if (found := figures.fit(points)) is not None]
    exponents, errors = np.array([(found.exponent, found.error) for found in fits], dtype=float).T
    np.testing.assert_allclose(exponents.mean(), 1.05, atol=0.003)
    np.testing.assert_allclose(np.sqrt((errors**2).mean()), exponents.std(), rtol=0.05)


def peer(name: str, positive: float | None, negative: float = 4.0) -> dict[str, Any]:
    row: dict[str, Any] = {"peer": name, "gives": "gradient", "source": "paper", "P": 10, "N": 100}
    if positive is None:
        return {**row, "status": "out of time", "reason": "more than\n20 s"}
    times = {"fastap positive": positive, "fastap negative": negative}
    seconds = {"median": 1e-3, "calls": 2}
    return {**row, "status": "ok", "seconds": seconds, "ratio": {"median": 9.0}, "times": times}


def test_peers_are_named() -> None:
    rows = [peer("near", 2.0), peer("far", 40.0, 50.0), peer("silent", None)]
    assert figures.fastest_peer(rows, (10, 100)) == ("near", 2.0)
    made = page.Page(Path())
    page.add_peers(made, Result("peers", Path(), ABOUT, {"cap": {"seconds": 20.0, "bytes": 2**33}}, rows))
    assert re.search(r"\| near +\| paper +\| +2.00 \(2 calls\) \|", str(made))
    assert re.search(r"\| silent +\| paper +\| +out of time \|", str(made))


def test_a_page_of_a_gpu_and_its_kernels() -> None:
    where = {**ABOUT, "device": "H200", "type": "cuda", "commit": "abc", "date": "2025-03-02T00:00"}
    timed = {"median": 2e-5, "p10": 1e-5, "p90": 3e-5, "GB/s": 1.0, "host": 1e-5}
    rows = [
        {"case": "a", "work": "torch.sort", **timed},
        {"case": "a", "work": "dp positive", **timed, "median": 6e-5, "cells a second": 2e11},
        {"case": "a", "work": "negative", "error": "OutOfMemoryError: none left"},
    ]
    tests = {"green": True, "passed": 3, "failed": [], "skipped": {"two GPUs": 1}}
    facts = {"tests": tests, "targets": [["w", "t", "m", "met"]]}
    text = str(page.write([Result("gpu", Path("gpu.csv"), where, facts, rows)], RESULTS, page.DOCS))
    assert "3 passed, 0 failed; 1 skipped (two GPUs)." in text
    cells = [re.split(r" *\| *", line) for line in text.splitlines() if line.startswith("| a ")]
    assert cells[1][1:-1] == ["a", "dp positive", "60 us", "10 us", "30 us", "10 us", "1", "2e+11", ""]
    assert cells[2][1:4] == ["a", "negative", "OutOfMemoryError: none left"]
    assert "No result of a GPU is stored" not in text


def test_without_results_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert f"no results are stored in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_same_files_give_the_same_pictures_and_old_ones_go(tmp_path: Path) -> None:
    old, other = tmp_path / "images" / "bench-time-vax.png", tmp_path / "images" / "logo.png"
    old.parent.mkdir()
    old.touch()
    other.touch()
    found = []
    for _ in range(2):
        page.save(page.write(STORED, RESULTS, tmp_path), tmp_path)
        found.append({path.name: path.read_bytes() for path in tmp_path.rglob("*.*")})
    assert found[0] == found[1]
    assert not old.exists()
    assert other.exists()


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    """All pictures, laid out."""
    found = {file: draw() for file, draw in page.write(STORED, RESULTS, page.DOCS).pictures.items()}
    for figure in found.values():
        figure.draw_without_rendering()
    return found


def test_axes_have_labels_and_nothing_is_cut_off(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        inches, tight = figure.get_size_inches(), figure.get_tightbbox()
        assert min(tight.x0, tight.y0) >= -0.01, name
        assert tight.x1 <= inches[0] + 0.01, name
        assert tight.y1 <= inches[1] + 0.01, name
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes), name


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(9.9996e-4, "1 ms"), (0.4e-6, "0.4 us"), (0.0, "< 0.1 us"), (0.0123, "12.3 ms"), (167.0, "167 s")],
)
def test_durations_have_three_figures(seconds: float, words: str) -> None:
    assert figures.duration(seconds) == words

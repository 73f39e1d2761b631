"""The page, its pictures and the guide's table, from results made up here; whether the committed ones are stale."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import gpu_times, page_gpu, plots, profile_report, report, stored
from bench import page as pages
from bench.environment import RESULTS, ROOT
from bench.inputs import PEER_SHAPES
from tests.results import (
    CPU,
    PEER_SIZES,
    STATUSES,
    TOTALS,
    about,
    everything,
    gate,
    paired,
    peers,
    profile,
    store,
    suites,
)


def made(folder: Path, out: Path) -> str:
    return str(pages.write(report.load(folder), folder, out))


@pytest.mark.parametrize("exponent", [1.0, 1.1, 2.0])
def test_an_exponent_is_found_again(exponent: float) -> None:
    """Small sizes, where starting a call costs more than its work, and too large ones do not count."""
    points = [(float(n), 3e-9 * n**exponent) for n in (1e5, 1e6, 1e7)]
    found = stored.fit([(1e2, 1.0), *points, (1e9, 1e-3)])
    assert found is not None
    np.testing.assert_allclose([found.exponent, found.factor], [exponent, 3e-9], rtol=1e-9)
    assert found[2:5] == (1e5, 1e7, 3)
    np.testing.assert_allclose(found.error, 0, atol=1e-7)


def test_one_size_has_no_exponent() -> None:
    assert stored.fit([(1e6, 1.0), (1e6, 2.0), (1e3, 0.1)]) is None


def test_the_error_of_an_exponent_is_the_spread_of_exponents() -> None:
    """Of 2,000 noisy copies of the sizes of the suite, as many as a normal distribution has lie within an error."""
    rng = np.random.default_rng(0)
    sizes = [size for size in TOTALS if size >= 1e5]
    copies = [[(n, 1e-9 * n**1.05 * np.exp(rng.normal(0, 0.05))) for n in sizes] for _ in range(2_000)]
    fits = [found for points in copies if (found := stored.fit(points)) is not None]
    exponents, errors = np.array([(found.exponent, found.error) for found in fits], dtype=float).T
    np.testing.assert_allclose(exponents.mean(), 1.05, atol=0.003)
    np.testing.assert_allclose(np.sqrt((errors**2).mean()), exponents.std(), rtol=0.05)


def test_two_sizes_have_an_exponent_without_an_error() -> None:
    found = stored.fit([(1e5, 1e-3), (1e7, 1e-1)])
    assert found is not None
    assert (found.error, found.words) == (None, "1.00")
    assert stored.Fit(1.1008, 1.0, 1e5, 1e7, 5, 0.051).words == "1.101 ± 0.05"


def test_the_newest_of_a_kind_and_device_counts(tmp_path: Path) -> None:
    """By the date inside, whatever the names say; other devices and other calls of the profiler are other files."""
    dates = {"a": "2025-03-02T00:00:00+00:00", "b": "2025-03-01T23:00:00+00:00"}
    store(tmp_path, **{f"peers_{name}": peers(about(date=date)) for name, date in dates.items()})
    store(tmp_path, suites_1=suites(), suites_2=suites(about("Another CPU", date=dates["a"])))
    store(tmp_path, profile_1=profile(CPU), profile_2=profile(CPU, rows=1), speed_1={"machine": {}})
    found = [(each.kind, each.path.name) for each in stored.newest(tmp_path)]
    assert ("peers", "peers-a.json") in found
    assert ("peers", "peers-b.json") not in found
    assert [kind for kind, _ in found].count("suites") == 2
    assert [kind for kind, _ in found].count("profile") == 2
    assert len(found) == 5


@pytest.mark.parametrize("status", STATUSES)
def test_a_peer_that_failed_is_a_row_that_says_why(tmp_path: Path, status: str) -> None:
    text = made(store(tmp_path, peers_1=peers()), tmp_path)
    name, reason = f"Peer that is {status}", " ".join(STATUSES[status].split())
    assert len(re.findall(rf"^\| {name} +\| gradient +\| +{status} \|", text, re.M)) == len(PEER_SIZES)
    assert text.count(f"\n- {name}: {status}: {reason}\n") == len(PEER_SIZES)
    overview = re.search(rf"^\| {name} +\| peer that is {status}==1.0 +\|(.*)\|$", text, re.M)
    assert overview is not None
    assert [cell.strip() for cell in overview[1].split("|")] == [status] * len(PEER_SIZES)


def test_ratios_of_peers_are_of_the_times_in_their_row(tmp_path: Path) -> None:
    text = made(store(tmp_path, peers_1=peers(nearest=4.0)), tmp_path)
    row = re.search(r"^\| blackbox AP +\| gradient (.*)\|$", text, re.M)
    assert row is not None
    # 12 times the sort, which takes half of the positive update's time and a third of the negative one's.
    assert [cell.strip() for cell in row[1].split("|")][1:] == [
        *("73.2 us", "9", "12.0", "6.00", "4.00", "", "10.7 KiB"),
    ]
    assert "quotient of two medians" in text


def test_ratios_of_paired_rounds_come_before_quotients(tmp_path: Path) -> None:
    """In the tables, the targets, and the guide; and what is asserted of a peer, and its note, stand on the page."""
    data = peers(nearest=4.0)
    data["rows"] = [paired(row, 0.2) for row in data["rows"]]
    folder = store(tmp_path, peers_1=data)
    text = made(folder, tmp_path)
    row = re.search(r"^\| blackbox AP +\| gradient (.*)\|$", text, re.M)
    assert row is not None
    assert [cell.strip() for cell in row[1].split("|")][3:6] == ["2.40", "1.20", "0.80"]
    assert "the median, over rounds" in text
    assert "quotient" not in text
    assert "blackbox AP takes 0.80 times as long" in text
    assert re.search(r"^\| blackbox AP +\| falls on separated scores +\| blackbox AP has 20 bins +\|$", text, re.M)
    assert "blackbox AP (0.80)" in report.in_guide(report.load(folder))


def test_what_rests_on_one_call_says_so(tmp_path: Path) -> None:
    text = made(store(tmp_path, peers_1=peers()), tmp_path)
    overview = re.search(r"^\| slow +\| slow==1.0 +\|(.*)\|$", text, re.M)
    assert overview is not None
    assert [cell.strip() for cell in overview[1].split("|")] == ["28,504 (1 call)"] * len(PEER_SIZES)


def test_a_page_in_the_folder_of_its_results(tmp_path: Path) -> None:
    folder = store(tmp_path, peers_1=peers())
    text = made(folder, folder)
    assert "from the files in its own folder;" in text
    assert "(.)" not in text
    assert "from the files in [results](../results);" in made(
        store(tmp_path / "results", peers_1=peers()), tmp_path / "o"
    )


@pytest.mark.parametrize(("nearest", "negative"), [(4.0, "met"), (0.8, "missed")])
def test_the_targets_name_exceptions(nearest: float, negative: str) -> None:
    rows = peers(nearest=nearest)["rows"]
    verdicts = {each.what: each for each in stored.judge_peers(rows)}
    assert {each.verdict for each in verdicts.values()} == {"met", negative, "not measured"}
    assert sum(each.verdict == "not measured" for each in verdicts.values()) == 2 * (len(PEER_SHAPES) - len(PEER_SIZES))
    for p, n in PEER_SIZES:
        what = f"P = {p:,}, N = {n:,}"
        assert verdicts[f"{what}: positive update"].verdict == "met"
        assert verdicts[f"{what}: negative update"].verdict == negative
        assert ("blackbox AP takes 0.80 times as long" in verdicts[f"{what}: negative update"].figure) == (nearest < 1)
        assert "5 gave no time" in verdicts[f"{what}: positive update"].figure


@pytest.mark.parametrize(("exponent", "verdict"), [(1.0, "met"), (1.2, "missed")])
def test_growth_is_judged_over_its_whole_range(tmp_path: Path, exponent: float, verdict: str) -> None:
    (result,) = stored.newest(store(tmp_path, suites_1=suites(exponent=exponent)))
    lines = stored.growth(result.suite("growth"))
    assert [each.verdict for each in stored.judge_growth(lines)] == [verdict] * 4
    short = [stored.Series(line.name, line.rows[:-1]) for line in lines]  # not up to 1e7
    assert [each.verdict for each in stored.judge_growth(short)] == ["not measured"] * 4


def test_everything_is_on_the_page_and_drawn(tmp_path: Path) -> None:
    folder = everything(tmp_path / "results")
    assert report.main(["--results", str(folder), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "benchmarks.md").read_text()
    for title in (
        "Growth",
        "Stages",
        "Roofline",
        "Other libraries and papers",
        *(each.title for each in pages.SECTIONS),
    ):
        assert f"### {title}\n" in text
    pictures = set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", text))
    assert pictures == {f"images/{path.name}" for path in (tmp_path / "out" / "images").iterdir()}
    kinds = ("time", "ratio", "memory", "peers", "stages", "profile")
    assert pictures == {
        *(f"images/bench-{kind}-amd-epyc.png" for kind in kinds),
        "images/bench-roofline-nvidia-h200.png",
        "images/bench-profile-nvidia-h200.png",
    }
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((tmp_path / "out" / link).exists() for link in links)
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text)


def test_the_same_files_give_the_same_page_and_pictures(tmp_path: Path) -> None:
    folder = store(tmp_path / "results", suites_1=suites(), peers_1=peers())
    out = tmp_path / "out"
    arguments = ["--results", str(folder), "--out", str(out)]
    found = []
    for _ in range(2):
        assert report.main(arguments) == 0
        found.append({path.name: path.read_bytes() for path in out.rglob("*.*")})
    assert found[0] == found[1]


def test_pictures_of_an_earlier_page_go(tmp_path: Path) -> None:
    old, other = tmp_path / "images" / "bench-time-vax.png", tmp_path / "images" / "logo.png"
    old.parent.mkdir()
    old.touch()
    other.touch()
    report.main(["--results", str(store(tmp_path / "results", profile_1=profile(CPU))), "--out", str(tmp_path)])
    assert not old.exists()
    assert other.exists()


@pytest.mark.parametrize("kind", ["suites", "peers"])
def test_a_page_of_one_kind(tmp_path: Path, kind: str) -> None:
    folder = store(tmp_path / "results", **{f"{kind}_1": {"suites": suites, "peers": peers}[kind]()})
    guide = tmp_path / "guide.md"
    guide.write_text(f"before\n{report.START}old{report.END}\nafter\n")
    assert report.main(["--results", str(folder), "--out", str(tmp_path), "--guide", str(guide)]) == 0
    text = (tmp_path / "benchmarks.md").read_text()
    assert ("### Growth" in text) == (kind == "suites")
    assert ("### Other libraries" in text) == (kind == "peers")
    assert "No result of a GPU is stored" in text
    assert "python -m bench.gpu --out bench/results" in text
    short = guide.read_text()
    assert short.startswith(f"before\n{report.START}| ")
    assert short.endswith(f"{report.END}\nafter\n")
    assert "old" not in short
    assert len(re.findall(r"^\| +\d", short, re.M)) == 6 if kind == "suites" else len(PEER_SIZES)


def test_without_results_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert f"no results are stored in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_of_the_guide_needs_suites_or_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store(tmp_path / "results", profile_1=profile(CPU))
    guide = tmp_path / "guide.md"
    assert report.main(["--results", str(folder), "--out", str(tmp_path), "--guide", str(guide)]) == 1
    assert "needs results of the suites or of the peers" in capsys.readouterr().err


def test_the_short_table_names_the_nearest_peer_and_goes_on_where_peers_end(tmp_path: Path) -> None:
    text = report.in_guide(stored.newest(store(tmp_path, suites_1=suites(), peers_1=peers())))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if re.match(r"\| +\d", line)
    ]
    assert [row[:2] for row in rows] == [
        ["10", "100"],
        ["1,000", "100,000"],
        ["9,900", "990,100"],
        ["99,009", "9,900,991"],
    ]
    assert rows[0][2:] == ["6.1 us", "12.2 us (2.00)", "18.3 us (3.00)", "", "blackbox AP (4.00)"]
    assert rows[-1][-1] == ""
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 120
    assert "times as long as this library's slower update" in text
    assert "AMD EPYC, 2 threads, python 3.11.7" in text
    assert "commit abcdef1, 2025-03-01" in text


def test_the_roofline_has_calls_and_kernels(tmp_path: Path) -> None:
    results = {each.kind: each for each in stored.newest(store(tmp_path, gpu_1=gate(), profile_1=profile()))}
    points = page_gpu.points_of(results["gpu"], [results["profile"]])
    names = [point.name for point in points]
    timed = [(case, name) for case in gpu_times.CASES for name in case.works if not name.startswith("torch backend")]
    assert len(names) == len(timed) - 1 + 2  # one call failed; of three kernels two have known bytes
    sort = next(point for point in points if point.name == "torch.sort" and point.case == gpu_times.ONE_LONG.name)
    np.testing.assert_allclose(sort.bytes, 1_010_000 * gpu_times.WORKS["torch.sort"].bytes)
    search = next(point for point in points if point.name == "kernel search_rankings")
    np.testing.assert_allclose([search.bytes, search.seconds], [3e6, 2e-5])  # of one launch of two
    assert {point.name for point in points if point.cells_per_second} == {"dp positive", "dp negative"}
    (axes,) = plots.roofline(points, 4e12, 5e-6, "roofline").axes
    labels = {line.get_label().replace("\n", " "): line for line in axes.lines}
    floor = labels["line: 5 us of the shortest kernel plotted, or bytes / 4,000 GB/s of a copy"]
    moved, seconds = (np.asarray(values) for values in floor.get_data())
    np.testing.assert_allclose(seconds, np.maximum(5e-6, moved / 4e12))


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, Figure]:
    """All pictures, laid out."""
    folder = everything(tmp_path)
    drawn = {file: draw() for file, draw in pages.write(report.load(folder), folder, tmp_path).pictures.items()}
    for figure in drawn.values():
        figure.draw_without_rendering()
    assert len(drawn) == 8
    return drawn


def test_axes_have_labels_and_nothing_is_cut_off(figures: dict[str, Figure]) -> None:
    """Every axis says what it shows, all text lies inside the figure, and what is written in axes inside them."""
    for name, figure in figures.items():
        inches, tight = figure.get_size_inches(), figure.get_tightbbox()
        assert min(tight.x0, tight.y0) >= -0.01, name
        assert tight.x1 <= inches[0] + 0.01, name
        assert tight.y1 <= inches[1] + 0.01, name
        assert all(axes.get_xlabel() for axes in figure.axes) or figure.get_supxlabel(), name
        for axes in figure.axes:
            room = axes.get_window_extent()
            for text in axes.texts:
                box = text.get_window_extent()
                assert box.x0 >= room.x0 - 1, f"{name}: {text.get_text()}"
                assert box.x1 <= room.x1 + 1, f"{name}: {text.get_text()}"


def test_nothing_in_axes_is_written_over(figures: dict[str, Figure]) -> None:
    """Bars' words lie apart from one another, and no mark of a whole call goes through one."""
    seen = 0
    for name, figure in figures.items():
        if not any(kind in name for kind in ("stages", "peers", "profile")):
            continue
        for axes in figure.axes:
            boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text()]
            boxes += [("mark", line.get_window_extent()) for line in axes.lines if line.get_label() == "whole call"]
            words = sum(what != "mark" for what, _ in boxes)
            seen += words
            for number, (what, box) in enumerate(boxes[:words]):
                for other, beside in boxes[number + 1 :]:
                    apart = box.x1 <= beside.x0 or beside.x1 <= box.x0 or box.y1 <= beside.y0 or beside.y1 <= box.y0
                    assert apart, f"{name}: {what} and {other}"
    assert seen > 30


def test_a_native_engine_is_drawn_by_its_stages() -> None:
    data = profile(CPU)
    data["kernels"][0] |= {"name": "native engine", "stage": None}
    figure = profile_report.chart({**data, "engine_stages": {"sort": 3e-5, "search": 1e-5, "repair": 0.0}}, "title")
    times, rates = figure.axes
    lengths = [bar.get_width() for bar in times.patches]
    np.testing.assert_allclose(lengths[:2], [30, 10])  # of 40 us
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        *("stage: sort", "stage: search", "stage: gradient", "several stages or unknown"),
        "a copy here, 4,000 GB/s",
    ]
    assert len({bar.get_facecolor() for bar in times.patches}) == 4
    assert [line.get_xdata()[0] for line in rates.lines] == [4_000]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (9.9996e-4, "1 ms"),
        (5e-6, "5 us"),
        (0.4e-6, "0.4 us"),
        (0.0, "< 0.1 us"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (167.0, "167 s"),
    ],
)
def test_durations_have_three_figures(seconds: float, words: str) -> None:
    assert stored.duration(seconds) == words


class TestCommitted:
    """What is committed is what the command makes of the committed results: run ``python -m bench.report``."""

    def test_the_page(self) -> None:
        page = pages.write(report.load(RESULTS), RESULTS, report.DOCS)
        assert (report.DOCS / report.PAGE).read_text(encoding="utf-8") == str(page)
        shown = {(report.DOCS / file).name for file in page.pictures}
        assert {path.name for path in (report.DOCS / "images").glob("bench-*.png")} == shown

    def test_the_guide(self) -> None:
        text = report.GUIDE.read_text(encoding="utf-8")
        assert report.put_into(text, report.in_guide(report.load(RESULTS))) == text

    def test_links(self) -> None:
        for file in (report.GUIDE, report.DOCS / report.PAGE):
            for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text(encoding="utf-8")):
                assert (file.parent / link).exists(), f"{file.relative_to(ROOT)} links to {link}"

"""Stored results as a page: ``docs/benchmarks.md``, its pictures, and the table of ``docs/guide/performance.md``.

The newest file of each kind and device counts (and, of profiles, of each call). Nothing is measured, and the same files
give the same page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bench import page, plots, stored
from bench.environment import RESULTS, ROOT
from bench.markdown import Page, machine, table, timed
from bench.stored import UPDATES, Result, Row, Series, times_of

DOCS = ROOT / "docs"
PAGE = "benchmarks.md"
GUIDE = DOCS / "guide" / "performance.md"
START, END = "<!-- speed -->\n", "\n<!-- /speed -->"


class NothingStoredError(Exception):
    """A folder without results."""


def load(folder: Path) -> list[Result]:
    results = stored.newest(folder)
    if not results:
        kinds = ", ".join(f"{kind}-*.json" for kind in stored.KINDS)
        raise NothingStoredError(
            f"no results are stored in {folder}: none of {kinds} is there; `make bench` makes some"
        )
    return results


def in_guide(results: Sequence[Result]) -> str:
    """What stands between the marks of the guide: a table a device, and a line on the machine."""
    parts = []
    for device in dict.fromkeys(result.about["device"] for result in results):
        found = {result.kind: result for result in results if result.about["device"] == device}
        suites, peers = found.get("suites"), found.get("peers")
        if suites is None and peers is None:
            continue
        sources = list(dict.fromkeys(machine(result.about) for result in (suites, peers) if result is not None))
        parts += [short_table(suites, peers), f"Measured on {'; peers on '.join(sources)}."]
    if not parts:
        raise NothingStoredError("the guide's table needs results of the suites or of the peers, and none are stored")
    parts.append(
        "In brackets: the ratio to `torch.sort`; in the last column the nearest of the other losses and how many times "
        "as long as this library's slower update it takes. Rows with another loss are medians over the processes of "
        "all peers, in each of which this library and the sort took turns with one peer. More figures, pictures, what "
        "was checked, and how to measure again: [Benchmarks](../benchmarks.md)."
    )
    return "\n\n".join(parts)


def short_table(suites: Result | None, peers: Result | None) -> str:
    """The sizes at which peers are compared, and beyond them those of the growth suite."""
    of_peers = peers.rows if peers is not None else []
    body = [_beside_peers(of_peers, size) for size in stored.sizes(of_peers)]
    largest = max((sum(size) for size in stored.sizes(of_peers)), default=0)
    lines = stored.growth(suites.suite("growth")) if suites is not None else []
    body += [_alone(lines, shape) for shape in _spaced(lines, 1.5 * largest)]
    heads = ["P", "N", "`torch.sort`", *UPDATES, "bytes a score", "nearest other loss"]
    return table(body, heads, 0)


def _beside_peers(rows: Sequence[Row], size: tuple[int, int]) -> list[str]:
    ours = stored.ours_at(rows, size)
    nearest = stored.fastest_peer(rows, size)
    times = [timed(ours[f"fastap {update}"], ours[f"{update} to sort"]) for update in UPDATES]
    words = "" if nearest is None else f"{nearest[0]} ({times_of(nearest[1])})"
    cells = [timed(ours["sort"], None), *times, _a_score(ours["bytes"], sum(size)), words]
    return [*(f"{each:,}" for each in size), *cells]


def _alone(lines: Sequence[Series], shape: tuple[int, int, int]) -> list[str]:
    chosen = {line.name: {stored.shape(row): row for row in line.rows} for line in lines}
    rows: list[Row] = [
        next((by[shape] for name, by in chosen.items() if name.startswith(u) and shape in by), {}) for u in UPDATES
    ]
    peak = max((row["peak_bytes"] for row in rows if row.get("peak_bytes")), default=None)
    return [
        *(f"{each:,}" for each in shape[1:]),
        timed(chosen.get("torch.sort", {}).get(shape, {}).get("seconds"), None),
        *(timed(row.get("seconds"), (row.get("ratio") or {}).get("median")) for row in rows),
        _a_score(peak, shape[1] + shape[2]),
        "",
    ]


def _a_score(size: float | None, scores: int) -> str:
    """Of a small ranking memory pages are seen, not its arrays."""
    return "" if size is None or scores < 1e5 else f"{size / scores:.0f}"


def _spaced(lines: Sequence[Series], low: float) -> list[tuple[int, int, int]]:
    """Shapes of more than ``low`` scores, from the largest down, a power of ten apart."""
    found: list[tuple[int, int, int]] = []
    until = float("inf")
    for shape in reversed(stored.shapes(row for line in lines for row in line.rows)):
        scores = shape[0] * (shape[1] + shape[2])
        if low < scores <= until / 9:
            found.append(shape)
            until = scores
    return found[::-1]


def put_into(text: str, section: str) -> str:
    """The guide with another section between its marks."""
    before, marked, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not marked or not closed:
        raise ValueError(f"the guide lacks the marks {START.strip()} and {END.strip()}")
    return before + START + section + END + after


def write(made: Page, out: Path) -> list[Path]:
    """The page and its pictures; pictures of an earlier page that it no longer shows go."""
    out.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(str(made), encoding="utf-8")
    for old in (out / "images").glob("bench-*.png"):
        if f"images/{old.name}" not in made.pictures:
            old.unlink()
    for file, draw in tqdm(made.pictures.items(), unit=" pictures", file=sys.stderr, disable=None):
        plots.save(draw(), out / file)
    return [out / PAGE, *(out / file for file in made.pictures)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of stored results (bench/results)")
    parser.add_argument("--out", type=Path, default=DOCS, help=f"folder of {PAGE} and images/ (docs)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--guide", type=Path, help="file with the table (the guide if the results are bench/results)")
    group.add_argument("--no-guide", action="store_true", help="leave the guide alone")
    options = parser.parse_args(arguments)
    guide: Path | None = options.guide
    if guide is None and not options.no_guide and options.results.resolve() == RESULTS.resolve():
        guide = GUIDE
    try:
        results = load(options.results)
        section = in_guide(results) if guide is not None else ""
    except NothingStoredError as error:
        print(f"bench.report: {error}.", file=sys.stderr)
        return 1
    for path in write(page.write(results, options.results, options.out), options.out):
        print(path)
    if guide is not None:
        guide.write_text(put_into(guide.read_text(encoding="utf-8"), section), encoding="utf-8")
        print(guide)
    return 0


if __name__ == "__main__":
    sys.exit(main())

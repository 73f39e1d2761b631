"""Stored results as a page: ``docs/benchmarks.md``, its pictures, and the table of ``docs/guide/performance.md``.

``python -m bench.page`` makes them of ``bench/results``, where the newest file of each kind and device counts. Nothing
is measured, and the same files give the same page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import estimates, figures, plots, store
from bench.environment import RESULTS, ROOT
from bench.figures import memory, number, of, timed, times_of
from bench.inputs import Shape
from bench.markdown import Page, machine, table, versions_of
from bench.store import Result, Row
from fastap.types import ONE_SIDED, UPDATES

DOCS = ROOT / "docs"
PAGE = "benchmarks.md"
GUIDE = DOCS / "guide" / "performance.md"
START, END = "<!-- speed -->\n", "\n<!-- /speed -->"

HEAD, KINDS, NO_GPU, REPRODUCE = (ROOT / "bench" / "page.md").read_text(encoding="utf-8").split("<!-- cut -->")

COMMANDS = {
    "suites": "python -m pytest bench --out DIR",
    "peers": "python -m bench.peers --out DIR",
    "gpu": "python -m bench.gpu --out DIR",
    "estimates": "python -m bench.estimates --out DIR",
}


class Section(NamedTuple):
    """One suite as a table: a line for each value of ``rows``, a column for each value of ``column``."""

    suite: str
    title: str
    says: str
    rows: tuple[str, ...]
    column: str = "work"


SHAPE = ("rankings", "P", "N")
SECTIONS = (
    Section("balance", "Share of positives", "From few positives to as many as negatives, at as many scores", SHAPE),
    Section("batches", "Batches", "Many rankings in one call", ("batch", *SHAPE)),
    Section(
        "ragged", "Layouts", "Many short queries: as rows, by offsets, or mixed with an id an item", ("layout", *SHAPE)
    ),
    Section(
        "noise",
        "Noise",
        "So many draws of noise in a call of the symmetric update, 0 without any",
        ("batch", *SHAPE),
        "draws",
    ),
    Section("epsilon", "Epsilon", "How much `epsilon`, the weight of AP against the scores, matters", ("epsilon",)),
    Section(
        "methods", "Methods", "The search (`auto`) and the paper's dynamic program (`dp`)", (*SHAPE, "work"), "method"
    ),
    Section("backends", "Backends", "The same call by each backend of this device", (*SHAPE, "work"), "backend"),
    Section("threads", "Threads", "The same call by so many CPU threads", (*SHAPE, "work"), "threads"),
    Section("directions", "Forward and backward", "The two halves of a call and the whole", ("work",), "direction"),
)
# P / N, to two digits.
BALANCES = {
    0.01: "one positive in a hundred",
    1.0: "as many positives as negatives",
    9.0: "nine positives to a negative",
}
SYMMETRIC_BOUND = 1.35  # times the dearer one-sided update
WORDS = {"both": "forward + backward"}


def write(results: Sequence[Result], folder: Path, out: Path) -> Page:
    """The page on results of ``folder``, for it to lie in ``out``."""
    page = Page(out)
    link = page.link(folder)
    page.add(HEAD.replace("{folder}", "its own folder" if link == "." else f"[{link.lstrip('./')}]({link})"))
    for device in dict.fromkeys(result.about["device"] for result in results):
        here = [result for result in results if result.about["device"] == device]
        suites, peers, gate, costs = (_first(here, kind) for kind in store.KINDS)
        page.add(f"## {device}")
        add_sources(page, here)
        if suites is not None:
            add_growth(page, device, suites.suite("growth"))
        if peers is not None:
            add_peers(page, peers)
        if suites is not None:
            for section in SECTIONS:
                add_section(page, section, suites.suite(section.suite))
            add_kinds(page, suites.suite("kinds"))
            add_updates(page, suites.suite("updates"))
        if gate is not None:
            add_gate(page, gate)
        if costs is not None:
            add_estimates(page, costs.rows)
    if not any(result.about["type"] == "cuda" for result in results):
        page.add(NO_GPU)
    page.add(REPRODUCE)
    return page


def _first(results: Sequence[Result], kind: str) -> Result | None:
    return next((each for each in results if each.kind == kind), None)


def add_sources(page: Page, results: Sequence[Result]) -> None:
    rows = []
    for result in results:
        about, file = result.about, f"[{result.kind}]({page.link(result.path)})"
        date, threads = about["date"].replace("T", " ").replace("+00:00", " UTC"), str(about.get("threads", ""))
        rows.append([file, date, about["commit"], threads, versions_of(about), f"`{COMMANDS[result.kind]}`"])
    processors = " and ".join(dict.fromkeys(result.about["cpu"] for result in results))
    says = f"The files that this section is made of; the processor of their machine is {processors}:"
    page.table(says, rows, ["file", "date", "commit", "CPU threads", "versions", "command"], 6)


def add_growth(page: Page, device: str, rows: Sequence[Row]) -> None:
    lines = figures.growth(rows)
    if not lines:
        return
    page.add("### Growth")
    title = f"One ranking of n scores on {device}"
    page.picture("time", device, "Time against n", lambda: plots.time_against_n(lines, title))
    body = []
    for n in dict.fromkeys(n for line in lines for n in line.rows):
        sort, *here = [line.rows.get(n, {}) for line in lines]
        peak = max((row["peak_bytes"] for row in here if "peak_bytes" in row), default=None)
        times = [timed(of(row, "seconds", "median"), of(row, "ratio", "median")) for row in here]
        body.append([f"{n:,}", f"{sort['P']:,}", timed(of(sort, "seconds", "median")), *times, _a_score(peak, n)])
    heads = ["scores", "P", "`torch.sort`", *(line.name for line in lines[1:]), "bytes a score, at most"]
    page.table("One ranking that grows, the share of its positives kept: time (ratio to `torch.sort`).", body, heads, 0)
    reach = "{0.low:,.0f} to {0.high:,.0f}"
    fits = [
        [line.name, f"{found.exponent:.3f}", f"{found.error:.3f}", reach.format(found), str(found.points)]
        for line in lines
        if (found := line.fit)
    ]
    low, high = figures.FIT_RANGE
    says = (
        "How time grows: the exponent of `time = c * scores^exponent` by least squares on logarithms, over the sizes "
        f"from {low:,.0f} to {high:,.0f} scores, and the standard error of it that the scatter about the line gives: "
        "on few sizes a rough figure, and exponents that differ by less than two of these errors are not told apart. "
        "At most 1.1 was to be reached."
    )
    if fits:
        page.table(says, fits, ["work", "exponent", "standard error", "scores", "sizes"])


def add_kinds(page: Page, rows: Sequence[Row]) -> None:
    """A table for each loss and share of positives: a line for each kind of scores."""
    if not rows:
        return
    page.add("### Kinds of scores", KINDS)
    sizes = sorted({figures.scores(row) for row in rows})
    heads = ["scores", "epsilon", *(f"{n:,}" for n in sizes), *(f"to Gaussian, {n:,}" for n in sizes[1:]), "exponent"]
    tables: dict[tuple[str, float], dict[tuple[str, int], Row]] = {}
    for row in rows:
        table = tables.setdefault((row["work"], round(row["P"] / row["N"], 2)), {})
        table[row["kind"], figures.scores(row)] = row
    for (work, ratio), found in tables.items():
        gaussian = [of(found.get(("gaussian", n), {}), "seconds", "median") for n in sizes]
        body = []
        for kind in dict.fromkeys(kind for kind, _ in found):
            here = [found.get((kind, n), {}) for n in sizes]
            times = [of(row, "seconds", "median") for row in here]
            pairs = zip(times, gaussian, strict=True)
            against = [f"{one / other:.2f}" if one and other else "" for one, other in pairs]
            fit = figures.fit([(n, one) for n, one in zip(sizes, times, strict=True) if one], 0)
            cells = [timed(one, of(row, "ratio", "median")) for one, row in zip(times, here, strict=True)]
            slowest = f"{next(row['epsilon'] for row in reversed(here) if row):.3g}"
            body.append([kind, slowest, *cells, *against[1:], f"{fit.exponent:.2f}" if fit else ""])
        page.table(f"`{work}`, {BALANCES[ratio]}:", body, heads)


def add_updates(page: Page, rows: Sequence[Row]) -> None:
    """The symmetric update beside the dearer of the two that it is the mean of, each timed by itself."""
    if not rows:
        return
    sizes = sorted({figures.scores(row) for row in rows})
    found = {(round(row["P"] / row["N"], 2), row["kind"], figures.scores(row), row["work"]): row for row in rows}
    page.add("### The symmetric update")
    for ratio in dict.fromkeys(key[0] for key in found):
        body, ratios = [], []
        for kind in dict.fromkeys(key[1] for key in found if key[0] == ratio):
            cells = []
            for size in sizes:
                times = [of(found.get((ratio, kind, size, work), {}), "seconds", "median") for work in UPDATES]
                one, other, both = times
                if not (one and other and both):
                    cells.append("")
                    continue
                ratios.append(both / max(one, other))
                cells.append(timed(both, ratios[-1]))
            body.append([kind, *cells])
        beyond = sum(each > SYMMETRIC_BOUND for each in ratios)
        says = (
            f"Time (ratio to the dearer of the positive and the negative update), {BALANCES[ratio]}. The median of the "
            f"ratios is {figures.median(ratios):.2f}; at most {SYMMETRIC_BOUND} was to be reached, {beyond} of "
            f"{len(ratios)} are above it. Each update was timed by itself, so a ratio has the machine's noise twice."
        )
        page.table(says, body, ["scores", *(f"{n:,}" for n in sizes)])


def add_peers(page: Page, peers: Result) -> None:
    """Other libraries and the methods of papers."""
    rows, cap = peers.rows, peers.facts["cap"]
    sizes = figures.sizes(rows)
    heads = [f"{p:,} + {n:,}" for p, n in sizes]
    page.add("### Other libraries and papers")
    page.add(
        "Each peer at each size ran in a process of its own, which could take "
        f"{cap['seconds']:g} s and {memory(cap['bytes'])} and also timed `torch.sort` and this library on the same "
        "scores. Losses are timed forward and backward and compared with both updates of `direct_ap_loss`, metrics "
        "with `average_precision`; every loss was to take longer."
    )
    page.add(
        "A ratio is the median, over rounds in which both were timed on the same scores, of the peer's time divided by "
        "the other's. *The slower update* is the one to which a peer's ratio is the smaller. The number of calls "
        f"stands beside a ratio that rests on fewer than {figures.FEW}: it is a rough one. Why one gave no time stands "
        "in the file, with the times themselves."
    )
    of_peers: dict[str, dict[figures.Size, Row]] = {}
    for row in rows:
        of_peers.setdefault(row["peer"], {})[row["P"], row["N"]] = row
    for gives, says in (
        ("gradient", "Losses: how many times as long as the slower of this library's two updates they take."),
        ("metric", "Metrics without a gradient: how many times as long as `average_precision` they take."),
    ):
        body = []
        for name, its in of_peers.items():
            one = next(iter(its.values()))
            if one["gives"] == gives:
                body.append([name, one["source"], *(_times_or_status(its.get(size)) for size in sizes)])
        if body:
            page.table(says, body, ["peer", "source", *heads], 2)
    ours = {size: {"bytes": figures.ours_at(rows, size)["bytes"]} for size in sizes}
    body = [
        [name, *(_memory(its.get(size, {}).get("bytes")) for size in sizes)]
        for name, its in {"fastap, the update that takes more": ours, **of_peers}.items()
    ]
    page.table("Peak memory of a call.", body, ["peer", *heads])
    body = []
    for name, its in of_peers.items():
        said = ["; ".join(dict.fromkeys(row[key] for row in its.values() if key in row)) for key in ("checked", "note")]
        body.append([name, said[0] or "nothing: it never got so far", said[1]])
    says = (
        "What was asserted of each peer on a small problem, in the process that timed it, and what about its work is "
        "not the same; there this library's updates were compared with the reference."
    )
    page.table(says, body, ["peer", "asserted", "what is different"], 3)


def _memory(size: float | None) -> str:
    return memory(size) if size else ""


def _times_or_status(row: Row | None) -> str:
    if row is None:
        return "not tried"
    found, calls = figures.ratio_to_ours(row), figures.few_calls(row)
    if found is None:
        return str(row["status"])
    return times_of(found) + (f" ({calls})" if calls else "")


def add_section(page: Page, section: Section, rows: Sequence[Row]) -> None:
    """Rows that agree in ``section.rows`` share a line; a shape that all of them have stands in the sentence."""
    if not rows:
        return
    keys = [*section.rows, *(name for name in SHAPE if name not in section.rows and figures.varies(rows, name))]
    if not figures.varies(rows, "rankings") and rows[0]["rankings"] == 1:
        keys = [key for key in keys if key != "rankings"]
    columns = list(dict.fromkeys(_column(row, section.column) for row in rows))
    lines: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in keys), {})[_column(row, section.column)] = row
    body = []
    for key, found in lines.items():
        sort = figures.median(row["sort"]["median"] for row in found.values())
        cells = [found.get(column, {}) for column in columns]
        times = [timed(of(row, "seconds", "median"), of(row, "ratio", "median")) for row in cells]
        body.append([*map(_shown, key), timed(sort), *times])
    heads = [*(WORDS.get(key, key) for key in keys), "`torch.sort`", *columns]
    same = "" if set(SHAPE) & set(keys) else f"; {_in_shape(rows[0])}"
    left = next((number for number, key in enumerate(keys) if key in SHAPE), len(keys))
    page.add(f"### {section.title}")
    page.table(f"{section.says}{same}: time (ratio to `torch.sort`).", body, heads, left)
    body = []
    for key, found in lines.items():
        cells = [_a_score(row.get("peak_bytes"), figures.scores(row)) if (row := found.get(c)) else "" for c in columns]
        if any(cells):
            body.append([*map(_shown, key), *cells])
    if body:
        page.table("The same: memory at its peak, in bytes a score.", body, [*heads[: len(keys)], *columns], left)


def _in_shape(row: Row) -> str:
    return f"P = {row['P']:,}, N = {row['N']:,}"


def _column(row: Row, field: str) -> str:
    """``negative``, ``dp``, ``2 threads``."""
    words = WORDS.get(str(row[field]), _shown(row[field]))
    return words if field != "threads" else "1 thread" if row[field] == 1 else f"{words} threads"


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value or "")


def add_gate(page: Page, gate: Result) -> None:
    """Tests, targets and times of ``bench.gpu``."""
    facts, tests = gate.facts, gate.facts["tests"]
    page.add("### GPU: tests, targets, times")
    outcome = f"skipped {tests['skipped']}"
    if "green" in tests:
        skipped = "".join(f"; {number} skipped ({reason})" for reason, number in tests["skipped"].items())
        outcome = f"{tests['passed']} passed, {len(tests['failed'])} failed{skipped}"
    page.add(f"The tests on this GPU before anything was timed: {outcome}.")
    if not gate.rows:
        return
    says = "What the kernels were to reach and what they did:"
    page.table(says, facts.get("targets", []), ["what", "target", "measured", "verdict"], 4)
    body = []
    for row in gate.rows:
        keys = ("median", "p10", "p90", "host")
        times = [timed(row.get(key)) for key in keys] if "error" not in row else [str(row["error"]), *[""] * 3]
        rates = [f"{row[key]:.4g}" if key in row else "" for key in ("GB/s", "cells a second", "bytes a score")]
        body.append([row["case"], row["work"], *times, *rates])
    says = (
        "GPU time of a call with a cold L2 cache, the time until the call returns (host), the bandwidth by the bytes "
        "that must move, the dynamic program's cells, and peak memory:"
    )
    heads = ["rankings", "work", "time", "p10", "p90", "host", "GB/s", "cells a second", "bytes a score"]
    page.table(says, body, heads, 2)


def add_estimates(page: Page, rows: Sequence[Row]) -> None:
    """What ``bench.estimates`` counted: of each call, and of each kernel of the largest one."""
    whole = [row for row in rows if row["kernel"] == estimates.WHOLE]
    counted = ("instructions", "float64", "sectors")
    columns = (*counted, "bytes", "allocations", "launches")
    body = []
    for row in whole:
        shape = str(Shape(row["rankings"], row["P"], row["N"]))
        counts = [number(row[key]) for key in columns]
        share = estimates.SECTOR * row["sectors"] * figures.scores(row) / row["seconds"] / estimates.BANDWIDTH
        consumer = row["float64"] * figures.scores(row) / estimates.CONSUMER_FLOAT64
        body.append([shape, row["kind"], row["work"], *counts, timed(row["seconds"]), f"{share:.0%}", timed(consumer)])
    says = (
        "**Estimates, not yet measured on hardware.** An emulated GPU runs the kernels as they are compiled for an "
        "H100 and counts; the times are derived from the counts, from latencies and from how many blocks fit on a "
        "multiprocessor. Counts are per score: instructions of a thread, those of float64 among them, sectors of 32 "
        "bytes that are read or written, and bytes of `torch.empty` over the whole call, gradient and keys of the sort "
        "included. PyTorch's sort of long rankings is not among the times. Of bandwidth: what all sectors, cached or "
        "not, are of the 3.35 TB/s that an H100's memory gives. The last column is what the instructions of float64 "
        "alone take at the rate of an RTX 4090, 1/64 of float32, where an H100 has 1/2; there no call takes less."
    )
    heads = ["rankings", "kind", "work", *columns, "estimated time", "of bandwidth", "float64 of an RTX 4090"]
    page.table(says, body, heads, 3)

    largest = max((row for row in whole if row["work"] == UPDATES[-1]), key=lambda row: row["N"])  # of all updates
    works: dict[str, dict[str, Row]] = {}
    for row in rows:
        if figures.scores(row) == figures.scores(largest) and row["kernel"] != estimates.WHOLE:
            works.setdefault(row["kernel"], {})[row["work"]] = row
    body = []
    for kernel, by_work in works.items():
        row = next(iter(by_work.values()))
        times = [timed(of(by_work.get(update, {}), "seconds")) for update in UPDATES]
        body.append([kernel, *(number(row[key]) for key in (*counted, "conflicts")), *times])
    shape = Shape(largest["rankings"], largest["P"], largest["N"])
    says = f"Each kernel of {shape}: counts per score, of the first update that has it; estimated times of all updates."
    page.table(says, body, ["kernel", *counted, "bank conflicts", *UPDATES])


def in_guide(results: Sequence[Result]) -> str:
    """What stands between the marks of the guide: a table a device, and a line on the machine."""
    parts = []
    for device in dict.fromkeys(result.about["device"] for result in results):
        here = [result for result in results if result.about["device"] == device]
        suites, peers = _first(here, "suites"), _first(here, "peers")
        if suites is None or peers is None:
            continue
        sources = dict.fromkeys(machine(result.about) for result in (suites, peers))
        parts += [short_table(suites, peers), f"Measured on {'; peers on '.join(sources)}."]
    parts.append(
        "In brackets: the ratio to `torch.sort`; in the last column the nearest of the other losses and how many times "
        "as long as this library's slower update it takes. Rows with another loss are medians over the processes of "
        "all peers, in each of which this library and the sort took turns with one peer. More figures, pictures, what "
        "was checked, and how to measure again: [Benchmarks](../benchmarks.md)."
    )
    return "\n\n".join(parts)


def short_table(suites: Result, peers: Result) -> str:
    """The sizes at which peers are compared, and ten times the largest of them from the growth suite."""
    body = []
    sizes = figures.sizes(peers.rows)
    for size in sizes:
        ours, nearest = figures.ours_at(peers.rows, size), figures.fastest_peer(peers.rows, size)
        times = [timed(ours[f"fastap {update}"], ours[f"{update} to sort"]) for update in ONE_SIDED]
        words = "" if nearest is None else f"{nearest[0]} ({times_of(nearest[1])})"
        body.append(
            [f"{size[0]:,}", f"{size[1]:,}", timed(ours["sort"]), *times, _a_score(ours["bytes"], sum(size)), words]
        )
    lines = {line.name: line.rows for line in figures.growth(suites.suite("growth"))}
    largest = max(lines["torch.sort"])
    if largest > 3 * sum(sizes[-1]):
        rows = [lines[update][largest] for update in ONE_SIDED]
        times = [timed(row["seconds"]["median"], row["ratio"]["median"]) for row in rows]
        peak = max((row["peak_bytes"] for row in rows if "peak_bytes" in row), default=None)
        sort = timed(lines["torch.sort"][largest]["seconds"]["median"])
        body.append([f"{rows[0]['P']:,}", f"{rows[0]['N']:,}", sort, *times, _a_score(peak, largest), ""])
    return table(body, ["P", "N", "`torch.sort`", *ONE_SIDED, "bytes a score", "nearest other loss"], 0)


def _a_score(size: float | None, scores: int) -> str:
    """Of a small ranking memory pages are seen, not its arrays."""
    return "" if size is None or scores < 1e5 else f"{size / scores:.0f}"


def put_into(text: str, section: str) -> str:
    """The guide with another section between its marks."""
    before, marked, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not marked or not closed:
        raise ValueError(f"the guide lacks the marks {START.strip()} and {END.strip()}")
    return before + START + section + END + after


def save(made: Page, out: Path) -> None:
    """The page and its pictures; pictures of an earlier page that it no longer shows go."""
    out.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(str(made), encoding="utf-8")
    for old in (out / "images").glob("bench-*.png"):
        if f"images/{old.name}" not in made.pictures:
            old.unlink()
    for file, draw in made.pictures.items():
        plots.save(draw(), out / file)
        print(out / file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of stored results (bench/results)")
    parser.add_argument("--out", type=Path, default=DOCS, help=f"folder of {PAGE} and images/ (docs, with the guide)")
    options = parser.parse_args(arguments)
    results = store.newest(options.results)
    if not results:
        print(f"bench.page: no results are stored in {options.results}; `make bench` makes some.", file=sys.stderr)
        return 1
    save(write(results, options.results, options.out), options.out)
    if options.out.resolve() == DOCS.resolve():
        GUIDE.write_text(put_into(GUIDE.read_text(encoding="utf-8"), in_guide(results)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The page of all results: a section a device."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import page_gpu, page_peers, plots, stored
from bench.markdown import Page, timed, versions_of
from bench.stored import Result, Row, Series

HEAD = """# Benchmarks

Made by `python -m bench.report` from the files in {folder}; every figure below is computed from them, none is written
by hand.

**Words.** A ranking has P positives and N negatives. Every call gets fresh scores. *positive* and *negative* are the
updates of `direct_ap_loss`, *hinge* is `ap_hinge_loss`, *perceptron* is `ap_perceptron_loss`, each forward and
backward; *metric* is `average_precision`. A time is a median; in brackets stands its ratio to
`torch.sort(scores, descending=True)` of the same scores, the two taken in turns in one process (the median over these
pairs). Memory is the peak beyond the inputs and their gradient.

**Checks.** In the run that timed it, each of this library's calls in the suites was first compared with a reference
implementation or the dynamic program, on a smaller problem where the whole one is too large for that; what was compared
is in the file, as `checked` of each benchmark. Of other libraries less is asserted, and not of all the same: a table
says what. What `bench.gpu` and `bench.profile` time they check by themselves."""

NO_GPU = """## GPU

No result of a GPU is stored. On a machine with an NVIDIA GPU, `python -m bench.gpu --out {folder}` tests and times the
kernels, `python -m bench.profile --rows 80 --items 1024 --positives 20 --update negative --out {folder}` measures the
bandwidth of a copy and what each kernel makes of it, and `python -m bench.report` then adds tables and the roofline."""

REPRODUCE = """## Measuring it again

`make bench` installs what is needed into `.venv` and runs everything that a CPU can, in at most ten minutes on two
cores; the page of its figures is `bench/out/benchmarks.md`. The parts alone:

```
python -m pytest bench --benchmark-json=FILE    # the suites; options of pytest-benchmark apply
python -m bench.peers --out DIR                 # other libraries, each in a process of its own
python -m bench.profile --out DIR               # one call, by kernel (on a CPU by operator)
python -m bench.gpu --out DIR                   # tests and times on an NVIDIA GPU
python -m bench.report                          # this page and the guide's table
python -m bench.compare OLD.json NEW.json       # what became slower between two files
```"""

COMMANDS = {
    "suites": "python -m pytest bench --benchmark-json=FILE",
    "peers": "python -m bench.peers --out DIR",
    "gpu": "python -m bench.gpu --out DIR",
}


class Section(NamedTuple):
    """One suite as a table: a line for each value of ``rows``, a column for each of ``columns`` and of what differs."""

    suite: str
    title: str
    says: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ("work",)


SHAPE = ("rankings", "P", "N")
SECTIONS = (
    Section("balance", "Share of positives", "From few positives to as many as negatives, at as many scores", SHAPE),
    Section("batches", "Batches", "Many rankings in one call", ("batch", *SHAPE)),
    Section(
        "ragged", "Layouts", "Many short queries: as rows, by offsets, or mixed with an id an item", ("layout", *SHAPE)
    ),
    Section("distributions", "Distributions", "Scores that are hard to rank, a line for each kind of them", ("kind",)),
    Section("epsilon", "Epsilon", "How much `epsilon`, the weight of AP against the scores, matters", ("epsilon",)),
    Section(
        "methods",
        "Methods",
        "The search (`auto`) and the paper's dynamic program (`dp`)",
        (*SHAPE, "work"),
        ("method",),
    ),
    Section("backends", "Backends", "The same call by each backend of this device", (*SHAPE, "work"), ("backend",)),
    Section("threads", "Threads", "The same call by so many CPU threads", (*SHAPE, "work"), ("threads",)),
    Section("directions", "Forward and backward", "The two halves of a call and the whole", ("work",), ("direction",)),
)
OTHERS = ("update", "epsilon", "method", "backend", "dtype", "kind", "threads")  # shown where they differ
WORDS = {"kind": "scores", "both": "forward + backward"}


def write(results: Sequence[Result], folder: Path, out: Path) -> Page:
    """The page on results of ``folder``, for it to lie in ``out``."""
    page = Page(out)
    page.add(HEAD.format(folder=_folder(page, folder)))
    for device in dict.fromkeys(result.about["device"] for result in results):
        of_device = [result for result in results if result.about["device"] == device]
        suites, peers = (next((each for each in of_device if each.kind == kind), None) for kind in ("suites", "peers"))
        page.add(f"## {device}")
        add_sources(page, of_device)
        add_targets(page, suites, peers)
        add_growth(page, device, suites, peers)
        if peers is not None:
            page_peers.add(page, device, peers)
        if suites is not None:
            for section in SECTIONS:
                add_section(page, section, suites.suite(section.suite))
            add_stages(page, device, suites.suite("stages"))
        page_gpu.add(page, device, of_device)
    if not any(result.about["type"] == "cuda" for result in results):
        page.add(NO_GPU.format(folder="bench/results"))
    page.add(REPRODUCE)
    return page


def _folder(page: Page, folder: Path) -> str:
    """A link, unless the page lies in the folder."""
    link = page.link(folder)
    return "its own folder" if link == "." else f"[{link.lstrip('./')}]({link})"


def command_of(result: Result) -> str:
    if result.kind != "profile":
        return COMMANDS[result.kind]
    words = []
    for name, value in result.data["call"].items():
        if value not in (None, False, "auto"):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(["python", "-m", "bench.profile", *words])


def add_sources(page: Page, results: Sequence[Result]) -> None:
    rows = [
        [
            f"[{result.kind}]({page.link(result.path)})",
            result.about["date"].replace("T", " ").replace("+00:00", " UTC"),
            result.about["commit"],
            str(result.about.get("threads", "")),
            versions_of(result.about),
            f"`{command_of(result)}`",
        ]
        for result in results
    ]
    processors = " and ".join(dict.fromkeys(result.about["cpu"] for result in results))
    says = f"The files that this section is made of; the processor of their machine is {processors}:"
    page.table(says, rows, ["file", "date", "commit", "CPU threads", "versions", "command"], len(rows[0]))


def add_targets(page: Page, suites: Result | None, peers: Result | None) -> None:
    found = stored.judge_growth(stored.growth(suites.suite("growth"))) if suites is not None else []
    found += stored.judge_peers(peers.rows) if peers is not None else []
    if not found:
        return
    met = sum(each.verdict == "met" for each in found)
    page.add("### Targets")
    says = (
        f"What this library was to reach and what it did reach, by the tables below ({met} of {len(found)} met; of an "
        "exponent the estimate decides, beside which stands its standard error):"
    )
    page.table(says, found, ["what", "target", "measured", "verdict"], 4)


def add_growth(page: Page, device: str, suites: Result | None, peers: Result | None) -> None:
    lines = stored.growth(suites.suite("growth")) if suites is not None else []
    of_peers = peers.rows if peers is not None else []
    cap = peers.data["cap"]["bytes"] if peers is not None else None
    remembered = any(row.get("peak_bytes") for line in lines for row in line.rows)
    if lines:
        title = f"One ranking of n scores on {device}"
        page.add("### Growth")
        page.picture("time", device, "Time against n", lambda: plots.time_against_n(lines, title))
        page.picture("ratio", device, "Ratio to torch.sort against n", lambda: plots.ratio_against_n(lines, title))
    if remembered or any(row.get("bytes") for row in of_peers):
        page.add("" if lines else "### Memory")
        title_of_memory = f"Peak memory on {device}"
        page.picture(
            "memory", device, "Peak memory against n",
            lambda: plots.memory_against_n(lines, of_peers, cap, title_of_memory),
        )  # fmt: skip
    if lines:
        add_growth_tables(page, lines, remembered)


def add_growth_tables(page: Page, lines: Sequence[Series], remembered: bool) -> None:
    by_size = {line.name: {stored.shape(row): row for row in line.rows} for line in lines}
    body = []
    for shape in stored.shapes(row for line in lines for row in line.rows):
        of_shape = [rows.get(shape, {}) for rows in by_size.values()]
        cells = [timed(row.get("seconds"), (row.get("ratio") or {}).get("median")) for row in of_shape]
        if remembered:
            peaks = (row["peak_bytes"] / stored.scores(row) for row in of_shape if row.get("peak_bytes"))
            peak = max(peaks, default=None)
            cells.append("" if peak is None else f"{peak:.0f}")
        body.append([f"{shape[1] + shape[2]:,}", f"{shape[1]:,}", *cells])
    heads = ["scores", "P", *(f"`{line.name}`" if line.name == "torch.sort" else line.name for line in lines)]
    heads += ["bytes a score, at most"] if remembered else []
    page.table("One ranking that grows, the share of its positives kept: time (ratio to `torch.sort`).", body, heads, 0)
    fits = [
        [
            line.name,
            f"{found.exponent:.3f}",
            "" if found.error is None else f"{found.error:.3f}",
            f"{found.low:,.0f} to {found.high:,.0f}",
            str(found.points),
        ]
        for line in lines
        if (found := line.fit) is not None
    ]
    low, high = stored.FIT_RANGE
    says = (
        "How time grows: the exponent of `time = c * scores^exponent` by least squares on logarithms, over the sizes "
        f"from {low:,.0f} to {high:,.0f} scores, and the standard error of it that the scatter about the line gives: "
        "on few sizes a rough figure, and exponents that differ by less than two of these errors are not told apart."
    )
    if fits:
        page.table(says, fits, ["work", "exponent", "standard error", "scores", "sizes"])


def add_section(page: Page, section: Section, rows: Sequence[Row]) -> None:
    """Rows that agree in ``section.rows`` share a line; a shape that all of them have stands in the sentence."""
    if not rows:
        return
    keys = [*section.rows, *(name for name in stored.varying(rows, SHAPE) if name not in section.rows)]
    if set(SHAPE) <= set(keys) and not stored.varying(rows, ["rankings"]) and rows[0].get("rankings", 1) == 1:
        keys.remove("rankings")
    fields = [*section.columns, *stored.varying(rows, (name for name in OTHERS if name not in keys))]
    columns = list(dict.fromkeys(_column(row, fields) for row in rows))
    lines: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in keys), {})[_column(row, fields)] = row
    body = []
    for key, found in lines.items():
        sort = stored.median((row.get("sort") or {}).get("median") for row in found.values())
        cells = [found.get(column, {}) for column in columns]
        times = [timed(row.get("seconds"), (row.get("ratio") or {}).get("median")) for row in cells]
        body.append([*map(_shown, key), timed(sort, None), *times])
    heads = [*(WORDS.get(key, key) for key in keys), "`torch.sort`", *columns]
    same = "" if set(SHAPE) & set(keys) else f"; {stored.in_shape(rows[0])}"
    page.add(f"### {section.title}")
    left = next((number for number, key in enumerate(keys) if key in SHAPE), len(keys))
    page.table(f"{section.says}{same}: time (ratio to `torch.sort`).", body, heads, left)


def _column(row: Row, fields: Sequence[str]) -> str:
    """``negative``, ``dp``, ``2 threads``: the values of these fields."""
    parts = []
    for field in dict.fromkeys(fields):
        value = row.get(field)
        if value is not None:
            words = WORDS.get(str(value), _shown(value))
            if field == "threads":
                words += " thread" if value == 1 else " threads"
            parts.append(f"{field} {words}" if field == "epsilon" else words)
    return ", ".join(parts)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value or "")


def add_stages(page: Page, device: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    fields = ("update", *stored.varying(rows, ("epsilon", "kind", "backend", "method")))
    cases: dict[str, dict[str, float]] = {}
    for row in sorted(rows, key=stored.scores):
        named = {**row, "work": stored.in_shape(row)}
        cases.setdefault(stored.label(named, fields), {})[row["work"]] = row["seconds"]
    stages = _in_order([list(parts) for parts in cases.values()])
    stacks = [
        (name, {work: parts[work] for work in stages if work in parts}, parts.get("whole"))
        for name, parts in cases.items()
    ]
    body = [
        [
            name,
            *(timed(parts.get(work), None) for work in stages),
            timed(sum(parts.values()), None),
            timed(whole, None),
        ]
        for name, parts, whole in stacks
    ]
    page.add("### Stages")
    page.picture("stages", device, "Time of each stage", lambda: plots.stages(stacks, f"Stages of a call on {device}"))
    says = (
        "Each stage of a call alone, their sum, and the whole call, which also does what lies between the stages: time."
    )
    page.table(says, body, ["case", *stages, "sum", "whole"])


def _in_order(cases: Sequence[Sequence[str]]) -> list[str]:
    """All stages but the whole; one that only some cases have stands where it stands there."""
    found: list[str] = []
    for works in cases:
        place = 0
        for work in works:
            if work == "whole":
                continue
            if work not in found:
                found.insert(place, work)
            place = found.index(work) + 1
    return found

"""Stored results: which of the files count, and the numbers drawn from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.inputs import PEER_SHAPES

Row = dict[str, Any]

KINDS = ("suites", "peers", "profile", "gpu")
UPDATES = ("positive", "negative")
WORKS = ("fastap positive", "fastap negative", "fastap metric")  # timed beside every peer
FIT_RANGE = (1e5, 1e7)  # scores
FEW = 5  # calls; fewer are named beside the time
LARGEST_EXPONENT = 1.1  # from the first to the last of that range


@dataclass(frozen=True)
class Result:
    """One stored file."""

    kind: str
    path: Path
    about: dict[str, Any]  # of bench.environment.about
    data: dict[str, Any]

    @property
    def subject(self) -> str:
        """What other files of its kind and device measure as well; only calls of the profiler differ in it."""
        return json.dumps(self.data.get("call", {}), sort_keys=True)

    @property
    def rows(self) -> list[Row]:
        """Of peers."""
        return list(self.data["rows"])

    def suite(self, name: str) -> list[Row]:
        """The benchmarks of one suite: their ``extra_info``, with the median of their time as ``seconds``."""
        return [
            {**each["extra_info"], "seconds": each["stats"]["median"]}
            for each in self.data["benchmarks"]
            if each["extra_info"].get("suite") == name
        ]


def read(path: Path) -> Result | None:
    """A file's result; None if it is of none of the kinds."""
    kind = path.name.split("-")[0]
    if kind not in KINDS:
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if kind == "suites":
        about = data["machine_info"]["fastap"]
    elif kind == "gpu":
        about = {"type": "cuda", **{key: data[key] for key in ("device", "cpu", "versions", "commit", "date")}}
    else:
        about = data["about"]
    return Result(kind, path, about, data)


def newest(folder: Path) -> list[Result]:
    """Of each kind, device and subject the newest file of a folder; CPUs first, in an order of their own."""
    chosen: dict[tuple[str, str, str], Result] = {}
    for path in sorted(folder.glob("*.json")):
        result = read(path)
        if result is None:
            continue
        key = (result.about["device"], result.kind, result.subject)
        if key not in chosen or result.about["date"] > chosen[key].about["date"]:
            chosen[key] = result
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(
        chosen.values(),
        key=lambda each: (each.about["type"] != "cpu", each.about["device"], order[each.kind], each.subject),
    )


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [each for each in values if each is not None]
    return float(np.median(known)) if known else None


def varying(rows: Sequence[Row], fields: Iterable[str]) -> list[str]:
    """The fields in which rows differ; where one says nothing of a field, it does not differ in it."""
    return [field for field in fields if len({row[field] for row in rows if row.get(field) is not None}) > 1]


def shape(row: Row) -> tuple[int, int, int]:
    return row.get("rankings", 1), row["P"], row["N"]


def scores(row: Row) -> int:
    return int(row.get("rankings", 1) * (row["P"] + row["N"]))


def shapes(rows: Iterable[Row]) -> list[tuple[int, int, int]]:
    """Those that occur, by their scores."""
    return sorted({shape(row) for row in rows}, key=lambda each: (each[0] * (each[1] + each[2]), each))


def in_shape(row: Row) -> str:
    rankings = row.get("rankings", 1)
    return f"{f'{rankings:,} rankings of ' if rankings > 1 else ''}P = {row['P']:,}, N = {row['N']:,}"


class Fit(NamedTuple):
    """``seconds = factor * scores ** exponent`` by least squares on their logarithms."""

    exponent: float
    factor: float
    low: float
    high: float
    points: int
    error: float | None  # standard error of the exponent, which two points do not give

    @property
    def words(self) -> str:
        """``1.04 ± 0.02``, with a third decimal where an exponent is that near to the largest."""
        near = round(self.exponent, 2) == LARGEST_EXPONENT
        found = f"{self.exponent:.3f}" if near else f"{self.exponent:.2f}"
        return found if self.error is None else f"{found} ± {self.error:.2f}"


def fit(points: Iterable[tuple[float, float]], low: float = FIT_RANGE[0], high: float = FIT_RANGE[1]) -> Fit | None:
    """Of ``(scores, seconds)`` with ``low <= scores <= high``; None where that leaves one size or none."""
    within = [point for point in points if low <= point[0] <= high]
    sizes = {size for size, _ in within}
    if len(sizes) < 2:
        return None
    n, seconds = np.log(np.array(within, dtype=float)).T
    exponent, constant = np.polyfit(n, seconds, 1)
    error = None
    if len(within) > 2:
        left = seconds - exponent * n - constant
        error = float(np.sqrt(left @ left / (len(within) - 2) / np.sum((n - n.mean()) ** 2)))
    return Fit(float(exponent), float(np.exp(constant)), min(sizes), max(sizes), len(within), error)


@dataclass(frozen=True)
class Series:
    """One line of the pictures of growth, by number of scores."""

    name: str
    rows: list[Row]

    @property
    def scores(self) -> list[int]:
        return [scores(row) for row in self.rows]

    @property
    def seconds(self) -> list[float]:
        return [row["seconds"] for row in self.rows]

    @property
    def fit(self) -> Fit | None:
        return fit(zip(self.scores, self.seconds, strict=True))


def label(row: Row, fields: Iterable[str]) -> str:
    """``positive, epsilon 0.1``: what is timed, and where it stands in the fields that make a difference."""
    parts = [str(row["work"])]
    for field in fields:
        value = row.get(field)
        if value is not None:
            parts.append(f"{field} {value:g}" if isinstance(value, float) else str(value))
    return ", ".join(parts)


def growth(rows: Sequence[Row]) -> list[Series]:
    """The lines of the growth suite, ``torch.sort`` (the median over the benchmarks of each size) first."""
    fields = varying(rows, ("epsilon", "method", "backend", "threads", "dtype", "kind"))
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=scores):
        lines.setdefault(label(row, fields), []).append(row)
    sort = []
    for size in shapes(rows):
        seconds = median(row["sort"]["median"] for row in rows if shape(row) == size and row.get("sort"))
        if seconds is not None:
            sort.append({"rankings": size[0], "P": size[1], "N": size[2], "work": "torch.sort", "seconds": seconds})
    return [*([Series("torch.sort", sort)] if sort else []), *(Series(name, line) for name, line in lines.items())]


def ratio(row: Row, other: str) -> float | None:
    """How many times as long as ``other`` (a key of the row: ``"sort"``, ``"fastap positive"``) a peer took.

    The median over rounds of both where the row has it, else (in older files) the quotient of the two medians.
    """
    if row["status"] != "ok":
        return None
    stored = (row.get("ratio") or {}).get("median") if other == "sort" else (row.get("times") or {}).get(other)
    if stored is not None:
        return float(stored)
    ours, theirs = row.get(other), row.get("seconds")
    return theirs["median"] / ours["median"] if ours and theirs else None


def is_paired(rows: Iterable[Row]) -> bool:
    """Whether every peer that has a time has ratios of paired rounds."""
    return all(row.get("ratio") and row.get("times") for row in rows if row["status"] == "ok")


def few_calls(row: Row) -> str:
    """``1 call``: what a time rests on where that is little; empty elsewhere."""
    calls = (row.get("seconds") or {}).get("calls", FEW)
    return "" if calls >= FEW else "1 call" if calls == 1 else f"{calls} calls"


def ratio_to_ours(row: Row) -> float | None:
    """To the slower of the two updates, or to the metric where the peer is one."""
    works = ("fastap metric",) if row["gives"] == "metric" else tuple(f"fastap {update}" for update in UPDATES)
    found = [ratio(row, work) for work in works]
    known = [each for each in found if each is not None]
    return min(known) if len(known) == len(works) else None


def sizes(rows: Iterable[Row]) -> list[tuple[int, int]]:
    return sorted({(row["P"], row["N"]) for row in rows}, key=lambda size: (sum(size), size))


def of_size(rows: Iterable[Row], size: tuple[int, int]) -> list[Row]:
    return [row for row in rows if (row["P"], row["N"]) == size]


def names(rows: Iterable[Row], gives: str) -> list[str]:
    """The peers that give a gradient (or a metric), in the order of the file."""
    return list(dict.fromkeys(row["peer"] for row in rows if row["gives"] == gives))


def ours_at(rows: Sequence[Row], size: tuple[int, int]) -> dict[str, float | None]:
    """At one size, medians over the peers' processes: of ``torch.sort``, of the updates, and of their memory.

    ``positive to sort`` and ``negative to sort`` are medians of the processes' own ratios.
    """
    here = of_size(rows, size)
    found = {key: median((row.get(key) or {}).get("median") for row in here) for key in ("sort", *WORKS)}
    taken = [median((row.get(key) or {}).get("bytes") for row in here) for key in WORKS[:2]]
    known = [each for each in taken if each is not None]
    ratios = {
        f"{update} to sort": median(
            row[work]["median"] / row["sort"]["median"] for row in here if row.get(work) and row.get("sort")
        )
        for update, work in zip(UPDATES, WORKS, strict=False)
    }
    return {**found, **ratios, "bytes": max(known) if known else None}


def fastest_peer(rows: Iterable[Row], size: tuple[int, int]) -> tuple[str, float] | None:
    """The peer with a gradient that comes nearest to the slower update, and how many times slower it is."""
    known = [
        (found, row["peer"])
        for row in of_size(rows, size)
        if row["gives"] == "gradient" and (found := ratio_to_ours(row)) is not None
    ]
    return min(known)[::-1] if known else None


class Verdict(NamedTuple):
    """What was to be reached, and what was."""

    what: str
    target: str
    figure: str
    verdict: str  # "met", "missed", "not measured"


def judge_growth(lines: Iterable[Series]) -> list[Verdict]:
    verdicts = []
    low, high = FIT_RANGE
    for line in lines:
        if line.name == "torch.sort":
            continue
        what = f"growth of {line.name} from {low:.0e} to {high:.0e} scores".replace("e+0", "e")
        found = line.fit
        target = f"exponent at most {LARGEST_EXPONENT:g}"
        if found is None or found.low > 1.1 * low or found.high < 0.9 * high:
            verdicts.append(Verdict(what, target, "", "not measured"))
        else:
            verdict = "met" if found.exponent <= LARGEST_EXPONENT else "missed"
            verdicts.append(Verdict(what, target, found.words, verdict))
    return verdicts


def judge_peers(rows: Sequence[Row]) -> list[Verdict]:
    """At every size and for both updates: is each peer that has a gradient slower?"""
    verdicts = []
    asked = [{"P": shape.positives, "N": shape.negatives} for shape in PEER_SHAPES]
    for size, update in ((size, update) for size in sizes([*rows, *asked]) for update in UPDATES):
        what = f"P = {size[0]:,}, N = {size[1]:,}: {update} update"
        peers = [row for row in of_size(rows, size) if row["gives"] == "gradient"]
        found = sorted((times, row["peer"]) for row in peers if (times := ratio(row, f"fastap {update}")) is not None)
        if not found:
            verdicts.append(Verdict(what, _FASTER, "", "not measured"))
            continue
        faster = [f"{name} takes {times:.2f} times as long" for times, name in found if times <= 1]
        nearest = f"nearest of {len(found)} is {found[0][1]}, {times_of(found[0][0])} times as long"
        silent = len(peers) - len(found)
        rest = f"; {silent} gave no time" if silent else ""
        verdicts.append(Verdict(what, _FASTER, ("; ".join(faster) or nearest) + rest, "missed" if faster else "met"))
    return verdicts


_FASTER = "faster than every peer that has a gradient"


def duration(seconds: float) -> str:
    """Three figures and a unit."""
    if seconds < 5e-8:
        return "< 0.1 us"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size or unit == "us":
            return f"{_three(seconds / size)} {unit}"
    raise AssertionError


def memory(size: float) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{_three(size / 2**power)} {unit}"
    return f"{size:.0f} B"


def times_of(factor: float) -> str:
    """Two decimals below 10, one below 100, none above."""
    return f"{factor:.2f}" if factor < 9.995 else f"{factor:.1f}" if factor < 99.95 else f"{factor:,.0f}"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def in_words(row: Row) -> str:
    """What kept a peer from giving a time; empty where nothing did."""
    status, reason = row["status"], row.get("reason") or ""
    if status == "ok":
        return ""
    return f"{status}: {reason}" if reason and reason != status else status

"""The numbers drawn from stored results, and how a number is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.store import Row
from fastap.types import ONE_SIDED

WORKS = ("fastap positive", "fastap negative", "fastap metric")  # timed beside every peer
FIT_RANGE = (1e5, 1e7)  # scores
FEW = 5  # calls; fewer are named beside the time

Size = tuple[int, int]  # P and N


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [each for each in values if each is not None]
    return float(np.median(known)) if known else None


def of(row: Row, *path: str) -> float | None:
    """An entry of an entry; None where one of them is missing."""
    for key in path:
        if key not in row:
            return None
        row = row[key]
    return row  # type: ignore[return-value]


def varies(rows: Sequence[Row], field: str) -> bool:
    return len({row.get(field) for row in rows} - {None}) > 1


def scores(row: Row) -> int:
    return int(row.get("rankings", 1) * (row["P"] + row["N"]))


class Fit(NamedTuple):
    """``seconds = factor * scores ** exponent`` by least squares on their logarithms."""

    exponent: float
    factor: float
    low: float
    high: float
    points: int
    error: float  # standard error of the exponent


def fit(points: Iterable[tuple[float, float]], least: float = FIT_RANGE[0]) -> Fit | None:
    """Of ``(scores, seconds)`` from ``least`` scores to the end of the fit; None where that leaves fewer than three."""
    within = sorted(point for point in points if least <= point[0] <= FIT_RANGE[1])
    if len(within) < 3:
        return None
    n, seconds = np.log(np.array(within, dtype=float)).T
    exponent, constant = np.polyfit(n, seconds, 1)
    left = seconds - exponent * n - constant
    error = float(np.sqrt(left @ left / (len(within) - 2) / np.sum((n - n.mean()) ** 2)))
    return Fit(float(exponent), float(np.exp(constant)), within[0][0], within[-1][0], len(within), error)


@dataclass(frozen=True)
class Series:
    """One work of the growth suite, a row a number of scores."""

    name: str
    rows: dict[int, Row]

    @property
    def fit(self) -> Fit | None:
        return fit((n, row["seconds"]["median"]) for n, row in self.rows.items())


def growth(rows: Sequence[Row]) -> list[Series]:
    """The works of the growth suite, ``torch.sort`` (the median over the benchmarks of each size) first."""
    lines: dict[str, dict[int, Row]] = {}
    for row in sorted(rows, key=scores):
        lines.setdefault(row["work"], {})[scores(row)] = row
    sort = {}
    for n in dict.fromkeys(n for line in lines.values() for n in line):
        here = [line[n] for line in lines.values() if n in line]
        sort[n] = {**here[0], "seconds": {"median": median(row["sort"]["median"] for row in here)}}
    return [Series(name, line) for name, line in {**({"torch.sort": sort} if sort else {}), **lines}.items()]


def ratio_to_ours(row: Row) -> float | None:
    """How many times as long as the slower of the two updates a peer took, or as the metric where the peer is one."""
    works = WORKS[2:] if row["gives"] == "metric" else WORKS[:2]
    found = [times for work in works if (times := of(row, "times", work)) is not None]
    return min(found) if row["status"] == "ok" and len(found) == len(works) else None


def few_calls(row: Row) -> str:
    """``1 call``: what a time rests on where that is little; empty elsewhere."""
    calls = of(row, "seconds", "calls") or FEW
    return "" if calls >= FEW else "1 call" if calls == 1 else f"{calls} calls"


def sizes(rows: Iterable[Row]) -> list[Size]:
    return sorted({(row["P"], row["N"]) for row in rows}, key=lambda size: (sum(size), size))


def of_size(rows: Iterable[Row], size: Size) -> list[Row]:
    return [row for row in rows if (row["P"], row["N"]) == size]


def ours_at(rows: Sequence[Row], size: Size) -> dict[str, float | None]:
    """At one size, medians over the peers' processes: of ``torch.sort``, of the updates, and of their memory.

    ``positive to sort`` and ``negative to sort`` are medians of the processes' own ratios.
    """
    here = of_size(rows, size)
    found = {key: median(of(row, key, "median") for row in here) for key in ("sort", *WORKS)}
    taken = [median(of(row, key, "bytes") for row in here) for key in WORKS[:2]]
    known = [each for each in taken if each is not None]
    for update, work in zip(ONE_SIDED, WORKS, strict=False):
        both = [(row[work]["median"], row["sort"]["median"]) for row in here if work in row and "sort" in row]
        found[f"{update} to sort"] = median(own / sort for own, sort in both)
    return {**found, "bytes": max(known) if known else None}


def fastest_peer(rows: Iterable[Row], size: Size) -> tuple[str, float] | None:
    """The peer with a gradient that comes nearest to the slower update, and how many times slower it is."""
    losses = [row for row in of_size(rows, size) if row["gives"] == "gradient"]
    known = [(found, row["peer"]) for row in losses if (found := ratio_to_ours(row)) is not None]
    return min(known)[::-1] if known else None


def duration(seconds: float) -> str:
    """Three figures and a unit."""
    if seconds < 5e-8:
        return "< 0.1 us"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 1e-6)} us"


def number(value: float) -> str:
    """A count: whole from 10 on, three figures below."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def timed(seconds: float | None, times: float | None = None) -> str:
    """``3.21 ms (1.52)``; empty where there is no time."""
    if seconds is None:
        return ""
    return duration(seconds) + (f" ({times_of(times)})" if times is not None else "")


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

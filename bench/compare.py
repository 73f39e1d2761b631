"""What got slower between two stored results, beyond the noise of their paired runs.

``python -m bench.compare OLD.json NEW.json`` takes two files of the suites or two of the peers, or any of
pytest-benchmark. Compared are ratios to ``torch.sort`` of the same scores in the same run; files without them are
compared by their times. Something is slower if its change is more than the threshold and its noise together. Noise is 3
standard errors of the change, as the rounds scatter, and as much as the sort's own time has changed: a busier machine
moves the ratio too. The fast rounds (the tenth percentile, or the least time) must have moved by the threshold as well:
a median between two states of the machine jumps from one to the other though nothing has changed. The last line says
from which change on half of the benchmarks, and nine in ten, would have been called slower. The exit status is 1 if
anything is slower, 2 if the files cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, exp, inf, log, log1p, sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from tabulate import tabulate

# Standard errors at each side of a change: of 200 benchmarks without one, one in four runs has one beyond.
WIDTH = 3.0
# Where the sort's own time has changed by more, the machine was in another state: half or twice is not rare.
STEADY = 1.2
# Shorter times are those of a stage with nothing to do, of which there is nothing to compare.
NOTHING = 1e-8
# The standard error of a median is this much larger than that of a mean.
OF_MEDIAN = sqrt(3.141592653589793 / 2)
# What must be alike for two figures to be of the same work; a file without these says less, and is believed.
PROBLEM = ("suite", "work", "update", "direction", "rankings", "P", "N", "kind", "epsilon", "dtype", "device")
PROBLEM += ("backend", "method", "dim", "threads")
MACHINE = ("device", "type", "cpu", "threads", "versions")
VERDICTS = ("slower", "faster", "within noise", "another problem", "missing", "new")


class UnusableError(Exception):
    """A file that cannot be compared, and why."""


@dataclass(frozen=True)
class Figure:
    """The logarithm of a median, its standard error, and the logarithm of what fast rounds took."""

    log: float
    error: float
    low: float

    def __sub__(self, other: Figure) -> Figure:
        return Figure(self.log - other.log, sqrt(self.error**2 + other.error**2), self.low - other.low)

    @property
    def value(self) -> float:
        return exp(self.log)


@dataclass(frozen=True)
class Entry:
    """One benchmark: its time, its ratio to ``torch.sort`` where it has one, and what it is of."""

    time: Figure
    ratio: Figure | None
    sort: float | None  # the logarithm of its median
    problem: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One line of the comparison; ``by`` is the logarithm of new / old, ``noise`` how far it may be off."""

    name: str
    verdict: str
    unit: str = ""
    old: float | None = None
    new: float | None = None
    by: float | None = None
    noise: float = 0.0
    beyond: float = inf  # the logarithm of the change that would have been noticed
    sort: float = 0.0  # the logarithm of new / old of torch.sort

    def row(self) -> list[str]:
        if self.by is None or self.old is None or self.new is None:
            return [self.name, "", "", "", "", self.verdict]
        change, noise = exp(self.by) - 1, exp(self.noise) - 1
        shown = [f"{each:.3g} {self.unit}" for each in (self.old, self.new)]
        return [self.name, *shown, f"{change:+.1%}", f"{noise:.1%}", self.verdict]


def compare(old: dict[str, Entry], new: dict[str, Entry], threshold: float) -> list[Change]:
    """Every benchmark of either file, in the order of the new one."""
    changes = [_change(name, old.get(name), entry, threshold) for name, entry in new.items()]
    return changes + [Change(name, "missing") for name in old if name not in new]


def _change(name: str, old: Entry | None, new: Entry, threshold: float) -> Change:
    if old is None:
        return Change(name, "new")
    if any(old.problem[key] != new.problem[key] for key in old.problem.keys() & new.problem.keys()):
        return Change(name, "another problem")
    if old.ratio is None or new.ratio is None:
        before, after, unit, sort = old.time, new.time, "s", 0.0
    else:
        before, after, unit = old.ratio, new.ratio, "sorts"
        sort = (new.sort or 0.0) - (old.sort or 0.0)
    difference = after - before
    noise = WIDTH * difference.error + abs(sort)
    beyond = inf if max(old.time.value, new.time.value) < NOTHING else log1p(threshold) + noise
    least = log1p(threshold)
    slower, faster = difference.log > beyond, difference.log < -beyond
    slower, faster = slower and difference.low > least, faster and difference.low < -least
    verdict = "slower" if slower else "faster" if faster else "within noise"
    return Change(name, verdict, unit, before.value, after.value, difference.log, noise, beyond, sort)


def read(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The figures of a file, by name, and the machine they come from, as far as the file says."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data.get("benchmarks"), list):
            about = data.get("machine_info", {}).get("fastap", {})
            entries = {each["fullname"]: _benchmark(each) for each in data["benchmarks"]}
        elif isinstance(data.get("rows"), list):
            about, entries = data["about"], _peers(data["rows"])
        else:
            raise UnusableError(f"{path}: neither pytest-benchmark's JSON nor that of the peers")
    except OSError as error:
        raise UnusableError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableError(f"{path}: not as expected ({type(error).__name__}: {error})") from error
    return entries, about


def _benchmark(each: dict[str, Any]) -> Entry:
    stats, extra = each["stats"], each.get("extra_info") or {}
    # Quartiles lie 1.35 standard deviations apart.
    error = OF_MEDIAN * stats["iqr"] / (1.349 * stats["median"] * sqrt(stats["rounds"]))
    low = log(stats["min"] if "min" in stats else stats["median"])
    time = Figure(log(stats["median"]), error if stats["rounds"] > 1 else inf, low)
    problem = {key: extra[key] for key in PROBLEM if key in extra}
    if not extra.get("ratio"):
        return Entry(time, None, None, problem)
    ratio = figure(extra["ratio"], extra["ratio"]["rounds"])
    return Entry(time, ratio, log(extra["sort"]["median"]), problem)


def _peers(rows: Sequence[dict[str, Any]]) -> dict[str, Entry]:
    """This library's own figures, by size: one a process, of which there is one a peer."""
    found: dict[str, list[tuple[Figure, Figure]]] = {}
    for row in rows:
        for work in ("positive", "negative", "metric"):
            ours, sort = row.get(f"fastap {work}"), row.get("sort")
            if ours and sort:
                times = tuple(figure(each, each.get("calls", 1)) for each in (ours, sort))
                found.setdefault(f"{work}, P = {row['P']:,}, N = {row['N']:,}", []).append(times)
    return {
        name: Entry(
            together([ours for ours, _ in each]),
            together([ours - sort for ours, sort in each]),
            median(sort.log for _, sort in each),
            {},
        )
        for name, each in found.items()
    }


def figure(quantiles: dict[str, float], rounds: int) -> Figure:
    """Of ``median``, ``p10`` and ``p90`` of so many rounds."""
    if rounds < 2 or "p10" not in quantiles:
        return Figure(log(quantiles["median"]), inf, log(quantiles["median"]))
    spread = log(quantiles["p90"] / quantiles["p10"]) / spread_of(rounds)
    return Figure(log(quantiles["median"]), OF_MEDIAN * spread / sqrt(rounds), log(quantiles["p10"]))


@cache
def spread_of(rounds: int) -> float:
    """How many standard deviations p10 and p90 of so many normal values lie apart: 2.56 of many, 1.35 of three."""
    normal = NormalDist()
    values = [normal.inv_cdf((k + 0.625) / (rounds + 0.25)) for k in range(rounds)]  # Blom's order statistics
    place = 0.9 * (rounds - 1)
    low = min(int(place), rounds - 2)
    return 2 * (values[low] + (place - low) * (values[low + 1] - values[low]))


def together(figures: Sequence[Figure]) -> Figure:
    """Several runs of the same: their median, with the error that their spread shows, or one run's own."""
    middle, low = median(each.log for each in figures), median(each.low for each in figures)
    if len(figures) < 3:
        return Figure(middle, max(each.error for each in figures), low)
    deviation = 1.4826 * median(abs(each.log - middle) for each in figures)
    return Figure(middle, OF_MEDIAN * deviation / sqrt(len(figures)), low)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In what the two machines differ."""
    if not old or not new:
        return ["at least one of the files does not say where it was measured"] if old or new else []
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in MACHINE if old.get(key) != new.get(key)]


def report(changes: Sequence[Change], everything: bool) -> str:
    shown = [each for each in changes if everything or each.verdict == "slower"]
    shown.sort(key=lambda each: (VERDICTS.index(each.verdict), -abs(each.by or 0.0)))
    counts = [(sum(each.verdict == verdict for each in changes), verdict) for verdict in VERDICTS]
    lines = [", ".join(f"{count} {verdict}" for count, verdict in counts if count or verdict == "slower")]
    if shown:
        heads = ["benchmark", "old", "new", "change", "noise, +-", "verdict"]
        align = ("left", "right", "right", "right", "right", "left")
        lines.insert(0, tabulate([each.row() for each in shown], heads, disable_numparse=True, colalign=align))
    return "\n\n".join([*lines, in_sight(changes)])


def in_sight(changes: Sequence[Change]) -> str:
    """From which change on the comparison would have noticed it."""
    seen = sorted(each.beyond for each in changes if each.by is not None)

    def of(share: float) -> str:
        beyond = seen[ceil(share * len(seen)) - 1]
        return f"{exp(beyond) - 1:.0%} more" if beyond < inf else "nothing"

    return f"noticed would have been: {of(0.5)} in half of the {len(seen)} compared, {of(0.9)} in nine of ten"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=0.05, help="how much slower is tolerated (default: 0.05)")
    parser.add_argument("--all", action="store_true", help="show what is not slower, too")
    options = parser.parse_args(arguments)
    if not 0 <= options.threshold < inf:
        parser.error("--threshold is a share, 0 or more")
    try:
        (old, before), (new, after) = read(options.old), read(options.new)
        changes = compare(old, new, options.threshold)
        compared = [each for each in changes if each.by is not None]
        if not compared:
            raise UnusableError(f"{options.old} and {options.new} have no benchmark of the same problem in common")
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in differences(before, after):
        print(f"warning: {each}", file=sys.stderr)
    moved = median(abs(each.sort) for each in compared)
    if moved > log(STEADY):
        print(f"warning: torch.sort itself took {exp(moved):.2g} times as long or as short", file=sys.stderr)
    by_time = sum(each.unit == "s" for each in compared)
    if by_time:
        print(f"note: {by_time} without ratios to torch.sort in both files, compared by their times", file=sys.stderr)
    print(report(changes, options.all))
    return int(any(each.verdict == "slower" for each in changes))


if __name__ == "__main__":
    sys.exit(main())

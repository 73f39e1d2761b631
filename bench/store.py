"""Stored results: CSV files with a row a measurement, and where they come from in lines of comment above.

A comment is ``# name: JSON``; ``about`` is that of :mod:`bench.environment`. ``sort.median`` is the entry ``median`` of
the row's ``sort``. Numbers have six figures; what is not known is empty, and no entry of the row that is read.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environment import stem

Row = dict[str, Any]

KINDS = ("suites", "peers", "gpu", "estimates")


@dataclass(frozen=True)
class Result:
    """One stored file."""

    kind: str
    path: Path
    about: Row
    facts: Row  # what is said of all rows
    rows: list[Row]

    def suite(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.get("suite") == name]


def write(folder: Path, name: str, about: Row, rows: Sequence[Row], **facts: Any) -> Path:
    """The file ``<name>-<device>-torch-<version>-<commit>.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(name, about).lower()}.csv"
    lines = [dict(_flat(row)) for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {json.dumps(value)}\n" for key, value in {"about": about, **facts}.items())
        writer = csv.DictWriter(file, dict.fromkeys(key for line in lines for key in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return path


def read(path: Path) -> Result:
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(file)
    said = [line[2:].split(": ", 1) for line in lines if line.startswith("# ")]
    facts = {key: json.loads(value) for key, value in said}
    rows = [_nested(line) for line in csv.DictReader(lines[len(said) :])]
    return Result(path.name.split("-")[0], path, facts.pop("about"), facts, rows)


def newest(folder: Path) -> list[Result]:
    """Of each kind and device the newest file of a folder; CPUs first."""
    chosen: dict[tuple[str, str], Result] = {}
    for path in sorted(folder.glob("*.csv")):
        if path.name.split("-")[0] in KINDS:
            result = read(path)
            key = (result.about["device"], result.kind)
            if key not in chosen or result.about["date"] > chosen[key].about["date"]:
                chosen[key] = result
    return sorted(
        chosen.values(),
        key=lambda each: (each.about["type"] != "cpu", each.about["device"], KINDS.index(each.kind)),
    )


def _flat(row: Row, before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield before + key, f"{value:.6g}" if isinstance(value, float) else str(value)


def _nested(line: dict[str, str]) -> Row:
    row: Row = {}
    for key, text in line.items():
        *above, last = key.split(".")
        if text:
            within = row
            for name in above:
                within = within.setdefault(name, {})
            within[last] = _value(text)
    return row


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text

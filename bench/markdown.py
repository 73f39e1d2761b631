"""What a page of results is put together from: sentences, tables, pictures, links."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from bench.environment import machine, versions_of

__all__ = ["Page", "machine", "one_line", "table", "versions_of"]


class Page:
    """What is written so far, and what is to be drawn."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parts: list[str] = []
        self.pictures: dict[str, Callable[[], Figure]] = {}  # by their places below ``out``

    def add(self, *parts: str) -> None:
        self.parts += [part.strip() for part in parts]

    def table(self, says: str, rows: Sequence[Sequence[str]], heads: Sequence[str], left: int = 1) -> None:
        """A sentence, and below it a table whose first ``left`` columns are words."""
        self.add(says, table(rows, heads, left))

    def picture(self, name: str, device: str, text: str, draw: Callable[[], Figure]) -> None:
        file = f"images/bench-{name}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.png"
        self.pictures[file] = draw
        self.add(f"![{text}]({file})")

    def link(self, path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()

    def __str__(self) -> str:
        return "\n\n".join(self.parts) + "\n"


def table(rows: Sequence[Sequence[str]], heads: Sequence[str], left: int = 1) -> str:
    """Words to the left, numbers to the right."""
    sides = ["left"] * left + ["right"] * (len(heads) - left)
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    return str(tabulate(cells, heads, "pipe", disable_numparse=True, colalign=sides))


def one_line(text: str) -> str:
    return " ".join(text.split())

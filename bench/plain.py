"""Table and progress bar for machines that have PyTorch and little else: tabulate's and tqdm's where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def plain_table(rows: Sequence[Sequence[str]], headers: Sequence[str] = (), **options: Any) -> str:
    """Columns side by side, aligned as ``colalign`` says; everything else that tabulate takes is let be."""
    lines = [*([headers, ["-" * len(each) for each in headers]] if headers else []), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = options.get("colalign") or ["left"] * len(widths)
    columns = list(zip(widths, sides, strict=True))

    def line(cells: Sequence[str]) -> str:
        placed = zip(cells, columns, strict=True)
        return "  ".join(each.rjust(width) if side == "right" else each.ljust(width) for each, (width, side) in placed)

    return "\n".join(line(each).rstrip() for each in lines)


class NoBar:
    """A progress bar that is not there."""

    def update(self) -> None:
        """Nothing moves."""

    def set_postfix_str(self, text: str) -> None:
        """Nothing is said."""


@contextmanager
def progress(total: int, unit: str = "call") -> Iterator[Any]:
    """A bar of so many units, where there is a terminal, tqdm, and something to wait for."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield NoBar()
        return
    with tqdm(total=total, unit=unit, delay=2, disable=None) as bar:
        yield bar


try:
    from tabulate import tabulate as table
except ImportError:
    table = plain_table

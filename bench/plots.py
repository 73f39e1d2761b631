"""The picture of stored results, and what pictures of them share: colours, marks, the way to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench import figures
from bench.figures import Series, duration
from bench.store import Row

# Okabe and Ito's colours, told apart by the colour-blind; lines also differ in marker and dashes, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = "osD^vPX<>*ph"
DASHES = ("-", "--", "-.", ":")


def save(figure: Figure, path: Path) -> None:
    """A PNG with neither date nor version in it, so that the same figures give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        "linewidth": 1.6,
        "markersize": 5,
    }


def time_against_n(lines: Sequence[Series], title: str) -> Figure:
    """Seconds against scores, with the fitted lines, which the legend gives the exponents of."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    ours = [line for line in lines if line.name != "torch.sort"]
    for line in lines:
        found = line.fit
        name = line.name if found is None else f"{line.name}: n^({found.exponent:.2f} ± {found.error:.2f})"
        style = _style(ours.index(line)) if line in ours else {**_style(6), "linestyle": ":"}
        axes.plot(list(line.rows), [row["seconds"]["median"] for row in line.rows.values()], label=name, **style)
        if found is not None:
            ends = [found.low, found.high]
            fitted = [found.factor * n**found.exponent for n in ends]
            axes.plot(ends, fitted, color=style["color"], linewidth=6, alpha=0.2, solid_capstyle="round")
    axes.set(xscale="log", yscale="log", xlabel="scores in the ranking, n = P + N")
    axes.set_ylabel("time of a call (losses: forward + backward)")
    axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = figures.FIT_RANGE
    note = f"exponents ± standard errors, fitted from {low:,.0f} to {high:,.0f} scores (broad lines)"
    axes.legend(title=note, title_fontsize=8, fontsize=8, loc="upper left", frameon=False, alignment="left")
    return figure


def kernels(rows: Sequence[Row], title: str) -> Figure:
    """The estimated time of each kernel, in order of their launches, and the part of it that no schedule can beat."""
    figure = Figure(figsize=(8.0, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    names = [row["kernel"] for row in rows]
    axes.barh(names, [1e6 * row["seconds"] for row in rows], color=COLOURS[5], label="likely")
    axes.barh(names, [1e6 * row["bound"] for row in rows], color=COLOURS[0], height=0.4, label="at least")
    axes.invert_yaxis()
    axes.set_xlabel("estimated time in microseconds")
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure

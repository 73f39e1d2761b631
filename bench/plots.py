"""Pictures of stored results: each function draws one figure from rows and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench import figures
from bench.figures import Series, duration, memory, times_of
from bench.store import Row

# Okabe and Ito's colours, told apart by the colour-blind; lines also differ in marker and dashes, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = "osD^vPX<>*ph"
DASHES = ("-", "--", "-.", ":")
SIZE = (8.0, 5.0)
N_SCORES = "scores in the ranking, n = P + N"


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


def _figure(title: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    return figure, axes


def _grid(axes: Axes, axis: str = "both") -> None:
    axes.grid(True, axis=axis, which="major", color="#dddddd", linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def time_against_n(lines: Sequence[Series], title: str) -> Figure:
    """Seconds against scores, with the fitted lines, which the legend gives the exponents of."""
    figure, axes = _figure(title)
    ours = [line for line in lines if line.name != "torch.sort"]
    for line in lines:
        found = line.fit
        name = line.name if found is None else f"{line.name}: n^({found.words})"
        style = _style(ours.index(line)) if line in ours else {**_style(6), "linestyle": ":"}
        axes.plot(list(line.rows), [row["seconds"]["median"] for row in line.rows.values()], label=name, **style)
        if found is not None:
            ends = [found.low, found.high]
            fitted = [found.factor * n**found.exponent for n in ends]
            axes.plot(ends, fitted, color=style["color"], linewidth=6, alpha=0.2, solid_capstyle="round")
    axes.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="time of a call (losses: forward + backward)")
    axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    _grid(axes)
    low, high = figures.FIT_RANGE
    note = f"exponents ± standard errors, fitted from {low:,.0f} to {high:,.0f} scores (broad lines)"
    axes.legend(title=note, title_fontsize=8, fontsize=8, loc="upper left", frameon=False, alignment="left")
    return figure


def ratio_against_n(lines: Sequence[Series], title: str) -> Figure:
    """Ratios to ``torch.sort`` of paired rounds: medians, and the band of their middle eight tenths."""
    figure, axes = _figure(title)
    for number, line in enumerate(line for line in lines if line.name != "torch.sort"):
        style, n = _style(number), list(line.rows)
        middle, low, high = ([row["ratio"][key] for row in line.rows.values()] for key in ("median", "p10", "p90"))
        axes.plot(n, middle, label=line.name, **style)
        axes.fill_between(n, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(1, color="black", linewidth=1, linestyle=":", label="as long as torch.sort")
    axes.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="time / time of torch.sort")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    _grid(axes)
    note = "medians of paired rounds; bands from the 10th to the 90th percentile"
    axes.legend(title=note, title_fontsize=8, fontsize=8, loc="upper right", frameon=False, alignment="left")
    return figure


def memory_against_n(lines: Sequence[Series], rows: Sequence[Row], cap: float | None, title: str) -> Figure:
    """Peak memory: bytes a score of this library, and, from the peers' rows, all that every peer took."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    ours, theirs = figure.subplots(1, 2)
    highest = 0.0
    for number, line in enumerate(line for line in lines if line.name != "torch.sort"):
        points = {n: row["peak_bytes"] / n for n, row in line.rows.items() if "peak_bytes" in row}
        ours.plot(list(points), list(points.values()), label=line.name, **_style(number))
        highest = max([highest, *points.values()])
    ours.set(xscale="log", xlabel=N_SCORES, ylabel="peak memory beyond inputs (bytes a score)")
    ours.set_ylim(0, 1.35 * highest or 1)
    if highest:
        ours.legend(fontsize=8, frameon=False, loc="upper right")
    for number, (name, points) in enumerate(_peak_memory_of_peers(rows).items()):
        style = {**_style(number), **({} if number else {"linewidth": 2.6})}
        theirs.plot(list(points), list(points.values()), label=name, **style)
        too_large = [figures.scores(row) for row in rows if row["peer"] == name and row["status"] == "out of memory"]
        if cap and too_large:
            last = max(points)
            theirs.plot([last, min(too_large)], [points[last], cap], color=style["color"], linestyle=":", linewidth=1.2)
    if cap:
        theirs.axhline(cap, color="black", linewidth=1, linestyle="--")
        theirs.annotate(
            f"cap: {memory(cap)} (dotted: more than that)", (0.01, cap), fontsize=8,
            xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
        )  # fmt: skip
    theirs.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="peak memory beyond inputs")
    theirs.yaxis.set_major_locator(LogLocator(base=2, numticks=12))
    theirs.yaxis.set_major_formatter(FuncFormatter(lambda value, _: memory(value)))
    theirs.yaxis.set_minor_locator(NullLocator())
    for axes in (ours, theirs):
        _grid(axes)
    handles, labels = theirs.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _peak_memory_of_peers(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """By name and scores, this library first."""
    ours = {sum(size): found for size in figures.sizes(rows) if (found := figures.ours_at(rows, size)["bytes"])}
    lines = {"fastap, the update that takes more": ours}
    for row in sorted(rows, key=figures.scores):
        if row["gives"] == "gradient" and row.get("bytes"):
            lines.setdefault(row["peer"], {})[figures.scores(row)] = row["bytes"]
    order = [*lines][:1] + [name for name in figures.names(rows, "gradient") if name in lines]
    return {name: lines[name] for name in order if lines[name]}


def peers(rows: Sequence[Row], title: str) -> Figure:
    """A panel a size, a bar a peer: how many times this library's time it took, or the reason in words."""
    sizes = figures.sizes(rows)
    groups = [(gives, figures.names(rows, gives)) for gives in ("gradient", "metric")]
    groups = [(gives, names) for gives, names in groups if names]
    bars = sum(len(names) for _, names in groups)
    wide = max(6.5, 3.0 + 1.9 * len(sizes))
    figure = Figure(figsize=(wide, 0.33 * bars + 1.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(
        len(groups), len(sizes), squeeze=False, sharex=True,
        gridspec_kw={"height_ratios": [len(names) for _, names in groups]},
    )  # fmt: skip
    known = [found for row in rows if (found := figures.ratio_to_ours(row)) is not None]
    low = min([1.0, *known]) / 1.6
    high = 1.15 * max([20.0, *known])
    for number, (line, (gives, names)) in enumerate(zip(grid, groups, strict=True)):
        for axes, size in zip(line, sizes, strict=True):
            axes.set(xscale="log", xlim=(low, high), ylim=(len(names) - 0.4, -0.6))
            _bars_of_size(axes, names, {row["peer"]: row for row in figures.of_size(rows, size)})
            axes.axvline(1, color="black", linewidth=1)
            _grid(axes, "x")
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelsize=7)
            axes.tick_params(axis="y", length=0)
            shown = axes is line[0]
            axes.set_yticks(range(len(names)), [textwrap.fill(name, 34) for name in names] if shown else [], fontsize=8)
            if number == 0:
                axes.set_title(f"P = {size[0]:,}\nN = {size[1]:,}", fontsize=8)
        what = "losses\n(gradient)" if gives == "gradient" else "metrics\n(no gradient)"
        line[0].set_ylabel(what, fontsize=8)
    figure.align_ylabels(grid[:, 0])
    figure.supxlabel(
        "time / fastap's time on the same scores (losses: its slower update, forward + backward; metrics: its metric)"
        + ("; orange: faster than fastap" if any(found <= 1 for found in known) else ""),
        fontsize=8,
    )
    return figure


def _bars_of_size(axes: Axes, names: Sequence[str], rows: dict[str, Row]) -> None:
    """Bars begin at 1, this library's own time: to the right slower, to the left faster."""
    low, high = axes.get_xlim()
    for number, name in enumerate(names):
        row = rows.get(name, {"status": "not measured", "gives": ""})
        found, calls = figures.ratio_to_ours(row), figures.few_calls(row)
        words = row["status"] if found is None else times_of(found) + (f" ({calls})" if calls else "")
        style: dict[str, Any] = {"style": "italic", "color": "#7A2E00"} if found is None else {}
        if found is not None:
            axes.barh(number, found - 1, left=1, height=0.65, color=COLOURS[0] if found > 1 else COLOURS[1])
        long = found is not None and found > (low * high) ** 0.5  # half of the panel: there is room in the bar
        style |= {"color": "white", "ha": "right"} if long else {}
        at = (max(found or 1.0, 1.0), number)
        axes.annotate(words, at, (-3 if long else 3, 0), textcoords="offset points", va="center", fontsize=7, **style)

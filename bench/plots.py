"""Pictures of stored results: each function draws one figure from rows and returns it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench import stored
from bench.stored import Row, Series

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


def _durations(axes: Axes, steps: Sequence[float] = (1.0,)) -> None:
    """Ticks such as ``10 ms`` on a logarithmic axis."""
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: stored.duration(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _plain(axes: Axes) -> None:
    """Ticks such as ``0.5`` and ``20`` on a logarithmic axis."""
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _legend_beside(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)


def time_against_n(lines: Sequence[Series], title: str) -> Figure:
    """Seconds against scores, with the fitted lines, which the legend gives the exponents of."""
    figure, axes = _figure(title)
    ours = [line for line in lines if line.name != "torch.sort"]
    for line in lines:
        found = line.fit
        name = line.name if found is None else f"{line.name}: n^({found.words})"
        style = _style(ours.index(line)) if line in ours else {**_style(6), "linestyle": ":"}
        axes.plot(line.scores, line.seconds, label=name, **style)
        if found is not None:
            ends = [found.low, found.high]
            fitted = [found.factor * n**found.exponent for n in ends]
            axes.plot(ends, fitted, color=style["color"], linewidth=6, alpha=0.2, solid_capstyle="round")
    axes.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="time of a call (losses: forward + backward)")
    _durations(axes)
    _grid(axes)
    low, high = stored.FIT_RANGE
    note = f"exponents ± standard errors, fitted from {low:,.0f} to {high:,.0f} scores (broad lines)"
    axes.legend(title=note, title_fontsize=8, fontsize=8, loc="upper left", frameon=False, alignment="left")
    return figure


def ratio_against_n(lines: Sequence[Series], title: str) -> Figure:
    """Ratios to ``torch.sort`` of paired rounds: medians, and the band of their middle eight tenths."""
    figure, axes = _figure(title)
    for number, line in enumerate(line for line in lines if line.name != "torch.sort"):
        rows = [row for row in line.rows if row.get("ratio")]
        n = [stored.scores(row) for row in rows]
        style = _style(number)
        axes.plot(n, [row["ratio"]["median"] for row in rows], label=line.name, **style)
        low, high = ([row["ratio"][key] for row in rows] for key in ("p10", "p90"))
        axes.fill_between(n, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(1, color="black", linewidth=1, linestyle=":", label="as long as torch.sort")
    axes.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="time / time of torch.sort")
    _plain(axes)
    _grid(axes)
    note = "medians of paired rounds; bands from the 10th to the 90th percentile"
    axes.legend(title=note, title_fontsize=8, fontsize=8, loc="upper right", frameon=False, alignment="left")
    return figure


def memory_against_n(lines: Sequence[Series], rows: Sequence[Row], cap: float | None, title: str) -> Figure:
    """Peak memory: bytes a score of this library, and, from the peers' rows, all that every peer took."""
    ours = [
        (line.name, [(stored.scores(row), row["peak_bytes"]) for row in line.rows if row.get("peak_bytes")])
        for line in lines
    ]
    ours = [(name, points) for name, points in ours if points]
    theirs = _peak_memory_of_peers(rows)
    figure = Figure(figsize=(10, 5) if ours and theirs else SIZE, layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = list(figure.subplots(1, bool(ours) + bool(theirs), squeeze=False)[0])
    if ours:
        axes = panels.pop(0)
        for number, (name, points) in enumerate(ours):
            axes.plot(*zip(*((n, size / n) for n, size in points), strict=True), label=name, **_style(number))
        axes.set(xscale="log", xlabel=N_SCORES, ylabel="peak memory beyond inputs (bytes a score)")
        each = [size / n for _, points in ours for n, size in points]
        if max(each) > 20 * min(each):
            axes.set_yscale("log")
            _plain(axes)
        else:
            axes.set_ylim(0, 1.35 * max(each))
        axes.legend(fontsize=8, frameon=False, loc="upper right")
        _grid(axes)
    if theirs:
        axes = panels.pop(0)
        for number, (name, points) in enumerate(theirs):
            style = {**_style(number), "linewidth": 2.6} if name.startswith("fastap") else _style(number)
            axes.plot(*zip(*points, strict=True), label=name, **style)
            too_large = [stored.scores(row) for row in rows if row["peer"] == name and row["status"] == "out of memory"]
            if cap and too_large and points:
                beyond = [points[-1], (min(too_large), cap)]
                axes.plot(*zip(*beyond, strict=True), color=style["color"], linestyle=":", marker="", linewidth=1.2)
        if cap:
            axes.axhline(cap, color="black", linewidth=1, linestyle="--")
            axes.annotate(
                f"cap: {stored.memory(cap)} (dotted: more than that)", (0.01, cap), fontsize=8,
                xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=N_SCORES, ylabel="peak memory beyond inputs")
        axes.yaxis.set_major_locator(LogLocator(base=2, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: stored.memory(value)))
        axes.yaxis.set_minor_locator(NullLocator())
        _grid(axes)
        _legend_beside(figure, axes)
    return figure


def _peak_memory_of_peers(rows: Sequence[Row]) -> list[tuple[str, list[tuple[int, float]]]]:
    sizes = stored.sizes(rows)
    ours = [(sum(size), found) for size in sizes if (found := stored.ours_at(rows, size)["bytes"])]
    lines = [("fastap, the update that takes more", ours)]
    for name in stored.names(rows, "gradient"):
        of_peer = sorted((row for row in rows if row["peer"] == name and row.get("bytes")), key=stored.scores)
        lines.append((name, [(stored.scores(row), row["bytes"]) for row in of_peer]))
    return [(name, points) for name, points in lines if points]


def stages(stacks: Sequence[tuple[str, dict[str, float], float | None]], title: str) -> Figure:
    """A bar a case: its stages on one another, and a mark where the whole call ends."""
    figure, axes = _figure(title, (SIZE[0], max(2.6, 0.5 * len(stacks) + 1.6)))
    names = list(dict.fromkeys(name for _, parts, _ in stacks for name in parts))
    for number, (_, parts, whole) in enumerate(stacks):
        left, base = 0.0, max(whole or 0.0, sum(parts.values()))
        for name, seconds in parts.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            width = seconds / base
            axes.barh(number, width, left=left, height=0.6, color=colour, edgecolor="white", label=name)
            if width > 0.11:
                axes.text(
                    left + width / 2, number, stored.duration(seconds), ha="center", va="center", fontsize=7,
                    color="white" if _is_dark(colour) else "black",
                )  # fmt: skip
            left += width
        if whole is not None:
            # Not across a bar that goes on: inside are the times.
            ends = (-0.44, -0.31, 0.31, 0.44) if whole < base else (-0.44, 0.44)
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                axes.plot(
                    [whole / base] * 2, [number + start, number + end], color="black", linewidth=2, label="whole call"
                )
    labels = [case if whole is None else f"{case}\nwhole: {stored.duration(whole)}" for case, _, whole in stacks]
    axes.set_yticks(range(len(stacks)), labels, fontsize=8)
    axes.set_ylim(len(stacks) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("time / time of the whole call (of the sum of its stages, if that is more)", fontsize=9)
    _grid(axes, "x")
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [*names, *(name for name in found if name not in names)]
    figure.legend([found[name] for name in shown], shown, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def peers(rows: Sequence[Row], title: str) -> Figure:
    """A panel a size, a bar a peer: how many times this library's time it took, or the reason in words."""
    sizes = stored.sizes(rows)
    groups = [(gives, stored.names(rows, gives)) for gives in ("gradient", "metric")]
    groups = [(gives, names) for gives, names in groups if names]
    bars = sum(len(names) for _, names in groups)
    wide = max(6.5, 3.0 + 1.9 * len(sizes))
    figure = Figure(figsize=(wide, 0.33 * bars + 1.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(
        len(groups), len(sizes), squeeze=False, sharex=True,
        gridspec_kw={"height_ratios": [len(names) for _, names in groups]},
    )  # fmt: skip
    known = [found for row in rows if (found := stored.ratio_to_ours(row)) is not None]
    low = min([1.0, *known]) / 1.6
    high = 1.15 * max([20.0, *known])
    inches = 0.85 * (wide - 2.7) / len(sizes)  # of a panel, a little less than it will have
    for number, (line, (gives, names)) in enumerate(zip(grid, groups, strict=True)):
        for axes, size in zip(line, sizes, strict=True):
            axes.set(xscale="log", xlim=(low, high), ylim=(len(names) - 0.4, -0.6))
            _bars_of_size(axes, names, {row["peer"]: row for row in stored.of_size(rows, size)}, inches)
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


def _words(row: Row | None) -> tuple[float, str]:
    """Where the words of a bar begin, and the words: how many times, on how few calls, or why there is no time."""
    found = stored.ratio_to_ours(row) if row is not None else None
    if row is None or found is None:
        return 1.0, "not measured" if row is None or row["status"] == "ok" else row["status"]
    calls = stored.few_calls(row)
    return max(found, 1.0), stored.times_of(found) + (f" ({calls})" if calls else "")


def _bars_of_size(axes: Axes, names: Sequence[str], rows: dict[str, Row], inches: float) -> None:
    """Bars begin at 1, this library's own time: to the right slower, to the left faster."""
    low, high = axes.get_xlim()
    for number, name in enumerate(names):
        row = rows.get(name)
        found = stored.ratio_to_ours(row) if row is not None else None
        begins, words = _words(row)
        style: dict[str, Any] = {"style": "italic", "color": "#7A2E00"} if found is None else {}
        if found is not None:
            axes.barh(number, found - 1, left=1, height=0.65, color=COLOURS[0] if found > 1 else COLOURS[1])
        room = inches * math.log(high / begins) / math.log(high / low)
        inside = room < 0.055 * len(words) + 0.05  # inches that letters of 7 points take
        if inside:
            style |= {"color": "white", "ha": "right"}
        at = (-3 if inside else 3, 0)
        axes.annotate(words, (begins, number), at, textcoords="offset points", va="center", fontsize=7, **style)


class Point(NamedTuple):
    """What one kernel or one call moves at least, how long it takes, and what of dynamic program it does."""

    name: str
    case: str
    bytes: float
    seconds: float
    cells_per_second: float | None = None


def roofline(points: Sequence[Point], bandwidth: float | None, latency: float | None, title: str) -> Figure:
    """Time against nominal bytes; the line is the longer of the shortest kernel plotted and of a copy of the bytes."""
    figure, axes = _figure(title, (9.5, 5.5))
    names = list(dict.fromkeys(point.name for point in points))
    for number, name in enumerate(names):
        chosen = [point for point in points if point.name == name]
        style = {**_style(number), "linestyle": "none", "markersize": 6}
        axes.plot([point.bytes for point in chosen], [point.seconds for point in chosen], label=name, **style)
        for point in chosen:
            if point.cells_per_second:
                axes.annotate(
                    f"{point.cells_per_second:.1e} cells/s", (point.bytes, point.seconds), xytext=(0, 7),
                    textcoords="offset points", fontsize=7, ha="center",
                )  # fmt: skip
    low = min(point.bytes for point in points) / 2
    high = max(point.bytes for point in points) * 2
    if bandwidth:
        n = [low * (high / low) ** (step / 200) for step in range(201)]
        floor = [max(latency or 0.0, size / bandwidth) for size in n]
        words = f"bytes / {bandwidth / 1e9:,.0f} GB/s of a copy"
        words = (
            f"line: {words}"
            if not latency
            else f"line: {stored.duration(latency)} of the shortest kernel plotted, or {words}"
        )
        axes.plot(n, floor, color="black", linewidth=1.5, label=textwrap.fill(words, 34))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="nominal bytes read and written",
        ylabel="GPU time of a call, or of a launch of a kernel",
    )
    _durations(axes, (1.0, 2.0, 5.0))
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _decimal_bytes(value)))
    _grid(axes)
    axes.margins(y=0.12)
    _legend_beside(figure, axes)
    return figure


def _decimal_bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"

"""What a profile looks like: the table, the totals and the bar chart.

matplotlib is imported where it is needed: a machine with a GPU may have PyTorch alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.launches import ENGINE
from bench.plain import table
from bench.trace import OUTSIDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_STAGE = "several stages or unknown"
# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
_GREYS = {_NO_STAGE: "#888888", OUTSIDE: "#C8C8C8"}


def show(result: dict[str, Any], top: int) -> str:
    """The table of kernels, the first of them, and the totals."""
    on_gpu = result["about"]["type"] == "cuda"
    kernels, rest = result["kernels"][:top], result["kernels"][top:]
    lines = [_line(each) for each in kernels]
    if rest:
        seconds, launches, shares = (
            sum(each[key] or 0.0 for each in rest) for key in ("seconds", "launches", "busy_share")
        )
        others = {"name": f"{len(rest)} others", "stage": None, "bytes": None, "bandwidth": None, "share": None}
        lines.append(_line({**others, "seconds": seconds, "launches": launches, "busy_share": shares}))
    heads = ["kernel" if on_gpu else "operator", "stage", "us a call", "of busy", "launches a call"]
    heads += ["MB moved", "GB/s", "of a copy"]
    drawn = table(lines, heads, disable_numparse=True, colalign=("left", "left", *["right"] * 6))
    if on_gpu and not kernels:
        drawn = "PyTorch's profiler saw no kernels: it may not be permitted to on this machine"
    totals = _totals(result, on_gpu)
    width = max(len(name) for name, _ in totals)
    return "\n".join([drawn, "", *(f"{name:{width}}  {value}" for name, value in totals)])


def _line(each: dict[str, Any]) -> list[str]:
    return [
        shorten(each["name"], 60),
        each["stage"] or "",
        f"{each['seconds'] * 1e6:,.1f}",
        "" if each["busy_share"] is None else f"{each['busy_share']:.1%}",
        f"{each['launches']:,.4g}" if each["launches"] else "",
        "" if each["bytes"] is None else f"{each['bytes'] / 1e6:,.3f}",
        "" if each["bandwidth"] is None else f"{each['bandwidth'] / 1e9:,.2f}",
        "" if each["share"] is None else f"{each['share']:.1%}",
    ]


def _totals(result: dict[str, Any], on_gpu: bool) -> list[tuple[str, str]]:
    def us(key: str) -> str:
        return f"{result[key] * 1e6:,.1f} us"

    lines = [
        ("wall time of a call", f"{us('wall')}; under the profiler {us('profiled_wall')}"),
        ("busy time", f"{us('busy')} in {'kernels' if on_gpu else 'operators'}"),
        ("gaps", f"{us('gaps')} {'between kernels' if on_gpu else OUTSIDE}"),
        ("host time", f"{us('host')}; under the profiler {us('profiled_host')}"),
        ("launches", f"{result['launches']:,.4g} {'kernels, copies and fills' if on_gpu else 'operators'} a call"),
        ("peak memory", f"{result['peak_bytes'] / 2**20:,.2f} MiB beyond the inputs"),
        ("copy bandwidth", f"{result['copy_bandwidth'] / 1e9:,.2f} GB/s, read and written"),
    ]
    if result["engine_stages"] is not None:
        stages = [f"{stage} {seconds * 1e6:,.1f}" for stage, seconds in result["engine_stages"].items()]
        lines.append(("stages of the native engine", f"{', '.join(stages)} us, on one thread"))
    if result["cells"] is not None:
        rate = f"{result['cells_per_second']:,.3g} a second of wall time"
        lines.append(("dynamic program", f"{result['cells']:,} cells, {rate}"))
    return lines


def shorten(name: str, length: int) -> str:
    """The beginning and the end of a long name, as templates of C++ have."""
    half = (length - 3) // 2
    return name if len(name) <= length else f"{name[:half]}...{name[-half:]}"


def _three_figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_chart(result: dict[str, Any], title: str, path: Path, top: int = 15) -> None:
    """:func:`chart` as a PNG with neither date nor version in it, so that the same figures give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chart(result, title, top).savefig(path, dpi=150, metadata={"Software": None})


def chart(result: dict[str, Any], title: str, top: int = 15) -> Figure:
    """Time of the longest kernels or operators, coloured by stage, and beside it the bandwidth that they reach."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    least = 1e-3 * max((row["seconds"] for row in result["kernels"]), default=0.0)  # what would be no bar
    rows = [row for row in result["kernels"] if row["seconds"] > least][:top]
    parts = [_parts(row, result.get("engine_stages")) for row in rows]
    shown = list(dict.fromkeys(name for each in parts for name in each))
    known = [name for name in shown if name not in _GREYS]
    paint = {**_GREYS, **{name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(known)}}
    unit, factor = ("ms", 1e3) if rows and rows[0]["seconds"] >= 1e-2 else ("µs", 1e6)
    copy = (result.get("copy_bandwidth") or 0.0) / 1e9

    figure = Figure(figsize=(12, 2.4 + 0.34 * max(len(rows), 3)), layout="constrained")
    times, rates = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # A number that crosses the line of the copy stays readable on white.
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for place, (row, each) in enumerate(zip(rows, parts, strict=True)):
        left, taken, rate = 0.0, row["seconds"] * factor, row["bandwidth"]
        for name, share in each.items():
            times.barh(place, share * taken, left=left, color=paint[name], height=0.7)
            left += share * taken
        launches = f", {row['launches']:,.4g} x" if row["launches"] else ""
        times.annotate(_three_figures(taken) + launches, (taken, place), (4, 0), **_TEXT, bbox=box)
        if rate is not None:
            colour = paint[next(iter(each))] if len(each) == 1 else _GREYS[_NO_STAGE]
            rates.barh(place, rate / 1e9, color=colour, height=0.7)
            share = f" ({row['share']:.0%})" if (row.get("share") or 0.0) >= 0.005 else ""
            rates.annotate(_three_figures(rate / 1e9) + share, (rate / 1e9, place), (4, 0), **_TEXT, bbox=box)
    times.set_xlim(0, 1.2 * max([1e-9, *(row["seconds"] * factor for row in rows)]))
    rates.set_xlim(0, 1.3 * max([1e-9, copy, *((row["bandwidth"] or 0.0) / 1e9 for row in rows)]))
    for axes in (times, rates):
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    times.set_yticks(range(len(rows)), [shorten(row["name"], 44) for row in rows], fontsize=8)
    times.set_xlabel(f"time of a call under the profiler, all its launches ({unit})")
    rates.set_xlabel("bandwidth by nominal bytes, GB/s (share of a copy's)")
    handles: list[Any] = [Patch(color=paint[name], label=_LEGEND.get(name, f"stage: {name}")) for name in shown]
    if copy:
        line = rates.axvline(copy, color="black", linestyle="--", linewidth=1, label=f"a copy here, {copy:,.4g} GB/s")
        line.set_zorder(1.5)  # over the bars, under their numbers
        handles.append(line)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    divided = any(len(each) > 1 for each in parts)
    note = f"\n{ENGINE}: divided as its own clock divides a call on one thread" if divided else ""
    figure.suptitle(title + note, fontsize=10)
    return figure


_TEXT: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}
_LEGEND = {_NO_STAGE: _NO_STAGE, OUTSIDE: "outside operators"}


def _parts(row: dict[str, Any], engine: dict[str, float] | None) -> dict[str, float]:
    """Of which stages a row is, as shares of it."""
    whole = sum(engine.values()) if engine and row["name"] == ENGINE else 0.0
    if engine and whole:
        return {stage: seconds / whole for stage, seconds in engine.items() if seconds >= 1e-3 * whole}
    return {row["stage"] or (OUTSIDE if row["name"] == OUTSIDE else _NO_STAGE): 1.0}

"""What a profile looks like: the table, the totals and the bar chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.trace import OUTSIDE

_NO_STAGE = "several or unknown"


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
    table = tabulate(lines, heads, disable_numparse=True, colalign=("left", "left", *["right"] * 6))
    if on_gpu and not kernels:
        table = "PyTorch's profiler saw no kernels: it may not be permitted to on this machine"
    return f"{table}\n\n{tabulate(_totals(result, on_gpu), tablefmt='plain', disable_numparse=True)}"


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
    """Time of the longest kernels or operators, and beside it the bandwidth they reach."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    least = 1e-3 * max((row["seconds"] for row in result["kernels"]), default=0.0)  # what would be no bar
    rows = [row for row in result["kernels"] if row["seconds"] > least][:top]
    stages = [row["stage"] or _NO_STAGE for row in rows]
    known = [stage for stage in dict.fromkeys(stages) if stage != _NO_STAGE]
    colours = {_NO_STAGE: "0.65", **{stage: f"C{number}" for number, stage in enumerate(known)}}
    unit, factor = ("ms", 1e3) if rows and rows[0]["seconds"] >= 1e-2 else ("µs", 1e6)
    copy = result["copy_bandwidth"] / 1e9

    figure = Figure(figsize=(12, 2.2 + 0.34 * max(len(rows), 3)), layout="constrained")
    FigureCanvasAgg(figure)
    times, rates = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    paint = [colours[stage] for stage in stages]
    places = range(len(rows))
    for axes, widths, texts in (
        (times, [row["seconds"] * factor for row in rows], [_three_figures(row["seconds"] * factor) for row in rows]),
        (
            rates,
            [(row["bandwidth"] or 0.0) / 1e9 for row in rows],
            ["" if row["bandwidth"] is None else _three_figures(row["bandwidth"] / 1e9) for row in rows],
        ),
    ):
        # A number that crosses the line of the copy stays readable on white.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.bar_label(axes.barh(places, widths, color=paint, height=0.7), texts, padding=4, fontsize=8, bbox=box)
        axes.set_xlim(0, 1.15 * max([*widths, copy if axes is rates else 1e-9]))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    times.set_yticks(places, [shorten(row["name"], 44) for row in rows], fontsize=8)
    times.set_xlabel(f"time a call ({unit})")
    line = rates.axvline(copy, color="black", linestyle="--", linewidth=1, label=f"a copy here, {copy:,.4g} GB/s")
    line.set_zorder(1.5)  # over the bars, under their numbers
    rates.set_xlabel("bandwidth by nominal bytes (GB/s)")
    shown = [*known, *([_NO_STAGE] if _NO_STAGE in stages else [])]
    patches = [Patch(color=colours[stage], label=f"stage: {stage}") for stage in shown]
    figure.legend(handles=[*patches, line], loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

"""What the GPU gate was to reach on an H200, what it reached, and its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bench.gpu_times import FULL_BANDS, MANY_LONG, MULTI_LABEL, ONE_LONG, RETRIEVAL, UPDATES, Case
from fastap.backends.triton.sort import choose_algorithm


class Verdict(NamedTuple):
    what: str
    target: str
    figure: str
    verdict: str  # "met", "missed", or why there is none


def judge(results: dict[str, Any]) -> list[Verdict]:
    """What was to be reached on an H200, and what was."""
    cases = {each["case"]: each["works"] for each in results["times"]}

    def figure(case: Case, work: str, key: str = "median") -> float | None:
        return cases.get(case.name, {}).get(work, {}).get(key)

    def verdict(what: str, target: str, measured: float | None, met: Callable[[float], bool], show: str) -> Verdict:
        if measured is None:
            return Verdict(what, target, "", "not measured")
        return Verdict(what, target, show.format(measured), "met" if met(measured) else "missed")

    def ratio(*parts: float | None) -> float | None:
        """The first over the sum of the others."""
        known = [each for each in parts if each is not None]
        return known[0] / sum(known[1:]) if len(known) == len(parts) else None

    verdicts = []
    for update in UPDATES:
        measured = ratio(figure(ONE_LONG, update), figure(ONE_LONG, "torch.sort"))
        what = f"{ONE_LONG.name}, forward + backward, {update}"
        verdicts.append(verdict(what, "<= 1.5 x torch.sort", measured, lambda x: x <= 1.5, "{:.2f} x"))
    launches = results.get("launches")
    measured = float(launches) if isinstance(launches, int) else None
    verdicts.append(verdict("80 x 1,024, launches in forward", "1", measured, lambda x: x == 1, "{:.0f}"))
    for update in UPDATES:
        measured = ratio(figure(MULTI_LABEL, f"forward {update}"), 1e-6)
        verdicts.append(verdict(f"80 x 1,024, forward, {update}", "<= 40 us", measured, lambda x: x <= 40, "{:.1f} us"))
    for update in UPDATES:
        ours, others = figure(RETRIEVAL, update), ("torch.sort", f"torch backend {update}")
        what = f"{RETRIEVAL.name}, {update}"
        verdicts.append(verdict(what, "<= 0.6 ms", ratio(ours, 1e-3), lambda x: x <= 0.6, "{:.3f} ms"))
        inverse = ratio(ours, *(figure(RETRIEVAL, name) for name in others))
        speed = None if inverse is None else 1 / inverse
        target = ">= 10 x torch.sort + torch backend"
        verdicts.append(verdict(what, target, speed, lambda x: x >= 10, "{:.1f} x"))
    for update in UPDATES:
        measured = figure(FULL_BANDS, f"dp {update}", "cells a second")
        what = f'{FULL_BANDS.name}, method="dp", {update}'
        verdicts.append(verdict(what, ">= 1e11 cells/s", measured, lambda x: x >= 1e11, "{:.2e}"))
    for case in (ONE_LONG, MANY_LONG):
        measured = ratio(figure(case, "sort_rows triton"), figure(case, "torch.sort"))
        chosen = choose_algorithm(case.rankings, case.items, torch.int32)
        found = verdict(
            f"Triton's sort, {case.rankings:,} x {case.items:,}",
            "<= 1.3 x torch.sort, or auto takes torch",
            measured,
            lambda x, chosen=chosen: x <= 1.3 or chosen == "torch",
            "{:.2f} x",
        )
        verdicts.append(found._replace(figure=f"{found.figure}, auto takes {chosen}" if found.figure else ""))
    return verdicts


def table(rows: list[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    """A Markdown table."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def table_of_times(results: dict[str, Any]) -> str:
    rows = []
    for case in results["times"]:
        base = case["works"].get("torch.sort", {}).get("median")
        for name, figures in case["works"].items():
            if "error" in figures:
                rows.append((case["case"], name, figures["error"][:60], "", "", "", "", ""))
                continue
            rows.append(
                (
                    case["case"],
                    name,
                    f"{figures['median'] * 1e6:,.1f}",
                    f"{figures['p10'] * 1e6:,.1f} - {figures['p90'] * 1e6:,.1f}",
                    f"{figures['median'] / base:.2f}" if base else "",
                    f"{figures['GB/s']:,.1f}",
                    f"{figures['bytes a score']:.0f}" if "bytes a score" in figures else "",
                    f"{figures['host'] * 1e6:,.0f}",
                )
            )
    return table(rows, ("rankings", "work", "us", "p10 - p90", "x torch.sort", "GB/s", "bytes a score", "host us"))

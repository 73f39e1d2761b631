"""What the page says of GPUs, and of profiled calls on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import plots, profile_report, stored
from bench.launches import ENGINE
from bench.markdown import Page, timed
from bench.plots import Point
from bench.stored import Result, duration, memory

KERNEL = "kernel "  # before the names of kernels among the points of the roofline


def add(page: Page, device: str, results: Sequence[Result]) -> None:
    gate = next((each for each in results if each.kind == "gpu"), None)
    profiles = [each for each in results if each.kind == "profile"]
    if gate is not None:
        add_gate(page, gate)
    if any(each.about["type"] == "cuda" for each in results):
        add_roofline(page, device, gate, profiles)
    for number, profile in enumerate(profiles):
        add_profile(page, device, profile, number)


def add_gate(page: Page, gate: Result) -> None:
    """Tests, targets and times of ``bench.gpu``."""
    data = gate.data
    page.add("### GPU: tests, targets, times")
    tests = data["tests"]
    if "green" in tests:
        outcome = f"{tests['passed']} passed, {len(tests['failed'])} failed"
        outcome += "".join(f"; {number} skipped ({reason})" for reason, number in tests["skipped"].items())
    else:
        outcome = f"skipped {tests['skipped']}"
    checks = "".join(f"; {check}: {found}" for check, found in data["sanitizer"].items())
    page.add(f"The tests on this GPU before anything was timed: {outcome}{checks}.")
    if data.get("targets"):
        rows = [[each[key] for key in ("what", "target", "figure", "verdict")] for each in data["targets"]]
        page.table(
            "What the kernels were to reach and what they did:", rows, ["what", "target", "measured", "verdict"], 4
        )
    if not data["times"]:
        page.add("No times were taken.")
        return
    body = []
    for case in data["times"]:
        sort = case["works"].get("torch.sort", {}).get("median")
        for name, figures in case["works"].items():
            if "error" in figures:
                body.append([case["case"], f"{name}: {figures['error']}", *[""] * 6])
                continue
            size, cells = figures.get("bytes a score"), figures.get("cells a second")
            body.append(
                [
                    case["case"],
                    name,
                    timed(figures["median"], figures["median"] / sort if sort else None),
                    f"{duration(figures['p10'])} to {duration(figures['p90'])}",
                    f"{figures['GB/s']:,.1f}",
                    f"{cells:.2e}" if cells else "",
                    "" if size is None else f"{size:.0f}",
                    duration(figures["host"]),
                ]
            )
    says = (
        "GPU time of a call with a cold L2 cache (ratio to `torch.sort`), its 10th to 90th percentile, the bandwidth "
        "by the bytes that must move, the dynamic program's cells a second, peak memory, and the time until the call "
        "returns."
    )
    heads = ["rankings", "work", "time", "p10 to p90", "GB/s", "cells/s", "bytes a score", "host"]
    page.table(says, body, heads, 2)


def points_of(gate: Result | None, profiles: Sequence[Result]) -> list[Point]:
    """Calls by the gate, kernels by the profiler; without the torch backend, which waits for the host."""
    points = []
    for case in gate.data["times"] if gate is not None else ():
        for name, figures in case["works"].items():
            if "error" not in figures and not name.startswith("torch backend"):
                moved = figures["GB/s"] * 1e9 * figures["median"]
                points.append(Point(name, case["case"], moved, figures["median"], figures.get("cells a second")))
    for profile in profiles:
        for kernel in profile.data["kernels"]:
            if kernel.get("bytes") and kernel["seconds"]:
                each = max(kernel["launches"], 1)
                name = KERNEL + profile_report.shorten(kernel["name"], 34)
                points.append(Point(name, call_of(profile), kernel["bytes"] / each, kernel["seconds"] / each))
    return points


def add_roofline(page: Page, device: str, gate: Result | None, profiles: Sequence[Result]) -> None:
    on_gpu = [each for each in profiles if each.about["type"] == "cuda"]
    points = points_of(gate, on_gpu)
    if not points:
        return
    bandwidth = stored.median(each.data.get("copy_bandwidth") for each in on_gpu)
    shortest = min((point.seconds for point in points if point.name.startswith(KERNEL)), default=None)
    title = f"Time against nominal bytes, {device}"
    page.add("### Roofline")
    if bandwidth:
        floor = "The line is the time of the nominal bytes at the measured bandwidth of a copy on this device"
        floor += "; its flat part is the shortest of the kernels plotted." if shortest else "."
        floor += " A point can lie below it where a cache serves reads, or where fewer bytes move than are counted."
    else:
        floor = "No line is drawn: no bandwidth of a copy is stored for this device (`bench.profile` measures it)."
    page.add(
        "Calls and kernels by nominal bytes: for a call, what each score must move at least; for a kernel, the sizes "
        "of the tensors it is given. What the dynamic program does, in cells a second, is written beside its points. "
        f"{floor}"
    )
    page.picture("roofline", device, title, lambda: plots.roofline(points, bandwidth, shortest, title))


def call_of(profile: Result) -> str:
    """``80 x 1,024, P = 20, negative, epsilon 1, method auto, ...``: what was profiled."""
    call = profile.data["call"]
    parts = [f"{call['rows']:,} x {call['items']:,}, P = {call['positives']:,}"]
    parts.append(call["update"] if call.get("loss", "direct") == "direct" else call["loss"])
    parts += [f"{name} {call[name]}" for name in ("epsilon", "method", "backend") if name in call]
    parts += [call[name] for name in ("dtype", "kind") if name in call]
    return ", ".join([*parts, *(["forward only"] if call.get("forward") else [])])


def add_profile(page: Page, device: str, profile: Result, number: int) -> None:
    data: dict[str, Any] = profile.data
    on_gpu = profile.about["type"] == "cuda"
    rows = sorted(data["kernels"], key=lambda row: -row["seconds"])
    what = "kernel" if on_gpu else "operator"
    page.add(f"### Profile: {call_of(profile)}")
    if rows:
        name = "profile" if number == 0 else f"profile-{number + 1}"
        title = f"One call on {device}: {call_of(profile)}"
        ordered = {**data, "kernels": rows}
        page.picture(name, device, f"Time of each {what}", lambda: profile_report.chart(ordered, title))
    gaps = "between kernels" if on_gpu else "outside operators"
    profiled = ""
    if data.get("profiled_wall"):
        engine = any(row["name"] == ENGINE for row in rows)
        threads = ", where also the native engine's threads help less" if engine else ""
        profiled = f" of {duration(data['profiled_wall'])} that a call takes there{threads}"
    facts = [
        f"{duration(data['wall'])} from the call to the end of its work and {duration(data['host'])} until it returns",
        f"under the profiler {duration(data['busy'])} in {what}s and {duration(data['gaps'])} {gaps}{profiled}",
    ]
    if data.get("peak_bytes") is not None:
        facts.append(f"peak memory {memory(data['peak_bytes'])}")
    if data.get("cells_per_second"):
        facts.append(f"{data['cells_per_second']:.2e} cells of the dynamic program a second")
    if data.get("copy_bandwidth"):
        facts.append(f"a copy moves {data['copy_bandwidth'] / 1e9:,.1f} GB/s")
    if data.get("engine_stages"):
        parts = ", ".join(f"{stage} {duration(taken)}" for stage, taken in data["engine_stages"].items())
        facts.append(f"the native engine's own stages, by its own clock and on one thread: {parts}")
    body = [
        [
            row["name"],
            row.get("stage") or "",
            f"{row['launches']:g}",
            duration(row["seconds"]),
            memory(row["bytes"]) if row.get("bytes") else "",
            f"{row['bandwidth'] / 1e9:,.2f}" if row.get("bandwidth") else "",
            f"{row['share']:.0%}" if row.get("share") else "",
        ]
        for row in rows[:15]
    ]
    more = f"; the longest 15 of {len(rows)}" if len(rows) > 15 else ""
    says = (
        f"Each {what} of one call, all its launches together, with its nominal bytes (the sizes of the tensors it is "
        "given), the bandwidth by them, and that as a share of a copy's, which can exceed 100 % where a cache serves it"
        f"{more}. These times are the profiler's, whose own cost is in them: the shorter the {what}, the more. "
        f"The whole: {'; '.join(facts)}."
    )
    page.table(says, body, [what, "stage", "launches", "time", "nominal bytes", "GB/s", "of a copy"], 2)

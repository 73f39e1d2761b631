"""Results as the benchmarks store them, with figures made up, and folders of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import gpu_targets, gpu_times

CPU = "AMD EPYC"
GPU = "NVIDIA H200"
TOTALS = (100, 1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
SIZES = tuple((max(1, total // 101), total - max(1, total // 101)) for total in TOTALS)
PEER_SIZES = ((10, 100), (1_000, 100_000))
STATUSES = {
    "failed": "RuntimeError: the expanded size | of a tensor\nmust match",
    "out of memory": "more than 8 GiB",
    "out of time": "more than 30 s",
    "not installed": "libauc is not here",
    "not tried": "a smaller size ran out of memory",
}


def about(device: str = CPU, date: str = "2025-03-01T10:00:00+00:00", **more: Any) -> dict[str, Any]:
    on_gpu = device == GPU
    versions = {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "fastap": "0.1.0"}
    where = {"device": device, "type": "cuda" if on_gpu else "cpu", "cpu": CPU, "threads": 2, "versions": versions}
    return {**where, "commit": "abcdef1", "date": date, **more}


def quantiles(median: float) -> dict[str, float]:
    return {"median": median, "p10": 0.9 * median, "p90": 1.2 * median}


def benchmark(suite: str, work: str, p: int, n: int, seconds: float, **more: Any) -> dict[str, Any]:
    sort = 1e-8 * (p + n) + 5e-6
    info = {"suite": suite, "work": work, "rankings": 1, "P": p, "N": n, "scores": p + n, "kind": "gaussian"}
    info |= {"epsilon": 1.0, "dtype": "float32", "device": "cpu", "backend": "auto", "method": "auto", "threads": 2}
    info |= {"sort": quantiles(sort), "ratio": {**quantiles(seconds / sort), "rounds": 20}, "checked": "equal"}
    return {"group": suite, "params": None, "stats": {"median": seconds, "min": seconds}, "extra_info": info | more}


def suites(where: dict[str, Any] | None = None, exponent: float = 1.02) -> dict[str, Any]:
    found = []
    for number, work in enumerate(("positive", "negative", "hinge", "metric")):
        for p, n in SIZES:
            seconds = 1e-4 + (1 + 0.3 * number) * 5e-9 * (p + n) ** exponent
            found.append(benchmark("growth", work, p, n, seconds, peak_bytes=50 * (p + n) + 10_000))
    for number, work in enumerate(("positive", "negative")):
        scale = 1e-3 * (1 + number)
        found += [benchmark("balance", work, p, 100_000 - p, scale) for p in (10, 1_000, 50_000)]
        found += [benchmark("distributions", work, 1_000, 9_000, scale, kind=kind) for kind in ("tied", "cauchy")]
        found += [benchmark("epsilon", work, 1_000, 9_000, scale, epsilon=epsilon) for epsilon in (0.1, 1.0)]
        found += [benchmark("methods", work, 1_000, 9_000, scale, method=method) for method in ("auto", "dp")]
        found += [benchmark("backends", work, 1_000, 9_000, scale, backend=name) for name in ("torch", "reference")]
        found += [benchmark("threads", work, 1_000, 9_000, scale, threads=threads) for threads in (1, 2)]
        found += [
            benchmark("batches", work, 20, 980, scale, rankings=4_096, batch="retrieval"),
            benchmark("batches", work, 500, 199_500, scale, batch="detection"),
            *(benchmark("ragged", work, 2, 18, scale, rankings=10_000, layout=layout) for layout in ("rows", "groups")),
        ]
        found += [
            benchmark("directions", work, 100, 900, scale, direction=way) for way in ("forward", "backward", "both")
        ]
        for p, n in ((1_000, 10_000), (10_000, 1_000_000)):
            stages = {
                "sort": 3.0,
                "rows": 1.0,
                "search": 2.0,
                "repair": 0.2,
                "gradient": 1.5,
                "whole": 8.0 if p == 1_000 else 7.0,
            }
            found += [
                benchmark("stages", stage, p, n, seconds * scale * n / 1e5, update=work)
                for stage, seconds in stages.items()
            ]
        stages = {"sort": 3.0, "rows": 1.0, "dp": 90.0, "gradient": 1.5, "whole": 98.0}
        found += [
            benchmark("stages", stage, 1_000, 10_000, seconds * scale, update=work, method="dp")
            for stage, seconds in stages.items()
        ]
    return {"machine_info": {"fastap": where or about()}, "benchmarks": found}


def peer(name: str, p: int, n: int, times: float | None, status: str = "ok", **more: Any) -> dict[str, Any]:
    """A row of a peer that takes so many times as long as the slower update, as files held it before paired ratios."""
    sort = 1e-8 * (p + n) + 5e-6
    row = {"peer": name, "source": f"{name.lower()}==1.0", "gives": "gradient", "P": p, "N": n, "status": status}
    row |= {"reason": STATUSES.get(status, ""), "checked": "falls on separated scores", "sort": quantiles(sort)}
    row |= {"fastap positive": {**quantiles(2 * sort), "bytes": 40 * (p + n)}}
    row |= {"fastap negative": {**quantiles(3 * sort), "bytes": 60 * (p + n)}}
    row["seconds"] = None if times is None else {**quantiles(times * 3 * sort), "calls": 9}
    row["bytes"] = None if times is None else 100 * (p + n)
    return row | more


def paired(row: dict[str, Any], factor: float) -> dict[str, Any]:
    """The row with ratios of paired rounds as well, so many times what the quotients of medians are."""
    if row["seconds"] is None:
        return row
    times = {key: factor * row["seconds"]["median"] / row[key]["median"] for key in row if key.startswith("fastap ")}
    ratio = quantiles(factor * row["seconds"]["median"] / row["sort"]["median"])
    return {**row, "note": f"{row['peer']} has 20 bins", "ratio": ratio, "times": times}


def peers(where: dict[str, Any] | None = None, nearest: float = 4.0) -> dict[str, Any]:
    rows = []
    for p, n in PEER_SIZES:
        rows += [peer("blackbox AP", p, n, nearest), peer("AP-loss", p, n, 40.0)]
        rows.append(peer("slow", p, n, 28_504.0))
        rows[-1]["seconds"]["calls"] = 1
        rows += [peer(f"Peer that is {status}", p, n, None, status) for status in STATUSES]
        metric = peer("torchmetrics AP", p, n, 0.5, gives="metric")
        rows.append({**metric, "fastap metric": quantiles(1e-8 * (p + n) + 5e-6)})
    return {"about": where or about(), "cap": {"seconds": 30.0, "bytes": 8 << 30}, "rows": rows}


def profile(device: str = GPU, **call: Any) -> dict[str, Any]:
    asked = {"rows": 80, "items": 1_024, "positives": 20, "loss": "direct", "update": "negative", "epsilon": 1.0} | call
    kernels = [
        {
            "name": name,
            "stage": stage,
            "launches": 2.0,
            "seconds": seconds,
            "bytes": size,
            "bandwidth": None,
            "share": None,
        }
        for name, stage, seconds, size in (
            ("search_rankings", "search", 4e-5, 6e6),
            ("write_items", "gradient", 1e-5, 3e7),
            ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", None, 4e-6, None),
        )
    ]
    kernels[0] |= {"bandwidth": 1.5e11, "share": 0.04}
    whole = {"wall": 9e-5, "busy": 5.4e-5, "gaps": 1e-5, "host": 8e-5, "peak_bytes": 1 << 20, "cells": None}
    data: dict[str, Any] = {"about": about(device), "call": asked, "copy_bandwidth": 4e12, "kernels": kernels, **whole}
    engine = None if device == GPU else {"sort": 1e-5, "repair": 0.0}
    return {**data, "engine_stages": engine, "cells_per_second": None}


def gate() -> dict[str, Any]:
    """As ``bench.gpu`` stores it, with times made up."""
    times = []
    for case in gpu_times.CASES:
        works: dict[str, Any] = {}
        for number, name in enumerate(case.works):
            work, scores = gpu_times.WORKS[name], case.rankings * case.items
            median = (8e-6 + scores * work.bytes / 2e12) * (1 + 0.4 * number)
            works[name] = {**quantiles(median), "repeats": 50, "host": 6e-5, "wall": 9e-5, "bytes a score": 33.0}
            works[name]["GB/s"] = scores * work.bytes / median / 1e9
            if work.solves is not None and work.solves[1] == "dp":
                works[name]["cells a second"] = case.rankings * case.positives * (case.negatives + 1) / median
        times.append({"case": case.name, "rankings": case.rankings, "kind": case.kind, "works": works})
    times[0]["works"]["positive"] = {"error": "OutOfMemoryError: CUDA out of memory"}
    where = about(GPU)
    results = {key: where[key] for key in ("device", "cpu", "versions", "commit", "date")}
    tests = {"passed": 300, "failed": [], "skipped": {"needs two GPUs": 1}, "seconds": 100.0, "green": True}
    results |= {"tests": tests, "sanitizer": {"memcheck": "clean"}, "times": times, "launches": 1}
    return results | {"targets": [each._asdict() for each in gpu_targets.judge(results)], "seconds": 300.0}


def store(folder: Path, **files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(data))
    return folder


def everything(folder: Path) -> Path:
    files = {
        "suites": suites(),
        "peers": peers(),
        "profile_cpu": profile(CPU),
        "profile": profile(),
        "gpu_h200": gate(),
    }
    return store(folder, **{f"{kind}_x" if "_" not in kind else kind: data for kind, data in files.items()})

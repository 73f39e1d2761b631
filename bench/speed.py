"""What a direct AP loss costs, forward and backward, beside ``torch.sort`` of the same scores.

``python -m bench.speed`` prints the tables of the README, ``--write`` puts them there, ``--json FILE`` keeps the
figures.
Every call gets fresh scores (a small array sorted again and again is learnt by the branch predictors), sorting and
losses take turns in one process, and figures are medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

import fastap
from bench.environment import commit, cpu, versions
from tests.exactness import check_many
from tests.problems import KINDS, draw

SIZES = (
    (10, 100),
    (1_000, 10_000),
    (1_000, 100_000),
    (10_000, 1_000_000),
    (500_000, 500_000),
    (100_000, 10_000_000),
)
HARD = (10_000, 100_000)
SETTINGS = [(update, epsilon) for update in ("positive", "negative") for epsilon in (0.1, 1.0)]
README = Path(__file__).parent.parent / "README.md"


def gaussian(n_positive: int, n_negative: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless fresh float32 rankings: positives N(1, 1), negatives N(0, 1), in random places."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.zeros(n_positive + n_negative, dtype=torch.bool)
    targets[torch.randperm(targets.numel(), generator=generator)[:n_positive]] = True
    while True:
        yield torch.randn(targets.shape, generator=generator) + targets, targets


def hard(kind: str, n_positive: int, n_negative: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless fresh float32 rankings of one of the kinds the tests know."""
    rng = np.random.default_rng(seed)
    while True:
        scores, targets = draw(rng, kind, n_positive, n_negative)
        yield torch.tensor(scores, dtype=torch.float32), torch.tensor(targets == 1)


def step(scores: Tensor, targets: Tensor, update: str, epsilon: float) -> None:
    """Forward and backward."""
    fastap.direct_ap_loss(scores.requires_grad_(), targets, update=update, epsilon=epsilon).backward()


def seconds(work: Callable[[Tensor, Tensor], Any], data: Iterator[tuple[Tensor, Tensor]]) -> float:
    scores, targets = next(data)
    start = time.perf_counter()
    work(scores, targets)
    return time.perf_counter() - start


def measure(data: Iterator[tuple[Tensor, Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of ``torch.sort`` and of each setting, taken in turns."""
    works: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "sort": lambda scores, _: torch.sort(scores, descending=True),
        **{
            f"{update} {epsilon}": lambda scores, targets, u=update, e=epsilon: step(scores, targets, u, e)
            for update, epsilon in SETTINGS
        },
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            taken = seconds(work, data)
            if repeat:  # the first round warms up
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def bytes_a_score(n_positive: int, n_negative: int, update: str) -> float:
    """Peak resident memory of a first call beyond what was resident before it, in a process of its own. Linux only."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (n_positive, n_negative, update)) / (n_positive + n_negative)


def _peak_bytes(n_positive: int, n_negative: int, update: str) -> int:
    torch.set_num_threads(2)
    step(*next(gaussian(1_000, 40_000, 0)), update, 0.1)  # loads code and starts threads
    scores, targets = next(gaussian(n_positive, n_negative, 1))
    scores.grad = torch.zeros_like(scores)  # the gradient is the caller's
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step(scores, targets, update, 0.1)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def machine() -> dict[str, str]:
    return {"cpu": f"{cpu()}, {torch.get_num_threads()} threads", **versions(), "commit": commit()}


def run(repeats: int) -> dict[str, Any]:
    sizes = [
        {
            "P": p,
            "N": n,
            "seconds": measure(gaussian(p, n, seed=p), repeats * 40 if n < 1_000 else repeats if n <= 1e6 else 3),
            "bytes": max(bytes_a_score(p, n, update) for update in ("positive", "negative"))
            if n >= 1e5 and sys.platform == "linux"
            else None,
        }
        for p, n in SIZES
    ]
    kinds = [{"kind": kind, "seconds": measure(hard(kind, *HARD, seed=0), repeats)} for kind in KINDS]
    return {"machine": machine(), "sizes": sizes, "hard": kinds}


def show(results: dict[str, Any]) -> str:
    """The two Markdown tables."""

    def cost(seconds: dict[str, float], update: str, epsilon: float) -> str:
        taken = seconds[f"{update} {epsilon}"]
        return f"{duration(taken)} ({taken / seconds['sort']:.2f})"

    heads = [f"{update}, {epsilon:g}" for update, epsilon in SETTINGS]
    sizes = [
        [
            f"{row['P']:,}",
            f"{row['N']:,}",
            duration(row["seconds"]["sort"]),
            *(cost(row["seconds"], *setting) for setting in SETTINGS),
            f"{row['bytes']:.0f}" if row["bytes"] else "",
        ]
        for row in results["sizes"]
    ]
    kinds = [
        [row["kind"], duration(row["seconds"]["sort"]), *(cost(row["seconds"], *setting) for setting in SETTINGS)]
        for row in results["hard"]
    ]
    about = ", ".join(f"{name} {value}" if name != "cpu" else value for name, value in results["machine"].items())
    return "\n\n".join(
        [
            tabulate(sizes, ["P", "N", "`torch.sort`", *heads, "bytes a score"], "github", disable_numparse=True),
            f"Other score distributions, P = {HARD[0]:,}, N = {HARD[1]:,}:",
            tabulate(kinds, ["scores", "`torch.sort`", *heads], "github", disable_numparse=True),
            f"Measured on {about}.",
        ]
    )


def duration(seconds: float) -> str:
    """Three figures and a unit."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check_many(50, seed=0)  # no figure of a wrong answer
    results = run(options.repeats)
    tables = show(results)
    print(tables)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.write:
        write(tables)


def write(tables: str) -> None:
    """Put the tables into the README."""
    start, end = "<!-- speed -->\n", "\n<!-- /speed -->"
    before, rest = README.read_text().split(start)
    README.write_text(before + start + tables + end + rest.split(end)[1])


if __name__ == "__main__":
    main()

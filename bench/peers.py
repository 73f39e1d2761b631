"""Others beside this library on the same work: ``python -m bench.peers --out DIR``.

Every peer of :mod:`bench.contenders` ranks P positives and N negatives, forward and backward (metrics: forward alone),
at every shape of ``PEER_SHAPES``. Each case is a process of its own with a time and a memory cap, in which
``torch.sort`` and this library are timed in turns with the peer on the same fresh scores; whatever becomes of the peer
is a row. Before its time counts, it must be right on a small problem.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from bench import isolated
from bench.environment import about, file_name, is_installed, stand_in_for_installation
from bench.inputs import PEER_SHAPES, Shape, stream

if not is_installed() or importlib.util.find_spec("fastap.kernels") is None:
    stand_in_for_installation()

import fastap
from bench.contenders import PEERS, Peer, Rank, of_scores
from fastap import reference

Row = dict[str, Any]

SMALL, WARM = Shape(1, 10, 100), Shape(1, 1_000, 40_000)
MOST_ROUNDS = 200


class Limits(NamedTuple):
    """Caps of a case, and for how long its rounds go on."""

    seconds: float
    bytes: int
    rounds: float  # seconds; a call that takes longer is the only one


# One case, in its own process.


class Work(NamedTuple):
    """Something timed; ``trains`` says whether it runs backward too."""

    rank: Rank
    trains: bool

    def run(self, scores: Tensor) -> Any:
        value = self.rank(scores)
        if self.trains:
            value.backward()
        return value

    def seconds(self, scores: Tensor) -> float:
        leaf = scores.clone().requires_grad_(self.trains)
        _wait(scores.device)
        start = time.perf_counter()
        self.run(leaf)
        _wait(scores.device)
        return time.perf_counter() - start

    def peak(self, scores: Tensor) -> tuple[int | None, float]:
        """Bytes beyond scores and gradient, which are the caller's, and the seconds of this call."""
        leaf = scores.clone().requires_grad_(self.trains)
        if self.trains:
            leaf.grad = torch.zeros_like(leaf)
        taken = []

        def call() -> None:
            start = time.perf_counter()
            self.run(leaf)
            _wait(scores.device)
            taken.append(time.perf_counter() - start)

        return isolated.peak_bytes(call, scores.device), taken[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(targets: Tensor, gives: str) -> dict[str, Work]:
    works = {"sort": Work(lambda scores: torch.sort(scores, descending=True), False)}
    for update in ("positive", "negative"):
        loss: Any = partial(fastap.direct_ap_loss, update=update)
        works[f"fastap {update}"] = Work(of_scores(loss, targets), True)
    if gives == "metric":
        works["fastap metric"] = Work(of_scores(fastap.average_precision, targets), False)
    return works


def check_ours(device: str) -> None:
    """Assert that this library is right on the small problem."""
    scores, targets = next(stream(SMALL, seed=1, device=device))
    for update in ("positive", "negative"):
        leaf = scores.clone().requires_grad_()
        fastap.direct_ap_loss(leaf, targets, update=update).backward()
        expected = reference.direct_ap_loss(scores.cpu(), targets.cpu(), update=update).gradient
        assert leaf.grad is not None
        assert np.abs(leaf.grad.cpu().numpy() - expected).max() < 1e-7, f"fastap's {update} update is wrong"


def check(peer: Peer, device: str) -> str:
    """Assert that the peer is; say what was asserted."""
    scores, targets = next(stream(SMALL, seed=1, device=device))
    leaf = scores.clone().requires_grad_(peer.gives == "gradient")
    value = Work(peer.build(targets), peer.gives == "gradient").run(leaf)
    return peer.check(value, scores, targets, leaf.grad)


def measure(peer: Peer, shape: Shape, device: str, threads: int, rounds: float) -> Iterator[Row]:
    """What is known of a case, more of it each time: this library first, so that it stands if the peer fails."""
    warnings.simplefilter("ignore")  # the peers' own
    torch.set_num_threads(threads)
    check_ours(device)
    warm, warm_targets = next(stream(WARM, device=device))
    for work in ours(warm_targets, peer.gives).values():
        work.seconds(warm)  # loads code and starts threads
    data = stream(shape, device=device)
    scores, targets = next(data)
    works = ours(targets, peer.gives)
    for work in works.values():
        work.seconds(scores)
    peaks = {name: work.peak(scores)[0] for name, work in works.items() if name != "sort"}
    times: dict[str, list[float]] = {}

    def row(**more: Any) -> Row:
        found = {name: {**_quantiles(each), **_bytes(peaks, name)} for name, each in times.items() if name != "peer"}
        return {**found, **more}

    _take_turns(works, data, times, 3, 3, rounds)
    yield row()
    checked = check(peer, device)
    yield row(checked=checked)
    works["peer"] = Work(peer.build(targets), peer.gives == "gradient")
    peak, seconds = works["peer"].peak(next(data)[0])
    if seconds > rounds:
        yield row(checked=checked, bytes=peak, seconds=_quantiles([seconds]))
        return
    times.clear()
    _take_turns(works, data, times, 3, MOST_ROUNDS, rounds)
    yield row(checked=checked, bytes=peak, seconds=_quantiles(times["peer"]))


def _take_turns(
    works: dict[str, Work], data: Any, times: dict[str, list[float]], least: int, most: int, seconds: float
) -> None:
    """Rounds of all works on the same fresh scores, each time another one first."""
    order = list(works)
    start = time.perf_counter()
    for turn in range(most):
        scores, _ = next(data)
        for name in order:
            times.setdefault(name, []).append(works[name].seconds(scores))
        order.append(order.pop(0))
        if turn + 1 >= least and time.perf_counter() - start > seconds:
            break


def _quantiles(seconds: Sequence[float]) -> dict[str, Any]:
    p10, median, p90 = (float(each) for each in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return {"median": median, "p10": p10, "p90": p90, "calls": len(seconds)}


def _bytes(peaks: dict[str, int | None], name: str) -> dict[str, int | None]:
    return {"bytes": peaks[name]} if name in peaks else {}


# All cases.


def run_case(peer: Peer, shape: Shape, before: Sequence[Row], limits: Limits, device: str, threads: int) -> Row:
    """A row, whatever happens; ``before`` are this peer's rows of smaller shapes."""
    row = {
        "peer": peer.name,
        "source": peer.source,
        "gives": peer.gives,
        "P": shape.positives,
        "N": shape.negatives,
        "status": "not installed",
        "reason": "",
        **dict.fromkeys(("seconds", "bytes", "sort", "fastap positive", "fastap negative")),
        "checked": "",
        **({"fastap metric": None} if peer.gives == "metric" else {}),
    }
    if peer.version is None:
        return {**row, "reason": f"there is no package {peer.package}"}
    if reason := hopeless(shape, before, limits):
        return {**row, "status": "not tried", "reason": reason}
    outcome = isolated.run(
        *(measure, peer, shape, device, threads, limits.rounds),
        seconds=limits.seconds,
        memory=limits.bytes,
        device=device,
    )
    reason = outcome.reason.removeprefix("AssertionError: ")
    return {**row, **(outcome.value or {}), "status": outcome.status, "reason": reason}


def hopeless(shape: Shape, before: Sequence[Row], limits: Limits) -> str:
    """Why not to try: what ran out at a smaller shape runs out here; and nothing takes less than linear time."""
    for row in before:
        if row["status"] in ("out of time", "out of memory"):
            return f"{row['status']} {_at(row)}"
    # Four times the cap, so that a call that the machine disturbed does not decide alone.
    if before and (seconds := before[-1]["seconds"]):
        growth = shape.items / (before[-1]["P"] + before[-1]["N"])
        if seconds["median"] * growth > 4 * limits.seconds:
            return f"{seconds['median']:.3g} s {_at(before[-1])}, and {growth:.2g} times as many scores here"
    return ""


def _at(row: Row) -> str:
    return f"at P = {row['P']:,}, N = {row['N']:,}"


def run(peers: Sequence[Peer], shapes: Sequence[Shape], limits: Limits, device: str, threads: int) -> Row:
    rows: list[Row] = []
    with tqdm(total=len(peers) * len(shapes), unit="case") as progress:
        for peer in peers:
            own: list[Row] = []
            for shape in shapes:
                progress.set_postfix_str(f"{peer.name}, {shape.items:,} scores")
                own.append(run_case(peer, shape, own, limits, device, threads))
                progress.update()
            rows += own
    return {"about": about(device), "cap": {"seconds": limits.seconds, "bytes": limits.bytes}, "rows": rows}


def table(results: Row) -> str:
    """A line a peer: median time, and in brackets the ratios to the sort and to this library."""
    shapes = list(dict.fromkeys((row["P"], row["N"]) for row in results["rows"]))
    lines: dict[str, list[str]] = {}
    for row in results["rows"]:
        lines.setdefault(row["peer"], [row["peer"]]).append(_cell(row))
    heads = ["time (to torch.sort; to fastap)", *(f"P={p:,}, N={n:,}" for p, n in shapes)]
    return tabulate(list(lines.values()), heads, "github", disable_numparse=True)


def _cell(row: Row) -> str:
    if row["status"] != "ok":
        return row["status"]
    own = row["fastap metric" if row["gives"] == "metric" else "fastap positive"]
    seconds = row["seconds"]["median"]
    ratios = (f"{seconds / other['median']:.3g}" for other in (row["sort"], own))
    return f"{seconds * 1e3:.3g} ms ({'; '.join(ratios)})"


def most_memory() -> int:
    """8 GiB, but three quarters of what the machine has if that is less."""
    if not hasattr(os, "sysconf"):
        return 8 * 2**30
    return min(8 * 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory that peers-*.json goes to")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="NAME", help="these peers")
    parser.add_argument("--quick", action="store_true", help="the small shapes, a few calls each")
    parser.add_argument("--seconds", type=float, default=20.0, help="cap of a case (%(default)s)")
    parser.add_argument("--memory", type=int, default=most_memory(), help="cap of a case in bytes (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    peers = [peer for peer in PEERS if options.only is None or peer.name in options.only]
    shapes = PEER_SHAPES[:3] if options.quick else PEER_SHAPES
    limits = Limits(options.seconds, options.memory, 0.1 if options.quick else 0.6)
    results = run(peers, shapes, limits, options.device, options.threads)
    print(table(results))
    for row in results["rows"]:
        if row["reason"]:
            print(f"{row['peer']}, P={row['P']:,}, N={row['N']:,}: {row['status']}, {row['reason']}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / file_name("peers", results["about"])
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()

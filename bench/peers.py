"""Others beside this library on the same work: ``python -m bench.peers --out DIR``.

Every peer of :mod:`bench.contenders` ranks P positives and N negatives, forward and backward (metrics: forward alone),
at every shape of ``PEER_SHAPES``. Each case is a process of its own with a time and a memory cap, in which
``torch.sort`` and this library are timed in turns with the peer on the same fresh scores, in an order that is shuffled
anew in each round; whatever becomes of the peer is a row. Before its time counts, it must be right on a small problem.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastap
from bench import isolated, store
from bench.clock import quantiles, wait
from bench.contenders import PEERS, Peer, Rank, of_scores
from bench.environment import about
from bench.figures import duration, few_calls, ratio_to_ours, times_of
from bench.inputs import PEER_SHAPES, Inputs, Shape, stream
from bench.store import Row
from fastap.backends import reference

Times = dict[str, list[float]]  # of each work, round after round

WARM = Shape(1, 1_000, 40_000)
# Rounds at least and at most; of a peer whose call is long fewer, if half of the cap is over.
LEAST, MOST = 5, 200
# What a row says of the peer where its status is "ok".
MEASURED = ("seconds", "bytes", "ratio", "times")


class Limits(NamedTuple):
    """Caps of a case, and for how long its rounds go on."""

    seconds: float
    bytes: int
    rounds: float  # seconds; a call that takes longer is long


class Work(NamedTuple):
    """Something timed; ``trains`` says whether it runs backward too."""

    rank: Rank
    trains: bool = True

    def __call__(self, leaf: Tensor) -> Any:
        value = self.rank(leaf)
        if self.trains:
            value.backward()
        wait(leaf.device)
        return value

    def seconds(self, scores: Tensor) -> float:
        leaf = scores.clone().requires_grad_(self.trains)
        wait(scores.device)
        start = time.perf_counter()
        self(leaf)
        return time.perf_counter() - start

    def peak(self, scores: Tensor) -> tuple[int | None, float]:
        """Bytes beyond scores and gradient, which are the caller's, and the seconds of this call."""
        leaf = scores.clone().requires_grad_(self.trains)
        leaf.grad = torch.zeros_like(leaf) if self.trains else None
        taken: list[float] = []

        def call() -> None:
            start = time.perf_counter()
            self(leaf)
            taken.append(time.perf_counter() - start)

        return isolated.peak_bytes(call, scores.device), taken[0]


def ours(targets: Tensor, gives: str) -> dict[str, Work]:
    works = {"sort": Work(lambda scores: torch.sort(scores, descending=True), trains=False)}
    for update in ("positive", "negative"):
        loss: Any = partial(fastap.direct_ap_loss, update=update)
        works[f"fastap {update}"] = Work(of_scores(loss, targets))
    if gives == "metric":
        works["fastap metric"] = Work(of_scores(fastap.average_precision, targets), trains=False)
    return works


def check(peer: Peer, device: str) -> str:
    """Assert that the peer is right on the small problem, and this library, too; say what was asserted."""
    torch.manual_seed(0)  # for what draws noise
    scores, targets = next(stream(peer.small, seed=1, device=device))
    for update in ("positive", "negative"):
        leaf = scores.clone().requires_grad_()
        fastap.direct_ap_loss(leaf, targets, update=update).backward()
        expected = torch.from_numpy(reference.direct_ranking_loss(scores.cpu(), targets.cpu(), update=update).gradient)
        torch.testing.assert_close(leaf.grad, expected.to(scores), rtol=0, atol=1e-7)
    leaf = scores.clone().requires_grad_(peer.gives == "gradient")
    value = Work(peer.build(targets), peer.gives == "gradient")(leaf)
    return peer.check(value, scores, targets, leaf.grad)


def measure(peer: Peer, shape: Shape, device: str, threads: int, limits: Limits) -> Iterator[Row]:
    """What is known of a case, more of it each time: this library first, so that it stands if the peer fails."""
    start = time.perf_counter()
    warnings.simplefilter("ignore")  # the peers' own
    torch.set_num_threads(threads)
    warm, warm_targets = next(stream(WARM, device=device))
    for work in ours(warm_targets, peer.gives).values():
        work.seconds(warm)  # loads code and starts threads
    data = stream(shape, device=device)
    scores, targets = next(data)
    works = ours(targets, peer.gives)
    for _ in range(2):  # the first time gives back what lies about, and then some of it is wanted again
        peaks = {name: work.peak(scores)[0] for name, work in works.items()}
    del peaks["sort"]
    times: Times = {}
    shuffle = random.Random(0).shuffle

    def row(**more: Any) -> Row:
        found = {name: calls(times[name]) for name in works if name != "peer"}
        for name, peak in peaks.items():
            found[name]["bytes"] = peak
        return found | more

    take_turns(works, data, times, shuffle, least=3, most=3)
    yield row()
    checked = check(peer, device)
    yield row(checked=checked)
    works["peer"] = Work(peer.build(targets), peer.gives == "gradient")
    scores, _ = next(data)
    peak, first = works["peer"].peak(scores)
    found = {"checked": checked, "bytes": peak}
    times.clear()
    if first <= limits.rounds:
        take_turns(works, data, times, shuffle, least=LEAST, most=MOST, seconds=limits.rounds)
        yield row(**found, **against(times))
        return
    # The call whose memory was taken is the first of few rounds: it warmed nothing up that a long one would feel.
    times.update({name: [work.seconds(scores)] for name, work in works.items() if name != "peer"}, peer=[first])
    yield row(**found, **against(times))
    while len(times["peer"]) < LEAST and time.perf_counter() - start < limits.seconds / 2:
        take_turns(works, data, times, shuffle, least=1, most=1)
        yield row(**found, **against(times))


def take_turns(
    works: dict[str, Work], data: Inputs, times: Times, shuffle: Any, *, least: int, most: int, seconds: float = 0.0
) -> None:
    """Rounds of all works on the same fresh scores.

    Each round has its own order, for what follows what matters: while a fixed cycle went round, the update that always
    came right after the other looked 15 to 20 % cheaper at small sizes.
    """
    order = list(works)
    start = time.perf_counter()
    for turn in range(most):
        scores, _ = next(data)
        shuffle(order)
        for name in order:
            times.setdefault(name, []).append(works[name].seconds(scores))
        if turn + 1 >= least and time.perf_counter() - start > seconds:
            break


def against(times: Times) -> Row:
    """The peer's time, and what it is of the others' in the same rounds."""
    ratios = {name: np.array(times["peer"]) / each for name, each in times.items() if name != "peer"}
    sort = quantiles(ratios.pop("sort"))
    middle = {name: float(np.median(each)) for name, each in ratios.items()}
    return {"seconds": calls(times["peer"]), "ratio": sort, "times": middle}


def calls(seconds: Sequence[float]) -> dict[str, Any]:
    return {**quantiles(seconds), "calls": len(seconds)}


def run_case(peer: Peer, shape: Shape, before: Sequence[Row], limits: Limits, device: str, threads: int) -> Row:
    """A row, whatever happens; ``before`` are this peer's rows of smaller shapes."""
    row: Row = {key: getattr(peer, key) for key in ("source", "gives", "note")}
    row = {"peer": peer.name, **row, "P": shape.positives, "N": shape.negatives, "reason": "", "checked": ""}
    if peer.version is None:
        return {**row, "status": "not installed", "reason": f"there is no package {peer.package}"}
    if reason := hopeless(shape, before, limits):
        return {**row, "status": "not tried", "reason": reason}
    arguments = (measure, peer, shape, device, threads, limits)
    outcome = isolated.run(*arguments, seconds=limits.seconds, memory=limits.bytes, device=device)
    found = outcome.value or {}
    if outcome.status == "out of time" and "seconds" in found:  # a round too many, of a peer that has a time
        return {**row, **found, "status": "ok"}
    found = {key: each for key, each in found.items() if outcome.status == "ok" or key not in MEASURED}
    return {**row, **found, "status": outcome.status, "reason": outcome.reason.removeprefix("AssertionError: ")}


def hopeless(shape: Shape, before: Sequence[Row], limits: Limits) -> str:
    """Why not to try: what ran out at a smaller shape runs out here; and nothing takes less than linear time."""
    for row in before:
        if row["status"] in ("out of time", "out of memory"):
            return f"{row['status']} at P = {row['P']:,}, N = {row['N']:,}"
    # Four times the cap, so that a call that the machine disturbed does not decide alone.
    if before and (seconds := before[-1].get("seconds")):
        growth = shape.items / (before[-1]["P"] + before[-1]["N"])
        if seconds["median"] * growth > 4 * limits.seconds:
            where = f"at P = {before[-1]['P']:,}, N = {before[-1]['N']:,}"
            return f"{seconds['median']:.3g} s {where}, and {growth:.2g} times as many scores here"
    return ""


def in_words(row: Row) -> str:
    """``binned AP, P = 10, N = 100: 258 us, 15.4 x torch.sort, 2.51 x fastap``; or what kept it from giving a time."""
    where = f"{row['peer']}, P = {row['P']:,}, N = {row['N']:,}"
    ours = ratio_to_ours(row)
    if ours is None:
        return f"{where}: {row['status']}, {row['reason']}"
    sort, few = times_of(row["ratio"]["median"]), few_calls(row)
    taken = f"{duration(row['seconds']['median'])}, {sort} x torch.sort, {times_of(ours)} x fastap"
    return f"{where}: {taken}{f' ({few})' if few else ''}; {row['checked']}"


def most_memory() -> int:
    """8 GiB, but three quarters of what there is if that is less."""
    return min(8 * 2**30, (isolated.machine_bytes() or 16 * 2**30) * 3 // 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="NAME", help="these peers")
    parser.add_argument("--quick", action="store_true", help="the small shapes, a few calls each")
    parser.add_argument("--seconds", type=float, default=20.0, help="cap of a case (%(default)s)")
    parser.add_argument("--memory", type=int, default=most_memory(), help="cap of a case in bytes (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch (its own choice: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    peers = [peer for peer in PEERS if options.only is None or peer.name in options.only]
    shapes = PEER_SHAPES[:3] if options.quick else PEER_SHAPES
    limits = Limits(options.seconds, options.memory, 0.1 if options.quick else 0.6)
    rows: list[Row] = []
    for peer in peers:
        own: list[Row] = []
        for shape in shapes:
            own.append(run_case(peer, shape, own, limits, options.device, options.threads))
            print(in_words(own[-1]), flush=True)
        rows += own
    cap = {"seconds": options.seconds, "bytes": options.memory}
    print(store.write(options.out, "peers", about(options.device), rows, cap=cap))


if __name__ == "__main__":
    main()

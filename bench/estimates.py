"""What an H100 may take for a call, by what the emulated GPU counts: ``python -m bench.estimates --out DIR``.

An estimate, not a measurement: see :mod:`emulator.estimate`. Launches, instructions, sectors and memory are counted, a
row a kernel; times are derived from them. PyTorch's sort runs on the CPU here and is not among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton

from bench.cases import Case
from bench.environment import about
from bench.figures import duration
from bench.inputs import Shape
from bench.store import Row, write
from emulator import Device
from emulator.estimate import estimate
from fastap.backends import triton as backend
from fastap.backends.triton.launch import launch_for
from fastap.types import ONE_SIDED, UPDATES

DEVICE = "H100, estimated"
WHOLE = "all"  # kernels of a call together
SECTOR = 32  # bytes
BANDWIDTH = 3.35e12  # bytes a second, of the memory of an H100 SXM
# Instructions of float64 a second of an RTX 4090, 1/64 of those of float32: 128 multiprocessors, 2 a cycle, 2.52 GHz
# (NVIDIA Ada GPU Architecture, version 2.1).
CONSUMER_FLOAT64 = 128 * 2 * 2.52e9


@dataclass(frozen=True)
class Workload:
    """A call, of whose rankings so many are run; the launch is that of all, and counts are scaled up."""

    case: Case
    runs: int

    @property
    def share(self) -> float:
        return self.case.shape.rankings / self.runs


def _workload(rankings: int, positives: int, negatives: int, runs: int = 0, **options: Any) -> Workload:
    return Workload(Case(Shape(rankings, positives, negatives), backend="triton", **options), runs or rankings)


# What tests/test_estimates.py counts again: seconds each.
SMALL = [
    _workload(80, 20, 1004, work="positive"),
    _workload(1, 1000, 100_000, work="positive"),
    _workload(1, 1000, 100_000, work="negative"),
]
WORKLOADS = [
    *(_workload(80, 20, 1004, work=update) for update in UPDATES),
    *(_workload(4096, 20, 980, 132, work=update) for update in UPDATES),
    *(_workload(1, 1000, 100_000, work=update) for update in UPDATES),
    *(_workload(1, 10_000, 1_000_000, work=update) for update in UPDATES),
    *(_workload(1, 100_000, 10_000_000, work=update) for update in ONE_SIDED),
    *(_workload(1, 10_000, 300_000, work=update, kind=kind) for kind in ("saturated", "tied") for update in ONE_SIDED),
    _workload(1, 10_000, 300_000, work="negative", kind="cauchy", epsilon=0.1),
    _workload(1, 1000, 30_000, work="negative", kind="conflicting"),
    # Of which prices prove nothing.
    _workload(1, 10_000, 300_000, work="negative", kind="relu(x - 2)", epsilon=0.01),
    _workload(1, 30_000, 1000, work="positive", kind="conflicting"),
]


def emulate(workload: Workload) -> Device:
    """A call on the emulated GPU, which has its launches."""
    case, shape = workload.case, workload.case.shape
    chosen = launch_for(shape.rankings, shape.items, getattr(torch, case.dtype), "sm_90")
    run = replace(case, shape=replace(shape, rankings=workload.runs))
    scores, targets = next(run.inputs())
    with (
        Device(checks=False, timing=True, seed=0, apart=False) as device,
        mock.patch.object(backend, "launch_for", return_value=chosen),
    ):
        run.prepare(scores, targets)()
    return device


def measure(workload: Workload) -> list[Row]:
    """What :func:`rows_of` says of a call that is made for it."""
    return rows_of(emulate(workload), workload)


def rows_of(device: Device, workload: Workload) -> list[Row]:
    """A row a kernel, in order of their launches, and one of all."""
    case = workload.case
    rows: dict[str, Row] = {}
    for launch in device.launches:
        share = workload.share
        taken = estimate(launch, share)
        sectors = launch.counts["sectors_ld"] + launch.counts["sectors_st"]
        found = {
            "launches": 1,
            "instructions": 32 * share * launch.counts["issue"],
            "float64": 32 * share * launch.counts["f64_slots"],
            "sectors": share * sectors,
            "conflicts": share * launch.counts["conflicts"],
            "barriers": share * launch.counts["barriers"],
            "seconds": taken.likely,
            "bound": taken.bound,
        }
        for name in (launch.name, WHOLE):
            row = rows.setdefault(name, dict.fromkeys(found, 0))
            for key, value in found.items():
                row[key] += value
    per_score = ("instructions", "float64", "sectors", "conflicts")
    for row in rows.values():
        row.update({key: row[key] / case.shape.scores for key in per_score})
    rows[WHOLE] |= {"allocations": device.allocations, "bytes": device.allocated / (workload.runs * case.shape.items)}
    said = {
        key: value for key, value in case.describe().items() if key in ("work", "rankings", "P", "N", "kind", "epsilon")
    }
    whole = rows.pop(WHOLE)
    return [{**said, "kernel": name, **row} for name, row in [*rows.items(), (WHOLE, whole)]]


def rows(workloads: list[Workload]) -> Iterator[Row]:
    for workload in workloads:
        found = measure(workload)
        case, whole = workload.case, found[-1]
        print(f"{case.shape}, {case.kind}, {case.work}: {whole['launches']} launches, {duration(whole['seconds'])}")
        yield from found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV file")
    options = parser.parse_args()
    where = about()
    where |= {"device": DEVICE, "type": "emulated", "versions": {**where["versions"], "triton": triton.__version__}}
    print(write(options.out, "estimates", where, [*rows(WORKLOADS)]))


if __name__ == "__main__":
    main()

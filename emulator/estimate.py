"""What an H100 may take for a launch, from what the emulator counted: an estimate, not a measurement.

``bound`` is what no schedule can beat: the machine's rate of instructions, of float64, of accesses, of memory, and the
longest block alone on its multiprocessor. ``likely`` has blocks run as they fit on the multiprocessors, each as long as
its warps wait for what they need, with the share of the slots that good kernels use, and adds what a launch costs in a
stream that is fed in time.
"""

from __future__ import annotations

import heapq
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from triton import knobs

from emulator.device import Launch

# Of an H100 SXM: multiprocessors, cycles and bytes a second; what a multiprocessor holds.
PROCESSORS, CLOCK, L2 = 132, 1.7e9, 5.5e12
_REGISTERS, _WARPS, _BLOCKS, _SHARED = 65_536, 64, 32, 227 * 1024
# Assumed, as no GPU was at hand: from one kernel's end to the next one's work, in seconds.
LAUNCH = 2.5e-6
# Assumed too, the shares that good kernels reach: of issue slots, float64, loads and stores, the bandwidth of L2.
_SLOTS, _FLOAT64, _ACCESSES, _TRAFFIC = 0.6, 0.8, 0.7, 0.7


@dataclass(frozen=True)
class Estimate:
    """Of one launch; times in seconds."""

    bound: float
    likely: float


def estimate(launch: Launch, rankings: float = 1.0) -> Estimate:
    """Of a launch, or of one that has ``rankings`` times its blocks, all like those that ran."""
    counts = launch.counts
    grid = int(launch.grid * rankings)
    share = grid / len(launch.cycles)  # of what ran
    used = min(PROCESSORS, grid)
    # Four schedulers, each of which issues one instruction a cycle to a warp, float64 at half the rate.
    slots = counts["issue"] * share / (4 * used)
    float64 = 2 * counts["f64_slots"] * share / (4 * used)
    sectors = (counts["sectors_ld"] + counts["sectors_st"]) * share
    shared = (counts["lds"] + counts["sts"] + counts["conflicts"]) * share
    accesses = (sectors / 4 + shared) / used
    traffic = 32 * (counts["missed"] + counts["sectors_st"]) * share
    resident = _resident(launch)
    makespan = _makespan(np.resize(launch.cycles, grid), PROCESSORS * resident)
    longest = int(launch.cycles.max())
    return Estimate(
        bound=max(max(slots, float64, accesses, longest) / CLOCK, traffic / L2),
        likely=max(
            max(slots / _SLOTS, float64 / _FLOAT64, accesses / _ACCESSES, makespan) / CLOCK, traffic / L2 / _TRAFFIC
        )
        + LAUNCH,
    )


def hottest(launch: Launch, count: int = 6) -> list[tuple[str, float]]:
    """Lines of the source where warps spend most of their cycles, and the share of each."""
    cycles: Counter[str] = Counter()
    for spent, line in zip(launch.spent[:, 0], launch.program.lines, strict=True):
        # Of Triton's own functions, the line that calls them.
        places = [place.strip(" ]") for place in line.split(" @[ ")]
        own = next((place for place in places if not place.startswith("standard.py")), places[0])
        cycles[own.rsplit(":", 1)[0]] += int(spent)
    total = max(1, sum(cycles.values()))
    return [(line, spent / total) for line, spent in cycles.most_common(count)]


def _makespan(cycles: npt.NDArray[np.int64], places: int) -> int:
    """Until the last block ends, each starting where one has ended, in order."""
    busy = [0] * min(places, len(cycles))
    for each in cycles:
        heapq.heapreplace(busy, busy[0] + int(each))
    return max(busy)


def _resident(launch: Launch) -> int:
    """Blocks that a multiprocessor holds, by registers (given to warps by the 256), warps and shared memory."""
    registers = -(-resources(launch.kernel.asm["cubin"])["REG"] * 32 // 256) * 256 * launch.warps
    by_shared = _SHARED // (launch.shared + 1024)
    return max(1, min(_REGISTERS // registers, _WARPS // launch.warps, _BLOCKS, by_shared))


@cache
def resources(binary: bytes) -> dict[str, int]:
    """Registers of a thread, bytes of its stack and of local memory, by NVIDIA's tool: REG, STACK, LOCAL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}

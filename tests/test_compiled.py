"""What compilers make of every kernel, on targets that need not be there: see :mod:`tests.compiled`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import LONG_TO_COMPILE, TARGETS, Entry, Numbers

ROOT = Path(__file__).parents[1]

OFTEN = ("sm_90",)

# Seconds of a processor for one kernel. A short row of 4,096 takes 30, and nothing but short rows more than 5. A slow
# machine takes some times that; loops unrolled by accident and quadratic passes, which this is to catch, still more.
BUDGETS = {"short.solve_short": 180.0}
BUDGET = 60.0


@pytest.fixture(scope="module", params=["quick", pytest.param("all", marks=pytest.mark.full)])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Entry, Numbers]:
    """Of all of them, or of what is soon compiled."""
    file = tmp_path_factory.mktemp("compiled") / "measured.json"
    command = [sys.executable, "-m", "tests.compiled", "--json", str(file)]
    command += ["--quick", "--target", *OFTEN] if request.param == "quick" else []
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {tuple(entry): numbers for *entry, numbers in json.loads(file.read_text(encoding="utf-8"))}


def named(found: dict[Entry, Numbers]) -> str:
    return "\n".join(f"{' | '.join(entry)}: {numbers}" for entry, numbers in found.items())


def test_every_launch_is_there(measured: dict[Entry, Numbers], request: pytest.FixtureRequest) -> None:
    sources = (ROOT / "fastap" / "backends" / "triton").glob("*.py")
    launched = {
        name for file in sources for name in re.findall(r"\bstart\(\s*\w+\.(\w+),", file.read_text(encoding="utf-8"))
    }
    if "quick" in request.node.callspec.id:
        launched -= {*LONG_TO_COMPILE}
    for target in {target for *_, target in measured}:
        found = {kernel.split(".")[1] for kernel, _, its_target in measured if its_target == target}
        assert found == launched
    assert {kernel.split(".")[1] for kernel, _, _ in measured} == launched
    assert {target for *_, target in measured} == {*(OFTEN if "quick" in request.node.callspec.id else TARGETS)}


def test_every_kernel_compiles_to_what_a_gpu_can_run(measured: dict[Entry, Numbers]) -> None:
    """Nothing spills: registers that do not suffice go to memory, as do arrays that the compiler cannot resolve.

    A thread has at most 255 registers, a program at most the 65,536 of a multiprocessor, or it cannot start; and 48 KiB
    of shared memory on every NVIDIA GPU there is, without a special request, 64 KiB on AMD's.
    """
    wrong = {}
    for entry, numbers in measured.items():
        num_warps, nvidia = int(re.search(r"num_warps=(\d+)", entry[1])[1]), entry[2].startswith("sm_")
        if (
            "error" in numbers
            or numbers["spilled"]
            or numbers["stack"]
            or (nvidia and numbers["registers"] > min(255, 65536 // (32 * num_warps)))
            or numbers["shared"] > (48 if nvidia else 64) * 1024
            # Of what was compiled just now: Triton keeps binaries from run to run.
            or (numbers["seconds"] or 0.0) > BUDGETS.get(entry[0], BUDGET)
        ):
            wrong[entry] = numbers
    assert not wrong, named(wrong)

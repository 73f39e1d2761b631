"""Proton's view of a call. It gets a process of its own: PyTorch's profiler keeps CUPTI, which serves one at a time."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from bench import isolated
from bench.clock import Machine
from bench.one_call import OneCall
from bench.trace import CALL

MODULE = "triton.profiler"
WARM_UP = "warm-up"
# A cold cache of compiled kernels included; a minute is usual then.
SECONDS = 240.0


def why_not(*, on_gpu: bool) -> str | None:
    """Triton's profiler looks at GPUs only, and not every Triton has it."""
    if not on_gpu:
        return "--proton needs a CUDA device: Triton's Proton sees nothing on a CPU"
    try:
        found = importlib.util.find_spec(MODULE)
    except (ImportError, ValueError):
        found = None
    return None if found else f"--proton needs {MODULE}, and there is none"


def write(call: OneCall, repeats: int, path: Path) -> tuple[Path, str]:
    """The file for ``proton-viewer``, whose name ends in ``.hatchet``, and why there is none; empty if there is."""
    stem = path.with_suffix("") if path.suffix == ".hatchet" else path
    written = stem.with_name(stem.name + ".hatchet")  # Proton appends it
    written.unlink(missing_ok=True)
    outcome = isolated.run(trace, call, repeats, str(stem), MODULE, seconds=SECONDS, device=call.device)
    if outcome.status != "ok":
        return written, f"Proton {outcome.status}: {outcome.reason}"
    return written, "" if written.exists() else "Proton ended and left no file"


def trace(call: OneCall, repeats: int, stem: str, module: str) -> None:
    """Proton's tree of so many calls; those that compile stand apart, as Proton names kernels where they are loaded."""
    machine, proton = Machine(call.device), importlib.import_module(module)
    inputs = call.inputs(2)
    session = proton.start(stem, hook="triton")
    try:
        for scope in [WARM_UP] + [CALL] * repeats:
            scores, targets = next(inputs)
            machine.flush()
            with proton.scope(scope):
                call.make(scores, targets)
            machine.wait()
    finally:
        proton.finalize(session)

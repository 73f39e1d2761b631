"""Compile every kernel ahead of time, for GPUs that need not be there, and read off what the compiler made of it.

``python -m tests.compiled`` prints registers, memory and time of each; ``--target sm_90`` does one target, ``--quick``
leaves out what searches or sorts a row and takes seconds. Triton keeps binaries from run to run, by source and target.

What is compiled is what the launchers ask for. They are called on tensors without memory, with a driver that names the
target; Triton works out signature, specialisation and options of each launch as it would on that GPU, and hands them to
a hook instead of its compiler. So no signature is written by hand, and a launcher that changes is followed.

Every target gets both updates of the direct loss and the dynamic program, in all tile sizes of the short path and on
the long one, and what they need besides. The rest is compiled for ``EXTRAS`` only, at one size of either path:

- short rows of 512, which have the tiles of 1,024 and half the row to sort;
- the hinge, the perceptron, the metric and the ranking: the same search on the same tiles, with a smaller formula;
- other types of targets and scores: another load and a conversion, before the row is sorted. float64 scores, always
  on the long path, also double the width of its keys;
- other sizes and strides: what is beyond 32 bits is another type, and what is 1 or a multiple of 16 may be compiled
  for. There is a case of each: a single item, and 2**32 scores with the ranked axis in the middle.

Left out are combinations of these, which meet in no expression but that of an address, and scores whose memory begins
at no multiple of 16 bytes, which are loaded one by one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor

from emulator.estimate import resources
from fastap.types import Batch, Objective, Update

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
EXTRAS = ("sm_90",)
# With all of a search in them, or a sort: half a minute in the worst case.
LONG_TO_COMPILE = ("sort_short", "solve_short", "ragged_rankings", "settle_rankings", "finish_rankings")
WORKERS = 2

Numbers = dict[str, Any]
Entry = tuple[str, str, str]  # kernel, configuration, target


@dataclass(frozen=True)
class Compilation:
    """One kernel as Triton would compile it for a launch."""

    kernel: str  # module.function
    target: str
    specialisation: str  # JSON, from Triton's hook

    @property
    def configuration(self) -> str:
        """Constants and options that launchers set; then types, ``*`` for a pointer, ``%16`` for a multiple of 16."""
        asked = json.loads(self.specialisation)
        names = list(asked["signature"])
        constants = {names[path[0]]: value for path, value in _pairs(asked, "constant")}
        multiples = {names[path[0]] for path, value in _pairs(asked, "attrs") if value}
        words = [f"{name}={value}" for name, value in constants.items() if name.isupper()]
        words += [f"{name}={asked['options'][name]}" for name in ("num_warps", "maxnreg") if asked["options"].get(name)]
        types = []
        for name, kind in asked["signature"].items():
            if name in constants:
                types += [] if name.isupper() else [f"={constants[name]}"]
            elif kind.startswith("*"):
                types.append(kind if name in multiples else f"{kind} unaligned")
            else:
                types.append(f"{kind}%16" if name in multiples else kind)
        return f"{' '.join(words)}: {' '.join(types)}"

    @property
    def entry(self) -> Entry:
        return self.kernel, self.configuration, self.target


def _pairs(asked: dict[str, Any], name: str) -> list[tuple[tuple[int, ...], Any]]:
    values = asked[f"{name}_vals"]
    return [(tuple(path), value) for path, value in zip(asked[f"{name}_keys"], values, strict=True)]


class _Absent:
    """A driver of a device that is not there."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget(*TARGETS[target])
        self._number = list(TARGETS).index(target)  # Triton asks for the target of a device once

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return self._number

    def get_current_stream(self, device: int) -> int:
        return 0


def compilations(target: str) -> list[Compilation]:
    """Every kernel in every configuration for that target, each once."""
    from triton import knobs
    from triton.runtime import driver

    from fastap.backends import triton as backend
    from fastap.backends.triton import bound

    found: dict[str, Compilation] = {}

    def record(*, compile: dict[str, Any], **_: Any) -> bool:
        asked = json.loads(compile["specialization_data"])
        del asked["key"]
        text = json.dumps(asked)
        found[text] = Compilation(asked["name"].removeprefix("fastap.kernels."), target, text)
        return True  # do not compile

    driver.set_active(_Absent(target))
    with (
        mock.patch.object(knobs.runtime, "jit_cache_hook", record),
        mock.patch.object(backend, "architecture", return_value=target),
        mock.patch.object(bound, "proves_kernels", return_value=False),
    ):
        for launch in _launches(target):
            launch()
    return list(found.values())


# Short rows of each size, and a long one; none is a multiple of 16.
_SHORT = (100, 500, 1000, 4001)
_MIDDLE = 500
_LONG = 10_001
_RAGGED = (3, 1000)  # rankings of 10,001 items together: long on average, and short
_UPDATES: tuple[Literal["positive", "negative"], ...] = ("positive", "negative")
Loss = Literal["direct", "hinge", "perceptron"]


def _launches(target: str) -> Iterator[Callable[[], object]]:
    from fastap.backends import triton as backend

    def losses(
        items: int, loss: Loss = "direct", update: Update = "positive", dp: bool = False, **batch: Any
    ) -> Callable[[], object]:
        objective = Objective(loss, 1.0, update, "dp" if dp else "auto")
        return lambda: backend.losses(_batch(items, **batch), objective, torch.float64)

    for items in (*_SHORT, _LONG):
        if items == _MIDDLE and target not in EXTRAS:
            continue
        yield losses(items)
        yield losses(items, update="negative")
        yield losses(items, dp=True)
    yield losses(_LONG, dp=True, rankings=201)  # too many for waves
    for ragged in (False, True):
        batch = _batch(_LONG, ragged=ragged)
        yield lambda batch=batch: backend.average_precision(batch, torch.empty_like(batch.scores, dtype=torch.float64))
    yield lambda: backend.losses(_batch(_LONG), Objective("direct"), torch.float32)  # unless losses are reduced
    for rankings in _RAGGED:
        yield losses(_LONG, rankings=rankings, ragged=True)
        yield losses(_LONG, update="negative", rankings=rankings, ragged=True)
        yield losses(_LONG, dp=True, rankings=rankings, ragged=True)
    for mean in (True, False):
        yield lambda mean=mean: backend.reduce(
            backend.losses(_batch(_LONG), Objective("direct"), torch.float64), torch.float32, mean=mean
        )
    if target not in EXTRAS:
        return

    for items in (_SHORT[-1], _LONG):
        yield losses(items, update="symmetric")
    yield losses(_LONG, update="symmetric", ragged=True)
    for items in (_MIDDLE, _LONG):
        yield losses(items, "hinge")
        yield losses(items, "perceptron")
        yield lambda items=items: backend.average_precision(_batch(items))
        for targets in (torch.bool, torch.float32):
            yield losses(items, targets=targets)
        for scores in (torch.float16, torch.bfloat16):
            yield losses(items, scores=scores)
    for update in _UPDATES:
        yield lambda update=update: backend.ranking(_batch(_LONG), Objective("direct", 1.0, update))
        yield losses(_LONG, update=update, scores=torch.float64)
        yield losses(1, update=update, rankings=1)
        yield losses(8192, update=update, wide=True)
    yield losses(128, wide=True)
    yield losses(1, scores=torch.float64, rankings=1)
    yield losses(_LONG, dp=True, scores=torch.float64)
    yield losses(_LONG, dp=True, scores=torch.float64, rankings=201)
    yield lambda: backend.losses(_batch(_MIDDLE), Objective("direct"), torch.float32)  # unless losses are reduced
    yield lambda: backend.reduce(
        backend.losses(_batch(_LONG), Objective("direct"), torch.float64), torch.float64, mean=True
    )
    for scores in (torch.float32, torch.float64):
        for dtype in (torch.float32, torch.float64):
            batch = _batch(_LONG, scores=scores, ragged=True)
            yield lambda batch=batch, dtype=dtype: backend.losses(batch, Objective("direct", update="negative"), dtype)
        yield lambda batch=batch: backend.average_precision(batch)
        for update in _UPDATES:
            yield lambda batch=batch, update=update: backend.ranking(batch, Objective("direct", 1.0, update))
    yield losses(_LONG, "hinge", ragged=True)
    yield losses(_LONG, "perceptron", ragged=True)
    for targets in (torch.bool, torch.float32):
        yield losses(_LONG, targets=targets, ragged=True)
    for scores in (torch.float16, torch.bfloat16):
        yield losses(_LONG, scores=scores, ragged=True)


def _batch(
    items: int,
    *,
    scores: torch.dtype = torch.float32,
    targets: torch.dtype = torch.int64,
    rankings: int = 3,
    wide: bool = False,
    ragged: bool = False,
) -> Batch:
    """Tensors that are all shape: Triton asks for types, addresses and strides only."""

    def empty(dtype: torch.dtype) -> Tensor:
        if ragged:
            return torch.empty(items, dtype=dtype, device="meta")
        if not wide:
            return torch.empty(rankings, items, dtype=dtype, device="meta")
        return torch.empty(2, items, 2**32 // items, dtype=dtype, device="meta").movedim(1, -1)

    offsets = torch.empty(rankings + 1, dtype=torch.int64, device="meta") if ragged else None
    return Batch(empty(scores), empty(targets), None if targets == torch.bool else -1, offsets)


def measure(compilation: Compilation) -> Numbers:
    """Compile it, and read registers and memory off the result."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    asked = json.loads(compilation.specialisation)
    module, name = asked["name"].rsplit(".", 1)
    source = ASTSource(
        getattr(importlib.import_module(module), name),
        asked["signature"],
        dict(_pairs(asked, "constant")),
        dict(_pairs(asked, "attrs")),
    )
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in asked["options"].items()}
    hits: list[bool] = []
    before = os.times()
    with mock.patch.object(knobs.compilation, "listener", lambda *, cache_hit, **_: hits.append(cache_hit)):
        result = triton.compile(source, target=GPUTarget(*TARGETS[compilation.target]), options=options)
    # Of the processor, those of the assembler with it: a loaded machine takes no more of them.
    seconds = sum(os.times()[:4]) - sum(before[:4])
    numbers = _read_nvidia(result.asm) if "cubin" in result.asm else _read_amd(result.asm)
    return {**numbers, "shared": result.metadata.shared, "seconds": None if any(hits) else round(seconds, 2)}


def _read_nvidia(asm: Any) -> Numbers:
    used = resources(asm["cubin"])
    return {"registers": used["REG"], "stack": used["STACK"], "spilled": used["LOCAL"]}


def _read_amd(asm: Any) -> Numbers:
    """From the text of the assembler. Registers are vector registers; scalar ones spill into those, not into memory."""
    text = asm["amdgcn"]

    def note(name: str) -> int:
        return int(re.search(rf"^\s+-?\s*\.{name}:\s+(\d+)", text, re.M)[1])

    return {
        "registers": note("vgpr_count"),
        "stack": note("private_segment_fixed_size"),
        "spilled": note("vgpr_spill_count"),
    }


def _try_to_measure(compilation: Compilation) -> Numbers:
    try:
        return measure(compilation)
    except Exception as error:  # whatever compilers raise
        return {"error": f"{type(error).__name__}: {error}"}


def measure_all(targets: list[str], say: Callable[[str], None], *, quick: bool) -> dict[Entry, Numbers]:
    """Measurements of all in a pool of processes, those that take long first."""
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        work = [each for asked in pool.map(compilations, targets) for each in asked]
        work.sort(key=lambda each: each.kernel.split(".")[1] not in LONG_TO_COMPILE)
        if quick:
            work = [each for each in work if each.kernel.split(".")[1] not in LONG_TO_COMPILE]
        running = {pool.submit(_try_to_measure, each): each for each in work}
        done: dict[Entry, Numbers] = {}
        for future in as_completed(running):
            entry = running[future].entry
            done[entry] = future.result()
            say(f"{len(done)}/{len(work)} {' | '.join(entry)} | {done[entry]}")
    assert len(done) == len(work), "two compilations under one name"
    return dict(sorted(done.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--quick", action="store_true", help="only what takes no seconds to compile")
    parser.add_argument("--json", type=Path, help="write to that file")
    options = parser.parse_args()
    measured = measure_all(options.target, print, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps([[*entry, numbers] for entry, numbers in measured.items()]), "utf-8")
    failed = [f"{' | '.join(entry)}: {numbers['error']}" for entry, numbers in measured.items() if "error" in numbers]
    sys.exit("\n".join(failed) if failed and not options.json else 0)


if __name__ == "__main__":
    main()

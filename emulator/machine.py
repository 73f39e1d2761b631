"""The machine of ``machine.c``: its structures, and the shared library, compiled on first use."""

from __future__ import annotations

import ctypes as ct
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from triton.runtime.cache import get_cache_manager

from emulator import opcodes

HERE = Path(__file__).parent
SOURCES = ("arithmetic.h", "memory.h", "machine.c")
FLAGS = "-O3 -march=native -fPIC -shared -fwrapv -fno-math-errno -ffp-contract=off -fno-strict-aliasing -w"

# What the machine finds. Of bytes: outside any tensor, read before anybody wrote them, read or written by two threads
# that nothing orders (of two warps, two blocks, two lanes of a warp, or by one store with different values). Of warps:
# a barrier or `.sync` that only some lanes reach, different barriers, warps that have ended, no end.
FAULTS = [
    "outside",
    "unwritten",
    "race-warps",
    "race-blocks",
    "race-lanes",
    "lanes-soft",
    "same-store",
    "same-value",
    "diverged-bar",
    "diverged-sync",
    "exited-bar",
    "other-bar",
    "shared-outside",
    "shared-unwritten",
    "misaligned",
    "endless",
]
# Counted, and no fault: a thread writes the value that is already there; two lanes of one warp with only a shuffle
# between them (lanes-soft) or nothing (race-lanes). Hardware runs the lanes of a warp together, though the memory model
# does not promise it.
REMARKS = {"lanes-soft", "same-value", "race-lanes"}

i32, i64, u64, pointer = ct.c_int32, ct.c_int64, ct.c_uint64, ct.c_void_p


class Instruction(ct.Structure):
    """``Ins`` of machine.c."""

    _fields_ = [
        ("op", i32), ("guard", i32), ("d", i32 * 4), ("s", i32 * 5), ("immediate", i64), ("size", i32), ("count", i32),
        ("flags", i32), ("rejoin", i32), ("kind", i32), ("slots", i32), ("latency", i32),
        ("reads", i32 * 6), ("writes", i32 * 4),
    ]  # fmt: skip


class Region(ct.Structure):
    """The memory that some tensors share."""

    _fields_ = [
        ("host", pointer), ("start", u64), ("size", u64), ("valid", pointer), ("cells", pointer), ("touched", pointer),
        ("shift", i32), ("pad", i32),
    ]  # fmt: skip


class Fault(ct.Structure):
    """What is wrong, where, and how often."""

    _fields_ = [(name, i32) for name in ["kind", "pc", "other", "block", "warp", "lane", "count", "region"]] + [
        ("at", i64)
    ]


COUNTS = ["issue", "sectors_ld", "sectors_st", "missed", "conflicts", "barriers", "f64_slots"]


class Machine(ct.Structure):
    """A launch, and what is counted of it."""

    _fields_ = [
        ("code", pointer), ("warps", i32), ("nr", i32), ("nq", i32), ("np", i32), ("shared", i32),
        ("shared_shift", i32), ("regions", pointer), ("n_regions", i32), ("checks", i32), ("timing", i32),
        ("budget", u64), ("seed", ct.c_uint32), ("fuzz", i32), ("tid", i32), ("ctaid", i32), ("hit", i32), ("l2", i32),
        ("smem", i32), ("pad", i32), ("spent", pointer), ("faults", pointer), ("n_faults", i32), ("most_faults", i32),
        ("counts", u64 * len(opcodes.CLASSES)), *((name, u64) for name in COUNTS),
    ]  # fmt: skip


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return next(
        (path for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (path := shutil.which(name))), None
    )


@cache
def library() -> ct.CDLL:
    """The machine, from Triton's cache of compiled code, where it is kept by its source."""
    generated = {"enums.inc": _enums(), "cases.inc": opcodes.cases()}
    text = "".join(
        [
            *generated.values(),
            FLAGS,
            platform.processor(),
            platform.machine(),
            platform.node(),
            *((HERE / name).read_text(encoding="utf-8") for name in SOURCES),
        ]
    )
    kept = get_cache_manager(hashlib.sha256(text.encode()).hexdigest())
    file = kept.get_file("machine.so")
    if file is None:
        cc = compiler()
        if cc is None:
            raise FileNotFoundError("the emulator needs a C compiler; install one (gcc, clang), or name it in CC")
        with tempfile.TemporaryDirectory() as folder:
            for name, lines in generated.items():
                (Path(folder) / name).write_text(lines, encoding="utf-8")
            made = Path(folder) / "machine.so"
            subprocess.run([cc, *FLAGS.split(), "-I", folder, HERE / "machine.c", "-o", made, "-lm"], check=True)
            file = kept.put(made.read_bytes(), "machine.so", binary=True)
    lib = ct.PyDLL(str(file))  # which keeps the GIL: the machine has one launch at a time
    lib.run.argtypes = [ct.POINTER(Machine), pointer, i64, pointer, pointer, pointer, pointer]
    lib.clear_cells.argtypes = [pointer, i64]
    lib.sizes.argtypes = [ct.POINTER(i64)]
    lib.sizes.restype = None
    ours = tuple(ct.sizeof(each) for each in (Instruction, Region, Fault, Machine))
    assert tuple(_sizes(lib)[:4]) == ours, "structures differ from those of machine.c"
    return lib


def cell_bytes() -> int:
    """Of what is known of one element of a tensor."""
    return _sizes(library())[4]


def _sizes(lib: ct.CDLL) -> list[int]:
    sizes = (i64 * 5)()
    lib.sizes(sizes)
    return list(sizes)


def _enums() -> str:
    faults = ", ".join(name.replace("-", "_").upper() for name in FAULTS)
    return f"{opcodes.enums()}enum {{ {faults} }};\n"

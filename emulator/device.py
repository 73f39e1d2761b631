"""A GPU that is not there: Triton's launches, compiled as for it, run on the machine of ``machine.c``."""

from __future__ import annotations

import ctypes as ct
import struct
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

from emulator import machine, opcodes
from emulator.assembler import Program
from emulator.machine import Fault, Machine, Region
from emulator.opcodes import P, Q, R
from fastap import backends
from fastap.backends import triton as backend
from fastap.backends.triton import bound, plan
from fastap.backends.triton.plan import Place, Plan

CAPABILITIES = (80, 90, 100)
_MOST_FAULTS = 4096
# Bytes of memory and bits of registers that nobody wrote: odd, large, and NaN as a float.
_POISON = {True: 0xFF, False: 0x5B}
_FILLING = {R: 0x7FC0DEAD, Q: 0x7FF8DEAD7FC0DEAD, P: 0x5A5A5A5A}
_DTYPES = {R: np.uint32, Q: np.uint64, P: np.uint32}
_NOWHERE = 1 << 38  # where empty tensors lie: outside of all regions

Integers = npt.NDArray[np.int64]


class GivenUpError(RuntimeError):
    """A launch cannot go on: threads wait at different barriers, or for ever."""


@dataclass(frozen=True)
class Finding:
    """What is wrong at a line of a kernel, or worth a remark."""

    kind: str  # of machine.FAULTS
    kernel: str
    line: str  # file:line:column, with the lines it was inlined at
    other: str  # the line of the access before, if there is one
    tensor: str  # the arguments that share the memory
    example: str = field(compare=False)

    def __str__(self) -> str:
        other = f" after {self.other}" if self.other else ""
        tensor = f" of {self.tensor}" if self.tensor else ""
        return f"{self.kind}{tensor} in {self.kernel}, {self.line}{other}: {self.example}"


@dataclass(frozen=True)
class Launch:
    """What one launch took."""

    kernel: Any  # Triton's compiled kernel
    program: Program
    grid: int
    warps: int  # of a block
    shared: int  # bytes
    counts: dict[str, int]  # by class of instruction, and machine.COUNTS
    cycles: Integers  # of each block that ran, alone on its multiprocessor
    spent: Integers  # of each instruction: cycles, executions, bank conflicts

    @property
    def name(self) -> str:
        return self.program.name

    def reaches(self, function: Any) -> bool:
        """Whether an instruction of that ``@triton.jit`` function ran, in the kernel or where it is called."""
        return self.runs(function) > 0

    def runs(self, function: Any) -> int:
        """Instructions of warps in that function and what it calls."""
        file, first = Path(function.fn.__code__.co_filename).name, function.starting_line_number
        wanted = {f"{file}:{line}" for line in range(first, first + len(function.raw_src))}
        places = ({each.rsplit(":", 1)[0] for each in line.split(" @[ ")} for line in self.program.lines)
        executions = zip(self.spent[:, 1], places, strict=True)
        return sum(int(number) for number, place in executions if not wanted.isdisjoint(place))


@dataclass
class Device:
    """``with Device() as device:`` runs Triton's kernels on tensors of the CPU; fastap takes its Triton backend there.

    ``device.launches`` has what each launch took, ``device.faults`` what was found: see ``machine.FAULTS``.

    Args:
        capability: 80, 90 or 100: the architecture that kernels are compiled for.
        checks: look for faults. Without it a call takes half the time.
        timing: keep a clock. Without it cycles mean nothing.
        seed: draws the order of blocks, and which warp goes first after a barrier, anew for every launch; 0 takes both
            as they come.
        fuzz: moves results of approximate instructions by a unit in the last place; 0 does not.
        budget: instructions of a warp, of one block together, after which it is given up.
        executes: False runs nothing, for the time that the host takes.
        apart: each part of a work space is memory of its own, that has no neighbour; without it they lie as on a GPU.
        proves: new kernels solve a battery, whatever FASTAP_SELF_CHECK says. Without it none do.
        hit: cycles until a load of L1 is there.
        l2: the same of L2, for the first load of a sector by a block.
        smem: the same of shared memory.
    """

    capability: int = 90
    checks: bool = True
    timing: bool = False
    seed: int = 1
    fuzz: int = 0
    budget: int = 1 << 31
    executes: bool = True
    apart: bool = True
    proves: bool = False
    hit: int = 35
    l2: int = 260
    smem: int = 29
    launches: list[Launch] = field(default_factory=list)
    started: int = 0  # launches, whether they are executed or not
    allocations: int = 0  # of new memory; parts that are apart need more
    allocated: int = 0  # bytes of these
    faults: Counter[Finding] = field(default_factory=Counter)
    remarks: Counter[Finding] = field(default_factory=Counter)
    _memories: dict[int, _Memory] = field(default_factory=dict)  # of torch.empty, by address

    def __post_init__(self) -> None:
        if self.capability not in CAPABILITIES:
            raise ValueError(f"capability must be one of {CAPABILITIES}, got {self.capability}")
        self._library = machine.library()

    def __enter__(self) -> Device:
        if knobs.runtime.interpret:
            raise RuntimeError("TRITON_INTERPRET is set, with which Triton compiles nothing; unset it")
        self._entered = ExitStack()
        self._entered.callback(setattr, driver, "_active", driver._active)
        driver.set_active(self)
        for patch in (
            mock.patch.object(CompiledKernel, "_init_handles", _take_over),
            mock.patch.object(backends, "TRITON_DEVICES", ("cuda", "cpu")),
            # Not a mock, which would count as time of the host.
            mock.patch.object(backend, "architecture", lambda where: f"sm_{self.capability}"),  # noqa: PT008
            mock.patch.object(bound, "proves_kernels", lambda: self.proves),  # noqa: PT008
            mock.patch.object(backend, "PLANS", {}),
            mock.patch.object(plan, "base_of", _Address if self.executes else Tensor.data_ptr),
            mock.patch.object(
                plan, "new_memory", self._remembering(Tensor.new_empty) if self.executes else Tensor.new_empty
            ),
            mock.patch.object(Plan, "cut", _cut_apart if self.executes and self.apart else _CUT),
        ):
            self._entered.enter_context(patch)
        if self.executes:
            for name in ("empty", "empty_like"):
                remembering = self._remembering(getattr(torch, name))
                self._entered.enter_context(mock.patch.object(torch, name, remembering))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    # What Triton asks of a driver.
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 101 + CAPABILITIES.index(self.capability)  # Triton keeps kernels by device: by none that is there

    def get_current_stream(self, device: int) -> int:
        return 0

    def _remembering(self, allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same function, whose memory comes poisoned and is known to be unwritten."""

        def remember(*args: Any, **options: Any) -> Tensor:
            tensor = allocate(*args, **options)
            if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel():
                self.allocations += 1
                self.allocated += tensor.nbytes
                if not tensor.is_inference():
                    self._memories[tensor.untyped_storage().data_ptr()] = _Memory.of(tensor)
            return tensor

        return remember

    def launch(self, kernel: Any, args: tuple[Any, ...]) -> None:
        """What Triton calls in place of the driver's launch."""
        self.started += 1
        if not self.executes:
            return
        grid, grid_y, grid_z = args[:3]
        if (grid_y, grid_z) != (1, 1):
            raise NotImplementedError(f"a grid of one axis, got {args[:3]}")
        if kernel.hash not in _PROGRAMS:
            _PROGRAMS[kernel.hash] = Program(kernel.asm["ptx"])
        program = _PROGRAMS[kernel.hash]
        # After stream, function, two of metadata and two hooks: all parameters, constants among them.
        values = dict(zip(kernel.src.fn.arg_names, args[9:], strict=True))
        for name, value in values.items():
            if isinstance(value, _Address):
                values[name] = value.of(kernel.src.signature[name])
        kinds = {name: kind for name, kind in kernel.src.signature.items() if kind != "constexpr"}
        arguments = {name: values[name] for name in kinds}
        regions = _Regions([*arguments.values()], self.checks, self._memories)
        numbers = [_bits(kind, arguments[name], regions) for name, kind in kinds.items()]
        launch, failed, found = self._run(kernel, program, grid, numbers, regions)
        self.launches.append(launch)
        for each in found:
            finding = _finding(each, program, regions, arguments)
            (self.remarks if finding.kind in machine.REMARKS else self.faults)[finding] += each.count
        if failed:
            raise GivenUpError("; ".join(str(finding) for finding in self.faults))

    def _run(
        self, kernel: Any, program: Program, grid: int, numbers: list[int], regions: _Regions
    ) -> tuple[Launch, bool, list[Fault]]:
        given = {(R, program.nctaid): grid}
        for register, parameter, kind in program.parameters:
            # Triton adds parameters of its own at the end, for memory that these kernels do not ask for.
            given[register] = _extended(numbers[parameter] if parameter < len(numbers) else 0, kind)
        registers = {
            file: np.array(program.initial(file, given, filling), np.uint64).astype(_DTYPES[file])
            for file, filling in _FILLING.items()
        }
        draws = np.random.default_rng((self.seed, len(self.launches)))
        blocks = self._blocks(grid, draws)
        cycles = np.zeros(len(blocks), np.int64)
        spent = np.zeros((len(program.code), 3), np.int64)
        faults = (Fault * _MOST_FAULTS)()
        warps = program.threads // 32
        shared = kernel.metadata.shared
        asked = Machine(
            code=ct.addressof(program.code), warps=warps,
            nr=program.registers[R], nq=program.registers[Q], np=program.registers[P],
            shared=shared, shared_shift=0 if program.has_narrow_shared else 2,
            regions=ct.addressof(regions.structures), n_regions=regions.count,
            checks=self.checks, timing=self.timing, budget=self.budget,
            seed=int(draws.integers(1, 1 << 32)) if self.seed else 0, fuzz=self.fuzz,
            tid=program.tid, ctaid=program.ctaid, hit=self.hit, l2=self.l2, smem=self.smem,
            spent=spent.ctypes.data, faults=ct.addressof(faults), most_faults=_MOST_FAULTS,
        )  # fmt: skip
        failed = self._library.run(
            asked, blocks.ctypes.data, len(blocks), *(each.ctypes.data for each in registers.values()),
            cycles.ctypes.data,
        )  # fmt: skip
        counts = dict(zip(opcodes.CLASSES, asked.counts, strict=True))
        counts |= {name: getattr(asked, name) for name in machine.COUNTS}
        launch = Launch(kernel, program, grid, warps, shared, counts, cycles, spent)
        return launch, bool(failed), faults[: asked.n_faults]

    def _blocks(self, grid: int, draws: np.random.Generator) -> npt.NDArray[np.int32]:
        """Which blocks run, in this order."""
        blocks = np.arange(grid, dtype=np.int32)
        return draws.permutation(blocks) if self.seed else blocks


_PROGRAMS: dict[str, Program] = {}  # by the hash of Triton's kernel


def _take_over(kernel: Any) -> None:
    """In place of loading a kernel to a GPU: its launches go to the device that is active then."""
    if kernel.module is None:
        kernel.module = kernel.function = 1
        kernel._run = lambda *args: driver.active.launch(kernel, args)


_CUT = Plan.cut


def _cut_apart(self: Plan, *parts: tuple[int, torch.dtype]) -> list[Place]:
    """``Plan.cut``, of an allocation each: each part is memory of its own, that has no neighbour."""
    return [self.empty(count, dtype=dtype) for count, dtype in parts]


class _Address:
    """Where a launch is told to look, a tensor and not a number, so that it is known where the memory ends."""

    def __init__(self, memory: Tensor, offset: int = 0) -> None:
        self.memory, self.offset = memory, offset

    def __add__(self, offset: int) -> _Address:
        return _Address(self.memory, self.offset + offset)

    def of(self, kind: str) -> Tensor:
        """To the end of the memory, of a type of pointers such as ``"*fp64"``."""
        return Place(0, _POINTERS.get(kind, self.memory.dtype), offset=self.offset).of(self.memory)


_POINTERS = {
    "*fp64": torch.float64,
    "*fp32": torch.float32,
    "*i64": torch.int64,
    "*i32": torch.int32,
    "*i8": torch.int8,
}


@dataclass
class _Memory:
    """What is known of memory that came from ``torch.empty``."""

    tensor: weakref.ref[Tensor]
    written: npt.NDArray[np.uint8]  # one a byte
    version: int  # of the tensor: PyTorch counts what it writes

    @staticmethod
    def of(tensor: Tensor) -> _Memory:
        storage = tensor.untyped_storage()
        poison = 1 if tensor.dtype == torch.bool else _POISON[tensor.is_floating_point()]
        ct.memset(storage.data_ptr(), poison, storage.nbytes())
        return _Memory(weakref.ref(tensor), np.zeros(storage.nbytes(), np.uint8), tensor._version)

    def is_known(self, tensors: list[Tensor]) -> bool:
        """Not where PyTorch has written since, or where this memory is another tensor's by now."""
        return self.tensor() is not None and all(each._version == self.version for each in tensors)


class _Regions:
    """One region a memory that tensors share: what a launch may touch."""

    def __init__(self, values: list[Any], checks: bool, memories: dict[int, _Memory]) -> None:
        shared: dict[int, list[Tensor]] = {}
        for value in values:
            if isinstance(value, Tensor) and value.numel():
                shared.setdefault(_storage(value), []).append(value)
        self.count = len(shared)
        self.storages = list(shared)
        self.structures = (Region * max(1, self.count))()
        self.addresses: dict[int, int] = {}  # by the tensor's own
        self._kept: list[Any] = []  # alive while the launch runs
        for number, (storage, tensors) in enumerate(shared.items()):
            begin = min(each.data_ptr() for each in tensors)
            size = max(_end(each) for each in tensors) - begin
            region = self.structures[number]
            region.host, region.size = begin, size
            region.start = (1 << 39) + begin % 4096
            region.shift = min(each.element_size() for each in tensors).bit_length() - 1
            region.touched = self._keep(np.zeros(size // 32 + 3, np.int32))
            if checks:
                self._check(region, memories, storage, tensors)
            for each in tensors:
                self.addresses[id(each)] = ((number + 1) << 40) + region.start + each.data_ptr() - begin

    def _check(self, region: Region, memories: dict[int, _Memory], storage: int, tensors: list[Tensor]) -> None:
        count = (region.size >> region.shift) + 2
        region.cells = self._keep(np.empty(count * machine.cell_bytes(), np.uint8))
        machine.library().clear_cells(region.cells, count)
        memory = memories.get(storage)
        if memory is None:
            return
        if memory.is_known(tensors):
            region.valid = self._keep(memory.written) + region.host - storage
        else:
            del memories[storage]

    def _keep(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _end(tensor: Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def _bits(kind: str, value: Any, regions: _Regions) -> int:
    """An argument as the kernel finds it."""
    if isinstance(value, Tensor):
        return regions.addresses.get(id(value), _NOWHERE)
    if kind.startswith("fp"):
        read, write = ("<Q", "<d") if kind == "fp64" else ("<I", "<f")
        return int(struct.unpack(read, struct.pack(write, value))[0])
    return int(value)


def _extended(value: int, kind: str) -> int:
    """To the width of any register, from PTX's ``b32``, ``s32`` and the like."""
    width = int(kind[1:])
    value &= (1 << width) - 1
    if kind[0] == "s" and value >> (width - 1):
        value -= 1 << width
    return value & 0xFFFFFFFFFFFFFFFF


def _finding(found: Fault, program: Program, regions: _Regions, arguments: dict[str, Any]) -> Finding:
    tensor = ""
    if found.region >= 0:
        tensor = "/".join(
            name
            for name, value in arguments.items()
            if isinstance(value, Tensor) and value.numel() and _storage(value) == regions.storages[found.region]
        )
    where = f"block {found.block}, warp {found.warp}, lane {found.lane}, byte {found.at}"
    example = f"{program.opcodes[found.pc]} of {where}"
    other = program.lines[found.other] if found.other >= 0 else ""
    return Finding(machine.FAULTS[found.kind], program.name, program.lines[found.pc], other, tensor, example)

"""Launches and work space without what Triton and PyTorch work out anew each time.

Triton's own call looks at types, alignment, constants and options of every argument: 27 us of the host's time for the
kernel of short rankings, where a launch that is bound to its compiled kernel takes 9 (AMD EPYC, one thread, launches
that do nothing; ``python -m bench.host``). Work space is one allocation, and its parts are addresses.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

# By all that a kernel is compiled for; with each launch the kernel, which else could go.
_BOUND: dict[tuple[Any, ...], tuple[Callable[..., None], Any, Any]] = {}
_MOST = 4096
# Compiled kernels, by device and hash, that are known to be right: see :mod:`fastap.backends.triton.prove`.
PROVEN: set[tuple[int, str]] = set()
_ALIGNED = 16  # bytes: kernels are compiled for pointers to multiples of this
_BY_VALUE = torch.version.hip is not None


class _Unproven(threading.local):
    """Kernels that this thread has launched and that are not known to be right, by their place among what is bound."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[Any, ...], tuple[int, str]] = {}

    def take(self) -> dict[tuple[Any, ...], tuple[int, str]]:
        """All of them, of which nothing is kept here."""
        kernels, self.kernels = self.kernels, {}
        return kernels


unproven = _Unproven()


def proves_kernels() -> bool:
    """Whether kernels are compared with the CPU when they are new: unless ``FASTAP_SELF_CHECK`` is 0."""
    given = os.environ.get("FASTAP_SELF_CHECK", "1")
    if given not in ("0", "1"):
        raise ValueError(f"the environment variable FASTAP_SELF_CHECK must be 0 or 1, got {given!r}")
    return given == "1"


class Space(NamedTuple):
    """A part of one allocation, as an argument of kernels."""

    memory: Tensor  # which it keeps alive
    address: int
    dtype: torch.dtype

    @classmethod
    def cut(cls, device: torch.device, *parts: tuple[int, torch.dtype]) -> list[Space]:
        """One allocation, and a part of it for each number of elements and their type."""
        sizes = [-(-count * dtype.itemsize // _ALIGNED) * _ALIGNED for count, dtype in parts]
        memory = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        address, spaces = memory.data_ptr(), []
        for size, (_, dtype) in zip(sizes, parts, strict=True):
            spaces.append(cls(memory, address, dtype))
            address += size
        return spaces

    def at(self, place: int) -> Space:
        """From that element on."""
        return self._replace(address=self.address + place * self.dtype.itemsize)

    def view(self, dtype: torch.dtype) -> Space:
        """The same bytes as another type."""
        return self._replace(dtype=dtype)

    def argument(self) -> Tensor | int:
        """What the launch of a bound kernel takes."""
        return self.address

    def tensor(self) -> Tensor:
        """To the end of the memory."""
        memory = self.memory.view(torch.uint8)
        return memory[self.address - memory.data_ptr() :].view(self.dtype)


Argument = Tensor | Space | int


def start(kernel: Any, grid: int, *arguments: Argument | None, **constants: Any) -> None:
    """``kernel[(grid,)](*arguments, **constants)``: pointers and numbers, then constants and compiler options."""
    device = driver.active.get_current_device()
    taken: list[Tensor | int] = []
    # The hash of a kernel is that of its source, and takes a while.
    known: list[Any] = [id(kernel), device, *constants.items()]
    for each in arguments:
        if isinstance(each, int):
            # Kernels are compiled for 1, for multiples of 16, and for 32 or 64 bits; on AMD's GPUs, by the sizes, for
            # memory below 2 GiB too.
            kind = 4 if each == 1 else (each % 16 == 0) + 2 * (-(2**31) <= each < 2**31)
            known.append((each, kind) if _BY_VALUE else kind)
            taken.append(each)
            continue
        if isinstance(each, Space):
            address, argument = each.address, each.argument()
        else:
            assert each is not None, "a kernel needs this tensor"
            address, argument = each.data_ptr(), each
        known.append(each.dtype if address % _ALIGNED == 0 else (each.dtype,))
        taken.append(argument)
    key = tuple(known)
    bound = _BOUND.get(key)
    # Hooks are a profiler's, which wants to be told of each launch.
    hooks = knobs.runtime.launch_enter_hook.calls or knobs.runtime.launch_exit_hook.calls
    if bound is not None and not hooks:
        bound[0](grid, driver.active.get_current_stream(device), *taken)
        return
    tensors = [each.tensor() if isinstance(each, Space) else each for each in arguments]
    compiled = kernel[(grid,)](*tensors, **constants)
    if isinstance(compiled, CompiledKernel):  # there is none where a hook kept Triton from compiling
        if (device, compiled.hash) not in PROVEN and proves_kernels():
            unproven.kernels[key] = device, compiled.hash
        _bind(key, kernel, compiled, len(arguments), constants)


def forget(keys: Iterable[tuple[Any, ...]] | None = None) -> None:
    """Drop what is bound, all of it or these: the next launches ask Triton again."""
    if keys is None:
        _BOUND.clear()
    else:
        for key in keys:
            _BOUND.pop(key, None)


def _bind(key: tuple[Any, ...], kernel: Any, compiled: Any, given: int, constants: dict[str, Any]) -> None:
    if len(_BOUND) >= _MOST:
        forget()
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    rest = tuple(constants[name] for name in compiled.src.fn.arg_names[given:])

    def bound(grid: int, stream: int, *arguments: Tensor | int) -> None:
        run(grid, 1, 1, stream, function, metadata, None, None, None, *arguments, *rest)

    _BOUND[key] = bound, kernel, compiled

"""Launches without what Triton works out anew each time.

Triton's own call looks at types, alignment, constants and options of every argument: 27 us of the host's time for the
kernel of short rankings, where a launch that is bound to its compiled kernel takes 2 (AMD EPYC, one thread, launches
that do nothing; ``python -m bench.host``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

T = TypeVar("T")
# Compiled kernels, by device and hash, that are known to be right: see :mod:`fastap.backends.triton.prove`.
PROVEN: set[tuple[int, str]] = set()
_BY_VALUE = torch.version.hip is not None


class Bound:
    """All that one kernel is compiled for, and the launch of what was compiled, once there is one."""

    __slots__ = ("compiled", "constants", "kernel", "run")

    def __init__(self, kernel: Any, constants: dict[str, Any]) -> None:
        self.kernel, self.constants = kernel, constants
        self.compiled: tuple[int, str] | None = None  # device and hash
        self.run: Callable[..., None] | None = None  # of grid, stream, and addresses and numbers

    @property
    def is_proven(self) -> bool:
        """Whether it is known to be right."""
        return self.compiled in PROVEN

    def start(self, grid: int, arguments: Sequence[Tensor | int]) -> None:
        """By Triton, which compiles or loads the kernel, or tells a profiler of the launch."""
        compiled = self.kernel[(grid,)](*arguments, **self.constants)
        # There is none where a hook kept Triton from compiling.
        if self.run is None and isinstance(compiled, CompiledKernel):
            self.compiled = driver.active.get_current_device(), compiled.hash
            if self.compiled not in PROVEN and proves_kernels():
                unproven.kernels[self] = self.compiled
            self._bind(compiled, len(arguments))

    def _bind(self, compiled: Any, given: int) -> None:
        run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
        rest = tuple(self.constants[name] for name in compiled.src.fn.arg_names[given:])

        # With the compiled kernel, which else could go.
        def bound(grid: int, stream: int, arguments: list[int], _: Any = compiled) -> None:
            run(grid, 1, 1, stream, function, metadata, None, None, None, *arguments, *rest)

        self.run = bound


_BOUND: dict[tuple[Any, ...], Bound] = {}
_MOST = 4096


class _Unproven(threading.local):
    """Kernels that this thread has launched and that are not known to be right, by what they are bound to."""

    def __init__(self) -> None:
        self.kernels: dict[Bound, tuple[int, str]] = {}

    def take(self) -> dict[Bound, tuple[int, str]]:
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


def bound(kernel: Any, kinds: Iterable[object], constants: dict[str, Any]) -> Bound:
    """The launch of that kernel for arguments of such kinds on the current device, the same one each time."""
    # The hash of a kernel is that of its source, and takes a while.
    key = id(kernel), driver.active.get_current_device(), *kinds, *constants.items()
    found = _BOUND.get(key)
    if found is None:
        found = keep(_BOUND, key, Bound(kernel, constants), _MOST)
    return found


def keep(held: dict[Any, T], key: Any, value: T, most: int) -> T:
    """That value, put into a dictionary of at most so many, of which the oldest go."""
    while len(held) >= most:
        oldest, *_ = [*held]  # a list at once: other threads put and take, too
        held.pop(oldest, None)
    held[key] = value
    return value


def kind_of_number(number: int, is_specialised: bool) -> object:
    """Kernels are compiled for 32 or 64 bits, and if specialised for 1 and for multiples of 16; on AMD's GPUs, by the
    sizes, for memory below 2 GiB too.
    """
    kind = int(-(2**31) <= number < 2**31)
    if is_specialised:
        kind += 4 if number == 1 else 2 * (number % 16 == 0)
    return (number, kind) if _BY_VALUE else kind


def is_told() -> bool:
    """Whether a profiler wants to be told of each launch, which Triton's own call does."""
    return bool(knobs.runtime.launch_enter_hook.calls or knobs.runtime.launch_exit_hook.calls)


def forget(launches: Iterable[Bound] | None = None) -> None:
    """Drop what is bound, all of it or these: the next launches ask Triton again."""
    for each in _BOUND.values() if launches is None else launches:
        each.run = None

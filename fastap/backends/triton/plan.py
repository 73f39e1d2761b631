"""What a call does on the device, planned once for its shapes and types, and run with the memory of each call.

A plan is a list of steps: memory to allocate, launches, and a few functions of PyTorch. Its arguments are places in
memories that a call will have. So a call that was planned adds up addresses, and nothing is worked out or checked
twice. What nobody uses any more is freed between the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime import driver

from fastap.backends.triton.bound import Bound, bound, is_told, kind_of_number

_ALIGNED = 16  # bytes: kernels are compiled for pointers to multiples of this


class Place(NamedTuple):
    """Where in a memory that a call will have, and what a kernel is to find there."""

    memory: int
    dtype: torch.dtype
    is_aligned: bool = True  # whether the memory begins at a multiple of 16 bytes
    offset: int = 0  # bytes

    def at(self, place: int) -> Place:
        """From that element on."""
        return self._replace(offset=self.offset + place * self.dtype.itemsize)

    def view(self, dtype: torch.dtype) -> Place:
        """The same bytes as another type."""
        return self._replace(dtype=dtype)

    @property
    def kind(self) -> object:
        """What kernels are compiled for."""
        return self.dtype if self.is_aligned and self.offset % _ALIGNED == 0 else (self.dtype,)

    def of(self, memory: Tensor) -> Tensor:
        """To the end of that memory; all of it, of any strides, where nothing else is asked for."""
        if self.offset == 0 and memory.dtype == self.dtype:
            return memory
        return memory.view(-1).view(torch.uint8)[self.offset :].view(self.dtype)


def place_of(number: int, memory: Tensor) -> Place:
    """Memory of that number that is like this one, from its first element on."""
    return Place(number, memory.dtype, memory.data_ptr() % _ALIGNED == 0)


Argument = Place | int
# What the launch of a bound kernel takes of a memory: a number that offsets are added to. An emulated GPU has its own.
base_of: Callable[[Tensor], Any] = Tensor.data_ptr
# Takes half of the host's time that torch.empty does.
new_memory: Callable[..., Tensor] = Tensor.new_empty


class _Memories:
    """Those of a call, each while it is in use, and what launches take of them."""

    __slots__ = ("bases", "stream", "tensors")

    def __init__(self, count: int) -> None:
        self.tensors: list[Any] = [None] * count
        self.bases: list[Any] = [0] * count
        self.stream = driver.active.get_current_stream(driver.active.get_current_device())

    def hold(self, number: int, tensor: Tensor) -> None:
        self.tensors[number], self.bases[number] = tensor, base_of(tensor)

    def drop(self, number: int) -> None:
        self.tensors[number] = self.bases[number] = None

    def at(self, place: Argument) -> Any:
        return place if isinstance(place, int) else place.of(self.tensors[place.memory])


class _Allocation(NamedTuple):
    memory: int
    like: Tensor  # without elements
    shape: tuple[Any, ...]

    def run(self, memories: _Memories) -> None:
        memories.hold(self.memory, new_memory(self.like, *self.shape))


class _Launch(NamedTuple):
    bound: Bound
    grid: int
    places: tuple[Argument, ...]
    addresses: list[tuple[int, int]]  # the same: memory and offset, of numbers number 0 and the number

    def run(self, memories: _Memories) -> None:
        bound, grid, places, addresses = self
        run = bound.run
        if run is None or is_told():
            bound.start(grid, [memories.at(place) for place in places])
        else:
            bases = memories.bases
            run(grid, memories.stream, [bases[memory] + offset for memory, offset in addresses])


class _Function(NamedTuple):
    function: Callable[..., Sequence[Tensor] | None]
    places: tuple[Place, ...]
    made: range

    def run(self, memories: _Memories) -> None:
        results = self.function(*map(memories.at, self.places)) or ()
        for number, result in zip(self.made, results, strict=True):
            memories.hold(number, result)


class Plan:
    """Steps, and where their results will be. ``given`` memories are numbered from 1 on.

    Made on the device that it is for, and ``kept`` for as long as it is there.
    """

    def __init__(self, device: torch.device, given: int, kept: object = None) -> None:
        self.kept = kept
        self._device, self._given, self._count = device, given, given + 1
        self._steps: list[_Allocation | _Launch | _Function] = []
        self._results: tuple[Place | None, ...] = ()
        self._dropped: list[list[int]] = []  # after each step

    @property
    def is_proven(self) -> bool:
        """Whether all its kernels are known to be right."""
        return all(step.bound.is_proven for step in self._steps if isinstance(step, _Launch))

    def empty(self, *shape: int, dtype: torch.dtype) -> Place:
        """``torch.empty``."""
        like = torch.empty(0, dtype=dtype, device=self._device)
        self._steps.append(_Allocation(self._count, like, shape or ((),)))
        self._count += 1
        return Place(self._count - 1, dtype)

    def cut(self, *parts: tuple[int, torch.dtype]) -> list[Place]:
        """Work space: one allocation, and a part of it for each number of elements and their type."""
        offset, places = 0, []
        for count, dtype in parts:
            places.append(Place(self._count, dtype, offset=offset))
            offset += -(-count * dtype.itemsize // _ALIGNED) * _ALIGNED
        self.empty(offset, dtype=torch.uint8)
        return places

    def start(self, kernel: Any, grid: int, *arguments: Argument, **constants: Any) -> None:
        """``kernel[(grid,)](*arguments, **constants)``: pointers and numbers, then constants and compiler options."""
        kinds = [
            kind_of_number(each, not parameter.do_not_specialize) if isinstance(each, int) else each.kind
            for each, parameter in zip(arguments, kernel.params, strict=False)
        ]
        addresses = [(0, each) if isinstance(each, int) else (each.memory, each.offset) for each in arguments]
        self._steps.append(_Launch(bound(kernel, kinds, constants), grid, arguments, addresses))

    def call(
        self, function: Callable[..., Sequence[Tensor] | None], *places: Place, into: Sequence[torch.dtype] = ()
    ) -> list[Place]:
        """A function of PyTorch, and memory for what it returns, of these types."""
        made = range(self._count, self._count + len(into))
        self._steps.append(_Function(function, places, made))
        self._count += len(into)
        return [Place(number, dtype) for number, dtype in zip(made, into, strict=True)]

    def end(self, *results: Place | None) -> None:
        """With these results, None where there is none."""
        self._results = results
        kept = {each.memory for each in results if each is not None}
        for step in reversed(self._steps):
            places = () if isinstance(step, _Allocation) else step.places
            used = {place.memory for place in places if isinstance(place, Place)} - kept
            kept |= used
            self._dropped.append(sorted(number for number in used if number > self._given))
        self._dropped.reverse()

    def run(self, given: Sequence[Tensor | None]) -> list[Any]:
        """The results, of memories that are like those that this was planned for, on the current device."""
        memories = _Memories(self._count)
        for number, each in enumerate(given, 1):
            if each is not None:
                memories.hold(number, each)
        for step, dropped in zip(self._steps, self._dropped, strict=True):
            step.run(memories)
            for number in dropped:
                memories.drop(number)
        return [None if place is None else memories.at(place) for place in self._results]

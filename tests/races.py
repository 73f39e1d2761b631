"""Accesses of Triton kernels that nothing orders, seen in Triton's interpreter.

The warps of a program run on by themselves: what one thread has written another may read or write only after a barrier,
and what one has read another may write only then. The interpreter goes through the lanes of a tile together, so that
every order comes out right there. Here each access is noted with its lane, and two lanes at one address with no
barrier between them, one of them writing, are a race.

A lane is its number in a tile and the shape of that tile: tiles of one shape give an element to the same thread. A
scalar is loaded by all threads and stored by one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from triton.runtime import interpreter

KERNELS = Path(__file__).resolve().parent.parent / "kernels"


class Race(NamedTuple):
    kind: str  # of the later access, "read" or "write"
    function: str
    line: str
    earlier: str


class _Access(NamedTuple):
    lane: tuple[tuple[int, ...], int]
    function: str
    line: str


@contextmanager
def watched(where: Path | str = KERNELS) -> Iterator[set[Race]]:
    """Inside, what kernels of that folder or file load and store is noted; the races that were found."""
    races: set[Race] = set()
    # Since the last barrier of this program, by address.
    accesses: dict[str, dict[int, set[_Access]]] = {"read": defaultdict(set), "write": defaultdict(set)}

    def note(kind: str, pointers: Any, mask: Any) -> None:
        addresses = np.asarray(pointers.data)
        active = np.broadcast_to(np.asarray(mask.data), addresses.shape).reshape(-1)
        function, line = _place(Path(where))
        for number in np.flatnonzero(active):
            lane = (addresses.shape, int(number)) if addresses.size > 1 else ((), -1 if kind == "read" else 0)
            address = int(addresses.reshape(-1)[number])
            for earlier in accesses["write"][address] | (accesses["read"][address] if kind == "write" else set()):
                if earlier.lane != lane:
                    races.add(Race(kind, function, line, earlier.line))
            accesses[kind][address].add(_Access(lane, function, line))

    def forget(*_: Any) -> None:
        for noted in accesses.values():
            noted.clear()

    builder = interpreter.InterpreterBuilder
    load, store, begin = builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note("read", pointers, mask)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("write", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def set_grid_idx(self: Any, *place: int) -> None:
        forget()
        begin(self, *place)

    with mock.patch.multiple(
        builder,
        create_masked_load=create_masked_load,
        create_masked_store=create_masked_store,
        create_barrier=forget,
        set_grid_idx=set_grid_idx,
    ):
        yield races


def _place(where: Path) -> tuple[str, str]:
    """The function and line of the kernels that are running."""
    frame: Any = sys._getframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if where in (file, file.parent):
            return frame.f_code.co_name, f"{file.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?", "?"

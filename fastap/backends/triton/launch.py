"""How kernels are launched: a pure function of the problem's shape and the device, and one frozen answer.

Nothing here was tuned on a GPU yet: the sizes follow from what the compiler reports (registers, shared memory, no
spills: ``tests/compiled.py``) and from how many programs a multiprocessor can hold. ``python -m bench.gpu`` measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

# Sort keys of short rows carry the index in 13 bits, and a wider row does not fit in registers.
MOST_SHORT_ITEMS = 4096
# Two counts of items added up, and the ends of tiles beyond the last item, are int32.
MOST_ITEMS = 2**30 - 2**18

# Programs that share rows, or rankings of different lengths: several to each place there is on a GPU, so that a
# multiprocessor that is through with short ones gets more. What is beyond these starts no program: most may be empty.
MOST_PROGRAMS = 8192

# Multiprocessors of an H100 or H200: as many rankings keep all of them busy, one program each.
_PROCESSORS = 132


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of the kernels for one ranking or a part of it."""

    rows: int  # rows a pass over the positives holds
    search_rows: int  # rows that branch and bound looks at together
    pieces: int  # intervals of each of them
    columns: int  # columns a tile of the dynamic program holds; at least one a thread
    num_warps: int
    max_registers: int | None  # a cap for NVIDIA's assembler, which else spills to reach a higher occupancy


@dataclass(frozen=True)
class Waves:
    """The dynamic program over all columns of a few long rankings, by waves; see ``kernels/wave.py``."""

    segments: int  # of each segment, at every level; five fill the planes of int32 that the rows have
    stripes: tuple[int, ...]  # of each segment of the next level, one number a level
    columns: int
    num_warps: int
    max_registers: int | None


def compiler_options(tiles: Tiles | Waves) -> dict[str, Any]:
    """Compiler options of kernels that search."""
    limit = {} if tiles.max_registers is None else {"maxnreg": tiles.max_registers}
    return {"num_warps": tiles.num_warps, **limit}


@dataclass(frozen=True)
class ShortSort:
    """The sort of a short ranking in registers."""

    items: int  # a power of two, at least the length
    per_thread: int
    num_warps: int


@dataclass(frozen=True)
class ShortLaunch:
    """Two launches, one program a ranking."""

    sort: ShortSort
    written: int  # items whose gradient is found together: some a thread, to have their searches wait together
    tiles: Tiles


@dataclass(frozen=True)
class TiledLaunch:
    """A launch a stage."""

    items: int  # items a program encodes, splits or writes
    scan: int  # tiles that a program adds up at a time
    weighed: int  # items whose weights a program adds up at a time
    most_programs: int  # of a ranking that share its rows, of one warp each
    chunk: int  # rows that a program of the negative update searches one after the other
    single: Tiles  # of programs that search rows, a warp each
    sharing: int  # about so many programs of several warps in all share the items, and the rows
    tiles: Tiles
    wide: Tiles  # of programs that pool, or solve what is not proved
    num_warps: int  # of the stages that have no tiles of rows
    waves: Waves | None  # None: one program a ranking runs the dynamic program

    def programs(self, items: int, rows: int) -> int:
        """How many of a ranking share its tiles of so many rows; the host does not know how many rows there are."""
        return min(-(-items // rows), self.most_programs)

    def wide_programs(self, rankings: int, items: int, rows: int) -> int:
        """The same of programs of several warps, of which a GPU holds fewer; those without work take time, too."""
        return min(-(-items // rows), -(-self.sharing // rankings))


@dataclass(frozen=True)
class RaggedLaunch:
    """One launch before the sorts, one after them, whatever the lengths."""

    items: int  # items a program encodes
    num_warps: int  # that do so
    written: int  # items of a ranking that are counted, added up or written together
    programs: int  # that share the rankings
    tiles: Tiles


Launch = ShortLaunch | TiledLaunch | RaggedLaunch


@lru_cache(maxsize=1024)
def launch_for(rankings: int, items: int, dtype: torch.dtype, architecture: str) -> ShortLaunch | TiledLaunch:
    """The launch for rankings of that length; ``architecture`` is ``"sm_90"`` and the like, or ``"gfx942"``."""
    nvidia = architecture.startswith("sm_")
    if items <= MOST_SHORT_ITEMS and dtype != torch.float64:
        return short_launch(rankings, items, nvidia)
    few = rankings < _PROCESSORS and items > MOST_SHORT_ITEMS
    return TiledLaunch(
        # At 1,024, eight a thread, the stages need up to 155 registers, and the assembler would rather spill.
        items=512,
        scan=1024,
        weighed=2048,
        most_programs=-(-MOST_PROGRAMS // rankings),
        # Whoever marks conflicts looks at two numbers of every chunk.
        chunk=1 if items <= 2**21 else 4 if items <= 2**24 else 64,
        single=tiles_for(1, nvidia),
        sharing=4 * _PROCESSORS,
        tiles=tiles_for(4, nvidia),
        wide=tiles_for(8, nvidia),
        num_warps=4,
        # 120 stripes at the first level: at P = 2,000 and N = 200,000 some 50 tiles are at work in each of 220 waves.
        waves=Waves(5, (24, 5), 2048, 8, 255 if nvidia else None) if few else None,
    )


@lru_cache(maxsize=1024)
def ragged_launch(rankings: int, items: int, architecture: str) -> RaggedLaunch:
    """The launch for so many rankings with so many items in all; the host does not know which has how many."""
    # As for short rows of the mean length: a warp takes in the positives of most at once.
    num_warps = 1 if items <= SHORT_ITEMS[0] * rankings else 4
    tiles = tiles_for(num_warps, architecture.startswith("sm_"))
    return RaggedLaunch(1024, 4, 128 * num_warps, min(rankings, MOST_PROGRAMS), tiles)


def short_items(items: int) -> int:
    """The narrowest of the sizes of short launches that holds the row."""
    return next(size for size in SHORT_ITEMS if items <= size)


def tiles_for(num_warps: int, nvidia: bool) -> Tiles:
    """Tiles for so many warps."""
    threads = num_warps * (32 if nvidia else 64)
    return Tiles(
        # One row and one column a thread: what a thread writes for a row no other thread has to write too.
        rows=threads,
        search_rows=num_warps,
        pieces=32,
        columns=threads,
        num_warps=num_warps,
        # 16 programs of one warp to a multiprocessor: left alone, the assembler takes up to 143 registers for 14 of
        # them; capped, no more instructions and no memory.
        max_registers=min(128 if num_warps == 1 else 255, 65536 // threads) if nvidia else None,
    )


def short_launch(rankings: int, items: int, nvidia: bool) -> ShortLaunch:
    """The launch of short rankings."""
    size = short_items(items)
    # Of 512 on one warp, with targets of float32, some lie on the stack.
    num_warps = 1 if size <= SHORT_ITEMS[0] else max(2, size // _SORTED_BY_A_WARP)
    per_thread = max(1, size // (num_warps * (32 if nvidia else 64)))
    # Of 4,096 rankings of 1,000, a warp each solves the positive update in 66 us where four take 265, the negative one
    # in 250 for 385. Of 80, eight take 19 and 40 us where four take 20 and 54 (estimates for an H100).
    tiles = tiles_for(1 if size <= SHORT_ITEMS[0] or rankings > 2 * _PROCESSORS else 8, nvidia)
    return ShortLaunch(ShortSort(size, per_thread, num_warps), 128 * tiles.num_warps, tiles)


# Four sizes: each compiles for every type, and padding costs no more than the sort of the padded row.
SHORT_ITEMS = (128, 512, 1024, MOST_SHORT_ITEMS)
# 16 a thread. With 32, on one warp, 4,096 rows of 1,024 would take 92 us for 142, but registers do not suffice.
_SORTED_BY_A_WARP = 512

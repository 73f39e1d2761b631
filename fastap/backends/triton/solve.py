"""Losses, rankings and the metric: one launch for short rows, a launch a stage for long ones; see also ``ragged``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from fastap.backends import masked
from fastap.backends.triton.inputs import Inputs, Task, architecture, inputs_of, on_device
from fastap.backends.triton.launch import (
    LongLaunch,
    RaggedLaunch,
    ShortLaunch,
    Waves,
    compiler_options,
    launch_for,
    ragged_launch,
)
from fastap.backends.triton.ragged import run_ragged
from fastap.backends.triton.sort import choose_algorithm, sort_rows
from fastap.kernels import fused, layout, long, wave
from fastap.kernels import reduce as reduction
from fastap.types import AugmentedRanking, Batch, Losses, Objective

_REDUCED_AT_A_TIME = 1024
# One program is soon done with fewer losses; of groups there may be as many as items.
_REDUCED_BY_ONE = 64 * _REDUCED_AT_A_TIME


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss of every ranking, of that type, and gradient."""
    inputs = inputs_of(batch)
    with on_device(inputs.device):
        return _losses(inputs, Task.of(objective), dtype, launch_of(inputs))


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and what it attains: never one launch."""
    inputs = inputs_of(batch)
    task = Task("ranking", objective.sign, objective.method, objective.epsilon)
    with on_device(inputs.device):
        ranks = inputs.empty(*inputs.shape, dtype=torch.int64)
        value = inputs.empty(inputs.rankings, dtype=torch.float64)
        _run(inputs, task, launch_of(inputs, torch.float64), ranks, value, None)
    return AugmentedRanking(ranks, value)


def average_precision(batch: Batch, weight: Tensor | None = None) -> Tensor:
    """AP of every ranking, float64: NaN without a positive, with a NaN score or a wrong target."""
    if weight is not None:
        return masked.weighted_precision(batch, weight)
    inputs = inputs_of(batch)
    task = Task("ap", 1, "standard", 1.0)
    with on_device(inputs.device):
        value = inputs.empty(inputs.rankings, dtype=torch.float64)
        _run(inputs, task, launch_of(inputs), None, value, None)
    return value


def reduce(
    losses: Losses, dtype: torch.dtype, *, mean: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses or their mean over those that take part; of a mean the share of each."""
    if weight is not None or losses.loss.shape[0] > _REDUCED_BY_ONE:
        return reduce(losses, dtype, mean=mean, weight=weight)
    device = losses.loss.device
    total = torch.empty((), dtype=dtype, device=device)
    share = torch.empty(1, dtype=dtype, device=device) if mean else None
    with on_device(device):
        reduction.reduce_losses[(1,)](
            losses.loss, losses.takes_part.view(torch.int8),
            total, total if share is None else share,
            losses.loss.shape[0],
            MEAN=mean, BLOCK_R=_REDUCED_AT_A_TIME,
        )  # fmt: skip
    return total, share


Launch = ShortLaunch | LongLaunch | RaggedLaunch


def launch_of(inputs: Inputs, dtype: torch.dtype | None = None) -> Launch:
    """The launch for these rankings; the host does not know how many positives they have."""
    where = architecture(inputs.device)
    if inputs.offsets is not None:
        return ragged_launch(inputs.rankings, inputs.items, where)
    return launch_for(inputs.rankings, inputs.items, inputs.items, dtype or inputs.scores.dtype, where)


def _losses(inputs: Inputs, task: Task, dtype: torch.dtype, launch: Launch) -> Losses:
    gradient_type = torch.float64 if inputs.scores.dtype == torch.float64 else torch.float32
    gradient = inputs.empty(*inputs.shape, dtype=gradient_type)
    loss = inputs.empty(inputs.rankings, dtype=dtype)
    takes_part = inputs.empty(inputs.rankings, dtype=torch.bool)
    _run(inputs, task, launch, gradient, loss, takes_part.view(torch.int8))
    return Losses(loss, gradient, takes_part)


def _run(
    inputs: Inputs, task: Task, launch: Launch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    """Fill what is given: gradients or ranks, the value of every ranking, whether it takes part."""
    if isinstance(launch, ShortLaunch):
        _run_short(inputs, task, launch, out, value, takes_part)
    elif isinstance(launch, LongLaunch):
        _run_long(inputs, task, launch, out, value, takes_part)
    else:
        run_ragged(inputs, task, launch, out, value, takes_part)


def _run_short(
    inputs: Inputs, task: Task, launch: ShortLaunch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    rankings, items = inputs.rankings, inputs.items
    plane = rankings * items
    v = inputs.empty(plane, dtype=torch.float64)
    order = inputs.empty(plane, dtype=torch.int32)
    s = inputs.empty(plane, dtype=torch.float64)
    # The metric has no rows to solve.
    rows = order if task.loss == "ap" else inputs.empty(6 * plane, dtype=torch.int32)
    sums = s if task.loss == "ap" else inputs.empty(2 * plane, dtype=torch.float64)
    tiles = launch.tiles
    fused.short_rankings[(rankings,)](
        inputs.scores, inputs.targets,
        value if out is None else out, value, value if takes_part is None else takes_part,
        v, order, s, rows, sums,
        items, inputs.inner, plane,
        *inputs.strides,
        inputs.ignore_index, task.epsilon_bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method, HAS_IGNORE=inputs.has_ignore,
        BLOCK_N=launch.items, BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
        BLOCK_W=launch.written, **compiler_options(tiles),
    )  # fmt: skip


@dataclass(frozen=True)
class Sorted:
    """Rankings sorted and split by class; see ``kernels/layout.py``."""

    v: Tensor
    order: Tensor
    s: Tensor
    counts: Tensor
    centre: Tensor


def sort_and_split(inputs: Inputs, launch: LongLaunch, algorithm: str | None = None) -> Sorted:
    """Four launches and the sort."""
    rankings, items = inputs.rankings, inputs.items
    plane, tiles = rankings * items, triton.cdiv(items, launch.items)
    wide = inputs.scores.dtype == torch.float64
    keys = inputs.empty(rankings, items, dtype=torch.int64 if wide else torch.int32)
    classes = inputs.empty(plane, dtype=torch.int8)
    tile_counts = inputs.empty(rankings * tiles, 4, dtype=torch.int32)
    counts = inputs.empty(rankings, 4, dtype=torch.int32)
    layout.encode_items[(rankings * tiles,)](
        inputs.scores, inputs.targets,
        keys, classes, tile_counts,
        items, tiles, inputs.inner,
        *inputs.strides,
        inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    layout.count_classes[(rankings,)](
        tile_counts,
        counts,
        tiles,
        BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    keys, index = sort_rows(keys, algorithm or choose_algorithm(rankings, items, keys.dtype))
    v = inputs.empty(plane, dtype=torch.float64)
    order = inputs.empty(plane, dtype=torch.int32)
    s = inputs.empty(plane, dtype=torch.float64)
    tile_sums = inputs.empty(rankings * tiles, dtype=torch.float64)
    centre = inputs.empty(rankings, dtype=torch.float64)
    layout.sum_tiles[(rankings * tiles,)](
        keys, index, classes, counts,
        tile_counts, tile_sums, centre,
        items, tiles,
        BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    layout.split_classes[(rankings * tiles,)](
        keys, index, classes, counts, tile_counts, tile_sums,
        v, order, s,
        items, tiles,
        BLOCK_N=launch.items, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    return Sorted(v, order, s, counts, centre)


def _run_long(
    inputs: Inputs, task: Task, launch: LongLaunch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    rankings, items = inputs.rankings, inputs.items
    plane, bits = rankings * items, task.epsilon_bits
    sorted_ = sort_and_split(inputs, launch)
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    # The metric has no rows to solve.
    rows = sorted_.order if task.loss == "ap" else inputs.empty(6 * plane, dtype=torch.int32)
    sums = s if task.loss == "ap" else inputs.empty(2 * plane, dtype=torch.float64)
    by_score = s if task.loss in ("ap", "perceptron") else inputs.empty(rankings, dtype=torch.float64)
    if task.loss != "ap":
        long.cut_rankings[(rankings,)](
            v, s, counts, centre,
            rows, sums, by_score,
            items, plane, bits,
            LOSS=task.loss, BLOCK=launch.items, **compiler_options(launch.tiles),
        )  # fmt: skip
        solve(inputs, task, launch, sorted_, rows, sums)
    block = launch.tiles.rows
    tiles = triton.cdiv(items, block)
    parts = inputs.empty(3, rankings * tiles, dtype=torch.float64)
    long.sum_rows[(rankings * tiles,)](
        v, s, counts, centre, rows,
        parts,
        items, tiles,
        LOSS=task.loss, BLOCK=block, num_warps=launch.num_warps,
    )  # fmt: skip
    long.sum_rankings[(rankings * tiles,)](
        inputs.scores, s, sorted_.order, counts, centre, rows, parts, by_score,
        value, value if takes_part is None else takes_part, sums, v,
        items, tiles, inputs.inner, *inputs.strides[:3], bits,
        LOSS=task.loss, SIGN=task.sign, BLOCK=block, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    if out is not None:
        tiles = triton.cdiv(items, launch.items)
        long.write_items[(rankings * tiles,)](
            v, sorted_.order, counts, centre, rows, sums, value,
            out,
            items, tiles, bits,
            LOSS=task.loss, SIGN=task.sign, BLOCK=launch.items, num_warps=launch.num_warps,
        )  # fmt: skip


def solve(inputs: Inputs, task: Task, launch: LongLaunch, sorted_: Sorted, rows: Tensor, sums: Tensor) -> None:
    """The choice of every row into the first plane of ``rows``: three or four launches more than the search."""
    rankings, items, tiles = inputs.rankings, inputs.items, launch.tiles
    plane, bits, n_tiles = rankings * items, task.epsilon_bits, triton.cdiv(items, tiles.rows)
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    if task.method == "dp" and launch.waves is not None:
        solve_by_waves(inputs, task, launch, launch.waves, sorted_, rows, sums)
        return
    if task.method == "dp":
        long.solve_whole[(rankings,)](
            v, s, counts, centre,
            rows, sums,
            items, plane, bits,
            SIGN=task.sign, BLOCK=tiles.rows, COLUMNS=tiles.columns, **compiler_options(tiles),
        )  # fmt: skip
        return
    bounded = task.method == "auto" and task.sign < 0
    long.search_rankings[(rankings * launch.search_programs,)](
        v, s, counts, centre,
        rows,
        items, launch.search_programs, bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        ROWS=tiles.search_rows if bounded else tiles.rows, PIECES=tiles.pieces, **compiler_options(tiles),
    )  # fmt: skip
    if task.method != "auto":
        return
    extremes = inputs.empty(2, rankings * n_tiles, dtype=torch.int32)
    long.find_extremes[(rankings * n_tiles,)](
        counts, centre, rows,
        extremes,
        items, n_tiles,
        BLOCK=tiles.rows, num_warps=tiles.num_warps,
    )  # fmt: skip
    long.mark_tiles[(rankings * n_tiles,)](
        counts, centre, extremes,
        rows,
        items, n_tiles, plane,
        BLOCK=tiles.rows, BLOCK_T=launch.scan, num_warps=tiles.num_warps,
    )  # fmt: skip
    long.settle_tiles[(rankings * n_tiles,)](
        v, s, counts, centre,
        rows, sums,
        items, n_tiles, plane, bits,
        SIGN=task.sign, BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
        **compiler_options(tiles),
    )  # fmt: skip
    if task.sign < 0:
        long.finish_rankings[(rankings,)](
            v, s, counts, centre,
            rows, sums,
            items, plane, bits,
            BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
            BLOCK_W=launch.items, **compiler_options(tiles),
        )  # fmt: skip


def solve_by_waves(
    inputs: Inputs, task: Task, launch: LongLaunch, waves: Waves, sorted_: Sorted, rows: Tensor, sums: Tensor
) -> None:
    """The dynamic program over all columns: a launch a wave, as many as the longest of rankings could need."""
    rankings, items, tiles = inputs.rankings, inputs.items, launch.tiles
    plane, bits = rankings * items, task.epsilon_bits
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    for level, stripes in enumerate(waves.stripes):
        parts = waves.segments ** (level + 1)
        for number in range(waves.segments * stripes + triton.cdiv(items, waves.columns) - 1):
            wave.advance_wave[(rankings * parts * stripes,)](
                v, s, counts, centre,
                rows, sums,
                items, plane, number, bits,
                SIGN=task.sign, LEVEL=level, SEGMENTS=waves.segments, STRIPES=stripes, COLUMNS=waves.columns,
                **compiler_options(waves),
            )  # fmt: skip
        wave.trace_checkpoints[(rankings * waves.segments**level,)](
            counts, centre,
            rows,
            items, plane,
            LEVEL=level, SEGMENTS=waves.segments, num_warps=1,
        )  # fmt: skip
    levels = len(waves.stripes)
    wave.solve_segments[(rankings * waves.segments**levels,)](
        v, s, counts, centre,
        rows, sums,
        items, plane, bits,
        SIGN=task.sign, LEVELS=levels, SEGMENTS=waves.segments, BLOCK=tiles.rows, COLUMNS=tiles.columns,
        **compiler_options(tiles),
    )  # fmt: skip

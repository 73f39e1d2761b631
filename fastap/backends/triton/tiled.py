"""Long rankings: a launch a stage, over tiles of all of them."""

from __future__ import annotations

import torch
import triton

from fastap.backends.triton.inputs import Inputs, Results, Task
from fastap.backends.triton.launch import TiledLaunch, Waves, compiler_options
from fastap.backends.triton.plan import Place, Plan
from fastap.backends.triton.split import Sorted, sort_and_split, spans_of
from fastap.kernels import tiled, wave

# Intervals of a row that are looked at together coarse to fine: most rows have fewer.
LANES = 8


def plan_tiled(plan: Plan, inputs: Inputs, task: Task, launch: TiledLaunch, results: Results) -> None:
    """Fill what is given: gradients or ranks, the value of every ranking, whether it takes part."""
    value, takes_part, out = results
    rankings, items = inputs.rankings, inputs.items
    plane, bits = rankings * items, task.epsilon_bits
    sorted_ = sort_and_split(plan, inputs, launch, task)
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    block = launch.tiles.rows
    tiles = triton.cdiv(items, block)
    f64, i32 = torch.float64, torch.int32
    n_parts = (4 if task.is_symmetric else 3) * rankings * tiles
    rows, sums = sorted_.order, s  # of the metric, which has no rows to solve
    if task.loss == "ap":
        (parts,) = plan.cut((n_parts, f64))
    else:
        rows, sums, parts = plan.cut((task.planes * plane, i32), (2 * plane, f64), (n_parts, f64))
        solve(plan, inputs, task.first, launch, sorted_, rows, sums)
        if task.is_symmetric:
            solve(plan, inputs, task.second, launch, sorted_, rows.at(plane), sums)
    programs = launch.wide_programs(rankings, items, block)
    plan.start(
        tiled.sum_rows, rankings * programs,
        v, s, counts, centre, rows,
        parts,
        items, tiles, programs,
        LOSS=task.loss, SIGN=task.sign, BLOCK=block, num_warps=launch.num_warps,
    )  # fmt: skip
    plan.start(
        tiled.sum_rankings, rankings * programs,
        inputs.scores, s, sorted_.order, counts, centre, rows, parts, sorted_.by_score,
        value, value if takes_part is None else takes_part, sums, v,
        items, spans_of(rankings, items, launch)[0], tiles, programs, inputs.inner, *inputs.strides[:3], bits,
        LOSS=task.loss, SIGN=task.sign, BLOCK=block, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    if out is not None:
        tiles = triton.cdiv(items, launch.items) + 1
        plan.start(
            tiled.write_items, rankings * tiles,
            v, sorted_.order, counts, centre, rows, sums, value,
            out,
            items, tiles, bits,
            LOSS=task.loss, SIGN=task.sign, BLOCK=launch.items, num_warps=launch.num_warps,
        )  # fmt: skip


def solve(
    plan: Plan, inputs: Inputs, task: Task, launch: TiledLaunch, sorted_: Sorted, rows: Place, sums: Place
) -> None:
    """The choice of every row into the first plane of ``rows``: two launches more than the search, or five."""
    rankings, items = inputs.rankings, inputs.items
    tiles, single, wide = launch.tiles, launch.single, launch.wide
    plane, bits = rankings * items, task.epsilon_bits
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    if task.method == "dp" and launch.waves is not None:
        solve_by_waves(plan, inputs, task, launch, launch.waves, sorted_, rows, sums)
        return
    if task.method == "dp":
        plan.start(
            tiled.solve_whole, rankings,
            v, s, counts, centre,
            rows, sums,
            items, plane, bits,
            SIGN=task.sign, BLOCK=tiles.rows, COLUMNS=tiles.columns, **compiler_options(tiles),
        )  # fmt: skip
        return
    bounded = task.method == "auto" and task.sign < 0
    chunk = launch.chunk if bounded else single.rows
    chunks, programs = triton.cdiv(items, chunk), launch.programs(items, chunk)
    extremes = sums.view(torch.int32)  # whose place nobody else takes before blocks are pooled
    plan.start(
        tiled.search_rankings, rankings * programs,
        v, s, counts, centre,
        rows, extremes,
        items, programs, chunks, bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        ROWS=single.search_rows if bounded else single.rows, PIECES=single.pieces, CHUNK=chunk,
        **compiler_options(single),
    )  # fmt: skip
    if task.method != "auto":
        return
    programs = launch.wide_programs(rankings, items, tiles.rows)
    plan.start(
        tiled.mark_rankings, rankings * programs,
        counts, centre, extremes,
        rows,
        items, programs, chunks, plane,
        BLOCK=tiles.rows, BLOCK_T=launch.scan, CHUNK=chunk, num_warps=tiles.num_warps,
    )  # fmt: skip
    programs = launch.wide_programs(rankings, items, wide.rows)
    plan.start(
        tiled.pool_rankings, rankings * programs,
        v, counts, centre,
        rows, sums,
        items, programs, plane, bits,
        SIGN=task.sign, BLOCK=wide.rows, **compiler_options(wide),
    )  # fmt: skip
    if task.sign > 0:
        return
    programs = launch.programs(items, launch.chunk)
    plan.start(
        tiled.price_rankings, rankings * programs,
        v, s, counts, centre,
        rows, sums,
        items, programs, plane, bits,
        ROWS=single.search_rows, PIECES=single.pieces, **compiler_options(single),
    )  # fmt: skip
    programs = launch.wide_programs(rankings, items, wide.rows)
    plan.start(
        tiled.settle_rankings, rankings * programs,
        v, s, counts, centre,
        rows, sums,
        items, programs, plane, bits,
        BLOCK=wide.rows, ROWS=wide.search_rows, PIECES=wide.pieces, COLUMNS=wide.columns, LANES=LANES,
        **compiler_options(wide),
    )  # fmt: skip
    plan.start(
        tiled.finish_rankings, rankings,
        v, s, counts, centre,
        rows, sums,
        items, plane, bits,
        BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
        BLOCK_W=launch.weighed, **compiler_options(tiles),
    )  # fmt: skip


def solve_by_waves(
    plan: Plan, inputs: Inputs, task: Task, launch: TiledLaunch, waves: Waves, sorted_: Sorted, rows: Place, sums: Place
) -> None:
    """The dynamic program over all columns: a launch a wave, as many as the longest of rankings could need."""
    rankings, items, tiles = inputs.rankings, inputs.items, launch.tiles
    plane, bits = rankings * items, task.epsilon_bits
    v, s, counts, centre = sorted_.v, sorted_.s, sorted_.counts, sorted_.centre
    for level, stripes in enumerate(waves.stripes):
        parts = waves.segments ** (level + 1)
        for number in range(waves.segments * stripes + triton.cdiv(items, waves.columns) - 1):
            plan.start(
                wave.advance_wave, rankings * parts * stripes,
                v, s, counts, centre,
                rows, sums,
                items, plane, number, bits,
                SIGN=task.sign, LEVEL=level, SEGMENTS=waves.segments, STRIPES=stripes, COLUMNS=waves.columns,
                **compiler_options(waves),
            )  # fmt: skip
        plan.start(
            wave.trace_checkpoints, rankings * waves.segments**level,
            counts, centre,
            rows,
            items, plane,
            LEVEL=level, SEGMENTS=waves.segments, num_warps=1,
        )  # fmt: skip
    levels = len(waves.stripes)
    plan.start(
        wave.solve_segments, rankings * waves.segments**levels,
        v, s, counts, centre,
        rows, sums,
        items, plane, bits,
        SIGN=task.sign, LEVELS=levels, SEGMENTS=waves.segments, BLOCK=tiles.rows, COLUMNS=tiles.columns,
        **compiler_options(tiles),
    )  # fmt: skip

"""Short rankings: two launches."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.triton.bound import Argument, start
from fastap.backends.triton.inputs import Inputs, Task
from fastap.backends.triton.launch import ShortLaunch, compiler_options
from fastap.kernels import short


def run_short(
    inputs: Inputs, task: Task, launch: ShortLaunch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    """Fill what is given: gradients, the value of every ranking, whether it takes part."""
    rankings, items = inputs.rankings, inputs.items
    plane = rankings * items
    is_metric = task.loss == "ap"  # which has no rows to solve
    f64, i32 = torch.float64, torch.int32
    solved = () if is_metric else ((task.planes * plane, i32), (2 * plane, f64))
    v, s, order, counts, centre, *others = inputs.scratch(
        (plane, f64), (plane, f64), (plane, i32), (4 * rankings, i32), (rankings, f64), *solved
    )
    rows, sums = others or (order, s)
    sort = launch.sort
    start(
        short.sort_short, rankings,
        inputs.scores, inputs.targets,
        v, order, s, counts, centre,
        items, inputs.inner,
        *inputs.strides,
        inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=sort.items, PER_THREAD=sort.per_thread, num_warps=sort.num_warps,
    )  # fmt: skip
    into: Argument | None = out
    if out is None:
        # Of a loss the gradient comes where nobody looks any more, which costs less than another variant to compile.
        # The fifth plane begins at a multiple of 16 bytes, as new memory does: kernels are compiled for that.
        into = value if is_metric else rows.at(4 * plane).view(torch.float32)
    tiles = launch.tiles
    start(
        short.solve_short, rankings,
        inputs.scores, v, order, s, counts, centre,
        into, value, value if takes_part is None else takes_part,
        rows, sums,
        items, inputs.inner, plane, *inputs.strides[:3], task.epsilon_bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
        BLOCK_W=launch.written, **compiler_options(tiles),
    )  # fmt: skip

"""Short rankings: two launches."""

from __future__ import annotations

import torch

from fastap.backends.triton.inputs import Inputs, Results, Task
from fastap.backends.triton.launch import ShortLaunch, compiler_options
from fastap.backends.triton.plan import Plan
from fastap.kernels import short


def plan_short(plan: Plan, inputs: Inputs, task: Task, launch: ShortLaunch, results: Results) -> None:
    """Fill what is given: gradients, the value of every ranking, whether it takes part."""
    value, takes_part, out = results
    rankings, items = inputs.rankings, inputs.items
    plane = rankings * items
    is_metric = task.loss == "ap"  # which has no rows to solve
    f64, i32 = torch.float64, torch.int32
    solved = () if is_metric else ((task.planes * plane, i32), (2 * plane, f64))
    v, s, order, counts, centre, *others = plan.cut(
        (plane, f64), (plane, f64), (plane, i32), (4 * rankings, i32), (rankings, f64), *solved
    )
    rows, sums = others or (order, s)
    sort = launch.sort
    plan.start(
        short.sort_short, rankings,
        inputs.scores, inputs.targets,
        v, order, s, counts, centre,
        items, inputs.inner,
        *inputs.strides,
        inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=sort.items, PER_THREAD=sort.per_thread, num_warps=sort.num_warps,
    )  # fmt: skip
    # Of a loss, a gradient that is not wanted comes where nobody looks any more, which costs less than another variant.
    # The fifth plane begins at a multiple of 16 bytes, as new memory does: kernels are compiled for that.
    into = out or (value if is_metric else rows.at(4 * plane).view(torch.float32))
    tiles = launch.tiles
    plan.start(
        short.solve_short, rankings,
        inputs.scores, v, order, s, counts, centre,
        into, value, value if takes_part is None else takes_part,
        rows, sums,
        items, inputs.inner, plane, *inputs.strides[:3], task.epsilon_bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        BLOCK=tiles.rows, ROWS=tiles.search_rows, PIECES=tiles.pieces, COLUMNS=tiles.columns,
        BLOCK_W=launch.written, **compiler_options(tiles),
    )  # fmt: skip

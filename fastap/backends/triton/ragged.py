"""Rankings of different lengths, end to end: two stable sorts of all items at once, then a program a ranking.

Nothing is padded and no length is looked at. What a ranking costs beyond the sorts is one program's work, so a few
rankings of millions of items leave most of a GPU idle: as tensors of one length they are spread over all of it.
"""

from __future__ import annotations

from math import nan

import torch
import triton
from torch import Tensor

from fastap.backends.triton.inputs import Inputs, Results, Task
from fastap.backends.triton.launch import RaggedLaunch, compiler_options
from fastap.backends.triton.plan import Place, Plan
from fastap.kernels import ragged


def plan_ragged(plan: Plan, inputs: Inputs, task: Task, launch: RaggedLaunch, results: Results) -> None:
    """Fill what is given: gradients or ranks, the value of every ranking, whether it takes part."""
    value, takes_part, out = results
    assert inputs.offsets is not None
    items = inputs.items
    groups, order = sort_flat(plan, inputs, launch)
    # Nobody comes by the empty rankings at the end.
    if takes_part is None:
        plan.call(fill_with_nan, value)
    else:
        plan.call(_clear, value, takes_part)
    is_metric = task.loss == "ap"  # which has no rows to solve
    f64, i32 = torch.float64, torch.int32
    solved = () if is_metric else ((items, f64), (task.planes * items, i32), (2 * items, f64))
    v, *others = plan.cut((items, f64), *solved)
    s, rows, sums = others or (value, order, value)
    if out is None and inputs.scores.dtype == f64 and not is_metric:
        out = plan.empty(items, dtype=f64)
    into = out or (value if is_metric else rows.at(4 * items).view(torch.float32))  # see `plan_short`
    plan.start(
        ragged.ragged_rankings, launch.programs,
        inputs.scores, inputs.offsets, groups, order,
        into, value, value if takes_part is None else takes_part,
        v, s, rows, sums,
        items, inputs.rankings, task.epsilon_bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        BLOCK=launch.tiles.rows, ROWS=launch.tiles.search_rows, PIECES=launch.tiles.pieces,
        COLUMNS=launch.tiles.columns, BLOCK_W=launch.written, **compiler_options(launch.tiles),
    )  # fmt: skip


def sort_flat(plan: Plan, inputs: Inputs, launch: RaggedLaunch) -> tuple[Place, Place]:
    """Groups and items by ranking, class and score: sorted by score, then by the two others, which keeps that order."""
    assert inputs.offsets is not None
    items = inputs.items
    keys = plan.empty(items, dtype=torch.int64 if inputs.scores.dtype == torch.float64 else torch.int32)
    groups = plan.empty(items, dtype=torch.int32)
    plan.start(
        ragged.encode_ragged, triton.cdiv(items, launch.items),
        inputs.scores, inputs.targets, inputs.offsets,
        keys, groups,
        items, inputs.targeted, inputs.rankings, inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    groups, order = plan.call(_sort_by_both, keys, groups, into=(torch.int32, torch.int32))
    return groups, order


def _sort_by_both(keys: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.sort(keys, stable=True).indices
    groups, second = torch.sort(groups[order], stable=True)
    return groups, order[second].to(torch.int32)


def _clear(value: Tensor, takes_part: Tensor) -> None:
    value.zero_()
    takes_part.zero_()


def fill_with_nan(value: Tensor) -> None:
    """In place."""
    value.fill_(nan)

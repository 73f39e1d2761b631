"""Rankings of different lengths, end to end: two stable sorts of all items at once, then a program a ranking.

Nothing is padded and no length is looked at. What a ranking costs beyond the sorts is one program's work, so a few
rankings of millions of items leave most of a GPU idle: as tensors of one length they are spread over all of it.
"""

from __future__ import annotations

from math import nan

import torch
import triton
from torch import Tensor

from fastap.backends.triton.bound import Argument, start
from fastap.backends.triton.inputs import Inputs, Task
from fastap.backends.triton.launch import RaggedLaunch, compiler_options
from fastap.kernels import ragged


def run_ragged(
    inputs: Inputs, task: Task, launch: RaggedLaunch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    """Fill what is given: gradients or ranks, the value of every ranking, whether it takes part."""
    assert inputs.offsets is not None
    items = inputs.items
    groups, order = sort_flat(inputs, launch)
    # Nobody comes by the empty rankings at the end.
    value.fill_(0.0 if takes_part is not None else nan)
    if takes_part is not None:
        takes_part.zero_()
    is_metric = task.loss == "ap"  # which has no rows to solve
    f64, i32 = torch.float64, torch.int32
    solved = () if is_metric else ((items, f64), (task.planes * items, i32), (2 * items, f64))
    v, *others = inputs.scratch((items, f64), *solved)
    s, rows, sums = others or (value, order, value)
    into: Argument | None = out
    if out is None and inputs.scores.dtype == f64 and not is_metric:
        into = inputs.empty(items, dtype=f64)
    elif out is None:
        # See `run_short`.
        into = value if is_metric else others[1].at(4 * items).view(torch.float32)
    start(
        ragged.ragged_rankings, launch.programs,
        inputs.scores, inputs.offsets, groups, order,
        into, value, value if takes_part is None else takes_part,
        v, s, rows, sums,
        items, inputs.rankings, task.epsilon_bits,
        LOSS=task.loss, SIGN=task.sign, METHOD=task.method,
        BLOCK=launch.tiles.rows, ROWS=launch.tiles.search_rows, PIECES=launch.tiles.pieces,
        COLUMNS=launch.tiles.columns, BLOCK_W=launch.written, **compiler_options(launch.tiles),
    )  # fmt: skip


def sort_flat(inputs: Inputs, launch: RaggedLaunch) -> tuple[Tensor, Tensor]:
    """Groups and items by ranking, class and score: sorted by score, then by the two others, which keeps that order."""
    items = inputs.items
    keys = inputs.empty(items, dtype=torch.int64 if inputs.scores.dtype == torch.float64 else torch.int32)
    groups = inputs.empty(items, dtype=torch.int32)
    start(
        ragged.encode_ragged, triton.cdiv(items, launch.items),
        inputs.scores, inputs.targets, inputs.offsets,
        keys, groups,
        items, inputs.targets.shape[0], inputs.rankings, inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    order = torch.sort(keys, stable=True).indices
    groups, second = torch.sort(groups[order], stable=True)
    return groups, order[second].to(torch.int32)

"""Rankings of one length sorted and split by class, on the way to whatever is asked of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastap.backends.triton.inputs import METRIC, Inputs, Task
from fastap.backends.triton.launch import TiledLaunch
from fastap.backends.triton.plan import Place, Plan
from fastap.kernels import sort
from fastap.kernels import split as kernels


class Sorted(NamedTuple):
    """Rankings sorted and split by class; see ``kernels/split.py``."""

    v: Place
    order: Place
    s: Place
    counts: Place
    centre: Place
    by_score: Place


def sort_and_split(plan: Plan, inputs: Inputs, launch: TiledLaunch, task: Task = METRIC) -> Sorted:
    """Three launches and the sort."""
    rankings, items = inputs.rankings, inputs.items
    plane, tiles = rankings * items, triton.cdiv(items, launch.items)
    f64, i32 = torch.float64, torch.int32
    key = torch.int64 if inputs.scores.dtype == f64 else i32
    keys = plan.empty(rankings, items, dtype=key)
    classes, tile_counts, tile_lowest = plan.cut(
        (plane, torch.int8), (2 * rankings * tiles, i32), (rankings * tiles, key)
    )
    plan.start(
        sort.encode_items, rankings * tiles,
        inputs.scores, inputs.targets,
        keys, classes, tile_counts, tile_lowest,
        items, tiles, inputs.inner,
        *inputs.strides,
        inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    keys, index = plan.call(_sort_rows, keys, into=(keys.dtype, torch.int64))
    spans, span = spans_of(rankings, items, launch)
    # After the sort, which takes work space of its own: the peak is lower.
    v, s, order, counts, span_counts, span_sums, span_falls, centre, by_score = plan.cut(
        (plane, f64),
        (plane, f64),
        (plane, i32),
        (4 * rankings, i32),
        (2 * rankings * spans, i32),
        (rankings * spans, f64),
        (rankings * (spans + 1), f64),
        (rankings, f64),
        (rankings * spans, f64),
    )
    plan.start(
        kernels.sum_spans, rankings * spans,
        keys, index, classes, tile_counts, tile_lowest,
        counts, span_counts, span_sums, span_falls, centre,
        items, tiles, spans, span, task.epsilon_bits,
        LOSS=task.loss, BLOCK_N=launch.items, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    plan.start(
        kernels.split_classes, rankings * spans,
        keys, index, classes, counts, span_counts, span_sums, span_falls,
        v, order, s, centre, by_score,
        items, spans, span, task.epsilon_bits,
        LOSS=task.loss, BLOCK_N=launch.items, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    return Sorted(v, order, s, counts, centre, by_score)


def spans_of(rankings: int, items: int, launch: TiledLaunch) -> tuple[int, int]:
    """How many programs share the sorted order of a ranking, and how many tiles each of them takes."""
    tiles = triton.cdiv(items, launch.items)
    span = min(tiles, max(1, rankings * tiles // launch.sharing))
    return triton.cdiv(tiles, span), span


def _sort_rows(keys: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sort(keys, dim=-1, stable=True)

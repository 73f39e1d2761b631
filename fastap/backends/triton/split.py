"""Rankings of one length sorted and split by class, on the way to whatever is asked of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from fastap.backends.triton.inputs import Inputs
from fastap.backends.triton.launch import TiledLaunch
from fastap.backends.triton.sort import choose_algorithm, sort_rows
from fastap.kernels import sort
from fastap.kernels import split as kernels


@dataclass(frozen=True)
class Sorted:
    """Rankings sorted and split by class; see ``kernels/split.py``."""

    v: Tensor
    order: Tensor
    s: Tensor
    counts: Tensor
    centre: Tensor


def sort_and_split(inputs: Inputs, launch: TiledLaunch, algorithm: str | None = None) -> Sorted:
    """Four launches and the sort."""
    rankings, items = inputs.rankings, inputs.items
    plane, tiles = rankings * items, triton.cdiv(items, launch.items)
    wide = inputs.scores.dtype == torch.float64
    keys = inputs.empty(rankings, items, dtype=torch.int64 if wide else torch.int32)
    classes = inputs.empty(plane, dtype=torch.int8)
    tile_counts = inputs.empty(rankings * tiles, 4, dtype=torch.int32)
    counts = inputs.empty(rankings, 4, dtype=torch.int32)
    sort.encode_items[(rankings * tiles,)](
        inputs.scores, inputs.targets,
        keys, classes, tile_counts,
        items, tiles, inputs.inner,
        *inputs.strides,
        inputs.ignore_index,
        HAS_IGNORE=inputs.has_ignore, BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    kernels.count_classes[(rankings,)](
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
    kernels.sum_tiles[(rankings * tiles,)](
        keys, index, classes, counts,
        tile_counts, tile_sums, centre,
        items, tiles,
        BLOCK_N=launch.items, num_warps=launch.num_warps,
    )  # fmt: skip
    kernels.split_classes[(rankings * tiles,)](
        keys, index, classes, counts, tile_counts, tile_sums,
        v, order, s,
        items, tiles,
        BLOCK_N=launch.items, BLOCK_T=launch.scan, num_warps=launch.num_warps,
    )  # fmt: skip
    return Sorted(v, order, s, counts, centre)

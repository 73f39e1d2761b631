"""Average precision of weighted items: one launch after the sort."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from fastap.backends.triton.bound import start
from fastap.backends.triton.inputs import Inputs
from fastap.backends.triton.launch import RaggedLaunch, TiledLaunch, compiler_options
from fastap.backends.triton.ragged import sort_flat
from fastap.backends.triton.split import sort_and_split
from fastap.kernels import weighted


def run_weighted(inputs: Inputs, weight: Tensor, launch: TiledLaunch | RaggedLaunch, value: Tensor) -> None:
    """Fill the AP of every ranking; ``weight`` is float64, of one number an item in the order of the scores."""
    sums = inputs.empty(weight.numel(), dtype=torch.float64)
    if isinstance(launch, TiledLaunch):
        sorted_ = sort_and_split(inputs, launch)
        start(
            weighted.weigh_rankings, inputs.rankings,
            sorted_.v, sorted_.order, sorted_.counts, weight,
            value, sums,
            inputs.items,
            BLOCK=launch.weighed, num_warps=launch.num_warps,
        )  # fmt: skip
        return
    groups, order = sort_flat(inputs, launch)
    # Nobody comes by the empty rankings at the end.
    value.fill_(nan)
    start(
        weighted.weigh_ragged, launch.programs,
        inputs.scores, inputs.offsets, groups, order, weight,
        value, inputs.empty(inputs.items, dtype=torch.float64), sums,
        inputs.items, inputs.rankings,
        BLOCK=launch.written, **compiler_options(launch.tiles),
    )  # fmt: skip

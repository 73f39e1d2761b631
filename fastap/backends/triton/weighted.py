"""Average precision of weighted items: one launch after the sort."""

from __future__ import annotations

import torch

from fastap.backends.triton.inputs import Inputs
from fastap.backends.triton.launch import RaggedLaunch, TiledLaunch, compiler_options
from fastap.backends.triton.plan import Place, Plan
from fastap.backends.triton.ragged import fill_with_nan, sort_flat
from fastap.backends.triton.split import sort_and_split
from fastap.kernels import weighted


def plan_weighted(plan: Plan, inputs: Inputs, launch: TiledLaunch | RaggedLaunch, value: Place) -> None:
    """Fill the AP of every ranking."""
    assert inputs.weight is not None
    if isinstance(launch, TiledLaunch):
        sorted_ = sort_and_split(plan, inputs, launch)
        (sums,) = plan.cut((inputs.rankings * inputs.items, torch.float64))
        plan.start(
            weighted.weigh_rankings, inputs.rankings,
            sorted_.v, sorted_.order, sorted_.counts, inputs.weight,
            value, sums,
            inputs.items,
            BLOCK=launch.weighed, num_warps=launch.num_warps,
        )  # fmt: skip
        return
    assert inputs.offsets is not None
    groups, order = sort_flat(plan, inputs, launch)
    # Nobody comes by the empty rankings at the end.
    plan.call(fill_with_nan, value)
    v, sums = plan.cut((inputs.items, torch.float64), (inputs.items, torch.float64))
    plan.start(
        weighted.weigh_ragged, launch.programs,
        inputs.scores, inputs.offsets, groups, order, inputs.weight,
        value, v, sums,
        inputs.items, inputs.rankings,
        BLOCK=launch.written, **compiler_options(launch.tiles),
    )  # fmt: skip

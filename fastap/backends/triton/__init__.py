"""The exact algorithm in Triton kernels, for CUDA devices.

Nothing here computes: kernels and PyTorch's sort do. Nothing waits for the device: sizes come from shapes, counts stay
where they are. Time: a sort and ``O((P + N) log N)``. Memory: at most 64 bytes a score beside input and gradient, 68
of the symmetric update, and of ragged rankings 17 bytes a ranking; the work space is one allocation, of long
rankings four, of ragged ones three. What a call launches is planned once for its shapes and types, see
:mod:`fastap.backends.triton.plan`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fastap.backends.triton import prove
from fastap.backends.triton.bound import keep
from fastap.backends.triton.inputs import METRIC, Given, Inputs, Results, Task, architecture, inputs_of, on_device
from fastap.backends.triton.launch import Launch, RaggedLaunch, ShortLaunch, TiledLaunch, launch_for, ragged_launch
from fastap.backends.triton.plan import Plan, place_of
from fastap.backends.triton.prove import Call, Verdict, proven, proven_reduction
from fastap.backends.triton.ragged import plan_ragged
from fastap.backends.triton.short import plan_short
from fastap.backends.triton.tiled import plan_tiled
from fastap.backends.triton.weighted import plan_weighted
from fastap.kernels import output
from fastap.reduce import reduce as reduce_by_torch
from fastap.types import AugmentedRanking, Batch, Losses, Objective

_REDUCED_AT_A_TIME = 1024
# A program is soon done with fewer losses; of groups there may be as many as items.
_REDUCED_BY_ONE = 64 * _REDUCED_AT_A_TIME
# Programs that share the gradient, each of which counts the rankings; about four to each multiprocessor.
_REDUCING = 512
# By all that they are for, of which each keeps 20 KB of the host, by the dynamic program up to 1 MB.
PLANS: dict[tuple[Any, ...], Plan] = {}
_MOST_PLANS = 256


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss of every ranking, of that type, and its gradient, unless that is not wanted."""
    call, given = _call("losses", batch, None, objective, dtype, gradient)
    return cast(Losses, proven(_solve, batch, call, given))


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and what it attains: by the kernels of long rankings."""
    call, given = _call("ranking", batch, None, objective)
    return cast(AugmentedRanking, proven(_solve, batch, call, given))


def average_precision(batch: Batch, weight: Tensor | None = None) -> Tensor:
    """AP of every ranking, float64: NaN without a positive, with a NaN score or a wrong target.

    ``weight``, of the shape of the scores and any real type, weighs items: NaN, too, where the positives weigh nothing
    or add up to infinity, and where the weight of an item that takes part is negative, infinite or NaN.
    """
    call, given = _call("average_precision", batch, weight)
    return cast(Tensor, proven(_solve, batch, call, given))


def reduce(
    losses: Losses, dtype: torch.dtype, *, mean: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses or their mean over those that take part, and the share of each.

    Of at most 65,536 rankings without weights the gradient is multiplied in place, in the same launch, and no share is
    left; of others PyTorch reduces.
    """
    if weight is not None or losses.loss.shape[0] > _REDUCED_BY_ONE:
        return reduce_by_torch(losses, dtype, mean=mean, weight=weight)
    return proven_reduction(_plan_of_reduction, losses, dtype, mean)


def verdict(name: str, batch: Batch, *options: Any) -> Verdict:
    """Whether the kernels of that function, called so, are right, and on how many rankings."""
    weight, options = (options[0], ()) if name == "average_precision" else (None, options)
    return prove.verdict(_solve, _call(name, batch, weight, *options)[0])


def verdict_of_reduction(losses: Losses, dtype: torch.dtype, *, mean: bool) -> Verdict:
    """Whether the kernel of :func:`reduce`, called so, is right."""
    return prove.judge_reduction(_plan_of_reduction, losses, dtype, mean)


def launch_of(inputs: Inputs, *, is_short: bool = True) -> Launch:
    """The launch for these rankings, that of short ones if they are short and may be.

    The host does not know how many positives they have.
    """
    where = architecture(inputs.device)
    if inputs.offsets is not None:
        return ragged_launch(inputs.rankings, inputs.items, where)
    dtype = inputs.scores.dtype if is_short else torch.float64
    return launch_for(inputs.rankings, inputs.items, dtype, where)


def _call(name: str, batch: Batch, weight: Tensor | None, *options: Any) -> tuple[Call, Given]:
    inputs, given = inputs_of(batch, weight)
    is_short = name != "ranking" and weight is None
    return Call(name, inputs, launch_of(inputs, is_short=is_short), options), given


def _solve(call: Call, given: Given) -> Any:
    """What the function of that name returns."""
    # A plan keeps its launch, so that no other has the same id; to hash one takes 3 us.
    key = call.name, call.inputs, id(call.launch), call.options
    with on_device(call.inputs.device):
        plan = PLANS.get(key) or keep(PLANS, key, _plan(call), _MOST_PLANS)
        results = plan.run(given)
    if call.name == "losses":
        return Losses(*results)
    return AugmentedRanking(*results) if call.name == "ranking" else results[0]


def _plan(call: Call) -> Plan:
    inputs = call.inputs
    plan = Plan(inputs.device, 4, kept=call.launch)
    value_type, takes_part, out = torch.float64, None, None
    if call.name == "losses":
        objective, value_type, gradient = call.options
        task = Task.of(objective)
        takes_part = plan.empty(inputs.rankings, dtype=torch.bool)
        if gradient:
            wide = inputs.scores.dtype == torch.float64
            out = plan.empty(*inputs.shape, dtype=torch.float64 if wide else torch.float32)
    elif call.name == "ranking":
        (objective,) = call.options
        task = Task("ranking", objective.sign, objective.method, objective.epsilon)
        out = plan.empty(*inputs.shape, dtype=torch.int64)
    else:
        task = METRIC
    value = plan.empty(inputs.rankings, dtype=value_type)
    results = Results(value, None if takes_part is None else takes_part.view(torch.int8), out)
    if inputs.weight is not None:
        assert not isinstance(call.launch, ShortLaunch)
        plan_weighted(plan, inputs, call.launch, value)
    elif isinstance(call.launch, ShortLaunch):
        plan_short(plan, inputs, task, call.launch, results)
    elif isinstance(call.launch, TiledLaunch):
        plan_tiled(plan, inputs, task, call.launch, results)
    else:
        assert isinstance(call.launch, RaggedLaunch)
        plan_ragged(plan, inputs, task, call.launch, results)
    plan.end(*{"losses": (value, out, takes_part), "ranking": (out, value), "average_precision": (value,)}[call.name])
    return plan


def _plan_of_reduction(losses: Losses, dtype: torch.dtype, mean: bool, most: int = _REDUCING) -> Plan:
    """Of loss, participation and gradient, to the total, by at most so many programs."""
    loss, takes_part, gradient = losses.loss, losses.takes_part, losses.gradient
    if gradient is None:
        gradient = loss  # which is not looked at
    places = place_of(1, loss), place_of(2, takes_part), place_of(3, gradient)
    items = 0 if gradient is loss else gradient.numel()
    key = "reduce", loss.device, loss.shape[0], items, *places, dtype, mean, most
    plan = PLANS.get(key)
    if plan is not None:
        return plan
    with on_device(loss.device):
        plan = Plan(loss.device, len(places))
        total = plan.empty(dtype=dtype)
        plan.start(
            output.reduce_losses, max(1, min(-(-items // _REDUCED_AT_A_TIME), most)) if mean else 1,
            places[0], places[1].view(torch.int8),
            total, places[2],
            loss.shape[0], items,
            MEAN=mean, BLOCK_R=_REDUCED_AT_A_TIME, BLOCK_N=_REDUCED_AT_A_TIME,
        )  # fmt: skip
        plan.end(total)
    return keep(PLANS, key, plan, _MOST_PLANS)

"""The exact algorithm in Triton kernels, for CUDA devices.

Nothing here computes: kernels and PyTorch's sort do. Nothing waits for the device: sizes come from shapes, counts stay
where they are. Time: a sort and ``O((P + N) log N)``. Memory: at most 64 bytes a score beside input and gradient, 68
of the symmetric update, and of ragged rankings 17 bytes a ranking; the work space is one allocation, of long rankings
three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from fastap.backends.triton import prove
from fastap.backends.triton.bound import start
from fastap.backends.triton.inputs import Inputs, Task, architecture, inputs_of, on_device
from fastap.backends.triton.launch import Launch, RaggedLaunch, ShortLaunch, TiledLaunch, launch_for, ragged_launch
from fastap.backends.triton.prove import Verdict, proven, proven_reduction
from fastap.backends.triton.ragged import run_ragged
from fastap.backends.triton.short import run_short
from fastap.backends.triton.tiled import run_tiled
from fastap.backends.triton.weighted import run_weighted
from fastap.kernels import output
from fastap.reduce import reduce as reduce_by_torch
from fastap.types import AugmentedRanking, Batch, Losses, Objective

_REDUCED_AT_A_TIME = 1024
# One program is soon done with fewer losses; of groups there may be as many as items.
_REDUCED_BY_ONE = 64 * _REDUCED_AT_A_TIME


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss of every ranking, of that type, and its gradient, unless that is not wanted."""
    inputs = inputs_of(batch)
    return proven(_losses, batch, inputs, launch_of(inputs), objective, dtype, gradient)


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and what it attains: by the kernels of long rankings."""
    inputs = inputs_of(batch)
    return proven(_ranking, batch, inputs, launch_of(inputs, is_short=False), objective)


def average_precision(batch: Batch, weight: Tensor | None = None) -> Tensor:
    """AP of every ranking, float64: NaN without a positive, with a NaN score or a wrong target.

    ``weight``, of the shape of the scores and any real type, weighs items: NaN, too, where the positives weigh nothing
    or add up to infinity, and where the weight of an item that takes part is negative, infinite or NaN.
    """
    inputs = inputs_of(batch)
    if weight is not None:
        weight = weight.to(torch.float64).contiguous()
    return proven(_average_precision, batch, inputs, launch_of(inputs, is_short=weight is None), weight)


def reduce(
    losses: Losses, dtype: torch.dtype, *, mean: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses or their mean over those that take part; of a mean the share of each."""
    if weight is not None or losses.loss.shape[0] > _REDUCED_BY_ONE:
        return reduce_by_torch(losses, dtype, mean=mean, weight=weight)
    return proven_reduction(_reduce, losses, dtype, mean)


def verdict(name: str, batch: Batch, *options: Any) -> Verdict:
    """Whether the kernels of that function, called so, are right, and on how many rankings."""
    inputs = inputs_of(batch)
    is_short = name == "losses" or options == (None,)  # AP without weights
    return prove.verdict(_FUNCTIONS[name], inputs, launch_of(inputs, is_short=is_short), options)


def verdict_of_reduction(losses: Losses, dtype: torch.dtype, *, mean: bool) -> Verdict:
    """Whether the kernel of :func:`reduce`, called so, is right."""
    return prove.judge_reduction(_reduce, losses, dtype, mean)


def _losses(inputs: Inputs, launch: Launch, objective: Objective, dtype: torch.dtype, gradient: bool) -> Losses:
    with on_device(inputs.device):
        loss = inputs.empty(inputs.rankings, dtype=dtype)
        takes_part = inputs.empty(inputs.rankings, dtype=torch.bool)
        gradient_type = torch.float64 if inputs.scores.dtype == torch.float64 else torch.float32
        out = inputs.empty(*inputs.shape, dtype=gradient_type) if gradient else None
        _run(inputs, Task.of(objective), launch, out, loss, takes_part.view(torch.int8))
    return Losses(loss, cast(Tensor, out), takes_part)


def _ranking(inputs: Inputs, launch: Launch, objective: Objective) -> AugmentedRanking:
    task = Task("ranking", objective.sign, objective.method, objective.epsilon)
    with on_device(inputs.device):
        ranks = inputs.empty(*inputs.shape, dtype=torch.int64)
        value = inputs.empty(inputs.rankings, dtype=torch.float64)
        _run(inputs, task, launch, ranks, value, None)
    return AugmentedRanking(ranks, value)


def _average_precision(inputs: Inputs, launch: Launch, weight: Tensor | None) -> Tensor:
    with on_device(inputs.device):
        value = inputs.empty(inputs.rankings, dtype=torch.float64)
        if weight is None:
            _run(inputs, Task("ap", 1, "standard", 1.0), launch, None, value, None)
        else:
            assert not isinstance(launch, ShortLaunch)
            run_weighted(inputs, weight, launch, value)
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "losses": _losses,
    "ranking": _ranking,
    "average_precision": _average_precision,
}


def _reduce(losses: Losses, dtype: torch.dtype, mean: bool) -> tuple[Tensor, Tensor | None]:
    device = losses.loss.device
    total = torch.empty((), dtype=dtype, device=device)
    share = torch.empty(1, dtype=dtype, device=device) if mean else None
    with on_device(device):
        start(
            output.reduce_losses, 1,
            losses.loss, losses.takes_part.view(torch.int8),
            total, total if share is None else share,
            losses.loss.shape[0],
            MEAN=mean, BLOCK_R=_REDUCED_AT_A_TIME,
        )  # fmt: skip
    return total, share


def launch_of(inputs: Inputs, *, is_short: bool = True) -> Launch:
    """The launch for these rankings, that of short ones if they are short and may be.

    The host does not know how many positives they have.
    """
    where = architecture(inputs.device)
    if inputs.offsets is not None:
        return ragged_launch(inputs.rankings, inputs.items, where)
    dtype = inputs.scores.dtype if is_short else torch.float64
    return launch_for(inputs.rankings, inputs.items, dtype, where)


def _run(
    inputs: Inputs, task: Task, launch: Launch, out: Tensor | None, value: Tensor, takes_part: Tensor | None
) -> None:
    """Fill what is given: gradients or ranks, the value of every ranking, whether it takes part."""
    if isinstance(launch, ShortLaunch):
        run_short(inputs, task, launch, out, value, takes_part)
    elif isinstance(launch, TiledLaunch):
        run_tiled(inputs, task, launch, out, value, takes_part)
    else:
        assert isinstance(launch, RaggedLaunch)
        run_ragged(inputs, task, launch, out, value, takes_part)

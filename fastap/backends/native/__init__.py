"""The exact algorithm in C, for tensors of the CPU: one call a batch, rankings shared out among PyTorch's threads.

A ranking at a time: ``sort.c`` and ``split.c`` sort the two classes, ``search.c`` looks for the best place of every
positive, ``pool.c``, ``certify.c`` and ``program.c`` settle rows in conflict, ``output.c`` writes what was asked for,
``batch.c`` takes ranking after ranking. No formula knows of Python, and the module is built for the stable interface of
Python 3.10.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from fastap.reduce import reduce
from fastap.targets import can_hold, wrong_targets
from fastap.types import MEASURES, AugmentedRanking, Batch, Losses, Objective, Precision, loss_dtype

_engine: Any
try:
    _engine = importlib.import_module("fastap.backends.native._engine")
except ModuleNotFoundError:  # installed without a C compiler
    _engine = None

__all__ = [
    "IS_BUILT",
    "STAGES",
    "average_precision",
    "losses",
    "precision",
    "ranking",
    "reduce",
    "stage_seconds",
]

IS_BUILT = _engine is not None
# In the order of parallel.h.
STAGES = ("sort", "sums", "search", "repair", "gradient")
# In the order of split.c.
_TARGETS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64)
_TYPES = {dtype: number for number, dtype in enumerate(_TARGETS)}
_MOST_ITEMS = 2**31 - 2  # places are int32
_WRONG_TARGET = 1
# In the order of batch.h.
_RANKINGS = ("perfect", "standard", "positive", "negative", "smooth")


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss of every ranking, and gradient where that is asked for."""
    return _losses(batch, objective, dtype, gradient, 0)


def stage_seconds(batch: Batch, objective: Objective) -> dict[str, float]:
    """What each of ``STAGES`` takes of :func:`losses`, on one thread; for benchmarks."""
    seconds = torch.zeros(len(STAGES), dtype=torch.float64, device="cpu")
    _losses(batch, objective, torch.float64, True, seconds.data_ptr())
    return dict(zip(STAGES, seconds.tolist(), strict=True))


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and what it attains."""
    _check_length(batch)
    ranks = torch.empty(batch.shape, dtype=torch.int64, device="cpu")
    value = torch.empty(batch.rankings, dtype=torch.float64, device="cpu")
    _solve(batch, objective, (0, 0, 0, 0, ranks.data_ptr(), value.data_ptr(), 0))
    return AugmentedRanking(ranks, value)


def average_precision(batch: Batch, weight: Tensor | None = None) -> Tensor:
    """AP of every ranking."""
    return precision(batch, weight).value


def precision(
    batch: Batch, weight: Tensor | None = None, *, top_k: int | None = None, counts: bool = False
) -> Precision:
    """AP of every ranking, or of its best items alone; see :func:`fastap.backends.measure.measure`."""
    _check_length(batch)
    value, *others = (
        torch.empty(batch.rankings, dtype=torch.float64, device="cpu") if wanted else None
        for wanted in (True, counts, counts)
    )
    assert value is not None
    if weight is not None:
        weight = _real(weight)
    _call(
        _engine.measure,
        batch,
        0 if weight is None else weight.data_ptr(),
        weight is not None and weight.dtype == torch.float64,
        0 if top_k is None else min(top_k, _MOST_ITEMS),
        value.data_ptr(),
        *(0 if each is None else each.data_ptr() for each in others),
    )
    return Precision(value, *others)


def _losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool, seconds: int) -> Losses:
    _check_length(batch)
    filled = torch.empty(batch.shape, dtype=loss_dtype(batch.scores), device="cpu") if gradient else None
    rankings = batch.rankings
    loss = torch.empty(rankings, dtype=dtype, device="cpu")
    takes_part = torch.empty(rankings, dtype=torch.bool, device="cpu")
    address = 0 if filled is None else filled.data_ptr()
    outputs = (loss.data_ptr(), dtype == torch.float64, address, takes_part.data_ptr(), 0, 0, seconds)
    _solve(batch, objective, outputs)
    return Losses(loss, filled, takes_part)


def _solve(batch: Batch, objective: Objective, outputs: tuple[int, ...]) -> None:
    _call(
        _engine.solve,
        batch,
        *map(_RANKINGS.index, objective.rankings),
        objective.method == "dp",
        objective.epsilon,
        objective.gain,
        objective.task_weight,
        objective.ceiling,
        MEASURES.index(objective.measure.name),
        objective.measure.parameter,
        objective.measure.k or 0,
        *outputs,
    )


def _call(function: Any, batch: Batch, *arguments: Any) -> None:
    """The engine's function of the batch and these; what the addresses are of is held by the caller."""
    targets, ignored, offsets = batch.targets, batch.ignore_index, batch.offsets
    if targets.dtype not in _TYPES:
        targets = targets.float() if targets.is_floating_point() else targets.long()
    if ignored is not None and not can_hold(batch.targets.dtype, ignored):
        ignored = None
    scores, targets = _real(batch.scores), targets.resolve_neg().contiguous()
    status = function(
        scores.data_ptr(),
        scores.dtype == torch.float64,
        targets.data_ptr(),
        targets.numel(),
        _TYPES[targets.dtype],
        ignored,
        batch.rankings,
        batch.items,
        0 if offsets is None else offsets.data_ptr(),
        torch.get_num_threads(),
        *arguments,
    )
    if status == _WRONG_TARGET:
        wrong_targets(batch.targets, (batch.targets == 0) | (batch.targets == 1), batch.ignore_index)


def _real(values: Tensor) -> Tensor:
    """float32 or float64, as they stand in memory."""
    if values.dtype != torch.float64:
        values = values.float() if values.is_floating_point() else values.double()
    return values.resolve_neg().contiguous()


def _check_length(batch: Batch) -> None:
    items = batch.items
    if items > _MOST_ITEMS and batch.offsets is not None:
        items = int(batch.offsets.diff().max())
    if items > _MOST_ITEMS:
        raise ValueError(f"scores must have at most {_MOST_ITEMS} items in a ranking, got {items}")

"""The exact algorithm in C, for tensors of the CPU: one call a batch, rankings shared out among PyTorch's threads.

The same search, pooling, proof and dynamic program as :mod:`fastap.backends.torch`, a ranking at a time, without the
start of an operation at every step: ``layout.c`` and ``sort.c`` sort, ``search.c`` looks for the best place of every
positive, ``repair.c`` and ``program.c`` settle rows in conflict, ``outcome.c`` counts. No formula knows of Python, and
the module is built for the stable interface of Python 3.10; where it could not be built, the torch backend serves.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from fastap.backends.masked import TORCH
from fastap.reduce import reduce
from fastap.targets import can_hold, wrong_targets
from fastap.types import AugmentedRanking, Batch, Losses, Objective, loss_dtype

_engine: Any
try:
    _engine = importlib.import_module("fastap.backends.native._engine")
except ModuleNotFoundError:  # installed without a C compiler
    _engine = None

__all__ = ["IS_BUILT", "STAGES", "average_precision", "losses", "ranking", "reduce", "stage_seconds"]

IS_BUILT = _engine is not None
# In the order of ranking.h.
STAGES = ("sort", "sums", "search", "repair", "gradient")
# In the order of layout.c.
_TARGETS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64)
_TYPES = {dtype: number for number, dtype in enumerate(_TARGETS)}
_MOST_ITEMS = 2**31 - 2  # places are int32
_WRONG_TARGET = 1
# Of y_direct and of the standard ranking in the gradient, in halves: of equal scores half stand above.
_WEIGHTS = {"direct": (2, -1), "hinge": (2, 0), "perceptron": (0, 1)}


def losses(batch: Batch, objective: Objective, dtype: torch.dtype, gradient: bool = True) -> Losses:
    """Loss and gradient of every ranking."""
    if batch.items > _MOST_ITEMS:
        return TORCH.losses(batch, objective, dtype)
    return _losses(batch, objective, dtype, 0)


def stage_seconds(batch: Batch, objective: Objective) -> dict[str, float]:
    """What each of ``STAGES`` takes of :func:`losses`, on one thread; for benchmarks."""
    seconds = torch.zeros(len(STAGES), dtype=torch.float64, device="cpu")
    _losses(batch, objective, torch.float64, seconds.data_ptr())
    return dict(zip(STAGES, seconds.tolist(), strict=True))


def ranking(batch: Batch, objective: Objective) -> AugmentedRanking:
    """Ranks in the loss-augmented ranking, and what it attains."""
    if batch.items > _MOST_ITEMS:
        return TORCH.ranking(batch, objective)
    ranks = torch.empty(batch.shape, dtype=torch.int64, device="cpu")
    value = torch.empty(batch.rankings, dtype=torch.float64, device="cpu")
    _solve(batch, objective, (0, 0, 0, 0, 0, ranks.data_ptr(), value.data_ptr(), 0))
    return AugmentedRanking(ranks, value)


def average_precision(batch: Batch) -> Tensor:
    """AP of every ranking."""
    if batch.items > _MOST_ITEMS:
        return TORCH.average_precision(batch)
    result = torch.empty(batch.rankings, dtype=torch.float64, device="cpu")
    _solve(batch, Objective("perceptron"), (0, 0, 0, 0, result.data_ptr(), 0, 0, 0))
    return result


def _losses(batch: Batch, objective: Objective, dtype: torch.dtype, seconds: int) -> Losses:
    gradient = torch.empty(batch.shape, dtype=loss_dtype(batch.scores), device="cpu")
    loss = torch.empty(batch.rankings, dtype=dtype, device="cpu")
    takes_part = torch.empty(batch.rankings, dtype=torch.bool, device="cpu")
    is_wide = dtype == torch.float64
    addresses = (loss.data_ptr(), is_wide, gradient.data_ptr(), takes_part.data_ptr(), 0, 0, 0, seconds)
    _solve(batch, objective, addresses)
    return Losses(loss, gradient, takes_part)


def _solve(batch: Batch, objective: Objective, addresses: tuple[int, ...]) -> None:
    scores, targets, ignored, offsets = batch.scores, batch.targets, batch.ignore_index, batch.offsets
    if scores.dtype != torch.float64:
        scores = scores.float()
    if targets.dtype not in _TYPES:
        targets = targets.float() if targets.is_floating_point() else targets.long()
    if ignored is not None and not can_hold(batch.targets.dtype, ignored):
        ignored = None
    scores, targets = scores.resolve_neg().contiguous(), targets.resolve_neg().contiguous()
    status = _engine.solve(
        scores.data_ptr(),
        scores.dtype == torch.float64,
        targets.data_ptr(),
        _TYPES[targets.dtype],
        ignored,
        batch.rankings,
        batch.items,
        0 if offsets is None else offsets.data_ptr(),
        torch.get_num_threads(),
        objective.sign,
        objective.method == "dp",
        objective.epsilon,
        objective.gain,
        objective.task_weight,
        objective.ceiling,
        *_WEIGHTS[objective.loss],
        *addresses,
    )
    if status == _WRONG_TARGET:
        wrong_targets(batch.targets, (batch.targets == 0) | (batch.targets == 1), batch.ignore_index)

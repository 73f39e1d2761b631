"""The user's tensors and loss as kernels read them: pointers and strides, without a copy where strides allow."""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastap.backends.triton.launch import MOST_ITEMS
from fastap.backends.triton.plan import Place, place_of
from fastap.targets import can_hold
from fastap.types import Batch, Objective

_SCORE_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Inputs(NamedTuple):
    """Scores and targets whose leading axes are numbered (outer, inner), and what else kernels ask of them.

    All but the memory, so that calls can be told apart by it. With offsets they are flat, rankings of different lengths
    end to end.
    """

    device: torch.device
    scores: Place
    targets: Place
    offsets: Place | None  # (rankings + 1,) int64
    weight: Place | None  # float64, one an item in the order of the scores
    rankings: int
    items: int  # of each ranking; with offsets of all together
    targeted: int  # items that the targets are of; with offsets they may serve the next as many again
    inner: int
    strides: tuple[int, int, int, int, int, int]  # outer, inner, item: of the scores, then of the targets
    ignore_index: int  # of no meaning unless has_ignore
    has_ignore: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what there is one of an item."""
        return (self.rankings, self.items) if self.offsets is None else (self.items,)


class Results(NamedTuple):
    """Where a call leaves what it returns."""

    value: Place  # of every ranking
    takes_part: Place | None = None  # int8, of every ranking
    out: Place | None = None  # gradient or rank, of every item


# The memory of scores, targets, offsets and weights.
Given = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Task(NamedTuple):
    """What kernels are compiled for, and the one number they are given."""

    loss: str
    sign: int  # of the update; 0 is the symmetric one
    method: str
    epsilon: float

    @staticmethod
    @lru_cache(maxsize=256)
    def of(objective: Objective) -> Task:
        method = "standard" if objective.loss == "perceptron" else objective.method
        sign = 0 if objective.is_symmetric else objective.sign
        return Task(objective.loss, sign, method, objective.epsilon)

    @property
    def is_symmetric(self) -> bool:
        return self.sign == 0

    @property
    def first(self) -> Task:
        """The task whose ranking is the first, with a sign."""
        return self._replace(sign=1) if self.is_symmetric else self

    @property
    def second(self) -> Task:
        """Of a symmetric task, the one whose ranking is the second."""
        return self._replace(sign=-1)

    @property
    def planes(self) -> int:
        """Numbers a row, of int32, as scratch."""
        return 7 if self.is_symmetric else 6

    @property
    def epsilon_bits(self) -> int:
        """A float64 as an integer: Triton passes a Python float as float32."""
        return int(struct.unpack("<q", struct.pack("<d", self.epsilon))[0])


METRIC = Task("ap", 1, "standard", 1.0)  # with nothing to solve


def inputs_of(batch: Batch, weight: Tensor | None = None) -> tuple[Inputs, Given]:
    """The batch as kernels read it. Any ``dim`` of a contiguous tensor, and most views, are read where they are."""
    scores, targets, ignore_index, offsets = batch
    rankings, items = batch.rankings, scores.shape[-1]
    if items > MOST_ITEMS or (offsets is not None and rankings > MOST_ITEMS):
        where = f"items and {MOST_ITEMS} rankings" if offsets is not None else "items in a ranking"
        given = f"{items} and {rankings}" if offsets is not None else f"{items}"
        raise ValueError(f"scores must have at most {MOST_ITEMS} {where} on this backend, got {given}")
    if scores.dtype not in _SCORE_TYPES:
        scores = scores.float()
    if targets.dim() < scores.dim():
        targets = targets.expand(scores.shape)
    has_ignore = ignore_index is not None and can_hold(targets.dtype, ignore_index)
    if targets.dtype == torch.bool:
        targets, has_ignore = targets.view(torch.uint8), False
    elif targets.is_floating_point() and targets.dtype not in _SCORE_TYPES:
        targets = targets.float()
    if weight is not None:
        weight = weight.to(torch.float64).contiguous()
    inner = 1
    if scores.is_contiguous() and targets.is_contiguous():  # as most are: 6 us of the host in place of 13
        step = items if rankings > 1 else 0
        strides = step, step, 1, step, step, 1
    else:
        axes = _two_axes(scores), _two_axes(targets)
        found = _common_inner(*axes)
        if found is None:
            # Three leading axes that do not lie behind each other, or two tensors that differ in how.
            scores, targets = scores.contiguous(), targets.contiguous()
            axes = _two_axes(scores), _two_axes(targets)
            found = _common_inner(*axes)
            assert found is not None
        inner = found
        of_scores, of_targets = (_outer_inner(each, inner) for each in axes)
        strides = *of_scores, scores.stride(-1), *of_targets, targets.stride(-1)
    inputs = Inputs(
        scores.device,
        place_of(1, scores),
        place_of(2, targets),
        None if offsets is None else place_of(3, offsets),
        None if weight is None else place_of(4, weight),
        rankings,
        items,
        targets.shape[-1],
        inner,
        strides,
        ignore_index if has_ignore and ignore_index is not None else 0,
        has_ignore,
    )
    return inputs, (scores, targets, offsets, weight)


def _two_axes(tensor: Tensor) -> list[tuple[int, int]] | None:
    """The leading axes as at most two of (size, stride), or None."""
    axes: list[tuple[int, int]] = []
    for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * stride:
            axes[-1] = (axes[-1][0] * size, stride)
        else:
            axes.append((size, stride))
    return axes if len(axes) <= 2 else None


def _common_inner(first: list[tuple[int, int]] | None, second: list[tuple[int, int]] | None) -> int | None:
    """The size of the inner axis that serves both, or None."""
    if first is None or second is None:
        return None
    sizes = {axes[1][0] for axes in (first, second) if len(axes) == 2}
    return None if len(sizes) > 1 else sizes.pop() if sizes else 1


def _outer_inner(axes: list[tuple[int, int]] | None, inner: int) -> tuple[int, int]:
    """The strides of both axes."""
    if not axes:
        return 0, 0
    if len(axes) == 2:
        return axes[0][1], axes[1][1]
    return axes[0][1] * inner, axes[0][1]


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Kernels go to the current device: inside, it is this one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def architecture(device: torch.device) -> str:
    """``"sm_90"`` and the like, or ``"gfx942"``."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"

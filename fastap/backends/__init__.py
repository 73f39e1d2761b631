"""The engines behind the losses, and which of them serves a call."""

from __future__ import annotations

import importlib.util
import os
from typing import Protocol, cast

from torch import Tensor, device, dtype

from fastap.arguments import check_choice
from fastap.types import AugmentedRanking, Batch, Losses, Objective

BACKENDS = ("auto", "native", "torch", "reference", "triton")
HAS_TRITON = importlib.util.find_spec("triton") is not None
# Triton reads this once, when it is imported: its kernels then run in Python, on tensors of the CPU.
INTERPRETS_TRITON = os.environ.get("TRITON_INTERPRET", "0") == "1"


class Backend(Protocol):
    """What a backend offers; see :mod:`fastap.types`."""

    def losses(self, batch: Batch, objective: Objective, dtype: dtype, gradient: bool = True) -> Losses:
        """Loss of every ranking, of that type, and gradient, or None in its place where that is not asked for."""

    def reduce(
        self, losses: Losses, dtype: dtype, *, mean: bool, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of the losses, weighted, or their mean over those that take part, 0-dimensional; the share of each.

        The share is what the gradient of a ranking is to be multiplied with: one for all, or with weights, which are
        float64, one a ranking; None for a sum without weights.
        """

    def ranking(self, batch: Batch, objective: Objective) -> AugmentedRanking:
        """Ranks in the loss-augmented ranking, and what it attains."""

    def average_precision(self, batch: Batch, weight: Tensor | None = None) -> Tensor:
        """AP of every ranking, float64; with weights, shaped like the scores, an item counts what it weighs.

        NaN where the positives weigh nothing, and where an item that takes part has a NaN score or a weight that is
        negative, infinite or NaN. What is ignored may have any score and weight.
        """


def get(name: str, where: device) -> Backend:
    """The backend of that (already checked) name; ``"auto"`` is the fastest that is there."""
    if name == "triton" or (name == "auto" and where.type == "cuda" and HAS_TRITON):
        from fastap.backends import triton  # imports Triton, which takes half a second

        return cast(Backend, triton)
    from fastap.backends import masked, native

    if name == "native" or (name == "auto" and where.type == "cpu" and native.IS_BUILT):
        return cast(Backend, native)
    return masked.REFERENCE if name == "reference" else masked.TORCH


def check_backend(backend: str, where: device | None = None) -> str:
    """A backend that is there, for tensors of that device, if there are any yet."""
    check_choice("backend", backend, BACKENDS)
    if backend == "native":
        from fastap.backends import native  # which needs the checks of this module

        if not native.IS_BUILT:
            raise ValueError(
                "backend 'native' was not built when fastap was installed, for want of a C compiler; "
                "use 'auto' or 'torch'"
            )
        if where is not None and where.type != "cpu":
            raise ValueError(f"backend 'native' needs tensors on the CPU, got {where}; use 'auto'")
    if backend == "triton":
        if not HAS_TRITON:
            raise ValueError("backend 'triton' needs the package triton, which is not installed; use 'auto' or 'torch'")
        if where is not None and where.type != "cuda" and not INTERPRETS_TRITON:
            raise ValueError(f"backend 'triton' needs tensors on a CUDA device, got {where}; use 'auto' or 'torch'")
    return backend

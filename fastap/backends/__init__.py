"""The engines behind the losses, and which of them serves a call."""

from __future__ import annotations

import importlib.util
import os
from typing import Protocol, cast

from torch import Tensor, device, dtype

from fastap.problem import AugmentedRanking, Batch, Losses, Objective

HAS_TRITON = importlib.util.find_spec("triton") is not None
# Triton reads this once, when it is imported: its kernels then run in Python, on tensors of the CPU.
INTERPRETS_TRITON = os.environ.get("TRITON_INTERPRET", "0") == "1"


class Backend(Protocol):
    """What a backend offers; see :mod:`fastap.problem`."""

    def losses(self, batch: Batch, objective: Objective, dtype: dtype) -> Losses:
        """Loss of every ranking, of that type, and gradient."""

    def reduce(
        self, losses: Losses, dtype: dtype, *, mean: bool, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of the losses, weighted, or their mean over those that take part, 0-dimensional; the share of each.

        The share is what the gradient of a ranking is to be multiplied with: one for all, or with weights, which are
        float64, one a ranking; None for a sum without weights.
        """

    def ranking(self, batch: Batch, objective: Objective) -> AugmentedRanking:
        """Ranks in the loss-augmented ranking, and what it attains."""

    def average_precision(self, batch: Batch) -> Tensor:
        """AP of every ranking, float64."""


def get(name: str, where: device) -> Backend:
    """The backend of that (already checked) name; ``"auto"`` is the fastest that is there."""
    if name == "triton" or (name == "auto" and where.type == "cuda" and HAS_TRITON):
        from fastap.backends import triton  # imports Triton, which takes half a second

        return cast(Backend, triton)
    from fastap.backends import masked, native

    if name == "native" or (name == "auto" and where.type == "cpu" and native.IS_BUILT):
        return cast(Backend, native)
    return masked.REFERENCE if name == "reference" else masked.TORCH

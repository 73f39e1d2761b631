"""The engines behind the losses, and which of them serves a call."""

from __future__ import annotations

import importlib.util
from typing import Protocol, cast

from torch import Tensor, device, dtype, float32, float64

from fastap.arguments import check_choice
from fastap.backends import about
from fastap.types import AugmentedRanking, Batch, Losses, Objective
from fastap.warning import warn_once

BACKENDS = ("auto", "native", "triton", "reference")
HAS_TRITON = importlib.util.find_spec("triton") is not None
# Where kernels run. Tests add "cpu", whose tensors an emulated GPU takes.
TRITON_DEVICES: tuple[str, ...] = ("cuda",)
_NOT_BUILT = "no C compiler built the engine when fastap was installed; install one (gcc, clang), then fastap again"


class Backend(Protocol):
    """What a backend offers; see :mod:`fastap.types`."""

    def losses(self, batch: Batch, objective: Objective, dtype: dtype, gradient: bool = True) -> Losses:
        """Loss of every ranking, of that type, and gradient, or None in its place where that is not asked for."""

    def reduce(
        self, losses: Losses, dtype: dtype, *, mean: bool, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of the losses, weighted, or their mean over those that take part, 0-dimensional; the share of each.

        The share is what the gradient of a ranking is still to be multiplied with: one for all, or with weights, which
        are float64, one a ranking; None where there is nothing to do: of a sum without weights, and where this has
        changed the gradient in place.
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
    if _takes_triton(name, where):
        from fastap.backends import triton  # imports Triton, which takes half a second

        return cast(Backend, triton)
    from fastap.backends import native

    if name == "native" or (name == "auto" and native.IS_BUILT):
        return cast(Backend, native)
    from fastap.backends import reference

    if name == "auto":
        warn_once(f"the slow reference in NumPy ranks on the CPU, for {_NOT_BUILT}")
    return cast(Backend, reference)


def goes_through_the_cpu(name: str, where: device, without_kernels: str | None = None) -> bool:
    """Whether tensors of that device are copied to the CPU, ranked there, and the results copied back.

    ``without_kernels`` says what of the call Triton has no kernels for, if there is anything.
    """
    if where.type == "cpu" or (_takes_triton(name, where) and without_kernels is None):
        return False
    if name == "auto":
        why = f"there are no kernels for {where.type}"
        if where.type == "cuda":
            why = f"there are no kernels for {without_kernels}" if HAS_TRITON else "the package triton is not installed"
        warn_once(f"scores on {where.type} are copied to the CPU, ranked there, and the results copied back, for {why}")
    return True


def widest_float(where: device) -> dtype:
    """float64, but on Apple's GPUs, which have none."""
    return float32 if where.type == "mps" else float64


def show_config() -> None:
    """Print the versions, and which backend ranks tensors of which device here."""
    from fastap.backends import native

    print(about.versions())
    print("CPU:", "the C engine" if native.IS_BUILT else f"the slow reference in NumPy, for {_NOT_BUILT}")
    print("CUDA:", "Triton's kernels" if HAS_TRITON else "through the CPU: triton is not installed")
    print("other devices: through the CPU")


def _takes_triton(name: str, where: device) -> bool:
    return name == "triton" or (name == "auto" and where.type == "cuda" and HAS_TRITON)


def check_backend(backend: str, where: device | None = None, without_kernels: str | None = None) -> str:
    """A backend that is there, for tensors of that device, if there are any yet; and which has kernels for the call."""
    if isinstance(backend, str) and backend == "torch":
        raise ValueError("backend 'torch' is no more; use 'auto', which takes the C engine or Triton's kernels")
    check_choice("backend", backend, BACKENDS)
    if backend == "native":
        from fastap.backends import native  # which needs the checks of this module

        if not native.IS_BUILT:
            raise ValueError(f"backend 'native' is not there, for {_NOT_BUILT}; or use 'auto'")
        if where is not None and where.type != "cpu":
            raise ValueError(f"backend 'native' needs tensors on the CPU, got {where}; use 'auto'")
    if backend == "triton":
        if not HAS_TRITON:
            raise ValueError("backend 'triton' needs the package triton, which is not installed; use 'auto'")
        if where is not None and where.type not in TRITON_DEVICES:
            raise ValueError(f"backend 'triton' needs tensors on a CUDA device, got {where}; use 'auto'")
        if without_kernels is not None:
            raise ValueError(f"backend 'triton' has no kernels for {without_kernels}; use 'auto'")
    return backend

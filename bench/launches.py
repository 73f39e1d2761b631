"""How often the project's Triton kernels and its engine in C are launched, and with tensors of how many bytes."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from torch import Tensor
from torch.profiler import record_function

from bench.trace import LAUNCH, OperatorBytes
from fastap.backends import HAS_TRITON, native
from fastap.types import Batch, Objective

ENGINE = "native engine"

# What these arguments of the kernels point to has one number a positive, in arrays as long as the rankings.
_A_POSITIVE = ("rows_ptr", "sums_ptr")


class Launches:
    """Inside ``with``, counts launches and the bytes of their tensors, each once.

    Nominal bytes: a kernel may read a tensor twice, or a part of it. Of work space with one number a positive,
    ``positives_share`` counts. ``run`` of each kernel is wrapped, through which every launch goes, compiled or
    interpreted, and the one call of the engine. ``annotated``, for what PyTorch's profiler does not see by itself,
    puts every launch into its trace.
    """

    def __init__(self, positives_share: float = 1.0, *, annotated: bool = False) -> None:
        self.share, self.annotated = positives_share, annotated
        self.seen: dict[str, OperatorBytes] = defaultdict(OperatorBytes)
        self._patches = ExitStack()

    def __enter__(self) -> Launches:
        for kernel in project_kernels():
            self._patches.enter_context(mock.patch.object(kernel, "run", self._kernel(kernel)))
        self._patches.enter_context(mock.patch.object(native, "_solve", self._engine(native._solve)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _kernel(self, kernel: Any) -> Callable[..., Any]:
        run, name = kernel.run, kernel.__name__

        def watched(*args: Any, **options: Any) -> Any:
            with self._seen(name, self._bytes(dict(zip(kernel.arg_names, args, strict=False)))):
                return run(*args, **options)

        return watched

    def _engine(self, solve: Callable[..., None]) -> Callable[..., None]:
        def watched(batch: Batch, objective: Objective, addresses: tuple[int, ...]) -> None:
            gradient_is_wanted = addresses[2] != 0
            each = batch.scores.element_size() + batch.targets.element_size()
            each += max(4, batch.scores.element_size()) if gradient_is_wanted else 0
            with self._seen(ENGINE, each * batch.scores.numel()):
                solve(batch, objective, addresses)

        return watched

    @contextmanager
    def _seen(self, name: str, moved: float) -> Iterator[None]:
        each = self.seen[name]
        each.instances += 1
        each.moving += 1
        each.total += moved
        with record_function(LAUNCH + name) if self.annotated else nullcontext():
            yield

    def _bytes(self, arguments: dict[str, Any]) -> float:
        handed: dict[int, float] = {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                share = self.share if name in _A_POSITIVE else 1.0
                # Where there is nothing to hand over, another tensor stands in; the first stands for itself.
                handed.setdefault(value.data_ptr(), share * value.numel() * value.element_size())
        return sum(handed.values())


def project_kernels() -> list[Any]:
    """Every ``@triton.jit`` of ``fastap.kernels``, once; none where Triton is not installed."""
    if not HAS_TRITON:
        return []
    from triton.runtime.jit import KernelInterface

    package = importlib.import_module("fastap.kernels")
    names = [f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)]
    every = [each for name in names for each in vars(importlib.import_module(name)).values()]
    return list({id(each): each for each in every if isinstance(each, KernelInterface)}.values())

"""What tests of Triton kernels share. Without a GPU they run in Triton's interpreter: see ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from fastap.backends import INTERPRETS_TRITON

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Odd, large, and in another place than any test would look for.
_POISON = 0x5A5A5A5B


def _mend_interpreter() -> None:
    """Loops to a bound that is an argument: Triton 3.6 makes an int of an array of one element, NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend


if INTERPRETS_TRITON:
    _mend_interpreter()


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, ``torch.empty`` comes full of NaN, or of a large odd number: what nobody wrote shows."""
    empty = torch.empty

    def filled(*args: Any, **options: Any) -> Tensor:
        memory = empty(*args, **options)
        if memory.dtype == torch.bool:
            return memory.fill_(True)
        if memory.is_floating_point():
            return memory.fill_(float("nan"))
        return memory.fill_(_POISON & torch.iinfo(memory.dtype).max)

    with mock.patch.object(torch, "empty", filled):
        yield

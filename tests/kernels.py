"""What tests of Triton kernels share. Without a GPU they run in Triton's interpreter: see ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Odd, large, and in another place than any test would look for.
_POISON = 0x5A5A5A5B


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

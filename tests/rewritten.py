"""Kernels with a fault planted in them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.jit import JITFunction

from fastap.backends.triton.bound import forget


@contextmanager
def rewritten(function: Any, old: str, new: str) -> Iterator[None]:
    """Inside, all that calls the function is compiled with its source changed, which must have the old text once."""
    source = function.src
    assert source.count(old) == 1, f"{function.fn.__name__} has {old!r} {source.count(old)} times"
    try:
        _put(function, source.replace(old, new))
        yield
    finally:
        _put(function, source)


def _put(function: Any, source: str) -> None:
    function._unsafe_update_src(source)
    forget()
    # Triton keeps the hash of whatever calls it, and compiled kernels by their arguments alone.
    for each in [each for each in gc.get_objects() if type(each) is JITFunction]:
        each.hash = None
        each.device_caches.clear()

"""What every timing shares: waiting for the device, seconds by the host's clock or the GPU's, quantiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def wait(device: torch.device | str) -> None:
    """Until the device has done all that it was given; the CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def quantiles(values: Any) -> dict[str, float]:
    """``median``, ``p10`` and ``p90``, as results keep them."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"median": float(middle), "p10": float(low), "p90": float(high)}


def seconds_on(device: torch.device, call: Callable[[], object], *, spin: float = 0.0) -> float:
    """Seconds of the device's time: on a GPU between two events, where launch and wake-up of the host do not count.

    The GPU first spins for so many seconds, in which the call is queued.
    """
    wait(device)
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(spin * 2e9))  # cycles, of 2 GHz
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


class Machine:
    """The device that calls run on, and its L2 cache, which is flushed before each of them."""

    def __init__(self, device: str) -> None:
        self.device, self.on_gpu = torch.device(device), device == "cuda"
        self.cache: Tensor | None = None
        if self.on_gpu:  # so much memory that writing it leaves nothing else in the cache
            cached = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 64 << 20)
            self.cache = torch.empty(max(4 * cached, 1 << 28), dtype=torch.int8, device=self.device)

    def wait(self) -> None:
        wait(self.device)

    def flush(self) -> None:
        if self.cache is not None:
            self.cache.zero_()
            self.wait()

"""What a call on a GPU takes of the host's time: ``python -m bench.host``.

Launches do nothing here, on tensors of the CPU that say they are not there: what is left is Python, PyTorch and Triton
on the way to the driver. Tensors are small, with the launches of large ones. Each call takes turns with eight small
operations of PyTorch, and the ratio says more than the time: machines differ, and change their clocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch

import fastap
from bench.environment import about, machine
from bench.figures import duration
from bench.markdown import table
from emulator import Device
from fastap.backends import triton as backend
from fastap.backends.triton import plan
from fastap.backends.triton.launch import launch_for
from fastap.types import UPDATES, Batch, Objective

SHAPES = ((80, 1024), (4096, 1000), (1, 1_000_000))
ROUNDS, CALLS = 40, 20


def small_operations() -> None:
    """Eight of them."""
    x = torch.zeros(8)
    for _ in range(7):
        x = x + 1


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and how many times as long as eight small operations it takes; medians over rounds."""
    seconds, ratios = [], []
    for number in range(ROUNDS + 2):
        taken = []
        for each in (call, small_operations):
            start = time.perf_counter()
            for _ in range(CALLS):
                each()
            taken.append((time.perf_counter() - start) / CALLS)
        if number >= 2:  # the first compile, and bind their launches
            seconds.append(taken[0])
            ratios.append(taken[0] / taken[1])
    return statistics.median(seconds), statistics.median(ratios)


def rows() -> list[list[str]]:
    """One a shape and update: launches, allocations, then the backend's part and the whole call with its gradient."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 16, generator=generator).requires_grad_()
    targets = torch.arange(64).view(4, 16) % 3 == 0
    found = []
    for rankings, items in SHAPES:
        chosen = launch_for(rankings, items, torch.float32, "sm_90")
        for update in UPDATES:
            batch, objective = Batch(scores.detach(), targets, None), Objective("direct", 1.0, update)

            def solve(batch: Batch = batch, objective: Objective = objective) -> object:
                return backend.reduce(backend.losses(batch, objective, torch.float64), torch.float32, mean=True)

            def call(update: str = update) -> None:
                fastap.direct_ap_loss(scores, targets, dim=-1, update=update, backend="triton").backward()

            with ExitStack() as stack:
                device = stack.enter_context(Device(executes=False))
                # Values of tensors on a GPU are not looked at.
                stack.enter_context(mock.patch.object(torch.Tensor, "is_cpu", False))
                stack.enter_context(mock.patch.object(backend, "launch_for", lambda *_, chosen=chosen: chosen))
                solve()
                before = device.started
                with mock.patch.object(plan, "new_memory", wraps=plan.new_memory) as allocations:
                    solve()
                counted = device.started - before, allocations.call_count
                times = [f"{duration(seconds)} ({ratio:.1f})" for seconds, ratio in map(measure, (solve, call))]
            found.append([f"{rankings:,} x {items:,}", update, *map(str, counted), *times])
    return found


def main() -> None:
    torch.set_num_threads(1)
    print(machine(about()))
    print("In brackets: times eight small operations of PyTorch.\n")
    heads = ["rankings", "update", "launches", "allocations", "loss and gradient", "with checks, forward and backward"]
    print(table(rows(), heads, 2))


if __name__ == "__main__":
    main()

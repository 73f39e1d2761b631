"""Calls from several threads at once, and from a forked process, give the answers of one thread, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from tests.losses import LOSSES, random_batch

WORKERS = 6
Job = Callable[[], tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def jobs() -> list[Job]:
    """Calls of every kind, short and long: of the long ones each asks for the crew of threads."""

    def loss(name: str, seed: int, rankings: int, items: int, dtype: torch.dtype, **options: Any) -> Job:
        scores, targets = random_batch(seed, rankings, items, levels=50 * (seed % 2), dtype=dtype)
        if "offsets" in options or "groups" in options:
            scores, targets = scores.view(-1), targets.view(-1)

        def run() -> tuple[Tensor, ...]:
            leaf = scores.clone().requires_grad_()
            value = LOSSES[name](leaf, targets, reduction="none", **options)
            value.sum().backward()
            assert leaf.grad is not None
            return value.detach(), leaf.grad

        return run

    def others(seed: int, items: int) -> Job:
        scores, targets = random_batch(seed, 3, items, dtype=torch.float32)
        logits, classes = scores.T[:, :3].contiguous(), targets[0]

        def run() -> tuple[Tensor, ...]:
            ranked = fastap.loss_augmented_ranking(scores, targets, update="negative", dim=-1)
            cost = fastap.direct_cost_loss(logits, classes, reduction="none")
            return *ranked, fastap.average_precision(scores, targets, dim=-1), cost

        return run

    short = [
        loss(name, seed, 1 + seed, 9 * (1 + seed), dtype)
        for seed, name in enumerate(LOSSES)
        for dtype in (torch.float32, torch.float64)
    ]
    offsets = torch.tensor([0, 3, 3, 400, 5_000, 36_000])
    groups = torch.randint(0, 40, (36_000,), generator=torch.Generator().manual_seed(0))
    return [
        *short,
        loss("positive", 4, 1, 150_000, torch.float32),
        loss("negative", 5, 1, 150_000, torch.float64),
        loss("hinge", 6, 500, 300, torch.float32),
        loss("perceptron", 7, 40, 4_000, torch.float64),
        loss("negative", 8, 1, 36_000, torch.float32, offsets=offsets),
        loss("positive", 9, 1, 36_000, torch.float32, groups=groups),
        others(10, 50),
        others(11, 40_000),
    ]


@pytest.mark.parametrize("threads", [2, 5])
def test_concurrent_calls_are_those_of_one_thread(threads: int) -> None:
    every = jobs()
    torch.set_num_threads(1)
    expected = [job() for job in every]
    start = threading.Barrier(WORKERS)

    def work(worker: int) -> list[tuple[int, tuple[Tensor, ...]]]:
        torch.set_num_threads(threads)
        start.wait()
        order = [(worker * 5 + step) % len(every) for step in range(len(every))]
        return [(number, every[number]()) for number in order]

    with ThreadPoolExecutor(WORKERS) as pool:
        found = [pair for pairs in pool.map(work, range(WORKERS)) for pair in pairs]
    for number, results in found:
        for given, wanted in zip(results, expected[number], strict=True):
            assert torch.equal(given, wanted), f"job {number}"


def test_the_number_of_threads_may_change_meanwhile() -> None:
    scores, targets = random_batch(0, 1, 120_000, dtype=torch.float32)
    scores.requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        value = fastap.direct_ap_loss(scores, targets, epsilon=0.3, dim=-1)
        return value.detach(), torch.autograd.grad(value, scores)[0]

    expected = run()

    def work(worker: int) -> bool:
        equal = True
        for step in range(30):
            torch.set_num_threads(1 + (worker + step) % 7)
            equal &= all(map(torch.equal, run(), expected))
        return equal

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_backward_in_another_thread() -> None:
    every = []
    for seed, (name, loss) in enumerate(LOSSES.items()):
        scores, targets = random_batch(seed, 5, 200)
        leaf = scores.requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, targets), leaf)
        every.append((name, leaf, loss(leaf, targets), expected))

    def backward(case: tuple[str, Tensor, Tensor, Tensor]) -> None:
        case[2].backward()

    with ThreadPoolExecutor(len(every)) as pool:
        list(pool.map(backward, every))
    for name, leaf, _, expected in every:
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, expected), name


def test_an_error_in_one_thread_is_no_other_thread_s() -> None:
    scores, targets = random_batch(0, 3, 30_000, dtype=torch.float32)
    wrong = targets.clone()
    wrong[1, 17] = 5
    expected = fastap.direct_ap_loss(scores, targets, dim=-1)

    def work(worker: int) -> bool:
        for _ in range(20):
            if worker % 2:
                with pytest.raises(ValueError, match="got 5"):
                    fastap.direct_ap_loss(scores, wrong, dim=-1)
            elif not torch.equal(fastap.direct_ap_loss(scores, targets, dim=-1), expected):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


FORKS = """
import multiprocessing, threading
import torch, fastap

torch.set_num_threads(3)
generator = torch.Generator().manual_seed(0)
scores, targets = torch.randn(200_000, generator=generator), torch.rand(200_000, generator=generator) < 0.1
expected = fastap.direct_ap_loss(scores, targets, backend="native")
stopped = False

def busy():
    while not stopped:
        assert torch.equal(fastap.direct_ap_loss(scores, targets, backend="native"), expected)

def child(queue):
    # PyTorch's own threads do not survive a fork, whoever uses them; those of the engine are made again.
    queue.put(all(torch.equal(fastap.direct_ap_loss(scores, targets, backend="native"), expected) for _ in range(5)))

worker = threading.Thread(target=busy)
worker.start()
fork = multiprocessing.get_context("fork")
queue = fork.Queue()
children = [fork.Process(target=child, args=(queue,)) for _ in range(4)]
for each in children:
    each.start()
right = [queue.get(timeout=60) for _ in children]
for each in children:
    each.join(60)
stopped = True
worker.join()
raise SystemExit(0 if all(right) and all(each.exitcode == 0 for each in children) else 3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.skipif(not fastap.backends.native.IS_BUILT, reason="of the engine")
def test_processes_forked_in_the_middle_of_a_call() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], timeout=150, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

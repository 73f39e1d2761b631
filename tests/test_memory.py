"""Memory is where it was after 1,000 steps, and after 1,000 errors; what C holds counts too."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastap
from bench import cases, isolated
from bench.inputs import with_ratio
from fastap import operators as ops
from fastap.types import Arguments, Reduction

STEPS = """
import gc, os, sys, warnings
warnings.simplefilter("ignore")
import torch, fastap

torch.set_num_threads(2)
PAGE = os.sysconf("SC_PAGE_SIZE")

def held():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE

generator = torch.Generator().manual_seed(0)
def batch(*shape):
    return torch.randn(*shape, generator=generator), (torch.rand(*shape, generator=generator) < 0.2).long()

shapes = [batch(40, 50), batch(1, 1_200), batch(1_200), batch(7, 11, 13)]
leaves = [torch.nn.Parameter(scores) for scores, _ in shapes]
groups = torch.randint(0, 50, (1_200,), generator=generator)
offsets = torch.tensor([0, 10, 10, 300, 1_200])
weight = torch.rand(40, generator=generator)
wide = torch.nn.Parameter(10.0 ** (60 * torch.rand(300, generator=generator) - 30))
wide_targets = torch.rand(300, generator=generator) < 0.3
logits, classes = torch.nn.Parameter(torch.randn(50, 10, generator=generator)), torch.randint(0, 10, (50,))

def losses(step):
    kind = step % 10
    update = ("positive", "negative")[step // 20 % 2]
    if kind < 4:
        return fastap.direct_ap_loss(leaves[kind], shapes[kind][1], update=update, dim=-1)
    flat, targets = leaves[2], shapes[2][1]
    if kind == 4:
        return fastap.ap_hinge_loss(flat, targets, groups=groups)
    if kind == 5:
        return fastap.direct_ap_loss(flat, targets, offsets=offsets, update=update)
    if kind == 6:
        return fastap.direct_ap_loss(leaves[0], shapes[0][1], weight=weight, reduction="sum", dim=-1)
    if kind == 7:
        fastap.average_precision(flat, targets, groups=groups, sample_weight=torch.ones(1_200))
        fastap.loss_augmented_ranking(leaves[0], shapes[0][1], update=update, dim=-1)
        return fastap.ap_perceptron_loss(leaves[0], shapes[0][1], dim=-1)
    if kind == 8:
        return fastap.direct_ap_loss(wide, wide_targets, epsilon=1e-3, update=update)
    return fastap.direct_cost_loss(logits, classes, update=update)

def good(step):
    losses(step).backward()

WRONG = [
    lambda: fastap.direct_ap_loss(leaves[1], shapes[1][1] + 1, dim=-1),
    lambda: fastap.direct_ap_loss(leaves[0], shapes[0][1], weight=-weight, dim=-1),
    lambda: fastap.direct_ap_loss(leaves[2], shapes[2][1], offsets=offsets.flip(0)),
    lambda: fastap.average_precision(leaves[1], shapes[1][1] * 3, dim=-1),
    lambda: fastap.loss_augmented_ranking(leaves[0], shapes[0][1] - 1, dim=-1),
    lambda: fastap.direct_cost_loss(logits, classes + 10),
    lambda: torch.autograd.grad(
        torch.autograd.grad(losses(0), leaves[0], create_graph=True)[0].sum(),
        leaves[0],
    ),
]

def bad(step):
    try:
        WRONG[step % len(WRONG)]()
    except (ValueError, RuntimeError):
        return
    raise SystemExit("no error")

run = {"good": good, "bad": bad}[sys.argv[1]]
for step in range(300):
    run(step)
ballast = [bytes(4_000) for _ in range(5_000)]  # a leak finds no hole to hide in, of those that the imports left
before = held()
for step in range(1_000):
    run(step)
print(held() - before)
"""


def grown(kind: str, program: str = STEPS) -> int:
    """Bytes that 1,000 steps, or the queries, add to the resident memory of a process."""
    command = [sys.executable, "-c", program, kind]
    # So that what is freed is gone: else it is kept for the next tensor.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 14)} if program == QUERIES else None
    done = subprocess.run(command, timeout=200, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the size of a process")
@pytest.mark.parametrize("kind", ["good", "bad"])
def test_memory_returns_to_where_it_was(kind: str) -> None:
    # 0.1 to 0.4 MB are seen; 4 kB a step, less than any gradient above, would be 4 MB.
    assert grown(kind) < 2 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the size of a process")
@pytest.mark.full
def test_a_leak_would_show() -> None:
    leaks = STEPS.replace("        WRONG[", "        kept.append(bytes(4_000)); WRONG[")
    assert grown("bad", "kept = []\n" + leaks) > 2 << 20


QUERIES = """
import sys, warnings
warnings.simplefilter("ignore")
import torch, fastap

def peak():  # not ru_maxrss, which begins with that of the process that started this one
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) * 1024

torch.set_num_threads(2)
if sys.argv[1] == "metric":
    from fastap.metrics import RetrievalMAP

    metric = RetrievalMAP(ignore_index=-1, top_k=10)
parts, items = 30, 50_000
preds, target, query = torch.empty(parts * items), *torch.empty(2, parts * items, dtype=torch.int64)
for part in range(parts):
    scores = torch.rand(items, generator=torch.Generator().manual_seed(part))
    ids = (torch.arange(items) + part) * 7919 % 5_000
    if sys.argv[1] == "function":
        here = slice(part * items, (part + 1) * items)
        preds[here], target[here], query[here] = scores, scores > 0.95, ids
    else:
        metric.update(scores, (scores > 0.95).long(), ids)
# What a first call loads, and compiles if nobody has before, is not of these queries.
warm = torch.arange(4) % 2
if sys.argv[1] == "function":
    fastap.average_precision(warm.float(), warm, groups=warm, ignore_index=-1)
else:
    RetrievalMAP(ignore_index=-1, top_k=10)(warm.float(), warm, warm)
before = peak()
if sys.argv[1] == "function":
    fastap.average_precision(preds, target, groups=query, ignore_index=-1)
else:
    metric.compute()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the size of a process")
def test_retrieval_takes_no_more_memory_than_the_function() -> None:
    """Of 30 MB of scores, targets and ids in 30 updates, which become one tensor each."""
    pytest.importorskip("torchmetrics")
    function = grown("function", QUERIES)
    assert function > 25 << 20
    # Joining has the longest state twice, while the function's own copies are not there yet.
    assert grown("metric", QUERIES) < function + (4 << 20)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_that_is_kept_keeps_nothing_once_it_has_gone_backward(
    reduction: Reduction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``losses.append(loss)`` and ``total += loss`` hold a number a step."""
    solve, held = ops._solve, []

    def watched(call: Arguments) -> tuple[Tensor, Tensor, Tensor | None]:
        value, gradient, number = solve(call)
        held.extend(weakref.ref(each) for each in (gradient, call.scores, call.targets, call.weight))
        return value, gradient, number

    monkeypatch.setattr(ops, "_solve", watched)
    leaf = torch.randn(3, 40, requires_grad=True)
    loss = fastap.direct_ap_loss(leaf * 1, torch.rand(3, 40) < 0.2, weight=torch.ones(3), reduction=reduction, dim=-1)
    loss.sum().backward()
    gc.collect()
    assert [each() is None for each in held] == [True] * 4


def peak_bytes(queries: int) -> int | None:
    """Of loss and gradient, cosines of 128 numbers, beyond embeddings and their gradient."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(queries, 128, generator=generator, requires_grad=True)
    embeddings.grad = torch.zeros_like(embeddings)
    labels = torch.randint(0, max(1, queries // 20), (queries,), generator=generator)
    fastap.retrieval_ap_loss(embeddings[:200], labels[:200]).backward()  # loads code
    return isolated.peak_bytes(lambda: fastap.retrieval_ap_loss(embeddings, labels).backward())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of a process")
def test_retrieval_takes_what_its_docstring_tells() -> None:
    """12.4 bytes of a similarity and what glibc keeps; a copy of all similarities more would be 4 bytes."""
    outcome = isolated.run(peak_bytes, 2_000, seconds=120.0)
    assert outcome.status == "ok"
    assert outcome.value is not None
    assert 9 < outcome.value / 2_000**2 < 18


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of a process")
def test_rows_in_conflict_take_at_most_64_bytes_an_item_more() -> None:
    """And 10 MiB, whatever the ranking's length: the intervals of a short one, and a bit a cell of the program."""
    case = cases.Case(with_ratio(400_000, 9, 1), work="negative", kind="conflicting", epsilon=17.0)
    hard, easy = (cases.peak_bytes(each) for each in (case, replace(case, kind="gaussian")))
    assert hard is not None
    assert easy is not None
    assert easy + (4 << 20) < hard < easy + 64 * 400_000 + (10 << 20)

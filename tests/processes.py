"""Processes of a gloo group, to test what ranks do together: started, waited for and ended whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Its processes are forked from one that has imported these and done nothing else: 0.1 s each, not 4.
_CONTEXT: Any = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed.fsdp", "numpy", "pytest", "fastap"])


@dataclass(frozen=True)
class Outcome:
    """What became of a rank: it returned, raised, or died."""

    value: Any = None
    raised: Exception | None = None
    has_cause: bool = False
    trace: str = ""
    died: bool = False
    seconds: float = 0.0  # in the worker


def outcomes(
    worker: Callable[..., Any],
    ranks: int,
    folder: Path,
    *arguments: Any,
    backend: str = "gloo",
    timeout: float = 20.0,
    limit: float = 120.0,
) -> list[Outcome]:
    """``worker(rank, *arguments)`` on every rank of a group with that timeout; processes end within the limit."""
    # A file, as ports may be taken.
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    processes, ends = [], []
    try:
        for rank in range(ranks):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(
                target=_serve,
                args=(theirs, worker, rank, ranks, str(meeting), backend, timeout, arguments),
                daemon=True,
            )
            process.start()
            theirs.close()
            processes.append(process)
            ends.append(ours)
        deadline = time.monotonic() + limit
        return [_receive(end, deadline) for end in ends]
    finally:
        # Those who are done wait for this: nobody's connections close while others are at work.
        for end in ends:
            end.close()
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def results(worker: Callable[..., Any], ranks: int, folder: Path, *arguments: Any, **options: Any) -> list[Any]:
    """What the worker returns on every rank; an error if one raised or died."""
    ended = outcomes(worker, ranks, folder, *arguments, **options)
    failed = [rank for rank, outcome in enumerate(ended) if outcome.raised is not None or outcome.died]
    if failed:  # the others then waited in vain
        rank = min(failed, key=lambda rank: ended[rank].seconds)
        raise AssertionError(f"rank {rank} of {ranks} failed\n{ended[rank].trace}")
    return [outcome.value for outcome in ended]


def _receive(end: Connection, deadline: float) -> Outcome:
    if not wait([end], max(0.0, deadline - time.monotonic())):
        return Outcome(died=True, trace="no answer within the limit")
    try:
        outcome: Outcome = pickle.loads(end.recv_bytes())
    except EOFError:
        return Outcome(died=True)
    return outcome


def _serve(
    end: Connection,
    worker: Callable[..., Any],
    rank: int,
    ranks: int,
    meeting: str,
    backend: str,
    timeout: float,
    arguments: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if sys.platform == "linux":  # elsewhere loopback has other names
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if backend == "nccl":
        torch.cuda.set_device(rank)
    begun = time.monotonic()
    try:
        dist.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
        )
        begun = time.monotonic()
        outcome = Outcome(worker(rank, *arguments), seconds=time.monotonic() - begun)
    except Exception as error:
        bare = type(error)(*error.args) if type(error).__module__ == "builtins" else RuntimeError(str(error))
        seconds = time.monotonic() - begun
        outcome = Outcome(None, bare, error.__cause__ is not None, traceback.format_exc(), seconds=seconds)
    # By value: a tensor shared by file descriptor would need this process to stay.
    end.send_bytes(pickle.dumps(outcome))
    wait([end])
    os._exit(0)

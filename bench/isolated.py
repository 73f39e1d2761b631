"""Work in a process of its own, which may fail, hang, crash or ask for too much memory: what comes back is an outcome.

A fork server that has PyTorch and NumPy loaded, and has run nothing, starts a process in a hundredth of a second; where
there is none, and on macOS, whose libraries do not bear a fork, each process starts from nothing, in seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

Status = Literal["ok", "failed", "out of memory", "out of time"]

# How allocators that do not raise MemoryError say it: PyTorch's, C++'s, a library's.
NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory", "Cannot allocate memory")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Outcome(NamedTuple):
    """How the work ended and what it had told until then."""

    status: Status
    reason: str  # empty where the status is "ok"
    value: Any  # what it returned, or the last thing it yielded; None if there was nothing


def run(
    work: Callable[..., Any],
    *arguments: Any,
    seconds: float = 300.0,
    memory: int | None = None,
    device: torch.device | str = "cpu",
) -> Outcome:
    """``work(*arguments)`` in a process of its own; of a generator the last value counts, whether it ends or not.

    ``work`` stands at the top level of a module. ``seconds`` after its start the process is killed. It may hold
    ``memory`` bytes of data more than at its start (Linux), and of the device's memory too; allocations beyond fail.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = _context().Process(target=_child, args=(sender, work, arguments, memory, str(device)), daemon=True)
    process.start()  # the first waits for the fork server, which loads PyTorch
    end = time.perf_counter() + seconds
    sender.close()  # so that the end of the process ends the pipe
    outcome = Outcome("out of time", f"more than {seconds:g} s", None)
    try:
        while receiver.poll(max(0.0, end - time.perf_counter())):
            status, reason, value = receiver.recv()
            if status is not None:
                outcome = Outcome(status, reason, outcome.value)
                break
            outcome = outcome._replace(value=value)
    except (EOFError, OSError):  # the pipe ended between two messages, or within one
        process.join()
        outcome = Outcome(*_exit(process.exitcode), outcome.value)
    finally:
        process.kill()
        process.join()
        receiver.close()
    return outcome


@cache
def _context() -> BaseContext:
    if sys.platform == "darwin" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "torch"])
    return context


def _child(
    sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...], memory: int | None, device: str
) -> None:
    try:
        if memory is not None:
            _cap(memory, torch.device(device))
        result = work(*arguments)
        for value in result if isinstance(result, Iterator) else (result,):
            sender.send((None, "", value))
        told: tuple[Status, str] = ("ok", "")
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # what they hold is needed to send anything
        text = re.sub(r"^\[enforce fail[^]]*\] err == 0\. ", "", str(error).strip())  # a place in PyTorch's source
        no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in text for each in NO_MEMORY)
        reason = ": ".join([type(error).__name__, *text.splitlines()[:1]])
        told = ("out of memory" if no_memory else "failed", reason)
    sender.send((*told, None))


def _exit(code: int | None) -> tuple[Status, str]:
    """A process that left no word: its signal or exit status."""
    if code == -signal.SIGKILL:
        return "out of memory", "killed (SIGKILL), as the system does when memory runs out"
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit status {code}"
    return "failed", f"ended {how}"


def _cap(memory: int, device: torch.device) -> None:
    if device.type == "cuda":
        torch.zeros(1, device=device)  # what the driver maps for itself is not the work's
        share = memory / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    if sys.platform == "linux":
        import resource

        limit = _status("VmData") + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def machine_bytes() -> int | None:
    """Memory of the machine, or what the control group of a container leaves of it; None if unknown."""
    if not hasattr(os, "sysconf"):
        return None
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of the two versions of control groups
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            known.append(int((CONTROL_GROUPS / limit).read_text(encoding="ascii")))
    return min(known)


def peak_bytes(call: Callable[[], Any], device: torch.device | str = "cpu") -> int | None:
    """The most memory that ``call()`` held at once beyond what there was before; None where nothing tells.

    On the CPU resident memory, to a megabyte or so (Linux only), on CUDA what PyTorch allocated. Run the same code on
    something small first: loading it and starting threads takes memory too.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform != "linux":
        call()
        return None
    gc.collect()
    with contextlib.suppress(AttributeError):  # C libraries other than glibc
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still resident would be used again unseen
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) * 1024

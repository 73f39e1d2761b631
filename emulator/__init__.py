"""The compiled kernels on a GPU that is not there.

Triton compiles a kernel for a GPU; the PTX that it makes runs here on the CPU, instruction by instruction, checked and
counted. Needs a C compiler, NumPy, PyTorch and Triton::

    with Device() as device:
        loss = fastap.direct_ap_loss(scores, targets, backend="triton")  # tensors of the CPU
    assert not device.faults

What is checked: accesses outside the tensors of a launch (each tensor has an address space of its own), and misaligned
ones; reads of ``torch.empty`` memory and of shared memory that nobody wrote; races between warps within a barrier
interval and between blocks of a launch; barriers and ``.sync`` instructions that only part of the threads reach.
A warp runs alone to its next barrier, and which goes first is drawn: an order that hardware allows but seldom takes
is taken.

What is not a fault: a race between lanes of one warp, which hardware runs together. It is counted as a remark, so that
programs of one warp have no races here. What is not modelled: stale L1 lines, weak memory order beyond barriers, what
NVIDIA's assembler makes of the PTX, tensor cores, more than one axis of a grid.

==================  ===================================================================================
``opcodes.py``      arithmetic of PTX as C expressions, and what an opcode costs on sm_90
``machine.c``       one multiprocessor: warps, divergence, barriers, a clock
``memory.h``        accesses located, checked, counted
``machine.py``      builds it
``assembler.py``    PTX to instructions
``branches.py``     where lanes that part meet again
``device.py``       Triton's active device
``estimate.py``     from counts to the time of an H100: an estimate
==================  ===================================================================================
"""

from emulator.device import Device, Finding, GivenUpError, Launch
from emulator.machine import compiler

__all__ = ["Device", "Finding", "GivenUpError", "Launch", "compiler"]

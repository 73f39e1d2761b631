"""Triton kernels of fastap, installed as ``fastap.kernels``.

Home of the ``@triton.jit`` functions; they come with the Triton backend. Nothing here imports from the rest
of ``fastap``: shapes, checks, autograd and launches belong to the package, which calls down into this folder.
"""

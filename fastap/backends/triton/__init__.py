"""The exact algorithm in Triton kernels, for CUDA devices; with ``TRITON_INTERPRET=1`` in Python, for the CPU.

Nothing here waits for the device: sizes come from shapes, counts stay where they are. Time: a sort and
``O((P + N) log N)``. Memory: at most 64 bytes a score beside input and gradient, and of ragged rankings 17 bytes a
ranking.
"""

from fastap.backends.triton.solve import average_precision, losses, ranking, reduce

__all__ = ["average_precision", "losses", "ranking", "reduce"]

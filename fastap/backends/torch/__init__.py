"""The exact algorithm in PyTorch operations, for any device: sort, prefix sums, row search, repair, counting.

Time: a sort and ``O((P + N) log N)``, plus ``rows x columns`` of the blocks that only the dynamic program can settle.
Memory: proportional to the number of scores.
"""

from fastap.backends.torch.outcome import average_precision, losses, ranking
from fastap.backends.torch.weighted import weighted_precision

__all__ = ["average_precision", "losses", "ranking", "weighted_precision"]

"""Exact average precision of a whole epoch: ``torchmetrics`` metrics, to be reset and synchronised as any other.

Needs the extra ``fastap[metrics]``; nothing else of fastap imports this. Two metrics with the names, options and
defaults of TorchMetrics (those of ``thresholds=None``), and three differences. Scores are only ever compared: no
sigmoid, no softmax, and a score of 0 or less is one like any other. Equal scores form one threshold, as in
scikit-learn, so that no result depends on the order of the items. And a NaN score makes the average precision of its
class or query NaN.
"""

from fastap.metrics.average_precision import AveragePrecision
from fastap.metrics.retrieval import RetrievalMAP

__all__ = ["AveragePrecision", "RetrievalMAP"]

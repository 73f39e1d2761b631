"""``RetrievalAPLoss`` as a loss of pytorch-metric-learning: for its wrappers, which take none but its own.

Needs the extra ``fastap[metric-learning]``. ``DistributedLossWrapper`` asks for a base class, ``CrossBatchMemory`` and
``SelfSupervisedLoss`` for a name on a list, which importing this module adds. Trainers, miners and ``MultipleLosses``
ask for nothing, and take :class:`fastap.RetrievalAPLoss` as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastap import retrieval

try:
    from pytorch_metric_learning import losses
except ModuleNotFoundError as error:
    if error.name != "pytorch_metric_learning":
        raise
    raise ImportError(
        "fastap.metric_learning needs pytorch-metric-learning, which is not installed: "
        "pip install 'fastap[metric-learning]'"
    ) from error

__all__ = ["RetrievalAPLoss"]


class RetrievalAPLoss(retrieval.RetrievalAPLoss, losses.BaseMetricLossFunction):  # type: ignore[misc]
    """:class:`fastap.RetrievalAPLoss`, as one of that package's losses.

    Of its second base it has the name, no distance, reducer or regularizer. The wrappers that go by a list know this
    name alone: a subclass needs it as well.
    """


def _with_ours(supported: Callable[[], list[str]]) -> Any:
    names = [*supported(), RetrievalAPLoss.__name__]
    return staticmethod(lambda: list(names))


for _wrapper in (losses.CrossBatchMemory, losses.SelfSupervisedLoss):
    _wrapper.supported_losses = _with_ours(_wrapper.supported_losses)

"""Tensors spread over the processes of ``torch.distributed``, brought together with a gradient that finds its way back.

The losses need none of this: with ``process_group=`` they take rankings as they lie. Gather for what wants to see
everything itself: another loss, a metric, the embeddings of a batch that every rank compares its own with.
"""

from fastap.distributed.gather import gather, gather_scores

__all__ = ["gather", "gather_scores"]

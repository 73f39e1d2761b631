"""A ranking longer than memory: a loss of all scores at once, with the activations of one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def scores_in_chunks(net: nn.Module, inputs: Tensor, chunk: int) -> Tensor:
    """``net(inputs)``, for use in any loss: its backward pass holds the activations of ``chunk`` rows only.

    A ranking loss needs every score before it has a gradient for any. Scores are small and activations are large, so
    only the scores are kept: each chunk is run once here, and a second time when its gradient arrives. That costs one
    more forward pass, and the memory of the activations no longer grows with the ranking. The second run draws the same
    random numbers as the first (dropout), and the random state afterwards is that of one run.

    Args:
        net: scores each row by itself, so that chunks change nothing; on the device of ``inputs``.
        inputs: ``(n, ...)``.
        chunk: rows at a time, at least 1; the last chunk may be shorter.

    Raises:
        ValueError: ``chunk`` below 1, no row, or batch normalisation over the rows of a batch: its statistics would be
            a chunk's, and its running averages would move twice. ``.eval()`` on such layers freezes them.
    """
    if chunk < 1 or not len(inputs):
        raise ValueError(f"chunk and inputs need at least one row, got chunk={chunk} and {len(inputs)} rows of inputs")
    for name, layer in net.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(f"layer {name!r} is {type(layer).__name__} over the batch, a chunk is not one: freeze it")
    return torch.cat([checkpoint(net, rows, use_reentrant=False) for rows in inputs.split(chunk)])


def backward_in_chunks(net: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
    """``value = loss(net(inputs)); value.backward()``, in the memory of :func:`scores_in_chunks`.

    Gradients are added to ``.grad`` of the parameters of ``net``, and of ``loss`` if it has any, as ``backward`` does.

    Returns:
        The value of the loss, detached.
    """
    value = loss(scores_in_chunks(net, inputs, chunk))
    value.backward()
    return value.detach()

"""The kernels of ``kernels/ragged.py`` in plain PyTorch: the same arguments, less launch constants."""

from __future__ import annotations

import torch
from torch import Tensor

from fastap.backends.triton import twins

# Targets of each class: positives, negatives, ignored, wrong.
_TARGETS = (1, 0, -1, 2)


def encode_ragged(
    scores: Tensor, targets: Tensor, offsets: Tensor,
    keys: Tensor, groups: Tensor,
    n_items: int, n_rankings: int, ignore_index: int,
    has_ignore: bool,
) -> None:  # fmt: skip
    """``keys`` ascend as scores fall; ``groups = 4 * (ranking - 2**29) + class``, of which the fourth is "wrong"."""
    keys.copy_(twins.keys_of(scores if scores.dtype == torch.float64 else scores.float()))
    item = torch.arange(n_items, device=scores.device)
    ranking = (offsets[1:] <= item[:, None]).sum(1)
    ignored = (targets == ignore_index) & has_ignore
    last = torch.where(ignored, 2, 3)
    groups.copy_(4 * (ranking - 2**29) + torch.where(targets == 1, 0, torch.where(targets == 0, 1, last)))


def ragged_rankings(
    scores: Tensor, offsets: Tensor, groups: Tensor, order: Tensor,
    out: Tensor, value: Tensor, takes_part: Tensor,
    v: Tensor, s: Tensor, rows: Tensor, sums: Tensor,
    n_items: int, n_rankings: int, epsilon_bits: int,
    loss: str, sign: int, method: str,
) -> None:  # fmt: skip
    """The twin of short rankings for each ranking, up to the last that is not empty; leaves scratch as it was."""
    targets = torch.tensor(_TARGETS, device=scores.device)[(groups & 3).long()]
    for number, (start, end) in enumerate(offsets.unfold(0, 2, 1).tolist()):
        size = end - start
        if start == n_items:
            break
        mine = value[number : number + 1], takes_part[number : number + 1]
        if size == 0:
            mine[0].fill_(torch.nan if loss in ("ap", "ranking") else 0.0)
            if loss not in ("ap", "ranking"):
                mine[1].zero_()
            continue
        items = order[start:end].long()
        result = torch.empty_like(out[: 1 if loss == "ap" else size])
        v, own, s, rows, sums = (
            torch.empty(size * planes, dtype=dtype, device=scores.device)
            for planes, dtype in (
                (1, torch.float64),
                (1, torch.int32),
                (1, torch.float64),
                (6, torch.int32),
                (2, torch.float64),
            )
        )
        twins.short_rankings(
            scores[items], targets[start:end], result, *mine, v, own, s, rows, sums,
            size, 1, size, 0, 0, 1, 0, 0, 1, -1, epsilon_bits,
            loss, sign, method, True,
        )  # fmt: skip
        if loss != "ap":
            out[items] = result

"""Rankings of different lengths, end to end in flat tensors: from ids or offsets to where each ranking lies, and back.

On the CPU wrong offsets and weights are errors. Elsewhere the host would have to wait to see them: there they make the
result NaN. Nor does the host know how many groups there are; the rankings then are as many as items, most of them empty
and last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastap.targets import UNSIGNED, right_weights
from fastap.types import Batch, own


@dataclass(frozen=True)
class Ragged:
    """Where each ranking lies among the flat items. A *place* is a position when rankings stand end to end."""

    items: int
    offsets: Tensor  # (rankings + 1,) int64, from 0 to the number of items, never falling
    order: Tensor | None  # (items,) int64, the item at each place; None where all stand in their place
    count: Tensor | None  # () int64, how many rankings are not empty, where the host does not know
    wrong: Tensor | None  # () bool, whether the offsets given were wrong, where that is no error

    def batch(self, scores: Tensor, targets: Tensor, ignore_index: int | None) -> Batch:
        """The rankings, end to end."""
        if self.order is not None:
            scores, targets = (taken(each, self.order) for each in (scores, targets))
        return Batch(scores.contiguous(), targets.contiguous(), ignore_index, self.offsets)

    def to_items(self, values: Tensor) -> Tensor:
        """Values by place, in the order of the items."""
        return values if self.order is None else torch.empty_like(values).index_copy_(0, self.order, values)

    def by_place(self, values: Tensor) -> Tensor:
        """One value a ranking, for each of its places."""
        return values.repeat_interleave(self.offsets.diff(), output_size=self.items)

    def rankings_of_items(self) -> Tensor:
        """The number of the ranking of each item, int64."""
        numbers = torch.arange(self.offsets.shape[0] - 1, device=self.offsets.device)
        return self.to_items(self.by_place(numbers))

    def without_padding(self, values: Tensor) -> Tensor:
        """One value a ranking, less those of rankings that are not there. Waits for the device where these are many."""
        return values if self.count is None else own(values[: int(self.count)])


def of(scores: Tensor, groups: Tensor | None, offsets: Tensor | None) -> Ragged | None:
    """The rankings of flat scores, or None where there are neither groups nor offsets."""
    if groups is not None:
        return from_groups(groups)
    return None if offsets is None else from_offsets(offsets, scores.shape[0])


def for_items(share: Tensor, rankings: Ragged | None) -> Tensor:
    """What the gradient of each item is multiplied with, (rankings, items) or ragged (items,).

    From one number for all or one a ranking.
    """
    if share.shape[0] == 1:
        return share
    return share[:, None] if rankings is None else rankings.by_place(share)


def items_of(nested: Any) -> tuple[Tensor, Tensor]:
    """The items of a nested tensor of jagged layout, end to end, and their offsets; a view with gaps is copied."""
    values, offsets, lengths = nested.values(), nested.offsets(), nested.lengths()
    if lengths is None:
        return values, offsets
    # Not nested.contiguous(), whose gradient PyTorch 2.13 cannot pass on.
    ends = lengths.cumsum(0)
    skipped = (offsets[:-1] - ends + lengths).repeat_interleave(lengths)
    return values[torch.arange(skipped.shape[0], device=values.device) + skipped], functional.pad(ends, (1, 0))


def taken(values: Tensor, order: Tensor) -> Tensor:
    """``values[order]``, of 1,000,000 floats in 2 instead of 8 ms; PyTorch 2.11 has that for all but unsigned types."""
    if values.dtype in UNSIGNED:
        return values[order]
    return values.index_select(0, order)


def comparable(groups: Tensor) -> Tensor:
    """The ids, in their order, in a type that PyTorch compares: of unsigned ones it has uint8 alone."""
    if groups.dtype == torch.uint64:
        return groups.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return groups.to(torch.int64) if groups.dtype in UNSIGNED else groups


def from_groups(groups: Tensor) -> Ragged:
    """Items of one id are a ranking, in the order they come in; rankings in ascending order of id."""
    items = groups.shape[0]
    order: Tensor | None = None
    groups = comparable(groups)
    looks = _is_on_host(groups)
    if not looks or not bool((groups[1:] >= groups[:-1]).all()):
        groups, order = torch.sort(_narrow(groups) if looks else groups, stable=True)
    begins = groups[1:] != groups[:-1]
    if looks:
        starts = begins.nonzero().view(-1) + 1
        ends = [
            torch.zeros(min(items, 1), dtype=torch.int64, device="cpu"),
            starts,
            torch.tensor([items], device="cpu"),
        ]
        return Ragged(items, torch.cat(ends), order, None, None)
    number = torch.zeros(items, dtype=torch.int64, device=groups.device)
    torch.cumsum(begins, 0, out=number[1:])
    # Items that begin no ranking write their place where nobody looks.
    slot = torch.where(functional.pad(begins, (min(items, 1), 0), value=True), number, items + 1)
    offsets = torch.full((items + 2,), items, device=groups.device)
    offsets.scatter_(0, slot, torch.arange(items, device=groups.device))
    return Ragged(items, offsets[:-1], order, begins.sum() + min(items, 1), None)


def ids_of(groups: Tensor, rankings: Ragged) -> Tensor:
    """(rankings,) int64: what each is called, in its own order; of those that are not there any."""
    groups = comparable(groups).to(torch.int64)
    groups = groups if rankings.order is None else groups[rankings.order]
    return groups[rankings.offsets[:-1].clamp(max=groups.shape[0] - 1)]


def _narrow(groups: Tensor) -> Tensor:
    """The ids less the least of them, in as few bits as hold them: of 1,000,000 a sort takes 37, 24 or 11 ms then."""
    least, most = (int(end) for end in groups.aminmax())
    for dtype in (torch.int16, torch.int32):
        if most - least <= torch.iinfo(dtype).max:
            return (groups.to(torch.int64) - least).to(dtype)
    return groups


def from_offsets(offsets: Tensor, items: int) -> Ragged:
    """Ranking ``r`` has the items from ``offsets[r]`` to before ``offsets[r + 1]``."""
    given = offsets.to(torch.int64)
    if _is_on_host(given):
        if int(given[0]) != 0 or int(given[-1]) != items:
            raise ValueError(
                f"offsets must begin with 0 and end with the number of items, {items}, "
                f"got {int(given[0])} and {int(given[-1])}"
            )
        falls = (given[1:] < given[:-1]).nonzero()
        if falls.shape[0]:
            at = int(falls[0])
            raise ValueError(f"offsets must not fall, got {int(given[at])} before {int(given[at + 1])}")
        return Ragged(items, given, None, None, None)
    right = given.clamp(0, items).cummax(0).values
    right[0], right[-1] = 0, items
    return Ragged(items, right, None, None, (right != given).any())


def weight_of_rankings(weight: Tensor, rankings: int, ragged: Ragged | None, dtype: torch.dtype) -> Tensor:
    """One weight a ranking, float64, not negative and finite in the type that is multiplied with it.

    NaN where an error would have to wait for the device.
    """
    on_cpu = _is_on_host(weight)
    weight = right_weights("weight", weight, dtype, looks=on_cpu)
    if ragged is not None and ragged.count is not None:
        weight = torch.where(ragged.count == weight.shape[0], weight, torch.nan)
        return functional.pad(weight, (0, rankings - weight.shape[0]))
    if on_cpu and weight.shape[0] != rankings:
        raise ValueError(f"weight must have one entry for each of the {rankings} groups, got {weight.shape[0]}")
    return weight


def _is_on_host(tensor: Tensor) -> bool:
    """Whether looking at a value makes nobody wait."""
    return tensor.is_cpu

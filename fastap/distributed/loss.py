"""Rankings spread over the processes of ``torch.distributed``: what ranks tell one another within a loss.

::

    sharded="items":     the owner of a ranking gets every rank's items of it, end to end in the order of the ranks,
                         takes the loss, and sends every rank the gradient of its items back
    sharded="rankings":  every rank takes the losses of its own rankings
    both:                every rank gets all losses and reduces them, in the same order

All of it happens in the forward pass; the backward pass is local. The gradient is multiplied by the number of ranks,
for DDP and FSDP divide by it. The host waits for the device once, for the header, which says how much is to come; with
``groups`` or ``offsets`` up to twice more. No sum depends on which message comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastap import backends, noise, ragged
from fastap.arguments import check_lengths
from fastap.distributed.comm import Link, connect
from fastap.ragged import Ragged
from fastap.reduce import reduce
from fastap.targets import allowed_targets, wrong_targets
from fastap.types import Arguments, Batch, Losses, own, weight_dtype
from fastap.warning import warn_of_nothing

# In what is sent a target is a class: 1, 0 or this; one less is a wrong target, where that is no error.
_IGNORED = -1


class Exchanged(NamedTuple):
    """What :func:`losses_across` returns."""

    value: Tensor  # reduced, 0-dimensional; else one a ranking, of all where items are sharded, or of this rank's own
    gradient: Tensor  # of this rank's items, the ranked axis last
    number: Tensor | None  # of ragged rankings that are not reduced, which of the values each item counts in


def losses_across(call: Arguments) -> Exchanged:
    """The losses of the rankings of all ranks, and the gradient of this rank's items times the number of ranks.

    Arguments have been checked as far as types and shapes tell. All ranks must make the same call, also one without
    items. A wrong value on one of them, or a call unlike the others', is a ``ValueError`` on all.
    """
    assert call.process_group is not None
    link = connect(call.process_group, call.scores.device)
    call = call._replace(scores=call.scores.detach())
    kind = f"dim={call.dim}"
    if call.groups is not None:
        kind = "groups"
        call = call._replace(groups=ragged.comparable(call.groups).to(torch.int64))
    elif call.offsets is not None:
        kind = "offsets"
    else:
        scores, targets = (each.movedim(call.dim, -1) for each in (call.scores, call.targets))
        weight = None if call.weight is None else call.weight.expand(scores.shape[:-1]).reshape(-1)
        call = call._replace(scores=scores, targets=targets, weight=weight, dim=-1)
    weighted = "weight" if call.weight is not None else "no weight"
    words = (
        f"{call.objective}, reduction={call.reduction!r}, sharded={call.sharded!r}, ignore_index={call.ignore_index}, "
        f"{kind}, {weighted}, {call.scores.dtype}, noise={call.noise}, samples={call.samples}"
    )
    return _by_ranking(link, call, words) if call.sharded == "rankings" else _by_item(link, call, words)


def _by_ranking(link: Link, call: Arguments, words: str) -> Exchanged:
    """Every rank has rankings of its own, in any number."""
    if call.seed is not None:
        call = _with_noise(link, call, words)

    def prepare() -> tuple[tuple[Ragged | None, Losses, Tensor | None], list[int]]:
        layout = _layout(call)
        if layout is None:
            batch = Batch(call.scores, call.targets, call.ignore_index)
        else:
            batch = layout.batch(call.scores, call.targets, call.ignore_index)
        weight = None if call.weight is None else _checked_weight(call.weight, batch.rankings, layout, call)
        ids = None if call.groups is None or layout is None else ragged.ids_of(call.groups, layout)
        return (layout, _solve(batch, call, ids), weight), [batch.rankings]

    (layout, losses, weight), numbers = link.agree(words, prepare)
    counts = [number[0] for number in numbers]
    if call.reduction == "none":
        value, share = _unreduced(losses.loss, weight, call.dtype)
        value = value if layout is not None else value.view(call.scores.shape[:-1])
    else:
        value, share = reduce_across(link, losses, weight, counts, call.dtype, mean=call.reduction == "mean")
    gradient = _gradient(losses).mul_(ragged.for_items(share * link.size, layout).to(call.dtype))
    return Exchanged(own(value), _in_place(gradient, layout).view(call.scores.shape), _numbers(call, layout))


def _with_noise(link: Link, call: Arguments, words: str) -> Arguments:
    """The call with the seed of the first rank, and numbered after the rankings of the ranks before."""
    assert call.seed is not None

    def count() -> tuple[None, list[int]]:
        layout = _layout(call)
        return None, [call.scores.shape[:-1].numel() if layout is None else layout.offsets.shape[0] - 1]

    _, numbers = link.agree(words, count)
    first = sum(number[0] for number in numbers[: link.rank])
    return call._replace(seed=link.of_first(call.seed, "share a seed"), first=first)


def reduce_across(
    link: Link, losses: Losses, weight: Tensor | None, counts: Sequence[int], dtype: torch.dtype, *, mean: bool
) -> tuple[Tensor, Tensor]:
    """The sum or mean over the rankings of all ranks, of which each has so many; and the share of this rank's own.

    The share is what the gradient of a ranking is to be multiplied with, one for all where there are no weights.
    """
    columns = [_bits(losses.loss), losses.takes_part, *([] if weight is None else [_bits(weight)])]
    loss, takes_part, *rest = link.concatenated(_table(columns), counts, "gather the losses").unbind(1)
    value, share = _reduce(_floats(loss), takes_part, _floats(rest[0]) if rest else None, dtype, mean=mean)
    if share.shape[0] == 1:
        return value, share
    start = sum(counts[: link.rank])
    return value, share[start : start + counts[link.rank]]


def _by_item(link: Link, call: Arguments, words: str) -> Exchanged:
    """Every rank has some items, perhaps none, of every ranking, and owns some of the rankings."""
    if call.groups is not None:
        words += "" if call.weight is None else f" of {call.weight.shape[0]}"
    elif call.offsets is not None:
        words += f", {call.offsets.shape[0] - 1} rankings"
    else:
        words += f", shape ({', '.join([*map(str, call.scores.shape[:-1]), '*'])}) with the ranked axis last"

    def prepare() -> tuple[_Sent, Tensor]:
        sent = _pack(link, call)
        return sent, torch.cat([sent.lengths.to(link.device), _checksum(call.weight).to(link.device)])

    sent, numbers = link.agree(words, prepare)
    if len({number[link.size] for number in numbers}) > 1:
        raise ValueError("weight must be the same on every rank of process_group where items are sharded")
    if call.groups is None and call.offsets is None:
        check_lengths(call.scores.shape[:-1].numel(), sum(sum(number[: link.size]) for number in numbers))
    send, receive = numbers[link.rank][: link.size], [number[link.rank] for number in numbers]
    purpose = "exchange scores and targets"
    scores, classes = (link.exchange(each, send, receive, purpose) for each in (sent.scores, sent.classes))
    whole = _assemble(link, call, sent, scores, classes, send, receive)

    if call.seed is not None:
        first = sum(whole.counts[: link.rank])
        call = call._replace(seed=link.of_first(call.seed, "share a seed"), first=first)
    losses = _solve(whole.batch, call, whole.ids)
    columns = [_bits(losses.loss), losses.takes_part, *([] if whole.ids is None else [whole.ids])]
    loss, takes_part, *ids = link.concatenated(_table(columns), whole.counts, "gather the losses").unbind(1)
    mine = torch.arange(sum(whole.counts[: link.rank]), sum(whole.counts[: link.rank + 1]), device=loss.device)
    if ids:  # in ascending order, not by owner
        order = ids[0].argsort()
        loss, takes_part, mine = loss[order], takes_part[order], order.argsort()[mine]
    weight = None if call.weight is None else _checked_weight(call.weight, loss.shape[0], whole.layout, call)
    if call.reduction == "none":
        value, share = _unreduced(_floats(loss), weight, call.dtype)
        value = value if sent.layout is not None or ids else value.view(call.scores.shape[:-1])
    else:
        value, share = _reduce(_floats(loss), takes_part, weight, call.dtype, mean=call.reduction == "mean")
    share = share if share.shape[0] == 1 else share[mine]
    gradient = _gradient(losses).mul_(ragged.for_items(share * link.size, whole.layout).to(call.dtype))
    back = link.exchange(whole.give_back(gradient), receive, send, "return the gradient")
    number = _numbers(call, sent.layout)
    if ids and call.groups is not None and call.reduction == "none":
        number = torch.searchsorted(ids[0][order], call.groups.to(torch.int64))
    if sent.order is not None:
        back = torch.empty_like(back).index_copy_(0, sent.order, back)
    return Exchanged(own(value), back.view(call.scores.shape), number)


@dataclass(frozen=True)
class _Sent:
    """One rank's items in the order of their rankings' owners."""

    scores: Tensor  # (items,)
    classes: Tensor  # (items,) int8: 1, 0, ignored or wrong
    lengths: Tensor  # (ranks,) int64, how many items each owner gets
    order: Tensor | None  # (items,), which item each is, where they were not in that order
    layout: Ragged | None  # of offsets
    ids: Tensor | None  # (items,) int64, of groups


@dataclass(frozen=True)
class _Whole:
    """The rankings that one rank owns."""

    batch: Batch
    layout: Ragged | None
    counts: list[int]  # of the rankings that each rank owns
    ids: Tensor | None  # of the rankings, of groups
    give_back: Callable[[Tensor], Tensor]  # values of the batch's items, in the order the items came in


def _pack(link: Link, call: Arguments) -> _Sent:
    scores, classes = call.scores.reshape(-1), _classes(call).reshape(-1)
    scores = scores.resolve_neg()
    if call.groups is not None:
        ids = call.groups.to(torch.int64)
        owner = _owners(ids, link.size)
        order = owner.argsort(stable=True)
        ends = torch.searchsorted(owner[order], torch.arange(link.size + 1, device=ids.device))
        return _Sent(scores[order], classes[order], ends.diff(), order, None, ids[order])
    layout = _layout(call)
    if layout is not None:
        bounds = torch.tensor(_bounds(layout.offsets.shape[0] - 1, link.size), device=scores.device)
        return _Sent(scores, classes, layout.offsets[bounds].diff(), None, layout, None)
    bounds = torch.tensor(_bounds(call.scores.shape[:-1].numel(), link.size), device=scores.device)
    return _Sent(scores, classes, bounds.diff() * call.scores.shape[-1], None, None, None)


def _assemble(
    link: Link, call: Arguments, sent: _Sent, scores: Tensor, classes: Tensor, send: list[int], receive: list[int]
) -> _Whole:
    if sent.ids is not None:
        ids = link.exchange(sent.ids, send, receive, "exchange groups")
        layout = _known(ragged.from_groups(ids))
        assert layout is not None
        batch = layout.batch(scores, classes, _IGNORED)
        owned = ids if layout.order is None else ids[layout.order]
        count = torch.tensor([batch.rankings], device=scores.device)
        counts = link.from_all(count, "count the groups").view(-1).tolist()
        return _Whole(batch, layout, counts, owned[layout.offsets[:-1]], layout.to_items)

    rankings = call.scores.shape[:-1].numel() if sent.layout is None else sent.layout.offsets.shape[0] - 1
    bounds = _bounds(rankings, link.size)
    counts = [end - start for start, end in pairwise(bounds)]
    owned = counts[link.rank]
    if sent.layout is None:
        widths = [length // max(owned, 1) for length in receive]

        def side_by_side(values: Tensor) -> Tensor:
            parts = zip(values.split(receive), widths, strict=True)
            return torch.cat([part.view(owned, width) for part, width in parts], 1)

        def apart(values: Tensor) -> Tensor:
            return torch.cat([part.reshape(-1) for part in values.view(owned, sum(widths)).split(widths, 1)])

        return _Whole(Batch(side_by_side(scores), side_by_side(classes), _IGNORED), None, counts, None, apart)

    told = link.exchange(sent.layout.offsets.diff(), counts, [owned] * link.size, "exchange lengths")
    lengths = told.view(link.size, owned)
    offsets = torch.nn.functional.pad(lengths.sum(0).cumsum(0), (1, 0))
    ranking = torch.arange(owned, device=scores.device).repeat(link.size)
    order = ranking.repeat_interleave(told, output_size=sum(receive)).argsort(stable=True)
    layout = Ragged(sum(receive), offsets, order, None, None)
    return _Whole(layout.batch(scores, classes, _IGNORED), layout, counts, None, layout.to_items)


def _bounds(rankings: int, ranks: int) -> list[int]:
    """Rank k owns the rankings from the k-th of these to before the next."""
    return [rankings * rank // ranks for rank in range(ranks + 1)]


def _owners(ids: Tensor, ranks: int) -> Tensor:
    """The same on every rank, and even for ids that are all multiples of something (Fibonacci hashing)."""
    folded = (ids ^ (ids >> 31)) & 0x7FFFFFFF
    return (((folded * 0x61C88647) & 0xFFFFFFFF) >> 16) * ranks >> 16


def _classes(call: Arguments) -> Tensor:
    """The targets as they are sent, int8."""
    targets = call.targets
    if targets.dtype == torch.bool:
        return targets.to(torch.int8)
    positive = targets == 1
    taken = positive | (targets == 0)
    classes = positive.to(torch.int8) - (~taken).to(torch.int8)
    if wrong_targets(targets, taken, call.ignore_index) is not None:  # raises on the CPU
        classes -= (~allowed_targets(targets, taken, call.ignore_index)).to(torch.int8)
    return classes


def _checksum(weight: Tensor | None) -> Tensor:
    """(1,) int64, to tell other weights by."""
    if weight is None:
        return torch.zeros(1, dtype=torch.int64, device="cpu")
    bits = _bits(weight.detach().to(torch.float64))
    # A prime below 2**31 keeps sums within 64 bits; no place counts 0.
    halves = (bits & 0x7FFFFFFF) ^ (bits >> 31)
    places = torch.arange(weight.shape[0], device=weight.device) % 2147483646 + 1
    return ((halves % 2147483647) * places % 2147483647).sum().view(1)


def _solve(batch: Batch, call: Arguments, ids: Tensor | None) -> Losses:
    shape = batch.scores.shape if batch.offsets is not None else (batch.rankings, batch.items)
    if batch.scores.numel() == 0:
        loss = batch.scores.new_zeros(batch.rankings, dtype=torch.float64)
        gradient = batch.scores.new_zeros(shape, dtype=call.dtype)
        return Losses(loss, gradient, torch.zeros_like(loss, dtype=torch.bool))
    engine = backends.get(call.backend, batch.scores.device)
    losses = noise.losses(engine, batch, call.objective, torch.float64, noise.of(call), ids)
    return losses._replace(gradient=_gradient(losses).view(shape))


def _gradient(losses: Losses) -> Tensor:
    """It is always there, and sent: whether another rank needs it is not known here."""
    assert losses.gradient is not None
    return losses.gradient


def _reduce(
    loss: Tensor, takes_part: Tensor, weight: Tensor | None, dtype: torch.dtype, *, mean: bool
) -> tuple[Tensor, Tensor]:
    taking = takes_part == 1
    if taking.is_cpu:
        warn_of_nothing(taking)
    value, share = reduce(Losses(loss, loss, taking), dtype, mean=mean, weight=weight)
    return value, torch.ones(1, dtype=dtype, device=loss.device) if share is None else share.view(-1)


def _unreduced(loss: Tensor, weight: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if weight is None:
        return loss.to(dtype), torch.ones(1, dtype=dtype, device=loss.device)
    return (loss * weight).to(dtype), weight


def _in_place(values: Tensor, layout: Ragged | None) -> Tensor:
    return values if layout is None else layout.to_items(values)


def _numbers(call: Arguments, layout: Ragged | None) -> Tensor | None:
    return None if layout is None or call.reduction != "none" else layout.rankings_of_items()


def _layout(call: Arguments) -> Ragged | None:
    return _known(ragged.of(call.scores, call.groups, call.offsets))


def _known(layout: Ragged | None) -> Ragged | None:
    """The layout with no more rankings than there are, and an error where the offsets are wrong: the host waits."""
    if layout is None:
        return None
    if layout.wrong is not None and bool(layout.wrong):
        raise ValueError("offsets must begin with 0, end with the number of items and not fall")
    if layout.count is None:
        return layout
    return replace(layout, offsets=layout.offsets[: int(layout.count) + 1], count=None)


def _checked_weight(weight: Tensor, rankings: int, layout: Ragged | None, call: Arguments) -> Tensor:
    if weight.shape[0] != rankings:
        raise ValueError(f"weight must have one entry for each of the {rankings} rankings, got {weight.shape[0]}")
    return ragged.weight_of_rankings(weight, rankings, layout, weight_dtype(call.reduction, call.dtype))


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int64)


def _floats(bits: Tensor) -> Tensor:
    return bits.contiguous().view(torch.float64)


def _table(columns: list[Tensor]) -> Tensor:
    return torch.stack([column.to(torch.int64) for column in columns], 1)

"""Losses at noisy scores: their mean over a few draws.

Noise is counted, not drawn in turn: ``z`` of an item is a function of the seed, the draw, the number of its ranking (of
groups their id) and its place in it. So it is the same however rankings are batched, chunked, shared among threads or
spread over processes. Integers are those of SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), made normal by the inverse of the error function. Draws come in pairs, ``z`` and ``-z``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastap.backends import Backend
from fastap.ragged import Ragged
from fastap.types import Arguments, Batch, Losses, Objective, loss_dtype

# Noisy scores that are held at a time, though at least those of one draw; of two if there are pairs.
_HELD = 1 << 22
# Counters that are mixed at a time on the CPU, within its cache: 12 instead of 46 ns each.
_MIXED = 1 << 14
_GOLDEN = -0x61C8864680B583EB  # 2**64 over the golden ratio, as int64


class Noise(NamedTuple):
    """What is added to the scores: ``scale * z``, ``z`` standard normal, in so many draws."""

    scale: float
    samples: int
    seed: Tensor  # () int64, on the device of the scores; or one for each of equal parts of the rankings
    first: int = 0  # the number of the first ranking


def seed_of(noise: float, generator: Generator | None, where: torch.device) -> Tensor | None:
    """A number drawn on that device, for one call; None without noise."""
    if noise == 0:
        return None
    limits = torch.iinfo(torch.int64)
    return torch.randint(limits.min, limits.max, (), generator=generator, dtype=torch.int64, device=where)


def of(call: Arguments) -> Noise | None:
    """That of a call, or None."""
    return None if call.seed is None else Noise(call.noise, call.samples, call.seed, call.first)


def losses(
    engine: Backend,
    batch: Batch,
    objective: Objective,
    dtype: torch.dtype,
    noise: Noise | None,
    ids: Tensor | None = None,
    gradient: bool = True,
) -> Losses:
    """``engine.losses``, the mean over the draws. ``ids``, int64, number the rankings, which else are counted."""
    if noise is None:
        return engine.losses(batch, objective, dtype, gradient=gradient)
    number = torch.arange(noise.first, noise.first + batch.rankings, device=batch.scores.device) if ids is None else ids
    at_a_time = max(2, _HELD // batch.scores.numel() // 2 * 2)
    held: Losses | None = None
    for start in range(0, noise.samples, at_a_time):
        samples = min(at_a_time, noise.samples - start)
        each = engine.losses(noisy(batch, noise, number, start, samples), objective, torch.float64, gradient=gradient)
        loss = each.loss.view(samples, -1).sum(0)
        slope = None if each.gradient is None else each.gradient.view(samples, *batch.shape).sum(0)
        if held is not None:
            loss += held.loss
            slope = None if slope is None or held.gradient is None else slope.add_(held.gradient)
        held = Losses(loss, slope, each.takes_part[: batch.rankings])
    assert held is not None
    return Losses(
        held.loss.div_(noise.samples).to(dtype),
        None if held.gradient is None else held.gradient.div_(noise.samples),
        held.takes_part.clone(),
    )


def noisy(batch: Batch, noise: Noise, number: Tensor, start: int, samples: int) -> Batch:
    """The rankings of so many draws, one draw after the other, all with the same targets."""
    scores = batch.scores.to(loss_dtype(batch.scores))
    normal = _normal(_counters(batch, noise, number, start // 2, (samples + 1) // 2)).view(-1, *scores.shape)
    result = torch.empty(samples, *scores.shape, dtype=scores.dtype, device=scores.device)
    for sign, drawn in ((1, result[0::2]), (-1, result[1::2])):
        torch.add(scores, normal[: drawn.shape[0]], alpha=sign * noise.scale, out=drawn)
    if batch.offsets is None:
        return batch._replace(scores=result)
    ends = torch.arange(samples, device=scores.device)[:, None] * batch.items + batch.offsets[1:]
    offsets = torch.nn.functional.pad(ends.flatten(), (1, 0))
    return batch._replace(scores=result.flatten(), offsets=offsets)


def _counters(batch: Batch, noise: Noise, number: Tensor, first: int, pairs: int) -> Tensor:
    """(pairs, items): of each item of each pair of draws another, int64."""
    device = number.device
    seeds = noise.seed.reshape(-1)
    pair = torch.arange(first, first + pairs, device=device)
    streams = _mixed_(seeds + _GOLDEN * pair[:, None])
    # Of several seeds, which torch.func.vmap maps, the rankings of each are counted by themselves.
    rankings = number[: number.shape[0] // seeds.shape[0]]
    keys = _mixed_(streams[:, :, None] + _GOLDEN * rankings).flatten(1)
    if batch.offsets is None:
        return keys[:, :, None] + _GOLDEN * torch.arange(1, batch.items + 1, device=device)
    layout = Ragged(batch.items, batch.offsets, None, None, None)
    place = torch.arange(1, batch.items + 1, device=device) - layout.by_place(batch.offsets[:-1])
    return torch.stack([layout.by_place(each) for each in keys]) + _GOLDEN * place


def _normal(counters: Tensor) -> Tensor:
    """Standard normal float32 of each of these, overwritten: at most 5.4, for a float32 comes no nearer to 1."""
    normal = torch.empty(counters.shape, dtype=torch.float32, device=counters.device)
    flat, drawn = counters.view(-1), normal.view(-1)
    step = _MIXED if counters.is_cpu else max(flat.shape[0], 1)
    for counter, part in zip(flat.split(step), drawn.split(step), strict=True):
        # The highest 24 bits as an odd number of 2**-24, from -1 to 1.
        part.copy_(_mixed_(counter) >> 40).add_(0.5).mul_(2.0**-23).erfinv_().mul_(2.0**0.5)
    return normal


def _mixed_(counters: Tensor) -> Tensor:
    """The mix of SplitMix64, in place; int64 wraps, and shifts are made logical by a mask."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        counters ^= (counters >> shift) & ((1 << (64 - shift)) - 1)
        counters *= factor
    counters ^= (counters >> 31) & ((1 << 33) - 1)
    return counters

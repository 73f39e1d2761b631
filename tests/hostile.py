"""Hostile batches spread over processes: what every rank does, in a module that each of them loads fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import fastap
from tests.spread import REDUCTIONS, by_item, by_ranking, number_of_rankings

SHARDED = ("items", "rankings")
NAMES = ("positive", "negative", "symmetric", "hinge", "perceptron")
# Of scores that are multiples of 1/4, many of them equal; each number by itself, so that parts and wholes agree.
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda scores: scores.clone(),
    "all equal": torch.zeros_like,
    "tiny": lambda scores: scores * 1e-30,
    "huge": lambda scores: scores * 1e30,
    "of all sizes": lambda scores: scores.sign() * 10.0 ** (20 * scores.abs().clamp(max=1.5)),
    "not a number": lambda scores: scores.masked_fill(scores == 1.0, torch.nan),
    "infinite": lambda scores: scores.masked_fill(scores == -1.0, -torch.inf),
}


def loss_of(name: str, scale: float) -> Callable[..., Tensor]:
    return {
        "positive": partial(fastap.direct_ap_loss, epsilon=scale),
        "negative": partial(fastap.direct_ap_loss, epsilon=scale, update="negative"),
        "symmetric": partial(fastap.direct_ap_loss, epsilon=scale, update="symmetric"),
        "hinge": partial(fastap.ap_hinge_loss, margin=scale),
        "perceptron": fastap.ap_perceptron_loss,
    }[name]


def hostile(rank: int, ranks: int, seeds: int) -> None:
    """Losses and gradients of the ranks are those of one process."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        sharded, change, name = (str(rng.choice(each)) for each in (SHARDED, [*CHANGES], NAMES))
        reduction, scale = str(rng.choice(REDUCTIONS)), float(rng.choice([2.3e-308, 1e-30, 0.3, 1e30, 1e306]))
        share = [int(each) for each in rng.integers(0, 7, ranks) * rng.integers(0, 2, ranks)]
        by, layouts = (
            (by_item, ["one ranking", "rows", "columns", "middle"])
            if sharded == "items"
            else (by_ranking, ["rows", "columns"])
        )
        layout = str(rng.choice([*layouts, "groups", "offsets"]))
        spread = by(layout, share, torch.float64, "cpu")
        if spread.whole.keys().isdisjoint(("groups", "offsets")):
            given = spread.whole["scores"]
            if given.shape[spread.whole.get("dim", -1)] == 1 < given.numel():
                continue  # a column, which is told as a mistake
        both = []
        weigh = None
        for call in ({**spread.whole}, {**spread.parts[rank], "process_group": dist.group.WORLD, "sharded": sharded}):
            leaf = CHANGES[change](call["scores"]).requires_grad_()
            value = loss_of(name, scale)(**{**call, "scores": leaf, "ignore_index": -1, "reduction": reduction})
            if reduction == "none" and weigh is None:
                weigh = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).view(value.shape)
            if reduction == "none" and sharded == "rankings" and both:
                held = number_of_rankings(spread.parts[rank])[0]
                first = sum(number_of_rankings(part)[0] for part in spread.parts[:rank])
                weigh, both[0][0] = weigh[first : first + held], both[0][0][first : first + held]
            (slope,) = torch.autograd.grad(value if weigh is None else (value * weigh).sum(), leaf)
            both.append([value.detach(), slope])
        case = f"{seed}: {sharded}, {layout}, {share}, {name}, {reduction}, {scale}, {change}"
        (value, slope), (own, part) = both
        torch.testing.assert_close(
            own, value, rtol=0, atol=0, equal_nan=True, msg=lambda text, case=case: f"{case}: {text}"
        )
        torch.testing.assert_close(
            part / ranks,
            spread.of_part(slope, rank),
            rtol=0,
            atol=0,
            equal_nan=True,
            msg=lambda text, case=case: f"{case}: {text}",
        )


def hostile_retrieval(rank: int, ranks: int, seeds: int) -> None:
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        lengths = [int(each) for each in rng.integers(0, 6, ranks) * rng.integers(0, 2, ranks)]
        count = sum(lengths)
        rows = torch.tensor(rng.integers(-3, 4, (count, 3)) * 10.0 ** rng.choice([0, -20, 20], (count, 1)))
        if count and rng.random() < 0.3:
            rows[rng.integers(count)] = float(rng.choice([np.nan, np.inf]))
        kind = [torch.int8, torch.int64, torch.uint64, torch.bool][rng.integers(4)]
        labels = torch.tensor(rng.integers(0, 3, count)).to(kind)
        if rng.random() < 0.3:
            labels = torch.tensor(rng.integers(0, 2, (count, 4))).to(kind)
        options: dict[str, Any] = {
            "similarity": str(rng.choice(["cosine", "dot"])),
            "epsilon": float(rng.choice([1e-3, 0.1, 1e30])),
            "reduction": str(rng.choice(REDUCTIONS)),
            "ignore_index": None if labels.dim() == 2 else [None, 0, -1][rng.integers(3)],
            "max_pairs": int(rng.choice([1, 7, 2**24])),
        }
        weight = None
        if rng.random() < 0.6:
            size = 1e300 if options["reduction"] == "mean" else 1e30
            weight = torch.tensor(rng.choice([0.0, 1.0, 3.0], count) * float(rng.choice([1.0, size, 1e-30])))
        parts = [slice(sum(lengths[:each]), sum(lengths[: each + 1])) for each in range(ranks)]
        both = []
        weigh = torch.linspace(0.5, 2.0, count, dtype=torch.float64) if options["reduction"] == "none" else None
        for group, part in ((None, slice(None)), (dist.group.WORLD, parts[rank])):
            leaf = rows[part].clone().requires_grad_()
            given = None if weight is None else weight[part]
            value = fastap.retrieval_ap_loss(leaf, labels[part], weight=given, process_group=group, **options)
            (slope,) = torch.autograd.grad(value if weigh is None else (value * weigh[part]).sum(), leaf)
            both.append([value.detach(), slope])
        (value, slope), (own, mine) = both
        size = float(slope.nan_to_num(0.0).abs().max()) if count else 0.0
        close = partial(torch.testing.assert_close, equal_nan=True, msg=lambda text, s=seed: f"{s}: {text}")
        close(own, value if weigh is None else value[parts[rank]], rtol=1e-12, atol=0)
        close(mine / ranks, slope[parts[rank]], rtol=1e-9, atol=1e-12 * size)

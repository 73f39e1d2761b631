"""Rankings that are special in one way each, batches of them as kernels have them, and what is true of these."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isnan, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastap.backends.triton.inputs import METRIC, Task, inputs_of
from fastap.backends.triton.launch import TiledLaunch
from fastap.backends.triton.plan import Plan
from fastap.backends.triton.split import Sorted, sort_and_split, spans_of
from fastap.types import Batch
from tests.kernels import DEVICE, TILE, poisoned, small_tiled_launch
from tests.problems import KINDS, draw

SMALL = {"BLOCK": TILE, "num_warps": 1}
SEARCH = {**SMALL, "ROWS": 4, "PIECES": 8, "COLUMNS": TILE}
ITEMS = 3 * TILE - 3

# Kind, seed, positives of 45 items, epsilon. Of the negative update; pooling does not prove an optimum here, and the
# first takes another round after that.
UNPROVED = [
    ("conflicting", 26646, 23, 1.8057268857955933),
    ("conflicting", 20898, 23, 0.6746818423271179),
    ("conflicting", 97919, 18, 28.26013946533203),
]
# Of the positive update. One block of all rows, over two tiles; one of most; several.
POOLED = [
    ("tied", 88723, 29, 2.931),
    ("two-valued", 15526, 26, 2.546),
    ("saturated", 65304, 25, 1.877),
    ("gaussian", 33557, 20, 0.511),
    ("cauchy", 44955, 27, 0.668),
]


def bits_of(epsilon: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", epsilon))
    return int(bits)


def memory(*shape: int, dtype: torch.dtype) -> Tensor:
    """New and full of what must not be read."""
    with poisoned():
        return torch.empty(shape, dtype=dtype, device=DEVICE)


# Rankings


def ranking(kind: str, seed: int, n_positive: int, n_negative: int, items: int = ITEMS) -> tuple[Tensor, Tensor]:
    """One of that kind, padded with ignored items anywhere."""
    rng = np.random.default_rng(seed)
    places = torch.tensor(rng.permutation(items)[: n_positive + n_negative])
    drawn, classes = draw(rng, kind, n_positive, n_negative)
    scores, targets = torch.tensor(rng.normal(size=items)), torch.full((items,), -1)
    scores[places], targets[places] = torch.tensor(drawn), torch.tensor(classes)
    return scores, targets


def corners(items: int = ITEMS) -> dict[str, tuple[Tensor, Tensor]]:
    """Rankings that are special in one way each."""

    def changed(change: Callable[[Tensor, Tensor], Any]) -> tuple[Tensor, Tensor]:
        scores, targets = ranking("gaussian", 50, items // 5, items // 2, items)
        change(scores, targets)
        return scores, targets

    zeros = torch.tensor([0.0, -0.0]).repeat(items)[:items].double()
    scores, targets = ranking("gaussian", 51, items // 3, items - items // 3, items)
    place = torch.arange(items)
    taken, other = (int((targets == kind).nonzero()[0]) for kind in (1, 0))
    alone = torch.full_like(targets, -1)
    alone[5] = 1
    return {
        "no item ignored": (scores, targets),
        "all ignored": (scores, torch.full_like(targets, -1)),
        "all positive": (scores, torch.ones_like(targets)),
        "all negative": (scores, torch.zeros_like(targets)),
        "one item": (scores, alone),
        "one of each": (scores, alone.index_fill(0, torch.tensor([7]), 0)),
        "one positive": (scores, (torch.arange(items) == taken).long()),
        "one negative": (scores, (torch.arange(items) != taken).long()),
        "all equal": (torch.full_like(scores, 3.0), targets),
        "zeros of both signs": (zeros, targets),
        "zeros among others": (torch.where(scores.abs() < 0.7, zeros, scores), targets),
        "huge": (scores * 1e30, targets),
        "one positive far above": (scores.index_fill(0, torch.tensor([taken]), 1e20), targets),
        "one positive far below": (scores.index_fill(0, torch.tensor([taken]), -1e20), targets),
        "one negative far above": (scores.index_fill(0, torch.tensor([other]), 1e20), targets),
        "one negative far below": (scores.index_fill(0, torch.tensor([other]), -1e20), targets),
        "one of each far": (
            scores.index_fill(0, torch.tensor([taken]), 1e20).index_fill(0, torch.tensor([other]), -1e14),
            targets,
        ),
        # Where gaps are cut these are equal, and yet the standard ranking tells them apart.
        "one far, others level but for 1e-25": ((scores * 1e-25).index_fill(0, torch.tensor([taken]), 1e20), targets),
        "many scales": (scores * torch.tensor([1e-3, 1.0, 1e6, 1e20]).double()[place % 4], targets),
        "clusters": (scores + torch.tensor([0.0, 1e10, -1e14, 1e20]).double()[place * 7 % 4], targets),
        "tied and far apart": ((3 * scores).round() + 2.0**27 * (place % 5 - 2), targets),
        "tied on many scales": (
            (2 * scores).round() * torch.tensor([1e-3, 1.0, 1e6, 1e20]).double()[place % 4],
            targets,
        ),
        "tiny": (scores * 1e-30, targets),
        "far from zero": (scores + 1e6, targets),
        "nan": changed(lambda s, t: s.index_fill_(0, (t == 1).nonzero()[:1, 0], torch.nan)),
        "infinite": changed(lambda s, t: s.index_fill_(0, (t == 0).nonzero()[:1, 0], torch.inf)),
        "minus infinity": changed(lambda s, t: s.index_fill_(0, (t == 1).nonzero()[-1:, 0], -torch.inf)),
        "ignored nan": changed(lambda s, t: s.index_fill_(0, (t == -1).nonzero()[:, 0], torch.nan)),
        "infinities, all positive": (torch.where(scores > 0, torch.inf, -torch.inf), torch.ones_like(targets)),
        "wrong target": changed(lambda s, t: t.index_fill_(0, torch.tensor([3]), 7)),
    }


def stacked(rows: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.stack([scores for scores, _ in rows]).to(DEVICE, dtype), torch.stack([t for _, t in rows]).to(DEVICE)


def everything(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A batch of all corners and of a ranking of every kind."""
    rows = [*corners().values()]
    rows += [
        ranking(kind, number, 6, 30) if number % 4 else ranking(kind, number, TILE + 2, 20)
        for number, kind in enumerate(KINDS)
    ]
    return stacked(rows, dtype)


def some(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A few, for kernels that take their time: of a tile and a half of positives, of one, and with nothing to do."""
    special = corners()
    rows = [special[name] for name in ("nan", "all negative", "one of each", "one positive", "zeros among others")]
    rows += [ranking("gaussian", 1, TILE + 5, 20), ranking("tied", 2, 7, 30), ranking("cauchy", 3, TILE, ITEMS - TILE)]
    return stacked(rows, dtype)


def hard(*cases: tuple[str, int, int, float], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A batch of such cases as :data:`UNPROVED`."""
    return stacked([ranking(kind, seed, count, 45 - count, 45) for kind, seed, count, _ in cases], dtype)


def far_corners(items: int, far: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Rankings whose gaps are cut if ``far`` is, special in where these and equal scores lie in their order."""
    rng = np.random.default_rng(items)
    place, noise = np.arange(items), np.sort(rng.normal(size=items))[::-1]
    pairs, runs = (np.repeat(place, rng.geometric(share, items))[:items] for share in (0.4, 0.03))
    rows = {
        "far above": np.where(place == 0, far, noise),
        "far below": np.where(place == items - 1, -far, noise),
        "all equal but the first": np.where(place == 0, far, 0.0),
        "all equal but the last": np.where(place == items - 1, -far, 0.0),
        **{
            f"{unit} apart but for the first": np.where(place == 0, far, unit * noise)
            for unit in 10.0 ** -np.arange(9, 15)
        },
        "two levels": np.where(place < items // 2, far, -far),
        "runs of equal scores": far * (1 - runs / runs.max()),
        "pairs of equal scores": np.where(place == 0, far, noise[pairs]),
        "runs of equal scores, near": np.where(place == 0, far, noise[runs]),
        "few and long ones": far * (1 - place // 95 / (items // 95)),
        "tiles far apart": noise - 2 * far * (place // TILE) / items,
        "tiles far apart, each level": -far * (place // TILE) / (items // TILE),
        "borders one further": noise - 2 * far * ((place + TILE - 1) // TILE) / items,
        "all far apart": -far * place / items,
        "closer and closer": far * 0.8**place,
        "on many scales": np.sort(noise * np.array([1e-3, 1.0, far / 100, far / 4])[place % 4])[::-1],
        "all but a few far apart": np.where(place < items // 3, -far * place / items, -far - noise[0] + noise),
    }
    found = {}
    shuffled = rng.permutation(items)
    for number, (name, scores) in enumerate(rows.items()):
        targets = (rng.random(items) < (0.3, 0.05, 0.9)[number % 3]).astype(np.int64)
        targets[place > items - TILE] = number < 5 or number % 2 == 1  # else negatives lie below all positives
        targets[0], targets[items - TILE] = 0, 1
        found[name] = torch.tensor(scores[shuffled]), torch.tensor(targets[shuffled])
    scores, targets = found["tiles far apart"]
    lowest, highest = int(scores.argmin()), int(scores.argmax())
    ignored = torch.where(torch.arange(items) % 3 > 0, targets, -1)
    found["ignored ones"] = torch.where(ignored < 0, torch.nan, scores), ignored
    found["one positive, the lowest"] = scores, torch.zeros_like(targets).index_fill(0, torch.tensor(lowest), 1)
    found["one negative, the highest"] = scores, torch.ones_like(targets).index_fill(0, torch.tensor(highest), 0)
    two = torch.full_like(targets, -1).index_fill(0, torch.tensor(lowest), 1)
    found["two items of all"] = scores, two.index_fill(0, torch.tensor(highest), 0)
    return found


def spanning(span: int, rankings: int, items: int) -> TiledLaunch:
    """The small launch with so many tiles to a span."""
    launch = small_tiled_launch()
    launch = replace(launch, sharing=rankings * -(-items // launch.items) // span)
    assert spans_of(rankings, items, launch)[1] == span
    return launch


def check_cut(loss: str, dtype: torch.dtype, items: int, span: int) -> None:
    """Near scores, their sums and what by score there is to add, of :func:`far_corners`, as the rule has them."""
    far, epsilon = (3e4, 1e-4) if dtype == torch.float16 else (1e12, 0.7)
    scores, targets = stacked([*far_corners(items, far).values()], dtype)
    found = Split.of(scores, targets, task=Task(loss, 1, "auto", epsilon), span=span).sorted
    v, s, order = (each.view(scores.shape).cpu().numpy() for each in (found.v, found.s, found.order))
    for number, (positives, negatives, flags, _) in enumerate(found.counts.tolist()):
        taken = positives + negatives
        assert flags == 8
        score = scores[number, order[number, :taken].tolist()].double().cpu().numpy()
        by_score = np.argsort(-score, kind="stable")
        falls = -np.diff(score[by_score]).astype(np.longdouble)
        near = np.zeros(taken, np.longdouble)
        near[1:] = -np.minimum(falls, epsilon * negatives).cumsum()
        given = v[number, by_score]
        assert (np.diff(given) <= 0).all()
        assert (np.diff(given)[falls == 0] == 0).all()
        assert np.abs(given - near).max() <= 4e-15 * -near[-1]
        near[by_score] = near.copy()
        centre = float(found.centre[number])
        assert abs(centre - np.sort(near)[::-1][positives // 2]) <= 4e-15 * -near.min()
        gaps = near[positives:] - centre
        assert np.abs(s[number, positives:taken] - gaps.cumsum()).max() <= 4e-15 * (taken * -near.min())
        assert s[number, positives - 1] == 0
        if loss in ("hinge", "ranking"):
            pairs = np.subtract.outer(score[:positives].astype(np.longdouble), score[positives:])
            expected = np.abs(pairs).mean() if loss == "ranking" else 2 * np.maximum(-pairs, 0).mean()
            np.testing.assert_allclose(float(found.by_score[number].sum()), float(expected), rtol=1e-13)


# After the split


@dataclass(frozen=True)
class Split:
    """A batch after its split, which ``test_triton_split.py`` checks."""

    sorted: Sorted
    rankings: int
    items: int

    @staticmethod
    def of(
        scores: Tensor, targets: Tensor, ignore_index: int | None = -1, task: Task = METRIC, span: int | None = None
    ) -> Split:
        """``span``: of how many tiles, if not as many as the launch says."""
        inputs, given = inputs_of(Batch(scores, targets, ignore_index))
        launch = small_tiled_launch()
        if span is not None:
            launch = spanning(span, inputs.rankings, inputs.items)
        plan = Plan(inputs.device, len(given))
        plan.end(*sort_and_split(plan, inputs, launch, task))
        with poisoned():
            found = Sorted(*plan.run(given))
        plane = (inputs.rankings * inputs.items,)
        each = (inputs.rankings,)
        spans, _ = spans_of(inputs.rankings, inputs.items, launch)
        shapes = {"v": plane, "order": plane, "s": plane, "counts": (*each, 4), "centre": each}
        shapes["by_score"] = (*each, spans)
        tensors = [getattr(found, name)[: prod(shape)].view(shape) for name, shape in shapes.items()]
        return Split(Sorted(*tensors), inputs.rankings, inputs.items)

    @staticmethod
    def of_everything(dtype: torch.dtype) -> Split:
        """Of the batch of that name, split once."""
        if dtype not in _splits:
            _splits[dtype] = Split.of(*everything(dtype))
        known = _splits[dtype]
        return replace(known, sorted=Sorted(*(each.clone() for each in known.sorted)))

    @property
    def problem(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.sorted.v, self.sorted.s, self.sorted.counts, self.sorted.centre

    @property
    def plane(self) -> int:
        return self.rankings * self.items

    def rows(self) -> Tensor:
        return memory(6, self.rankings, self.items, dtype=torch.int32)

    def sums(self) -> Tensor:
        return memory(2, self.rankings, self.items, dtype=torch.float64)

    def classes(self, number: int) -> tuple[Tensor, Tensor]:
        """Scores of the positives and of the negatives of a ranking, sorted, on the CPU."""
        positives, negatives, *_ = self.sorted.counts[number].tolist()
        v = self.sorted.v.view(self.rankings, self.items)[number].cpu()
        return v[:positives], v[positives : positives + negatives]

    def terms(self, sign: int, epsilon: float) -> list[tuple[int, Tensor]]:
        """Number and ``g_i(a)`` of the rankings that have something to solve, from the definition."""
        found = []
        for number, (positives, negatives, flags, _) in enumerate(self.sorted.counts.tolist()):
            if positives and negatives and not flags & 3:
                p, n = (each - self.sorted.centre[number].cpu() for each in self.classes(number))
                a, i = (torch.arange(count + 1, dtype=torch.float64) for count in (negatives, positives))
                i = i[1:, None]
                sums = torch.nn.functional.pad(n.cumsum(0), (1, 0))
                found.append((number, sums - a * p[:, None] + sign * epsilon * negatives / 2 * (a / (i + a))))
        return found


_splits: dict[torch.dtype, Split] = {}


def check_optimum(terms: Tensor, choice: Tensor) -> None:
    """The choices do not fall, and attain what the dynamic program over all columns does, but for rounding."""
    choice = choice.cpu().long()
    assert (choice.diff() >= 0).all()
    best = torch.zeros_like(terms[0])
    for row in terms:
        best = (best + row).cummax(0).values
    attained = terms.gather(1, choice[:, None]).sum()
    assert float(best[-1] - attained) <= 1e-13 * float(terms.abs().amax(1).sum())


def exact_precision(scores: list[float], targets: list[int], weight: list[float]) -> Fraction | None:
    """Weighted AP by scikit-learn's rules, from the definition; None for NaN."""
    items = [each for each in zip(scores, targets, weight, strict=True) if each[1] != -1]
    if any(target not in (0, 1) or isnan(score) or not 0 <= w < inf for score, target, w in items):
        return None

    def weigh(only: int, least: float) -> Fraction:
        return sum((Fraction(w) for score, target, w in items if target == only and score >= least), Fraction(0))

    whole = weigh(1, -inf)
    if not whole:
        return None
    total = Fraction(0)
    for score, target, w in items:
        if target == 1 and w > 0:
            true = weigh(1, score)
            total += Fraction(w) * true / (true + weigh(0, score))
    return total / whole

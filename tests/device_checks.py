"""What must hold of the Triton kernels, as functions of the device.

``test_gpu.py`` asks it of a GPU at sizes that matter there, ``test_device_checks.py`` of an emulated one at smaller
sizes, so that the first run on a GPU is not the first run of the checks. Problems are drawn and judged on the CPU.
Rankings are padded to few shapes: the kernels that sort a row in registers take seconds to compile for each kind of
shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastap
from fastap.backends import reference
from tests.exactness import RELATIVE, Bools, _check_loss, _check_ranking, _scale, is_unique
from tests.kernels import poisoned
from tests.losses import LOSSES, Loss, value_and_gradient
from tests.problems import Batch, Floats, draw, random_batch

Device = str | torch.device
Work = Callable[[], Any]

# The loss behind each name, in the reference, and the task loss's weight in its loss-augmented ranking.
ORACLES: dict[str, Callable[[Floats, Bools, float], reference.Loss]] = {
    "positive": lambda score, target, weight: reference.direct_ranking_loss(score, target, weight, "positive"),
    "negative": lambda score, target, weight: reference.direct_ranking_loss(score, target, weight, "negative"),
    "symmetric": lambda score, target, weight: reference.direct_ranking_loss(score, target, weight, "symmetric"),
    "hinge": reference.ap_hinge_loss,
    "perceptron": lambda score, target, weight: reference.ap_perceptron_loss(score, target),
}
SIGNS = {"positive": 1, "negative": -1, "hinge": 1}
# Of the loss-augmented rankings that a gradient is of.
SOLVED = {**{name: (sign,) for name, sign in SIGNS.items()}, "symmetric": (1, -1), "perceptron": ()}
# Half of a unit in the last place, relative; and the smallest numbers, below which float16 keeps no digits.
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST = 2.0**-24
# Kinds whose optima are unique at any size, but for a few ties within rounding.
CONTINUOUS = ("gaussian", "uniform", "cauchy", "clustered", "anti-correlated")


def padded_batches(seed: int, count: int, items: int, rankings: int = 5) -> Iterator[Batch]:
    """Random batches of every kind, all of one shape: what a ranking lacks is ignored."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        batch = random_batch(rng, items)
        scores, targets = np.zeros((rankings, items)), np.full((rankings, items), -1)
        used = batch.scores[:rankings]
        scores[: used.shape[0], : used.shape[1]], targets[: used.shape[0], : used.shape[1]] = (
            used,
            batch.targets[:rankings],
        )
        yield Batch(batch.kind, scores, targets, batch.epsilon)


def full_batch(seed: int, rankings: int, items: int, kind: str = "gaussian", share: float = 0.2) -> Batch:
    """Rankings of one kind and the same number of positives."""
    rng = np.random.default_rng(seed)
    n_positive = min(max(1, int(items * share)), items)
    drawn = [draw(rng, kind, n_positive, items - n_positive) for _ in range(rankings)]
    return Batch(kind, np.stack([scores for scores, _ in drawn]), np.stack([targets for _, targets in drawn]), 1.0)


# Seed, positives, negatives, epsilon: prices do not prove the pooled choices of the negative update, and what is left
# is a block of nearly all rows.
HARD = [
    (2919, 36, 870, 4.322608411912308),
    (975, 34, 703, 3.8022228029357787),
    (1763, 31, 577, 0.4641739401969234),
    (3841, 14, 264, 0.8392543521349854),
]


def hard_batch(seed: int, positives: int, negatives: int, epsilon: float) -> Batch:
    """A ranking that is solved coarse to fine; of so few positives only on the path of long rankings."""
    scores, targets = draw(np.random.default_rng(seed), "conflicting", positives, negatives)
    return Batch("conflicting", scores[None], targets[None], epsilon)


def odd_batch(items: int) -> Batch:
    """One ranking a row of what breaks assumptions: one class, nothing at all, one level, huge and tiny scores."""
    rng = np.random.default_rng(items)
    plain, targets = draw(rng, "gaussian", items // 3, items - items // 3)
    nearly = np.where(np.arange(items) < 2, np.arange(items), -1)
    rows = {
        "all positive": (plain, np.ones(items)),
        "all negative": (plain, np.zeros(items)),
        "all ignored": (plain, np.full(items, -1)),
        "two items of all": (plain, nearly),
        "one level": (np.full(items, 0.5), targets),
        "zeros of both signs": (np.where(np.arange(items) % 3 == 0, -0.0, 0.0), targets),
        "few levels": (np.round(plain), targets),
        "huge": (plain * 1e30, targets),
        "tiny": (plain * 1e-30, targets),
        "far from zero": (plain + 4096, targets),
        "one outlier": (np.where(np.arange(items) == items // 2, 1e6, plain), targets),
        "plain": (plain, targets),
    }
    scores = np.stack([scores for scores, _ in rows.values()]).astype(np.float32).astype(np.float64)
    return Batch("odd", scores, np.stack([targets for _, targets in rows.values()]).astype(np.int64), 0.5)


def far_batch(items: int) -> Batch:
    """Rankings whose scores span so many epsilons that a sum of them would lose what is small against one."""
    rng = np.random.default_rng(items)
    plain, targets = draw(rng, "gaussian", items // 3, items - items // 3)
    positive, negative = (np.arange(items) == int(np.flatnonzero(targets == kind)[0]) for kind in (1, 0))
    place = rng.permutation(items)
    rows = {
        "one positive up": np.where(positive, 1e20, plain),
        "one positive down": np.where(positive, -1e20, plain),
        "one negative up": np.where(negative, 1e20, plain),
        "one negative down": np.where(negative, -1e20, plain),
        "one of each": np.where(positive, -1e12, np.where(negative, 1e15, plain)),
        "many scales": plain * np.array([1e-3, 1.0, 1e6, 1e20])[place % 4],
        "clusters": plain * 10.0 ** (4 * (place % 3)) + np.array([0.0, -1e10, 1e16])[place % 3],
        "tied in clusters": np.round(2 * plain) + 2.0**28 * (place % 3 - 1),
    }
    scores = np.stack([*rows.values()]).astype(np.float32).astype(np.float64)
    return Batch("far", scores, np.broadcast_to(targets, scores.shape).copy(), 0.5)


def check_far(
    name: str, device: Device, dtype: torch.dtype, items: int, method: str = "auto", *, ragged: bool = False
) -> None:  # fmt: skip
    """Losses and gradients of :func:`far_batch`, as rows or end to end; no tolerance grows with the scores."""
    batch = far_batch(items)
    scores, targets, exact = _tensors(batch, dtype)
    given, options = (scores.to(device), targets.to(device)), {}
    if ragged:
        given = given[0].flatten(), given[1].flatten()
        options["offsets"] = torch.arange(0, scores.numel() + 1, items, device=device)
    with poisoned():
        value, gradient = _solve(name, *given, batch.epsilon, method, **options)
    value, gradient = value.cpu().double(), gradient.cpu().double().view(scores.shape)
    unit = 1e-9 if dtype == torch.float64 else 3e-7
    for row, (score, target) in enumerate(zip(exact, batch.targets == 1, strict=True)):
        expected = ORACLES[name](score, target, batch.epsilon)
        absolute = 0.0 if name == "perceptron" else 1e-9
        np.testing.assert_allclose(float(value[row]), expected.value, rtol=unit, atol=absolute)
        # Of tied scores several choices may be the best. Of thousands a few may be as good but for rounding.
        if row < scores.shape[0] - 1 or name == "perceptron":
            off = np.abs(gradient[row].numpy() - expected.gradient)
            largest = np.abs(expected.gradient).max()
            assert (off > unit * (largest + np.abs(expected.gradient))).sum() <= 1e-3 * items
            assert off.sum() <= 1e-5 * max(np.abs(expected.gradient).sum(), largest)


def check_far_ranking(update: str, device: Device, dtype: torch.dtype, items: int, method: str = "auto") -> None:
    """Ranks of :func:`far_batch` put both classes in the order of their scores, and attain what the reference does."""
    batch = far_batch(items)
    scores, targets, exact = _tensors(batch, dtype)
    ranks, value = _rank(update, scores.to(device), targets.to(device), batch.epsilon, method)
    for row, (score, target) in enumerate(zip(exact, batch.targets == 1, strict=True)):
        rank = ranks[row].numpy()
        assert sorted(rank) == list(range(items))
        expected_rank, expected = reference.augmented_ranking(score, target, batch.epsilon, update)
        np.testing.assert_allclose(float(value[row]), expected, rtol=1e-12, atol=1e-12)
        gain = [_gain(score, target, each, update, batch.epsilon) for each in (rank, expected_rank)]
        np.testing.assert_allclose(*gain, rtol=1e-9, atol=1e-9)


def _gain(score: Floats, target: Bools, rank: np.ndarray, update: str, epsilon: float) -> float:
    """``F(y) + s epsilon L(y)`` less ``F`` of the ranking by score: a sum over the pairs that the two tell apart."""
    gap = score[target][:, None] - score[~target]
    above = np.where(rank[target][:, None] < rank[~target], 1.0, -1.0)
    order = np.argsort(rank)
    loss = 1 - reference.ap_of_order(target[order])
    return (
        float(np.mean(np.where(above == np.sign(gap), 0.0, above * gap - np.abs(gap)))) + SIGNS[update] * epsilon * loss
    )


def check_losses(batch: Batch, name: str, device: Device, dtype: torch.dtype, method: str = "auto") -> Counter[str]:
    """Value and gradient of one loss, every ranking against the dynamic program in float64."""
    scores, targets, exact = _tensors(batch, dtype)
    with poisoned():
        value, gradient = _solve(name, scores.to(device), targets.to(device), batch.epsilon, method)
    assert gradient.dtype == dtype
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    values, gradients = value.cpu().double().numpy(), gradient.cpu().double().numpy()
    counts: Counter[str] = Counter()
    for row in range(scores.shape[0]):
        taken = batch.targets[row] >= 0
        score, target = exact[row, taken], batch.targets[row, taken] == 1
        assert (gradients[row, ~taken] == 0).all()
        counts["problems"] += 1
        if target.all() or not target.any():
            assert values[row] == 0
            assert (gradients[row] == 0).all()
            continue
        expected = ORACLES[name](score, target, batch.epsilon)
        if name in ("positive", "negative"):
            task_scale = SIGNS[name] * batch.epsilon
            with np.errstate(over="ignore"):
                _check_loss(score, target, task_scale, values[row], expected.value, value.dtype)
        else:
            absolute = 1e-13 * _scale(score, batch.epsilon)
            relative = RELATIVE if dtype == torch.float64 else 2.0**-23
            np.testing.assert_allclose(values[row], expected.value, rtol=relative, atol=absolute)
        if all(is_unique(score, target, sign * batch.epsilon) for sign in SOLVED[name]):
            absolute = (1e-12 if dtype == torch.float64 else 1e-6) * np.abs(expected.gradient).max()
            absolute += SMALLEST if dtype == torch.float16 else 0.0
            np.testing.assert_allclose(
                gradients[row, taken], expected.gradient, rtol=2 * ROUNDING[dtype], atol=absolute
            )
            counts["gradients"] += 1
    return counts


def check_rankings(batch: Batch, update: str, device: Device, dtype: torch.dtype, method: str = "auto") -> None:
    """Ranks are a permutation that attains the value, and the value is the dynamic program's."""
    scores, targets, exact = _tensors(batch, dtype)
    ranks, value = (
        each.numpy() for each in _rank(update, scores.to(device), targets.to(device), batch.epsilon, method)
    )
    for row in range(scores.shape[0]):
        taken = batch.targets[row] >= 0
        score, target = exact[row, taken], batch.targets[row, taken] == 1
        assert (ranks[row, ~taken] == -1).all()
        if target.all() or not target.any():
            assert np.isnan(value[row])
            np.testing.assert_array_equal(ranks[row, taken], reference.augmented_ranking(score, target)[0])
        else:
            _check_ranking(score, target, SIGNS[update] * batch.epsilon, ranks[row, taken], float(value[row]))


def check_metric(batch: Batch, device: Device, dtype: torch.dtype) -> None:
    """AP of every ranking is that of the CPU, ties and all."""
    scores, targets, _ = _tensors(batch, dtype)
    expected = fastap.average_precision(scores.double(), targets, ignore_index=-1, dim=-1)
    with poisoned():
        given = metric(scores.to(device), targets.to(device), ignore_index=-1)
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-12, atol=0, equal_nan=True)


def metric(scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """``average_precision`` of the Triton backend, on an emulated GPU too; on CUDA it is what the function takes."""
    if scores.is_cuda:
        return fastap.average_precision(scores, targets, dim=-1, **options)
    from fastap.backends import triton
    from fastap.types import Batch as Tensors

    return triton.average_precision(Tensors(scores, targets, options.get("ignore_index"), options.get("offsets")))


def ragged_batch(seed: int, lengths: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Flat scores of that type, targets, of which some are ignored, and offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets = (rng.random(offsets[-1]) < 0.3).astype(np.int64)
    targets[rng.random(offsets[-1]) < 0.1] = -1
    return (
        torch.from_numpy(rng.normal(size=offsets[-1])).to(dtype),
        torch.from_numpy(targets),
        torch.from_numpy(offsets),
    )


def _alone(lengths: tuple[int, ...], dtype: torch.dtype) -> tuple[Any, Iterator[tuple[int, slice, Tensor, Tensor]]]:
    """A ragged batch, and each of its rankings that are not empty, in float64."""
    scores, targets, offsets = ragged_batch(len(lengths), lengths, dtype)
    ends = offsets.tolist()

    def rankings() -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        for number, (start, end) in enumerate(pairwise(ends)):
            if start < end:
                where = slice(start, end)
                yield number, where, scores[None, where].double(), targets[None, where]

    return (scores, targets, offsets), rankings()


def check_ragged(name: str, device: Device, dtype: torch.dtype, lengths: tuple[int, ...], method: str = "auto") -> None:
    """Rankings of those lengths together, each against the CPU's engine in float64; ``epsilon`` 1."""
    (scores, targets, offsets), rankings = _alone(lengths, dtype)
    with poisoned():
        value, gradient = _solve(name, scores.to(device), targets.to(device), method=method, offsets=offsets.to(device))
    value, gradient = value.cpu(), gradient.cpu()
    assert gradient.dtype == dtype
    assert (value[torch.tensor(lengths) == 0] == 0).all()
    for number, where, score, target in rankings:
        expected, slope = value_and_gradient(LOSSES[name], score, target, ignore_index=-1)
        rounding = 1e-12 if dtype == torch.float64 else 2.0**-23
        torch.testing.assert_close(value[number].double(), expected[0], rtol=rounding, atol=rounding)
        allowed = max(1e-6 if dtype != torch.float64 else 1e-12, 2 * ROUNDING[dtype])
        absolute = allowed * float(slope.abs().max()) + (SMALLEST if dtype == torch.float16 else 0.0)
        torch.testing.assert_close(gradient[where].double(), slope[0], rtol=0, atol=absolute)


def check_ragged_ranking(
    update: str, device: Device, dtype: torch.dtype, lengths: tuple[int, ...], method: str = "auto"
) -> None:
    """The ranks of each ranking are a permutation that attains the value, which is that of the ranking alone."""
    (scores, targets, offsets), rankings = _alone(lengths, dtype)
    ranks, value = _rank(update, scores.to(device), targets.to(device), 1.0, method, offsets=offsets.to(device))
    assert value[torch.tensor(lengths) == 0].isnan().all()
    for number, where, score, target in rankings:
        taken = target[0] >= 0
        assert (ranks[where][~taken] == -1).all()
        order = sorted(ranks[where][taken].tolist())
        assert order == list(range(len(order)))
        expected = fastap.loss_augmented_ranking(score, target, dim=-1, update=update, ignore_index=-1).value
        torch.testing.assert_close(value[number], expected[0], rtol=1e-12, atol=1e-12, equal_nan=True)
        if not expected.isnan():
            given = score[0, taken].numpy(), target[0, taken].numpy() == 1, ranks[where][taken].numpy()
            assert abs(_attained(*given, update) - float(expected[0])) <= 1e-12


def check_ragged_metric(device: Device, dtype: torch.dtype, lengths: tuple[int, ...]) -> None:
    """AP of every ranking is that of the ranking alone."""
    (scores, targets, offsets), rankings = _alone(lengths, dtype)
    with poisoned():
        given = metric(scores.to(device), targets.to(device), offsets=offsets.to(device), ignore_index=-1).cpu()
    assert given[torch.tensor(lengths) == 0].isnan().all()
    for number, _, score, target in rankings:
        expected = fastap.average_precision(score, target, dim=-1, ignore_index=-1)
        torch.testing.assert_close(given[number], expected[0], rtol=1e-12, atol=0, equal_nan=True)


def check_long(
    scores: Tensor, targets: Tensor, update: str, device: Device, *, method: str = "auto", unique: bool = True
) -> None:
    """A batch too large for the dynamic program in NumPy, against the CPU's engine in float64; ``epsilon`` 1.

    Sums of millions of scores tell choices apart that differ by less than their rounding: where the optimum is unique
    but for such ties, one entry in a thousand may differ, and all together by 1e-5.
    """
    expected, expected_gradient = value_and_gradient(LOSSES[update], scores.double(), targets)
    with poisoned():
        given, gradient = _solve(update, scores.to(device), targets.to(device), 1.0, method, ignore_index=None)
    scale = 1.0 + float((scores.double() - scores.double().median()).abs().max())
    torch.testing.assert_close(given.cpu().double(), expected, rtol=RELATIVE, atol=2.0**-24 + 1e-12 * scale)
    if unique:
        off = (gradient.cpu().double() - expected_gradient).abs()
        differs = off > 1e-9 * expected_gradient.abs().max() + 1e-6 * expected_gradient.abs()
        assert int(differs.sum()) <= 1e-3 * differs.numel()
        assert float(off.sum()) <= 1e-5 * float(expected_gradient.abs().sum())
    if update == "symmetric":  # which has two rankings
        return
    ranks, value = _rank(update, scores.to(device), targets.to(device), 1.0, method)
    best = fastap.loss_augmented_ranking(scores.double(), targets, update=update, dim=-1).value
    torch.testing.assert_close(value, best, rtol=RELATIVE, atol=1e-12 * scale)
    for row in range(scores.shape[0]):
        attained = _attained(scores[row].double().numpy(), targets[row].numpy() == 1, ranks[row].numpy(), update)
        np.testing.assert_allclose(attained, float(best[row]), rtol=RELATIVE, atol=1e-12 * scale)


def _attained(score: Floats, target: Bools, ranks: np.ndarray, update: str) -> float:
    """``F + s L`` of a ranking, from prefix sums; it must be a permutation."""
    order = np.full(ranks.size, -1)
    order[ranks] = np.arange(ranks.size)
    assert (order >= 0).all()
    placed, is_positive = score[order], target[order]
    centre = np.median(score[~target])
    negatives = np.where(is_positive, 0.0, placed - centre).cumsum()
    above = (~is_positive).cumsum()[is_positive]
    n_positive, n_negative = int(target.sum()), int((~target).sum())
    pairs = (n_negative - 2 * above) * (placed[is_positive] - centre) + 2 * negatives[is_positive] - negatives[-1]
    task_loss = (above / (np.arange(1, n_positive + 1) + above)).mean()
    return float(pairs.mean() / n_negative + SIGNS[update] * task_loss)


def check_zeros(device: Device, items: int) -> None:
    """-0.0 is 0.0, to the bit."""
    batch = full_batch(0, 2, items, "two-valued")
    scores, targets, _ = _tensors(batch, torch.float32)
    negative = torch.where((scores == 0) & (torch.arange(items) % 2 == 0), -0.0, scores)
    for name in ("negative", "perceptron"):
        _assert_same(
            _solve(name, negative.to(device), targets.to(device)), _solve(name, scores.to(device), targets.to(device))
        )


def check_spoiled(loss: Loss, device: Device, items: int, dtype: torch.dtype = torch.float32) -> None:
    """A NaN, an infinite score or a wrong target makes its own ranking NaN and touches no other."""
    scores, targets, _ = _tensors(full_batch(1, 6, items), dtype)
    targets[5, 0] = -1
    spoiled, wrong = scores.clone(), targets.clone()
    spoiled[0, items // 2], spoiled[1, 0], spoiled[2, items - 1] = torch.nan, torch.inf, -torch.inf
    spoiled[5, 0] = torch.nan  # takes no part
    lost = [0, 1, 2]
    if torch.device(device).type != "cpu":  # where it is an error
        wrong[3, 1] = 7
        lost.append(3)
    kept = [row for row in range(6) if row not in lost]
    options = {"ignore_index": -1, "backend": "triton"}
    value, gradient = value_and_gradient(loss, spoiled.to(device), wrong.to(device), **options)
    expected = value_and_gradient(loss, scores.to(device), targets.to(device), **options)
    assert value[lost].isnan().all()
    assert gradient[lost].isnan().all()
    _assert_same((value[kept], gradient[kept]), (expected[0][kept], expected[1][kept]))
    total, gradient = value_and_gradient(loss, spoiled.to(device), wrong.to(device), **{**options, "reduction": "sum"})
    assert total.isnan()
    assert torch.equal(gradient[kept], expected[1][kept])
    average = metric(spoiled.to(device), wrong.to(device), ignore_index=-1)
    assert average.isnan().tolist() == [row == 0 or (row == 3 and 3 in lost) for row in range(6)]


def check_axes(loss: Loss, device: Device, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> None:
    """Any axis gives what it gives when moved last and copied."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator).to(device, dtype)
    targets = (torch.rand(shape, generator=generator) < 0.4).to(device)
    for dim in range(-1, 2):
        value, gradient = value_and_gradient(loss, scores, targets, dim=dim, backend="triton")
        moved = scores.movedim(dim, -1).contiguous(), targets.movedim(dim, -1).contiguous()
        expected, expected_gradient = value_and_gradient(loss, *moved, backend="triton")
        _assert_same((value, gradient), (expected, expected_gradient.movedim(-1, dim)))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda base: base.T,
    "every other item": lambda base: base[:, ::2],
    "every third ranking": lambda base: base[::3],
    "a window": lambda base: base[1:4, 3:],
    "one ranking for all": lambda base: base[:1].expand(4, -1),
    "one item for all": lambda base: base[:, :1].expand(-1, 9),
    "four axes": lambda base: base[:4, :12].view(2, 2, 3, 4).permute(2, 0, 1, 3),
}


def check_view(loss: Loss, view: str, device: Device, rankings: int, items: int) -> None:
    """A view gives what its copy gives, and its gradient arrives at the view."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rankings, items, generator=generator).to(device).requires_grad_()
    targets = (torch.rand(rankings, items, generator=generator) < 0.4).to(device)
    scores, chosen = VIEWS[view](base), VIEWS[view](targets)
    value = loss(scores, chosen, reduction="none", backend="triton")
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    expected = value_and_gradient(loss, scores.contiguous(), chosen.contiguous(), backend="triton")
    _assert_same((value.detach(), gradient), expected)


def check_repeats(name: str, batch: Batch, device: Device, dtype: torch.dtype, method: str = "auto") -> None:
    """The same bits twice; and of a short ranking whether it is alone or in a batch."""
    scores, targets, _ = _tensors(batch, dtype)
    scores, targets = scores.to(device), targets.to(device)
    first = _solve(name, scores, targets, batch.epsilon, method)
    _assert_same(_solve(name, scores, targets, batch.epsilon, method), first)
    row = scores.shape[0] - 1
    value, gradient = _solve(name, scores[row:], targets[row:], batch.epsilon, method)
    torch.testing.assert_close(value, first[0][row:], rtol=1e-6, atol=0)
    if scores.shape[1] <= 4096 and dtype != torch.float64:
        _assert_same((value, gradient), (first[0][row:], first[1][row:]))


def launched_kernels(work: Work) -> list[str] | None:
    """The kernels, fills and copies that a warm call puts on the device, by name; None if the profiler sees none."""
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as canary:
        torch.ones(1, device="cuda")
        torch.cuda.synchronize()
    if not _on_device(canary):
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return _on_device(seen)


def _on_device(profiler: Any) -> list[str]:
    return [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def work_space(work: Work) -> int:
    """Bytes that a warm call takes at its peak beyond what it returns and what was there before."""
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    torch.cuda.synchronize()
    returned = torch.cuda.memory_allocated() - before
    del result
    return torch.cuda.max_memory_allocated() - before - returned


def _tensors(batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Floats]:
    """Scores of that type, targets, and the scores as they are after rounding to it."""
    limit = torch.finfo(dtype).max
    scores = torch.from_numpy(batch.scores).clamp(-limit, limit).to(dtype)
    return scores, torch.tensor(batch.targets), scores.double().numpy()


def _solve(
    name: str, scores: Tensor, targets: Tensor, weight: float = 1.0, method: str = "auto", **options: Any
) -> tuple[Tensor, Tensor]:
    options = {"ignore_index": -1, **options, **({} if name == "perceptron" else {"method": method})}
    return value_and_gradient(LOSSES[name], scores, targets, weight=weight, backend="triton", **options)


def _rank(
    update: str, scores: Tensor, targets: Tensor, epsilon: float, method: str, **options: Any
) -> tuple[Tensor, Tensor]:
    """Ranks and value on the CPU, from memory full of NaN."""
    with poisoned():
        ranks, value = fastap.loss_augmented_ranking(
            scores, targets, epsilon=epsilon, update=update, method=method, ignore_index=-1, backend="triton", dim=-1,
            **options,
        )  # fmt: skip
    return ranks.cpu(), value.cpu()


def _assert_same(given: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """The same bits, of whatever sign a zero is."""
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one, other)

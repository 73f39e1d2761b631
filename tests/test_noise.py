"""Losses at noisy scores: what they estimate, and that noise depends on nothing but seed, ranking, place and draw."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from fastap import functional
from fastap import noise as module
from fastap.types import UPDATES, Batch
from tests.kernels import DEVICE, gpu
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient

SIGMA = 1.0
NOISE: dict[str, Any] = {"noise": SIGMA, "samples": 5}
OF_MODULES: dict[str, Any] = {"update": "symmetric", "epsilon": 0.3, "noise": 0.9, "samples": 2}  # their defaults


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(draws: int, items: int) -> Tensor:
    """The noise of so many draws of one ranking, (draws, items)."""
    batch = Batch(torch.zeros(1, items, dtype=torch.float64), torch.zeros(1, items), None)
    noise = module.Noise(1.0, draws, torch.tensor(5))
    return module.noisy(batch, noise, torch.arange(1), 0, draws).scores[:, 0]


# What they estimate


def fixed_batch() -> tuple[Tensor, Tensor]:
    """Two positives among five, in no good order."""
    return torch.tensor([0.3, -0.5, 0.4, -0.2, 0.6], dtype=torch.float64), torch.tensor([1, 1, 0, 0, 0])


def smoothed_slope(draws: int = 1_000_000, step: float = 0.2) -> tuple[Tensor, Tensor]:
    """``grad E_z[1 - AP(s + sigma z)]`` by central differences, and its standard error; of noise of its own."""
    scores, targets = fixed_batch()
    noise = torch.randn(draws, len(scores), generator=seeded(), dtype=torch.float64) * SIGMA
    slopes = []
    for unit in torch.eye(len(scores), dtype=torch.float64) * step:
        ends = [fastap.average_precision(scores + noise + s * unit, targets.expand_as(noise), dim=1) for s in (1, -1)]
        slopes.append((ends[1] - ends[0]) / (2 * step))
    each = torch.stack(slopes, 1)
    return each.mean(0), each.std(0) / draws**0.5


def direct_slope(update: str, epsilon: float, calls: int = 100) -> tuple[Tensor, Tensor]:
    """The gradient of the loss at noisy scores, the mean over calls, and its standard error."""
    scores, targets = fixed_batch()
    options = {"weight": epsilon, "noise": SIGMA, "samples": 5_000, "generator": seeded()}
    each = torch.stack([value_and_gradient(LOSSES[update], scores, targets, **options)[1] for _ in range(calls)])
    return each.mean(0), each.std(0) / calls**0.5


def test_the_direct_gradient_is_that_of_the_smoothed_loss() -> None:
    """The theorem for one batch: within the standard error of both at a small epsilon, for every update."""
    slope, error = smoothed_slope()
    # The central differences are off by step**2 / 6 of a third derivative of size 0.1: a third of this.
    error = error + 0.002
    for update in UPDATES:
        gradient, deviation = direct_slope(update, 0.02 if update != "symmetric" else 0.2)
        within = 4 * (error**2 + deviation**2).sqrt()
        assert ((gradient - slope).abs() < within).all(), update
        assert ((gradient + slope).abs() > within).any()


def test_the_bias_of_the_symmetric_update_falls_with_epsilon_squared() -> None:
    truth, _ = direct_slope("symmetric", 0.05, 400)
    bias = {(u, e): (direct_slope(u, e, 400)[0] - truth).norm().item() for u in UPDATES for e in (1.0, 2.0)}
    assert 3 < bias["symmetric", 2.0] / bias["symmetric", 1.0] < 5
    for update in ("positive", "negative"):
        assert bias[update, 2.0] / bias[update, 1.0] < 2.5
        assert bias["symmetric", 1.0] < 0.5 * bias[update, 1.0]


@pytest.mark.parametrize(("items", "most"), [(100, 0.95), (1000, 0.8)])
def test_pairs_of_opposite_noise_lower_the_variance(items: int, most: float) -> None:
    """Of the mean of two draws, against two that are independent."""
    scores, targets = (each[0] for each in random_batch(4, 1, items))
    of_pair, alone = (
        torch.stack(
            [
                value_and_gradient(LOSSES["symmetric"], scores, targets, weight=0.3, samples=n, **given)[1]
                for given in ({"noise": 1.0, "generator": generator} for _ in range(400))
            ]
        )
        for n, generator in ((2, seeded(1)), (1, seeded(2)))
    )
    assert of_pair.var(0).sum() < most * alone.var(0).sum() / 2


def test_noise_is_standard_normal_and_independent() -> None:
    noise = drawn(40, 25_000)[::2]
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    for place in (-2.0, -0.7, 0.1, 1.3, 3.0):
        share = torch.special.ndtr(torch.tensor(place)).item()
        assert abs((noise < place).double().mean() - share) < 4 * (share * (1 - share) / noise.numel()) ** 0.5
    between = torch.corrcoef(noise)[torch.ones(20, 20).triu(1) == 1]
    assert between.abs().max() < 5 / noise.shape[1] ** 0.5
    for lag in (1, 2, 8):
        assert abs((noise[:, lag:] * noise[:, :-lag]).mean()) < 4 / noise.numel() ** 0.5


# What it depends on


def test_the_loss_is_the_mean_over_draws(loss: Loss) -> None:
    scores, targets = (each[0] for each in random_batch(5, 1, 30, ignored=0.1))
    value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, generator=seeded(), **NOISE)
    seed = module.seed_of(1.0, seeded(), torch.device("cpu"))
    assert seed is not None
    batch = Batch(scores[None], targets[None], -1)
    noisy = module.noisy(batch, module.Noise(SIGMA, 5, seed), torch.arange(1), 0, 5).scores[:, 0]
    torch.testing.assert_close(noisy[0] + noisy[1], 2 * scores, rtol=1e-12, atol=1e-12)  # a pair
    each, slopes = value_and_gradient(loss, noisy, targets.expand_as(noisy), ignore_index=-1)
    torch.testing.assert_close(value, each.mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, slopes.mean(0), rtol=1e-12, atol=1e-15)


def test_the_same_noise_however_rankings_lie(loss: Loss) -> None:
    scores, targets = random_batch(6, 6, 40, ignored=0.1)
    value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1, generator=seeded(), **NOISE)
    flat = scores.flatten(), targets.flatten()
    nested = torch.nested.nested_tensor_from_jagged(flat[0], torch.arange(0, 241, 40))
    others = {
        "columns": (scores.t(), targets.t(), {"dim": 0}),
        "three axes": (scores.view(2, 3, 40), targets.view(2, 3, 40), {}),
        "offsets": (*flat, {"offsets": torch.arange(0, 241, 40)}),
        "groups": (*flat, {"groups": torch.arange(6).repeat_interleave(40)}),
    }
    for name, (given, wanted, options) in others.items():
        each = value_and_gradient(loss, given, wanted, ignore_index=-1, generator=seeded(), **NOISE, **options)
        torch.testing.assert_close(each[0].flatten(), value, rtol=0, atol=0, msg=name)
        slope = each[1].t() if name == "columns" else each[1]
        torch.testing.assert_close(slope.reshape(6, 40), gradient, rtol=0, atol=0, msg=name)
    of_nested = loss(
        nested,
        torch.nested.nested_tensor_from_jagged(flat[1], nested.offsets()),
        dim=None, ignore_index=-1, reduction="none", generator=seeded(), **NOISE,
    )  # fmt: skip
    torch.testing.assert_close(of_nested, value, rtol=0, atol=0)


def test_groups_are_known_by_their_id() -> None:
    """Whatever else is in the batch."""
    scores, targets = (each.flatten() for each in random_batch(7, 6, 20))
    ids = torch.tensor([9, -4, 2**40, 0, 7, 3]).repeat_interleave(20)
    loss = partial(value_and_gradient, LOSSES["positive"], **NOISE)
    value, gradient = loss(scores, targets, groups=ids, generator=seeded())
    some = ids > 0
    part, slope = loss(scores[some], targets[some], groups=ids[some], generator=seeded())
    torch.testing.assert_close(part, value[2:], rtol=1e-13, atol=0)
    torch.testing.assert_close(slope, gradient[some], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("held", [1, 60, 200])
def test_draws_held_at_a_time_change_nothing(held: int, monkeypatch: pytest.MonkeyPatch, loss: Loss) -> None:
    scores, targets = random_batch(8, 3, 20)
    expected = value_and_gradient(loss, scores, targets, generator=seeded(), **NOISE)
    monkeypatch.setattr(module, "_HELD", held)
    given = value_and_gradient(loss, scores, targets, generator=seeded(), **NOISE)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("layout", ["rows", "offsets"])
@pytest.mark.parametrize("backend", ["reference", pytest.param("triton", marks=pytest.mark.full)])
def test_backends_agree(backend: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one seed, wherever they are: other devices would draw other ones."""
    monkeypatch.setattr(functional, "seed_of", lambda noise, generator, where: torch.tensor(11, device=where))
    rows = 2 if backend == "triton" else 6
    scores, targets = random_batch(9, rows, 12, ignored=0.1, dtype=torch.float32)
    options: dict[str, Any] = {"noise": 0.5, "samples": 3, "ignore_index": -1}
    if layout == "offsets":
        scores, targets, options["offsets"] = scores.flatten(), targets.flatten(), torch.arange(0, 12 * rows + 1, 12)
    where = DEVICE if backend == "triton" else "cpu"
    moved = {name: each.to(where) if isinstance(each, Tensor) else each for name, each in options.items()}
    loss = LOSSES["symmetric"]
    expected = value_and_gradient(loss, scores, targets, **options)
    with gpu() if backend == "triton" else nullcontext():
        given = value_and_gradient(loss, scores.to(where), targets.to(where), **moved, backend=backend)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_scores_get_noise_of_32_bits(dtype: torch.dtype) -> None:
    scores, targets = random_batch(10, 3, 30, dtype=dtype)
    value, gradient = value_and_gradient(LOSSES["positive"], scores, targets, generator=seeded(), **NOISE)
    exact, slope = value_and_gradient(LOSSES["positive"], scores.float(), targets, generator=seeded(), **NOISE)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, exact, rtol=0, atol=0)
    torch.testing.assert_close(gradient, slope.to(dtype), rtol=0, atol=0)


def test_without_noise_nothing_is_drawn(loss: Loss) -> None:
    scores, targets = random_batch(11, 3, 30)
    generator, state = seeded(), seeded().get_state()
    given = value_and_gradient(loss, scores, targets, noise=0, samples=7, generator=generator)
    for one, other in zip(given, value_and_gradient(loss, scores, targets), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert torch.equal(generator.get_state(), state)


def test_the_generator_of_pytorch_and_one_of_your_own() -> None:
    scores, targets = random_batch(12, 3, 30)
    for _ in range(2):
        torch.manual_seed(5)
        first, second = (LOSSES["positive"](scores, targets, **NOISE) for _ in range(2))
        assert first != second
        torch.manual_seed(5)
        assert LOSSES["positive"](scores, targets, **NOISE) == first
    assert LOSSES["positive"](scores, targets, generator=torch.default_generator.manual_seed(5), **NOISE) == first


def test_weights_and_rankings_that_take_no_part() -> None:
    scores, targets = random_batch(13, 4, 20)
    targets[1], targets[2, :] = 1, -1
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    each = fastap.direct_ap_loss(
        scores, targets, dim=-1, reduction="none", ignore_index=-1, generator=seeded(), **NOISE
    )
    assert (each[1:3] == 0).all()
    mean = fastap.direct_ap_loss(scores, targets, dim=-1, weight=weight, ignore_index=-1, generator=seeded(), **NOISE)
    torch.testing.assert_close(mean, (each * weight).sum() / 3.5, rtol=1e-13, atol=0)
    scores[0, 4] = torch.nan
    spoiled = fastap.direct_ap_loss(
        scores, targets, dim=-1, reduction="none", ignore_index=-1, generator=seeded(), **NOISE
    )
    assert spoiled.isnan().tolist() == [True, False, False, False]


# In all that calls it


def test_compiled_and_transformed() -> None:
    scores, targets = random_batch(14, 4, 20)
    loss = partial(fastap.direct_ap_loss, dim=-1, **NOISE)
    torch.manual_seed(6)
    expected = loss(scores, targets)
    torch.manual_seed(6)
    assert torch.compile(loss, backend="eager", fullgraph=True)(scores, targets) == expected
    leaf = scores.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, targets, generator=seeded()), leaf)
    given = torch.func.grad(lambda s: loss(s, targets, generator=seeded()))(scores)
    torch.testing.assert_close(given, slope, rtol=0, atol=0)


def test_vmap_asks_how_to_draw() -> None:
    scores, targets = (torch.stack([each] * 3) for each in random_batch(15, 2, 20))

    def each(randomness: str) -> Tensor:
        loss = partial(fastap.direct_ap_loss, dim=-1, **NOISE)
        return torch.func.vmap(loss, randomness=randomness)(scores, targets)

    with pytest.raises(RuntimeError, match="randomness error mode"):
        each("error")
    assert each("same").unique().numel() == 1
    assert each("different").unique().numel() == 3


@pytest.mark.parametrize("max_pairs", [1, 60, 10**6])
def test_retrieval_draws_by_query_and_reference(max_pairs: int) -> None:
    rows, labels = torch.randn(12, 8, generator=seeded(), dtype=torch.float64), torch.arange(12) % 3
    options: dict[str, Any] = {"epsilon": 0.1, "noise": 0.3, "samples": 3, "reduction": "none"}
    leaf = rows.clone().requires_grad_()
    value = fastap.retrieval_ap_loss(leaf, labels, max_pairs=max_pairs, generator=seeded(), **options)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    other = rows.clone().requires_grad_()
    unit = torch.nn.functional.normalize(other, dim=1)
    targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
    expected = fastap.direct_ap_loss(unit @ unit.T, targets, dim=-1, ignore_index=-1, generator=seeded(), **options)
    (slope,) = torch.autograd.grad(expected.sum(), other)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)


def test_classes_are_ranked_by_noisy_log_odds() -> None:
    logits, labels = torch.randn(30, 4, generator=seeded(), dtype=torch.float64), torch.arange(30) % 4
    given = fastap.multiclass_ap_loss(logits, labels, generator=seeded(), **NOISE)
    p = logits.softmax(1)
    targets = torch.nn.functional.one_hot(labels, 4)
    expected = fastap.direct_ap_loss((p / (1 - p)).log(), targets, dim=0, generator=seeded(), **NOISE)
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)


def test_modules_hold_noise_and_generator() -> None:
    """The one of direct AP has what the function is recommended with."""
    scores, targets = random_batch(16, 4, 20)
    module = fastap.DirectAPLoss(dim=-1, generator=seeded())
    first, second = module(scores, targets), deepcopy(module)(scores, targets)
    generator = seeded()
    assert first == fastap.direct_ap_loss(scores, targets, dim=-1, generator=generator, **OF_MODULES)
    assert second == fastap.direct_ap_loss(scores, targets, dim=-1, generator=generator, **OF_MODULES)
    assert "noise=0.9, samples=2" in repr(module)
    assert "noise" not in repr(fastap.DirectAPLoss(dim=-1, noise=0))


def test_that_of_classes_has_the_same_defaults() -> None:
    logits, labels = torch.randn(30, 4, generator=seeded(), dtype=torch.float64), torch.arange(30) % 4
    expected = fastap.multiclass_ap_loss(logits, labels, generator=seeded(), **OF_MODULES)
    assert fastap.MulticlassAPLoss(generator=seeded())(logits, labels) == expected


def test_the_defaults_of_the_module_compile_and_map() -> None:
    """With noise of PyTorch's own generator, and where no ranking takes part."""
    scores, targets = random_batch(17, 4, 20)
    leaf, module = scores.clone().requires_grad_(), fastap.DirectAPLoss(dim=-1)
    for given in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        (gradient,) = torch.autograd.grad(given(leaf, targets), leaf)
        assert gradient.isfinite().all()
        assert gradient.any()
        assert given(leaf, torch.ones_like(targets)) == 0
    mapped = torch.func.vmap(fastap.DirectAPLoss(), randomness="different")(scores, targets)
    assert ((mapped > 0) & (mapped < 1)).all()


def test_after_eval_there_is_no_noise() -> None:
    logits, labels = torch.randn(30, 4, generator=seeded(), dtype=torch.float64), torch.arange(30) % 4
    targets = torch.nn.functional.one_hot(labels, 4)
    for loss, wanted in (
        (fastap.DirectAPLoss(dim=0), targets),
        (fastap.APHingeLoss(dim=0, noise=1), targets),
        (fastap.MulticlassAPLoss(noise=1), labels),
        (fastap.RetrievalAPLoss(noise=1), labels),
    ):
        loss.eval()
        assert loss(logits, wanted) == loss(logits, wanted)
        value = loss(logits, wanted)
        assert loss.train()(logits, wanted) != value
        loss.noise = 0.0
        assert loss.train()(logits, wanted) == value


def test_a_generator_elsewhere_is_refused() -> None:
    scores = torch.zeros(4, device="meta")
    with pytest.raises(ValueError, match="generator must be on the device of the scores, meta, got cpu"):
        fastap.direct_ap_loss(scores, scores, generator=seeded(), **NOISE)

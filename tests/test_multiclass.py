"""Classes that exclude each other: one ranking a class, by log-odds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

import fastap
from fastap.multiclass import log_odds
from fastap.types import UPDATES
from tests.processes import results


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with their classes along dimension 1, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)


def plain_log_odds(logits: Tensor) -> Tensor:
    """By the formula, a class at a time."""
    each = []
    for k in range(logits.shape[1]):
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], 1)
        each.append(logits[:, k] - others.logsumexp(1))
    return torch.stack(each, 1)


@pytest.mark.parametrize("shape", [(7, 2), (20, 5), (3, 4, 2, 5)])
def test_log_odds_are_those_of_softmax(shape: tuple[int, ...]) -> None:
    logits, _ = drawn(shape)
    p = logits.softmax(1)
    torch.testing.assert_close(log_odds(logits), p.log() - (1 - p).log())
    torch.testing.assert_close(log_odds(logits), plain_log_odds(logits))
    assert torch.autograd.gradcheck(log_odds, (logits,))


def test_log_odds_of_a_sure_model_keep_their_digits() -> None:
    logits = torch.tensor([[800.0, 0.0, 0.0], [0.0, -90.0, 50.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(log_odds(logits), plain_log_odds(logits), rtol=1e-14, atol=1e-15)
    single = logits.float().requires_grad_()
    odds = log_odds(single)
    odds.sum().backward()
    torch.testing.assert_close(odds, plain_log_odds(logits), rtol=1e-6, atol=1e-7, check_dtype=False)
    assert single.grad is not None
    assert bool(single.grad.isfinite().all())
    assert odds[0, 0].item() == pytest.approx(800 - math.log(2), abs=1e-4)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("shape", [(40, 5), (6, 3, 4, 5)])
def test_one_ranking_a_class(shape: tuple[int, ...], update: str) -> None:
    logits, labels = drawn(shape)
    labels[0] = -100
    losses = fastap.multiclass_ap_loss(logits, labels, epsilon=0.7, update=update, reduction="none")
    kept = labels != -100
    odds = plain_log_odds(logits).movedim(1, -1)[kept]
    expected = fastap.direct_ap_loss(
        odds, one_hot(labels[kept], shape[1]), epsilon=0.7, update=update, dim=0, reduction="none"
    )
    torch.testing.assert_close(losses, expected)
    (found,), (wanted,) = (torch.autograd.grad(each.sum(), logits, retain_graph=True) for each in (losses, expected))
    torch.testing.assert_close(found, wanted)


def test_logits_of_an_item_may_all_rise() -> None:
    logits, labels = drawn((30, 4))
    shift = torch.randn(30, 1, dtype=torch.float64)
    loss = fastap.multiclass_ap_loss(logits, labels)
    torch.testing.assert_close(fastap.multiclass_ap_loss(logits + shift, labels), loss)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-15)


def test_weights_and_reductions() -> None:
    logits, labels = drawn((30, 4))
    labels[labels == 3] = 0  # of which there is no item
    weight = torch.tensor([1.0, 2.0, 0.5, 9.0])
    each = fastap.multiclass_ap_loss(logits, labels, reduction="none")
    assert each.shape == (4,)
    assert each[3].item() == 0
    weighted = fastap.multiclass_ap_loss(logits, labels, weight=weight, reduction="none")
    torch.testing.assert_close(weighted, each * weight)
    total = fastap.multiclass_ap_loss(logits, labels, weight=weight, reduction="sum")
    torch.testing.assert_close(total, weighted.sum())
    mean = fastap.multiclass_ap_loss(logits, labels, weight=weight)
    torch.testing.assert_close(mean, weighted.sum() / weight[:3].sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_16_bits_are_ranked_in_float32(dtype: torch.dtype) -> None:
    logits, labels = drawn((30, 4))
    half = logits.detach().to(dtype)
    loss = fastap.multiclass_ap_loss(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, fastap.multiclass_ap_loss(half.float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint64])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, labels = drawn((30, 4))
    loss = fastap.multiclass_ap_loss(logits, labels.to(dtype))
    torch.testing.assert_close(loss, fastap.multiclass_ap_loss(logits, labels), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (0, 3)])
def test_the_last_batch_of_an_epoch_may_have_one_item_or_none(shape: tuple[int, ...]) -> None:
    logits, labels = drawn(shape)
    for loss in (fastap.multiclass_ap_loss, fastap.MulticlassAPLoss()):
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0
        assert not gradient.any()
    assert fastap.multiclass_ap_loss(logits, labels, reduction="none").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_logits_of_an_ignored_item_may_be_anything(value: float) -> None:
    logits, labels = drawn((30, 4))
    labels[0] = -100
    (expected,) = torch.autograd.grad(fastap.multiclass_ap_loss(logits, labels), logits)
    logits.data[0, 1] = value
    (found,) = torch.autograd.grad(fastap.multiclass_ap_loss(logits, labels), logits)
    assert torch.equal(found, expected)


def test_a_logit_that_is_not_finite_makes_the_losses_nan() -> None:
    for value in (math.nan, math.inf, -math.inf):
        logits, labels = drawn((30, 4))
        logits.data[3, 1] = value
        assert fastap.multiclass_ap_loss(logits, labels, reduction="none").isnan().any()


def test_beside_cross_entropy_it_trains() -> None:
    """From zero, on classes that are told apart by a linear layer."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    features = torch.randn(300, 8, generator=generator) + 2 * one_hot(labels, 8)
    layer = torch.nn.Linear(8, 3)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    loss_of = fastap.MulticlassAPLoss()
    for _ in range(100):
        logits = layer(features)
        optimizer.zero_grad()
        (loss_of(logits, labels) + cross_entropy(logits, labels)).backward()
        optimizer.step()
    scores = log_odds(layer(features)).detach()
    assert float(fastap.average_precision(scores, one_hot(labels, 3), dim=0, average="macro")) > 0.9


WRONG = {
    "labels must be in": ((4, 3), torch.tensor([0, 1, 2, 3])),
    "at least two classes": ((4, 1), torch.zeros(4, dtype=torch.long)),
    r"logits must be \(N, C\)": ((4,), torch.tensor(1)),
    "labels must have an integer dtype": ((4, 3), torch.zeros(4, 3)),
    "labels must have the shape": ((4, 3), torch.zeros(3, dtype=torch.long)),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument(message: str) -> None:
    shape, labels = WRONG[message]
    with pytest.raises((TypeError, ValueError), match=message):
        fastap.multiclass_ap_loss(torch.zeros(shape), labels)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, -1.0]), "not negative"),
        (torch.ones(2, 2), "shape"),
        (torch.ones(2, requires_grad=True), "gradient"),
    ],
)
def test_wrong_weights_of_the_module(weight: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"weight.*{message}"):
        fastap.MulticlassAPLoss(weight)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_wrong_weights_of_the_function(shape: tuple[int, ...]) -> None:
    logits, labels = drawn((6, 4))
    with pytest.raises(ValueError, match=r"weight must have the shape \(4,\)"):
        fastap.multiclass_ap_loss(logits, labels, weight=torch.ones(shape))


def test_compiled() -> None:
    logits, labels = drawn((40, 5))
    labels[3] = -100
    module = fastap.MulticlassAPLoss(epsilon=1, update="positive", noise=0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    found, expected = compiled(logits, labels), fastap.multiclass_ap_loss(logits, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def spread_out(rank: int) -> None:
    """Items of two ranks, one of them without any at times, and maps of pixels."""
    for shape, sizes in (((30, 4), (11, 19)), ((30, 4), (30, 0)), ((5, 3, 2, 4), (2, 3))):
        logits, labels = drawn(shape)
        whole = fastap.multiclass_ap_loss(logits, labels, reduction="none")
        (wanted,) = torch.autograd.grad(whole.sum(), logits)
        part = logits.detach().split(sizes)[rank].requires_grad_()
        group = dist.group.WORLD
        loss = fastap.multiclass_ap_loss(part, labels.split(sizes)[rank], reduction="none", process_group=group)
        torch.testing.assert_close(loss, whole, rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(loss.sum(), part)
        torch.testing.assert_close(gradient / 2, wanted.split(sizes)[rank], rtol=1e-12, atol=1e-15)


def test_items_spread_over_processes(tmp_path: Path) -> None:
    results(spread_out, 2, tmp_path)

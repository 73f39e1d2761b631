"""Retrieval and the metrics on a CUDA device: what is an error on the CPU, and what must not wait for the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastap

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 8, generator=generator).to(dtype), torch.randint(5, (60,), generator=generator)


def value_and_gradient(embeddings: Tensor, labels: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    leaf = embeddings.detach().clone().requires_grad_()
    value = fastap.retrieval_ap_loss(leaf, labels, **options)  # type: ignore[arg-type]
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("max_pairs", [2**24, 600])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_retrieval_is_that_of_the_cpu(dtype: torch.dtype, max_pairs: int) -> None:
    embeddings, labels = batch(dtype)
    expected = value_and_gradient(embeddings, labels)
    given = value_and_gradient(embeddings.cuda(), labels.cuda(), max_pairs=max_pairs)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("max_pairs", [2**24, 600])
def test_retrieval_does_not_wait(max_pairs: int) -> None:
    embeddings, labels = (each.cuda() for each in batch())
    value_and_gradient(embeddings, labels, max_pairs=max_pairs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        value_and_gradient(embeddings, labels, max_pairs=max_pairs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wrong_label_or_weight_makes_nan() -> None:
    embeddings, labels = batch()
    many = torch.nn.functional.one_hot(labels, 5)
    many[3, 1] = 7
    value, _ = value_and_gradient(embeddings.cuda(), many.cuda())
    assert value.isnan()
    weight = torch.ones(60)
    weight[5] = -1
    value, _ = value_and_gradient(embeddings.cuda(), labels.cuda(), weight=weight.cuda())
    assert value.isnan()


def test_metrics_are_those_of_the_cpu() -> None:
    pytest.importorskip("torchmetrics")
    from fastap.metrics import AveragePrecision, RetrievalMAP

    generator = torch.Generator().manual_seed(1)
    scores, targets = torch.randn(200, generator=generator), torch.rand(200, generator=generator) < 0.2
    weights, queries = torch.rand(200, generator=generator), torch.randint(9, (200,), generator=generator)
    for metric, inputs in (
        (AveragePrecision("binary"), (scores, targets, weights)),
        (RetrievalMAP(top_k=5), (scores, targets, queries)),
    ):
        expected = metric(*inputs)
        metric.reset()
        given = metric.cuda()(*(each.cuda() for each in inputs))
        torch.testing.assert_close(given.cpu(), expected)

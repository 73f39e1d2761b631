"""Models with a loss or a metric, traced and scripted by ``torch.jit``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastap
from fastap import metrics

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model(nn.Module):
    def __init__(self, loss: nn.Module, columns: int) -> None:
        super().__init__()
        self.net, self.loss = nn.Linear(4, columns), loss

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        outputs = self.net(x)
        value: Tensor = self.loss(outputs.squeeze(1) if outputs.shape[1] == 1 else outputs, targets)
        return value


TRACED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "direct": (lambda: fastap.DirectAPLoss(noise=0), 1),
    "hinge": (fastap.APHingeLoss, 1),
    "perceptron": (fastap.APPerceptronLoss, 1),
    "none": (lambda: fastap.DirectAPLoss(update="negative", noise=0, reduction="none", dim=0), 3),
    "retrieval": (lambda: fastap.RetrievalAPLoss(noise=0), 3),
    "retrieval in chunks": (lambda: fastap.RetrievalAPLoss(noise=0, max_pairs=100), 3),
    "cost": (fastap.DirectCostLoss, 3),
}


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_model_has_the_same_loss(name: str) -> None:
    make, columns = TRACED[name]
    model = Model(make(), columns)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    targets = {"retrieval": torch.arange(30) // 5, "cost": torch.arange(30) % 3}.get(name.split(maxsplit=1)[0], TARGETS)
    if name == "none":
        targets = torch.stack([TARGETS, TARGETS.flip(0), TARGETS], 1)
    traced = torch.jit.trace(model, (x, targets))
    for inputs in (x, x.flip(0)):
        given, wanted = traced(inputs, targets), model(inputs, targets)
        torch.testing.assert_close(given, wanted)
        slopes = [torch.autograd.grad(each.sum(), model.net.weight)[0] for each in (given, wanted)]
        torch.testing.assert_close(*slopes)


class Holder(nn.Module):
    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.net, self.held = nn.Linear(4, 3), held

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs


@pytest.mark.parametrize(
    "held",
    [
        fastap.DirectAPLoss,
        fastap.APHingeLoss,
        fastap.APPerceptronLoss,
        fastap.RetrievalAPLoss,
        lambda: fastap.RetrievalAPLoss(nn.Bilinear(2, 2, 1)),
        fastap.MulticlassAPLoss,
        lambda: fastap.MulticlassAPLoss(torch.ones(3)),
        fastap.DirectCostLoss,
        lambda: fastap.DirectCostLoss(torch.ones(3, 3)),
        fastap.CostHingeLoss,
        fastap.CostPerceptronLoss,
        lambda: metrics.AveragePrecision("binary"),
        lambda: metrics.AveragePrecision("multilabel", num_labels=3),
        metrics.RetrievalMAP,
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_holds_a_loss_or_a_metric_can_be_scripted(held: Callable[[], nn.Module]) -> None:
    model = Holder(held())
    x = torch.randn(5, 4)
    assert torch.equal(torch.jit.script(model)(x), model(x))

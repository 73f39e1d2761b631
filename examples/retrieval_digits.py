"""Embed handwritten digits so that images of one digit find each other: mAP of held-out images, by ``epsilon``.

Every image of a part is a query, and all others are ranked by their cosine to it. Losses share data, wrong labels,
first weights, batches and steps: six images of each digit a batch. FastAP of pytorch-metric-learning is run too if that
is there. SmoothAP is the paper's, stated here: that of pytorch-metric-learning 2.9.0 takes such a batch for six classes
of ten items, not ten of six, and learns nothing. For every loss, parameter and seed the learning rate and the step are
chosen on a validation part whose labels are wrong as often as those of the training part; test labels are right.

    python -m examples.retrieval_digits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

import fastap
from examples import harness, report
from examples.data import Part, Parts, digits, two_layers

DIGITS, OF_EACH = 10, 6
HAS_PEERS = find_spec("pytorch_metric_learning") is not None


class SmoothAP(nn.Module):
    """``bench.baselines.smooth_ap_loss`` of the cosines of each item to all others, averaged; a table of N^3 pairs.

    Source: Brown, Xie, Kalogeiton, Zisserman, Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV
    2020.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(embeddings, dim=1)
        cosines = unit @ unit.T
        others = ~torch.eye(len(labels), dtype=torch.bool)
        relevant = (labels[:, None] == labels) & others
        # Of query q, how far item j stands above item i.
        above = ((cosines[:, None, :] - cosines[:, :, None]) / self.temperature).sigmoid() * others
        rank, rank_of_relevant = (1 + (above * of[:, None, :]).sum(2) for of in (others, relevant))
        precisions = (rank_of_relevant / rank * relevant).sum(1) / relevant.sum(1)
        return 1 - precisions.mean()


def histograms(bins: float) -> nn.Module:
    from pytorch_metric_learning.losses import FastAPLoss

    return FastAPLoss(num_bins=int(bins))


# Name -> the loss with its own parameter, and the values of that.
LOSSES: dict[str, tuple[Callable[[float], nn.Module], tuple[float, ...]]] = {
    "direct AP, epsilon": (lambda epsilon: fastap.RetrievalAPLoss(epsilon=epsilon), (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)),
    "SmoothAP, temperature": (SmoothAP, (0.01, 0.03, 0.1, 0.3)),
    "FastAP, bins": (histograms, (10.0,)),
}


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = tuple(LOSSES if HAS_PEERS else [name for name in LOSSES if name != "FastAP, bins"])
    no_options: ClassVar[tuple[str, ...]] = ("methods", "draws")  # all of the grid
    seeds: int = 5
    shares: tuple[float, ...] = (0.0, 0.2, 0.4)
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    out: Path = Path("results/retrieval-digits.json")


QUICK = {**harness.QUICK, "shares": (0.2,), "lrs": (3e-3,)}


def parts(seed: int, share: float) -> Parts:
    """700 images to train, 400 to validate, 697 to test; a ``share`` of the labels of the former two are wrong."""
    generator = torch.Generator().manual_seed(seed)
    data = digits()
    order = torch.randperm(len(data), generator=generator).split([700, 400, 697])
    return Parts(*(data[index] for index in order)).with_flips(share, DIGITS, generator)


@torch.no_grad()
def mean_ap(net: nn.Module, part: Part) -> float:
    """Exact AP of every image as a query, averaged."""
    unit = F.normalize(net(part.inputs), dim=1)
    relevant = (part.labels[:, None] == part.labels).to(torch.int8).fill_diagonal_(-1)
    return round(fastap.average_precision(unit @ unit.T, relevant, dim=-1, ignore_index=-1).nanmean().item(), 5)


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    data = parts(trial.seed, float(trial.setting[0]))
    torch.manual_seed(trial.seed)
    net, loss = two_layers(64, 64, 16), LOSSES[trial.method][0](trial.parameter)
    optimiser = harness.adamw(net.parameters(), trial.lr, trial.weight_decay)
    members = [(data.train.labels == digit).nonzero()[:, 0] for digit in range(DIGITS)]

    def update() -> None:
        batch = data.train[torch.cat([of_digit[torch.randperm(len(of_digit))[:OF_EACH]] for of_digit in members])]
        optimiser.zero_grad()
        loss(net(batch.inputs), batch.labels).backward()
        optimiser.step()

    return harness.course(
        config, update, lambda: harness.Outcome(*(mean_ap(net, part) for part in vars(data).values()))
    )


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    trials = [
        harness.Trial((share,), method, seed, lr, 0.01, parameter)
        for method, share, seed, lr in product(config.methods, config.shares, range(config.seeds), config.lrs)
        for parameter in LOSSES[method][1]
    ]
    results = harness.load(config)
    harness.execute("grid", trials, config, fit, results)
    report.show("retrieval-digits", results, config.out)


if __name__ == "__main__":
    main()

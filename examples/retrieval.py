"""Embed images so that those of one class find each other: mAP of held-out images, for every loss and its parameter.

Every image of a part is a query, and all others are ranked by their cosine to it. Losses share data, wrong labels,
first weights, batches and steps. ``--dataset digits`` has all ten digits in every part, and embeds them by a network of
two layers. ``--dataset fashion-mnist`` learns from four kinds, validates on three others and tests on the last three;
its embedding is a linear map of the pixels which starts as the identity, for a network learns the four kinds by heart
and finds the others worse than the pixels do. Losses of pytorch-metric-learning are run too if that is there. SmoothAP
is the paper's, stated here: that of pytorch-metric-learning 2.9.0 takes a batch of six images of ten digits for six
classes of ten items, and learns nothing. For every loss, parameter and seed the learning
rate and the step are chosen on a validation part whose labels are wrong as often as those of the training part; test
labels are right.

    python -m examples.retrieval
    python -m examples.retrieval --dataset fashion-mnist --data DIR      # from its four IDX files
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

import fastap
from examples import harness, report
from examples.data import Part, Parts, digits, fashion_mnist, two_layers

BATCH = 60
TRAIN, VALID, TEST = slice(0, 4), slice(4, 7), slice(7, 10)  # of Fashion-MNIST's kinds, in an order of the seed's
OF_EACH_KIND = 150
LINEAR_LRS = (1e-4, 3e-4)  # 20 to 150 updates to the best step
HAS_PEERS = find_spec("pytorch_metric_learning") is not None
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of embeddings and labels


def cosines_and_relevant(embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each item to all; 1 relevant, 0 not, and -1, the item itself."""
    unit = F.normalize(embeddings, dim=1)
    return unit @ unit.T, (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)


class SmoothAP(nn.Module):
    """``bench.baselines.smooth_ap_loss`` of the cosines of each item to all others, averaged; a table of N^3 pairs.

    Source: Brown, Xie, Kalogeiton, Zisserman, Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV
    2020.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines, known = cosines_and_relevant(embeddings, labels)
        others, relevant = known >= 0, known == 1
        # Of query q, how far item j stands above item i.
        above = ((cosines[:, None, :] - cosines[:, :, None]) / self.temperature).sigmoid() * others
        rank, rank_of_relevant = (1 + (above * of[:, None, :]).sum(2) for of in (others, relevant))
        precisions = (rank_of_relevant / rank * relevant).sum(1) / relevant.sum(1)
        return 1 - precisions.mean()


def ap_hinge(margin: float, noise: float = 0.0) -> Loss:
    """The noise is so many times the margin."""
    options: dict[str, Any] = {"margin": margin, "noise": noise * margin, "samples": 2}
    return lambda embeddings, labels: fastap.ap_hinge_loss(
        *cosines_and_relevant(embeddings, labels), dim=-1, ignore_index=-1, **options
    )


def direct(update: fastap.Update, noise: float = 0.0) -> Callable[[float], Loss]:
    """The noise is so many times epsilon."""
    return lambda epsilon: fastap.RetrievalAPLoss(epsilon=epsilon, update=update, noise=noise * epsilon, samples=2)


def peer(name: str, parameter: str) -> Callable[[float], Loss]:
    """A loss of pytorch-metric-learning."""

    def make(value: float) -> Loss:
        from pytorch_metric_learning import losses

        options: dict[str, Any] = {parameter: int(value) if parameter == "num_bins" else value}
        return getattr(losses, name)(**options)

    return make


# Name -> the loss with its own parameter, and the values of that.
LOSSES: dict[str, tuple[Callable[[float], Loss], tuple[float, ...]]] = {
    "direct AP, epsilon": (direct("positive"), (0.1, 0.3, 1.0)),
    "symmetric, epsilon": (direct("symmetric"), (0.1, 0.3, 1.0)),
    "symmetric with noise, epsilon": (direct("symmetric", noise=3.0), (0.1, 0.3, 1.0)),
    "positive with noise, epsilon": (direct("positive", noise=3.0), (0.1, 0.3, 1.0)),
    "AP hinge, margin": (ap_hinge, (0.1, 0.3, 1.0)),
    "AP hinge with noise, margin": (partial(ap_hinge, noise=1.0), (0.1, 0.3, 1.0)),
    "SmoothAP, temperature": (SmoothAP, (0.03, 0.1, 0.3)),
    "no training": (lambda _: lambda embeddings, labels: 0 * embeddings.sum(), (0.0,)),
}
PEERS: dict[str, tuple[Callable[[float], Loss], tuple[float, ...]]] = {
    "FastAP, bins": (peer("FastAPLoss", "num_bins"), (5.0, 10.0, 20.0)),
    "SupCon, temperature": (peer("SupConLoss", "temperature"), (0.03, 0.1, 0.3)),
    "multi-similarity, beta": (peer("MultiSimilarityLoss", "beta"), (5.0, 15.0, 50.0)),
    "triplet, margin": (peer("TripletMarginLoss", "margin"), (0.05, 0.2, 0.5)),
}
LOSSES |= PEERS if HAS_PEERS else {}


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = tuple(LOSSES)
    no_options: ClassVar[tuple[str, ...]] = ("methods", "draws", "lr", "device")  # all of the grid, on the CPU
    dataset: str = "digits"
    data: Path = Path("data/fashion-mnist")
    seeds: int = 5
    shares: tuple[float, ...] = (0.0, 0.2, 0.4)
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)  # of digits; of Fashion-MNIST those of LINEAR_LRS
    out: Path = Path("results/retrieval.json")


QUICK = {**harness.QUICK, "shares": (0.2,), "lrs": (3e-3,)}


def parts(config: Config, seed: int, share: float) -> Parts:
    """A ``share`` of the labels to train and to validate are wrong: of another class of their part."""
    generator = torch.Generator().manual_seed(seed)
    if config.dataset == "digits":
        data = digits()
        order = torch.randperm(len(data), generator=generator).split([700, 400, 697])
        return Parts(*(data[index] for index in order)).with_flips(share, 10, generator)
    images, kinds = fashion_mnist(config.data), torch.randperm(10, generator=generator)
    found = []
    for part in (TRAIN, VALID, TEST):
        of_kinds = [(images.labels == kind).nonzero()[:, 0] for kind in kinds[part]]
        chosen = [of[torch.randperm(len(of), generator=generator)[:OF_EACH_KIND]] for of in of_kinds]
        labels = torch.arange(len(chosen)).repeat_interleave(OF_EACH_KIND)
        flipped = 0 if part is TEST else share
        found.append(Part(images.inputs[torch.cat(chosen)], labels).with_flips(flipped, len(chosen), generator))
    return Parts(*found)


@torch.no_grad()
def mean_ap(net: nn.Module, part: Part) -> float:
    """Exact AP of every image as a query, averaged."""
    cosines, relevant = cosines_and_relevant(net(part.inputs), part.labels)
    return round(fastap.average_precision(cosines, relevant, dim=-1, ignore_index=-1).nanmean().item(), 5)


def from_identity(features: int) -> nn.Linear:
    net = nn.Linear(features, features, bias=False)
    nn.init.eye_(net.weight)
    return net


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """In batches with as many images of each class, by the labels that may be wrong."""
    data = parts(config, trial.seed, float(trial.setting[0]))
    torch.manual_seed(trial.seed)
    features, loss = data.train.inputs.shape[1], LOSSES[trial.method][0](trial.parameter)
    net = two_layers(features, 64, 16) if config.dataset == "digits" else from_identity(features)
    optimiser = harness.adamw(net.parameters(), trial.lr, trial.weight_decay)
    members = [(data.train.labels == each).nonzero()[:, 0] for each in data.train.labels.unique()]
    of_each = BATCH // len(members)

    def update() -> None:
        batch = data.train[torch.cat([of_class[torch.randperm(len(of_class))[:of_each]] for of_class in members])]
        optimiser.zero_grad()
        loss(net(batch.inputs), batch.labels).backward()
        optimiser.step()

    return harness.course(
        config, update, lambda: harness.Outcome(*(mean_ap(net, part) for part in vars(data).values()))
    )


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    if config.dataset not in ("fashion-mnist", "digits"):
        raise SystemExit(f"--dataset must be fashion-mnist or digits, got {config.dataset}")
    if config.dataset == "digits" and config.data != Config.data:
        raise SystemExit(f"--data is for Fashion-MNIST, got {config.data} for {config.dataset}")
    if config.dataset == "fashion-mnist" and config.lrs == Config.lrs:
        config = replace(config, lrs=LINEAR_LRS)
    trials = [
        harness.Trial((share,), method, seed, lr, 0.01, parameter)
        for method, share, seed, lr in product(config.methods, config.shares, range(config.seeds), config.lrs)
        for parameter in LOSSES[method][1]
    ]
    results = harness.load(config)
    harness.execute("grid", trials, config, fit, results)
    report.show(f"retrieval-{config.dataset}", results, config.out)


if __name__ == "__main__":
    main()

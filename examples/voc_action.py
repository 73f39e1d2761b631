"""Action classification on PASCAL VOC2012, the paper's experiment, for those who have the data and a GPU.

Every person with a box is an example, each of ten actions a ranking of all persons. The annotated images (``trainval``)
are split into thirds; the whole training third is one batch; labels of the training and validation thirds are flipped
at random, those of the test third are clean. Everything about a method is chosen on the validation third. The network
is AlexNet, from ImageNet's weights if they are given:

    python -m examples.voc_action --data VOCdevkit/VOC2012 --weights alexnet-owt-7be5be79.pth --device cuda

With ``--freeze-features`` the convolutions are run once and only the three linear layers are trained. Deliberate
choices: one network has ten outputs, not ten networks one each; no image lies in two parts; AP is the library's, not
the devkit's interpolated one; AlexNet is the variant with published PyTorch weights, for crops of 224 pixels, not 227.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap
from bench.markdown import table
from examples import harness, report, voc
from examples.chunks import backward_in_chunks, scores_in_chunks
from examples.methods import METHODS
from examples.voc import ACTIONS, IGNORED

Loss = Callable[..., Tensor]  # of scores and labels, (n, 10) both, and the method's own parameter
MOMENTUM = 0.9


def ranking(loss: Loss, **fixed: Any) -> Loss:
    """The sum over the ten rankings: the last layer's rows get the gradients that ten networks would give theirs."""
    return partial(loss, dim=0, ignore_index=IGNORED, reduction="sum", **fixed)


def choosing(loss: Loss, **fixed: Any) -> Loss:
    """The sum over the ten actions of the mean over persons, for the two classes of logits 0 and the score."""

    def total(scores: Tensor, labels: Tensor, **own: float) -> Tensor:
        logits = F.pad(scores.reshape(-1, 1), (1, 0))
        return len(ACTIONS) * loss(logits, labels.reshape(-1), ignore_index=IGNORED, **fixed, **own)

    return total


# By the paper's names. x-ent of two classes with logits 0 and f is that of a sigmoid.
LOSSES: dict[str, Loss] = {
    "pos-AP": ranking(fastap.direct_ap_loss, update="positive"),
    "neg-AP": ranking(fastap.direct_ap_loss, update="negative"),
    "hinge-AP": ranking(fastap.ap_hinge_loss),
    "pos-01": choosing(fastap.direct_cost_loss, update="positive"),
    "hinge-01": choosing(fastap.cost_hinge_loss),
    "x-ent": choosing(F.cross_entropy),
}


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = tuple(LOSSES)
    data: Path = Path("data/VOCdevkit/VOC2012")
    weights: Path | None = None
    freeze_features: bool = False
    noises: tuple[float, ...] = (0.0, 0.2)
    finalists: int = 1
    seeds: int = 5
    # The paper's detectors learn at 0.1 and 1; from random weights, with a sum over ten rankings, 1e-4 to 1e-3 is best.
    lr: tuple[float, float] = (1e-5, 1.0)
    weight_decay: tuple[float, float] = (1e-7, 1e-3)  # of SGD
    chunk: int = 256
    side: int = 224  # of a crop, in pixels
    width: float = 1.0  # of AlexNet
    workers: int = 1  # each has all crops in memory, 0.15 MB a person
    out: Path = Path("results/voc-action.json")


QUICK = {**harness.QUICK, "steps": 10, "noises": (0.2,), "side": 64, "width": 1 / 16, "lr": (3e-5, 3e-4)}


@cache
def people(config: Config) -> voc.People:
    """All persons, read once: their crops, or what the convolutions make of these if they stay as they are.

    Without weights from a file such convolutions are random, and the same for all seeds.
    """
    everyone = voc.load(config.data, side=config.side)
    if not config.freeze_features:
        return everyone
    torch.manual_seed(0)
    net = voc.make_net(config.width, config.weights)
    net.classifier = nn.Identity()
    with torch.no_grad():
        features = scores_in_chunks(net.to(config.device), everyone.inputs.to(config.device), config.chunk)
    return replace(everyone, inputs=features)


def prepare(config: Config, trial: harness.Trial) -> tuple[nn.Module, list[voc.People]]:
    """The network before training, and the thirds; the seed draws both, the same for every method."""
    (noise,) = trial.setting
    generator = torch.Generator().manual_seed(trial.seed)
    train, valid, test = people(config).thirds(generator)
    parts = [train.with_flips(noise, generator), valid.with_flips(noise, generator), test]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        for action, column in zip(ACTIONS, part.labels.T, strict=True):
            if not ((column == 1).any() and (column == 0).any()):
                raise SystemExit(f"{action}: no positive or no negative in the {name} third; more images are needed")
    torch.manual_seed(trial.seed)
    net = voc.make_net(config.width, config.weights)
    trained = net.classifier if config.freeze_features else net
    return trained.to(config.device), [part.to(config.device) for part in parts]


def parameter_groups(net: nn.Module, lr: float, weight_decay: float) -> Iterator[dict[str, Any]]:
    """The last layer learns 10 times as fast; biases twice as fast as weights, and without decay."""
    *_, last = net.modules()
    for layer in net.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            factor = (10 if layer is last else 1) * (2 if name == "bias" else 1)
            yield {"params": [parameter], "lr": factor * lr, "weight_decay": 0.0 if name == "bias" else weight_decay}


@torch.no_grad()
def aps(net: nn.Module, part: voc.People, chunk: int) -> list[float]:
    """AP of every action, without dropout."""
    net.eval()
    scores = scores_in_chunks(net, part.inputs, chunk)
    net.train()
    found = fastap.average_precision(scores, part.labels, dim=0, ignore_index=IGNORED)
    return [round(ap, 5) for ap in found.tolist()]


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """Train by SGD with momentum, the whole training third at once, in chunks."""
    net, parts = prepare(config, trial)
    train, own = parts[0], METHODS[trial.method].parameter
    options = {own: trial.parameter} if own else {}
    optimiser = torch.optim.SGD(parameter_groups(net, trial.lr, trial.weight_decay), momentum=MOMENTUM)

    def loss(scores: Tensor) -> Tensor:
        return LOSSES[trial.method](scores, train.labels, **options)

    def update() -> None:
        optimiser.zero_grad()
        backward_in_chunks(net, train.inputs, loss, config.chunk)
        optimiser.step()

    def look() -> harness.Outcome:
        each = [aps(net, part, config.chunk) for part in parts]
        return harness.Outcome(*(round(fmean(one), 5) for one in each), each=tuple(each[-1]))

    best = harness.course(config, update, look)
    return best if best.each else replace(best, each=(0.0,) * len(ACTIONS))


def ap_table(results: harness.Results, setting: harness.Setting) -> str:
    """Actions by methods, means over the seeds; below them the mean over the actions, with its interval."""
    columns = []
    for method in results.methods():
        means = [fmean(values) for values in zip(*results.values(setting, method, "each").values(), strict=True)]
        columns.append([*(f"{mean:.3f}" for mean in means), str(report.mean_ap(results, setting, method))])
    return table([*zip((*ACTIONS, "mean"), *columns, strict=True)], ["", *results.methods()])


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    if not set(config.methods) <= set(LOSSES):
        raise SystemExit(f"--methods must be among {', '.join(LOSSES)}, got {', '.join(config.methods)}")
    if config.chunk < 1:
        raise SystemExit(f"--chunk must be at least 1, got {config.chunk}")
    results = harness.run(config, [(noise,) for noise in config.noises], fit)
    for setting in results.settings():
        print(f"\nAP on the clean test third, {report.share(setting)} of the labels flipped in the other two:\n")
        print(ap_table(results, setting))
    print(f"\n{report.chosen_table(results, report.share)}\n\n{report.source(results)}")
    if config.weights is None:
        print("\nWithout --weights, AlexNet began with random ones, not ImageNet's: not the paper's experiment.")
    print(f"\nResults: {config.out}")


if __name__ == "__main__":
    main()

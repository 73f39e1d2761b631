"""Train two models on handwritten digits, some of them mislabelled; measure AP on clean labels.

The first is a linear head on features that another network has learnt of two digits: it cannot fit everything.
Each of the other eight digits has labels of its own, a share of which is flipped. The second is a network that can fit
everything, with labels that are moved from one digit to another; there direct AP has generalised cross-entropy beside
it, to which most of the gain is due. Cross-entropy, AP hinge and direct AP share data, flips, first weights, optimiser,
learning rate and number of steps. For each training the step is chosen by AP on a validation part whose labels are
wrong as often as those of the training part. The test labels are clean, and nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastap
from bench.plots import save
from examples import data, harness, methods, report
from examples.methods import generalised_cross_entropy
from fastap.multiclass import log_odds

NOISES = (0.0, 0.1, 0.3)
Loss = Callable[[Tensor, Tensor], Tensor]  # of what the model gives, (n, classes), and labels


@dataclass(frozen=True)
class Case:
    """``ranked`` makes scores of what the model gives."""

    title: str
    images: Callable[[int], data.Part]  # of a seed
    classes: int
    model: Callable[[int, int], nn.Module]  # of the numbers of features and classes
    ranked: Callable[[Tensor], Tensor]
    losses: dict[str, Loss]
    lr: float


HEAD = Case(
    "a linear head on frozen features",
    lambda seed: data.frozen_digits(2, seed).one_vs_rest(8),
    8,
    nn.Linear,
    lambda scores: scores,
    {
        "cross-entropy": lambda scores, labels: F.binary_cross_entropy_with_logits(scores, labels.float()),
        "AP hinge": fastap.APHingeLoss(dim=0),
        "direct AP": fastap.DirectAPLoss(dim=0),
    },
    lr=0.1,  # a head grows its scores from little, for any loss
)
DIRECT = fastap.MulticlassAPLoss()
NETWORK = Case(
    "a network that can fit everything",
    lambda _: data.digits(),
    10,
    lambda features, classes: data.two_layers(features, 128, classes),
    log_odds,  # digits exclude each other
    {
        "cross-entropy": F.cross_entropy,
        "AP hinge": lambda logits, labels: fastap.ap_hinge_loss(log_odds(logits), F.one_hot(labels), dim=0),
        "direct AP": lambda logits, labels: DIRECT(logits, labels) + generalised_cross_entropy(logits, labels, q=0.7),
    },
    lr=0.003,
)
CASES = {case.title: case for case in (HEAD, NETWORK)}


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = tuple(HEAD.losses)
    no_options: ClassVar[tuple[str, ...]] = ("methods", "lr", "draws", "device")  # all of the grid, on the CPU
    seeds: int = 5
    steps: int = 500
    out: Path = Path("demo.png")


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """On the full batch; the seed draws the thirds, the flips and the first weights, the same for every method."""
    title, noise = trial.setting
    case, generator = CASES[str(title)], torch.Generator().manual_seed(trial.seed)
    parts = data.thirds(case.images(trial.seed), None, generator).standardised()
    problem = methods.Problem(len(parts.train), case.classes, one_vs_rest=parts.train.labels.dim() == 2)
    parts = parts.with_flips(float(noise), problem.n_labels, generator)
    torch.manual_seed(trial.seed)
    model, loss = case.model(parts.train.inputs.shape[1], case.classes), case.losses[trial.method]
    optimiser = harness.adamw(model.parameters(), trial.lr, trial.weight_decay)

    def update() -> None:
        optimiser.zero_grad()
        loss(model(parts.train.inputs), parts.train.labels).backward()
        optimiser.step()

    @torch.no_grad()
    def mean_ap(part: data.Part) -> float:
        scores, targets = case.ranked(model(part.inputs)), problem.targets(part.labels)
        return fastap.average_precision(scores, targets, dim=0).mean().item()

    return harness.course(config, update, lambda: harness.Outcome(*map(mean_ap, vars(parts).values())))


def run(config: Config) -> dict[str, harness.Results]:
    """Of each case, every method at every share of wrong labels, from every seed."""
    trials = [
        harness.Trial((case.title, noise), method, seed, case.lr, 0.01, 0.0)
        for case in CASES.values()
        for noise, method, seed in product(NOISES, config.methods, range(config.seeds))
    ]
    outcomes = harness.parallel(trials, partial(fit, config), harness.workers(config))
    done = dict(tqdm(outcomes, total=len(trials), unit=" trainings"))
    return {
        title: harness.Results([], {}, {trial: done[trial] for trial in trials if trial.setting[0] == title})
        for title in CASES
    }


def main() -> None:
    config = harness.parse(Config(), harness.QUICK, __doc__)
    results = run(config)
    print(f"\nAP over the digits on clean test labels; mean and half of the 95 % interval of {config.seeds} seeds:")
    figure, axes = report.panels([*CASES], width=11.0)
    for (title, found), each in zip(results.items(), axes, strict=True):
        print(f"\n{title[0].upper()}{title[1:]}, labels wrong:\n\n{report.ap_table(found, words)}\n")
        leads = [report.lead(found, setting, "cross-entropy").strip("*") for setting in found.settings()]
        print(f"Direct AP less cross-entropy, in hundredths, seed by seed: {'; '.join(leads)}")
        report.lines(found, each, found.methods(), found.settings(), [100 * noise for noise in NOISES])
        each.set(xlabel="training and validation labels that are wrong (%)", xticks=[100 * noise for noise in NOISES])
        each.legend(frameon=False, loc="lower left")
    axes[0].set_ylabel("AP over the digits, clean test labels")
    save(figure, config.out)
    print(f"\nThe same as a figure: {config.out}")


def words(setting: harness.Setting) -> str:
    return f"{float(setting[1]):.0%}"


if __name__ == "__main__":
    main()

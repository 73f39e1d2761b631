"""Train on handwritten digits, some of them mislabelled; measure AP on clean labels. Two models, of which one needs AP.

The first is a linear head on features that another network has learnt of the digits 0 and 1: it cannot fit everything.
Each of the other eight digits has labels of its own, a share of which is flipped. The second is a network that can fit
everything, with labels that are moved from one digit to another. Cross-entropy, AP hinge and direct AP share data,
flips, first weights, optimiser, learning rates and number of steps. For each training the step, and for each method
and seed the learning rate, is chosen by AP on a validation part whose labels are wrong as often as those of the
training part. The test labels are clean, and nothing is chosen by them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastap
from fastap.multiclass import log_odds

KNOWN = 2
Loss = Callable[[Tensor, Tensor], Tensor]  # of scores (n, classes) and targets like them, 0 or 1
Results = dict[tuple[str, str, float], Tensor]  # (case, method, share of wrong labels) -> test AP of every seed


@dataclass(frozen=True)
class Config:
    seeds: int = 4
    out: Path = Path("demo.png")
    noises: tuple[float, ...] = (0.0, 0.1, 0.2)
    steps_per_check: int = 10


@dataclass(frozen=True)
class Part:
    """Inputs ``(n, features)`` and targets ``(n, classes)``, 0 or 1."""

    inputs: Tensor
    targets: Tensor

    def with_flips(self, share: float, generator: torch.Generator) -> Part:
        """Turn a random ``share`` of every class's targets into their opposite."""
        places = torch.rand(self.targets.shape, generator=generator).argsort(0)
        return replace(self, targets=self.targets ^ (places < round(share * len(places))).long())

    def with_moves(self, share: float, generator: torch.Generator) -> Part:
        """Move a random ``share`` of the labels to another class, all other classes being equally likely."""
        n, classes = self.targets.shape
        moved = torch.randperm(n, generator=generator)[: round(share * n)]
        labels = self.targets.argmax(1)
        labels[moved] += torch.randint(1, classes, moved.shape, generator=generator)
        return replace(self, targets=F.one_hot(labels % classes, classes))


@dataclass(frozen=True)
class Case:
    """``scores`` ranks by what a network gives: as it is, or by log-odds where the classes exclude each other."""

    title: str
    parts: Callable[[], tuple[Part, Part, Part]]
    network: Callable[[int, int], nn.Module]
    spoil: Callable[[Part, float, torch.Generator], Part]
    losses: dict[str, Loss]
    learning_rates: tuple[float, ...]
    steps: int
    scores: Callable[[Tensor], Tensor] = lambda outputs: outputs


def split(images: Tensor, labels: Tensor, sizes: list[int]) -> tuple[Part, Part, Part]:
    """Standardised, in an order that is the same for all runs: to train, to validate, to test."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], F.one_hot(labels - labels.min())[order]
    deviation, mean = torch.std_mean(images[: sizes[0]], dim=0)
    images = (images - mean) / deviation.clamp(min=0.1)  # some pixels at the border are always blank
    train, valid, test = (Part(*part) for part in zip(images.split(sizes), targets.split(sizes), strict=True))
    return train, valid, test


def digits() -> tuple[Tensor, Tensor]:
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    return images.float() / 16, labels


def frozen_features() -> tuple[Part, Part, Part]:
    """Of the digits that a network does not know: 400 to train, 400 to validate, 637 to test."""
    images, labels = digits()
    known = labels < KNOWN
    torch.manual_seed(0)
    body, top = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, KNOWN)
    optimiser = torch.optim.AdamW([*body.parameters(), *top.parameters()], lr=3e-3)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(top(body(images[known])), labels[known]).backward()
        optimiser.step()
    with torch.no_grad():
        return split(body(images[~known]), labels[~known], [400, 400, int((~known).sum()) - 800])


CASES = (
    Case(
        "a linear head on frozen features",
        frozen_features,
        nn.Linear,
        Part.with_flips,
        {
            "cross-entropy": lambda scores, t: F.binary_cross_entropy_with_logits(scores, t.float()),
            "AP hinge": fastap.APHingeLoss(dim=0),
            "direct AP": fastap.DirectAPLoss(dim=0),
        },
        learning_rates=(0.1, 0.3),  # a head grows its scores from little, for any loss
        steps=500,
    ),
    Case(
        "a network that can fit everything",
        lambda: split(*digits(), [900, 300, 597]),
        lambda inputs, classes: nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, classes)),
        Part.with_moves,
        {
            "cross-entropy": lambda logits, t: F.cross_entropy(logits, t.argmax(1)),
            "AP hinge": lambda logits, t: fastap.ap_hinge_loss(log_odds(logits), t, dim=0),
            "direct AP": lambda logits, t: fastap.MulticlassAPLoss()(logits, t.argmax(1)),
        },
        learning_rates=(0.003, 0.01),
        steps=200,
        scores=log_odds,
    ),
)


@torch.no_grad()
def mean_ap(net: nn.Module, case: Case, part: Part) -> float:
    return fastap.average_precision(case.scores(net(part.inputs)), part.targets, dim=0).mean().item()


def fit(case: Case, loss: Loss, lr: float, seed: int, parts: tuple[Part, Part, Part], config: Config) -> list[float]:
    """Train on the full batch; return validation and test AP at the step with the best validation AP."""
    train, valid, test = parts
    torch.manual_seed(seed)
    net = case.network(train.inputs.shape[1], train.targets.shape[1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr)
    checks = []
    for step in range(1, case.steps + 1):
        optimiser.zero_grad()
        loss(net(train.inputs), train.targets).backward()
        optimiser.step()
        if step % config.steps_per_check == 0 or step == case.steps:
            checks.append([mean_ap(net, case, valid), mean_ap(net, case, test)])
    return max(checks, key=itemgetter(0))


def run(config: Config) -> Results:
    """Train every method in each case at every share of wrong labels, from every seed, at every learning rate."""
    results: Results = {}
    n_each = config.seeds * len(config.noises)
    n_trainings = n_each * sum(len(case.losses) * len(case.learning_rates) for case in CASES)
    with tqdm(total=n_trainings, unit=" trainings") as bar:
        for case in CASES:
            train, valid, test = case.parts()
            for (method, loss), noise in product(case.losses.items(), config.noises):
                bar.set_description(f"{case.title}: {method}, {noise:.0%} wrong")
                test_aps = []
                for seed in range(config.seeds):
                    generator = torch.Generator().manual_seed(seed)
                    parts = case.spoil(train, noise, generator), case.spoil(valid, noise, generator), test
                    fits = [fit(case, loss, lr, seed, parts, config) for lr in case.learning_rates]
                    test_aps.append(max(fits, key=itemgetter(0))[1])
                    bar.update(len(fits))
                results[case.title, method, noise] = torch.tensor(test_aps)
    return results


def mean_and_spread(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() if len(values) > 1 else 0.0


def table(results: Results, config: Config) -> str:
    header = ["", "", *(f"{noise:.0%} wrong" for noise in config.noises)]
    cells = {key: "{:.3f} ± {:.3f}".format(*mean_and_spread(values)) for key, values in results.items()}
    rows = [
        [case.title, method, *(cells[case.title, method, noise] for noise in config.noises)]
        for case in CASES
        for method in case.losses
    ]
    return tabulate(rows, header, tablefmt="github")


def leads(results: Results, config: Config) -> str:
    """Direct AP less cross-entropy in each case, in hundredths of AP, at every share of wrong labels."""
    lines = []
    for case in CASES:
        both = (
            [results[case.title, name, noise].mean() for noise in config.noises]
            for name in ("direct AP", "cross-entropy")
        )
        lines.append(f"{case.title}: " + ", ".join(f"{100 * (a - b):+.1f}" for a, b in zip(*both, strict=True)))
    return "\n".join(lines)


def figure(results: Results, config: Config) -> Figure:
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(CASES)), CASES, strict=True):
        for k, (method, marker) in enumerate(zip(case.losses, "osD", strict=True)):
            x = [100 * noise + (k - 1) for noise in config.noises]  # side by side: no bar hides another
            values = [results[case.title, method, noise] for noise in config.noises]
            means, spreads = zip(*map(mean_and_spread, values), strict=True)
            axes.errorbar(x, means, spreads, marker=marker, capsize=4, linewidth=2, label=method)
            for position, seeds in zip(x, values, strict=True):
                axes.scatter([position] * len(seeds), seeds, s=14, color="black", alpha=0.5, lw=0, zorder=3)
        axes.set_title(case.title[0].upper() + case.title[1:], loc="left")
        axes.set_xlabel("training and validation labels that are wrong (%)")
        axes.set_xticks([100 * noise for noise in config.noises])
        axes.set_ylabel("mean AP over the digits, clean test labels")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
    figure.suptitle(f"Handwritten digits: mean, standard deviation and each of {config.seeds} seeds", fontsize=11)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=Config.seeds, help="repetitions")
    parser.add_argument("--out", type=Path, default=Config.out, help="file of the figure")
    config = Config(**vars(parser.parse_args()))

    torch.set_num_threads(1)  # the matrices are small: a second thread mostly waits for the first
    results = run(config)
    figure(results, config).savefig(config.out, dpi=150)
    print(f"\nMean AP on clean test labels; mean ± standard deviation of {config.seeds} seeds:\n")
    print(table(results, config))
    print(f"\nDirect AP less cross-entropy, in hundredths:\n\n{leads(results, config)}")
    print(f"\nThe same as a figure: {config.out}")


if __name__ == "__main__":
    main()

"""Train a small network on handwritten digits, some of them mislabelled; measure AP on clean labels.

Ten one-vs-rest rankings (scores of shape ``(batch, 10)``, ranked along ``dim=0``) are trained with
cross-entropy, AP hinge and direct AP. The methods share everything but the loss: data, flipped labels,
initial weights, optimiser and number of steps. For each network the stopping step, and for each method and
seed the learning rate, is chosen by AP on a validation part whose labels are flipped like those of the
training part. ``margin`` and ``epsilon`` keep the library's defaults. The test labels are clean, and nothing
is chosen by them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastap

N_CLASSES = 10
Results = dict[tuple[str, float], Tensor]  # (method, share of flipped labels) -> test AP of every seed


@dataclass(frozen=True)
class Config:
    seeds: int = 4
    steps: int = 200
    out: Path = Path("demo.png")
    noises: tuple[float, ...] = (0.0, 0.2, 0.4)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    hidden: int = 128
    steps_per_check: int = 10


@dataclass(frozen=True)
class Part:
    """Standardised images ``(n, 64)`` and labels ``(n,)`` of one part of the data."""

    images: Tensor
    labels: Tensor

    def with_flips(self, share: float, generator: torch.Generator) -> Part:
        """Move a random ``share`` of the labels to another class, all other classes being equally likely."""
        n = len(self.labels)
        flipped = torch.randperm(n, generator=generator)[: round(share * n)]
        labels = self.labels.clone()
        labels[flipped] += torch.randint(1, N_CLASSES, flipped.shape, generator=generator)
        return Part(self.images, labels % N_CLASSES)


def load_parts() -> tuple[Part, Part, Part]:
    """Split the 1,797 scans once for all runs: 900 to train, 300 to validate, 597 to test."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order].float(), labels[order]
    deviation, mean = torch.std_mean(images[:900], dim=0)
    images = (images - mean) / deviation.clamp(min=0.1)  # some pixels at the border are always blank
    parts = zip(images.split([900, 300, 597]), labels.split([900, 300, 597]), strict=True)
    train, valid, test = (Part(*part) for part in parts)
    return train, valid, test


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, N_CLASSES)


def ap_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    return fastap.ap_hinge_loss(scores, one_hot(labels), dim=0)


def direct_ap(scores: Tensor, labels: Tensor) -> Tensor:
    return fastap.direct_ap_loss(scores, one_hot(labels), update="positive", dim=0)


Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {"cross-entropy": F.cross_entropy, "AP hinge": ap_hinge, "direct AP": direct_ap}


@torch.no_grad()
def mean_ap(net: nn.Module, loss: Loss, part: Part) -> float:
    """Cross-entropy ranks by probability: a softmax leaves the logits of two images incomparable."""
    scores = net(part.images).double()
    scores = scores.log_softmax(1) if loss is F.cross_entropy else scores
    return fastap.average_precision(scores, one_hot(part.labels), dim=0).mean().item()


def fit(loss: Loss, lr: float, seed: int, parts: tuple[Part, Part, Part], config: Config) -> tuple[float, float]:
    """Train on the full batch; return validation and test AP at the step with the best validation AP."""
    train, valid, test = parts
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU(), nn.Linear(config.hidden, N_CLASSES))
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    checks = []
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        loss(net(train.images), train.labels).backward()
        optimiser.step()
        if step % config.steps_per_check == 0 or step == config.steps:
            checks.append((mean_ap(net, loss, valid), mean_ap(net, loss, test)))
    return max(checks, key=lambda check: check[0])


def run(config: Config) -> Results:
    """Train every method at every share of flipped labels, from every seed, at every learning rate."""
    train, valid, test = load_parts()
    results: Results = {}
    n_networks = len(LOSSES) * len(config.noises) * config.seeds * len(config.learning_rates)
    with tqdm(total=n_networks, unit=" networks") as progress:
        for (method, loss), noise in product(LOSSES.items(), config.noises):
            progress.set_description(f"{method}, {noise:.0%} flipped")
            test_aps = []
            for seed in range(config.seeds):
                generator = torch.Generator().manual_seed(seed)
                parts = train.with_flips(noise, generator), valid.with_flips(noise, generator), test
                fits = []
                for lr in config.learning_rates:
                    fits.append(fit(loss, lr, seed, parts, config))
                    progress.update()
                test_aps.append(max(fits, key=lambda both: both[0])[1])
            results[method, noise] = torch.tensor(test_aps)
    return results


def mean_and_spread(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() if len(values) > 1 else 0.0


def table(results: Results, config: Config) -> str:
    header = ["", *(f"{noise:.0%} flipped" for noise in config.noises)]
    cells = {key: "{:.3f} ± {:.3f}".format(*mean_and_spread(values)) for key, values in results.items()}
    rows = [[method, *(cells[method, noise] for noise in config.noises)] for method in LOSSES]
    return tabulate(rows, header, tablefmt="github")


def figure(results: Results, config: Config) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for k, (method, marker) in enumerate(zip(LOSSES, "osD", strict=True)):
        x = [100 * noise + (k - 1) for noise in config.noises]  # side by side: no bar hides another
        values = [results[method, noise] for noise in config.noises]
        means, spreads = zip(*map(mean_and_spread, values), strict=True)
        axes.errorbar(x, means, spreads, marker=marker, capsize=4, linewidth=2, label=method)
        for position, seeds in zip(x, values, strict=True):
            axes.scatter([position] * len(seeds), seeds, s=14, color="black", alpha=0.5, lw=0, zorder=3)
    axes.set_title("Handwritten digits, trained on partly wrong labels\n", loc="left", fontweight="bold")
    axes.text(0, 1.02, f"mean, standard deviation and each of {config.seeds} seeds", transform=axes.transAxes)
    axes.set_xlabel("training and validation labels flipped (%)")
    axes.set_xticks([100 * noise for noise in config.noises])
    axes.set_ylabel("mean AP over the ten classes, clean test labels")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=Config.seeds, help="repetitions")
    parser.add_argument("--steps", type=int, default=Config.steps, help="training steps")
    parser.add_argument("--out", type=Path, default=Config.out, help="file of the figure")
    config = Config(**vars(parser.parse_args()))

    torch.set_num_threads(1)  # the matrices are small: a second thread mostly waits for the first
    results = run(config)
    figure(results, config).savefig(config.out, dpi=150)
    print(f"\nMean AP on clean test labels; mean ± standard deviation of {config.seeds} seeds:\n")
    print(table(results, config))
    print(f"\nThe same as a figure: {config.out}")


if __name__ == "__main__":
    main()

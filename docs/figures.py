"""The pictures of docs/guide/algorithm.md and docs/house.md, computed: ``python docs/figures.py``, light and dark.

``--check`` draws them elsewhere and says whether those in ``docs/images`` are the same.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import fastap

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
POSITIVE, NEGATIVE, OTHER = "#e8710a", "#1a80d9", "#8c8c8c"  # to be told apart on white and on black
INKS = {"light": "#333333", "dark": "#dddddd"}


def example(n_positive: int, n_negative: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, N(1, 1) of positives and N(0, 1) of negatives, and targets."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n_positive + n_negative, dtype=torch.float64, generator=generator)
    targets = torch.zeros_like(scores)
    targets[:n_positive] = 1
    return scores + targets, targets


def chosen(scores: torch.Tensor, targets: torch.Tensor, epsilon: float, update: str) -> np.ndarray:
    """a_i of the loss-augmented ranking: how many negatives stand above the i-th positive."""
    ranks = fastap.loss_augmented_ranking(scores, targets, epsilon=epsilon, update=update).ranks
    places = ranks[targets == 1].sort().values
    return (places - torch.arange(len(places))).numpy()


def terms(scores: torch.Tensor, targets: torch.Tensor, epsilon: float, sign: int) -> np.ndarray:
    """g_i(a) = S[a] - a p_i - sign (epsilon N / 2) i / (i + a), a row a positive."""
    p, n = (scores[targets == label].sort(descending=True).values.numpy() for label in (1, 0))
    a, i = np.arange(len(n) + 1), np.arange(1, len(p) + 1)[:, None]
    return np.concatenate([[0.0], np.cumsum(n)]) - a * p[:, None] - sign * epsilon * len(n) / 2 * i / (i + a)


def interleavings(figure: Figure) -> None:
    """The same ten items by score, and as the two loss-augmented rankings have them."""
    scores, targets = example(4, 6, seed=9)
    places = {
        "by score": scores.argsort(descending=True).argsort(),
        "positive update: worse": fastap.loss_augmented_ranking(scores, targets, epsilon=0.5).ranks,
        "negative update: better": fastap.loss_augmented_ranking(scores, targets, epsilon=0.5, update="negative").ranks,
    }
    for axes, (title, ranks) in zip(figure.subplots(3, 1, sharex=True), places.items(), strict=True):
        n_positive = n_negative = 0
        for item in ranks.argsort().tolist():
            positive = bool(targets[item])
            n_positive, n_negative = n_positive + positive, n_negative + (not positive)
            name = f"$p_{n_positive}$" if positive else f"$n_{n_negative}$"
            colour = POSITIVE if positive else NEGATIVE
            axes.plot(ranks[item], 0, "o", color=colour, markersize=24)
            axes.text(ranks[item], -0.05, name, ha="center", va="center", color="white")
            if positive:
                axes.text(ranks[item], 0.85, f"a = {n_negative}", ha="center", va="center")
        ap = fastap.average_precision(-ranks.double(), targets)
        axes.set_title(f"{title} (AP {ap:.2f})", loc="left", pad=2)
        axes.set(ylim=(-0.7, 1.2), xlim=(-0.6, 9.6), yticks=[])
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)


def rows(figure: Figure) -> None:
    """Terms of three positives under both updates, their best places and their bounds."""
    scores, targets = example(12, 60, seed=3)
    p, n = (scores[targets == label].sort(descending=True).values.numpy() for label in (1, 0))
    for axes, sign in zip(figure.subplots(1, 2), (1, -1), strict=True):
        g = terms(scores, targets, 0.5, sign)
        for row, shade in ((2, 1.0), (6, 0.7), (10, 0.45)):
            values = g[row] - g[row].max()
            bound = int((n > p[row]).sum())
            axes.plot(values, color=POSITIVE, alpha=shade, label=f"positive {row + 1}")
            axes.plot(values.argmax(), 0, "o", color=POSITIVE, alpha=shade)
            axes.plot(bound, values[bound], "|", color=NEGATIVE, markersize=16, markeredgewidth=2)
        axes.set(xlabel="a, negatives above it", ylim=(-4, 0.4), xlim=(-1, 56))
        axes.set_title("positive update: concave" if sign == 1 else "negative update: concave + convex", loc="left")
        axes.legend(loc="lower right", frameon=False)
    figure.axes[0].set_ylabel("$g_i(a)$ less its maximum")


def conflicts(figure: Figure) -> None:
    """Where rows alone would go under the positive update, and what the best ranking does."""
    spread, targets = example(40, 60, seed=59)
    clustered, _ = example(40, 60, seed=39)
    clustered = (clustered * 1.5).round() / 1.5 + 0.03 * clustered
    for axes, title, scores, epsilon in zip(
        figure.subplots(1, 2), ("Gaussian scores", "clustered scores"), (spread, clustered), (0.3, 1.0), strict=True
    ):
        alone = terms(scores, targets, epsilon, 1).argmax(1)
        place = chosen(scores, targets, epsilon, "positive")
        i = np.arange(1, len(alone) + 1)
        # A block ends where all rows to the right go no further left than all rows to the left of it.
        ends = np.flatnonzero(np.maximum.accumulate(alone)[:-1] <= np.minimum.accumulate(alone[::-1])[::-1][1:]) + 1
        for block in np.split(i, ends):
            if len(block) > 1:
                axes.axvspan(block[0] - 0.5, block[-1] + 0.5, color=OTHER, alpha=0.3, linewidth=0)
        axes.plot(i, alone, "x", color=NEGATIVE, label="each positive alone")
        axes.step(i, place, where="mid", color=POSITIVE, label="the best ranking")
        axes.set(xlabel="positive, from the best down")
        axes.set_title(f"{title}, epsilon {epsilon:g}", loc="left")
        axes.legend(loc="upper left", frameon=False)
    figure.axes[0].set_ylabel("a, negatives above it")


def bracket(figure: Figure) -> None:
    """D+ and D- around 1 - AP while one positive's score rises, and over epsilon."""
    scores, targets = example(3, 20, seed=8)
    left, right = figure.subplots(1, 2, sharey=True)
    moves = torch.linspace(-3, 3, 601, dtype=torch.float64)
    moved = scores.expand(len(moves), -1).clone()
    moved[:, 0] = moves + 0.00123  # past no score exactly
    epsilons = np.geomspace(0.01, 30, 200)
    draw(left, moves, lambda update: losses(moved, targets, 0.3, update), moved, targets)
    left.set(xlabel="score of one positive", ylabel="loss")
    left.set_title("epsilon 0.3", loc="left")
    fixed = scores.expand(len(epsilons), -1)
    draw(right, epsilons, lambda update: [losses(scores, targets, e, update).item() for e in epsilons], fixed, targets)
    right.set(xscale="log", xlabel="epsilon")
    right.set_title("these scores", loc="left")
    right.legend(loc="lower left", frameon=False)
    left.set_ylim(0, 1)


def losses(scores: torch.Tensor, targets: torch.Tensor, epsilon: float, update: str) -> torch.Tensor:
    """D+ or D- of each ranking."""
    return fastap.direct_ap_loss(
        scores, targets.expand_as(scores), dim=-1, epsilon=float(epsilon), update=update, reduction="none"
    )


def draw(axes: Axes, x: object, loss: Callable[[str], object], scores: torch.Tensor, targets: torch.Tensor) -> None:
    """Both losses and what they bracket."""
    axes.plot(x, loss("positive"), color=POSITIVE, label="D+, positive update")
    axes.plot(x, 1 - fastap.average_precision(scores, targets.expand_as(scores), dim=-1), color=OTHER, label="1 - AP")
    axes.plot(x, loss("negative"), color=NEGATIVE, label="D-, negative update")


WHAT = {
    "fastap.metric_learning": "for pytorch-metric-learning",
    "fastap.retrieval": "embeddings and labels",
    "fastap.metrics": "updated batch by batch",
    "fastap.modules": "the losses, options held",
    "fastap.functional": "losses and measures",
    "fastap.multiclass": "classes that exclude each other",
    "fastap.structured": "any task loss, class costs",
    "fastap.measures": "the operators without a gradient",
    "fastap.operators": "torch.library, autograd, vmap",
    "fastap.distributed": "rankings spread over ranks",
    "fastap.noise": "losses at noisy scores",
    "fastap.backends": "reference, native (C), triton",
    "fastap.reduce": "losses to one number",
    "fastap.ragged": "ids and offsets to places",
    "fastap.arguments": "what a caller may give",
    "fastap.targets": "what a target, a weight may be",
    "fastap.warning": "said once",
    "fastap.types": "Batch, Objective, Losses",
    "fastap.kernels": "kernels/: @triton.jit only",
}


def house(figure: Figure) -> None:
    """The rooms of the library, each above those that it may import from; as tests/test_layers.py holds them."""
    layers = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["LAYERS"][2:]
    axes = figure.subplots()
    axes.set(xlim=(0, 2), ylim=(-len(layers), 0))
    axes.axis("off")
    for height, rooms in enumerate(layers):
        width = 2 / len(rooms)
        for place, room in enumerate(rooms):
            corner = (place * width + 0.02, -height - 0.9)
            axes.add_patch(Rectangle(corner, width - 0.04, 0.8, fill=False, edgecolor=OTHER))
            name = room.removeprefix("fastap.")
            axes.text(corner[0] + 0.03, corner[1] + 0.4, name, va="center", weight="bold")
            axes.text(corner[0] + width - 0.07, corner[1] + 0.4, WHAT[room], va="center", ha="right", fontsize=9)


FIGURES = {
    "house": (house, (8, 5)),
    "algorithm-interleavings": (interleavings, (7, 3.4)),
    "algorithm-rows": (rows, (9, 3.6)),
    "algorithm-conflicts": (conflicts, (9, 3.6)),
    "algorithm-bracket": (bracket, (9, 3.4)),
}


def render(folder: Path) -> list[Path]:
    """All pictures as files of that folder."""
    written = []
    for name, (fill, size) in FIGURES.items():
        for scheme, ink in INKS.items():
            keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
            style = dict.fromkeys(keys, ink)
            more = {"font.size": 11, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
            # Text as text, and ids and dates that are the same every time.
            with mpl.rc_context({**style, **more, "svg.fonttype": "none", "svg.hashsalt": name}):
                figure = Figure(figsize=size, layout="constrained")
                fill(figure)
                path = folder / f"{name}-{scheme}.svg"
                figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            written.append(path)
    return written


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        render(IMAGES)
        return
    with TemporaryDirectory() as folder:
        stale = [path.name for path in render(Path(folder)) if path.read_bytes() != (IMAGES / path.name).read_bytes()]
    if stale:
        sys.exit(f"not what the library draws today: {', '.join(stale)}; run python docs/figures.py")


if __name__ == "__main__":
    main()

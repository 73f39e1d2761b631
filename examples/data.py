"""The data of the experiments: images with labels, points around the origin, the paper's teacher; parts and flips."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Part:
    """Inputs ``(n, features)``, float32, and labels ``(n,)``, int64, or ``(n, classes)``, 0 or 1 for each of them."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Part:
        return Part(self.inputs[index], self.labels[index])

    def to(self, device: str) -> Part:
        return Part(self.inputs.to(device), self.labels.to(device))

    def with_flips(self, share: float, n_labels: int, generator: torch.Generator) -> Part:
        """Move exactly ``share`` of the labels, drawn at random, to another one, all others being equally likely.

        Labels of several classes are flipped class by class.
        """
        labels = self.labels.clone()
        for column in labels.T if labels.dim() == 2 else (labels,):
            flipped = torch.randperm(len(self), generator=generator)[: round(share * len(self))]
            column[flipped] += torch.randint(1, n_labels, flipped.shape, generator=generator)
        return replace(self, labels=labels % n_labels)

    def one_vs_rest(self, n_classes: int) -> Part:
        """With a label of its own for every class."""
        return replace(self, labels=F.one_hot(self.labels, n_classes))


@dataclass(frozen=True)
class Parts:
    train: Part
    valid: Part
    test: Part

    def to(self, device: str) -> Parts:
        return Parts(self.train.to(device), self.valid.to(device), self.test.to(device))

    def with_flips(self, share: float, n_labels: int, generator: torch.Generator) -> Parts:
        """Wrong labels wherever a method looks, to train or to choose; the test labels stay as they are."""
        train, valid = (part.with_flips(share, n_labels, generator) for part in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def standardised(self) -> Parts:
        """Every feature by the mean and standard deviation it has in the training part."""
        deviation, mean = torch.std_mean(self.train.inputs, dim=0)
        deviation = deviation.clamp(min=0.1 * float(deviation.mean()))  # some pixels at the border are always blank
        parts = (Part((part.inputs - mean) / deviation, part.labels) for part in (self.train, self.valid, self.test))
        return Parts(*parts)


def thirds(data: Part, size: int | None, generator: torch.Generator) -> Parts:
    """Three disjoint random parts of the same size, of all the data or of ``3 * size`` of it.

    Of few data, less than twice what is taken, the test third is always the same: drawn anew for every seed it would
    consist of what other seeds have tuned with.
    """
    size = min(size or len(data), len(data) // 3)
    order = torch.randperm(len(data), generator=generator)
    if len(data) < 6 * size:
        held_out = torch.zeros(len(data), dtype=torch.bool)
        held_out[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:size]] = True
        order = torch.cat([order[~held_out[order]][: 2 * size], held_out.nonzero()[:, 0]])
    train, valid, test = (data[index] for index in order[: 3 * size].split(size))
    return Parts(train, valid, test)


def read_idx(path: Path) -> Tensor:
    """The array of bytes of a gzipped IDX file: two zeros, a type, the number of dimensions, sizes, values."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there; Fashion-MNIST: https://github.com/zalandoresearch/fashion-mnist")
    with gzip.open(path) as file:
        raw = file.read()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != IDX_UINT8:
        raise SystemExit(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


@cache
def fashion_mnist(folder: Path) -> Part:
    """All 70,000 images, in [0, 1], averaged over 2 x 2 pixels: 196 features keep a CPU's time for the losses."""
    images, labels = (
        torch.cat([read_idx(folder / f"{part}-{kind}-ubyte.gz") for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    pooled = F.avg_pool2d(images[:, None].float() / 255, 2)
    return Part(pooled.flatten(1), labels.long())


@cache
def digits() -> Part:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8 pixels in [0, 1]."""
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    return Part(images.float() / 16, labels.long())


def two_layers(features: int, hidden: int, scores: int) -> nn.Sequential:
    """The network of the experiments with images."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, scores))


def frozen(images: Part, known: int, body: Callable[[], nn.Module], width: int, passes: int, seed: int) -> Part:
    """``width`` features that a network has learnt of ``known`` kinds, of all the others; the seed draws which."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kinds = torch.randperm(int(images.labels.max()) + 1)
        labels = kinds.argsort()[images.labels]  # the places of the kinds in that order
        of_known = labels < known
        first, rest = (Part(images.inputs[chosen], labels[chosen]) for chosen in (of_known, ~of_known))
        net, head = body(), nn.Linear(width, known)
        optimiser = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(passes):
            for index in torch.randperm(len(first)).split(128):
                optimiser.zero_grad()
                F.cross_entropy(head(net(first.inputs[index])), first.labels[index]).backward()
                optimiser.step()
    with torch.no_grad():
        features = torch.cat([net(part) for part in rest.inputs.split(1000)])
    return Part(features, rest.labels - known)


@cache
def frozen_fashion_mnist(folder: Path, known: int, seed: int) -> Part:
    """64 features of a convolutional network."""

    def body() -> nn.Sequential:
        return nn.Sequential(
            nn.Unflatten(1, (1, 14, 14)),
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU()),
        )

    return frozen(fashion_mnist(folder), known, body, width=64, passes=2, seed=seed)


@cache
def frozen_digits(known: int, seed: int) -> Part:
    """32 features of a network of two layers."""
    return frozen(digits(), known, lambda: two_layers(64, 64, 32).append(nn.ReLU()), width=32, passes=60, seed=seed)


def convolutional(scores: int) -> nn.Sequential:
    """Of images of 14 x 14 pixels; strides in the place of pooling, a fifth of the time on one core."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 14, 14)),
        *(nn.Conv2d(1, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, scores)),
    )


def four_layers(features: int, width: int) -> nn.Sequential:
    """Teacher and student of the synthetic experiments: four linear layers with ReLU between them, one score."""
    widths = (features, width, width, width)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 1))


@torch.no_grad()
def teacher(n: int, features: int, width: int, share: float, generator: torch.Generator) -> Part:
    """Gaussian points; label 1 for the ``share`` with the highest scores of a network with weights N(0, 1)."""
    net = four_layers(features, width)
    for parameter in net.parameters():
        parameter.normal_(generator=generator)
    inputs = torch.randn(n, features, generator=generator)
    scores = net(inputs)[:, 0]
    labels = torch.zeros(n, dtype=torch.int64)
    labels[scores.topk(round(share * n)).indices] = 1
    return Part(inputs, labels)


def shells(n: int, generator: torch.Generator) -> Part:
    """Points of N(0, 100 I) in 10 dimensions: label 1 where ``|x|^2 > 1200``, 0 where ``< 1000``, none between.

    Divided by 10, the standard deviation, so that a network's first step is not its last.
    """
    kept = torch.empty(0, 10)
    while len(kept) < n:
        points = 10 * torch.randn(4 * n, 10, generator=generator)
        squares = points.square().sum(1)
        kept = torch.cat([kept, points[(squares > 1200) | (squares < 1000)]])
    kept = kept[:n]
    return Part(kept / 10, (kept.square().sum(1) > 1200).long())

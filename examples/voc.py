"""PASCAL VOC2012's action classification, for its study: the persons with their boxes and labels, and AlexNet."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

ACTIONS = (
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
)
IGNORED = -1
# The devkit's evaluation counts labels above 0 as positives and below 0 as negatives: a 0 is neither.
LABELS = {"1": 1, "-1": 0, "0": IGNORED}
# As in R-CNN: 16 of 227 pixels on every side show what lies around the box.
CONTEXT = 227 / (227 - 2 * 16)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels


@dataclass(frozen=True)
class People:
    """``n`` persons: crops ``(n, 3, side, side)``, uint8, or features of them; labels ``(n, 10)``, int64; their images.

    A label is 1, 0 or ``IGNORED``.
    """

    inputs: Tensor
    labels: Tensor
    images: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> People:
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def thirds(self, generator: torch.Generator) -> Thirds:
        """Three random parts with a third of the images each, and all persons of an image in the same one."""
        names = sorted(set(self.images))
        order = torch.randperm(len(names), generator=generator).tolist()
        part_of = {names[k]: 3 * place // len(names) for place, k in enumerate(order)}

        def part(number: int) -> People:
            index = [k for k, name in enumerate(self.images) if part_of[name] == number]
            return People(self.inputs[index], self.labels[index], tuple(self.images[k] for k in index))

        return part(0), part(1), part(2)

    def with_flips(self, share: float, generator: torch.Generator) -> People:
        """Turn exactly ``share`` of the labels of each action, drawn at random, into their opposite."""
        labels = self.labels.clone()
        for column in labels.T:
            known = (column != IGNORED).nonzero()[:, 0]
            flipped = known[torch.randperm(len(known), generator=generator)[: round(share * len(known))]]
            column[flipped] = 1 - column[flipped]
        return replace(self, labels=labels)


Thirds = tuple[People, People, People]  # training, validation, test


def load(root: Path, split: str = "trainval", side: int = 224) -> People:
    """All persons of an image set, in the order of image name and object number."""
    labels = read_labels(root, split)
    crops = torch.empty(len(labels), 3, side, side, dtype=torch.uint8)
    rows = iter(crops)
    persons = tqdm(labels, desc="reading", unit=" persons", disable=None)
    for name, pairs in groupby(persons, key=itemgetter(0)):
        things = read_objects(root / "Annotations" / f"{name}.xml")
        image = read_image(root / "JPEGImages" / f"{name}.jpg")
        for _, number in pairs:
            if not 1 <= number <= len(things):
                raise SystemExit(f"image set {split!r} names object {number} of {name}, which has {len(things)}")
            kind, box = things[number - 1]
            if kind != "person":
                raise SystemExit(f"image set {split!r} names object {number} of {name}, a {kind} and no person")
            next(rows).copy_(crop(image, box, side))
    return People(crops, torch.tensor(list(labels.values())), tuple(name for name, _ in labels))


def read_labels(root: Path, split: str) -> dict[tuple[str, int], list[int]]:
    """The ten labels of every (image, object number), sorted; ``IGNORED`` for an action that does not list the pair.

    Object numbers count from 1 and count all objects of the annotation: the devkit's example program takes its
    ``objects(number)``, and MATLAB's first index is 1.
    """
    folder = root / "ImageSets" / "Action"
    names = {words[0] for words in read_words(folder / f"{split}.txt")}
    labels: dict[tuple[str, int], list[int]] = {}
    for k, action in enumerate(ACTIONS):
        path = folder / f"{action}_{split}.txt"
        for words in read_words(path):
            if len(words) != 3 or not words[1].isdecimal() or words[2] not in LABELS:
                raise SystemExit(f"{path}: a line must be image, object number and 1, 0 or -1, got {' '.join(words)!r}")
            name, number, label = words
            if name not in names:
                raise SystemExit(f"{path} names image {name}, which {split}.txt does not")
            labels.setdefault((name, int(number)), [IGNORED] * len(ACTIONS))[k] = LABELS[label]
    if not labels:
        raise SystemExit(f"the image set {split!r} in {folder} names no person")
    return dict(sorted(labels.items()))


def read_words(path: Path) -> list[list[str]]:
    """The lines that are not blank, split at blanks."""
    return [line.split() for line in existing(path).read_text(encoding="utf-8").splitlines() if line.strip()]


Box = tuple[float, float, float, float]  # left, top, right, bottom edge, 0 at the border of the image


def read_objects(path: Path) -> list[tuple[str, Box]]:
    """Kind and box of every object, in the order of the annotation.

    The file counts pixels from 1 and includes the last one: pixel 1 lies between the edges 0 and 1. Some of VOC2012's
    coordinates are fractions. Parts of a person are objects within the object, with boxes of their own.
    """
    result = []
    for thing in ElementTree.parse(existing(path)).getroot().findall("object"):
        texts = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(text or "nan") for text in texts)
        except ValueError:
            left = top = right = bottom = math.nan
        if not (left <= right and top <= bottom):
            raise SystemExit(f"{path}: an object has the box {texts}; wanted xmin <= xmax, ymin <= ymax")
        result.append((thing.findtext("name", "").strip(), (left - 1, top - 1, right, bottom)))
    return result


def read_image(path: Path) -> Image.Image:
    with Image.open(existing(path)) as image:
        return image.convert("RGB")


def existing(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(
            f"{path} is not there; --data is the folder of PASCAL VOC2012 with JPEGImages, Annotations and ImageSets"
        )
    return path


def crop(image: Image.Image, box: Box, side: int) -> Tensor:
    """The box with its context, warped to ``(3, side, side)``; outside the image lies ImageNet's mean colour."""
    left, top, right, bottom = box
    extra_x, extra_y = ((CONTEXT - 1) / 2 * length for length in (right - left, bottom - top))
    window = (left - extra_x, top - extra_y, right + extra_x, bottom + extra_y)
    beyond = (-window[0], -window[1], window[2] - image.width, window[3] - image.height)
    margin = max(0, *map(math.ceil, beyond))
    padded = ImageOps.expand(image, margin, fill=tuple(round(255 * mean) for mean in MEAN))
    shifted = tuple(edge + margin for edge in window)
    warped = padded.resize((side, side), Image.Resampling.BILINEAR, box=shifted)
    return torch.from_numpy(np.array(warped)).permute(2, 0, 1)


class AlexNet(nn.Module):
    """The AlexNet that torchvision publishes weights for, with its names of parameters; ``(n, 3, s, s)``, uint8.

    Written here because torchvision's wheels on PyPI do not import beside PyTorch's CPU builds. ``width`` scales the
    numbers of channels. Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e, f = (round(width * channels) for channels in (64, 192, 384, 256, 256, 4096))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(36 * e, f),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(f, f),
            nn.ReLU(),
            nn.Linear(f, len(ACTIONS)),
        )
        for buffer, colours in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(buffer, torch.tensor(colours)[:, None, None], persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        features = self.features((crops / 255 - self.mean) / self.deviation)
        return self.classifier(F.adaptive_avg_pool2d(features, 6).flatten(1))


def make_net(width: float, weights: Path | None) -> AlexNet:
    """ImageNet's weights but for the last layer, or random ones by He's rule, which keeps the signal's size."""
    net = AlexNet(width)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    last = net.classifier[-1]
    nn.init.normal_(last.weight, std=0.01)
    if weights is not None:
        if not weights.is_file():
            raise SystemExit(f"--weights: {weights} is not there")
        own = {name: value for name, value in net.state_dict().items() if name.startswith("classifier.6.")}
        try:
            net.load_state_dict(torch.load(weights, weights_only=True) | own)
        except RuntimeError as error:
            raise SystemExit(
                f"--weights: {weights} does not fit torchvision's AlexNet of width {width:g}: {error}"
            ) from error
    return net

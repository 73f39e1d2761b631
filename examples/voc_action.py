"""Action classification on PASCAL VOC2012, the paper's experiment, for those who have the data (and, to finish, a GPU).

Every person with a box is an example, each of ten actions a ranking of all persons. The annotated images (``trainval``)
are split into thirds; the whole training third is one batch; labels of the training and validation thirds are flipped
at random, those of the test third are clean. Learning rate, weight decay, each method's own parameter and the stopping
step are chosen on the validation third. The network is AlexNet, from ImageNet's weights if you give them:

    python -m examples.voc_action --data VOCdevkit/VOC2012 --weights alexnet-owt-7be5be79.pth --device cuda --noise 0.2

With ``--freeze-features`` the convolutions are run once and only the three linear layers are trained. Deliberate
choices: one network has ten outputs, not ten networks one each; no image lies in two parts; AP is the library's, not
the devkit's interpolated one; AlexNet is the variant with published PyTorch weights, for crops of 224 pixels, not 227.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageOps
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastap
from bench import environment
from examples.chunks import backward_in_chunks

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
MOMENTUM = 0.9


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
            left = math.nan
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

    def embed(self, crops: Tensor) -> Tensor:
        features = self.features((crops / 255 - self.mean) / self.deviation)
        return F.adaptive_avg_pool2d(features, 6).flatten(1)

    def forward(self, crops: Tensor) -> Tensor:
        return self.classifier(self.embed(crops))


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


Loss = Callable[..., Tensor]


def ranking(loss: Loss, **fixed: Any) -> Loss:
    """The sum over the ten rankings: the last layer's rows get the gradients that ten networks would give theirs."""
    fixed |= {"dim": 0, "ignore_index": IGNORED, "reduction": "sum"}
    return lambda scores, labels, **own: loss(scores, labels, **fixed, **own)


def choosing(loss: Loss, **fixed: Any) -> Loss:
    """The sum over the ten actions of the mean over persons, for the two classes of logits 0 and the score."""

    def total(scores: Tensor, labels: Tensor, **own: float) -> Tensor:
        logits = F.pad(scores.reshape(-1, 1), (1, 0))
        return len(ACTIONS) * loss(logits, labels.reshape(-1), ignore_index=IGNORED, **fixed, **own)

    return total


# Name in the paper: (loss, the parameter of its own). x-ent of two classes with logits 0 and f is that of a sigmoid.
METHODS: dict[str, tuple[Loss, str | None]] = {
    "pos-AP": (ranking(fastap.direct_ap_loss, update="positive"), "epsilon"),
    "neg-AP": (ranking(fastap.direct_ap_loss, update="negative"), "epsilon"),
    "hinge-AP": (ranking(fastap.ap_hinge_loss), "margin"),
    "pos-01": (choosing(fastap.direct_cost_loss, update="positive"), "epsilon"),
    "hinge-01": (choosing(fastap.cost_hinge_loss), "margin"),
    "x-ent": (choosing(F.cross_entropy), None),
}


@dataclass(frozen=True)
class Config:
    data: Path
    noise: float = 0.0
    methods: tuple[str, ...] = tuple(METHODS)
    draws: int = 16
    steps: int = 300
    seed: int = 0
    weights: Path | None = None
    freeze_features: bool = False
    chunk: int = 256
    device: str = "cpu"
    out: Path = Path("voc_action.json")
    side: int = 224
    width: float = 1.0
    steps_per_check: int = 10


HELP = {
    "data": "the folder VOCdevkit/VOC2012",
    "noise": "share of the labels of each action that are flipped in the training and validation thirds",
    "methods": "those to compare",
    "draws": "triples of learning rate, weight decay and own parameter tried for each method",
    "steps": "training steps, each on the whole training third",
    "seed": "of the thirds, the flips, the random weights, the triples and dropout",
    "weights": "ImageNet's weights, a state dict of torchvision's AlexNet; random weights without it",
    "freeze_features": "train the linear layers only",
    "chunk": "persons in memory at a time",
    "device": "where to train",
    "out": "file of the results; what it holds is not run again",
}
QUICK = {"draws": 2, "steps": 20, "side": 64, "width": 1 / 8}


@dataclass(frozen=True)
class Triple:
    lr: float
    weight_decay: float
    own: float

    @staticmethod
    def draw(n: int, seed: int) -> list[Triple]:
        """Uniform by their logarithms, the same for every method.

        Learning rates and weights of decay lie around the paper's (0.1 and 1; 1e-7).
        """
        ranges = torch.tensor([(1e-3, 1.0), (1e-7, 1e-3), (0.03, 10.0)]).log()
        points = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n)
        numbers = torch.lerp(ranges[:, 0], ranges[:, 1], points).exp()
        return [Triple(*(float(f"{number:.3g}") for number in row)) for row in numbers.tolist()]


def parameter_groups(net: nn.Module, triple: Triple) -> Iterator[dict[str, Any]]:
    """The last layer learns 10 times as fast; biases twice as fast as weights, and without decay."""
    *_, last = net.modules()
    for layer in net.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            factor = (10 if layer is last else 1) * (2 if name == "bias" else 1)
            decay = 0.0 if name == "bias" else triple.weight_decay
            yield {"params": [parameter], "lr": factor * triple.lr, "weight_decay": decay}


Fit = dict[str, Any]  # its triple, and "step", "valid" (mean AP), "test" (AP of each action)


@torch.no_grad()
def in_chunks(function: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int) -> Tensor:
    return torch.cat([function(rows) for rows in inputs.split(chunk)])


def aps(net: nn.Module, part: People, chunk: int) -> Tensor:
    """AP of every action, without dropout."""
    net.eval()
    scores = in_chunks(net, part.inputs, chunk)
    net.train()
    return fastap.average_precision(scores, part.labels, dim=0, ignore_index=IGNORED)


def fit(net: nn.Module, method: str, triple: Triple, parts: Thirds, config: Config) -> Fit:
    """Train a copy of the network; APs at the checked step with the best mean AP on the validation third.

    A network whose scores are no longer finite keeps the best step it had.
    """
    train, valid, test = parts
    net = deepcopy(net).train()
    loss, own = METHODS[method]
    objective = partial(loss, labels=train.labels, **({own: triple.own} if own else {}))
    optimiser = torch.optim.SGD(parameter_groups(net, triple), momentum=MOMENTUM)
    best: Fit = {**asdict(triple), "step": 0, "valid": 0.0, "test": [0.0] * len(ACTIONS)}
    torch.manual_seed(config.seed)
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        value = backward_in_chunks(net, train.inputs, objective, config.chunk)
        if not value.isfinite():
            break
        optimiser.step()
        if step % config.steps_per_check == 0 or step == config.steps:
            mean = aps(net, valid, config.chunk).mean().item()
            if mean > best["valid"]:  # NaN is not
                best |= {"step": step, "valid": mean, "test": aps(net, test, config.chunk).tolist()}
    return best


def prepare(config: Config) -> tuple[nn.Module, Thirds]:
    """What all methods share: the network before training, the thirds and their wrong labels."""
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    net = make_net(config.width, config.weights).to(config.device)
    people = load(config.data, side=config.side)
    trained: nn.Module = net
    if config.freeze_features:
        features = in_chunks(lambda rows: net.embed(rows.to(config.device)), people.inputs, config.chunk)
        people, trained = replace(people, inputs=features), net.classifier
    train, valid, test = people.thirds(generator)
    parts = train.with_flips(config.noise, generator), valid.with_flips(config.noise, generator), test
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        for action, column in zip(ACTIONS, part.labels.T, strict=True):
            if not ((column == 1).any() and (column == 0).any()):
                raise SystemExit(f"{action}: no positive or no negative in the {name} third; more images are needed")
    train, valid, test = (part.to(config.device) for part in parts)
    return trained, (train, valid, test)


def run(config: Config) -> dict[str, list[Fit]]:
    """Every fit of every method, stored after each."""
    fits = stored(config)
    net, parts = prepare(config)
    head = {
        "about": environment.about(config.device),
        "config": settles(config),
        "actions": ACTIONS,
        "persons": [len(part) for part in parts],
    }
    triples = Triple.draw(config.draws, config.seed)
    with tqdm(total=len(config.methods) * len(triples), unit=" networks", disable=None) as progress:
        for method in config.methods:
            done = fits.setdefault(method, [])
            for k, triple in enumerate(triples):
                progress.set_description(method)
                if k == len(done):
                    done.append(fit(net, method, triple, parts, config))
                    config.out.write_text(json.dumps({**head, "fits": fits}, indent=1) + "\n", encoding="utf-8")
                progress.update()
    return {method: fits[method][: config.draws] for method in config.methods}


def settles(config: Config) -> dict[str, Any]:
    """What the outcome of a fit depends on."""
    free = ("data", "methods", "draws", "device", "out")
    given = {name: value for name, value in asdict(config).items() if name not in free}
    return given | {"weights": config.weights and str(config.weights)}


def stored(config: Config) -> dict[str, list[Fit]]:
    if not config.out.exists():
        return {}
    results = json.loads(config.out.read_text(encoding="utf-8"))
    if results["config"] != settles(config):
        raise SystemExit(f"{config.out} holds results of other options; delete it or give another --out")
    return results["fits"]


def table(fits: dict[str, list[Fit]]) -> str:
    """AP on the test third, of each method's fit with the best validation AP."""
    best = {method: max(done, key=lambda one: one["valid"])["test"] for method, done in fits.items()}
    rows = [[action, *(values[k] for values in best.values())] for k, action in enumerate(ACTIONS)]
    rows.append(["mean", *(sum(values) / len(values) for values in best.values())])
    return tabulate(rows, ["", *best], tablefmt="github", floatfmt=".3f")


def parse(arguments: list[str] | None = None) -> Config:
    """The configuration that the command line asks for: ``--quick`` changes it first, single options then."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS
    )
    quick = ", ".join(f"{name}={value:g}" for name, value in QUICK.items())
    parser.add_argument("--quick", action="store_true", help=f"{quick}: to see that all of it works")
    kinds: dict[str, dict[str, Any]] = {
        "data": {"type": Path, "required": True},
        "methods": {"nargs": "+", "choices": tuple(METHODS)},
        "weights": {"type": Path},
        "freeze_features": {"action": "store_true"},
    }
    defaults = {field.name: field.default for field in fields(Config)}
    for name, text in HELP.items():
        kind = kinds.get(name, {"type": type(defaults[name])})
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **kind)
    given = vars(parser.parse_args(arguments))
    chosen = (QUICK if given.pop("quick", False) else {}) | given
    config = Config(**{name: tuple(value) if name == "methods" else value for name, value in chosen.items()})
    if not 0 <= config.noise <= 1:
        parser.error(f"--noise must lie in [0, 1], got {config.noise:g}")
    for name in ("draws", "steps", "chunk"):
        if getattr(config, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(config, name)}")
    return config


def main(arguments: list[str] | None = None) -> None:
    config = parse(arguments)
    fits = run(config)
    print(f"\nAP on the clean test third; {config.noise:.0%} of the labels flipped in the other two:\n")
    print(table(fits))
    if config.weights is None:
        print("\nWithout --weights, AlexNet began with random ones, not ImageNet's: not the paper's experiment.")
    print(f"\nAll fits: {config.out}")


if __name__ == "__main__":
    main()

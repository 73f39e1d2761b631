"""Wrong labels: ten one-vs-rest rankings of small images, a share of their labels moved to another class.

The protocol of the paper's action classification: thirds for training, validation and test, the whole training part as
one batch, everything about a method chosen on the validation part, whose labels are as wrong as those it trains on.
The test labels are clean, and nothing is chosen by them.

    python -m examples.label_noise --data DIR            # Fashion-MNIST, from its four IDX files
    python -m examples.label_noise --dataset digits      # scikit-learn's digits

A wrong label is another kind, any being as likely. With ``--flips each`` every class has labels of its own, and of each
class the same share is turned into its opposite, as in the paper: at 20 %, two labelled positives in three are wrong.
``--model`` is the network: two layers, linear, convolutional, or frozen, which is linear on 64 features that another
network has learnt of ``--known`` kinds, drawn by the seed; there the rankings are those of the other kinds. The fewer
are known, the less these features separate the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from examples import data, harness, methods, report

MODELS = ("two layers", "linear", "frozen", "convolutional")


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = ()  # those that suit model and labels
    dataset: str = "fashion-mnist"
    flips: str = "kind"
    model: str = "two layers"
    known: int = 5
    data: Path = Path("data/fashion-mnist")
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    size: int = 1500  # of each third
    hidden: int = 128
    out: Path = Path("results/label-noise.json")


QUICK = {**harness.QUICK, "noises": (0.0, 0.4), "size": 300, "hidden": 32}


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """One network; the seed draws the thirds, the flips and the first weights, the same for every method."""
    (noise,) = trial.setting
    if config.model == "frozen":
        images = data.frozen_fashion_mnist(config.data, config.known, trial.seed)
    else:
        images = data.digits() if config.dataset == "digits" else data.fashion_mnist(config.data)
    classes = int(images.labels.max()) + 1
    generator = torch.Generator().manual_seed(trial.seed)
    parts = data.thirds(images, config.size, generator).standardised()
    problem = methods.Problem(len(parts.train), classes, one_vs_rest=config.flips == "each")
    if problem.one_vs_rest:
        parts = data.Parts(*(part.one_vs_rest(classes) for part in (parts.train, parts.valid, parts.test)))
    parts = parts.with_flips(noise, problem.n_labels, generator)
    torch.manual_seed(trial.seed)
    features = images.inputs.shape[1]
    if config.model == "convolutional":
        net: torch.nn.Module = data.convolutional(classes)
    elif config.model == "two layers":
        net = data.two_layers(features, config.hidden, classes)
    else:
        net = torch.nn.Linear(features, classes)
    return harness.fit(net.to(config.device), parts.to(config.device), problem, trial, config)


def compared(config: Config) -> tuple[str, ...]:
    """A network of two layers has the paper's methods as well. Labels of their own exclude nothing."""
    suited = methods.EXCLUSIVE if config.flips == "kind" else methods.FLEXIBLE
    if config.model == "two layers":
        return (*methods.PAPER, *methods.AP_SVM, *methods.ROBUST, *methods.OTHER_AP, *suited)
    if config.model == "convolutional":
        return ("pos-AP", "hinge-AP", "x-ent", *methods.ROBUST, *suited)
    if config.flips == "kind":
        return tuple(dict.fromkeys((*methods.RESTRICTED, *methods.EXCLUSIVE)))
    return tuple(name for name in methods.RESTRICTED if name != "BCE")  # which cross-entropy is already


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    if config.dataset not in ("fashion-mnist", "digits"):
        raise SystemExit(f"--dataset must be fashion-mnist or digits, got {config.dataset}")
    if config.dataset == "digits" and config.data != Config.data:
        raise SystemExit(f"--data is for Fashion-MNIST, got {config.data} for {config.dataset}")
    if config.flips not in ("kind", "each"):
        raise SystemExit(f"--flips must be kind or each, got {config.flips}")
    if not 2 <= config.known <= 8:
        raise SystemExit(f"--known must be 2 to 8 of the ten kinds, got {config.known}")
    if config.known != Config.known and config.model != "frozen":
        raise SystemExit(f"--known is for --model frozen, got {config.model}")
    if config.model in ("frozen", "convolutional") and config.dataset != "fashion-mnist":
        raise SystemExit(f"--model {config.model} is for Fashion-MNIST, got {config.dataset}")
    if config.model not in MODELS:
        raise SystemExit(f"--model must be one of {', '.join(MODELS)}, got {config.model}")
    if not config.methods:
        config = replace(config, methods=compared(config))
    results = harness.run(config, [(noise,) for noise in config.noises], fit)
    network = "" if config.model == MODELS[0] else config.model
    if config.model == "frozen" and config.known != Config.known:
        network = f"frozen-{config.known}"
    parts = ["label-noise", config.dataset, network, "each" if config.flips == "each" else ""]
    report.show("-".join(filter(None, parts)), results, config.out)


if __name__ == "__main__":
    main()

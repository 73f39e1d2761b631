"""Wrong labels: ten one-vs-rest rankings of small images, a share of their labels moved to another class.

The protocol of the paper's action classification: thirds for training, validation and test, the whole training part as
one batch, everything about a method chosen on the validation part, whose labels are as wrong as those it trains on.
The test labels are clean, and nothing is chosen by them.

    python -m examples.label_noise --data DIR            # Fashion-MNIST, from its four IDX files
    python -m examples.label_noise --dataset digits      # scikit-learn's digits
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from examples import data, harness, methods, report

N_CLASSES = 10


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = (*methods.PAPER, *methods.ROBUST, *methods.OTHER_AP)
    dataset: str = "fashion-mnist"
    data: Path = Path("data/fashion-mnist")
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    size: int = 1500  # of each third
    hidden: int = 128
    out: Path = Path("results/label-noise.json")


QUICK = {
    "draws": 1,
    "finalists": 1,
    "tuning_seeds": 1,
    "seeds": 2,
    "steps": 20,
    "noises": (0.0, 0.4),
    "size": 300,
    "hidden": 32,
}


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """One network; the seed draws the thirds, the flips and the first weights, the same for every method."""
    (noise,) = trial.setting
    images = data.digits() if config.dataset == "digits" else data.fashion_mnist(config.data)
    generator = torch.Generator().manual_seed(trial.seed)
    parts = data.thirds(images, config.size, generator).standardised().with_flips(noise, N_CLASSES, generator)
    torch.manual_seed(trial.seed)
    net = nn.Sequential(
        nn.Linear(images.inputs.shape[1], config.hidden), nn.ReLU(), nn.Linear(config.hidden, N_CLASSES)
    )
    problem = methods.Problem(len(parts.train), N_CLASSES, background=False)
    return harness.fit(net.to(config.device), parts.to(config.device), problem, trial, config)


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    if config.dataset not in ("fashion-mnist", "digits"):
        raise SystemExit(f"--dataset must be fashion-mnist or digits, got {config.dataset}")
    results = harness.run(config, [(noise,) for noise in config.noises], fit)
    print(report.label_noise(results))


if __name__ == "__main__":
    main()

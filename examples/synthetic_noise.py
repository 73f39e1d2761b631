"""The paper's second synthetic experiment: wrong labels of points inside and outside of a shell.

1,000 points of N(0, 100 I) in 10 dimensions, positive where ``|x|^2 > 1200`` and negative where ``< 1000``, a share of
the labels flipped; as many others to validate, flipped too, and 10,000 with clean labels to test.

    python -m examples.synthetic_noise
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from examples import data, harness, methods, report


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = ("pos-AP", "neg-AP", "hinge-AP", *methods.AP_SVM, "x-ent", *methods.FLEXIBLE)
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    points: int = 1000
    test_points: int = 10_000
    width: int = 32
    out: Path = Path("results/synthetic-noise.json")


QUICK = {**harness.QUICK, "noises": (0.0, 0.4)}


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """The seed draws points, flips and first weights, the same for every method."""
    (noise,) = trial.setting
    generator = torch.Generator().manual_seed(trial.seed)
    sizes = [config.points, config.points, config.test_points]
    points = data.shells(sum(sizes), generator)
    parts = data.Parts(*(points[index] for index in torch.arange(sum(sizes)).split(sizes)))
    parts = parts.with_flips(noise, 2, generator)
    torch.manual_seed(trial.seed)
    net = data.four_layers(parts.train.inputs.shape[1], config.width)
    problem = methods.Problem(config.points, 1, background=True)
    return harness.fit(net.to(config.device), parts.to(config.device), problem, trial, config)


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    results = harness.run(config, [(noise,) for noise in config.noises], fit)
    report.show("synthetic-noise", results, config.out)


if __name__ == "__main__":
    main()

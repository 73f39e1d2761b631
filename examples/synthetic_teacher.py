"""The paper's synthetic experiment: a network learns the ranking of another one like it.

A teacher of four layers with weights N(0, 1) scores 20,000 Gaussian points; the top 20 % are positive. Half of the
points train a student of the same architecture, as one batch; the other half tests it. Every method has the same draws,
its triple is the one with the best AP on the training half, and this is also what ends a training.

    python -m examples.synthetic_teacher
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from examples import data, harness, methods, report

FEATURES = 10
N_POINTS = 20_000
POSITIVE_SHARE = 0.2


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = (*methods.PAPER, *methods.FLEXIBLE)
    points: int = N_POINTS
    width: int = 32
    out: Path = Path("results/synthetic-teacher.json")


QUICK = {**harness.QUICK, "points": 1000}


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """The seed draws teacher, points, halves and student, the same for every method."""
    generator = torch.Generator().manual_seed(trial.seed)
    points = data.teacher(config.points, FEATURES, config.width, POSITIVE_SHARE, generator)
    train, test = (points[index] for index in torch.randperm(config.points, generator=generator).chunk(2))
    torch.manual_seed(trial.seed)
    student = data.four_layers(FEATURES, config.width)
    problem = methods.Problem(len(train), 1, background=True)
    parts = data.Parts(train, train, test)  # all is chosen by the AP on what is trained on
    return harness.fit(student.to(config.device), parts.to(config.device), problem, trial, config)


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    report.show("synthetic-teacher", harness.run(config, [()], fit), config.out)


if __name__ == "__main__":
    main()

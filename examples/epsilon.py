"""Which ``epsilon``: direct AP over a grid of it, on tasks whose scores differ in spread: all updates, with and without
noise, and ``epsilon`` given in three ways.

By itself it is the library's: in the scores' units. ``relative``: in units of the standard deviation of each ranking's
scores, a constant to the gradient. ``standardised``: of scores divided by their standard deviation, through which the
gradient flows. Noise is three times ``epsilon`` where the name does not say another factor. For every task, method and
``epsilon`` the learning rate is chosen on validation labels. What counts is whether one ``epsilon`` serves all tasks.

    python -m examples.epsilon --data DIR      # Fashion-MNIST, from its four IDX files
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from examples import detection_batches, harness, label_noise, methods, report, synthetic_noise, synthetic_teacher

# Task -> its study, the study's configuration beyond the common part, and the setting in it.
TASKS: dict[str, tuple[Callable[[Any, harness.Trial], harness.Outcome], Any, harness.Setting]] = {
    "digits, 0 %": (label_noise.fit, label_noise.Config(dataset="digits"), (0.0,)),
    "digits, 40 %": (label_noise.fit, label_noise.Config(dataset="digits"), (0.4,)),
    "Fashion-MNIST, 0 %": (label_noise.fit, label_noise.Config(), (0.0,)),
    "Fashion-MNIST, 40 %": (label_noise.fit, label_noise.Config(), (0.4,)),
    "rare positives": (detection_batches.fit, detection_batches.Config(), (0.0, 512)),
    "teacher": (synthetic_teacher.fit, synthetic_teacher.Config(), ()),
    "shells, 20 %": (synthetic_noise.fit, synthetic_noise.Config(), (0.2,)),
    "linear, 0 %": (label_noise.fit, label_noise.Config(model="linear", flips="each"), (0.0,)),
    "linear, 40 %": (label_noise.fit, label_noise.Config(model="linear", flips="each"), (0.4,)),
    "frozen, 20 %": (label_noise.fit, label_noise.Config(model="frozen", known=2, flips="each"), (0.2,)),
}


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = (
        *("pos-AP", "neg-AP", *methods.RELATIVE),
        *("sym-AP", "pos-AP noise", "neg-AP noise", "sym-AP noise", *methods.OTHER_NOISE),
    )
    no_options: ClassVar[tuple[str, ...]] = ("draws", "lr")  # all of the grid
    seeds: int = 2
    tasks: tuple[str, ...] = tuple(TASKS)
    epsilons: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    decay: float = 0.01
    data: Path = Path("data/fashion-mnist")
    out: Path = Path("results/epsilon.json")


QUICK = {**harness.QUICK, "epsilons": (0.1, 1.0), "lrs": (3e-3,), "tasks": ("digits, 0 %", "shells, 20 %")}


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    one, own, setting = TASKS[str(trial.setting[0])]
    own = replace(own, steps=config.steps, device=config.device)
    return one(replace(own, data=config.data) if hasattr(own, "data") else own, replace(trial, setting=setting))


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    for name in config.methods:
        if methods.METHODS[name].parameter != "epsilon":
            raise SystemExit(f"--methods must have an epsilon of their own, got {name}")
    trials = [
        harness.Trial((task,), method, seed, lr, config.decay, epsilon)
        for task, method, epsilon, lr, seed in product(
            config.tasks, config.methods, config.epsilons, config.lrs, range(config.seeds)
        )
    ]
    results = harness.load(config)
    harness.execute("grid", trials, config, fit, results)
    report.show("epsilon", results, config.out)


if __name__ == "__main__":
    main()

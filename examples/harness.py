"""The experiments' common course: every method tuned by the same number of draws, then repeated from fresh seeds.

A study is a set of settings (shares of wrong labels, batch sizes) and methods. For each pair of both, ``draws`` triples
of learning rate, weight decay and the method's own parameter are tried on one seed, the best ``finalists`` of them on
all ``tuning_seeds``; the triple with the best mean AP is run again on ``seeds`` other seeds, and these are the results.
The triples are the points of one scrambled Sobol sequence, mapped to each method's ranges, so that all methods have the
same chances. Trials run in parallel, each on one thread; what is done is kept in a JSON file, and a study that was
stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from itertools import product
from math import exp, isfinite, log
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from scipy.stats import qmc
from torch import nn
from tqdm import tqdm

import fastap
from bench import environment
from examples.data import Part, Parts
from examples.methods import METHODS, Method, Problem

Setting = tuple[float | str, ...]
C = TypeVar("C", bound="Config")

FIRST_TUNING_SEED = 1000  # far from those of the results
SECONDS_BETWEEN_SAVES = 20.0
OPTIONS = {
    "data": "folder of the images: the four IDX files of Fashion-MNIST, or VOCdevkit/VOC2012",
    "dataset": "fashion-mnist or digits",
    "flips": "kind: a wrong label is another kind; each: labels of every class are flipped apart",
    "weights": "state dict of torchvision's AlexNet from ImageNet; random weights without it",
    "freeze_features": "train the linear layers only",
    "methods": "those to compare",
    "draws": "triples of learning rate, weight decay and own parameter for each method",
    "seeds": "repetitions with the chosen triple",
    "steps": "training steps",
    "chunk": "items in memory at a time",
    "device": "where to train",
    "workers": "trainings at a time; 0: one a core, or one for a GPU",
    "out": "file of the results; what it holds is not run again",
}


@dataclass(frozen=True)
class Config:
    """What every study has; a field is an option of the command line if :func:`parse` finds a text for it."""

    methods: tuple[str, ...]
    draws: int = 16
    finalists: int = 4
    tuning_seeds: int = 3
    seeds: int = 10
    steps: int = 300
    steps_per_check: int = 10
    patience: int = 100  # steps without a better AP, after which a training ends
    lr: tuple[float, float] = (3e-4, 3e-2)
    weight_decay: tuple[float, float] = (1e-4, 1.0)  # of AdamW
    device: str = "cpu"
    workers: int = 0  # 0: one a core, or one for a GPU
    out: Path = Path("results.json")


# What --quick changes: everything runs, nothing is learnt. In one process, for others take seconds to start.
QUICK = {"draws": 1, "finalists": 1, "tuning_seeds": 1, "seeds": 2, "steps": 30, "workers": 1}


@dataclass(frozen=True)
class Trial:
    """One training; what the setting means the study knows."""

    setting: Setting
    method: str
    seed: int
    lr: float
    weight_decay: float
    parameter: float


@dataclass(frozen=True)
class Outcome:
    """Mean AP over the rankings of each part, at the checked step with the best validation AP."""

    train: float
    valid: float
    test: float
    step: int
    seconds: float
    each: tuple[float, ...] = ()  # test AP of every ranking, from a study that tells them


COLUMNS: dict[type, list[str]] = {record: [field.name for field in fields(record)] for record in (Trial, Outcome)}
Fit = Callable[[Any, Trial], Outcome]
Done = dict[Trial, Outcome]


@dataclass(frozen=True)
class Results:
    """A study: where it ran, the configuration that settles its trials, and these."""

    about: dict[str, Any]
    config: dict[str, Any]
    done: Done

    @cached_property
    def repeats(self) -> Done:
        """Those with the chosen triples and fresh seeds."""
        return {trial: outcome for trial, outcome in self.done.items() if trial.seed < FIRST_TUNING_SEED}

    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(trial.setting for trial in self.repeats))

    def methods(self) -> list[str]:
        return list(dict.fromkeys(trial.method for trial in self.repeats))

    def values(self, setting: Setting, method: str, part: str = "test") -> list[float]:
        """AP of every seed, in the order of the seeds."""
        found = [
            (t.seed, getattr(o, part)) for t, o in self.repeats.items() if (t.setting, t.method) == (setting, method)
        ]
        return [value for _, value in sorted(found)]

    def draws(self, setting: Setting, method: str) -> list[float]:
        """Test AP of every triple that was tried, on the first tuning seed."""
        first = FIRST_TUNING_SEED
        return [o.test for t, o in self.done.items() if (t.seed, t.setting, t.method) == (first, setting, method)]

    def chosen(self, setting: Setting, method: str) -> Trial:
        return next(trial for trial in self.repeats if (trial.setting, trial.method) == (setting, method))


def triples(method: Method, config: Config) -> list[tuple[float, float, float]]:
    """Learning rate, weight decay and the method's own parameter, each uniform by its logarithm."""
    points = qmc.Sobol(3, seed=0).random(config.draws)
    ranges = (config.lr, config.weight_decay, (method.low, method.high))
    return [
        tuple(
            float(f"{exp(log(low) + u * (log(high) - log(low))):.3g}")
            for u, (low, high) in zip(point, ranges, strict=True)
        )
        for point in points
    ]


def fit(
    net: nn.Module, parts: Parts, problem: Problem, trial: Trial, config: Config, batch: int | None = None
) -> Outcome:
    """Train by AdamW, or by the method's own optimiser, in batches drawn anew every pass; all of the part by default.

    Ends early where AP has not risen for ``patience`` steps, or where scores are no longer finite.
    """
    start = time.perf_counter()
    method = METHODS[trial.method]
    objective = method.make(problem, trial.parameter)
    optimiser = (method.optimiser or adamw)(net.parameters(), trial.lr, trial.weight_decay)
    train, index = parts.train, batches(len(parts.train), batch, config.device)
    best = Outcome(0.0, 0.0, 0.0, 0, 0.0)
    for step in range(1, config.steps + 1):
        chosen = next(index)
        optimiser.zero_grad()
        objective(net, train.inputs[chosen], train.labels[chosen], chosen).backward()
        optimiser.step()
        if step % config.steps_per_check == 0 or step == config.steps:
            aps = [mean_ap(net, part, problem) for part in (train, parts.valid, parts.test)]
            now = Outcome(*aps, step, 0.0)
            if all(map(isfinite, aps)):
                best = max(best, now, key=lambda outcome: outcome.valid)
            if not all(map(isfinite, aps)) or step - best.step >= config.patience:
                break
    return replace(best, seconds=round(time.perf_counter() - start, 2))


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


def batches(n: int, size: int | None, device: str) -> Iterator[torch.Tensor]:
    """Indices of one batch after another; every pass is a new order, and its remainder is left out."""
    while True:
        if size is None or size >= n:
            yield torch.arange(n, device=device)
        else:
            yield from (order for order in torch.randperm(n).to(device).split(size) if len(order) == size)


@torch.no_grad()
def mean_ap(net: nn.Module, part: Part, problem: Problem) -> float:
    aps = fastap.average_precision(net(part.inputs), problem.targets(part.labels), dim=0)
    return round(float(aps.mean()), 5)


def run(config: Config, settings: Sequence[Setting], one: Fit) -> Results:
    """Tune, choose, repeat; ``one(config, trial)`` is a function of a module, for other processes call it too."""
    about, done = environment.about(config.device), load(config)
    go = partial(execute, config=config, one=one, done=done, store=partial(save, config, about, done))
    tuning = [
        [Trial(setting, name, FIRST_TUNING_SEED, *triple) for triple in triples(METHODS[name], config)]
        for setting, name in product(settings, config.methods)
    ]

    def of_seeds(trial: Trial, seeds: Iterable[int]) -> list[Trial]:
        return [replace(trial, seed=seed) for seed in seeds]

    def best(trials: Sequence[Trial], n: int, seeds: Sequence[int]) -> list[Trial]:
        """The ``n`` with the highest mean AP over these seeds."""
        score = {trial: fmean(done[t].valid for t in of_seeds(trial, seeds)) for trial in trials}
        return sorted(trials, key=score.__getitem__, reverse=True)[:n]

    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + config.tuning_seeds)
    go("first seed", [trial for trials in tuning for trial in trials])
    finalists = [best(trials, config.finalists, seeds[:1]) for trials in tuning]
    go("finalists", [t for trials in finalists for trial in trials for t in of_seeds(trial, seeds[1:])])
    chosen = [best(trials, 1, seeds)[0] for trials in finalists]
    go("repeats", [t for trial in chosen for t in of_seeds(trial, range(config.seeds))])
    return Results(about, settles(config), done)


def execute(
    says: str, trials: Sequence[Trial], config: Config, one: Fit, done: Done, store: Callable[[], None]
) -> None:
    """Fill ``done`` with what is not there yet, and store it now and then."""
    left = [trial for trial in trials if trial not in done]
    on_gpu = torch.device(config.device).type == "cuda"
    workers = min(config.workers or (1 if on_gpu else os.cpu_count() or 1), len(left))
    stored = time.monotonic()
    try:
        with tqdm(total=len(trials), initial=len(trials) - len(left), desc=says, unit=" fits") as progress:
            for trial, outcome in parallel(left, partial(one, config), workers):
                done[trial] = outcome
                progress.update()
                if time.monotonic() - stored > SECONDS_BETWEEN_SAVES:
                    store()
                    stored = time.monotonic()
    finally:
        store()


def parallel(trials: Sequence[Trial], one: Callable[[Trial], Outcome], workers: int) -> Iterator[tuple[Trial, Outcome]]:
    """In the order in which they end; in this process if one worker is enough."""
    if workers <= 1:
        with one_thread():
            yield from ((trial, one(trial)) for trial in trials)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(one, trial): trial for trial in trials}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices are small: a second thread mostly waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settles(config: Config) -> dict[str, Any]:
    """The part of a configuration on which the outcome of a trial depends."""
    free = ("methods", "draws", "finalists", "tuning_seeds", "seeds", "device", "workers", "out", "data")
    plain = {name: value for name, value in asdict(config).items() if name not in free}
    return json.loads(json.dumps(plain, default=str))


def save(config: Config, about: dict[str, Any], done: Done) -> None:
    """One line a trial, with the names of its numbers above; the file is whole at any time."""
    head = {"about": about, "config": settles(config), "columns": [*COLUMNS[Trial], *COLUMNS[Outcome]]}
    rows = ",\n".join(
        json.dumps([*values(trial), *values(outcome)]).replace(", []]", "]") for trial, outcome in done.items()
    )
    config.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = config.out.with_suffix(".part")
    unfinished.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "trials": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    unfinished.replace(config.out)


def read(path: Path) -> Results:
    """A stored study."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    n = len(COLUMNS[Trial])
    done = {Trial(tuple(row[0]), *row[1:n]): Outcome(*row[n : n + 5], tuple(*row[n + 5 :])) for row in stored["trials"]}
    return Results(stored["about"], stored["config"], done)


def load(config: Config) -> Done:
    """What an earlier run with this configuration has done."""
    if not config.out.exists():
        return {}
    stored = read(config.out)
    ours = settles(config)
    other = [name for name in {**stored.config, **ours} if stored.config.get(name) != ours.get(name)]
    if other:
        raise SystemExit(f"{config.out} holds results of another {', '.join(other)}: delete it or give another --out")
    return stored.done


def values(record: Trial | Outcome) -> list[Any]:
    return [getattr(record, name) for name in COLUMNS[type(record)]]


def parse(config: C, quick: dict[str, Any], text: str) -> C:
    """The configuration that the command line asks for: ``--quick`` changes it first, single options then."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of a few seconds, to see that all of it works")
    for name, says in OPTIONS.items():
        if hasattr(config, name):
            given = getattr(config, name)
            if isinstance(given, bool):
                kind: dict[str, Any] = {"action": "store_true"}
            elif isinstance(given, tuple):
                kind = {"nargs": "+"}
            else:
                kind = {"type": Path if given is None else type(given)}  # what may be left out is a file
            parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=says, **kind)
    given = vars(parser.parse_args())
    if given.pop("quick"):
        config = replace(config, **quick)
    if "methods" in given:
        given["methods"] = tuple(given["methods"])
        for name in given["methods"]:
            if name not in METHODS:
                parser.error(f"--methods must be among {', '.join(METHODS)}, got {name}")
    return replace(config, **given)

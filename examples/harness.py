"""The experiments' common course: every method tuned by the same number of draws, then repeated from fresh seeds.

A study is a set of settings (shares of wrong labels, batch sizes) and methods. For each pair of both, ``draws`` triples
of learning rate, weight decay and the method's own parameter are tried on one seed. The best ``finalists`` of them, by
validation AP, are trained again on each of ``seeds`` other seeds, where the one with the best validation AP counts: the
results, and their spread, have the luck of that choice in them. The triples are the points of one scrambled Sobol
sequence, mapped to each method's ranges, so that all methods have the same chances. Trials run in parallel, each on one
thread; what is done is kept in a JSON file, and a study that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from itertools import product
from math import exp, isfinite, log
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, TypeVar

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

TUNING_SEED = 1000  # far from those of the results
SECONDS_BETWEEN_SAVES = 20.0
OPTIONS = {
    "data": "folder of the images: the four IDX files of Fashion-MNIST, or VOCdevkit/VOC2012",
    "dataset": "fashion-mnist or digits",
    "flips": "kind: a wrong label is another kind; each: labels of every class are flipped apart",
    "model": "two layers, linear, frozen (linear, on features learnt of other kinds) or convolutional",
    "known": "kinds that the network of frozen features has learnt",
    "weights": "state dict of torchvision's AlexNet from ImageNet; random weights without it",
    "freeze_features": "train the linear layers only",
    "methods": "those to compare",
    "noises": "shares of wrong labels",
    "lr": "lowest and highest learning rate that is drawn",
    "draws": "triples of learning rate, weight decay and own parameter for each method, a power of two",
    "seeds": "repetitions, each with its own choice among the best triples",
    "steps": "training steps",
    "passes": "passes over the training part",
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
    finalists: int = 3
    seeds: int = 10
    steps: int = 300
    steps_per_check: int = 10
    patience: int = 100  # steps without a better AP, after which a training ends
    lr: tuple[float, float] = (3e-4, 3e-2)
    weight_decay: tuple[float, float] = (1e-4, 1.0)  # of AdamW
    no_options: ClassVar[tuple[str, ...]] = ()  # fields that mean nothing in this study
    device: str = "cpu"
    workers: int = 0  # 0: one a core, or one for a GPU
    out: Path = Path("results.json")


# What --quick changes: everything runs, nothing is learnt. In one process, for others take seconds to start.
QUICK = {"draws": 1, "finalists": 1, "seeds": 2, "steps": 30, "workers": 1}


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
    step: int = 0
    seconds: float = 0.0
    each: tuple[float, ...] = ()  # test AP of every ranking, from a study that tells them


COLUMNS: dict[type, list[str]] = {record: [field.name for field in fields(record)] for record in (Trial, Outcome)}
Fit = Callable[[Any, Trial], Outcome]
Done = dict[Trial, Outcome]


@dataclass(frozen=True)
class Results:
    """A study: the runs it was made in, the configuration that settles its trials, and these."""

    runs: list[dict[str, Any]]  # each a :func:`bench.environment.about`
    config: dict[str, Any]
    done: Done

    @cached_property
    def repeats(self) -> Done:
        """Of every setting, method and fresh seed the trial with the best validation AP."""
        best: dict[tuple[Setting, str, int], Trial] = {}
        for trial, outcome in self.done.items():
            key = trial.setting, trial.method, trial.seed
            if trial.seed != TUNING_SEED and (key not in best or outcome.valid > self.done[best[key]].valid):
                best[key] = trial
        return {trial: self.done[trial] for trial in best.values()}

    def settings(self) -> list[Setting]:
        return sorted({trial.setting for trial in self.repeats})

    def methods(self) -> list[str]:
        """In the order of :data:`METHODS`, and others in that of their first trials."""
        order = [*METHODS, *dict.fromkeys(trial.method for trial in self.repeats)]
        return sorted({trial.method for trial in self.repeats}, key=order.index)

    def values(self, setting: Setting, method: str, part: str = "test") -> dict[int, float]:
        """Seed -> AP, in the order of the seeds."""
        found = [
            (t.seed, getattr(o, part)) for t, o in self.repeats.items() if (t.setting, t.method) == (setting, method)
        ]
        return dict(sorted(found))

    def draws(self, setting: Setting, method: str) -> dict[Trial, float]:
        """Test AP of every triple that was tried, on the tuning seed."""
        return {
            trial: outcome.test
            for trial, outcome in self.done.items()
            if (trial.seed, trial.setting, trial.method) == (TUNING_SEED, setting, method)
        }

    def chosen(self, setting: Setting, method: str) -> Trial:
        """One with the triple that counts on most seeds."""
        trials = [trial for trial in self.repeats if (trial.setting, trial.method) == (setting, method)]
        return Counter(replace(trial, seed=TUNING_SEED) for trial in trials).most_common(1)[0][0]


def triples(method: Method, config: Config) -> list[tuple[float, float, float]]:
    """Learning rate, weight decay and the method's own parameter, each uniform by its logarithm."""
    if config.draws & (config.draws - 1):
        raise SystemExit(f"--draws must be a power of two, where Sobol points are balanced, got {config.draws}")
    points = qmc.Sobol(3, seed=0).random(config.draws)
    if len(config.lr) != 2:
        raise SystemExit(f"--lr must be the lowest and the highest, got {len(config.lr)} numbers")
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
    """Train by AdamW, or by the method's own optimiser, in batches drawn anew every pass; by default all at once."""
    method = METHODS[trial.method]
    objective = method.make(problem, trial.parameter)
    optimiser = (method.optimiser or adamw)(net.parameters(), trial.lr, trial.weight_decay)
    train, index = parts.train, batches(len(parts.train), batch, config.device)

    def update() -> None:
        chosen = next(index)
        optimiser.zero_grad()
        objective(net, train.inputs[chosen], train.labels[chosen], chosen).backward()
        optimiser.step()

    def look() -> Outcome:
        return Outcome(*(mean_ap(net, part, problem, method) for part in (train, parts.valid, parts.test)))

    return course(config, update, look)


def course(config: Config, update: Callable[[], None], look: Callable[[], Outcome]) -> Outcome:
    """Update by update; the best of what was found by looking, which is done every ``steps_per_check`` of them.

    Ends early where validation AP has not risen for ``patience`` updates, or where scores are no longer finite.
    """
    start = time.perf_counter()
    best = Outcome(0.0, 0.0, 0.0)
    for step in range(1, config.steps + 1):
        update()
        if step % config.steps_per_check == 0 or step == config.steps:
            now = replace(look(), step=step)
            finite = all(map(isfinite, (now.train, now.valid, now.test)))
            if finite and now.valid > best.valid:
                best = now
            if not finite or step - best.step >= config.patience:
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
def mean_ap(net: nn.Module, part: Part, problem: Problem, method: Method) -> float:
    scores = problem.log_odds(net(part.inputs)) if method.chooses else net(part.inputs)
    aps = fastap.average_precision(scores, problem.targets(part.labels), dim=0)
    return round(float(aps.mean()), 5)


def run(config: Config, settings: Sequence[Setting], one: Fit) -> Results:
    """Tune, choose, repeat; ``one(config, trial)`` is a function of a module, for other processes call it too."""
    stored = load(config)
    tuning = [
        [Trial(setting, name, TUNING_SEED, *triple) for triple in triples(METHODS[name], config)]
        for setting, name in product(settings, config.methods)
    ]
    first = [trial for trials in tuning for trial in trials]
    execute("tuning", first, config, one, stored)
    repeats = [
        replace(trial, seed=seed)
        for trials in tuning
        for trial in sorted(trials, key=lambda trial: stored.done[trial].valid, reverse=True)[: config.finalists]
        for seed in range(config.seeds)
    ]
    # What an earlier run with another budget left behind must not mix with these.
    pairs, counted = {(trial.setting, trial.method) for trial in first}, {*first, *repeats}
    for trial in [t for t in stored.done if (t.setting, t.method) in pairs and t not in counted]:
        del stored.done[trial]
    execute("repeats", repeats, config, one, stored)
    return read(config.out)


def execute(says: str, trials: Sequence[Trial], config: Config, one: Fit, results: Results) -> None:
    """Add to the results what is not there yet, and store them now and then."""
    left = [trial for trial in trials if trial not in results.done]
    about = environment.about(config.device)
    if left and not any(about == {**run, "date": about["date"]} for run in results.runs):
        results.runs.append(about)
    stored = time.monotonic()
    try:
        with tqdm(total=len(trials), initial=len(trials) - len(left), desc=says, unit=" fits") as progress:
            for trial, outcome in parallel(left, partial(one, config), workers(config)):
                results.done[trial] = outcome
                progress.update()
                if time.monotonic() - stored > SECONDS_BETWEEN_SAVES:
                    save(results, config.out)
                    stored = time.monotonic()
    finally:
        save(results, config.out)


def workers(config: Config) -> int:
    """One a core, or one for a GPU, unless the configuration says how many."""
    on_gpu = torch.device(config.device).type == "cuda"
    return config.workers or (1 if on_gpu else os.cpu_count() or 1)


def parallel(trials: Sequence[Trial], one: Callable[[Trial], Outcome], workers: int) -> Iterator[tuple[Trial, Outcome]]:
    """In the order in which they end; in this process if one worker is enough."""
    workers = min(workers, len(trials))
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
    free = ("methods", "draws", "finalists", "seeds", "device", "workers", "out", "data")
    plain = {name: value for name, value in asdict(config).items() if name not in free}
    return json.loads(json.dumps(plain, default=str))


def save(results: Results, path: Path) -> None:
    """One line a trial, in an order that does not depend on which ended first; the file is whole at any time."""
    head = {"runs": results.runs, "config": results.config, "columns": [*COLUMNS[Trial], *COLUMNS[Outcome]]}
    rows = ",\n".join(map(json.dumps, sorted(row(trial, outcome) for trial, outcome in results.done.items())))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "trials": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    unfinished.replace(path)


def row(trial: Trial, outcome: Outcome) -> list[Any]:
    """The numbers of both; most studies have no AP of each ranking, and their rows end before it."""
    numbers = [getattr(record, name) for record in (trial, outcome) for name in COLUMNS[type(record)]]
    return numbers if outcome.each else numbers[:-1]


def read(path: Path) -> Results:
    """A stored study."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    n, m = len(COLUMNS[Trial]), len(COLUMNS[Trial]) + len(COLUMNS[Outcome]) - 1
    done = {Trial(tuple(row[0]), *row[1:n]): Outcome(*row[n:m], *map(tuple, row[m:])) for row in stored["trials"]}
    return Results(stored["runs"], stored["config"], done)


def load(config: Config) -> Results:
    """What earlier runs with this configuration have done."""
    ours = settles(config)
    if not config.out.exists():
        return Results([], ours, {})
    stored = read(config.out)
    other = [name for name in {**stored.config, **ours} if stored.config.get(name) != ours.get(name)]
    if other:
        raise SystemExit(f"{config.out} holds results of another {', '.join(other)}: delete it or give another --out")
    return stored


def parse(config: C, quick: dict[str, Any], text: str) -> C:
    """The configuration that the command line asks for: ``--quick`` changes it first, single options then."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of a few seconds, to see that all of it works")
    for name, says in OPTIONS.items():
        if hasattr(config, name) and name not in config.no_options:
            given = getattr(config, name)
            if isinstance(given, bool):
                kind: dict[str, Any] = {"action": "store_true"}
            elif isinstance(given, tuple):
                kind = {"nargs": "+", "type": type(given[0]) if given else str}
            else:
                kind = {"type": Path if given is None else type(given)}  # what may be left out is a file
            parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=says, **kind)
    given = vars(parser.parse_args())
    if given.pop("quick"):
        config = replace(config, out=config.out.with_stem(f"quick-{config.out.stem}"), **quick)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if "methods" in given:
        for name in given["methods"]:
            if name not in METHODS:
                parser.error(f"--methods must be among {', '.join(METHODS)}, got {name}")
    return replace(config, **given)

"""Results of the studies as tables and pictures: on the screen, and in ``docs/experiments.md``.

``python -m examples.report`` rewrites every table between a pair of marks on that page, and every picture, from
``examples/results/``. Intervals are those of Student's t, 95 %, over the seeds; differences are taken seed by seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from bench.environment import ROOT
from bench.markdown import machine, table
from bench.plots import COLOURS, DASHES, MARKERS, save
from examples import harness
from examples.harness import Results, Setting
from examples.methods import AP_SVM, LOG_ODDS, METHODS, PAPER, SMOOTHED, UNTUNED

RESULTS = ROOT / "examples" / "results"
PAGE = ROOT / "docs" / "experiments.md"
# Whose lead over the others is told: the first that was run.
OURS = (
    *("sym-AP noise, odds + 0.1 x-ent", "sym-AP noise", "symmetric with noise, epsilon"),
    *("direct AP, epsilon", "pos-AP", "direct AP"),
)

Words = Callable[[Setting], str]  # the head of a setting's column
Parts = dict[str, str]  # tables and sentences of a study, by name


class Interval(NamedTuple):
    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def interval(values: Iterable[float]) -> Interval:
    """Mean and half the width of the 95 % interval of the mean; that of one value is unknown."""
    values = list(values)
    n = len(values)
    half = student.ppf(0.975, n - 1) * stdev(values) / n**0.5 if n > 1 else float("nan")
    return Interval(fmean(values), float(half))


def ours(results: Results) -> str | None:
    return next((name for name in OURS if name in results.methods()), None)


def mean_ap(results: Results, setting: Setting, method: str, part: str = "test") -> Interval | None:
    """None where the method was not run."""
    values = results.values(setting, method, part).values()
    return interval(values) if values else None


def share(setting: Setting) -> str:
    return f"{100 * float(setting[0]):g} %"


def ap_table(results: Results, words: Words) -> str:
    """Methods by settings; the best mean of a column is bold."""
    columns = []
    for setting in results.settings():
        cells = [mean_ap(results, setting, method) for method in results.methods()]
        columns.append(bold_best(cells))
    return table([*zip(results.methods(), *columns, strict=True)], ["", *map(words, results.settings())])


def bold_best(cells: Sequence[Interval | None]) -> list[str]:
    best = max(cell for cell in cells if cell is not None)
    return ["" if cell is None else f"**{cell}**" if cell == best else str(cell) for cell in cells]


def lead_table(results: Results, words: Words, own: str | None = None) -> str:
    """How far ours, or ``own``, is ahead of each of the others, in hundredths of AP; bold where 0 is outside the
    interval."""
    own = own or ours(results)
    others = [method for method in results.methods() if method != own]
    rows = [[method, *(lead(results, setting, method, own) for setting in results.settings())] for method in others]
    return table(rows, [f"{own} less", *map(words, results.settings())])


def untuned_table(results: Results, words: Words) -> str:
    """Of each untuned method, less cross-entropy as it is and generalised, which are tuned."""
    rows = [
        [f"{method} less {other}", *(lead(results, setting, other, method) for setting in results.settings())]
        for method in results.methods()
        for other in ("x-ent", "GCE")
        if method in UNTUNED and other in results.methods()
    ]
    return table(rows, ["", *map(words, results.settings())])


def lead(results: Results, setting: Setting, other: str, own: str | None = None) -> str:
    """Of ours, or of ``own``; seed by seed, as they share data and first weights, over the seeds that both have."""
    own = own or ours(results)
    if own is None or other == own or not all(results.values(setting, name) for name in (own, other)):
        return ""
    found = gain(results, setting, own, other)
    text = f"{found.mean:+.1f} ± {found.half:.1f}"
    return f"**{text}**" if abs(found.mean) > found.half else text


def gain(results: Results, setting: Setting, method: str, other: str) -> Interval:
    """Hundredths of AP, seed by seed."""
    own, its = (results.values(setting, name) for name in (method, other))
    return interval(100 * (own[seed] - its[seed]) for seed in own if seed in its)


def draws_table(results: Results, words: Words) -> str:
    """How much a method depends on being tuned: test AP of all draws on the tuning seed, median and lower quartile."""
    rows = []
    for method in results.methods():
        row = [method]
        for setting in results.settings():
            drawn = [*results.draws(setting, method).values()]
            row.append("{1:.3f} ({0:.3f})".format(*np.quantile(drawn, [0.25, 0.5])) if drawn else "")
        rows.append(row)
    return table(rows, ["", *map(words, results.settings())])


def chosen_table(results: Results, words: Words) -> str:
    """Learning rate, weight decay, own parameter; a star on the lowest and highest of all draws."""
    rows = []
    for method in results.methods():
        own = METHODS[method].parameter
        row = [method, own]
        for setting in results.settings():
            cells: list[str] = []
            if not (drawn := results.draws(setting, method)):
                row.append("")
                continue
            chosen = results.chosen(setting, method)
            for name in ("lr", "weight_decay", "parameter") if own else ("lr", "weight_decay"):
                value, all_values = getattr(chosen, name), [getattr(trial, name) for trial in drawn]
                at_an_end = value in (min(all_values), max(all_values))
                cells.append(f"{value:.3g}{'*' * at_an_end}")
            row.append(", ".join(cells))
        rows.append(row)
    return table(rows, ["", "own parameter", *map(words, results.settings())], left=2)


def source(results: Results) -> str:
    """What was run, where, and how long it took."""
    seconds = sum(outcome.seconds for outcome in results.done.values())
    seeds = len({trial.seed for trial in results.done if trial.seed != harness.TUNING_SEED})
    all_of = {key: " and ".join(dict.fromkeys(run[key] for run in results.runs)) for key in ("device", "commit")}
    where = machine({**results.runs[-1], **all_of})
    return f"{len(results.done):,} trainings, {seconds / 3600:.1f} core hours; {seeds} seeds. {where}."


def panels(titles: Sequence[str], width: float = 7.0, height: float = 4.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    for each, title in zip(axes, titles, strict=True):
        prepare(each, title)
    return figure, axes


def prepare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def style(number: int) -> dict[str, str]:
    """The first colour is that of the first alone."""
    turn, colour = divmod(number - 1, len(COLOURS) - 1) if number else (0, -1)
    return {
        "color": COLOURS[1 + colour],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def lines(results: Results, axes: Axes, names: Sequence[str], settings: Sequence[Setting], x: Sequence[float]) -> None:
    """A line a method, with intervals, a little apart so that none hides another."""
    step = min((b - a for a, b in pairwise(x)), default=1.0) / (8 * len(names))
    own = ours(results)
    for number, method in enumerate(names):
        found = [(place, mean_ap(results, setting, method)) for place, setting in zip(x, settings, strict=True)]
        shift = (number - len(names) / 2) * step
        points = [(place + shift, *ap) for place, ap in found if ap is not None]
        places, means, halves = zip(*points, strict=True)
        axes.errorbar(
            places, means, halves, label=method, linewidth=2.6 if method == own else 1.2, markersize=5, capsize=2,
            zorder=3 if method == own else 2, **style([*METHODS, *names].index(method)),
        )  # fmt: skip


def legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)


def noise_figure(results: Results, title: str) -> Figure:
    """The paper's methods to the left, direct losses with noise, others to the right, and ours in all."""
    names = results.methods()
    found = {method: [mean_ap(results, setting, method) for setting in results.settings()] for method in names}
    means = {method: [ap.mean for ap in aps if ap is not None] for method, aps in found.items()}
    top, low = max(map(max, means.values())), min(means[ours(results) or names[0]])
    bottom = max(low - (top - low) - 0.05, min(map(min, means.values())) - 0.06)
    shown = [method for method in names if max(means[method]) > bottom]
    paper = [method for method in shown if method in PAPER or method in AP_SVM]
    smoothed = [method for method in shown if method in (*SMOOTHED, *LOG_ODDS, *UNTUNED)]
    others = [method for method in shown if method not in paper and method not in smoothed]
    own = [method for method in shown if method == ours(results)]
    groups = {title: paper, "noise, the symmetric update, sums": smoothed, "beyond the paper": others}
    groups = {says: group for says, group in groups.items() if group}
    figure, axes = panels([*groups], width=5.0 * len(groups))
    shares = [100 * float(setting[0]) for setting in results.settings()]
    for each, group in zip(axes, groups.values(), strict=True):
        lines(results, each, [*dict.fromkeys((*own, *group))], results.settings(), shares)
        each.set(xlabel="training and validation labels that are wrong (%)", xticks=shares)
        each.legend(
            fontsize=8,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=4 if len(groups) < 3 else 2,
        )
    axes[0].set(ylabel="AP, clean test labels", ylim=(bottom, top + 0.02))
    if hidden := ", ".join(method for method in names if method not in shown):
        axes[0].text(0.02, 0.02, f"below: {hidden}", transform=axes[0].transAxes, fontsize=8)
    return figure


def by_setting(results: Results, words: Words) -> Parts:
    leads = {}
    if ours(results):
        leads["lead"] = lead_table(results, words)
    if untuned := [method for method in results.methods() if method in UNTUNED]:
        leads["lead-untuned"] = lead_table(results, words, untuned[0])
        leads["untuned"] = untuned_table(results, words)
    return {
        "ap": ap_table(results, words),
        **leads,
        "draws": draws_table(results, words),
        "chosen": chosen_table(results, words),
        "source": source(results),
    }


def teacher(results: Results) -> Parts:
    """AP on both halves; nothing but the training half chooses."""
    columns = [bold_best([mean_ap(results, (), m, part) for m in results.methods()]) for part in ("train", "test")]
    leads = [lead(results, (), method) for method in results.methods()]
    rows = [*zip(results.methods(), *columns, leads, strict=True)]
    heads = ["", "AP, training half", "AP, test half", f"{ours(results)} less it, test"]
    return {"ap": table(rows, heads), "chosen": chosen_table(results, lambda _: "chosen"), "source": source(results)}


def teacher_figure(results: Results) -> Figure:
    figure, (axes,) = panels(["How well a four-layer student ranks as its teacher does"], height=3.8)
    names = results.methods()[::-1]
    for place, method in enumerate(names):
        for shift, part, colour in ((0.15, "train", COLOURS[0]), (-0.15, "test", COLOURS[1])):
            values = results.values((), method, part).values()
            mean, half = interval(values)
            label = f"{'training' if part == 'train' else 'test'} half" if place == 0 else None
            axes.errorbar(mean, place + shift, xerr=half, color=colour, marker="o", capsize=3, label=label)
            axes.scatter(values, [place + shift] * len(values), s=10, color="black", alpha=0.4, linewidth=0, zorder=3)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="AP (means, 95 % intervals, and every seed)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def batch_words(setting: Setting) -> str:
    return f"{share(setting)}, {setting[1]:,}"


def batches_figure(results: Results) -> Figure:
    noises = list(dict.fromkeys(setting[0] for setting in results.settings()))
    figure, axes = panels([f"{100 * float(noise):g} % of the labels moved" for noise in noises], width=9.0)
    for each, noise in zip(axes, noises, strict=True):
        settings = [setting for setting in results.settings() if setting[0] == noise]
        lines(results, each, results.methods(), settings, range(len(settings)))
        each.set(xlabel="items in a batch", xticks=range(len(settings)))
        each.set_xticklabels([f"{setting[1]:,}" for setting in settings])
    axes[0].set_ylabel("AP of rare kinds, clean test labels")
    legend(figure, axes[0])
    return figure


# Of the study of epsilon: method, task and epsilon -> mean AP over the seeds, at the learning rate chosen.
Grid = dict[tuple[str, str, float], float]


def grid(results: Results) -> Grid:
    found: dict[tuple[str, str, float], dict[float, list[harness.Outcome]]] = {}
    for t, outcome in results.done.items():
        found.setdefault((t.method, str(t.setting[0]), t.parameter), {}).setdefault(t.lr, []).append(outcome)
    chosen = {key: max(by_lr.values(), key=lambda each: fmean(o.valid for o in each)) for key, by_lr in found.items()}
    return {key: fmean(outcome.test for outcome in each) for key, each in chosen.items()}


def shortfalls(found: Grid, method: str, task: str, epsilon: float) -> float:
    """How far from the best AP of the task, whatever the method and epsilon."""
    return max(ap for (_, other, _), ap in found.items() if other == task) - found[method, task, epsilon]


def epsilon(results: Results) -> Parts:
    """Shortfalls of each epsilon on all tasks, and of the epsilon that is best on all other data, on each task."""
    found = grid(results)
    tasks, epsilons = (sorted({key[k] for key in found}) for k in (1, 2))
    rows, transfers = [], []
    for method in results.methods():
        by_task = {task: [100 * shortfalls(found, method, task, e) for e in epsilons] for task in tasks}
        columns = list(zip(*by_task.values(), strict=True))
        rows.append([method, *(f"{fmean(column):.1f} ({max(column):.1f})" for column in columns)])
        carried = [shortfall_of_transfer(by_task, task) for task in tasks]
        transfers.append([method, *(f"{each:.1f}" for each in (*carried, fmean(carried)))])
    return {
        "grid": table(rows, ["", *(f"{e:g}" for e in epsilons)]),
        "transfer": table(transfers, ["", *tasks, "mean"]),
        "source": source(results),
    }


def shortfall_of_transfer(by_task: dict[str, list[float]], task: str) -> float:
    """The shortfall on the task at the epsilon with the smallest mean shortfall on tasks of other data."""
    data = task.split(",", maxsplit=1)[0]
    others = [values for name, values in by_task.items() if name.split(",", maxsplit=1)[0] != data] or [by_task[task]]
    means = [fmean(column) for column in zip(*others, strict=True)]
    return by_task[task][means.index(min(means))]


def epsilon_figure(results: Results) -> Figure:
    found = grid(results)
    tasks, epsilons = (sorted({key[k] for key in found}) for k in (1, 2))
    rows = -(-len(results.methods()) // 4)
    figure = Figure(figsize=(10.0, 0.4 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False)
    for unused in axes.flat[len(results.methods()) :]:
        unused.set_visible(False)
    for each, method in zip(axes.flat, results.methods(), strict=False):
        for number, task in enumerate(tasks):
            values = [100 * shortfalls(found, method, task, e) for e in epsilons]
            each.plot(epsilons, values, label=task, linewidth=1.5, markersize=4, **style(number))
        each.set(xscale="log", ylim=(20, -0.5))
        prepare(each, method)
        each.set_title(method, fontsize=9, loc="left")
    figure.supxlabel("epsilon", fontsize=10)
    figure.supylabel("hundredths of AP below the best of the task (cut at 20)", fontsize=10)
    legend(figure, axes.flat[0])
    return figure


# Of the study of retrieval: (share of wrong labels,), loss and its own parameter -> test AP of every seed.
Retrieved = dict[tuple[Setting, str, float], list[float]]


def retrieved(results: Results) -> Retrieved:
    """At the learning rate with the best validation AP of that seed."""
    best: dict[tuple[Setting, str, float, int], harness.Outcome] = {}
    for t, outcome in results.done.items():
        key = t.setting, t.method, t.parameter, t.seed
        if key not in best or outcome.valid > best[key].valid:
            best[key] = outcome
    found: Retrieved = {}
    for key in sorted(best, key=lambda key: (not key[1].startswith("direct"), key)):
        found.setdefault(key[:3], []).append(best[key].test)
    return found


def retrieval(results: Results) -> Parts:
    """A row for every value of every loss's own parameter; then each loss with the value that its validation chose."""
    found = retrieved(results)
    settings = sorted({setting for setting, _, _ in found})
    losses = list(dict.fromkeys((name, value) for _, name, value in found))
    columns = [bold_best([interval(found[(setting, *loss)]) for loss in losses]) for setting in settings]
    rows = [*zip([f"{name} {value:g}" for name, value in losses], *columns, strict=True)]
    return {
        "values": table(rows, ["", *map(share, settings)]),
        "ap": ap_table(results, share),
        "lead": lead_table(results, share),
        "source": source(results),
    }


def retrieval_figure(results: Results) -> Figure:
    """Ours by ``epsilon``, a panel for each share of wrong labels."""
    found = {key: values for key, values in retrieved(results).items() if key[1].endswith("epsilon")}
    settings, names = sorted({key[0] for key in found}), [*dict.fromkeys(key[1] for key in found)]
    figure, panes = panels([f"{share(setting)} of the labels wrong" for setting in settings], width=9.0, height=3.8)
    for axes, setting in zip(panes, settings, strict=True):
        for number, name in enumerate(names):
            points = [(key[2], *interval(values)) for key, values in found.items() if key[:2] == (setting, name)]
            axes.errorbar(*zip(*points, strict=True), label=name.partition(",")[0], capsize=2, **style(number))
        axes.set(xscale="log", xlabel="epsilon")
    panes[0].set_ylabel("mAP, clean test labels")
    legend(figure, panes[0])
    return figure


def gains_figure(results: Results, title: str) -> Figure:
    """What each loss adds to no training, seed by seed: kinds differ more from each other than losses do."""
    figure, (axes,) = panels([title], width=9.0)
    before = "no training"
    trained = [method for method in results.methods() if method != before]
    for number, method in enumerate(trained):
        points = []
        for setting in results.settings():
            place = 100 * float(setting[0]) + (number - len(trained) / 2) * 0.8
            points.append((place, *gain(results, setting, method, before)))
        label = method.partition(",")[0]
        axes.errorbar(*zip(*points, strict=True), label=label, capsize=2, markersize=5, **style(number))
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="training and validation labels that are wrong (%)", ylabel="hundredths of mAP above no training")
    axes.set_xticks([100 * float(setting[0]) for setting in results.settings()])
    legend(figure, axes)
    return figure


class Study(NamedTuple):
    """How the results of one study are told."""

    parts: Callable[[Results], Parts]
    draw: Callable[[Results], Figure]


def of_noise(title: str) -> Study:
    return Study(partial(by_setting, words=share), partial(noise_figure, title=title))


STUDIES = {
    "synthetic-teacher": Study(teacher, teacher_figure),
    "synthetic-noise": of_noise("Inside or outside of a shell, partly wrong labels"),
    "label-noise-fashion-mnist": of_noise("Fashion-MNIST, labels moved to another kind"),
    "label-noise-fashion-mnist-each": of_noise("Fashion-MNIST, labels of each kind flipped"),
    "label-noise-fashion-mnist-linear-each": of_noise("Linear, Fashion-MNIST, labels flipped"),
    "label-noise-fashion-mnist-frozen-each": of_noise("Linear on features of five other kinds, labels flipped"),
    "label-noise-fashion-mnist-frozen-2": of_noise("Linear on features of two other kinds, labels moved"),
    "label-noise-fashion-mnist-frozen-2-each": of_noise("Linear on features of two other kinds, labels flipped"),
    "label-noise-fashion-mnist-convolutional": of_noise("Convolutional, Fashion-MNIST, labels moved"),
    "label-noise-digits": of_noise("Digits, labels moved to another kind"),
    "detection-batches": Study(partial(by_setting, words=batch_words), batches_figure),
    "epsilon": Study(epsilon, epsilon_figure),
    "retrieval-digits": Study(retrieval, retrieval_figure),
    "retrieval-fashion-mnist": Study(retrieval, partial(gains_figure, title="Kinds that training has not seen")),
}


TITLES = {
    "values": "AP of every value of every own parameter",
    "ap": "AP, mean and half of the 95 % interval over the seeds",
    "lead": "One less each of the others, in hundredths of AP",
    "lead-untuned": "An untuned one less each of the others, in hundredths of AP",
    "untuned": "Each untuned method less cross-entropy, as it is and generalised, in hundredths of AP",
    "draws": "Test AP of all draws on the tuning seed, median and (lower quartile)",
    "chosen": "Chosen on most seeds: learning rate, weight decay, own parameter (* the lowest or highest of all draws)",
    "grid": "Hundredths of AP below the best of the task, mean over the tasks and (worst task)",
    "transfer": "The epsilon that is best on the tasks of all other data, used on each task; the same hundredths",
    "source": "Source",
}


def show(name: str, results: Results, out: Path) -> None:
    """For the screen, and a picture beside the results."""
    picture, study = out.with_suffix(".png"), STUDIES.get(name, of_noise(name))  # what the page has not
    save(study.draw(results), picture)
    for part, text in study.parts(results).items():
        print(f"\n{TITLES[part]}:\n\n{text}")
    print(f"\nResults: {out}; the same as a figure: {picture}")


def fill(page: str, results: dict[str, Results]) -> str:
    """The page with every ``<!-- study part -->`` ... ``<!-- / -->`` holding what the results give."""
    parts = {name: STUDIES[name].parts(of) for name, of in results.items()}

    def block(match: re.Match[str]) -> str:
        if match[1] not in parts:  # not run yet
            return match[0]
        return f"<!-- {match[1]} {match[2]} -->\n{parts[match[1]][match[2]]}\n<!-- / -->"

    return re.sub(r"<!-- ([\w-]+) ([\w-]+) -->\n.*?<!-- / -->", block, page, flags=re.S)


def stored() -> dict[str, Results]:
    return {name: harness.read(path) for name in STUDIES if (path := RESULTS / f"{name}.json").exists()}


def main() -> None:
    results = stored()
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    for name, of in results.items():
        save(STUDIES[name].draw(of), PAGE.parent / "images" / f"{name}.png")


if __name__ == "__main__":
    main()

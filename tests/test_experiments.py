"""The experiments: their data, methods, common course and report; and every program, run the quick way."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap
from bench.environment import ROOT
from examples import data, epsilon, harness, label_noise, methods, report, retrieval
from examples.harness import Outcome, Trial
from examples.methods import METHODS, Problem


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with harness.one_thread():
        yield


# Data.


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files like Fashion-MNIST's: 6,000 images, whose brightest rows tell their kind."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for part, n in (("train", 5000), ("t10k", 1000)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        pixels = rng.integers(0, 150, (n, 28, 28), dtype=np.uint8)
        for row in (0, 1):
            pixels[np.arange(n), 2 * labels + row] += 60
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def test_images_are_read_and_pooled(images: Path) -> None:
    all_images = data.fashion_mnist(images)
    assert all_images.inputs.shape == (6000, 196)
    assert all_images.labels.bincount().tolist() == [600] * 10
    raw = data.read_idx(images / "t10k-images-idx3-ubyte.gz")
    assert raw.shape == (1000, 28, 28)
    expected = raw[7, 4:6, 8:10].double().mean() / 255
    torch.testing.assert_close(all_images.inputs[5007].view(14, 14)[2, 4].double(), expected, atol=1e-6, rtol=0)


def test_thirds_share_nothing() -> None:
    """Of few data the last third is the same for all seeds."""
    numbers = data.Part(torch.arange(100.0)[:, None], torch.arange(100))
    for size, each in ((None, 33), (10, 10)):
        first, second = (data.thirds(numbers, size, seeded(seed)) for seed in (1, 2))
        assert [len(part) for part in (first.train, first.valid, first.test)] == [each] * 3
        assert (
            len({*first.train.labels.tolist(), *first.valid.labels.tolist(), *first.test.labels.tolist()}) == 3 * each
        )
        assert first.test.labels.equal(second.test.labels) == (size is None)
        assert not first.train.labels.equal(second.train.labels)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_flips(share: float) -> None:
    labels = torch.randint(0, 10, (1000,), generator=seeded())
    part = data.Part(torch.zeros(1000, 1), labels)
    parts = data.Parts(part, part, part).with_flips(share, 10, seeded(1))
    for flipped in (parts.train, parts.valid):
        assert (flipped.labels != labels).sum() == round(share * 1000)
        assert set(flipped.labels.tolist()) <= set(range(10))
    assert torch.equal(parts.test.labels, labels)
    assert torch.equal(part.labels, labels)


# Methods.


@pytest.mark.parametrize("kind", ["plain", "background", "one_vs_rest"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns(name: str, kind: str) -> None:
    """Some steps on separable points, from zero weights, raise AP from chance to nearly 1."""
    if name == "LibAUC AP":
        pytest.importorskip("libauc")
    background, one_vs_rest = kind == "background", kind == "one_vs_rest"
    problem = Problem(items=120, classes=3, background=background, one_vs_rest=one_vs_rest)
    n_labels = 3 + background
    labels = torch.arange(120) % n_labels
    inputs = F.one_hot(labels, n_labels).float() + 0.3 * torch.randn(120, n_labels, generator=seeded())
    labels = F.one_hot(labels, 3) if one_vs_rest else labels
    torch.manual_seed(0)
    net = nn.Linear(n_labels, 3)
    nn.init.zeros_(net.weight)
    method = METHODS[name]
    if name == "pos-01":  # its ramp has a slope on the right side only: it learns from what it gets right
        net.weight.data[:, background:] = 0.1 * torch.eye(3)
    objective = method.make(problem, (method.low * method.high) ** 0.5)
    optimiser = (method.optimiser or harness.adamw)(net.parameters(), 0.01, 1e-4)
    part = data.Part(inputs, labels)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = objective(net, inputs, labels, torch.arange(120))
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    assert np.isfinite(losses).all()
    if name == "pos-01":
        assert losses[-1] < losses[0] - 0.05
    else:
        assert harness.mean_ap(net, part, problem, method) > 0.9


@pytest.mark.parametrize("update", ["positive", "negative"])
def test_relative_epsilon(update: Any) -> None:
    """The gradient is that of an absolute epsilon, scaled by the spread; so a scaled score has a scaled gradient."""
    scores = torch.randn(200, 1, generator=seeded(), dtype=torch.float64) * 7
    targets = torch.rand(200, 1, generator=seeded(1)) < 0.2

    def gradient(scores: Tensor, loss: Any, epsilon: float) -> Tensor:
        leaf = scores.clone().requires_grad_()
        loss(leaf, targets, dim=0, epsilon=epsilon, update=update).backward()
        assert leaf.grad is not None
        return leaf.grad

    relative = gradient(scores, methods.relative_direct_ap, 0.3)
    absolute = gradient(scores, fastap.direct_ap_loss, 0.3 * float(scores.std()))
    torch.testing.assert_close(relative, absolute)
    torch.testing.assert_close(gradient(5 * scores, methods.relative_direct_ap, 0.3), relative / 5)
    through = gradient(scores, methods.standardised_direct_ap, 0.3)
    assert abs(float((through * scores).sum())) < 1e-12  # no gain in scaling
    assert abs(float((absolute * scores).sum())) > 1e-3


# The common course.


@dataclass(frozen=True)
class Toy(harness.Config):
    methods: tuple[str, ...] = ("pos-AP", "x-ent")
    draws: int = 8
    seeds: int = 3
    calls: Path = Path()


def toy_fit(config: Toy, trial: Trial) -> Outcome:
    """Best at a learning rate of 3e-3, less good for noise; tells how often it is asked."""
    with config.calls.open("a", encoding="utf-8") as file:
        file.write("x")
    value = 1 - abs(np.log(trial.lr / 3e-3)) / 10 - float(trial.setting[0]) / 10 - trial.seed % 7 / 1000
    return Outcome(0.0, value, value - 0.1, 10, 0.5)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(out=tmp_path / "deep" / "toy.json", calls=tmp_path / "calls", workers=1)


def n_calls(config: Toy) -> int:
    return len(config.calls.read_text(encoding="utf-8")) if config.calls.exists() else 0


def test_tune_choose_repeat(toy: Toy) -> None:
    results = harness.run(toy, [(0.0,), (0.5,)], toy_fit)
    assert n_calls(toy) == 4 * (8 + 3 * 3) == len(results.done)
    assert results.settings() == [(0.0,), (0.5,)]
    assert results.methods() == ["pos-AP", "x-ent"]
    for setting in results.settings():
        chosen = results.chosen(setting, "x-ent")
        lrs = sorted((t[0] for t in harness.triples(METHODS["x-ent"], toy)), key=lambda lr: abs(np.log(lr / 3e-3)))
        finalists = {t.lr for t in results.done if (t.setting, t.method, t.seed) == (setting, "x-ent", 0)}
        assert finalists == set(lrs[:3])
        assert chosen.lr == lrs[0]
        assert [*results.values(setting, "x-ent")] == [0, 1, 2]
        assert len(results.draws(setting, "x-ent")) == 8
    assert results.values((0.0,), "x-ent")[0] > results.values((0.5,), "x-ent")[0]
    assert results.values((0.0,), "x-ent")[0] == pytest.approx(results.values((0.0,), "x-ent", "valid")[0] - 0.1)


def test_what_is_done_is_not_done_again(toy: Toy) -> None:
    first = harness.run(replace(toy, methods=("x-ent",)), [(0.0,)], toy_fit)
    before = n_calls(toy)
    assert harness.run(replace(toy, methods=("x-ent",)), [(0.0,)], toy_fit) == first
    assert n_calls(toy) == before
    more = harness.run(replace(toy, seeds=5), [(0.0,)], toy_fit)  # another method, and two more seeds of the first
    assert n_calls(toy) == before + 3 * 2 + (8 + 3 * 5)
    assert more.methods() == ["pos-AP", "x-ent"]
    assert harness.read(toy.out) == more
    assert len(more.runs) == 1


def small_fit(steps: int, patience: int = 1000, batch: int | None = None) -> Outcome:
    points = data.shells(1500, seeded())
    parts = data.Parts(points[:500], points[500:1000], points[1000:])
    torch.manual_seed(0)
    problem = Problem(500, 1, background=True)
    trial = Trial((), "pos-AP", 0, 1e-2, 1e-2, 0.3)
    course = Toy(steps=steps, patience=patience)
    return harness.fit(data.four_layers(10, 16), parts, problem, trial, course, batch)


def test_fit_learns_and_repeats_to_the_bit() -> None:
    long, again, short = (replace(small_fit(steps), seconds=0) for steps in (120, 120, 10))
    assert long == again
    assert long.valid > short.valid
    assert long.test > 0.8
    assert long.step % 10 == 0


# The report.


def made(values: dict[str, list[float]], setting: tuple[float, ...] = (0.2,)) -> harness.Results:
    done = {
        Trial(setting, method, seed, 1e-3, 1e-2, 0.5): Outcome(0.9, 0.8, value, 10, 1.0)
        for method, each in values.items()
        for seed, value in [*enumerate(each), (harness.TUNING_SEED, 0.5)]
    }
    about = {"device": "abacus", "type": "cpu", "threads": 1, "versions": {"torch": "2"}, "commit": "abc"}
    about["date"] = "2026"
    return harness.Results([about], {}, done)


def test_tables() -> None:
    results = made({"pos-AP": [0.8, 0.9], "x-ent": [0.7, 0.8], "MAE": [0.9, 0.8], "sym-AP noise, untuned": [0.8, 0.8]})
    text = report.by_setting(results, report.share)
    assert "20 %" in text["ap"]
    assert "0.850 ± 0.635" in text["ap"]
    assert "**+10.0 ± 0.0**" in text["lead"]  # seed by seed there is no doubt
    assert "+0.0 ± 127.1" in text["lead"]
    assert "+5.0 ± 63.5" in text["untuned"]  # less x-ent
    assert "0.001*, 0.01*, 0.5*" in text["chosen"]
    assert "0.500 (0.500)" in text["draws"]
    assert "12 trainings" in text["source"]
    assert "2 seeds" in text["source"]


def test_the_page_is_what_the_results_give() -> None:
    """After new results: ``python -m examples.report``."""
    page, results = report.PAGE.read_text(encoding="utf-8"), report.stored()
    assert page == report.fill(page, results)
    assert len(results) >= 6
    for name in results:
        assert f"<!-- {name} source -->" in page
        assert f"images/{name}.png" in page
        assert (report.PAGE.parent / "images" / f"{name}.png").exists()


def test_generalised_cross_entropy_at_any_logits() -> None:
    """Its formula, and a gradient where float32 rounds a softmax to 0."""
    labels = torch.tensor([0, 1, 2])
    for size in (1.0, 300.0):
        logits = (size * torch.randn(3, 4, generator=seeded())).requires_grad_()
        loss = methods.generalised_cross_entropy(logits, labels, q=0.7)
        expected = ((1 - logits.double().softmax(1)[labels, labels] ** 0.7) / 0.7).mean()
        torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=1e-6)
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


# The programs.

PROGRAMS = {
    "synthetic_teacher": [],
    "synthetic_noise": [],
    "label_noise": ["--data", "{images}"],
    "label_noise frozen": ["--data", "{images}", "--model", "frozen", "--known", "3", "--methods", "sym-AP noise"],
    "label_noise digits": ["--dataset", "digits", "--flips", "each", "--methods", "pos-AP", "x-ent"],
    "detection_batches": ["--data", "{images}"],
    "epsilon": [],
    "retrieval": [],
    "retrieval unseen": ["--dataset", "fashion-mnist", "--data", "{images}"],
}


@pytest.mark.full
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    options = [word.format(images=images) for word in PROGRAMS[program]]
    command = [sys.executable, "-W", "error", "-m", f"examples.{program.split(maxsplit=1)[0]}", "--quick", *options]
    command += ["--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"Results: {out}" in done.stdout
    results = harness.read(out)
    assert all(0 < outcome.test <= 1 for outcome in results.done.values())
    assert out.with_suffix(".png").stat().st_size > 10_000
    if program == "label_noise":
        assert ("LibAUC AP" in results.methods()) == (find_spec("libauc") is not None)


@pytest.mark.parametrize(
    ("program", "options", "says"),
    [
        (epsilon, ["--methods", "pos-AP", "x-ent"], "--methods must have an epsilon of their own, got x-ent"),
        (
            label_noise,
            ["--dataset", "digits", "--data", "images"],
            "--data is for Fashion-MNIST, got images for digits",
        ),
        (retrieval, ["--data", "images"], "--data is for Fashion-MNIST, got images for digits"),
        (label_noise, ["--known", "3"], "--known is for --model frozen, got two layers"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    program: ModuleType, options: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *options])
    with pytest.raises(SystemExit, match=says):
        program.main()

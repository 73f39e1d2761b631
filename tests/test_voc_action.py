"""The data are files of this test in the layout of VOC2012: flat stripes whose colour is the action of a person."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples import harness, voc, voc_action
from examples.harness import Outcome, Trial
from examples.methods import METHODS
from examples.voc import ACTIONS, IGNORED, AlexNet, People
from examples.voc_action import LOSSES, QUICK, Config

STRIPE = 16  # two blocks of a JPEG, so that colours stay flat
HEIGHT = 32
COLOURS = dict(
    zip(
        (*ACTIONS, "other"),
        [
            (230, 25, 25),
            (25, 230, 25),
            (25, 25, 230),
            (230, 230, 25),
            (230, 25, 230),
            (25, 230, 230),
            (240, 240, 240),
            (10, 10, 10),
            (230, 130, 25),
            (120, 25, 130),
            (110, 110, 110),
        ],
        strict=True,
    )
)


@dataclass(frozen=True)
class Thing:
    """An object of an annotation; ``labels``: those that differ from -1, or None where no image set names it."""

    colour: str
    labels: dict[str, int] | None = field(default_factory=dict)
    kind: str = "person"


def person(action: str, **labels: int) -> Thing:
    return Thing(action, ({} if action == "other" else {action: 1}) | labels)


def write_voc(root: Path, images: dict[str, list[Thing]], split: str = "trainval") -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Action"):
        (root / folder).mkdir(parents=True)
    rows: dict[str, list[str]] = {action: [] for action in ACTIONS}
    for name, things in images.items():
        pixels = np.full((HEIGHT, STRIPE * max(len(things), 1), 3), 128, np.uint8)
        objects = []
        for k, thing in enumerate(things):
            pixels[:, STRIPE * k : STRIPE * (k + 1)] = COLOURS[thing.colour]
            # Inside the stripe, by more than the context around the box.
            box = (STRIPE * k + 3, 5.0, STRIPE * (k + 1) - 2, HEIGHT - 4.0)
            sides = "".join(
                f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            actions = "".join(f"<{action}>{int(action == thing.colour)}</{action}>" for action in (*ACTIONS, "other"))
            head = "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
            part = f"<part><name>head</name><bndbox>{head}</bndbox></part>"
            objects.append(
                f"<object><name>{thing.kind}</name><actions>{actions}</actions><bndbox>{sides}</bndbox>{part}</object>"
            )
            if thing.labels is not None:
                for action in ACTIONS:
                    rows[action].append(f"{name}  {k + 1} {thing.labels.get(action, -1):2d}")
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        text = f"<annotation><filename>{name}.jpg</filename>{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    sets = root / "ImageSets" / "Action"
    (sets / f"{split}.txt").write_text("\n".join(images) + "\n")
    for action, lines in rows.items():
        (sets / f"{action}_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A horse, a person whom no set names, one with two actions, one with a difficult label, an image of nobody."""
    images = {
        "2011_000002": [
            Thing("other", None, "horse"),
            person("ridinghorse"),
            Thing("walking", None),
            person("phoning", walking=1),
        ],
        "2011_000003": [],
        "2011_000001": [person("other"), person("running", jumping=0)],
    }
    return write_voc(tmp_path / "VOC2012", images)


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every action twice or more in any third, whichever of the images fall into it."""
    images = {f"2012_{k:06d}": [person(action) for action in ACTIONS] for k in range(12)}
    images["2012_000003"][1] = person("other", phoning=0)
    images["2012_000012"] = []
    return write_voc(tmp_path_factory.mktemp("voc") / "VOC2012", images)


def row(**labels: int) -> list[int]:
    return [labels.get(action, 0) for action in ACTIONS]


def test_loader_reads_persons_in_order(few: Path) -> None:
    people = voc.load(few, side=8)
    assert people.images == ("2011_000001", "2011_000001", "2011_000002", "2011_000002")
    expected = [row(), row(running=1, jumping=IGNORED), row(ridinghorse=1), row(phoning=1, walking=1)]
    assert people.labels.tolist() == expected
    assert people.labels.dtype == torch.int64
    assert people.inputs.shape == (4, 3, 8, 8)
    assert people.inputs.dtype == torch.uint8
    for crop, action in zip(people.inputs, ("other", "running", "ridinghorse", "phoning"), strict=True):
        # The object number counts the horse too, or a crop would have its neighbour's colour. 3: what JPEG may change.
        assert (crop - torch.tensor(COLOURS[action])[:, None, None]).abs().max() <= 3


def test_a_pair_that_an_action_does_not_list_is_ignored_there(few: Path) -> None:
    (few / "ImageSets" / "Action" / "reading_trainval.txt").write_text("2011_000001 1 1\n")
    labels = voc.read_labels(few, "trainval")
    assert labels["2011_000001", 1] == row(reading=1)
    assert labels["2011_000001", 2] == row(running=1, jumping=IGNORED, reading=IGNORED)


def test_boxes_count_pixels_from_one_and_may_be_fractions(few: Path) -> None:
    box = "<bndbox><xmax>10.5</xmax><xmin>1</xmin><ymin>2.25</ymin><ymax>20</ymax></bndbox>"
    path = few / "Annotations" / "x.xml"
    path.write_text(f"<annotation><object><name> person </name>{box}</object></annotation>")
    assert voc.read_objects(path) == [("person", (0, 1.25, 10.5, 20))]


def test_crop_inside_the_image_is_the_image_around_the_box() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 310, 3), np.uint8)
    crop = voc.crop(Image.fromarray(pixels), (50, 60, 245, 255), 227)  # 195 x 195: nothing is scaled
    assert torch.equal(crop, torch.from_numpy(pixels[44:271, 34:261]).permute(2, 0, 1))


def test_crop_beyond_the_image_has_the_mean_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (195, 195, 3), np.uint8)
    crop = voc.crop(Image.fromarray(pixels), (0, 0, 195, 195), 227)
    assert torch.equal(crop[:, 16:-16, 16:-16], torch.from_numpy(pixels).permute(2, 0, 1))
    around = torch.ones(227, 227, dtype=torch.bool)
    around[16:-16, 16:-16] = False
    assert crop[:, around].unique(dim=1).tolist() == [[124], [116], [104]]
    net = AlexNet(1 / 8)
    assert ((crop[:, :1, :1] / 255 - net.mean) / net.deviation).abs().max() < 0.01


def test_crop_warps_each_axis_by_itself() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 40:] = 200
    crop = voc.crop(Image.fromarray(pixels), (20, 10, 60, 30), 100)
    assert crop.shape == (3, 100, 100)
    assert crop[:, :, :48].max() == 0
    assert crop[:, :, 52:].min() == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("ImageSets/Action/trainval.txt", r"trainval\.txt is not there; --data is the folder of PASCAL VOC2012"),
        ("ImageSets/Action/reading_trainval.txt", r"reading_trainval\.txt is not there"),
        ("Annotations/2011_000002.xml", r"2011_000002\.xml is not there"),
        ("JPEGImages/2011_000001.jpg", r"2011_000001\.jpg is not there"),
    ],
)
def test_missing_files(few: Path, path: str, says: str) -> None:
    (few / path).unlink()
    with pytest.raises(SystemExit, match=says):
        voc.load(few)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2011_000001 1", r"a line must be image, object number and 1, 0 or -1, got '2011_000001 1'"),
        ("2011_000001 1 2", "got '2011_000001 1 2'"),
        ("2011_000001 one 1", "got '2011_000001 one 1'"),
        ("2011_000009 1 1", r"names image 2011_000009, which trainval\.txt does not"),
        ("2011_000001 3 1", "names object 3 of 2011_000001, which has 2"),
        ("2011_000001 0 1", "names object 0 of 2011_000001"),
        ("2011_000002 1 1", "names object 1 of 2011_000002, a horse and no person"),
    ],
)
def test_wrong_lines_of_an_image_set(few: Path, line: str, says: str) -> None:
    path = few / "ImageSets" / "Action" / "walking_trainval.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(SystemExit, match=says):
        voc.load(few)


def test_an_image_set_without_persons(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="names no person"):
        voc.load(write_voc(tmp_path / "voc", {"2011_000001": []}))


@pytest.mark.parametrize("sides", ["", "<xmin>5</xmin><ymin>1</ymin><xmax>4</xmax><ymax>9</ymax>", "<xmin>a</xmin>"])
def test_wrong_boxes(few: Path, sides: str) -> None:
    path = few / "Annotations" / "2011_000001.xml"
    path.write_text(f"<annotation><object><name>person</name><bndbox>{sides}</bndbox></object></annotation>")
    with pytest.raises(SystemExit, match=r"2011_000001\.xml: an object has the box"):
        voc.load(few)


def test_thirds_never_share_an_image() -> None:
    """11 images of 1 to 11 persons; each person's input is its place in the whole."""
    images = tuple(f"{k:02d}" for k in range(11) for _ in range(k + 1))
    people = People(torch.arange(66)[:, None], torch.arange(66)[:, None] % 2, images)
    parts = people.thirds(torch.Generator().manual_seed(0))
    names = [set(part.images) for part in parts]
    assert sorted(map(len, names)) == [3, 4, 4]
    assert set.union(*names) == set(images)
    assert torch.cat([part.inputs for part in parts])[:, 0].sort().values.tolist() == list(range(66))
    for part in parts:
        assert part.images == tuple(images[k] for k in part.inputs[:, 0].tolist())
        assert torch.equal(part.labels, part.inputs % 2)
    again = people.thirds(torch.Generator().manual_seed(0))
    other = people.thirds(torch.Generator().manual_seed(1))
    assert [part.images for part in again] == [part.images for part in parts]
    assert [part.images for part in other] != [part.images for part in parts]


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_flips_turn_an_exact_share_of_the_known_labels(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (60, len(ACTIONS)), generator=generator)
    labels[torch.arange(10), torch.arange(10)] = IGNORED  # one of each action
    people = People(torch.zeros(60, 1), labels.clone(), ("",) * 60)
    flipped = people.with_flips(share, generator).labels
    assert torch.equal(people.labels, labels)
    assert torch.equal(flipped == IGNORED, labels == IGNORED)
    assert ((flipped + labels == 1) & (labels != IGNORED)).sum(0).tolist() == [round(59 * share)] * len(ACTIONS)
    assert ((flipped != labels).sum(0) == round(59 * share)).all()


def test_alexnet_has_the_names_and_shapes_of_the_published_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in AlexNet().state_dict().items()}
    weights = {
        "features.0": (64, 3, 11, 11),
        "features.3": (192, 64, 5, 5),
        "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3),
        "features.10": (256, 256, 3, 3),
        "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096),
        "classifier.6": (10, 4096),
    }
    expected = {f"{name}.weight": shape for name, shape in weights.items()}
    assert shapes == expected | {f"{name}.bias": shape[:1] for name, shape in weights.items()}


def test_weights_but_those_of_the_last_layer_are_taken(tmp_path: Path) -> None:
    published = AlexNet(1 / 32).state_dict()
    published["classifier.6.weight"], published["classifier.6.bias"] = torch.ones(1000, 128), torch.ones(1000)
    torch.save(published, tmp_path / "alexnet.pth")
    net = voc.make_net(1 / 32, tmp_path / "alexnet.pth")
    for name, value in net.state_dict().items():
        if not name.startswith("classifier.6"):
            assert torch.equal(value, published[name])
    assert net.classifier[-1].weight.abs().max() < 0.1
    with pytest.raises(SystemExit, match=r"does not fit torchvision's AlexNet of width 0\.125"):
        voc.make_net(1 / 8, tmp_path / "alexnet.pth")
    with pytest.raises(SystemExit, match=r"--weights: .*none\.pth is not there"):
        voc.make_net(1 / 32, tmp_path / "none.pth")


def test_learning_rates_and_decay() -> None:
    net = AlexNet(1 / 32)
    groups = list(voc_action.parameter_groups(net, 0.5, 0.25))
    name_of = {parameter: name for name, parameter in net.named_parameters()}
    found = {name_of[group["params"][0]]: (group["lr"], group["weight_decay"]) for group in groups}
    assert len(groups) == len(found) == len(name_of)
    assert found["features.0.weight"] == found["classifier.4.weight"] == (0.5, 0.25)
    assert found["features.10.bias"] == (1.0, 0.0)
    assert found["classifier.6.weight"] == (5.0, 0.25)
    assert found["classifier.6.bias"] == (10.0, 0.0)


@pytest.mark.parametrize("method", LOSSES)
def test_methods_leave_out_ignored_labels_and_sum_over_actions(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(30, len(ACTIONS), dtype=torch.float64, generator=generator, requires_grad=True)
    labels = (torch.rand(30, len(ACTIONS), generator=generator) < 0.3).long()
    labels[:5] = IGNORED
    own = METHODS[method].parameter
    options = {own: 0.5} if own else {}
    value = LOSSES[method](scores, labels, **options)
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.equal(gradient[:5], torch.zeros(5, len(ACTIONS), dtype=torch.float64))
    assert gradient[5:].abs().sum() > 0
    torch.testing.assert_close(LOSSES[method](scores[5:], labels[5:], **options), value)
    each = [LOSSES[method](scores[5:, k : k + 1], labels[5:, k : k + 1], **options) for k in range(len(ACTIONS))]
    if "AP" in method:
        torch.testing.assert_close(torch.stack(each).sum(), value)
    if method == "x-ent":
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores[5:], labels[5:].double())
        torch.testing.assert_close(value, len(ACTIONS) * expected)


def quick(data: Path, **changes: object) -> Config:
    return Config(data=data, **{**QUICK, **changes})


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["voc_action", *map(str, options)])
    voc_action.main()


@pytest.mark.full
def test_the_program_runs(
    dozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    run(monkeypatch, "--data", dozen, "--quick", "--out", out)
    results = harness.read(out)
    assert results.settings() == [(0.2,)]
    assert set(results.methods()) == set(LOSSES)
    text = capsys.readouterr().out
    last_row = next(line for line in text.splitlines() if line.startswith("| mean"))
    for method in LOSSES:
        values = results.values((0.2,), method).values()
        assert len(values) == 2
        assert all(0 < value <= 1 for value in values)
        assert f" {sum(values) / 2:.3f} ± " in last_row
    for outcome in results.repeats.values():
        assert outcome.test == pytest.approx(sum(outcome.each) / len(ACTIONS), abs=1e-5)
    assert "Without --weights" in text
    assert f"Results: {out}" in text


def test_actions_by_methods() -> None:
    """The mean of every action over the seeds; below, that of the actions' means, with the interval of the seeds."""
    done = {
        Trial((0.2,), "pos-AP", seed, 0.1, 0.1, 1.0): Outcome(0.0, 0.0, mean, 10, 1.0, (mean,) * 9 + (0.5 + seed,))
        for seed, mean in enumerate((0.5, 0.7))
    }
    lines = voc_action.ap_table(harness.Results([], {}, done), (0.2,)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*ACTIONS, "mean"]
    assert [line.split("|")[2].strip() for line in lines] == [
        "pos-AP", lines[1].split("|")[2], *["0.600"] * 9, "1.000", "0.600 ± 1.271"
    ]  # fmt: skip


def trial(method: str, noise: float = 0.0, seed: int = 0) -> Trial:
    return Trial((noise,), method, seed, 3e-4, 1e-5, 1.0)


# pos-01 is left out: where one label in ten is 1, it soon finds that to call nobody a positive is a 0-1 loss of 0.1.
@pytest.mark.parametrize("method", [method for method in LOSSES if method != "pos-01"])
def test_a_method_learns(dozen: Path, method: str) -> None:
    """A colour is an action, so AP of 1 is possible; all scores equal have 0.1, the colours in a random order 0.29."""
    config = quick(dozen, freeze_features=True, steps=40)
    assert voc_action.fit(config, trial(method)).test > 0.5


def test_convolutions_are_trained(dozen: Path) -> None:
    """15 persons at a time: the last chunk of 40 has 10."""
    outcome = voc_action.fit(quick(dozen, chunk=15, steps=20), replace(trial("hinge-AP"), lr=1e-4))
    assert min(outcome.train, outcome.valid, outcome.test) > 0.5


def test_frozen_features(dozen: Path) -> None:
    """Seed 0 draws the frozen convolutions, so with it the network is that of crops, chunk by chunk or not."""
    config = quick(dozen, freeze_features=True, chunk=15)
    net, parts = voc_action.prepare(config, trial("x-ent"))
    assert [len(part) for part in parts] == [40, 40, 40]
    assert parts[0].inputs.shape == (40, 36 * 16)
    assert not parts[0].inputs.requires_grad
    assert voc_action.people(config) is voc_action.people(config)
    whole, crops = voc_action.prepare(quick(dozen), trial("x-ent"))
    assert crops[0].images == parts[0].images
    torch.testing.assert_close(net.eval()(parts[2].inputs), whole.eval()(crops[2].inputs))
    other, others = voc_action.prepare(config, trial("x-ent", seed=1))
    assert not torch.equal(other[1].weight, net[1].weight)
    rows = {tuple(row) for part in parts for row in part.inputs.tolist()}
    assert rows == {tuple(row) for part in others for row in part.inputs.tolist()}


def test_the_seed_draws_thirds_flips_and_network(dozen: Path) -> None:
    config = quick(dozen)
    (net, parts), (again, same), (other, others) = (
        voc_action.prepare(config, trial("x-ent", 0.2, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(net.features[0].weight, again.features[0].weight)
    assert not torch.equal(net.features[0].weight, other.features[0].weight)
    clean = voc_action.prepare(config, trial("x-ent"))[1]
    for part, twin, stranger, right in zip(parts, same, others, clean, strict=True):
        assert part.images == twin.images == right.images != stranger.images
        assert torch.equal(part.labels, twin.labels)
    n_wrong = [int((part.labels != right.labels).sum()) for part, right in zip(parts, clean, strict=True)]
    assert n_wrong[2] == 0
    assert abs(n_wrong[0] - 80) <= 1  # 8 of 40 labels of each action; of 39 where one is ignored
    assert abs(n_wrong[1] - 80) <= 1


def test_a_network_that_diverges_keeps_its_best_step(dozen: Path) -> None:
    outcome = voc_action.fit(quick(dozen), replace(trial("x-ent"), lr=1e30))
    assert (outcome.valid, outcome.step, outcome.each) == (0.0, 0, (0.0,) * len(ACTIONS))


def test_too_few_images(few: Path) -> None:
    with pytest.raises(SystemExit, match="jumping: no positive or no negative in the training third"):
        voc_action.fit(quick(few), trial("x-ent"))


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*words: str) -> Config:
        monkeypatch.setattr(sys, "argv", ["voc_action", *words])
        return harness.parse(Config(), QUICK, "")

    assert parse() == Config()
    assert parse("--weights", "a.pth", "--freeze-features", "--chunk", "8", "--data", "x") == Config(
        weights=Path("a.pth"), freeze_features=True, chunk=8, data=Path("x")
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--chunk", "0"], "--chunk must be at least 1, got 0"),
        (["--methods", "pos-AP", "MAE"], "--methods must be among pos-AP, .*, x-ent, got pos-AP, MAE"),
        (["--quick"], r"trainval\.txt is not there; --data"),
    ],
)
def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        run(monkeypatch, "--data", tmp_path, "--out", tmp_path / "out.json", *options)

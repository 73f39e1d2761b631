"""What users met: each call as they wrote it, and the right value or the words that help."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import fastap
from fastap import metrics, warning
from fastap.retrieval.targets import without_unused
from tests.losses import AS_FUNCTION, LOSSES
from tests.processes import results

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Columns, and batches of nothing


@pytest.mark.parametrize("module", [fastap.DirectAPLoss, fastap.APHingeLoss, fastap.APPerceptronLoss])
def test_a_column_of_scores_is_not_rankings_of_one_item(module: type[nn.Module]) -> None:
    net, x, y = nn.Linear(4, 1), torch.randn(30, 4), TARGETS[:, None]
    with pytest.raises(ValueError, match=r"dim must be given for scores of shape \(30, 1\): dim=0.*a column"):
        module()(net(x), y)
    with pytest.raises(ValueError, match=r"got 30 rankings of one item each.*dim=0.*scores\.squeeze\(1\)"):
        module(dim=-1)(net(x), y)
    one = module(dim=0).eval()(net(x), y)
    assert one == module().eval()(net(x).squeeze(1), y.squeeze(1)) > 0
    with pytest.raises(ValueError, match="more than one item"):
        module(dim=0, reduction="none")(torch.randn(1, 5), torch.ones(1, 5))
    assert module()(torch.randn(1), torch.ones(1)) == 0  # one ranking, of one item
    assert module(dim=-1)(torch.randn(0, 1), torch.ones(0, 1)) == 0
    with pytest.raises(ValueError, match="30 rankings of one item each"):
        fastap.loss_augmented_ranking(net(x), y, dim=-1)


def columns_of_ranks(rank: int) -> None:
    """One item of every ranking on each rank; and on one rank all there is, which is told on every rank."""
    options: dict[str, Any] = {"dim": -1, "process_group": torch.distributed.group.WORLD}
    assert fastap.direct_ap_loss(scores(rank, 4, 1), torch.arange(4).view(4, 1) % 2 == rank, **options) > 0
    with pytest.raises(ValueError, match="4 rankings of one item each"):
        fastap.direct_ap_loss(scores(0, 4, 1 - rank), torch.ones(4, 1 - rank), **options)


def test_a_shard_may_have_one_item_of_every_ranking(tmp_path: Path) -> None:
    results(columns_of_ranks, 2, tmp_path)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been warned of."""
    monkeypatch.setattr(warning, "_WARNED", set())


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "call",
    [
        lambda: fastap.direct_ap_loss(scores(), torch.zeros(30)),
        lambda: fastap.direct_ap_loss(scores(1, 3, 30), TARGETS.expand(3, 30) * 2 - 1, ignore_index=-1, dim=-1),
        lambda: fastap.ap_hinge_loss(scores(), torch.ones(30), reduction="sum"),
        lambda: fastap.APPerceptronLoss()(scores(), torch.ones(30), groups=torch.arange(30) % 2),
        lambda: fastap.direct_ap_loss(scores(), torch.zeros(30), backend="reference"),
        lambda: fastap.retrieval_ap_loss(scores(2, 6, 4), torch.arange(6)),
    ],
)
def test_a_batch_of_nothing_is_warned_of_once(call: Callable[[], Tensor]) -> None:
    with pytest.warns(fastap.FastapWarning, match="no ranking of this batch takes part.*targets > 0") as told:
        assert call() == 0
    assert told[0].filename == __file__  # the line of the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call() == 0


@pytest.mark.usefixtures("fresh")
def test_what_is_no_mistake_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastap.direct_ap_loss(scores(1, 0), torch.zeros(0))
        fastap.direct_ap_loss(scores(1, 2, 30), torch.stack([TARGETS, TARGETS & False]), dim=-1)
        # Of a chunk, not of the batch.
        labels = torch.tensor([0, 1, 2, 3, 4, 4])
        fastap.retrieval_ap_loss(scores(2, 6, 4), labels, max_pairs=6)


# Where the positive update has no gradient: guide/epsilon.md tells it


def test_the_dead_zone_of_the_positive_update() -> None:
    leaf = torch.tensor([1.01, 1.0, 1.02, 0.99, 0.9, 0.8], requires_grad=True)
    targets = torch.tensor([0, 0, 0, 0, 1, 1])
    for epsilon in (0.01, 1.0, 100.0):
        loss = fastap.direct_ap_loss(leaf, targets, epsilon=epsilon)
        assert loss.item() == pytest.approx(0.7333, abs=1e-4)  # 1 - (1/5 + 2/6) / 2
        assert not torch.autograd.grad(loss, leaf)[0].any()
    # The negative update has one, once epsilon is of the size of the lead.
    loss = fastap.direct_ap_loss(leaf, targets, update="negative", epsilon=1.0)
    assert torch.autograd.grad(loss, leaf)[0].any()


@pytest.mark.parametrize(
    ("miner", "trains"),
    [
        ("BatchHardMiner", False),
        ("PairMarginMiner", False),
        ("HDCMiner", False),
        ("MultiSimilarityMiner", True),
        ("TripletMarginMiner", True),
        ("AngularMiner", True),
    ],
)
def test_what_hard_miners_leave_has_no_gradient(miner: str, trains: bool) -> None:
    """As the docstring of RetrievalAPLoss and guide/migration.md tell: of nearly all queries."""
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    embeddings, labels = scores(6, 64, 8), torch.arange(64) % 8
    a1, p, a2, n = (
        pairs if len(pairs := getattr(miners, miner)()(embeddings, labels)) == 4 else (*pairs[:2], *pairs[::2])
    )
    targets = torch.full((64, 64), -1)
    targets[a1, p], targets[a2, n] = 1, 0
    takes_part = (targets == 1).any(1) & (targets == 0).any(1)
    unit = normalize(embeddings, dim=1)
    cosines = (unit @ unit.T).requires_grad_()
    loss = fastap.direct_ap_loss(cosines, targets, dim=-1, ignore_index=-1, epsilon=0.1, reduction="sum")
    torch.testing.assert_close(
        loss,
        fastap.RetrievalAPLoss(**AS_FUNCTION, reduction="sum")(embeddings, labels, (a1, p, a2, n)),
        rtol=1e-9,
        atol=1e-9,
    )
    (gradient,) = torch.autograd.grad(loss, cosines)
    moved = gradient.any(1).sum() / takes_part.sum()
    assert moved > 0.9 if trains else moved < 0.2


# Labels


@pytest.mark.parametrize("ignore_index", [None, -1, -100])
def test_labels_that_are_nan_where_nothing_is_known(ignore_index: int | None) -> None:
    targets = TARGETS.double().index_fill(0, torch.tensor([3, 20]), torch.nan)
    known = -1 if ignore_index is None else ignore_index
    says = rf"got nan.*targets\.nan_to_num\({known}\) and ignore_index={known}"
    for call in (fastap.direct_ap_loss, fastap.average_precision, fastap.loss_augmented_ranking):
        with pytest.raises(ValueError, match=says):
            call(scores(), targets, ignore_index=ignore_index)
    with pytest.raises(ValueError, match=says.replace("targets", "target")):
        metrics.AveragePrecision("binary", ignore_index=ignore_index)(scores(), targets)
    with pytest.raises(ValueError, match=says.replace("targets", "target")):
        metrics.RetrievalMAP(ignore_index=ignore_index)(scores(), targets, torch.zeros(30, dtype=torch.long))
    several = torch.stack([targets, targets], 1)
    with pytest.raises(ValueError, match=says.replace("targets", "labels")):
        fastap.retrieval_ap_loss(scores(1, 30, 4), several, ignore_index=ignore_index)
    with pytest.raises(TypeError, match=r"labels\.nan_to_num\(-1\)\.long\(\) with ignore_index=-1"):
        fastap.retrieval_ap_loss(scores(1, 30, 4), targets)

    kept = ~targets.isnan()
    loss = fastap.direct_ap_loss(scores(), targets.nan_to_num(known), ignore_index=known)
    torch.testing.assert_close(loss, fastap.direct_ap_loss(scores()[kept], targets[kept]))


def test_labels_of_plus_and_minus_one() -> None:
    with pytest.raises(ValueError, match="got -1; of \\+1 and -1 give targets > 0"):
        fastap.direct_ap_loss(scores(), TARGETS * 2 - 1)


# Numbers of NumPy, and what is no tensor


def test_numbers_of_numpy() -> None:
    table, targets = scores(19, 30, 3), torch.stack([TARGETS, TARGETS.flip(0), TARGETS], 1).long()
    right = fastap.direct_ap_loss(table, targets, dim=0, epsilon=0.5, ignore_index=-1)
    options: dict[str, Any] = {"dim": np.int64(0), "epsilon": np.float32(0.5), "ignore_index": np.int8(-1)}
    assert fastap.direct_ap_loss(table, targets, **options) == right
    module = fastap.DirectAPLoss(**options, update="positive", noise=0)
    assert module(table, targets) == right
    assert [type(each) for each in (module.dim, module.epsilon, module.ignore_index)] == [int, float, int]
    assert torch.equal(
        fastap.average_precision(table, targets, dim=np.int32(0)), fastap.average_precision(table, targets, dim=0)
    )
    assert fastap.APHingeLoss(margin=np.float64(2))(table[:, 0], TARGETS) == fastap.ap_hinge_loss(
        table[:, 0], TARGETS, margin=2
    )
    labels = torch.arange(30) % 4
    held = fastap.RetrievalAPLoss(max_pairs=np.int64(90), ignore_index=np.uint8(3), epsilon=np.float16(0.5)).eval()
    assert held(table, labels) == fastap.retrieval_ap_loss(
        table, labels, update="symmetric", max_pairs=90, ignore_index=3, epsilon=0.5
    )
    classes = torch.arange(30) % 3
    assert fastap.direct_cost_loss(table, classes, ignore_index=np.int64(2)) == fastap.direct_cost_loss(
        table, classes, ignore_index=2
    )
    assert metrics.RetrievalMAP(top_k=np.int64(3)).top_k == 3
    assert metrics.AveragePrecision("multilabel", num_labels=np.int64(3)).columns == 3


NO_TENSORS: list[tuple[Any, str]] = [
    ([1.0, 0.0], r"got list; give torch.as_tensor\(targets\)"),
    ((1, 0), r"got tuple; give torch.as_tensor\(targets\)"),
    (np.array([1, 0]), r"got ndarray; give torch.as_tensor\(targets\)"),
    (["yes", "no"], r'torch.as_tensor\(numpy.asarray\(targets\) == "yes"\)'),
    (np.array(["yes", "no"]), r'torch.as_tensor\(targets == "yes"\)'),
    ([torch.ones(2), torch.ones(3)], r"torch.cat of their tensors and offsets=.*torch.nested.nested_tensor\(targets"),
    ("yes", "got str$"),
    (None, "got NoneType$"),
]


@pytest.mark.parametrize(("given", "says"), NO_TENSORS)
def test_what_is_no_tensor_is_told_how_to_become_one(given: Any, says: str) -> None:
    for call in (fastap.direct_ap_loss, fastap.average_precision, fastap.ap_hinge_loss):
        with pytest.raises(TypeError, match=f"targets must be a torch.Tensor, .*{says}"):
            call(torch.rand(2), given)
    with pytest.raises(TypeError, match=f"target must be a torch.Tensor, .*{says.replace('targets', 'target')}"):
        metrics.AveragePrecision("binary").update(torch.rand(2), given)


def test_the_ways_that_errors_show_are_right() -> None:
    words = np.array(["yes", "no", "yes"])
    assert torch.as_tensor(words == "yes").tolist() == [True, False, True]
    lists = [torch.rand(3), torch.rand(2)], [torch.tensor([1, 0, 1]), torch.tensor([0, 1])]
    flat = [torch.cat(each) for each in lists]
    nested = [torch.nested.nested_tensor(each, layout=torch.jagged) for each in lists]
    assert fastap.direct_ap_loss(*nested) == fastap.direct_ap_loss(*flat, offsets=torch.tensor([0, 3, 5]))


# What was given in place of scores, targets or a loss


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            (1 - fastap.average_precision(scores(1).requires_grad_(), TARGETS)).backward,
            RuntimeError,
            "average_precision has no gradient.*direct_ap_loss",
        ),
        (
            fastap.loss_augmented_ranking(scores(1).requires_grad_(), TARGETS).value.backward,
            RuntimeError,
            "loss_augmented_ranking has no gradient.*direct_ap_loss",
        ),
        (lambda: metrics.AveragePrecision("multilabel", num_classes=5), ValueError, "give num_labels=5"),
        (lambda: metrics.AveragePrecision("multiclass", num_labels=5), ValueError, "give num_classes=5"),
        (
            lambda: fastap.direct_ap_loss(scores(1, 30, 4), torch.arange(30) % 4),
            ValueError,
            r"torch\.nn\.functional\.one_hot\(targets\.long\(\), 4\), which.*dim=0",
        ),
        (
            lambda: fastap.average_precision(scores(1, 2, 3, 5, 5), torch.ones(2, 5, 5, dtype=torch.uint8), dim=0),
            ValueError,
            r"one_hot\(targets\.long\(\), 3\)\.movedim\(-1, 1\)",
        ),
        (
            lambda: metrics.AveragePrecision("multilabel", num_labels=4)(scores(1, 30, 4), torch.arange(30) % 4),
            ValueError,
            r'AveragePrecision\("multiclass", num_classes=4\)',
        ),
        (
            lambda: fastap.DirectAPLoss()([scores(1, 3), scores(1, 4)], [TARGETS[:3], TARGETS[:4]]),
            TypeError,
            r"scores must be a torch.Tensor, got list;.*offsets=.*torch\.nested\.nested_tensor\(scores",
        ),
        (
            lambda: fastap.direct_ap_loss(scores(1) > 0, TARGETS),
            TypeError,
            "got torch.bool; scores are wanted.*not dec",
        ),
        (lambda: fastap.average_precision(TARGETS.long(), scores(1)), TypeError, "int64.*targets, which come second"),
        (lambda: metrics.RetrievalMAP()(TARGETS, TARGETS, TARGETS.long()), TypeError, r"give preds\.double\(\)"),
        (lambda: fastap.direct_cost_loss(TARGETS.int()[:, None], TARGETS.int()), TypeError, "not decisions"),
    ],
)
def test_errors_name_what_was_meant(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_average_precision_keeps_no_graph_and_is_a_number_after_detach() -> None:
    leaf = scores(1).requires_grad_()
    kept = fastap.average_precision(leaf * 2, TARGETS)
    assert kept.grad_fn is not None
    assert [edge.variable.shape for edge, _ in kept.grad_fn.next_functions if edge] == [(0,)]
    assert kept.item() == kept.detach().numpy() == fastap.average_precision(leaf.detach(), TARGETS).numpy()


def test_average_precision_of_class_labels_is_one_call() -> None:
    labels, table = torch.arange(60) % 4, scores(2, 60, 4)
    value = fastap.average_precision(table, torch.nn.functional.one_hot(labels, 4), dim=0, average="macro")
    assert value == metrics.AveragePrecision("multiclass", num_classes=4).set_dtype(torch.float64)(table, labels)


# Retrieval


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("bank", [False, True])
def test_a_distance_as_similarity_is_warned_of(bank: bool) -> None:
    embeddings, labels = scores(3, 30, 8), torch.arange(30) % 5
    others = (scores(4, 200, 8), torch.arange(200) % 5) if bank else ()
    for similarity in ("cosine", "dot", "euclidean", lambda q, r: q @ r.T, lambda q, r: -torch.cdist(q, r)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fastap.retrieval_ap_loss(embeddings, labels, *others, similarity=similarity)
    distances: list[Any] = [lambda q, r: 1 + torch.cdist(q, r), lambda q, r: torch.cdist(q, r, p=1).square()]
    for distance in distances:
        warning._WARNED.clear()
        with pytest.warns(fastap.FastapWarning, match="wrong way round.*similarity='euclidean'") as told:
            fastap.RetrievalAPLoss(distance)(embeddings, labels, *others)
        assert told[0].filename == __file__


def test_a_known_distance_as_similarity_is_an_error() -> None:
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    from fastap.metric_learning import RetrievalAPLoss

    for distance in (torch.cdist, distances.LpDistance()):
        for module in (fastap.RetrievalAPLoss, RetrievalAPLoss):
            with pytest.raises(ValueError, match=r"higher for more alike, got a distance.*'euclidean'"):
                module(distance)
    RetrievalAPLoss(distances.CosineSimilarity())


def test_euclidean_is_minus_the_distance_wherever_the_embeddings_lie() -> None:
    """Far from 0 too, in float32, where products of the numbers as they are lose all digits."""
    labels = torch.arange(60) % 5
    leaf = scores(5, 60, 8).requires_grad_()
    apart = -(leaf[:, None] - leaf).square().sum(2).add(torch.eye(60)).sqrt()
    targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
    right = fastap.direct_ap_loss(apart, targets, dim=-1, ignore_index=-1, epsilon=0.1)
    (expected,) = torch.autograd.grad(right, leaf)
    for far in (0.0, 1000.0):
        moved = (leaf + far).float()
        loss = fastap.RetrievalAPLoss("euclidean", **AS_FUNCTION)(moved, labels)
        torch.testing.assert_close(loss.double(), right, rtol=0, atol=1e-3 if far else 1e-6)
        torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], expected, rtol=0, atol=1e-2 if far else 1e-5)


def test_labels_of_which_few_occur_cost_what_these_cost() -> None:
    """512 items, 100,000 labels and 5 of them there: nearly all the time was for columns of zeros."""
    classes, embeddings = torch.arange(512) % 5, scores(6, 512, 8)
    labels = torch.zeros(512, 100_000, dtype=torch.bool)
    labels[torch.arange(512), torch.tensor([3, 777, 12, 99_998, 50_000])[classes]] = True
    assert [each.shape for each in without_unused(labels.to(torch.uint8), labels[:9])] == [(512, 5), (9, 5)]
    assert fastap.retrieval_ap_loss(embeddings, labels) == fastap.retrieval_ap_loss(embeddings, classes)


# Padding


def test_padding_is_ignored_whatever_its_score() -> None:
    """As guide/ragged.md says: a target to ignore, not a score of -inf."""
    right = fastap.direct_ap_loss(scores(), TARGETS)
    for padding in (-torch.inf, torch.inf, torch.nan, 1e308):
        padded = torch.cat([scores(), torch.full((7,), padding, dtype=torch.float64)]).requires_grad_()
        targets = torch.cat([TARGETS.long(), torch.full((7,), -1)])
        loss = fastap.direct_ap_loss(padded, targets, ignore_index=-1)
        assert loss == right
        (gradient,) = torch.autograd.grad(loss, padded)
        assert gradient.isfinite().all()
        assert not gradient[30:].any()
    padded = torch.cat([scores(), torch.full((7,), -torch.inf, dtype=torch.float64)])
    assert fastap.direct_ap_loss(padded, torch.cat([TARGETS.long(), torch.zeros(7, dtype=torch.long)])).isnan()


# First calls, and memory that is not there


FIRST_CALLS = """
import json, sys, torch, fastap
assert not {"torchmetrics", "pytorch_metric_learning"} & {*sys.modules}, "fastap alone needs neither"
from fastap import metrics
t, x, ids = torch.rand(30) < 0.4, torch.randn(30, requires_grad=True), torch.arange(30) % 3
e, c = torch.randn(30, 4, requires_grad=True), torch.arange(30) % 4
m, q = metrics.AveragePrecision("binary"), metrics.RetrievalMAP()
calls = {
    "direct_ap_loss": lambda: fastap.direct_ap_loss(x, t).backward(),
    "groups": lambda: fastap.direct_ap_loss(x, t, groups=ids).backward(),
    "ap_hinge_loss": lambda: fastap.ap_hinge_loss(x, t).backward(),
    "ap_perceptron_loss": lambda: fastap.ap_perceptron_loss(x, t).backward(),
    "average_precision": lambda: fastap.average_precision(x, t),
    "averages": lambda: fastap.average_precision(e, torch.rand(30, 4) < 0.3, dim=0, average="macro"),
    "sample_weight": lambda: fastap.average_precision(x, t, sample_weight=torch.rand(30)),
    "loss_augmented_ranking": lambda: fastap.loss_augmented_ranking(x, t),
    "retrieval_ap_loss": lambda: fastap.retrieval_ap_loss(e, ids).backward(),
    "chunks": lambda: torch.no_grad()(fastap.retrieval_ap_loss)(e, ids, max_pairs=100),
    "direct_cost_loss": lambda: fastap.direct_cost_loss(e, c).backward(),
    "direct_loss": lambda: fastap.direct_loss(lambda y: e[y].sum().view(1), 0, 1).backward(),
    "AveragePrecision": lambda: m(x.detach(), t),
    "RetrievalMAP": lambda: q(x.detach(), t, ids),
}
loaded = {}
for name, call in calls.items():
    call()
    loaded[name] = "torch._dynamo" in sys.modules
print(json.dumps(loaded))
"""


def test_no_first_call_loads_a_compiler_nor_fastap_an_optional_package() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True, timeout=120)
    assert not [name for name, loaded in json.loads(done.stdout.splitlines()[-1]).items() if loaded]


def gone(like: Tensor) -> dict[str, Tensor]:
    """Tensors of that shape and type whose memory was freed, all of it or a part, or never was."""
    matrix = torch.stack([like, like], 1)
    given = {"freed": like.clone(), "in part": like.clone(), "strided": matrix[:, 1]}
    given["a slice"] = torch.cat([like, like])[5 : 5 + len(like)]
    for name, each in given.items():
        each.untyped_storage().resize_(64 if name == "in part" else 0)
    return given | {"zeros of autograd": torch._efficientzerotensor(len(like), dtype=like.dtype)}


@pytest.mark.parametrize("how", [*gone(scores())])
@pytest.mark.parametrize("name", ["scores", "targets", "groups", "offsets", "weight", "sample_weight"])
def test_memory_that_is_not_there(name: str, how: str) -> None:
    given: dict[str, Any] = {"scores": scores(), "targets": TARGETS.long()}
    calls: list[Callable[..., Any]] = [fastap.direct_ap_loss, fastap.average_precision, fastap.loss_augmented_ranking]
    if name == "weight":
        given |= {"offsets": torch.arange(31), "weight": torch.ones(30)}
        calls = [fastap.direct_ap_loss]
    elif name == "sample_weight":
        given["sample_weight"] = torch.ones(30)
        calls = []  # whose values PyTorch looks at first
    elif name not in {"scores", "targets"}:
        given[name] = torch.arange(30)
    given[name] = gone(given[name])[how]
    for call in calls:
        with pytest.raises(ValueError, match=f"{name} must have memory for all its values"):
            call(**given)
    for backend in ("native", "reference"):
        for each in LOSSES.values() if name in ("scores", "targets") else ():
            with pytest.raises(ValueError, match=f"{name} must have memory"):
                each(given["scores"], given["targets"], backend=backend)

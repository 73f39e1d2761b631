"""What other libraries get wrong, one test a case: each is something that users of theirs have met.

One more of these cases, shards of different sizes, needs several processes: ``test_distributed.py``.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import fastap
from tests.losses import Loss, random_batch, value_and_gradient


def metric_classes() -> Iterator[tuple[str, Callable[[Tensor, Tensor], float]]]:
    """The metrics that keep items, as functions of one ranking."""
    pytest.importorskip("torchmetrics")
    from fastap.metrics import AveragePrecision, RetrievalMAP

    def binary(scores: Tensor, targets: Tensor) -> float:
        return float(AveragePrecision("binary")(scores, targets))

    def retrieval(scores: Tensor, targets: Tensor) -> float:
        return float(RetrievalMAP()(scores, targets, torch.zeros(len(scores), dtype=torch.long)))

    yield "AveragePrecision", binary
    yield "RetrievalMAP", retrieval


def exact(scores: Tensor, targets: Tensor) -> float:
    return float(average_precision_score(targets.numpy(), scores.double().numpy()))


def test_no_positive_in_a_ranking(loss: Loss) -> None:
    """Skipped, with gradient zero and never NaN, also where no ranking has any."""
    scores, targets = random_batch(0, 5, 12)
    targets[1], targets[3] = 0, 1
    some = [0, 2, 4]
    value, gradient = value_and_gradient(loss, scores, targets, reduction="mean")
    expected, slope = value_and_gradient(loss, scores[some], targets[some], reduction="mean")
    torch.testing.assert_close(value, expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(gradient[some], slope, rtol=1e-15, atol=0)
    assert (gradient[[1, 3]] == 0).all()
    for empty in (torch.zeros_like(targets), torch.ones_like(targets)):
        for reduction in ("mean", "sum", "none"):
            value, gradient = value_and_gradient(loss, scores, empty, reduction=reduction)
            assert (value == 0).all()
            assert (gradient == 0).all()
    assert fastap.average_precision(scores, targets, dim=-1).isnan().tolist() == [False, True, False, False, False]


def test_ties_do_not_depend_on_the_order_of_rows(loss: Loss) -> None:
    """In the loss half above and half below, in the metrics one threshold."""
    scores, targets = random_batch(1, 1, 40, levels=4)
    value, gradient = value_and_gradient(loss, scores, targets)
    metrics = dict(metric_classes())
    precisions = {name: metric(scores[0], targets[0]) for name, metric in metrics.items()}
    for precision in precisions.values():
        assert precision == pytest.approx(exact(scores[0], targets[0]), abs=1e-7)
    for seed in range(5):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        again, slope = value_and_gradient(loss, scores[:, order], targets[:, order])
        torch.testing.assert_close(again, value, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(slope, gradient[:, order], rtol=0, atol=0)
        for name, metric in metrics.items():
            assert metric(scores[0, order], targets[0, order]) == precisions[name]


@pytest.mark.parametrize("shift", [-1000.0, -3.0, 0.5, 7.0])
def test_shifted_scores(shift: float, loss: Loss) -> None:
    """AP is that of the order, and the loss that of the differences; a score below 0 is a score."""
    scores, targets = random_batch(2, 1, 64)
    scores = (scores * 1024).round() / 1024  # that adding is exact
    value, gradient = value_and_gradient(loss, scores, targets)
    again, slope = value_and_gradient(loss, scores + shift, targets)
    torch.testing.assert_close(again, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=0)
    precision = fastap.average_precision(scores, targets, dim=-1).item()
    assert precision == pytest.approx(exact(scores[0], targets[0]), abs=1e-15)
    assert fastap.average_precision(scores + shift, targets, dim=-1).item() == precision
    for _, metric in metric_classes():
        assert metric(scores[0] + shift, targets[0]) == pytest.approx(precision, abs=1e-7)


def test_a_nan_score(loss: Loss) -> None:
    """NaN for that ranking, and for no other."""
    scores, targets = random_batch(3, 4, 20)
    expected = value_and_gradient(loss, scores, targets)
    precision = fastap.average_precision(scores, targets, dim=-1)
    scores[2, 5] = torch.nan
    value, gradient = value_and_gradient(loss, scores, targets)
    assert value.isnan().tolist() == [False, False, True, False]
    assert gradient[2].isnan().all()
    others = [0, 1, 3]
    torch.testing.assert_close(value[others], expected[0][others], rtol=0, atol=0)
    torch.testing.assert_close(gradient[others], expected[1][others], rtol=0, atol=0)
    given = fastap.average_precision(scores, targets, dim=-1)
    assert given.isnan().tolist() == [False, False, True, False]
    torch.testing.assert_close(given[others], precision[others], rtol=0, atol=0)
    for _, metric in metric_classes():
        assert np.isnan(metric(scores[2], targets[2]))


def test_ignored_items(loss: Loss) -> None:
    """As if they were not there, whatever their scores."""
    scores, targets = random_batch(4, 1, 50, ignored=0.4)
    kept = targets[0] != -1
    assert 10 < int(kept.sum()) < 40
    expected, slope = value_and_gradient(loss, scores[:, kept], targets[:, kept])
    scores[:, ~kept] = torch.nan
    value, gradient = value_and_gradient(loss, scores, targets, ignore_index=-1)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient[:, kept], slope, rtol=0, atol=0)
    assert (gradient[:, ~kept] == 0).all()
    given = fastap.average_precision(scores, targets, ignore_index=-1, dim=-1)
    torch.testing.assert_close(
        given, fastap.average_precision(scores[:, kept], targets[:, kept], dim=-1), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, loss: Loss) -> None:
    """float64 inside, a gradient in the type of the scores; see also ``test_mixed_precision.py``."""
    scores, targets = random_batch(5, 3, 200, dtype=dtype)
    value, gradient = value_and_gradient(loss, scores, targets)
    expected, slope = value_and_gradient(loss, scores.double(), targets)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), expected, rtol=2**-22, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=2**-8, atol=2**-25)


def entry_points() -> dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]:
    """Every function and module of the package, with inputs of it."""
    ranking = random_batch(6, 4, 10, dtype=torch.float32)
    ranking[0].requires_grad_()
    labels = torch.tensor([0, 1, 1, 0])
    logits = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(), labels)
    return {
        "direct_ap_loss": (partial(fastap.direct_ap_loss, dim=-1), ranking),
        "ap_hinge_loss": (partial(fastap.ap_hinge_loss, dim=-1), ranking),
        "ap_perceptron_loss": (partial(fastap.ap_perceptron_loss, dim=-1), ranking),
        "average_precision": (partial(fastap.average_precision, dim=-1), ranking),
        "loss_augmented_ranking": (partial(fastap.loss_augmented_ranking, dim=-1), ranking),
        "direct_cost_loss": (fastap.direct_cost_loss, logits),
        "cost_hinge_loss": (fastap.cost_hinge_loss, logits),
        "cost_perceptron_loss": (fastap.cost_perceptron_loss, logits),
        "direct_loss": (_direct_loss, logits),
        "retrieval_ap_loss": (fastap.retrieval_ap_loss, logits),
        "DirectAPLoss": (fastap.DirectAPLoss(dim=-1), ranking),
        "APHingeLoss": (fastap.APHingeLoss(dim=-1), ranking),
        "APPerceptronLoss": (fastap.APPerceptronLoss(dim=-1), ranking),
        "DirectCostLoss": (fastap.DirectCostLoss(), logits),
        "CostHingeLoss": (fastap.CostHingeLoss(), logits),
        "CostPerceptronLoss": (fastap.CostPerceptronLoss(), logits),
        "RetrievalAPLoss": (fastap.RetrievalAPLoss(), logits),
    }


def _direct_loss(logits: Tensor, labels: Tensor) -> Tensor:
    def solve(weight: float) -> Tensor:
        cost = 1.0 - torch.nn.functional.one_hot(labels, 3)
        return torch.nn.functional.one_hot((logits + weight * cost).argmax(1), 3)

    return fastap.direct_loss(lambda y: (logits * y).sum(1), solve, solve, epsilon=0.5)


def test_the_entry_points_are_all_there() -> None:
    others = {"AugmentedRanking", "FastapWarning", "show_config"}
    assert set(entry_points()) == set(fastap.__all__) - others


# The compiler of C++ is given PyTorch's headers by a path without quotes.
quoted = pytest.mark.skipif(" " in torch.__path__[0], reason="PyTorch lies in a folder with a blank in its name")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.full, quoted])])
@pytest.mark.parametrize("name", entry_points())
def test_compilation_without_a_break(name: str, backend: str) -> None:
    function, inputs = entry_points()[name]
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler itself
        given = torch.compile(function, fullgraph=True, backend=backend)(*inputs)
    expected = function(*inputs)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-7)
    if isinstance(expected, Tensor) and expected.requires_grad:
        gradients = [torch.autograd.grad(each.sum(), inputs[0])[0] for each in (given, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 100.0])
def test_a_value_to_watch(epsilon: float) -> None:
    """``0 <= D- <= 1 - AP <= D+ <= 1``."""
    scores, targets = random_batch(7, 200, 30)
    loss = 1 - fastap.average_precision(scores, targets, dim=-1)
    better, worse = (
        fastap.direct_ap_loss(scores, targets, epsilon=epsilon, update=update, reduction="none", dim=-1)
        for update in ("negative", "positive")
    )
    assert (better >= 0).all()
    assert (better <= loss + 1e-12).all()
    assert (loss <= worse + 1e-12).all()
    assert (worse <= 1).all()


@pytest.mark.parametrize("name", [name for name in entry_points() if name[0].isupper()])
def test_nothing_is_kept_from_one_call_to_the_next(name: str) -> None:
    """No index of a dataset, no special sampler, nothing that a resumed training has lost."""
    module, inputs = entry_points()[name]
    assert isinstance(module, torch.nn.Module)
    assert module.state_dict() == {}
    first = module(*inputs)
    for each in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        torch.testing.assert_close(each(*inputs), first, rtol=0, atol=0)
        each(inputs[0].flip(0), inputs[1])


def test_retrieval_on_any_layout_of_classes() -> None:
    """Classes of any sizes, rows in any order: the loss of each query by itself."""
    generator = torch.Generator().manual_seed(8)
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 11 + [3] + [4] * 4)[torch.randperm(25, generator=generator)]
    embeddings = torch.randn(25, 6, generator=generator, dtype=torch.float64)
    similarity = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings, dim=2)
    expected = torch.stack(
        [
            fastap.direct_ap_loss(similarity[q, others], labels[others] == labels[q], epsilon=0.1)
            for q in range(25)
            for others in [torch.arange(25) != q]
        ]
    )
    given = fastap.retrieval_ap_loss(embeddings, labels, epsilon=0.1, reduction="none")
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)
    assert int((expected == 0).sum()) == 1  # the class of one
    torch.testing.assert_close(fastap.retrieval_ap_loss(embeddings, labels, epsilon=0.1), expected.sum() / 24)

"""What other libraries get wrong, one test a case: each is something that users of theirs have met.

More of these cases: ignored items, NaN and classes of any sizes in ``test_robustness*.py``, half precision in
``test_mixed_precision.py``, and shards of different sizes, which need several processes, in ``test_distributed.py``.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

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


@pytest.mark.parametrize("shift", [-1000.0, 0.5])
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


def entry_points() -> dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]:
    """Every function and module of the package, with inputs of it."""
    ranking = random_batch(6, 4, 10, dtype=torch.float32)
    ranking[0].requires_grad_()
    labels = torch.tensor([0, 1, 1, 0])
    logits = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(), labels)
    return {
        "direct_ap_loss": (partial(fastap.direct_ap_loss, dim=-1), ranking),
        "direct_ranking_loss": (partial(fastap.direct_ranking_loss, measure="ndcg", k=3, dim=-1), ranking),
        "ranking_measure": (partial(fastap.ranking_measure, measure="bedroc", dim=-1), ranking),
        "smooth_ap_loss": (partial(fastap.smooth_ap_loss, temperature=0.3, dim=-1), ranking),
        "ap_hinge_loss": (partial(fastap.ap_hinge_loss, dim=-1), ranking),
        "ap_perceptron_loss": (partial(fastap.ap_perceptron_loss, dim=-1), ranking),
        "average_precision": (partial(fastap.average_precision, dim=-1), ranking),
        "loss_augmented_ranking": (partial(fastap.loss_augmented_ranking, dim=-1), ranking),
        "multiclass_ap_loss": (fastap.multiclass_ap_loss, logits),
        "direct_cost_loss": (fastap.direct_cost_loss, logits),
        "cost_hinge_loss": (fastap.cost_hinge_loss, logits),
        "cost_perceptron_loss": (fastap.cost_perceptron_loss, logits),
        "direct_loss": (_direct_loss, logits),
        "retrieval_ap_loss": (fastap.retrieval_ap_loss, logits),
        "DirectAPLoss": (fastap.DirectAPLoss(dim=-1).eval(), ranking),
        "DirectRankingLoss": (fastap.DirectRankingLoss(measure="recall", k=2, dim=-1).eval(), ranking),
        "SmoothAPLoss": (fastap.SmoothAPLoss(temperature=0.3, dim=-1), ranking),
        "APHingeLoss": (fastap.APHingeLoss(dim=-1), ranking),
        "APPerceptronLoss": (fastap.APPerceptronLoss(dim=-1), ranking),
        "MulticlassAPLoss": (fastap.MulticlassAPLoss().eval(), logits),
        "DirectCostLoss": (fastap.DirectCostLoss(), logits),
        "CostHingeLoss": (fastap.CostHingeLoss(), logits),
        "CostPerceptronLoss": (fastap.CostPerceptronLoss(), logits),
        "RetrievalAPLoss": (fastap.RetrievalAPLoss().eval(), logits),
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
    if isinstance(expected, Tensor) and name not in ("average_precision", "ranking_measure"):
        gradients = [torch.autograd.grad(each.sum(), inputs[0])[0] for each in (given, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


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

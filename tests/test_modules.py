"""The modules are the functions with their options held."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastap
from tests.losses import random_batch

# Of the losses with a loss-augmented inference.
METHOD = {"method": "dp"}
COMMON: dict[str, Any] = {"dim": 0, "ignore_index": -1, "reduction": "none", "backend": "reference"}
OF_CLASSES: dict[str, Any] = {"ignore_index": -1, "reduction": "none"}
COST = torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 1.0], [3.0, 0.1, 0.0]])
CASES: dict[str, tuple[Callable[..., nn.Module], Callable[..., torch.Tensor], dict[str, Any]]] = {
    "direct": (
        fastap.DirectAPLoss,
        fastap.direct_ap_loss,
        {"epsilon": 0.5, "update": "negative", **COMMON, **METHOD, "noise": 0.0},
    ),
    "ranking": (
        fastap.DirectRankingLoss,
        fastap.direct_ranking_loss,
        {"measure": "ndcg", "k": 3, "epsilon": 0.5, "update": "negative", **COMMON, **METHOD, "noise": 0.0},
    ),
    "smooth": (fastap.SmoothAPLoss, fastap.smooth_ap_loss, {"temperature": 0.3, **COMMON}),
    "hinge": (fastap.APHingeLoss, fastap.ap_hinge_loss, {"margin": 2.5, **COMMON, **METHOD}),
    "perceptron": (fastap.APPerceptronLoss, fastap.ap_perceptron_loss, COMMON),
    "multiclass": (
        fastap.MulticlassAPLoss,
        fastap.multiclass_ap_loss,
        {
            **{"weight": torch.tensor([1.0, 2.0, 0.5]), "epsilon": 0.3, "update": "negative", **OF_CLASSES},
            **{"backend": "reference", **METHOD, "noise": 0.0},
        },
    ),
    "direct of costs": (
        fastap.DirectCostLoss,
        fastap.direct_cost_loss,
        {"cost": COST, "epsilon": 0.3, "update": "negative", **OF_CLASSES},
    ),
    "hinge of costs": (fastap.CostHingeLoss, fastap.cost_hinge_loss, {"cost": COST, "margin": 2.5, **OF_CLASSES}),
    "perceptron of costs": (fastap.CostPerceptronLoss, fastap.cost_perceptron_loss, OF_CLASSES),
}


def inputs(case: str, seed: int, rows: int, *, ignored: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and targets of rankings, or of the classes of a cost; -1 for what is ignored."""
    scores, targets = random_batch(seed, rows, 12, ignored=ignored)
    if "costs" not in case and case != "multiclass":
        return scores, targets
    return scores[:, :3], targets[:, 5] if ignored else targets[:, 5].clamp(min=0)


@pytest.mark.parametrize("options", [True, False], ids=["all options", "defaults"])
@pytest.mark.parametrize("case", CASES)
def test_a_module_is_its_function(case: str, options: bool) -> None:
    module, function, given = CASES[case]
    given = given if options else {name: given[name] for name in ("measure", "dim", "noise") if name in given}
    own_defaults = {"epsilon": 0.3, "update": "symmetric"} if case in ("direct", "ranking", "multiclass") else {}
    scores, targets = inputs(case, 1, 20, ignored=0.2 if options else 0.0)
    results = []
    for loss in (module(**given), lambda *tensors: function(*tensors, **{**own_defaults, **given})):
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, targets)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert results[0][1].abs().max() > 0


@pytest.mark.parametrize("case", CASES)
def test_repr_shows_every_option(case: str) -> None:
    module, _, given = CASES[case]
    shown = {
        name: tuple(option.shape) if isinstance(option, torch.Tensor) else option
        for name, option in given.items()
        if name != "noise"  # where there is none
    }
    assert repr(module(**given)) == f"{module.__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def test_repr_of_the_defaults() -> None:
    common = "dim=None, ignore_index=None, reduction='mean', backend='auto'"
    noise = "noise=0.9, samples=2, generator=None, "
    noisy = common.replace("backend", f"{noise}backend")
    assert repr(fastap.DirectAPLoss()) == f"DirectAPLoss(epsilon=0.3, update='symmetric', {noisy}, method='auto')"
    assert repr(fastap.APHingeLoss()) == f"APHingeLoss(margin=1.0, {common}, method='auto')"
    assert repr(fastap.APPerceptronLoss()) == f"APPerceptronLoss({common})"
    common = f"ignore_index=-100, reduction='mean', {noise}backend='auto', method='auto'"
    of_all = "weight=None, epsilon=0.3, update='symmetric'"
    assert repr(fastap.MulticlassAPLoss()) == f"MulticlassAPLoss({of_all}, {common})"
    common = "ignore_index=None, reduction='mean'"
    assert repr(fastap.DirectCostLoss()) == f"DirectCostLoss(cost=None, epsilon=1.0, update='positive', {common})"
    assert repr(fastap.CostHingeLoss()) == f"CostHingeLoss(cost=None, margin=1.0, {common})"
    assert repr(fastap.CostPerceptronLoss()) == f"CostPerceptronLoss({common})"


def test_what_is_of_the_classes_moves_with_its_module() -> None:
    weight = torch.ones(3, dtype=torch.float64)
    assert fastap.MulticlassAPLoss(weight).to("meta").weight.device.type == "meta"
    assert nn.Sequential(fastap.MulticlassAPLoss(weight)).half()[0].weight.dtype == weight.dtype
    for module in (fastap.DirectCostLoss, fastap.CostHingeLoss):
        assert module(COST).to("meta").cost.device.type == "meta"
        assert nn.Sequential(module(COST)).half()[0].cost.dtype == COST.dtype
        torch.testing.assert_close(module(COST).cost, COST, rtol=0, atol=0)


def duplicates(module: nn.Module) -> dict[str, nn.Module]:
    """Every way to a copy of a module."""
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    pickles = {f"pickle {p}": pickle.loads(pickle.dumps(module, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)}
    return {
        **pickles,
        "copy": copy.copy(module),
        "deepcopy": copy.deepcopy(module),
        "torch.save": torch.load(saved, weights_only=False),
        "in a model": copy.deepcopy(nn.Sequential(nn.Linear(2, 2), module))[1],
    }


@pytest.mark.parametrize("case", CASES)
def test_every_copy_of_a_module_that_was_used(case: str) -> None:
    module, _, given = CASES[case]
    original = module(**given)
    scores, targets = inputs(case, 3, 6)
    original(scores.clone().requires_grad_(), targets).sum().backward()
    expected = original(scores, targets)
    for way, again in duplicates(original).items():
        assert type(again) is module, way
        assert repr(again) == repr(original), way
        torch.testing.assert_close(again(scores, targets), expected, rtol=0, atol=0)
        for kept, wanted in zip(again.buffers(), original.buffers(), strict=True):
            assert torch.equal(kept, wanted), way


@pytest.mark.parametrize("case", ["direct of costs", "hinge of costs"])
def test_a_deep_copy_has_costs_of_its_own(case: str) -> None:
    module, _, given = CASES[case]
    original = module(**{**given, "cost": COST.clone()})
    for way, again in duplicates(original).items():
        if way != "copy":
            again.cost.zero_()
            assert torch.equal(original.cost, COST), way


def test_a_model_saves_as_if_it_had_no_losses() -> None:
    layer = nn.Linear(3, 1)
    losses = nn.ModuleDict({case.replace(" ", "_"): module(**given) for case, (module, _, given) in CASES.items()})
    model = nn.ModuleDict({"layer": layer, "losses": losses})
    state = model.state_dict()
    assert list(losses.parameters()) == []
    assert list(state) == ["layer.weight", "layer.bias"]
    again = copy.deepcopy(model)
    nn.init.zeros_(again["layer"].weight)
    assert again.load_state_dict(state) == ([], [])
    assert torch.equal(again["layer"].weight, layer.weight)
    # What was saved with other losses, or without any, fits as well.
    assert nn.ModuleDict({"layer": nn.Linear(3, 1), "losses": nn.ModuleDict()}).load_state_dict(state) == ([], [])
    with pytest.raises(RuntimeError, match="cost"):
        model.load_state_dict({**state, "losses.direct_of_costs.cost": COST})
    assert all(torch.equal(loss.cost, COST) for loss in losses.values() if getattr(loss, "cost", None) is not None)

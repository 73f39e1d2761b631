"""Which backend serves which device, what is said where none does, and what a call without a gradient saves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, device

import fastap
from fastap import backends, warning
from fastap.backends import about, native, reference
from fastap.types import Measure, Objective
from tests.losses import LOSSES, Loss, random_batch, value_and_gradient

CPU, CUDA, MPS = device("cpu"), device("cuda"), device("mps")
CALLS: dict[str, Callable[..., Any]] = {
    "loss": lambda s, t: fastap.direct_ap_loss(s, t, dim=-1, ignore_index=-1),
    "columns": lambda s, t: fastap.ap_hinge_loss(s.T, t.T, dim=0, ignore_index=-1, reduction="none"),
    "weighted": lambda s, t: fastap.direct_ap_loss(s, t, dim=-1, ignore_index=-1, weight=torch.arange(4.0)),
    "groups": lambda s, t: fastap.direct_ap_loss(s[0], t[0], groups=torch.arange(30) % 3, ignore_index=-1),
    "metric": lambda s, t: fastap.average_precision(s, t, dim=-1, ignore_index=-1),
    "average": lambda s, t: fastap.average_precision(s, t, dim=-1, ignore_index=-1, average="macro"),
    "ranking": lambda s, t: fastap.loss_augmented_ranking(s, t, dim=-1, ignore_index=-1),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been warned of."""
    monkeypatch.setattr(warning, "_WARNED", set())


@pytest.mark.parametrize("name", CALLS)
def test_devices_without_kernels_go_through_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies are made, here from the CPU to the CPU, and nothing else changes."""
    scores, targets = random_batch(1, 4, 30, ignored=0.1)
    right = CALLS[name](scores, targets)
    monkeypatch.setattr(backends, "goes_through_the_cpu", lambda *_: True)
    copied = []
    monkeypatch.setattr(Tensor, "cpu", lambda self: copied.append(self) or self.clone())
    given = CALLS[name](scores, targets)
    assert len(copied) >= 2
    for ours, theirs in zip(given, right, strict=True) if isinstance(right, tuple) else [(given, right)]:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_and_so_does_the_gradient(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = random_batch(2, 4, 30)
    right = value_and_gradient(loss, scores, targets)
    monkeypatch.setattr(backends, "goes_through_the_cpu", lambda *_: True)
    for ours, theirs in zip(value_and_gradient(loss, scores, targets), right, strict=True):
        assert torch.equal(ours, theirs)


def test_what_has_no_kernels_goes_through_the_cpu() -> None:
    with mock.patch.object(backends, "HAS_TRITON", True):
        assert not backends.goes_through_the_cpu("auto", CUDA, Objective("direct").without_kernels)
        for objective, what in (
            (Objective("smooth"), "SmoothAP"),
            (Objective("direct", measure=Measure("auc")), "auc"),
        ):
            with pytest.warns(fastap.FastapWarning, match=f"scores on cuda are copied.*no kernels for .*{what}"):
                assert backends.goes_through_the_cpu("auto", CUDA, objective.without_kernels)


@pytest.mark.parametrize(
    ("where", "has_triton", "name", "through", "says"),
    [
        (CPU, True, "auto", False, None),
        (CUDA, True, "auto", False, None),
        (CUDA, False, "auto", True, "scores on cuda are copied to the CPU.*for the package triton is not installed"),
        (MPS, True, "auto", True, "scores on mps are copied to the CPU.*for there are no kernels for mps"),
        (device("xpu"), False, "auto", True, "scores on xpu are copied"),
        (CUDA, True, "reference", True, None),
    ],
)
def test_which_devices_these_are(where: device, has_triton: bool, name: str, through: bool, says: str | None) -> None:
    with mock.patch.object(backends, "HAS_TRITON", has_triton), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert backends.goes_through_the_cpu(name, where) is through
        assert backends.goes_through_the_cpu(name, where) is through
    if says is None:
        assert not told
    else:
        (once,) = told
        assert once.category is fastap.FastapWarning
        with pytest.warns(fastap.FastapWarning, match=says):
            warnings.warn(once.message, stacklevel=1)


def test_apple_s_gpus_have_no_float64() -> None:
    assert backends.widest_float(MPS) == torch.float32
    assert backends.widest_float(CPU) == backends.widest_float(CUDA) == torch.float64


def test_without_a_c_compiler_the_reference_serves_and_says_so(loss: Loss) -> None:
    scores, targets = random_batch(3, 3, 20)
    right = value_and_gradient(loss, scores, targets, backend="reference")
    with mock.patch.object(native, "IS_BUILT", False):
        with pytest.warns(fastap.FastapWarning, match=r"reference in NumPy.*install one \(gcc, clang\), then fastap"):
            assert backends.get("auto", CPU) is reference
        for ours, theirs in zip(value_and_gradient(loss, scores, targets), right, strict=True):
            assert torch.equal(ours, theirs)
        with pytest.raises(ValueError, match="backend 'native' is not there, for no C compiler"):
            fastap.direct_ap_loss(scores, targets, dim=-1, backend="native")


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("has_triton", [True, False])
def test_show_config(is_built: bool, has_triton: bool, capsys: pytest.CaptureFixture[str]) -> None:
    installed = {"fastap": "1.2", "torch": "2.3", "triton": "3.4", "numpy": "4.5"}
    with (
        mock.patch.object(native, "IS_BUILT", is_built),
        mock.patch.object(backends, "HAS_TRITON", has_triton),
        mock.patch.object(about, "version", side_effect=installed.__getitem__),
    ):
        fastap.show_config()
    first, cpu, cuda, others = capsys.readouterr().out.splitlines()
    assert first.startswith("fastap 1.2, PyTorch 2.3, Triton 3.4, NumPy 4.5, ")
    assert "Python 3." in first
    assert cpu == "CPU: the C engine" if is_built else "install one (gcc, clang)" in cpu
    assert cuda == ("CUDA: Triton's kernels" if has_triton else "CUDA: through the CPU: triton is not installed")
    assert others == "other devices: through the CPU"


@pytest.mark.parametrize("name", LOSSES)
def test_a_call_without_a_gradient_computes_none(name: str) -> None:
    scores, targets = random_batch(4, 3, 20)
    wanted = []

    def losses(*given: Any, gradient: bool, **options: Any) -> Any:
        wanted.append(gradient)
        return run(*given, gradient=gradient, **options)

    run = native.losses
    with mock.patch.object(native, "losses", losses):
        value = LOSSES[name](scores.requires_grad_(), targets)
        with torch.no_grad():
            quiet = LOSSES[name](scores, targets)
        plain = LOSSES[name](scores.detach(), targets)
        LOSSES[name](scores, targets).backward()
    assert wanted == [True, False, False, True]
    assert value == quiet == plain
    assert [each.requires_grad for each in (value, quiet, plain)] == [True, False, False]
    assert scores.grad is not None


def test_several_axes_are_ranked_together(loss: Loss) -> None:
    """As maps of pixels, (batch, classes, height, width): every class one ranking."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, 3, 4, 5, generator=generator) < 0.3
    weights = torch.rand(2, 3, 4, 5, generator=generator)
    flat, marks, items = (each.movedim(1, 0).reshape(3, -1) for each in (maps, masks, weights))
    right, slope = value_and_gradient(loss, flat, marks)
    for dim in ((0, 2, 3), [0, 2, 3], (-1, 0, 2), (3, 2, 0)):
        value, gradient = value_and_gradient(loss, maps, masks, dim=dim)
        assert torch.equal(value, right)
        assert torch.equal(gradient.movedim(1, 0).reshape(3, -1), slope)
    assert torch.equal(
        fastap.average_precision(maps, masks, dim=(0, 2, 3), sample_weight=weights),
        fastap.average_precision(flat, marks, dim=-1, sample_weight=items),
    )
    given, wanted = (
        fastap.loss_augmented_ranking(maps, masks, dim=(0, 2, 3)),
        fastap.loss_augmented_ranking(flat, marks, dim=-1),
    )
    assert torch.equal(given.ranks.movedim(1, 0).reshape(3, -1), wanted.ranks)
    assert torch.equal(given.value, wanted.value)
    assert not given.ranks._is_view()
    whole = loss(maps, masks, dim=(0, 1, 2, 3))
    assert whole == loss(maps.reshape(-1), masks.reshape(-1))
    weight = torch.tensor([1.0, 0.0, 2.0])
    assert torch.equal(
        fastap.direct_ap_loss(maps, masks, dim=(2, 3), weight=weight),
        fastap.direct_ap_loss(maps.flatten(2), masks.flatten(2), dim=-1, weight=weight),
    )


@pytest.mark.parametrize(
    "call",
    [
        fastap.direct_ap_loss,
        fastap.ap_hinge_loss,
        fastap.ap_perceptron_loss,
        fastap.average_precision,
        fastap.loss_augmented_ranking,
        fastap.DirectAPLoss(),
        fastap.APHingeLoss(),
        fastap.APPerceptronLoss(),
    ],
)
def test_scores_of_several_dimensions_ask_for_dim(call: Callable[..., Any]) -> None:
    scores, targets = random_batch(5, 4, 6)
    says = r"dim must be given for scores of shape \(4, 6\): dim=0 ranks the batch for each label.*dim=-1 ranks each"
    with pytest.raises(ValueError, match=says):
        call(scores, targets)
    call(scores[0], targets[0])
    with pytest.raises(ValueError, match="scores must be one-dimensional with groups"):
        call(scores, targets, groups=torch.zeros(4, 6, dtype=torch.long))

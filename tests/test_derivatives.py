"""Derivatives in forward mode, and what is said of second ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, jvp

import fastap

TARGETS = torch.arange(30) < 9


def scores(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (30,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOSS_OF: dict[str, Callable[[Tensor], Tensor]] = {
    "one": lambda x: fastap.direct_ap_loss(x, TARGETS),
    "rows": lambda x: fastap.direct_ap_loss(x.view(2, 15), TARGETS.view(2, 15).flip(1), reduction="none", dim=-1),
    "columns": lambda x: fastap.ap_hinge_loss(x.view(15, 2), TARGETS.view(2, 15).T, dim=0, reduction="none"),
    "ragged": lambda x: fastap.direct_ap_loss(x, TARGETS, groups=torch.arange(30) % 3, reduction="none"),
}


@pytest.mark.parametrize("name", LOSS_OF)
def test_forward_mode_has_the_same_derivative(name: str) -> None:
    loss, x = LOSS_OF[name], scores(15)
    torch.testing.assert_close(jacfwd(loss)(x), jacrev(loss)(x))
    direction = scores(16)
    value, slope = jvp(loss, (x,), (direction,))
    torch.testing.assert_close(value, loss(x))
    torch.testing.assert_close(slope, jacrev(loss)(x) @ direction)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent, slope)


@pytest.mark.parametrize(
    "second",
    [
        lambda loss, x: hessian(loss)(x),
        lambda loss, x: jacrev(jacrev(loss))(x),
        lambda loss, x: jacfwd(jacfwd(loss))(x),
        lambda loss, x: jacrev(jacfwd(loss))(x),
        torch.autograd.functional.hessian,
    ],
    ids=["hessian", "rev-rev", "fwd-fwd", "rev-fwd", "autograd"],
)
def test_a_second_derivative_shows_the_way_round(second: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="no second derivative") as caught:
        second(LOSS_OF["one"], scores(17))
    lines = str(caught.value).splitlines()
    assert "ap_loss.detach()" in lines[0]
    # The two lines that it shows, run.
    inputs = scores(18).requires_grad_()
    names = {"torch": torch, "inputs": inputs, "other_loss": inputs.pow(3).sum(), "ap_loss": LOSS_OF["one"](inputs)}
    exec("\n".join(line.strip() for line in lines[1:]), names)
    torch.testing.assert_close(
        inputs.grad, 3 * inputs.detach() ** 2 + 36 * inputs.detach() ** 3 + jacrev(LOSS_OF["one"])(scores(18))
    )

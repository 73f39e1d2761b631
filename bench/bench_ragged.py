"""Many short queries in one call: one a row, end to end with offsets, and mixed with an id an item."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
import torch
from torch import Tensor

from bench import truth
from bench.cases import LOSSES, Case, Job
from bench.conftest import Suite
from bench.inputs import Shape

QUERIES = Shape(10_000, 2, 18)
LAYOUTS = ("rows", "offsets", "groups")


def _arranged(layout: str, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Scores and targets in that layout, and what else the call is given."""
    rankings, items = scores.shape
    if layout == "rows":
        return scores, targets, {}
    scores, targets = scores.reshape(-1), targets.reshape(-1)
    if layout == "offsets":
        return scores, targets, {"offsets": torch.arange(rankings + 1, device=scores.device) * items}
    order = torch.randperm(scores.numel(), generator=torch.Generator().manual_seed(0)).to(scores.device)
    return scores[order], targets[order], {"groups": order // items}


def _prepare(case: Case, layout: str, scores: Tensor, targets: Tensor, stack: ExitStack) -> Job:
    """The call, gradient included; what arranges its inputs is not timed."""
    scores, targets, where = _arranged(layout, scores, targets)
    leaf = scores.requires_grad_()
    return lambda: case.forward(leaf, targets, **where).backward()


def _assert_right(layout: str, case: Case) -> str:
    """The rankings as rows against the dynamic program, and the layout against the rows."""
    said = truth.assert_right(case)
    scores, targets = next(case.inputs())
    flat, wanted, where = _arranged(layout, scores, targets)
    given = case.forward(flat, wanted, reduction="none", **where)
    torch.testing.assert_close(given, case.forward(scores, targets, reduction="none"), rtol=1e-6, atol=1e-7)
    return f"{said}; as in rows"


@pytest.mark.parametrize("work", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ragged(timed: Suite, layout: str, work: str) -> None:
    case = timed.case(QUERIES, work=work)
    prepare, check = partial(_prepare, case, layout), partial(_assert_right, layout)
    timed("ragged", str(case.shape), case, prepare=prepare, check=check, layout=layout)

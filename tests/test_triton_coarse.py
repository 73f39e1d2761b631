"""Blocks that prices do not prove, coarse to fine on the device; ``test_coarse.py`` has those of the C engine."""

from __future__ import annotations

import pytest
import torch
from fastap.kernels import coarse, program, tiled

from emulator import Device
from tests import device_checks as checks
from tests.kernels import DEVICE, gpu, often
from tests.paths import solving
from tests.rewritten import rewritten

HARD = ("case", often(checks.HARD[0], full=[(case,) for case in checks.HARD[1:]]))
Case = tuple[int, int, int, float]


def settle(case: Case, device: Device | None, update: str = "negative") -> Device | None:
    """The launch that settles, of a hard ranking in small tiles."""
    with solving("triton-long"):
        checks.check_losses(checks.hard_batch(*case), update, DEVICE, torch.float64)
    return device


@pytest.mark.parametrize(*HARD)
@pytest.mark.parametrize("update", ["negative", "symmetric"])
def test_hard_blocks(case: Case, update: str, gpu: Device | None) -> None:
    device = settle(case, gpu, update)
    if device:
        launch = next(each for each in device.launches if each.name == "settle_rankings")
        assert launch.reaches(coarse.refine)
        assert not launch.reaches(program.solve_block)


def test_where_there_is_no_room_for_finer_intervals(gpu: Device | None) -> None:
    with rewritten(tiled.settle_rankings, "n_positive + begin, most,", "n_positive + begin, FEWEST * (after - first),"):
        device = settle(checks.HARD[0], gpu)
    if device:
        launch = next(each for each in device.launches if each.name == "settle_rankings")
        assert launch.reaches(coarse._set_bands)
        assert launch.reaches(program.solve_block)


@pytest.mark.parametrize(*HARD)
def test_as_launched(case: Case) -> None:
    """In tiles of the size that a GPU gets."""
    with gpu():
        checks.check_losses(checks.hard_batch(*case), "negative", DEVICE, torch.float64)
        checks.check_rankings(checks.hard_batch(*case), "negative", DEVICE, torch.float64)


@pytest.mark.full
def test_the_same_result_every_time() -> None:
    with gpu():
        checks.check_repeats("negative", checks.hard_batch(*checks.HARD[0]), DEVICE, torch.float64)

"""Time launches that the table does not choose, and print a new table: ``python -m bench.tune`` on a GPU.

For every length of short launches the number of warps, for long rows warps and tiles, for the dynamic program stripes
and columns. Each candidate's value is compared with that of the present launch before it is timed. What is printed
names device and versions; ``fastap/backends/triton/launch.py`` is changed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import torch
import triton
from torch import Tensor

from bench.environment import commit, is_installed, stand_in_for_installation, versions

if not is_installed():
    stand_in_for_installation()

import fastap
from fastap.backends import triton as backend
from fastap.backends.triton import launch
from fastap.backends.triton.inputs import architecture
from fastap.backends.triton.launch import ShortLaunch, TiledLaunch

Launch = ShortLaunch | TiledLaunch
# rankings, items, positives of each
SHORT_SHAPES = ((4096, 100, 5), (1024, 500, 20), (80, 1024, 100), (4096, 1000, 20), (256, 4096, 50))
LONG_SHAPES = ((1, 110_000, 10_000), (1, 1_010_000, 10_000), (64, 65_536, 1_000))
DP_SHAPE = (1, 202_000, 2_000)


def problem(rankings: int, items: int, positives: int, device: str) -> tuple[Tensor, Tensor]:
    """Positives N(1, 1), negatives N(0, 1), shuffled."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(rankings, items, dtype=torch.bool)
    targets[:, :positives] = True
    targets = targets.gather(1, torch.rand(rankings, items, generator=generator).argsort(1))
    scores = torch.randn(rankings, items, generator=generator) + targets
    return scores.to(device), targets.to(device)


def short_candidates(present: ShortLaunch, nvidia: bool) -> Iterator[ShortLaunch]:
    for warps in (1, 2, 4, 8, 16):
        if 32 * warps <= present.items:
            yield launch.short_launch(present.items, warps, nvidia)


def long_candidates(present: TiledLaunch, nvidia: bool) -> Iterator[TiledLaunch]:
    for warps in (2, 4, 8):
        yield replace(present, tiles=launch.tiles_for(warps, nvidia))
    for items in (512, 2048, 4096):
        yield replace(present, items=items)
    for rows in (2 * present.tiles.search_rows, 4 * present.tiles.search_rows):
        yield replace(present, tiles=replace(present.tiles, search_rows=rows))


def dp_candidates(present: TiledLaunch) -> Iterator[TiledLaunch]:
    assert present.waves is not None
    for columns, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 16)):
        for stripes in ((6, 2), (12, 3), (24, 5), (48, 10)):
            yield replace(present, waves=replace(present.waves, columns=columns, num_warps=warps, stripes=stripes))


def seconds(call: Callable[[], object], present: Launch, candidate: Launch) -> float | None:
    """Median time with the candidate in place of the present launch; None if it gives another result or none."""
    with mock.patch.object(backend, "launch_for", return_value=present):
        expected = call()
    with mock.patch.object(backend, "launch_for", return_value=candidate):
        try:
            same = torch.allclose(torch.as_tensor(call()), torch.as_tensor(expected), rtol=1e-6, atol=1e-7)
        except Exception as error:  # a candidate that cannot be compiled or launched is no candidate
            print(f"    {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            return None
        return median_seconds(call) if same else None


def median_seconds(call: Callable[[], object]) -> float:
    return float(triton.testing.do_bench(call, return_mode="median")) / 1e3


def tune(shape: tuple[int, int, int], update: str, method: str, device: str) -> None:
    scores, targets = problem(*shape, device)
    name = architecture(scores.device)
    present = launch.launch_for(shape[0], shape[1], shape[1], scores.dtype, name)
    nvidia = name.startswith("sm_")
    if isinstance(present, ShortLaunch):
        candidates: Iterator[Launch] = short_candidates(present, nvidia)
    else:
        candidates = dp_candidates(present) if method == "dp" else long_candidates(present, nvidia)

    def call() -> Tensor:
        return fastap.direct_ap_loss(scores, targets, update=update, method=method, reduction="none", backend="triton")

    print(f"{shape[0]} x {shape[1]}, {shape[2]} positives, {update} update, method {method}")
    for candidate in (present, *candidates):
        time = seconds(call, present, candidate)
        print(f"  {'another result' if time is None else f'{1e6 * time:10.1f} us'}  {candidate}")


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        print("bench.tune needs a CUDA device, and there is none", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), *(f"{name} {version}" for name, version in versions().items()), commit())
    for shape in (*SHORT_SHAPES, *LONG_SHAPES):
        for update in ("positive", "negative"):
            tune(shape, update, "auto", "cuda")
    tune(DP_SHAPE, "positive", "dp", "cuda")
    return 0


if __name__ == "__main__":
    sys.exit(main())

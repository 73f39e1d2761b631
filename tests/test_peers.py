"""Peers of every kind that ends badly, and one that does not; and the list of the real ones."""

from __future__ import annotations

import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from bench import isolated, peers, store
from bench.contenders import PEERS, SMALL, Peer, Rank, is_usable, near_one_minus_ap
from bench.inputs import Shape, stream
from fastap.backends import reference

SHAPES = (Shape(1, 5, 50), Shape(1, 50, 500))
LIMITS = peers.Limits(seconds=20.0, bytes=2**30, rounds=0.02)
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is capped and measured on Linux only")


# What goes wrong does so at the shapes that are timed.


def fine(targets: Tensor) -> Rank:
    return lambda scores: (1 - scores[targets]).relu().mean() + scores[~targets].relu().mean()


def wrong(targets: Tensor) -> Rank:
    return lambda scores: 1 + scores.sum()


def _at_full_size(targets: Tensor, work: Any) -> Rank:
    if targets.numel() != SMALL.items:
        work()
    return fine(targets)


def allocates(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: torch.zeros(2**29))


def kills_itself(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fake(build: Any, **options: Any) -> Peer:
    return Peer(build.__name__, build, options.pop("check", is_usable), **options)


def assert_ours(row: peers.Row, *names: str) -> None:
    for name in ("sort", "fastap positive", "fastap negative", *names):
        assert 0 < row[name]["p10"] <= row[name]["median"] <= row[name]["p90"]
        assert row[name]["calls"] >= 3


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    times = {"sort": [1.0, 2.0, 4.0], "fastap positive": [8.0, 2.0, 1.0], "peer": [4.0, 4.0, 16.0]}
    found = peers.against(times)
    assert (found["ratio"]["median"], found["times"]) == (4.0, {"fastap positive": 2.0})
    assert found["seconds"] == {"median": 4.0, "p10": 4.0, "p90": pytest.approx(13.6), "calls": 3}


@pytest.mark.full
@linux
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (allocates, "RuntimeError: .* 2147483648 bytes.*"),
        (kills_itself, r"killed \(SIGKILL\), as the system does when memory runs out"),
    ],
)
def test_bad_ends(build: Any, reason: str) -> None:
    row = peers.run_case(fake(build), SHAPES[0], [], LIMITS._replace(seconds=6.0), "cpu", 1)
    assert row["status"] == "out of memory"
    assert re.fullmatch(reason, row["reason"])
    assert "seconds" not in row
    assert_ours(row)


@pytest.mark.full
def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is right, one whose value is not, for which no time is given, and one that is not there."""
    absent = Peer("absent", fine, is_usable, "no-such-package-as-this")
    monkeypatch.setattr(peers, "PEERS", [fake(fine, note="made up"), fake(wrong, check=near_one_minus_ap), absent])
    monkeypatch.setattr(peers, "PEER_SHAPES", SHAPES[:1])
    peers.main(["--out", str(tmp_path / "new"), "--quick", "--threads", str(torch.get_num_threads())])
    (file,) = (tmp_path / "new").glob("peers-*.csv")
    stored = store.read(file)
    assert stored.facts["cap"] == {"seconds": 20.0, "bytes": peers.most_memory()}
    names = [(row["peer"], row["status"]) for row in stored.rows]
    assert names == [("fine", "ok"), ("wrong", "failed"), ("absent", "not installed")]
    row, failed, _ = stored.rows
    assert (row["note"], row["checked"]) == ("made up", "gradient raises positives and lowers negatives")
    assert row["seconds"]["calls"] == row["sort"]["calls"] == row["fastap negative"]["calls"] >= peers.LEAST
    assert 0 < row["ratio"]["p10"] <= row["ratio"]["median"] <= row["ratio"]["p90"]
    assert set(row["times"]) == {"fastap positive", "fastap negative"}
    assert_ours(row)
    assert re.fullmatch(r"[-\d.]+ is not within 0\.0001 of 1 - AP, 0\.\d+", failed["reason"])
    assert not {"seconds", "bytes"} & failed.keys()
    assert str(file) in capsys.readouterr().out


def test_every_peer_is_listed() -> None:
    packages = {"pytorch-metric-learning", "libauc", "proxy-losses", "torchmetrics", "torcheval", "scikit-learn"}
    assert {peer.package for peer in PEERS} == {*packages, None}
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 14
    for peer in PEERS:  # every loss is something else than this library's; of metrics there is one
        assert peer.note or peer.gives == "metric"
        assert ("P + N rankings" in peer.note) == (peer.package == "pytorch-metric-learning")


def need(peer: Peer) -> None:
    if peer.version is None:
        pytest.skip(f"{peer.package} is compared with; it comes with the extra `bench`")
    if peer.name == "pytorch-metric-learning SmoothAP" and Version(peer.version) < Version("2.9"):
        pytest.skip(f"pytorch-metric-learning {peer.version} has no SmoothAP yet")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_are_right(peer: Peer) -> None:
    need(peer)
    if peer.name == "paper's DP, compiled":
        pytest.importorskip("numba", reason="compiles the full-table program; comes with the extra `bench`")
    assert peers.check(peer, "cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_checks_see_what_is_wrong(peer: Peer) -> None:
    """Another value where it means something, a longer gradient where it is known, the opposite one."""
    scores, targets = next(stream(peer.small, seed=1))
    ap = reference.plain_average_precision(scores, targets)
    if peer.gives == "metric":
        with pytest.raises(AssertionError, match="is not AP"):
            peer.check(ap + 1e-3, scores, targets, None)
        return
    need(peer)
    torch.manual_seed(0)
    leaf = scores.clone().requires_grad_()
    # Compiled or not it is the same program, and Numba may not be there.
    loops = next(each for each in PEERS if each.name == "paper's DP, NumPy loops")
    build = loops.build if "DP" in peer.name else peer.build
    value = build(targets)(leaf)
    value.backward()
    assert leaf.grad is not None
    right = value.item()
    assert peer.check(right, scores, targets, leaf.grad)
    with pytest.raises(AssertionError):
        peer.check(right, scores, targets, -leaf.grad)
    if peer.package != "libauc":
        with pytest.raises(AssertionError):
            peer.check(right + 0.2, scores, targets, leaf.grad)
    if "equal" in peer.check(right, scores, targets, leaf.grad) and peer.name != "blackbox AP":
        with pytest.raises(AssertionError):
            peer.check(right, scores, targets, 1.01 * leaf.grad)


def peaks() -> list[int | None]:
    isolated.peak_bytes(lambda: torch.ones(10))
    freed = partial(torch.ones, 10_000_000)
    small = lambda: [torch.ones(1_000) for _ in range(10_000)]  # noqa: E731
    return [isolated.peak_bytes(freed), isolated.peak_bytes(freed), isolated.peak_bytes(small)]


@pytest.mark.full
@linux
def test_peak_bytes() -> None:
    """Freed memory counts, and counts again at the next call, be it one piece or many."""
    outcome = isolated.run(peaks)
    assert outcome.status == "ok"
    for peak in outcome.value:
        assert 39e6 < peak < 50e6

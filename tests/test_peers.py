"""Peers of every kind that ends badly, and one that does not; and the list of the real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import contenders, isolated, peers
from bench.contenders import PEERS, Peer, Rank, equals_one_minus_ap, is_usable
from bench.inputs import PEER_SHAPES, Shape, stream

SHAPES = (Shape(1, 5, 50), Shape(1, 50, 500))
LIMITS = peers.Limits(seconds=20.0, bytes=2**30, rounds=0.02)
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is capped and measured on Linux only")


# Peers. What goes wrong does so at the shapes that are timed, or, "early", on the small problem too.


def fine(targets: Tensor) -> Rank:
    return lambda scores: (1 - scores[targets]).relu().mean()


def wrong(targets: Tensor) -> Rank:
    return lambda scores: 1 + scores.sum()


def without_gradient(targets: Tensor) -> Rank:
    return lambda scores: (scores * 0).sum()


def raises(targets: Tensor) -> Rank:
    raise ValueError("two classes, please\nand more of that")


def _at_full_size(targets: Tensor, work: Any) -> Rank:
    if targets.numel() != peers.SMALL.items:
        work()
    return fine(targets)


def allocates(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: torch.zeros(2**29))


def sleeps(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: time.sleep(60))


def kills_itself(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: os.kill(os.getpid(), signal.SIGKILL))


def dawdles(targets: Tensor) -> Rank:
    def rank(scores: Tensor) -> Tensor:
        time.sleep(0.05)
        return fine(targets)(scores)

    return rank


def fake(build: Any, **options: Any) -> Peer:
    return Peer(build.__name__, build, options.pop("check", is_usable), **options)


def case(peer: Peer, shape: Shape = SHAPES[0], seconds: float = LIMITS.seconds) -> peers.Row:
    return peers.run_case(peer, shape, [], LIMITS._replace(seconds=seconds), "cpu", 1)


def assert_ours(row: peers.Row, *names: str) -> None:
    for name in ("sort", "fastap positive", "fastap negative", *names):
        assert 0 < row[name]["p10"] <= row[name]["median"] <= row[name]["p90"]
        assert row[name]["calls"] >= 3


def test_fine() -> None:
    row = case(fake(fine))
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["checked"] == "value and gradient finite, gradient not zero"
    assert row["seconds"]["median"] > 0
    assert row["seconds"]["calls"] == row["sort"]["calls"] == row["fastap negative"]["calls"]
    assert_ours(row)


def test_metric() -> None:
    peer = Peer("scikit-learn", contenders.scikit_learn, contenders.equals_ap, "scikit-learn", "metric")
    row = case(peer)
    assert (row["status"], row["checked"]) == ("ok", "value equals AP")
    assert_ours(row, "fastap metric")


def test_slow_calls_are_not_repeated() -> None:
    row = case(fake(dawdles))
    assert row["status"] == "ok"
    assert row["seconds"]["calls"] == 1
    assert row["seconds"]["median"] >= 0.05
    assert_ours(row)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (fake(raises), "ValueError: two classes, please"),
        (fake(wrong, check=equals_one_minus_ap), r"[\d.]+ is not 1 - AP, 0\.\d+"),
        (fake(without_gradient), "the gradient is zero"),
        (fake(kills_itself), "ended by SIGKILL, as by the system when memory runs out"),
    ],
    ids=lambda each: each.name if isinstance(each, Peer) else "",
)
def test_failures(peer: Peer, reason: str) -> None:
    row = case(peer)
    assert row["status"] == "failed"
    assert re.fullmatch(reason, row["reason"])
    assert row["seconds"] is row["bytes"] is None
    assert_ours(row)


@linux
def test_out_of_memory() -> None:
    row = case(fake(allocates))
    assert row["status"] == "out of memory"
    assert "2147483648 bytes" in row["reason"]
    assert row["seconds"] is None
    assert_ours(row)


def test_out_of_time() -> None:
    row = case(fake(sleeps), seconds=4.0)
    assert (row["status"], row["reason"]) == ("out of time", "more than 4 s")
    assert row["seconds"] is None
    assert_ours(row)


def test_not_installed() -> None:
    row = case(fake(fine, package="no-such-package-as-this"))
    assert (row["status"], row["reason"]) == ("not installed", "there is no package no-such-package-as-this")
    assert row["source"] == "PyPI no-such-package-as-this"
    assert row["sort"] is None


@pytest.mark.parametrize(
    ("status", "seconds", "reason"),
    [
        ("out of memory", None, "out of memory at P = 5, N = 50"),
        ("out of time", None, "out of time at P = 5, N = 50"),
        ("ok", {"median": 9.0}, "9 s at P = 5, N = 50, and 10 times as many scores here"),
        ("ok", {"median": 7.0}, ""),
        ("failed", None, ""),
    ],
)
def test_hopeless(status: str, seconds: Any, reason: str) -> None:
    row = {"P": 5, "N": 50, "status": status, "seconds": seconds}
    assert peers.hopeless(SHAPES[1], [row], LIMITS) == reason
    assert peers.hopeless(SHAPES[1], [], LIMITS) == ""


def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fakes = [fake(fine), fake(raises), fake(fine, package="no-such-package-as-this")]
    fakes[2] = Peer("absent", *(getattr(fakes[2], name) for name in ("build", "check", "package", "gives")))
    monkeypatch.setattr(peers, "PEERS", fakes)
    monkeypatch.setattr(peers, "PEER_SHAPES", SHAPES)
    peers.main(["--out", str(tmp_path / "new"), "--quick", "--threads", str(torch.get_num_threads())])

    (file,) = (tmp_path / "new").glob("peers-*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    assert set(results) == {"about", "cap", "rows"}
    assert results["cap"] == {"seconds": 20.0, "bytes": peers.most_memory()}
    assert [(row["peer"], row["N"], row["status"]) for row in results["rows"]] == [
        ("fine", 50, "ok"),
        ("fine", 500, "ok"),
        ("raises", 50, "failed"),
        ("raises", 500, "failed"),
        ("absent", 50, "not installed"),
        ("absent", 500, "not installed"),
    ]
    keys = ["peer", "source", "gives", "P", "N", "status", "reason", "seconds", "bytes", "checked", "sort"]
    for row in results["rows"]:
        assert set(row) == {*keys, "fastap positive", "fastap negative"}
    printed = capsys.readouterr().out
    assert "| raises" in printed
    assert "raises, P=5, N=50: failed, ValueError: two classes, please" in printed
    assert str(file) in printed


def test_every_peer_is_listed() -> None:
    packages = {peer.package for peer in PEERS}
    assert packages == {
        *("pytorch-metric-learning", "libauc", "proxy-losses", "torchmetrics", "torcheval", "scikit-learn"),
        None,
    }
    papers = {peer.name for peer in PEERS if peer.package is None}
    assert papers == {
        *("blackbox MapLoss", "blackbox AP", "binned AP", "AP-loss", "SmoothAP"),
        *("paper's DP, NumPy loops", "paper's DP, compiled"),
    }
    metrics = {peer.name for peer in PEERS if peer.gives == "metric"}
    assert metrics == {"torcheval", "TorchMetrics", "scikit-learn"}
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 14
    assert [(shape.positives, shape.negatives) for shape in PEER_SHAPES] == [
        *((10, 100), (100, 1_000), (1_000, 10_000), (1_000, 100_000), (10_000, 1_000_000))
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_are_right(peer: Peer) -> None:
    if peer.version is None:
        pytest.skip(f"{peer.package} is compared with; it comes with the extra `bench`")
    if peer.name == "paper's DP, compiled":
        pytest.importorskip("numba", reason="compiles the full-table program; comes with the extra `bench`")
    assert peers.check(peer, "cpu")


def test_cuda_peak_is_what_pytorch_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 350)
    assert isolated.peak_bytes(lambda: asked.append("call"), "cuda") == 250
    assert asked == ["reset", "call"]


# In a process of its own.


def counts() -> Iterator[int]:
    yield from (1, 2)
    raise KeyError("three")


def peaks() -> list[int | None]:
    isolated.peak_bytes(lambda: torch.ones(10))
    freed = partial(torch.ones, 10_000_000)
    small = lambda: [torch.ones(1_000) for _ in range(10_000)]  # noqa: E731
    return [isolated.peak_bytes(freed), isolated.peak_bytes(freed), isolated.peak_bytes(small)]


def exits() -> None:
    os._exit(3)


def test_what_was_told_before_a_failure_counts() -> None:
    outcome = isolated.run(counts)
    assert (outcome.status, outcome.reason, outcome.value) == ("failed", "KeyError: 'three'", 2)


def test_exit_without_a_word() -> None:
    outcome = isolated.run(exits)
    assert (outcome.status, outcome.reason, outcome.value) == ("failed", "ended with exit status 3", None)


@linux
def test_peak_bytes() -> None:
    """Freed memory counts, and counts again at the next call, be it one piece or many."""
    outcome = isolated.run(peaks)
    assert outcome.status == "ok"
    for peak in outcome.value:
        assert 39e6 < peak < 50e6


def test_scores_of_a_round_are_the_same_for_all() -> None:
    seen: list[tuple[str, float]] = []

    def work(name: str) -> peers.Work:
        return peers.Work(lambda scores: seen.append((name, scores.sum().item())), False)

    times: dict[str, list[float]] = {}
    peers._take_turns({"a": work("a"), "b": work("b")}, stream(SHAPES[0]), times, 3, 3, 0.0)
    assert [name for name, _ in seen] == ["a", "b", "b", "a", "a", "b"]
    sums = [total for _, total in seen]
    assert sums[0::2] == sums[1::2]
    assert len(set(sums)) == 3
    assert [len(each) for each in times.values()] == [3, 3]

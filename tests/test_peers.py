"""Peers of every kind that ends badly, and one that does not; and the list of the real ones."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from bench import contenders, isolated, peers, store
from bench.contenders import PEERS, SMALL, Peer, Rank, is_usable, near_one_minus_ap
from bench.inputs import Shape, stream
from fastap.backends import reference

SHAPES = (Shape(1, 5, 50), Shape(1, 50, 500))
LIMITS = peers.Limits(seconds=20.0, bytes=2**30, rounds=0.02)
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is capped and measured on Linux only")


# Peers. What goes wrong does so at the shapes that are timed, or, "early", on the small problem too.


def fine(targets: Tensor) -> Rank:
    return lambda scores: (1 - scores[targets]).relu().mean() + scores[~targets].relu().mean()


def wrong(targets: Tensor) -> Rank:
    return lambda scores: 1 + scores.sum()


def without_gradient(targets: Tensor) -> Rank:
    return lambda scores: (scores * 0).sum()


def raises(targets: Tensor) -> Rank:
    raise ValueError("two classes, please\nand more of that")


def _at_full_size(targets: Tensor, work: Any) -> Rank:
    if targets.numel() != SMALL.items:
        work()
    return fine(targets)


def allocates(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: torch.zeros(2**29))


def sleeps(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: time.sleep(60))


def kills_itself(targets: Tensor) -> Rank:
    return _at_full_size(targets, lambda: os.kill(os.getpid(), signal.SIGKILL))


def dawdles(targets: Tensor, first: float = 0.05, later: float = 0.05) -> Rank:
    waits = iter([first])

    def rank(scores: Tensor) -> Tensor:
        time.sleep(next(waits, later))
        return fine(targets)(scores)

    return rank


def slows_down(targets: Tensor) -> Rank:
    return dawdles(targets, later=60.0)


def upside_down(targets: Tensor) -> Rank:
    return lambda scores: scores[targets].mean() - scores[~targets].mean()


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
    assert row["checked"] == "gradient raises positives and lowers negatives"
    assert row["seconds"]["median"] > 0
    assert row["seconds"]["calls"] == row["sort"]["calls"] == row["fastap negative"]["calls"] >= peers.LEAST
    assert 0 < row["ratio"]["p10"] <= row["ratio"]["median"] <= row["ratio"]["p90"]
    assert set(row["times"]) == {"fastap positive", "fastap negative"}
    assert min(row["times"].values()) > 0
    assert_ours(row)


def test_metric() -> None:
    peer = Peer("scikit-learn", contenders.scikit_learn, contenders.equals_ap, "scikit-learn", "metric")
    row = case(peer)
    assert (row["status"], row["checked"]) == ("ok", "value equals AP")
    assert_ours(row, "fastap metric")
    assert set(row["times"]) == {"fastap positive", "fastap negative", "fastap metric"}


@pytest.mark.full
def test_long_calls_are_repeated_while_the_cap_allows() -> None:
    row = case(fake(dawdles))
    assert (row["status"], row["seconds"]["calls"], row["sort"]["calls"]) == ("ok", peers.LEAST, peers.LEAST)
    assert row["seconds"]["median"] >= 0.05
    assert row["ratio"]["median"] > 1
    short = LIMITS._replace(seconds=0.05)
    *_, last = peers.measure(fake(dawdles), SHAPES[0], "cpu", torch.get_num_threads(), short)
    assert last["seconds"]["calls"] == 1
    assert last["ratio"]["p10"] == last["ratio"]["p90"] == pytest.approx(last["ratio"]["median"])


@pytest.mark.full
def test_a_time_stands_when_its_repetition_runs_out_of_time() -> None:
    row = case(fake(slows_down), seconds=10.0)
    assert (row["status"], row["reason"], row["seconds"]["calls"]) == ("ok", "", 1)


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    times = {"sort": [1.0, 2.0, 4.0], "fastap positive": [8.0, 2.0, 1.0], "peer": [4.0, 4.0, 16.0]}
    found = peers.against(times)
    assert (found["ratio"]["median"], found["times"]) == (4.0, {"fastap positive": 2.0})
    assert found["seconds"] == {"median": 4.0, "p10": 4.0, "p90": pytest.approx(13.6), "calls": 3}


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (fake(raises), "ValueError: two classes, please"),
        (fake(wrong, check=near_one_minus_ap), r"[-\d.]+ is not within 0\.0001 of 1 - AP, 0\.\d+"),
        (fake(without_gradient), "the gradient is zero"),
        (fake(upside_down), "a step against the gradient moves positives by -0.1, negatives by 0.01"),
    ],
    ids=lambda each: each.name if isinstance(each, Peer) else "",
)
def test_failures(peer: Peer, reason: str) -> None:
    row = case(peer)
    assert row["status"] == "failed"
    assert re.fullmatch(reason, row["reason"])
    assert not {"seconds", "bytes"} & row.keys()
    assert_ours(row)


@linux
@pytest.mark.parametrize(
    ("build", "status", "reason"),
    [
        (allocates, "out of memory", "RuntimeError: .* 2147483648 bytes.*"),
        (kills_itself, "out of memory", r"killed \(SIGKILL\), as the system does when memory runs out"),
        pytest.param(sleeps, "out of time", "more than 6 s", marks=pytest.mark.full),
    ],
)
def test_bad_ends(build: Any, status: str, reason: str) -> None:
    row = case(fake(build), seconds=6.0)
    assert row["status"] == status
    assert re.fullmatch(reason, row["reason"])
    assert "seconds" not in row
    assert_ours(row)


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
    absent = Peer("absent", fine, is_usable, "no-such-package-as-this")
    monkeypatch.setattr(peers, "PEERS", [fake(fine, note="made up"), fake(raises), absent])
    monkeypatch.setattr(peers, "PEER_SHAPES", SHAPES)
    peers.main(["--out", str(tmp_path / "new"), "--quick", "--threads", str(torch.get_num_threads())])
    (file,) = (tmp_path / "new").glob("peers-*.csv")
    stored = store.read(file)
    assert stored.facts["cap"] == {"seconds": 20.0, "bytes": peers.most_memory()}
    assert [(row["peer"], row["N"], row["status"]) for row in stored.rows] == [
        (name, n, status)
        for name, status in (("fine", "ok"), ("raises", "failed"), ("absent", "not installed"))
        for n in (50, 500)
    ]
    assert stored.rows[0]["note"] == "made up"
    assert set(stored.rows[0]["times"]) == {"fastap positive", "fastap negative"}
    printed = capsys.readouterr().out
    assert "fine, P = 5, N = 50: " in printed
    assert "raises, P = 5, N = 50: failed, ValueError: two classes, please" in printed
    assert str(file) in printed


def test_every_peer_is_listed() -> None:
    packages = {"pytorch-metric-learning", "libauc", "torchmetrics", "torcheval", "scikit-learn"}
    assert {peer.package for peer in PEERS} == {*packages, None}
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 10
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
    value = peer.build(targets)(leaf)
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


def test_what_was_told_before_the_end_counts() -> None:
    assert isolated.run(counts) == ("failed", "KeyError: 'three'", 2)
    assert isolated.run(exits) == ("failed", "ended with exit status 3", None)


def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "CONTROL_GROUPS", tmp_path)
    whole = isolated.machine_bytes()
    assert whole is None or whole > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert isolated.machine_bytes() == whole
    (tmp_path / "memory.max").write_text("3000\n")
    assert isolated.machine_bytes() == (whole and 3000)
    for machine, expected in ((4 << 30, 3 << 30), (64 << 30, 8 << 30), (None, 8 << 30)):
        monkeypatch.setattr(isolated, "machine_bytes", lambda machine=machine: machine)
        assert peers.most_memory() == expected


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

    times: peers.Times = {}
    works = {name: work(name) for name in "abc"}
    peers.take_turns(works, stream(SHAPES[0]), times, random.Random(0).shuffle, least=60, most=60)
    rounds = [seen[turn : turn + 3] for turn in range(0, 180, 3)]
    assert all(sorted(name for name, _ in each) == ["a", "b", "c"] for each in rounds)
    assert all(len({total for _, total in each}) == 1 for each in rounds)
    assert len({total for _, total in seen}) == 60
    assert [len(each) for each in times.values()] == [60, 60, 60]
    # Whoever runs, each of the others is now and then the one before.
    before = Counter((one[0], two[0]) for each in rounds for one, two in pairwise(each))
    assert len(before) == 6
    assert min(before.values()) >= 10

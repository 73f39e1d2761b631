"""What is compared with: that each peer is right, that its check sees what is wrong, and a whole run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from bench import peers, store
from bench.contenders import PEERS, Peer, Rank, is_usable, near_one_minus_ap
from bench.inputs import Shape, stream
from fastap.backends import reference


def fine(targets: Tensor) -> Rank:
    return lambda scores: (1 - scores[targets]).relu().mean() + scores[~targets].relu().mean()


def wrong(targets: Tensor) -> Rank:
    return lambda scores: 1 + scores.sum()


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    times = {"sort": [1.0, 2.0, 4.0], "fastap positive": [8.0, 2.0, 1.0], "peer": [4.0, 4.0, 16.0]}
    found = peers.against(times)
    assert (found["ratio"]["median"], found["times"]) == (4.0, {"fastap positive": 2.0})
    assert found["seconds"] == {"median": 4.0, "p10": 4.0, "p90": pytest.approx(13.6), "calls": 3}


@pytest.mark.full
def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is right, one whose value is not, for which no time is given, and one that is not there."""
    made_up = [
        Peer("fine", fine, is_usable, note="made up"),
        Peer("wrong", wrong, near_one_minus_ap),
        Peer("absent", fine, is_usable, "no-such-package-as-this"),
    ]
    monkeypatch.setattr(peers, "PEERS", made_up)
    monkeypatch.setattr(peers, "PEER_SHAPES", [Shape(1, 5, 50)])
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
    for name in ("sort", "fastap positive", "fastap negative"):
        assert 0 < row[name]["p10"] <= row[name]["median"] <= row[name]["p90"]
    assert re.fullmatch(r"[-\d.]+ is not within 0\.0001 of 1 - AP, 0\.\d+", failed["reason"])
    assert not {"seconds", "bytes"} & failed.keys()
    assert str(file) in capsys.readouterr().out


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

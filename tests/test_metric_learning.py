"""The retrieval loss in the hands of pytorch-metric-learning: its memory, miners, trainers and wrappers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap
from fastap.retrieval import retrieval_ap_loss
from tests.losses import AS_FUNCTION
from tests.processes import results

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import distances, losses, miners, reducers, trainers
from pytorch_metric_learning.utils import distributed
from pytorch_metric_learning.utils import loss_and_miner_utils as pml

from fastap.metric_learning import RetrievalAPLoss

EXACT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}
# Unequal, in no order; the last digit is there once.
CLASSES = torch.tensor([3, 0, 1, 3, 3, 0, 2, 1, 3, 0, 1, 3])


def rows(seed: int, count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64).requires_grad_()


def loop(embeddings: Tensor, relevant: Tensor, irrelevant: Tensor, references: Tensor, epsilon: float = 0.1) -> Tensor:
    """The mean over queries that take part, from (N, M) masks of what is relevant to whom."""
    each = []
    for query, good, bad in zip(embeddings, relevant, irrelevant, strict=True):
        if good.any() and bad.any():
            kept = good | bad
            each.append(
                fastap.direct_ap_loss(F.cosine_similarity(query[None], references[kept]), good[kept], epsilon=epsilon)
            )
    return torch.stack(each).mean()


def masks(labels: Tensor, references: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if references is not None:
        relevant = labels[:, None] == references
        return relevant, ~relevant
    relevant = labels[:, None] == labels
    return relevant.clone().fill_diagonal_(False), ~relevant


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


# Its losses of AP


@pytest.mark.skipif(not hasattr(losses, "SmoothAPLoss"), reason="came with pytorch-metric-learning 2.9")
def test_classes_that_smooth_ap_does_not_take() -> None:
    """Unequal classes are an error of it, and of equal classes it takes those that lie together: of shuffled rows its
    loss is another number. Ours is that of a loop over queries, in any order.
    """
    smooth, ours = losses.SmoothAPLoss(), RetrievalAPLoss(**AS_FUNCTION)
    leaf = rows(1)
    with pytest.raises(ValueError, match="same number of elements"):
        smooth(leaf, CLASSES)
    torch.testing.assert_close(ours(leaf, CLASSES), loop(leaf, *masks(CLASSES), leaf), **EXACT)

    labels, order = torch.arange(4).repeat_interleave(3), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert abs(smooth(leaf[order], labels[order]) - smooth(leaf, labels)) > 0.01
    torch.testing.assert_close(ours(leaf[order], labels[order]), ours(leaf, labels), **EXACT)
    torch.testing.assert_close(ours(leaf, labels), loop(leaf, *masks(labels), leaf), **EXACT)


def test_its_similarities() -> None:
    leaf = rows(2)
    loss = RetrievalAPLoss(distances.CosineSimilarity(), **AS_FUNCTION)
    torch.testing.assert_close(loss(leaf, CLASSES), RetrievalAPLoss(**AS_FUNCTION)(leaf, CLASSES), **EXACT)


# Memory


@pytest.mark.parametrize("max_pairs", [90, 2**24])
def test_cross_batch_memory(max_pairs: int) -> None:
    """Each batch against the latest 30 embeddings, which hold the batch itself: a query does not retrieve its copy."""
    memory = losses.CrossBatchMemory(RetrievalAPLoss(**AS_FUNCTION, max_pairs=max_pairs), 5, memory_size=30)
    held, held_labels = torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    for step in range(5):
        leaf, labels = rows(10 + step), CLASSES.roll(step)
        ours = memory(leaf, labels)
        # In the order of the memory's slots it would be a ring; the loss does not depend on that.
        held, held_labels = torch.cat([held, leaf.detach()])[-30:], torch.cat([held_labels, labels])[-30:]
        relevant, irrelevant = masks(labels, held_labels)
        relevant[:, -12:].fill_diagonal_(False)
        theirs = loop(leaf, relevant, irrelevant, held)
        torch.testing.assert_close(ours, theirs, **EXACT)
        torch.testing.assert_close(gradient(ours, leaf), gradient(theirs, leaf), **EXACT)
    assert memory.has_been_filled


def test_cross_batch_memory_with_a_mask_of_what_to_keep() -> None:
    """The other half of the batch is the queries, and nothing is a copy."""
    memory = losses.CrossBatchMemory(RetrievalAPLoss(**AS_FUNCTION), 5, memory_size=30)
    leaf, keep = rows(20), torch.arange(12) % 2 == 0
    ours = memory(leaf, CLASSES, enqueue_mask=keep)
    theirs = loop(leaf[~keep], *masks(CLASSES[~keep], CLASSES[keep]), leaf[keep].detach())
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_cross_batch_memory_with_a_miner() -> None:
    miner = miners.MultiSimilarityMiner(epsilon=0.5)
    memory = losses.CrossBatchMemory(RetrievalAPLoss(**AS_FUNCTION), 5, memory_size=30, miner=miner)
    leaf = rows(21)
    ours = memory(leaf, CLASSES)
    pairs = pml.remove_self_comparisons(miner(leaf, CLASSES, leaf.detach(), CLASSES.clone()), torch.arange(12), 30)
    relevant, irrelevant = torch.zeros(2, 12, 12, dtype=torch.bool)
    relevant[pairs[0], pairs[1]], irrelevant[pairs[2], pairs[3]] = True, True
    every = masks(CLASSES)
    assert relevant.sum() < every[0].sum() or irrelevant.sum() < every[1].sum()
    torch.testing.assert_close(ours, loop(leaf, relevant, irrelevant, leaf.detach()), **EXACT)


def test_cross_batch_memory_under_autocast() -> None:
    memory = losses.CrossBatchMemory(RetrievalAPLoss(**AS_FUNCTION), 5, memory_size=30)
    leaf = rows(22).detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        half = leaf @ torch.eye(5)
        ours = memory(half, CLASSES)
    assert half.dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    wide = half.detach().float()
    torch.testing.assert_close(ours, loop(wide, *masks(CLASSES), wide), rtol=1e-4, atol=1e-5)
    assert gradient(ours, leaf).any()


# Miners


@pytest.mark.parametrize(
    ("miner", "indices"),
    [
        (miners.MultiSimilarityMiner(epsilon=0.1), 4),
        (miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard"), 3),
        (miners.BatchHardMiner(), 3),
        (miners.PairMarginMiner(pos_margin=-1.0, neg_margin=3.0), 4),
    ],
    ids=lambda given: type(given).__name__,
)
def test_miners(miner: miners.BaseMiner, indices: int) -> None:
    leaf = rows(30)
    found = miner(leaf, CLASSES)
    assert len(found) == indices
    ours = RetrievalAPLoss(**AS_FUNCTION)(leaf, CLASSES, found)
    relevant, irrelevant = torch.zeros(2, 12, 12, dtype=torch.bool)
    a1, p, a2, n = pml.convert_to_pairs(found, CLASSES)
    relevant[a1, p], irrelevant[a2, n] = True, True
    assert relevant.any()
    theirs = loop(leaf, relevant, irrelevant, leaf)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(gradient(ours, leaf), gradient(theirs, leaf), **EXACT)


def test_a_miner_that_finds_nothing() -> None:
    leaf = rows(31)
    found = miners.PairMarginMiner(pos_margin=100.0, neg_margin=-1.0)(leaf, CLASSES)
    assert not any(index.numel() for index in found)
    loss = RetrievalAPLoss(**AS_FUNCTION)(leaf, CLASSES, found)
    assert loss == 0
    assert not gradient(loss, leaf).any()


# Wrappers


def test_multiple_losses() -> None:
    leaf, contrastive = rows(40), losses.ContrastiveLoss(reducer=reducers.MeanReducer())
    both = losses.MultipleLosses([RetrievalAPLoss(**AS_FUNCTION), contrastive], weights=[2.0, 0.5])
    expected = 2 * retrieval_ap_loss(leaf, CLASSES) + 0.5 * contrastive(leaf, CLASSES)
    torch.testing.assert_close(both(leaf, CLASSES), expected, **EXACT)


@pytest.mark.parametrize("symmetric", [True, False])
def test_self_supervised_loss(symmetric: bool) -> None:
    """Two views of each item: its other view is the one relevant item."""
    first, second = rows(41), rows(42)
    ours = losses.SelfSupervisedLoss(RetrievalAPLoss(**AS_FUNCTION), symmetric=symmetric)(first, second)
    views, labels = torch.cat([first, second]), torch.arange(12)
    theirs = loop(views, *masks(labels.repeat(2)), views) if symmetric else loop(first, *masks(labels, labels), second)
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_a_loss_is_one_of_its_losses_and_as_before() -> None:
    """It has none of the parts that its base class would give it."""
    loss = RetrievalAPLoss(**AS_FUNCTION)
    assert isinstance(loss, losses.BaseMetricLossFunction)
    assert RetrievalAPLoss.__name__ in losses.CrossBatchMemory.supported_losses()
    assert "ContrastiveLoss" in losses.CrossBatchMemory.supported_losses()
    with pytest.raises(Exception, match="not supported"):
        losses.CrossBatchMemory(losses.FastAPLoss(), 5)
    assert not list(loss.children())
    assert "Reducer" not in repr(loss)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(loss)))
    leaf = rows(43)
    assert twin(leaf, CLASSES) == loss(leaf, CLASSES)


# Training


class Numbers(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(50)
        self.labels = torch.randint(5, (96,), generator=generator)
        self.data = F.one_hot(self.labels, 5) + torch.randn(96, 5, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.data[index], int(self.labels[index])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")  # by the trainer's progress bar
@pytest.mark.parametrize("kind", ["loss", "miner", "memory"])
def test_a_trainer(kind: str) -> None:
    """Random batches, of unequal classes; the loss of all data falls."""
    torch.manual_seed(0)
    net, loss, data = nn.Linear(5, 4), RetrievalAPLoss(**AS_FUNCTION), Numbers()
    before = loss(net(data.data), data.labels)
    metric = losses.CrossBatchMemory(loss, 4, memory_size=64) if kind == "memory" else loss
    trainer = trainers.MetricLossOnly(
        models={"trunk": net},
        optimizers={"trunk_optimizer": torch.optim.Adam(net.parameters(), 0.05)},
        batch_size=32,
        loss_funcs={"metric_loss": metric},
        dataset=data,
        mining_funcs={"tuple_miner": miners.MultiSimilarityMiner(0.3)} if kind == "miner" else {},
        data_device="cpu",
        dataloader_num_workers=0,
        set_min_label_to_zero=False,
    )
    trainer.train(num_epochs=5)
    assert loss(net(data.data), data.labels) < before - 0.05


# Processes


def embed(weight: Tensor) -> tuple[Tensor, Tensor]:
    return rows(60, 16).detach() @ weight, torch.cat([CLASSES, CLASSES[:4]])


def spread(rank: int, efficient: bool) -> tuple[Tensor, Tensor]:
    """The gradient of shared weights, averaged over ranks as data-parallel training does."""
    weight = torch.eye(5, dtype=torch.float64).requires_grad_()
    embeddings, labels = (part[8 * rank : 8 * rank + 8] for part in embed(weight))
    wrapper = distributed.DistributedLossWrapper(RetrievalAPLoss(**AS_FUNCTION, epsilon=0.5), efficient=efficient)
    loss = wrapper(embeddings, labels)
    loss.backward()
    torch.distributed.all_reduce(weight.grad)
    return loss.detach() / 2, weight.grad / 2


def spread_memory(rank: int) -> Tensor:
    memory = losses.CrossBatchMemory(RetrievalAPLoss(**AS_FUNCTION, epsilon=0.5), 5, memory_size=64)
    embeddings, labels = (part[8 * rank : 8 * rank + 8] for part in embed(torch.eye(5, dtype=torch.float64)))
    return distributed.DistributedLossWrapper(memory)(embeddings, labels) / 2


def spread_every_way(rank: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    return spread(rank, False), spread(rank, True), spread_memory(rank)


def test_distributed_loss_wrapper(tmp_path: Path) -> None:
    """Value and gradient are those of one process with the whole batch, with a memory the value is.

    If efficient, each rank's queries are taken against everybody's embeddings, of which other ranks' carry no gradient.
    """
    weight = torch.eye(5, dtype=torch.float64).requires_grad_()
    embeddings, labels = embed(weight)
    whole = loop(embeddings, *masks(labels), embeddings, 0.5)
    expected = torch.autograd.grad(whole, weight, retain_graph=True)[0]
    assert expected.any()
    per_rank = []
    relevant, irrelevant = masks(labels)
    for own in (slice(0, 8), slice(8, 16)):
        there = embeddings.detach().clone()
        there[own] = embeddings[own]
        per_rank.append(loop(embeddings[own], relevant[own], irrelevant[own], there, 0.5))
    summed = gradient(per_rank[0] + per_rank[1], weight)
    for (plain, efficient, memory), alone in zip(results(spread_every_way, 2, tmp_path), per_rank, strict=True):
        torch.testing.assert_close(plain, (whole.detach(), expected), **EXACT)
        torch.testing.assert_close(efficient, (alone.detach(), summed), **EXACT)
        torch.testing.assert_close(memory, whole.detach(), **EXACT)

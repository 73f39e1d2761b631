"""Rankings of different lengths, by ids or offsets: each as if it were alone, in every backend and in every order."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import fastap
from fastap import measures, ragged
from fastap import operators as ops
from tests.losses import LOSSES, Loss, value_and_gradient
from tests.test_ops import ALONE, DIRECT

LENGTHS = (7, 0, 1, 12, 3, 0, 0, 33, 2, 5, 64)
BACKENDS = ("auto", "reference")


def problem(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with ties, targets of which some are ignored, and offsets; the ranking of 12 has positives alone."""
    generator = torch.Generator().manual_seed(seed)
    items = sum(LENGTHS)
    scores = torch.randn(items, generator=generator, dtype=torch.float64).mul(4).round().div(4)
    targets = (torch.rand(items, generator=generator) < 0.4).long()
    targets[torch.rand(items, generator=generator) < 0.1] = -1
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    targets[offsets[3] : offsets[4]] = 1
    return scores.to(dtype), targets, offsets


def shuffled(offsets: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Ids of the rankings, ascending as they are and of both signs, and an order that mixes the items."""
    ids = torch.arange(len(LENGTHS)) * 1_000_003 - 4_000_000
    order = torch.randperm(int(offsets[-1]), generator=torch.Generator().manual_seed(seed))
    return ids.repeat_interleave(offsets.diff())[order], order


def one_by_one(loss: Loss, scores: Tensor, targets: Tensor, offsets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The losses and gradients of the rankings, each in a call of its own."""
    results = [
        value_and_gradient(loss, scores[first:end], targets[first:end], **options)
        for first, end in itertools.pairwise(offsets)
    ]
    return torch.stack([value for value, _ in results]), torch.cat([gradient for _, gradient in results])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_ranking_is_as_if_alone(backend: str, dtype: torch.dtype, loss: Loss) -> None:
    scores, targets, offsets = problem(dtype=dtype)
    options: dict[str, Any] = {"ignore_index": -1, "backend": backend, "weight": 0.7}
    values, gradients = one_by_one(loss, scores, targets, offsets, **options)
    given = value_and_gradient(loss, scores, targets, offsets=offsets, **options)
    torch.testing.assert_close(given[0], values, rtol=0, atol=0)
    torch.testing.assert_close(given[1], gradients, rtol=0, atol=0)
    groups, order = shuffled(offsets)
    given = value_and_gradient(loss, scores[order], targets[order], groups=groups, **options)
    # An id that no item has is no ranking.
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(given[0], values[offsets.diff() > 0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(given[1], gradients[order], rtol=tolerance, atol=tolerance)


def test_the_order_of_the_items_changes_no_bit(loss: Loss) -> None:
    scores, targets, offsets = problem()
    groups, order = shuffled(offsets)
    expected = value_and_gradient(loss, scores[order], targets[order], groups=groups, ignore_index=-1)
    again = torch.randperm(len(order), generator=torch.Generator().manual_seed(5))
    given = value_and_gradient(loss, scores[order][again], targets[order][again], groups=groups[again], ignore_index=-1)
    torch.testing.assert_close(given[0], expected[0], rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(given[1], expected[1][again], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", ["positive", "negative"])
def test_ranks_and_metric(update: str, backend: str) -> None:
    scores, targets, offsets = problem()
    groups, order = shuffled(offsets)
    options: dict[str, Any] = {"update": update, "ignore_index": -1, "backend": backend}
    parts = [slice(*offsets[r : r + 2].tolist()) for r in range(len(LENGTHS))]
    each = [fastap.loss_augmented_ranking(scores[part], targets[part], **options) for part in parts]
    ranks, value = fastap.loss_augmented_ranking(scores, targets, offsets=offsets, **options)
    assert ranks.tolist() == torch.cat([ranking.ranks for ranking in each]).tolist()
    torch.testing.assert_close(value, torch.stack([ranking.value for ranking in each]), rtol=0, atol=0, equal_nan=True)
    _, by_id = fastap.loss_augmented_ranking(scores[order], targets[order], groups=groups, **options)
    torch.testing.assert_close(by_id, value[offsets.diff() > 0], rtol=1e-12, atol=1e-12, equal_nan=True)

    precision = torch.stack([fastap.average_precision(scores[p], targets[p], ignore_index=-1) for p in parts])
    given = fastap.average_precision(scores, targets, offsets=offsets, ignore_index=-1)
    torch.testing.assert_close(given, precision, rtol=0, atol=0, equal_nan=True)
    given = fastap.average_precision(scores[order], targets[order], groups=groups, ignore_index=-1)
    torch.testing.assert_close(given, precision[offsets.diff() > 0], rtol=1e-15, atol=0, equal_nan=True)


def test_nested_tensors(loss: Loss) -> None:
    scores, targets, offsets = problem(dtype=torch.float32)
    leaf = scores.requires_grad_()
    nested = torch.nested.nested_tensor_from_jagged(leaf, offsets)
    wanted = torch.nested.nested_tensor_from_jagged(targets, offsets)
    for options in ({}, {"reduction": "none"}, {"dim": 1}):
        value = loss(nested, wanted, ignore_index=-1, **options)
        expected = loss(scores, targets, offsets=offsets, ignore_index=-1, **{**options, "dim": 0})
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
        gradients = [torch.autograd.grad(each.sum(), leaf)[0] for each in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=0, atol=0)
    # The same offsets in another tensor, and targets of another origin.
    copied = torch.nested.nested_tensor_from_jagged(targets, offsets.clone())
    torch.testing.assert_close(loss(nested, copied, ignore_index=-1), loss(nested, wanted, ignore_index=-1))
    ranks, _ = fastap.loss_augmented_ranking(nested, wanted, ignore_index=-1)
    assert ranks.is_nested
    flat, _ = fastap.loss_augmented_ranking(scores, targets, offsets=offsets, ignore_index=-1)
    assert ranks.values().tolist() == flat.tolist()
    weights = torch.rand(len(scores), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        fastap.average_precision(
            nested, wanted, ignore_index=-1, sample_weight=torch.nested.nested_tensor_from_jagged(weights, offsets)
        ),
        fastap.average_precision(scores, targets, offsets=offsets, ignore_index=-1, sample_weight=weights),
        equal_nan=True,
    )


def test_nested_views_with_gaps() -> None:
    padded = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1]])
    starts, lengths = torch.tensor([1, 0, 2]), torch.tensor([4, 2, 3])
    views = [torch.nested.narrow(each, 1, starts, lengths, layout=torch.jagged) for each in (padded, targets)]
    value = fastap.direct_ap_loss(*views, reduction="none")
    rows = [
        fastap.direct_ap_loss(row[start : start + length], target[start : start + length])
        for row, target, start, length in zip(padded, targets, starts, lengths, strict=True)
    ]
    torch.testing.assert_close(value, torch.stack(rows), rtol=0, atol=0)
    given, expected = (torch.autograd.grad(total, padded)[0] for total in (value.sum(), torch.stack(rows).sum()))
    torch.testing.assert_close(given, expected, rtol=0, atol=0)
    assert int((given != 0).any(1).sum()) >= 1


def test_nothing_at_all(loss: Loss) -> None:
    empty = torch.zeros(0, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for rankings, layout in (
        (0, {"groups": none}),
        (0, {"offsets": none.new_zeros(1)}),
        (3, {"offsets": none.new_zeros(4)}),
    ):
        value = loss(empty, none, **layout)
        assert value.item() == 0
        assert torch.autograd.grad(value, empty)[0].shape == (0,)
        each = loss(empty, none, reduction="none", **layout)
        assert each.tolist() == [0.0] * rankings
        assert torch.autograd.grad(each.sum(), empty)[0].shape == (0,)
        assert fastap.average_precision(empty, none, **layout).shape == (rankings,)
        assert fastap.average_precision(empty, none, **layout).isnan().all()
        ranks, value = fastap.loss_augmented_ranking(empty, none, **layout)
        assert (ranks.shape, value.shape) == ((0,), (rankings,))


def test_huge_scores_of_one_ranking_cost_the_others_no_digit(path: str) -> None:
    scores, targets, offsets = problem()
    expected = value_and_gradient(LOSSES["negative"], scores, targets, offsets=offsets, ignore_index=-1)
    scores[offsets[3] : offsets[4]] *= 1e280
    given = value_and_gradient(LOSSES["negative"], scores, targets, offsets=offsets, ignore_index=-1)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_one_long_ranking_among_short_ones_by_any_number_of_threads(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 30, (2_000,), generator=generator)
    lengths[1_000] = 40_000
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    scores = torch.randn(int(offsets[-1]), generator=generator)
    targets = torch.rand(len(scores), generator=generator) < 0.1
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append(value_and_gradient(loss, scores, targets, offsets=offsets))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    part = slice(*offsets[1_000:1_002].tolist())
    alone = value_and_gradient(loss, scores[part], targets[part])
    torch.testing.assert_close(results[0][0][1_000], alone[0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1][part], alone[1], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1, 200, 40_000, 2**40])
def test_ids_of_any_size_sort_alike(scale: int) -> None:
    """Those that lie close are sorted in fewer bits."""
    small = torch.tensor([5, -2, 5, 7, -2, 0, 7, 1])
    near, far = ragged.from_groups(small), ragged.from_groups(small * scale - 17)
    assert near.order is not None
    assert far.order is not None
    assert far.order.tolist() == near.order.tolist()
    assert far.offsets.tolist() == near.offsets.tolist()


@pytest.mark.parametrize("groups", [[3, 3, -1, 7, 7, 7], [5, 2, 5, 2, 9, 5], [0] * 4, [2, 1], [4], []])
def test_where_the_host_does_not_look_groups_lie_the_same(groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done for other devices, on the CPU: as many rankings as items, the last of them empty."""
    ids = torch.tensor(groups, dtype=torch.long)
    known = ragged.from_groups(ids)
    monkeypatch.setattr(ragged, "_is_on_host", lambda tensor: False)
    unknown = ragged.from_groups(ids)
    assert unknown.count is not None
    count = int(unknown.count)
    assert count == len(set(groups)) == known.offsets.shape[0] - 1
    assert unknown.offsets.tolist() == known.offsets.tolist() + [len(groups)] * (len(groups) - count)
    placed = ids if unknown.order is None else ids[unknown.order]
    assert placed.tolist() == sorted(groups)
    assert unknown.without_padding(torch.arange(len(groups))).tolist() == list(range(count))
    numbers = {each: number for number, each in enumerate(sorted(set(groups)))}
    assert (
        unknown.rankings_of_items().tolist() == known.rankings_of_items().tolist() == [numbers[each] for each in groups]
    )


@pytest.mark.parametrize("offsets", [[0, 2, 5], [0, 5, 2, 6], [1, 3, 6], [-1, 3, 6], [0, 9, 6], [0, 3, 7]])
def test_where_the_host_does_not_look_wrong_offsets_make_nan(
    offsets: list[int], monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    scores = torch.randn(6, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="offsets must"):
        loss(scores, targets, offsets=torch.tensor(offsets))
    monkeypatch.setattr(ragged, "_is_on_host", lambda tensor: False)
    for reduction in ("mean", "sum", "none"):
        value, gradient = value_and_gradient(
            loss, scores, targets, offsets=torch.tensor(offsets), reduction=reduction, backend="reference"
        )
        assert value.isnan().all()
        assert gradient.isnan().all()
    assert fastap.average_precision(scores, targets, offsets=torch.tensor(offsets)).isnan().all()


def test_errors() -> None:
    scores, targets, offsets = problem()
    groups, _ = shuffled(offsets)
    for options, message in (
        ({"groups": groups, "offsets": offsets}, "groups and offsets must not be given together"),
        ({"groups": groups[1:]}, r"groups must have the shape of scores, \(127,\), got \(126,\)"),
        ({"groups": groups.double()}, "groups must have an integer dtype, got torch.float64"),
        ({"groups": groups.tolist()}, "groups must be a torch.Tensor or None, got list"),
        ({"offsets": offsets[:0]}, r"offsets must have the shape \(rankings \+ 1,\)"),
        ({"offsets": offsets[None]}, r"offsets must have the shape \(rankings \+ 1,\)"),
        ({"offsets": offsets[:-1]}, "offsets must begin with 0 and end with the number of items, 127, got 0 and 63"),
        ({"offsets": torch.tensor([0, 9, 4, 127])}, "offsets must not fall, got 9 before 4"),
    ):
        for call in (fastap.direct_ap_loss, fastap.average_precision, fastap.loss_augmented_ranking):
            with pytest.raises((TypeError, ValueError), match=message):
                call(scores, targets, ignore_index=-1, **options)
    with pytest.raises(ValueError, match="scores must be one-dimensional with offsets"):
        fastap.direct_ap_loss(scores[None], targets[None], offsets=offsets, ignore_index=-1)
    with pytest.raises(ValueError, match="targets must be 0, 1 or ignore_index = -1, got 5"):
        fastap.direct_ap_loss(scores, targets * 5, offsets=offsets, ignore_index=-1, backend="reference")


def test_weights_of_nested_tensors_lie_where_the_scores_do() -> None:
    padded = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    targets, weights = (padded > 0).long(), padded.abs()
    starts, lengths = torch.tensor([1, 0, 2]), torch.tensor([4, 5, 3])
    views = [
        torch.nested.narrow(each, 1, starts, lengths, layout=torch.jagged) for each in (padded - 0.3, targets, weights)
    ]
    given = fastap.average_precision(*views[:2], sample_weight=views[2])
    rows = [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    expected = [
        fastap.average_precision(score[row] - 0.3, target[row], sample_weight=weight[row])
        for score, target, weight, row in zip(padded, targets, weights, rows, strict=True)
    ]
    torch.testing.assert_close(given, torch.stack(expected), rtol=1e-15, atol=0, equal_nan=True)
    flat = torch.nested.nested_tensor_from_jagged(torch.ones(12), torch.tensor([0, 5, 9, 12]))
    with pytest.raises(ValueError, match=r"scores must have rows of the lengths of sample_weight, \[5, 4, 3\], got"):
        fastap.average_precision(*views[:2], sample_weight=flat)
    with pytest.raises(TypeError, match="scores must be a nested tensor, as sample_weight is"):
        fastap.average_precision(torch.ones(12), torch.ones(12), offsets=torch.tensor([0, 12]), sample_weight=flat)


def test_errors_of_nested_tensors() -> None:
    scores, targets, offsets = problem(dtype=torch.float32)
    nested = torch.nested.nested_tensor_from_jagged(scores, offsets)
    wanted = torch.nested.nested_tensor_from_jagged(targets, offsets)
    other = offsets.clone()
    other[1] += 1
    wide = torch.nested.nested_tensor_from_jagged(scores[:, None], offsets)
    for arguments, options, message in (
        ((nested, targets), {}, "targets must be a nested tensor, as scores is"),
        ((wide, wanted), {}, r"scores must have the shape \(rankings, items\) if nested, got 3 dimensions"),
        ((nested, wanted), {"dim": 0}, "dim must be 1 or -1 where scores are nested, got 0"),
        ((nested, wanted), {"offsets": offsets}, "groups and offsets must be None where scores are nested"),
        (
            (nested, torch.nested.nested_tensor_from_jagged(targets, other)),
            {},
            r"targets must have rows of the lengths of scores, \[7, 0, .*, got \[8, -1",
        ),
        ((nested, torch.nested.nested_tensor_from_jagged(targets[:7], offsets[:2])), {}, "as many rankings as scores"),
        ((scores, wanted), {}, "targets must be a dense tensor, as scores is"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fastap.direct_ap_loss(*arguments, ignore_index=-1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the strided layout itself
        strided = torch.nested.nested_tensor([scores[:3], scores[3:7]], layout=torch.strided)
    with pytest.raises(ValueError, match=r"scores must have the layout torch\.jagged if nested, got torch\.strided"):
        fastap.direct_ap_loss(strided, wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("by", ["groups", "offsets"])
def test_opcheck(by: str, reduction: str) -> None:
    scores, targets, offsets = problem(dtype=torch.float32)
    # Every ranking with both classes: opcheck takes NaN for a difference.
    offsets = torch.tensor([0, 40, 70, len(scores)])
    groups = torch.arange(3).repeat_interleave(offsets.diff())
    layout = (groups, None) if by == "groups" else (None, offsets)
    weight = torch.tensor([1.0, 0.5, 2.0])
    scores = scores + torch.linspace(0, 0.1, len(scores))
    arguments = (scores.requires_grad_(), targets, *layout, weight, *DIRECT, 0, -1, reduction, "auto", *ALONE)
    # A shape that depends on the groups' values is static in no graph, which is what that check asks.
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    dynamic = by == "groups" and reduction == "none"
    torch.library.opcheck(ops.ap_loss, arguments, **({"test_utils": utilities} if dynamic else {}))
    utilities = utilities if by == "groups" else [*utilities, "test_aot_dispatch_dynamic"]
    weights = torch.rand(len(scores), generator=torch.Generator().manual_seed(0))
    for counts in (False, True):
        torch.library.opcheck(
            measures.average_precision,
            (scores.detach(), targets, *layout, weights, 0, -1, counts),
            test_utils=utilities,
        )
    torch.library.opcheck(
        measures.loss_augmented_ranking,
        (scores.detach(), targets, *layout, 0.7, "negative", "auto", 0, -1, "auto"),
        test_utils=utilities,
    )

"""Whatever retrieval is given: a clear error or a right answer. Lists say what is relevant, fractions what it costs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastap
from tests.bad_arguments import BAD, NO_INTS, NO_TENSORS, exotic, refused
from tests.strategies import (
    FLOATS,
    INTEGERS,
    STRIDES,
    examples,
    float_of,
    holds,
    may_be_lost,
    nearly,
    scales,
    strided,
    truth,
)

RELEVANT, IRRELEVANT, LEFT_OUT = 1, 0, None
# Powers of two that rows are multiplied with: the product of two such rows is a number of its type.
EXPONENTS = {torch.float16: 6, torch.bfloat16: 50, torch.float32: 50, torch.float64: 150}
WEIGHTS = (0.0, 1e-30, 0.25, 1.0, 3.0, 1e30)


@dataclass(frozen=True)
class Case:
    """A call, and what it means in plain lists."""

    embeddings: Tensor
    references: Tensor | None
    labels: Tensor | None
    ref_labels: Tensor | None
    pairs: tuple[Tensor, ...] | None
    weight: Tensor | None
    ignore_index: int | None
    options: dict[str, Any]

    @property
    def items(self) -> Tensor:
        return self.embeddings if self.references is None else self.references

    def pair(self, query: int, item: int) -> int | None:
        """What the item is to the query."""
        if self.references is None and query == item:
            return LEFT_OUT
        ours = None if self.labels is None else self.labels.tolist()[query]
        theirs = self.labels if self.references is None else self.ref_labels
        other = None if theirs is None else theirs.tolist()[item]
        if any(label == self.ignore_index for label in (ours, other) if type(label) in (int, bool)):
            return LEFT_OUT
        if self.pairs is not None:
            return self._named(query, item)
        assert ours is not None
        assert other is not None
        if isinstance(ours, list):
            both = [(float(one), float(two)) for one, two in zip(ours, other, strict=True)]
            if any(pair == (1.0, 1.0) for pair in both):
                return RELEVANT
            return IRRELEVANT if all(0.0 in pair for pair in both) else LEFT_OUT
        return int(ours == other)

    def _named(self, query: int, item: int) -> int | None:
        assert self.pairs is not None
        a, p, *rest = ([int(index) for index in each.tolist()] for each in self.pairs)
        b, n = rest if len(rest) == 2 else (a, rest[0])
        if (query, item) in zip(b, n, strict=True):
            return IRRELEVANT
        return RELEVANT if (query, item) in zip(a, p, strict=True) else LEFT_OUT


@st.composite
def rows(draw: st.DrawFn, count: int, features: int, dtype: torch.dtype) -> Tensor:
    """Small integers, of few different rows, each times a power of two of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    values = rng.integers(-3, 4, (count, features)).astype(float)
    if count and draw(st.booleans()):
        values = values[rng.integers(0, min(count, 3), count)]
    if draw(st.booleans()):
        values *= 2.0 ** rng.integers(-EXPONENTS[dtype], EXPONENTS[dtype] + 1, (count, 1))
    if draw(st.sampled_from([False, False, True])):
        values[rng.random(values.shape) < 0.1] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return strided(torch.tensor(values).to(dtype), draw(st.sampled_from(STRIDES)))


@st.composite
def labels_of(draw: st.DrawFn, counts: Sequence[int], ignore_index: int | None) -> list[Tensor]:
    """Of queries and references, of any type each: classes, or zeros and ones of some labels with unknown ones."""
    columns = draw(st.sampled_from([None, None, 0, 1, 3]))
    result = []
    for count in counts:
        kind = draw(st.sampled_from([torch.bool, *INTEGERS, *(() if columns is None else FLOATS)]))
        pool = [0, 1]
        if kind != torch.bool:
            extra = [] if ignore_index is None else [ignore_index]
            extra += [] if columns is not None else [2, -1, 2**64 - 1, 2**63, 2**63 - 1, -(2**63), 255]
            pool += [number for number in extra if holds(kind, number)]
        size = count if columns is None else count * columns
        numbers = draw(st.lists(st.sampled_from(pool), min_size=size, max_size=size))
        labels = torch.tensor([float(n) for n in numbers] if kind in FLOATS else numbers, dtype=kind)
        if columns is not None:
            labels = strided(labels.view(count, columns), draw(st.sampled_from(STRIDES[:4])))
        result.append(labels)
    return result


@st.composite
def cases(draw: st.DrawFn, *, similarity: str, epsilon: st.SearchStrategy[float]) -> Case:
    n, features = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    others = draw(st.sampled_from([None, None, 0, 1, 4, 7]))
    m = n if others is None else others
    kinds = [draw(st.sampled_from(FLOATS))]
    kinds.append(kinds[0] if others is None else draw(st.sampled_from([kinds[0], *FLOATS])))
    embeddings, references = (draw(rows(count, features, kind)) for count, kind in zip((n, m), kinds, strict=True))
    ignore_index = draw(st.sampled_from([None, None, -1, 2, 255, 2**63 - 1, -(2**63)]))
    labels: list[Tensor | None] = [*draw(labels_of((n, m), ignore_index))]
    if others is None:
        labels[1] = None
    pairs = None
    if draw(st.sampled_from([False, False, True])) and n and m:
        sizes = [draw(st.integers(0, 12)) for _ in range(2)]
        limits, sizes = ((n, m, n, m), [*sizes[:1] * 2, *sizes[1:] * 2])
        if draw(st.booleans()):
            limits, sizes = (n, m, m), sizes[:1] * 3
        which = [
            st.lists(st.integers(0, limit - 1), min_size=s, max_size=s) for limit, s in zip(limits, sizes, strict=True)
        ]
        pairs = tuple(torch.tensor(draw(each), dtype=draw(st.sampled_from(INTEGERS))) for each in which)
        if draw(st.booleans()):
            labels = [None, None]
    weight = None
    if draw(st.booleans()):
        kind = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, *INTEGERS]))
        pool = WEIGHTS if kind in FLOATS else (0, 1, 3)
        weight = torch.tensor(draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)), dtype=kind)
    options = {
        "similarity": similarity,
        "epsilon": draw(epsilon),
        "update": draw(st.sampled_from(["positive", "negative"])),
        "method": draw(st.sampled_from(["auto", "dp"])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "max_pairs": draw(st.sampled_from([2**24, 2**70, 1, 7])),
        "ignore_index": ignore_index,
    }
    return Case(
        embeddings, None if others is None else references, labels[0], labels[1], pairs, weight, ignore_index, options
    )


def taken(case: Case) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the gradients of a sum in which each of several losses counts otherwise."""
    leaves = [each.detach().requires_grad_() for each in (case.embeddings, case.references) if each is not None]
    options = {"indices_tuple": case.pairs, "weight": case.weight}
    loss = fastap.RetrievalAPLoss(noise=0, **case.options)(
        leaves[0], case.labels, *leaves[1:], ref_labels=case.ref_labels, **options
    )
    again = fastap.retrieval_ap_loss(
        *leaves[:1], case.labels, *leaves[1:], ref_labels=case.ref_labels, **options, **case.options
    )
    assert torch.equal(loss.nan_to_num(9.0), again.nan_to_num(9.0))
    slopes = torch.autograd.grad((loss * counting(loss)).sum(), leaves)
    return loss.detach(), list(slopes)


def counting(loss: Tensor) -> Tensor:
    return torch.linspace(0.5, 2.0, loss.numel()).view(loss.shape).to(loss.dtype)


@dataclass
class Expected:
    """Of every query the loss, exactly, or NaN; and the gradient of its scores, or None where that is open."""

    losses: list[float]
    slopes: list[np.ndarray | None]
    takes_part: list[bool]
    lost: list[bool]  # whether sums may overflow


def expected_of(case: Case, scores: np.ndarray) -> Expected:
    result = Expected([], [], [], [])
    update, epsilon = case.options["update"], case.options["epsilon"]
    for query, line in enumerate(scores):
        targets = [case.pair(query, item) for item in range(len(line))]
        kept = [item for item, target in enumerate(targets) if target is not LEFT_OUT]
        part, wanted = line[kept], [targets[item] for item in kept]
        both = RELEVANT in wanted and IRRELEVANT in wanted
        slope: np.ndarray | None = np.zeros(len(line))
        loss, lost = 0.0, False
        if both and not np.isfinite(part).all():
            loss, slope = np.nan, None
        elif both:
            exact = truth(part.tolist(), wanted, update, epsilon)
            loss, lost = float_of(exact.loss), may_be_lost(part.tolist(), epsilon)
            if exact.gradient is None or lost:
                slope = None
            else:
                slope[kept] = exact.gradient
        result.losses.append(loss)
        result.slopes.append(slope)
        result.takes_part.append(both)
        result.lost.append(lost)
    return result


def shares(case: Case, takes_part: Sequence[bool]) -> np.ndarray:
    """What each query's loss is multiplied with."""
    weight = np.ones(len(takes_part)) if case.weight is None else case.weight.double().resolve_neg().numpy()
    if case.options["reduction"] != "mean":
        return weight
    weight = weight * np.array(takes_part, dtype=float)
    return weight / (weight.sum() or 1.0)


def check_values(case: Case, loss: Tensor, expected: Expected, relative: float, absolute: float) -> bool:
    """False where a sum was lost, and nothing more can be said."""
    each = np.array(expected.losses) * shares(case, expected.takes_part)
    if any(expected.lost) and loss.isnan().any():
        return False
    each = each if case.options["reduction"] == "none" else each.sum()
    assert loss.isnan().tolist() == np.isnan(each).tolist()
    nearly(loss.nan_to_num(0.0, torch.inf, -torch.inf), np.nan_to_num(each, nan=0.0, posinf=np.inf), relative, absolute)
    return True


@examples(150)
@given(case=cases(similarity="dot", epsilon=scales()))
def test_dot_products_are_ranked_exactly(case: Case) -> None:
    """Any labels, pairs, weights and numbers; of NaN and infinity every query that is ranked among them is NaN."""
    queries, items = case.embeddings.double().resolve_neg().numpy(), case.items.double().resolve_neg().numpy()
    with np.errstate(all="ignore"):
        scores = queries @ items.T
    expected = expected_of(case, scores)
    loss, slopes = taken(case)
    wide = torch.promote_types(torch.promote_types(case.embeddings.dtype, case.items.dtype), torch.float32)
    assert loss.dtype == wide
    unit = 1e-9 if wide == torch.float64 else 1e-6
    largest = 0.0 if case.weight is None or case.options["reduction"] == "mean" else 1e30
    if not check_values(case, loss, expected, unit, unit * max(1.0, largest if loss.numel() < len(queries) else 0.0)):
        return
    if not any(slope is None for slope in expected.slopes) and np.isfinite(queries).all() and np.isfinite(items).all():
        check_gradients(
            case, slopes, np.array(expected.slopes).reshape(scores.shape), shares(case, expected.takes_part)
        )


def check_gradients(case: Case, slopes: Sequence[Tensor], by_pair: np.ndarray, share: np.ndarray) -> None:
    """From those of the scores, by the chain rule, where no number on the way is beyond its type."""
    queries, items = (each.double().resolve_neg().numpy() for each in (case.embeddings, case.items))
    wide = torch.promote_types(torch.promote_types(case.embeddings.dtype, case.items.dtype), torch.float32)
    if float(np.abs(by_pair).max(initial=0.0)) * 2.0**10 > torch.finfo(wide).max:
        return
    by_pair = (
        by_pair * (share * (np.linspace(0.5, 2.0, len(share)) if case.options["reduction"] == "none" else 0.5))[:, None]
    )
    with np.errstate(over="ignore"):
        wanted, bounds = (
            [pairs @ right, pairs.T @ left]
            for pairs, left, right in ((by_pair, queries, items), (np.abs(by_pair), np.abs(queries), np.abs(items)))
        )
    if case.references is None:
        wanted, bounds = [wanted[0] + wanted[1]], [bounds[0] + bounds[1]]
    sizes = max(1.0, float(np.abs(queries).max(initial=0.0)), float(np.abs(items).max(initial=0.0)))
    for slope, want, bound in zip(slopes, wanted, bounds, strict=True):
        limits, room = torch.finfo(slope.dtype), torch.finfo(wide).max
        sums = float(bound.max(initial=0.0))
        if max(float(np.abs(by_pair).max(initial=0.0)), sums) * 16 > room or sums * 16 > limits.max:
            continue
        slack = 1e-9 if wide == slope.dtype == torch.float64 else max(4 * limits.eps, 1e-6)
        # Numbers below the smallest are lost before they are multiplied, and again in the type that is returned.
        floor = 64 * torch.finfo(wide).tiny * sizes + limits.tiny * limits.eps
        error = np.abs(slope.double().resolve_neg().numpy() - want)
        assert (error <= slack * bound + floor).all(), (slope, want)


@examples(100)
@given(case=cases(similarity="cosine", epsilon=st.sampled_from([0.01, 0.1, 1.0, 30.0])))
def test_cosines_are_those_of_numpy(case: Case) -> None:
    """Of rows of any length; a loss is as continuous as a similarity."""
    unit = []
    for each in (case.embeddings, case.items):
        rows = each.double().resolve_neg().numpy()
        with np.errstate(all="ignore"):
            size = np.abs(rows).max(1, initial=0.0, keepdims=True)
            rows = rows / np.where(size == 0, 1.0, size)
            length = np.sqrt((rows**2).sum(1, keepdims=True))
            unit.append(rows / np.where(length == 0, 1.0, length))
    expected = expected_of(case, unit[0] @ unit[1].T)
    loss, slopes = taken(case)
    small = 1e-12 if loss.dtype == torch.float64 else 2e-5
    size = (
        1.0
        if case.weight is None or case.options["reduction"] == "mean"
        else max(1.0, *case.weight.double().tolist(), 0.0)
    )
    check_values(case, loss, expected, small, small * size / min(1.0, case.options["epsilon"]))
    if not loss.isnan().any() and all(np.isfinite(each).all() for each in unit):
        for slope in slopes:
            assert not slope.isnan().any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_cosines_of_the_longest_and_the_shortest_rows(dtype: torch.dtype) -> None:
    """Squares, sums of squares and the length itself may all be beyond the type."""
    generator = torch.Generator().manual_seed(3)
    rows, labels = torch.rand(8, 40, generator=generator).sub(0.5).sign().double(), torch.arange(8) % 3
    rows[:, :5] *= 0.5
    expected = fastap.retrieval_ap_loss(rows, labels)
    limits = torch.finfo(dtype)
    for size in (limits.max, limits.max / 64, 1.0, limits.tiny * 4):
        leaf = (rows * size).to(dtype).requires_grad_()
        loss = fastap.retrieval_ap_loss(leaf, labels)
        nearly(loss, expected, 1e-5 if loss.dtype == torch.float32 else 1e-12)
        (slope,) = torch.autograd.grad(loss, leaf)
        assert not slope.isnan().any()
    assert expected > 0


def test_rows_without_numbers_are_all_alike() -> None:
    labels = torch.tensor([0, 0, 1])
    for similarity in ("cosine", "dot"):
        empty, zeros = (torch.zeros(3, width, requires_grad=True) for width in (0, 2))
        expected = fastap.retrieval_ap_loss(zeros, labels, similarity=similarity)
        loss = fastap.retrieval_ap_loss(empty, labels, similarity=similarity)
        assert torch.equal(loss, expected)
        assert torch.autograd.grad(loss, empty)[0].shape == (3, 0)


# Labels that 64 bits would wrap


@pytest.mark.parametrize("kind", [torch.int64, torch.int8])
def test_labels_that_64_bits_wrap_are_no_other_class(kind: torch.dtype) -> None:
    """The largest of uint64 is -1 in int64."""
    labels = torch.tensor([2**64 - 1, 2**64 - 1, 3, 3], dtype=torch.uint64)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    small = torch.tensor([7, 7, 3, 3])
    plain = fastap.retrieval_ap_loss(rows, small)
    assert fastap.retrieval_ap_loss(rows, labels, ignore_index=-1) == plain > 0
    ref_labels = torch.tensor([-1, 3, 3, -1], dtype=kind)
    for ours, theirs, same in ((labels, ref_labels, (small, ref_labels)), (ref_labels, labels, (ref_labels, small))):
        given, expected = (
            fastap.retrieval_ap_loss(rows, one, rows.flip(0), other, epsilon=2.0, reduction="none")
            for one, other in ((ours, theirs), same)
        )
        assert torch.equal(given, expected)
        assert given.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_beyond_the_type_of_the_loss(reduction: str) -> None:
    """A mean shares them out, a sum cannot hold them."""
    labels, weight = torch.tensor([0, 0, 1, 1]), torch.full((4,), 1e300, dtype=torch.float64)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    if reduction == "mean":
        nearly(fastap.retrieval_ap_loss(rows, labels, weight=weight), fastap.retrieval_ap_loss(rows, labels), 1e-6)
    else:
        with pytest.raises(ValueError, match=r"weight must be finite in torch\.float32 and not negative, got 1e\+300"):
            fastap.retrieval_ap_loss(rows, labels, weight=weight, reduction=reduction)  # type: ignore[arg-type]
    value = fastap.retrieval_ap_loss(rows.double(), labels, weight=weight, reduction=reduction)  # type: ignore[arg-type]
    assert value.isfinite().all()


# Bad arguments

ROWS, LABELS, MANY = torch.eye(4)[:, :3] + 0.5, torch.tensor([0, 1, 0, 1]), torch.eye(4, dtype=torch.int64)
INDEX = torch.tensor([0, 1])
BAD_ROWS = [
    *(each for each in exotic(ROWS) if each.device.type != "meta"),
    *(ROWS.long(), ROWS > 0, ROWS[0, 0], ROWS[0], ROWS[None], ROWS.to(torch.uint16)),
]
BAD_LABELS = [
    *NO_TENSORS[1:],
    *exotic(LABELS),
    *exotic(MANY),
    *(LABELS.float(), LABELS[:3], LABELS[0], LABELS[:0], MANY[None], MANY[:2], MANY * 2, MANY - 1, MANY * 0.5),
    *(MANY * torch.nan, MANY.to(torch.uint64) * 3),
]
BAD_INDICES = [
    *NO_TENSORS[1:],
    *exotic(INDEX),
    *(INDEX.float(), INDEX > 0, INDEX[None], INDEX[0], INDEX[:1], INDEX - 1, INDEX + 4),
    *(torch.tensor([0, 2**64 - 1], dtype=torch.uint64), torch.tensor([0, -(2**63)])),
]
WRONG: dict[str, list[Any]] = {
    **{name: BAD[name] for name in ("epsilon", "update", "method", "reduction", "backend", "process_group")},
    **{name: BAD[name] for name in ("noise", "samples", "generator")},
    "embeddings": [*NO_TENSORS, *BAD_ROWS],
    "labels": [None, *BAD_LABELS],
    "ref_embeddings": [*NO_TENSORS[1:], *BAD_ROWS, ROWS.to("meta"), ROWS[:, :2], ROWS[:, :0]],
    "ref_labels": [None, *BAD_LABELS, MANY],
    "similarity": [
        *BAD["reduction"],
        *(lambda q, r, given=given: given for given in (None, 1.0, "x", *exotic(torch.ones(4, 4)))),
        *(lambda q, r: (q @ r.T).long(), lambda q, r: q @ r[1:].T, lambda q, r: (q @ r.T)[None], lambda q, r: q[0, 0]),
    ],
    "indices_tuple": [
        *NO_TENSORS[1:],
        *(INDEX, (), (INDEX,), (INDEX,) * 2, (INDEX,) * 5, "abc", {"a": INDEX}),
        *([bad, INDEX, INDEX] for bad in BAD_INDICES),
        *((INDEX, INDEX, INDEX, bad) for bad in [None, *BAD_INDICES]),
    ],
    "weight": [
        *NO_TENSORS[1:],
        *exotic(torch.ones(4)),
        *(torch.ones(4) > 0, torch.ones(4, requires_grad=True), torch.ones(3), torch.ones(4, 1), torch.ones(())),
        *(torch.tensor([1.0, 0.0, 2.0, wrong]) for wrong in (-1.0, -1e-30, torch.nan, torch.inf)),
        torch.arange(4) - 1,
    ],
    "ignore_index": [*NO_INTS, 2**63, -(2**63) - 1],
    "distractor_label": [*NO_INTS, 2**63, -(2**63) - 1],
    "cameras": [*NO_TENSORS[1:], *exotic(INDEX), LABELS.float(), LABELS[:3], LABELS[None], LABELS.to(torch.uint64)],
    "ref_cameras": [*NO_TENSORS[1:], *exotic(INDEX), LABELS.float(), LABELS[:3], LABELS[None]],
    "max_pairs": [*NO_INTS, None, 0, -1, -(2**70)],
}


def arguments(name: str, value: Any) -> dict[str, Any]:
    """A call that is right but for this."""
    call: dict[str, Any] = {"embeddings": ROWS, "labels": LABELS, name: value}
    if name.startswith("ref_"):
        call = {"ref_embeddings": ROWS + 1, "ref_labels": LABELS, **call}
    if name == "ref_cameras":
        call["cameras"] = LABELS
    return call


@pytest.mark.parametrize("name", inspect.signature(fastap.retrieval_ap_loss).parameters)
def test_every_bad_argument_is_named(name: str) -> None:
    for value in WRONG[name]:
        refused(lambda: fastap.retrieval_ap_loss(**arguments(name, value)), name, value)  # noqa: B023


@pytest.mark.parametrize("name", inspect.signature(fastap.RetrievalAPLoss).parameters)
def test_every_bad_option_of_the_module_is_named(name: str) -> None:
    for value in WRONG[name]:
        if not (name == "similarity" and callable(value)):  # what a function returns shows when it is called
            refused(lambda: fastap.RetrievalAPLoss(**{name: value}), name, value)  # noqa: B023


@pytest.mark.parametrize("name", ["embeddings", "labels", "ref_embeddings", "ref_labels", "indices_tuple", "weight"])
def test_every_bad_tensor_of_the_module_is_named(name: str) -> None:
    loss = fastap.RetrievalAPLoss()
    for value in WRONG[name]:
        refused(lambda: loss(**arguments(name, value)), name, value)  # noqa: B023
        if name == "ref_embeddings" and isinstance(value, Tensor):
            refused(lambda: loss(ROWS, LABELS, value, LABELS), name, value)  # noqa: B023
            refused(lambda: loss(ROWS, LABELS, None, value, LABELS), name, value)  # noqa: B023


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_entry_of_many_labels_cannot_be_ignored(wrong: int) -> None:
    refused(lambda: fastap.retrieval_ap_loss(ROWS, MANY, ignore_index=wrong), "ignore_index", wrong)


def test_without_values_there_is_no_value() -> None:
    """Tensors of the device meta: shapes and types alone, and labels may lie there too."""
    rows = ROWS.to("meta").requires_grad_()
    for labels in (LABELS, LABELS.to("meta"), MANY, MANY.to("meta")):
        for max_pairs in (2**24, 5):
            loss = fastap.retrieval_ap_loss(rows, labels, max_pairs=max_pairs)
            assert loss.device.type == "meta"
            assert torch.autograd.grad(loss, rows)[0].shape == rows.shape

"""What is relevant to which query: from labels, named pairs and ``ignore_index`` to the targets of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastap.arguments import check_tensor
from fastap.targets import INTEGER, NUMBERS, can_hold, can_look, wrong_target

# What a pair of a query and a reference can be. The last stands where an error would stall the stream: the loss is NaN.
RELEVANT, IRRELEVANT, IGNORED, WRONG = 1, 0, -1, 2


@dataclass(frozen=True)
class Classes:
    """Labels in a form that can be compared and sent to other processes."""

    values: Tensor  # (N,) int64, or (N, K) int8: 1 for yes, 0 for no, -1 for not known and 2 for wrong
    ignored: int | None  # the class whose items take no part
    distractor: int | None  # the class whose items are relevant to nothing
    wraps: bool  # from uint64, of which int64 makes the largest numbers negative

    def are_ignored(self) -> Tensor | None:
        """(N,) bool, which items take no part, or None where all do."""
        return None if self.ignored is None else self.values == self.ignored

    def are_distractors(self) -> Tensor | None:
        """(N,) bool, which items are relevant to nothing, or None where there are none."""
        return None if self.distractor is None else self.values == self.distractor

    def of(self, values: Tensor) -> Classes:
        """The same of other items."""
        return replace(self, values=values)


@dataclass(frozen=True)
class Relevance:
    """The targets of all queries, to be had for some of them at a time."""

    classes: Classes | None  # of the N queries
    ref_classes: Classes | None  # of the M references
    cameras: tuple[Tensor, Tensor] | None  # (N,) and (M,) int64
    named: Tensor | None  # (N, M) int8, from `of_pairs`
    first: int | None  # where the queries begin among the references, if they are among them

    def targets(self, start: int, stop: int) -> Tensor:
        """(stop - start, M) int8 of these queries."""
        classes = None if self.classes is None else self.classes.of(self.classes.values[start:stop])
        if self.named is not None:
            targets = self.named[start:stop]  # to be written to, in the same way every time
        else:
            assert classes is not None
            assert self.ref_classes is not None
            targets = _shared(classes, self.ref_classes)
        for of_items, dim in ((classes, 1), (self.ref_classes, 0)):
            distractors = None if of_items is None else of_items.are_distractors()
            if distractors is not None:
                targets.masked_fill_(distractors.unsqueeze(dim), IRRELEVANT)
        if self.cameras is not None:
            cameras, ref_cameras = self.cameras
            targets.masked_fill_((targets == RELEVANT) & (cameras[start:stop, None] == ref_cameras), IGNORED)
        for of_items, dim in ((classes, 1), (self.ref_classes, 0)):
            ignored = None if of_items is None else of_items.are_ignored()
            if ignored is not None:
                targets.masked_fill_(ignored.unsqueeze(dim), IGNORED)
        if self.first is not None:
            targets.diagonal(self.first + start).fill_(IGNORED)
        return targets


def _shared(ours: Classes, theirs: Classes) -> Tensor:
    """Targets from labels alone, int8."""
    classes, ref_classes = ours.values, theirs.values
    if classes.dim() == 1:
        same = classes[:, None] == ref_classes
        if ours.wraps != theirs.wraps:
            same = same & (ref_classes >= 0)
        return same.to(torch.int8)
    surely = _in_common(classes == 1, ref_classes == 1)
    maybe = _in_common(classes != 0, ref_classes != 0)  # 1 or not known
    targets = 2 * surely - maybe  # 1, 0 or, where only maybe, -1
    if not can_look(classes):
        wrong = (classes == WRONG).any(1)[:, None] | (ref_classes == WRONG).any(1)
        targets.masked_fill_(wrong, WRONG)
    return targets


def _in_common(chosen: Tensor, ref_chosen: Tensor) -> Tensor:
    """Whether a row and a row share a column, int8; by counting, which is exact in float32 up to 2^24 columns."""
    counts: Tensor = chosen.float() @ ref_chosen.float().T
    return (counts > 0).to(torch.int8)


def without_unused(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``(N, K)`` and ``(M, K)`` labels the columns in which any has anything but 0, where one may look.

    Others make no pair relevant. Of 100,000 labels few occur in a batch, and work and memory are those of all columns.
    """
    if labels.dim() != 2 or not (can_look(labels) and can_look(ref_labels)):
        return labels, ref_labels
    used = labels.any(0).bool()  # of uint8 any() is uint8
    if ref_labels is not labels:
        used |= ref_labels.any(0).bool()
    if bool(used.all()):
        return labels, ref_labels
    some = labels[:, used]
    return some, some if ref_labels is labels else ref_labels[:, used]


def of_labels(
    name: str, labels: Tensor | None, ignore_index: int | None, distractor_label: int | None, device: torch.device
) -> Classes | None:
    """A copy, since memory banks are written over before a backward pass."""
    if labels is None:
        return None
    if labels.dim() == 1:
        wraps = labels.dtype == torch.uint64
        ignored, distractor = (
            None if number is not None and wraps and number < 0 else number
            for number in (ignore_index, distractor_label)
        )
        return Classes(labels.to(device, torch.int64, copy=True), ignored, distractor, wraps)
    yes, known = labels == 1, (labels == 0) | (labels == 1)
    allowed = known
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        allowed = known | (labels == ignore_index)
    if can_look(labels) and not bool(allowed.all()):
        raise wrong_target(f"{name} of shape (items, labels)", "0 or 1", ignore_index, labels[~allowed][0].item())
    values = yes.to(torch.int8).masked_fill_(~known, IGNORED).masked_fill_(~allowed, WRONG)
    return Classes(values.to(device), None, None, False)


def of_pairs(indices_tuple: Sequence[Tensor], queries: int, items: int, device: torch.device) -> Tensor:
    """The pairs of ``indices_tuple`` as targets, (N, M) int8; all others are ignored."""
    indices = [index.to(device) for index in _check_indices(indices_tuple, queries, items, device)]
    named = torch.full((queries, items), IGNORED, dtype=torch.int8, device=device)
    anchors, relevant = indices[:2]
    others, irrelevant = indices[2:] if len(indices) == 4 else (anchors, indices[2])
    named[anchors, relevant] = RELEVANT
    named[others, irrelevant] = IRRELEVANT
    return named


def check_labels(
    embeddings: Tensor,
    references: Tensor,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    ignore_index: int | None,
    distractor_label: int | None,
    *,
    needed: bool,
) -> None:
    """Types and shapes; what values they have shows when they are used."""
    if distractor_label is not None and distractor_label == ignore_index:
        raise ValueError(f"distractor_label must differ from ignore_index, got {distractor_label} for both")
    for name, given, of_name, of in (
        ("labels", labels, "embeddings", embeddings),
        ("ref_labels", ref_labels, "ref_embeddings", references),
    ):
        if given is None:
            if needed:
                raise ValueError(f"{name} must be given for {of_name} unless indices_tuple says what is relevant")
            continue
        check_tensor(name, given, NUMBERS, "a bool, integer or (if of shape (items, labels)) floating dtype")
        if given.dim() not in (1, 2):
            raise ValueError(f"{name} must have the shape (items,) or (items, labels), got {tuple(given.shape)}")
        if given.dim() == 1 and given.is_floating_point():
            raise TypeError(
                f"{name} of shape (items,) must have an integer dtype, got {given.dtype}; give {name}.long(), and "
                f"{name}.nan_to_num(-1).long() with ignore_index=-1 where some are NaN"
            )
        if given.shape[0] != of.shape[0]:
            raise ValueError(f"{name} must be as many as {of_name}, {of.shape[0]}, got {given.shape[0]}")
        if given.dim() == 2 and ignore_index in (0, 1):
            raise ValueError(f"ignore_index must differ from 0 and 1 for {name} of 2 dimensions, got {ignore_index}")
        if given.dim() == 2 and distractor_label is not None:
            raise ValueError(
                f"distractor_label must be None for {name} of 2 dimensions, where a row of zeros is a distractor, "
                f"got {distractor_label}"
            )
        _check_has_values(name, given, embeddings.device)
    if labels is not None and ref_labels is not None and ref_labels.shape[1:] != labels.shape[1:]:
        raise ValueError(
            "ref_labels must have the dimensions and the number of labels an item that labels have, "
            f"{tuple(labels.shape)}, got {tuple(ref_labels.shape)}"
        )


def of_cameras(
    cameras: Tensor | None, ref_cameras: Tensor | None, embeddings: Tensor, references: Tensor, itself: bool
) -> tuple[Tensor, Tensor] | None:
    """Where queries and references were seen, int64: of both or of neither; those of a batch itself are its own."""
    if itself and ref_cameras is None:
        ref_cameras = cameras
    if cameras is None and ref_cameras is None:
        return None
    result = []
    for name, given, of in (("cameras", cameras, embeddings), ("ref_cameras", ref_cameras, references)):
        if given is None:
            raise ValueError(f"{name} must be given where {'ref_cameras' if name == 'cameras' else 'cameras'} are")
        check_tensor(name, given, INTEGER[:-1], "an integer dtype other than uint64", optional=True)
        if given.shape != of.shape[:1]:
            raise ValueError(f"{name} must have the shape ({of.shape[0]},), got {tuple(given.shape)}")
        _check_has_values(name, given, embeddings.device)
        result.append(given.to(embeddings.device, torch.int64, copy=True))
    return result[0], result[1]


def _check_indices(indices_tuple: Sequence[Tensor], queries: int, items: int, device: torch.device) -> list[Tensor]:
    """The indices, int64."""
    if not isinstance(indices_tuple, (tuple, list)):
        raise TypeError(f"indices_tuple must be a tuple of tensors, got {type(indices_tuple).__name__}")
    if len(indices_tuple) not in (3, 4):
        raise ValueError(f"indices_tuple must be (a, p, n) or (a1, p, a2, n), got {len(indices_tuple)} elements")
    triplets = len(indices_tuple) == 3
    names = ("a", "p", "n") if triplets else ("a1", "p", "a2", "n")
    limits = (queries, items, items) if triplets else (queries, items, queries, items)
    result = []
    for letter, limit, given in zip(names, limits, indices_tuple, strict=True):
        name = f"{letter} of indices_tuple"
        check_tensor(name, given, INTEGER, "an integer dtype")
        if given.dim() != 1:
            raise ValueError(f"{name} must have one dimension, got shape {tuple(given.shape)}")
        _check_has_values(name, given, device)
        index = given.to(torch.int64)  # in which what no other type holds is negative
        if can_look(index):
            wrong = (index < 0) | (index >= limit)
            if bool(wrong.any()):
                raise ValueError(f"{name} must be in [0, {limit - 1}], got {given[wrong.nonzero()[0, 0]].item()}")
        result.append(index)
    lengths = [index.shape[0] for index in result]
    if lengths[0] != lengths[1] or lengths[-2] != lengths[-1]:
        raise ValueError(f"indices_tuple must be of equal lengths, the two pairs each for itself, got {lengths}")
    return result


def _check_has_values(name: str, given: Tensor, device: torch.device) -> None:
    """Labels and indices may lie on any device but the one from which nothing can be copied."""
    if given.device.type == "meta" != device.type:
        raise ValueError(f"{name} must be on a device with values, as embeddings are, {device}, got {given.device}")

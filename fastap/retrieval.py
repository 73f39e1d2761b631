"""Retrieval from embeddings: each row is a query, and its similarities to all references are one ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from fastap import functional
from fastap.backends import masked
from fastap.checks import (
    can_hold,
    check_backend,
    check_class_to_ignore,
    check_method,
    check_process_group,
    check_reduction,
    check_scale,
    check_update,
    has_values,
)
from fastap.distributed import gather
from fastap.exchange import Link, connect
from fastap.modules import _Loss
from fastap.problem import Losses, Method, Reduction, Update

Similarity = Literal["cosine", "dot"] | Callable[[Tensor, Tensor], Tensor]

# What a pair of a query and a reference can be. The last stands where an error would stall the stream: the loss is NaN.
_RELEVANT, _IRRELEVANT, _IGNORED, _WRONG = 1, 0, -1, 2


def retrieval_ap_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    similarity: Similarity = "cosine",
    epsilon: float = 0.1,
    update: Update = "positive",
    method: Method = "auto",
    indices_tuple: Sequence[Tensor] | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    backend: str = "auto",
    max_pairs: int = 2**24,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """:func:`fastap.direct_ap_loss` of one ranking a query, that of all references by their similarity to it::

        unit = torch.nn.functional.normalize(embeddings, dim=1)
        targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
        direct_ap_loss(unit @ unit.T, targets, ignore_index=-1, epsilon=0.1)

    Classes may have any number of members, and rows any order. A query without a relevant or without an irrelevant
    reference takes no part: loss 0, gradient 0, left out of the mean.

    Args:
        embeddings: floating, ``(N, D)``, each row a query; ``(N, ...)`` for a similarity of your own.
        labels: ``(N,)`` integers, one class an item: relevant is what has the same. Or ``(N, K)`` zeros and ones, many
            labels an item: relevant is what shares one. May be None if ``indices_tuple`` is there.
        ref_embeddings: ``(M, D)``, what is retrieved, such as a memory bank; has a gradient if it requires one. None
            or ``embeddings`` itself is the batch, and then no query retrieves itself. Of other references nothing is
            left out: if they hold copies of the queries, name the pairs in ``indices_tuple``.
        ref_labels: ``(M,)`` or ``(M, K)``, as ``labels``.
        similarity: ``"cosine"``, ``"dot"``, or a function from ``(n, ...)`` queries and ``(M, ...)`` references to
            ``(n, M)`` numbers, higher for more alike, called with some of the queries at a time, in float32 at least
            and without autocast. A row of zeros has cosine 0 to all others and no gradient.
        epsilon: weight of AP against the similarities, in their units. Cosines cannot grow to suit it, as scores can:
            it should be of the size of the differences that ought to matter, and 1.0 is half of what there is. Of 0.05
            to 1.0 the default was best, within 0.002, for held-out mAP of scikit-learn's digits: 0.967 (the others
            0.961 to 0.965), and 0.535 for digits that training had not seen (0.513 to 0.536; five seeds, the best of
            four learning rates each). Where labels are wrong larger is better: 0.919 at 0.1 and 0.943 at 1.0 with a
            fifth of them. ``"dot"`` has scores that grow, and takes a larger one well.
        update: as in :func:`fastap.direct_ap_loss`, as are ``method`` and ``backend``.
        method: how the loss-augmented ranking is found.
        indices_tuple: pairs ``(a1, p, a2, n)`` or triplets ``(a, p, n)`` of 1-D indices, as pytorch-metric-learning has
            them: reference ``p`` is relevant to query ``a1``, ``n`` irrelevant to ``a2``. Only pairs named here take
            part, whatever the labels; a pair named as both is irrelevant.
        weight: ``(N,)``, one number a query, finite and not negative: the mean is ``sum(w loss) / sum(w)`` over the
            queries that take part. No gradient.
        ignore_index: an item with this label takes no part, as query or as reference. Of ``(N, K)`` an entry of this
            number is unknown: pairs sharing a known label are relevant, other pairs that may share one are ignored.
        reduction: ``"mean"`` over the queries that take part, ``"sum"`` or ``"none"``, ``(N,)``.
        backend: what computes the losses.
        max_pairs: similarities held at a time, though at least those of one query. If there are more, queries are taken
            in chunks, and once more in the backward pass (``torch.utils.checkpoint``); but for rounding the result is
            the same.
        process_group: the processes of ``torch.distributed``, each with queries of its own, or none. They are ranked
            among those of all ranks, which are gathered, or among the references given, each rank's own. The loss is
            the mean or sum over all queries, the same on every rank, and the gradient is multiplied by their number,
            so that gradients averaged over ranks (DDP, FSDP) are those of one process. Not with ``indices_tuple``.

    Returns:
        The loss, float64 for float64 embeddings and float32 for all others. Similarities are float32 at least, under
        autocast too: in half precision many would be equal. A query with a NaN or infinite similarity has loss NaN, so
        a NaN embedding makes NaN the loss of every query that it is ranked for.

    Memory, at its peak and beyond the embeddings and their gradients: 10 bytes a similarity held at a time, 0.17 GB
    with the default ``max_pairs`` (measured on the CPU, forward and backward, cosines of 128 numbers: 9.3 bytes for
    4,000 x 4,000 in one chunk, 10.1 for 12,000 x 12,000 in nine; glibc's allocator may keep as much again). On CUDA the
    work space of the kernels, up to 64 bytes a similarity, comes on top. Cosines need a normalised copy of the
    embeddings, and ``indices_tuple`` a byte for each of the N x M pairs.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted. On CUDA no value is looked at:
            the loss is NaN where a multi-label entry or a weight is wrong, and a wrong index is the device's error.
    """
    check_similarity(similarity)
    itself = ref_embeddings is None or ref_embeddings is embeddings
    references = embeddings if ref_embeddings is None else ref_embeddings
    _check_embeddings(embeddings, references, similarity)
    if itself and ref_labels is not None and ref_embeddings is None:
        raise ValueError("ref_labels were given without ref_embeddings")
    if itself and ref_labels is None:
        ref_labels = labels
    check_class_to_ignore(ignore_index)
    _check_labels(embeddings, references, labels, ref_labels, indices_tuple, ignore_index)
    check_max_pairs(max_pairs)
    check_reduction(reduction)
    link = None
    if process_group is not None:
        link = connect(check_process_group(process_group), embeddings.device)
        if indices_tuple is not None:
            raise ValueError("indices_tuple must be None with a process_group, over whose ranks no pairs are numbered")
    options: dict[str, Any] = {
        "epsilon": check_scale("epsilon", epsilon),
        "update": check_update(update),
        "method": check_method(method),
        "backend": check_backend(backend, embeddings.device),
        "ignore_index": _IGNORED,
        "reduction": "none",
    }
    n, device = embeddings.shape[0], embeddings.device

    def prepare() -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None], list[int]]:
        """What depends on values, which may be wrong."""
        classes = _classes("labels", labels, ignore_index, device)
        ref_classes = classes if ref_labels is labels else _classes("ref_labels", ref_labels, ignore_index, device)
        return (classes, ref_classes, None if weight is None else _check_weight(weight, embeddings)), [n]

    lengths = [[n]]
    if link is None:
        (classes, ref_classes, weights), _ = prepare()
    else:
        assert labels is not None
        kind = similarity if isinstance(similarity, str) else "a function"
        words = (
            f"retrieval by {kind}, {options}, {reduction=}, labels {ignore_index=} of shape (*, {labels.shape[1:]}), "
            f"{'a' if weight is not None else 'no'} weight, ranked {'with the batch' if itself else 'in references'}, "
            f"embeddings {embeddings.dtype} of shape (*, {embeddings.shape[1:]})"
        )
        (classes, ref_classes, weights), lengths = link.agree(words, prepare)
    named = None if indices_tuple is None else _named(indices_tuple, n, references.shape[0], device)
    first = 0 if itself else None

    with _without_autocast(device):
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, references.dtype), torch.float32)
        queries = _prepared(embeddings.to(dtype), classes, ignore_index, similarity)
        if itself and ref_classes is classes:
            items = queries
        else:
            items = _prepared(references.to(dtype), ref_classes, ignore_index, similarity)
        if link is not None and itself:
            assert ref_classes is not None
            first = sum(length[0] for length in lengths[: link.rank])
            items, ref_classes = (gather(each, process_group=process_group) for each in (items, ref_classes))
        relevance = _Relevance(classes, ref_classes, named, ignore_index, first)
        m = items.shape[0]
        if n * m <= max_pairs:
            losses, takes_part = _of_chunk(queries, items, similarity, relevance, 0, options)
        else:
            rows = max(1, max_pairs // m)
            chunks = []
            for start in range(0, n, rows):
                chunk = (queries[start : start + rows], items, similarity, relevance, start, options)
                chunks.append(checkpoint(_of_chunk, *chunk, use_reentrant=False))
            losses, takes_part = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    if link is not None:
        return _reduced_across(link, losses, takes_part, weights, reduction)
    return _reduced(losses, takes_part, weights, reduction)


@dataclass(frozen=True)
class _Relevance:
    """What is relevant to which query."""

    classes: Tensor | None  # (N,) or (N, K) of queries, from `_classes`
    ref_classes: Tensor | None  # (M,) or (M, K)
    named: Tensor | None  # (N, M) int8, from `_named`
    ignore_index: int | None
    first: int | None  # where the queries begin among the references, if they are among them

    def targets(self, start: int, stop: int) -> Tensor:
        """(stop - start, M) int8 of these queries."""
        classes = None if self.classes is None else self.classes[start:stop]
        if self.named is not None:
            targets = self.named[start:stop]  # to be written to, in the same way every time
        else:
            assert classes is not None
            assert self.ref_classes is not None
            targets = _shared(classes, self.ref_classes)
        if self.ignore_index is not None:
            for labels, dim in ((classes, 1), (self.ref_classes, 0)):
                if labels is not None and labels.dim() == 1:
                    targets.masked_fill_((labels == self.ignore_index).unsqueeze(dim), _IGNORED)
        if self.first is not None:
            targets.diagonal(self.first + start).fill_(_IGNORED)
        return targets


def _shared(classes: Tensor, ref_classes: Tensor) -> Tensor:
    """Targets from labels alone, int8."""
    if classes.dim() == 1:
        return (classes[:, None] == ref_classes).to(torch.int8)
    surely = _in_common(classes == 1, ref_classes == 1)
    maybe = _in_common(classes != 0, ref_classes != 0)  # 1 or not known
    targets = 2 * surely - maybe  # 1, 0 or, where only maybe, -1
    if not _can_raise(classes):
        wrong = (classes == _WRONG).any(1)[:, None] | (ref_classes == _WRONG).any(1)
        targets.masked_fill_(wrong, _WRONG)
    return targets


def _in_common(chosen: Tensor, ref_chosen: Tensor) -> Tensor:
    """Whether a row and a row share a column, int8; by counting, which is exact in float32 up to 2^24 columns."""
    counts: Tensor = chosen.float() @ ref_chosen.float().T
    return (counts > 0).to(torch.int8)


def _of_chunk(
    queries: Tensor,
    items: Tensor,
    similarity: Similarity,
    relevance: _Relevance,
    start: int,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The loss of each of these queries and whether it takes part."""
    targets = relevance.targets(start, start + queries.shape[0])
    takes_part = (targets == _RELEVANT).any(1) & (targets == _IRRELEVANT).any(1)
    if callable(similarity):
        scores = _check_similarities(similarity(queries, items), queries, items)
    else:
        scores = queries @ items.T
    return functional.direct_ap_loss(scores, targets, **options), takes_part


def _reduced(losses: Tensor, takes_part: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses if weight is None else (losses * weight).to(losses.dtype)
    each = Losses(losses.double(), losses, takes_part)
    return masked.reduce(each, losses.dtype, mean=reduction == "mean", weight=weight)[0]


def _reduced_across(
    link: Link, losses: Tensor, takes_part: Tensor, weight: Tensor | None, reduction: Reduction
) -> Tensor:
    """The value over the queries of all ranks; the gradient of this rank's, times the number of ranks."""
    own = _reduced(losses, takes_part, weight, "none" if reduction == "none" else "sum")
    if reduction == "none":
        return _shown(own, own, link.size)
    share = (takes_part if weight is None else takes_part * weight).sum(dtype=torch.float64)
    sums = link.from_all(torch.stack([own.detach().double(), share]), "gather the sums of the losses")
    total, share = sums.sum(0).unbind()
    divisor = share.where(share != 0, 1.0) if reduction == "mean" else torch.ones_like(share)
    return _shown(own, (total / divisor).to(own.dtype), (link.size / divisor).to(own.dtype))


def _shown(value: Tensor, shown: Tensor, factor: Tensor | float) -> Tensor:
    """``shown``, with the gradient of ``factor * value``."""
    apply: Any = _Shown.apply
    result: Tensor = apply(value, shown.detach(), factor)
    return result


class _Shown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shown: Tensor, factor: Tensor | float) -> Tensor:
        ctx.factor = factor
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.factor, None, None


def _prepared(embeddings: Tensor, classes: Tensor | None, ignore_index: int | None, similarity: Similarity) -> Tensor:
    """Embeddings as ``_of_chunk`` wants them: zero if ignored, since 0 x NaN is NaN; for cosines of length 1."""
    if ignore_index is not None and classes is not None and classes.dim() == 1:
        ignored = (classes == ignore_index).view(-1, *(1,) * (embeddings.dim() - 1))
        embeddings = embeddings.masked_fill(ignored, 0.0)
    if similarity != "cosine":
        return embeddings
    # In float64 squares of float32 neither overflow nor vanish. Dividing by infinity leaves 0 and sends back 0.
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True, dtype=torch.float64)
    divisor: Tensor = length.where(length > torch.finfo(embeddings.dtype).tiny, torch.inf).to(embeddings.dtype)
    return embeddings / divisor


def _classes(name: str, labels: Tensor | None, ignore_index: int | None, device: torch.device) -> Tensor | None:
    """A copy, since memory banks are written over before a backward pass: (N,) int64, or (N, K) int8.

    The latter is 1 for yes, 0 for no, -1 for not known and 2 for wrong.
    """
    if labels is None:
        return None
    if labels.dim() == 1:
        return labels.to(device, torch.int64, copy=True)
    yes, known = labels == 1, (labels == 0) | (labels == 1)
    allowed = known
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        allowed = known | (labels == ignore_index)
    if _can_raise(labels) and not bool(allowed.all()):
        wanted = "0 or 1" if ignore_index is None else f"0, 1 or ignore_index = {ignore_index}"
        raise ValueError(f"{name} of shape (items, labels) must be {wanted}, got {labels[~allowed][0].item()}")
    result = yes.to(torch.int8).masked_fill_(~known, _IGNORED).masked_fill_(~allowed, _WRONG)
    return result.to(device)


def _named(indices_tuple: Sequence[Tensor], queries: int, items: int, device: torch.device) -> Tensor:
    """The pairs of ``indices_tuple`` as targets, (N, M) int8; all others are ignored."""
    _check_indices(indices_tuple, queries, items)
    indices = [index.to(device, torch.int64) for index in indices_tuple]
    named = torch.full((queries, items), _IGNORED, dtype=torch.int8, device=device)
    anchors, relevant = indices[:2]
    others, irrelevant = indices[2:] if len(indices) == 4 else (anchors, indices[2])
    named[anchors, relevant] = _RELEVANT
    named[others, irrelevant] = _IRRELEVANT
    return named


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    # Asked outside compilers alone: that of PyTorch 2.11 cannot trace the question.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _can_raise(tensor: Tensor) -> bool:
    """Whether values can be looked at without stalling a stream or a trace."""
    return tensor.device.type == "cpu" and has_values(tensor)


def check_similarity(similarity: Similarity) -> None:
    """A known word or a function."""
    if not callable(similarity) and similarity not in ("cosine", "dot"):
        raise ValueError(f"similarity must be 'cosine', 'dot' or a function, got {similarity!r}")


def check_max_pairs(max_pairs: int) -> None:
    """A positive int."""
    if not isinstance(max_pairs, int) or isinstance(max_pairs, bool):
        raise TypeError(f"max_pairs must be an int, got {type(max_pairs).__name__}")
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")


def _check_embeddings(embeddings: Tensor, references: Tensor, similarity: Similarity) -> None:
    for name, given in (("embeddings", embeddings), ("ref_embeddings", references)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if not given.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {given.dtype}")
        if callable(similarity) and given.dim() == 0:
            raise ValueError(f"{name} must have at least one dimension, got a 0-dimensional tensor")
        if not callable(similarity) and given.dim() != 2:
            raise ValueError(
                f"{name} must have the shape (items, features) for similarity {similarity!r}, got {tuple(given.shape)}"
            )
    if not callable(similarity) and references.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_embeddings must have the {embeddings.shape[1]} features of embeddings, got {references.shape[1]}"
        )
    if references.device != embeddings.device:
        raise ValueError(
            f"ref_embeddings must be on the device of embeddings, {embeddings.device}, got {references.device}"
        )


def _check_labels(
    embeddings: Tensor,
    references: Tensor,
    labels: Tensor | None,
    ref_labels: Tensor | None,
    indices_tuple: Sequence[Tensor] | None,
    ignore_index: int | None,
) -> None:
    for name, given, of_name, of in (
        ("labels", labels, "embeddings", embeddings),
        ("ref_labels", ref_labels, "ref_embeddings", references),
    ):
        if given is None:
            if indices_tuple is None:
                raise ValueError(f"{name} must be given for {of_name} unless indices_tuple says what is relevant")
            continue
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given.dim() not in (1, 2):
            raise ValueError(f"{name} must have the shape (items,) or (items, labels), got {tuple(given.shape)}")
        if given.is_complex() or (given.dim() == 1 and given.is_floating_point()):
            wanted = "an integer dtype" if given.dim() == 1 else "a bool, integer or floating dtype"
            raise TypeError(f"{name} of {given.dim()} dimension(s) must have {wanted}, got {given.dtype}")
        if given.shape[0] != of.shape[0]:
            raise ValueError(f"{name} must be as many as {of_name}, {of.shape[0]}, got {given.shape[0]}")
        if given.dim() == 2 and ignore_index in (0, 1):
            raise ValueError(f"ignore_index must differ from 0 and 1 for {name} of 2 dimensions, got {ignore_index}")
    if labels is not None and ref_labels is not None and ref_labels.shape[1:] != labels.shape[1:]:
        raise ValueError(
            "ref_labels must have the dimensions and the number of labels an item that labels have, "
            f"{tuple(labels.shape)}, got {tuple(ref_labels.shape)}"
        )


def _check_indices(indices_tuple: Sequence[Tensor], queries: int, items: int) -> None:
    if not isinstance(indices_tuple, (tuple, list)):
        raise TypeError(f"indices_tuple must be a tuple of tensors, got {type(indices_tuple).__name__}")
    if len(indices_tuple) not in (3, 4):
        raise ValueError(f"indices_tuple must be (a, p, n) or (a1, p, a2, n), got {len(indices_tuple)} elements")
    triplets = len(indices_tuple) == 3
    names = ("a", "p", "n") if triplets else ("a1", "p", "a2", "n")
    limits = (queries, items, items) if triplets else (queries, items, queries, items)
    for name, limit, index in zip(names, limits, indices_tuple, strict=True):
        if not isinstance(index, Tensor):
            raise TypeError(f"{name} of indices_tuple must be a torch.Tensor, got {type(index).__name__}")
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"{name} of indices_tuple must have an integer dtype, got {index.dtype}")
        if index.dim() != 1:
            raise ValueError(f"{name} of indices_tuple must have one dimension, got shape {tuple(index.shape)}")
        if _can_raise(index):
            wrong = index[(index < 0) | (index >= limit)]
            if wrong.numel():
                raise ValueError(f"{name} of indices_tuple must be in [0, {limit - 1}], got {wrong[0].item()}")
    lengths = [index.shape[0] for index in indices_tuple]
    if lengths[0] != lengths[1] or lengths[-2] != lengths[-1]:
        raise ValueError(f"indices_tuple must be of equal lengths, the two pairs each for itself, got {lengths}")


def _check_weight(weight: Tensor, embeddings: Tensor) -> Tensor:
    """Float64; NaN where wrong and that cannot be an error."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor or None, got {type(weight).__name__}")
    if weight.is_complex() or weight.dtype == torch.bool:
        raise TypeError(f"weight must have a floating or integer dtype, got {weight.dtype}")
    if weight.requires_grad:
        raise ValueError("weight must not require a gradient, for it gets none; give weight.detach()")
    if weight.shape != embeddings.shape[:1]:
        raise ValueError(f"weight must have the shape ({embeddings.shape[0]},), got {tuple(weight.shape)}")
    if weight.device != embeddings.device:
        raise ValueError(f"weight must be on the device of embeddings, {embeddings.device}, got {weight.device}")
    allowed = (weight >= 0) & (weight < torch.inf)
    if _can_raise(weight) and not bool(allowed.all()):
        raise ValueError(f"weight must be finite and not negative, got {weight[~allowed][0].item()}")
    return weight.to(torch.float64).where(allowed, torch.nan)


def _check_similarities(similarities: Tensor, queries: Tensor, items: Tensor) -> Tensor:
    if not isinstance(similarities, Tensor):
        raise TypeError(f"similarity must return a torch.Tensor, got {type(similarities).__name__}")
    if not similarities.is_floating_point():
        raise TypeError(f"similarity must return a floating dtype, got {similarities.dtype}")
    wanted = (queries.shape[0], items.shape[0])
    if similarities.shape != wanted:
        raise ValueError(
            f"similarity must return the shape (queries, references), {wanted}, got {tuple(similarities.shape)}"
        )
    if similarities.device != queries.device:
        raise ValueError(
            f"similarity must return a tensor on the device of its arguments, {queries.device}, "
            f"got {similarities.device}"
        )
    return similarities


class RetrievalAPLoss(_Loss):
    """:func:`fastap.retrieval_ap_loss` as a module: ``loss(embeddings, labels, ref_embeddings=None, ref_labels=None)``.

    It is called as pytorch-metric-learning calls its losses, too: ``loss(embeddings, labels, indices_tuple, ref_emb,
    ref_labels)``. A third argument that is a tensor is ``ref_embeddings``, a tuple is ``indices_tuple``, and by name
    both forms mix. So that package's trainers, miners and ``MultipleLosses`` take it as it is; for its wrappers, which
    take their own losses only, :mod:`fastap.metric_learning` has it as one of these.

    A ``similarity`` that is a module is a part of this one: its parameters get gradients.
    """

    _options = (
        "similarity",
        "epsilon",
        "update",
        "method",
        "ignore_index",
        "reduction",
        "backend",
        "max_pairs",
        "process_group",
    )

    def __init__(
        self,
        similarity: Similarity = "cosine",
        *,
        epsilon: float = 0.1,
        update: Update = "positive",
        method: Method = "auto",
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        backend: str = "auto",
        max_pairs: int = 2**24,
        process_group: ProcessGroup | None = None,
    ) -> None:
        nn.Module.__init__(self)  # by name: in fastap.metric_learning another base comes next
        check_similarity(similarity)
        check_update(update)
        check_method(method)
        check_class_to_ignore(ignore_index)
        check_reduction(reduction)
        check_backend(backend)
        check_max_pairs(max_pairs)
        if process_group is not None:
            check_process_group(process_group)
        self.similarity = similarity
        self.epsilon = check_scale("epsilon", epsilon)
        self.update: Update = update
        self.method: Method = method
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.backend = backend
        self.max_pairs = max_pairs
        self.process_group = process_group

    def _shown(self) -> dict[str, Any]:
        """A module is printed below, as a part."""
        return {name: option for name, option in super()._shown().items() if not isinstance(option, nn.Module)}

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        *references: Any,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        given: dict[str, Any] = {
            "ref_embeddings": ref_embeddings,
            "ref_labels": ref_labels,
            "indices_tuple": indices_tuple,
            "ref_emb": ref_emb,
        }
        ours, theirs = ("ref_embeddings", "ref_labels"), ("indices_tuple", "ref_emb", "ref_labels")
        names = ours if references and isinstance(references[0], Tensor) else theirs
        if len(references) > len(names):
            raise TypeError(
                f"at most embeddings, labels, {', '.join(names)} can be given by position, got {len(references) + 2}"
            )
        for name, value in zip(names, references, strict=False):
            if given[name] is not None:
                raise TypeError(f"{name} was given by position and by name")
            given[name] = value
        also = given.pop("ref_emb")
        if also is not None:
            if given["ref_embeddings"] is not None:
                raise TypeError("ref_emb is another name of ref_embeddings; give one")
            given["ref_embeddings"] = also
        return retrieval_ap_loss(embeddings, labels, weight=weight, **given, **self._given())

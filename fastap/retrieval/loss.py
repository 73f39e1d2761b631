"""Retrieval from embeddings: each row is a query, and its similarities to all references are one ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from fastap import operators
from fastap.arguments import (
    check_class_to_ignore,
    check_count,
    check_generator,
    check_method,
    check_noise,
    check_process_group,
    check_reduction,
    check_scale,
    check_tensor,
    check_update,
    check_weights,
)
from fastap.backends import check_backend
from fastap.distributed import gather
from fastap.distributed.comm import Link, connect
from fastap.distributed.loss import reduce_across
from fastap.noise import seed_of
from fastap.reduce import reduce
from fastap.retrieval import targets as relevance
from fastap.retrieval.targets import Classes, Relevance
from fastap.targets import FLOATING, can_look, right_weights
from fastap.types import Arguments, Losses, Method, Reduction, Update, loss_dtype, weight_dtype
from fastap.warning import warn_of_nothing, warn_once

Similarity = Literal["cosine", "dot", "euclidean"] | Callable[[Tensor, Tensor], Tensor]
SIMILARITIES = ("cosine", "dot", "euclidean")


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
    distractor_label: int | None = None,
    cameras: Tensor | None = None,
    ref_cameras: Tensor | None = None,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    max_pairs: int = 2**24,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """:func:`fastap.direct_ap_loss` of one ranking a query, that of all references by their similarity to it::

        unit = torch.nn.functional.normalize(embeddings, dim=1)
        targets = (labels[:, None] == labels).to(torch.int8).fill_diagonal_(-1)
        direct_ap_loss(unit @ unit.T, targets, dim=-1, ignore_index=-1, epsilon=0.1)

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
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"``, which is minus the distance, or a function from ``(n,
            ...)`` queries and ``(M, ...)`` references to ``(n, M)`` numbers, **higher for more alike**, called with
            some of the queries at a time, in float32 at least and without autocast. A distance such as ``torch.cdist``
            would train the wrong way round: give ``"euclidean"`` or minus it. Where a few queries, on the CPU, show
            that a function is a distance, a :class:`fastap.FastapWarning` says so. A row of zeros, or of nothing but
            subnormal numbers, has cosine 0 to all others and no gradient; of distance 0 there is no gradient either.
        epsilon: weight of AP against the similarities, in their units. Cosines cannot grow to suit it, as scores can:
            it should be of the size of the differences that ought to matter, and 1.0 is half of what there is. On
            scikit-learn's digits 0.1 to 1.0 were level with right labels (held-out mAP 0.954 to 0.959, five seeds);
            with a fifth of them wrong 0.3 was ahead, 0.932 against 0.917, and 0.1 with ``update="symmetric"`` and a
            noise of 0.3 as good, 0.931 (``python -m examples.retrieval``). ``"dot"`` has scores that grow, and takes a
            larger one well.
        update: as in :func:`fastap.direct_ap_loss`, as are ``method`` and ``backend``.
        method: how the loss-augmented ranking is found.
        indices_tuple: pairs ``(a1, p, a2, n)`` or triplets ``(a, p, n)`` of 1-D indices, as pytorch-metric-learning has
            them: reference ``p`` is relevant to query ``a1``, ``n`` irrelevant to ``a2``. Only pairs named here take
            part, whatever the labels; a pair named as both is irrelevant.
        weight: ``(N,)``, one number a query, finite and not negative: the mean is ``sum(w loss) / sum(w)`` over the
            queries that take part. No gradient.
        ignore_index: an item with this label takes no part, as query or as reference. Of ``(N, K)`` an entry of this
            number is unknown: pairs sharing a known label are relevant, other pairs that may share one are ignored.
        distractor_label: an item with this label is relevant to nothing, not even to others with this label, and stays
            among the references: the distractors of re-identification, often 0 or -1. With ``(N, K)`` labels a row of
            zeros is one.
        cameras: ``(N,)`` integers, where each query was seen. A relevant reference from the camera of the query takes
            no part in its ranking, as re-identification has it: another picture of the same moment is no find. Not
            with ``indices_tuple``.
        ref_cameras: ``(M,)``, the same of the references; those of the batch itself are ``cameras``.
        reduction: ``"mean"`` over the queries that take part, ``"sum"`` or ``"none"``, ``(N,)``.
        noise: that of :func:`fastap.direct_ap_loss`, on the similarities; as are ``samples`` and ``generator``. It does
            not depend on ``max_pairs``.
        samples: draws of the noise.
        generator: of its seeds.
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

    Memory, at its peak and beyond the embeddings and their gradients: 12 bytes a similarity in one chunk; in several 21
    a similarity held at a time, 0.35 GB with the default ``max_pairs`` (measured on the CPU, cosines of 128 numbers of
    4,000 and 12,000 items: 12.4 in one chunk and 21.4 in nine; 14.3 and 35.4 where glibc keeps what is free, as it does
    unless ``MALLOC_MMAP_THRESHOLD_`` is set). On CUDA the work space of the kernels, up to 64 bytes a
    similarity (68 of the symmetric update), comes on top. With noise up to 4 million similarities are held noisy at a
    time, or one pair of draws of a chunk: 9 bytes more a similarity for the module's defaults. Cosines need normalised
    copies of the embeddings, and ``indices_tuple`` a byte for each of the N x M pairs.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted. On CUDA no value is looked at:
            the loss is NaN where a multi-label entry or a weight is wrong, and a wrong index is the device's error.
    """
    _check_similarity(similarity)
    itself = ref_embeddings is None or ref_embeddings is embeddings
    references = embeddings if ref_embeddings is None else ref_embeddings
    _check_embeddings(embeddings, references, similarity)
    if itself and ref_labels is not None and ref_embeddings is None:
        raise ValueError("ref_labels were given without ref_embeddings")
    if itself and ref_labels is None:
        ref_labels = labels
    ignore_index = check_class_to_ignore(ignore_index)
    distractor_label = check_class_to_ignore(distractor_label, "distractor_label")
    needed = indices_tuple is None
    relevance.check_labels(embeddings, references, labels, ref_labels, ignore_index, distractor_label, needed=needed)
    if indices_tuple is not None and not cameras is ref_cameras is None:
        raise ValueError("cameras must be None with indices_tuple, which says by itself what is relevant")
    seen = relevance.of_cameras(cameras, ref_cameras, embeddings, references, itself)
    max_pairs = check_count("max_pairs", max_pairs)
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
        "noise": check_noise(noise, loss_dtype(embeddings)),
        "samples": check_count("samples", samples),
    }
    seed = seed_of(options["noise"], check_generator(generator, embeddings.device), embeddings.device)
    if link is None and labels is not None and ref_labels is not None:
        labels, ref_labels = relevance.without_unused(labels, ref_labels)
    n, device = embeddings.shape[0], embeddings.device
    dtype = torch.promote_types(torch.promote_types(embeddings.dtype, references.dtype), torch.float32)

    def prepare() -> tuple[tuple[Classes | None, Classes | None, Tensor | None], list[int]]:
        """What depends on values, which may be wrong."""
        special = (ignore_index, distractor_label, device)
        classes = ref_classes = relevance.of_labels("labels", labels, *special)
        if ref_labels is not labels:
            ref_classes = relevance.of_labels("ref_labels", ref_labels, *special)
        weights = None
        if weight is not None:
            _check_weight(weight, embeddings)
            weights = right_weights("weight", weight, weight_dtype(reduction, dtype), looks=can_look(weight))
        return (classes, ref_classes, weights), [n]

    lengths = [[n]]
    if link is None:
        (classes, ref_classes, weights), _ = prepare()
    else:
        assert labels is not None
        kind = similarity if isinstance(similarity, str) else "a function"
        words = (
            f"retrieval by {kind}, {options}, {reduction=}, labels {ignore_index=} "
            f"{distractor_label=} of shape (*, {labels.shape[1:]}), {'no ' if seen is None else ''}cameras, "
            f"{'unsigned' if labels.dtype == torch.uint64 else 'signed'}, "
            f"{'a' if weight is not None else 'no'} weight, ranked {'with the batch' if itself else 'in references'}, "
            f"embeddings {embeddings.dtype} of shape (*, {embeddings.shape[1:]})"
        )
        (classes, ref_classes, weights), lengths = link.agree(words, prepare)
    options["seed"] = seed if seed is None or link is None else link.of_first(seed, "share a seed")
    queries_before = 0 if link is None else sum(length[0] for length in lengths[: link.rank])
    named = None if indices_tuple is None else relevance.of_pairs(indices_tuple, n, references.shape[0], device)
    first = 0 if itself else None

    with _without_autocast(device):
        queries = _prepared(embeddings.to(dtype), classes, similarity)
        if itself and ref_classes is classes:
            items = queries
        else:
            items = _prepared(references.to(dtype), ref_classes, similarity)
        if link is not None and itself:
            assert ref_classes is not None
            first = queries_before
            items = gather(items, process_group=process_group)
            assert classes is not None
            gathered = gather(ref_classes.values, process_group=process_group)
            own_values, ref_values = relevance.without_unused(classes.values, gathered)
            classes, ref_classes = classes.of(own_values), ref_classes.of(ref_values)
            if seen is not None:
                seen = seen[0], gather(seen[1], process_group=process_group)
        relevant = Relevance(classes, ref_classes, seen, named, first)
        m = items.shape[0]
        if n * m <= max_pairs:
            losses, takes_part = _of_chunk(queries, items, similarity, relevant, 0, options, queries_before)
        else:
            rows = max(1, max_pairs // m)
            chunks = []
            for start in range(0, n, rows):
                chunk = (queries[start : start + rows], items, similarity, relevant, start, options, queries_before)
                if torch.is_grad_enabled():
                    chunks.append(checkpoint(_of_chunk, *chunk, use_reentrant=False))
                else:  # nothing to be computed again; `checkpoint` loads the compiler, which takes 2 s
                    chunks.append(_of_chunk(*chunk))
            losses, takes_part = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    if link is not None:
        return _reduced_across(link, losses, takes_part, weights, reduction, [length[0] for length in lengths])
    return _reduced(losses, takes_part, weights, reduction)


def _of_chunk(
    queries: Tensor,
    items: Tensor,
    similarity: Similarity,
    relevant: Relevance,
    start: int,
    options: dict[str, Any],
    queries_before: int,
) -> tuple[Tensor, Tensor]:
    """The loss of each of these queries and whether it takes part."""
    targets = relevant.targets(start, start + queries.shape[0])
    takes_part = (targets == relevance.RELEVANT).any(1) & (targets == relevance.IRRELEVANT).any(1)
    if callable(similarity):
        scores = _check_similarities(similarity(queries, items), queries, items)
        _warn_of_distance(scores, queries, items)
    elif similarity == "euclidean":
        # Products of numbers around 0 round least; where 0 is changes no distance.
        middle = items.detach().nan_to_num(0.0, 0.0, 0.0).mean(0)
        scores = -torch.cdist(queries - middle, items - middle, compute_mode="use_mm_for_euclid_dist")
    else:
        scores = queries @ items.T
    call = Arguments(
        scores=scores,
        targets=targets,
        groups=None,
        offsets=None,
        weight=None,
        loss="direct",
        dim=1,
        ignore_index=relevance.IGNORED,
        reduction="none",
        process_group=None,
        sharded="rankings",
        needs_gradient=torch.is_grad_enabled() and scores.requires_grad,
        first=queries_before + start,
        **options,
    )
    return operators.loss_of(call), takes_part


def _reduced(losses: Tensor, takes_part: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    if can_look(takes_part):
        warn_of_nothing(takes_part)
    if reduction == "none":
        return losses if weight is None else (losses * weight).to(losses.dtype)
    each = Losses(losses.double(), None, takes_part)
    return reduce(each, losses.dtype, mean=reduction == "mean", weight=weight)[0]


def _reduced_across(
    link: Link, losses: Tensor, takes_part: Tensor, weight: Tensor | None, reduction: Reduction, counts: Sequence[int]
) -> Tensor:
    """The value over the queries of all ranks; the gradient of this rank's, times the number of ranks."""
    if reduction == "none":
        own = _reduced(losses, takes_part, weight, reduction)
        return _shown(own, own, link.size)
    constant = losses.detach().double()
    each = Losses(constant, None, takes_part)
    value, share = reduce_across(link, each, weight, counts, losses.dtype, mean=reduction == "mean")
    return _shown((losses * share).sum(), value, link.size)


def _shown(value: Tensor, shown: Tensor, factor: int) -> Tensor:
    """``shown``, with the gradient of ``factor * value``."""
    apply: Any = _Shown.apply
    result: Tensor = apply(value, shown.detach(), factor)
    return result


class _Shown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shown: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.factor, None, None


def _prepared(embeddings: Tensor, classes: Classes | None, similarity: Similarity) -> Tensor:
    """Embeddings as ``_of_chunk`` wants them: zero if ignored, since 0 x NaN is NaN; for cosines of length 1."""
    ignored = None if classes is None else classes.are_ignored()
    if ignored is not None:
        embeddings = embeddings.masked_fill(ignored.view(-1, *(1,) * (embeddings.dim() - 1)), 0.0)
    if similarity != "cosine" or embeddings.shape[1] == 0:  # of no numbers there is no largest
        return embeddings
    # Of numbers of size 1 squares neither overflow nor vanish. Dividing by infinity leaves 0 and sends back 0. The size
    # is a constant to the gradient, for no cosine depends on it.
    size = torch.linalg.vector_norm(embeddings.detach(), torch.inf, dim=1, keepdim=True)
    is_some = size > torch.finfo(embeddings.dtype).tiny
    embeddings = embeddings / size.where(is_some, torch.inf)
    length: Tensor = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return embeddings / length.where(is_some, 1.0)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    # Asked outside compilers alone: that of PyTorch 2.11 cannot trace the question.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _check_similarity(similarity: Similarity) -> None:
    """A known word or a function, and no distance that is known as one."""
    if not callable(similarity) and not (isinstance(similarity, str) and similarity in SIMILARITIES):
        raise ValueError(f"similarity must be 'cosine', 'dot', 'euclidean' or a function, got {similarity!r}")
    # Distances of pytorch-metric-learning say by `is_inverted` that they are higher for more alike.
    if similarity is torch.cdist or getattr(similarity, "is_inverted", None) is False:
        raise ValueError(f"similarity must be higher for more alike, got a distance, {similarity!r}; {_NO_DISTANCE}")


def _check_embeddings(embeddings: Tensor, references: Tensor, similarity: Similarity) -> None:
    for name, given in (("embeddings", embeddings), ("ref_embeddings", references)):
        check_tensor(name, given, FLOATING, "a floating dtype of 16 to 64 bits")
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


def _check_weight(weight: Tensor, embeddings: Tensor) -> None:
    check_weights("weight", weight, "embeddings", embeddings)
    if weight.shape != embeddings.shape[:1]:
        raise ValueError(f"weight must have the shape ({embeddings.shape[0]},), got {tuple(weight.shape)}")


_NO_DISTANCE = "give similarity='euclidean', or lambda queries, references: -distance(queries, references)"


@torch.no_grad()
def _warn_of_distance(similarities: Tensor, queries: Tensor, items: Tensor) -> None:
    """A warning, once, where to each of the first queries the nearest item, itself if it is there, is hardly alike.

    That is among the least tenth: the distance by which it is nearest need not be the one that was given.
    """
    if min(similarities.shape) < 4 or queries.shape[1:] != items.shape[1:] or not can_look(similarities):
        return
    some = similarities[:8]
    distances = torch.cdist(queries[:8].flatten(1), items.flatten(1))
    nearest = some.gather(1, distances.argmin(1, keepdim=True))
    below = (some < nearest).sum(1) * 10 < some.shape[1]
    if bool((below & (some > nearest).any(1)).all()):
        warn_once(
            "similarity gives the nearest references the least number, as a distance does, so that this loss trains "
            f"the wrong way round: higher has to mean more alike; {_NO_DISTANCE}"
        )


def _check_similarities(similarities: Tensor, queries: Tensor, items: Tensor) -> Tensor:
    check_tensor("similarity", similarities, FLOATING, "a floating dtype of 16 to 64 bits", returned=True)
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

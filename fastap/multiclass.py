"""Classes that exclude each other: one ranking a class, by log-odds."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributed import ProcessGroup

from fastap.arguments import check_class_tensors, check_class_to_ignore
from fastap.functional import direct_ap_loss
from fastap.targets import classes_of, wrong_classes
from fastap.types import Method, Reduction, Update


def multiclass_ap_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 1.0,
    update: Update = "positive",
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    method: Method = "auto",
) -> Tensor:
    """One :func:`fastap.direct_ap_loss` a class, of the items ranked by the log-odds of the class.

    With ``p = softmax(logits)`` over the classes, item ``i`` has in the ranking of class ``k`` the score::

        log p_ik - log(1 - p_ik)  =  logits_ik - logsumexp of logits_ij over j != k

    and is a positive where ``labels_i == k``. Logits themselves do not compare from item to item: softmax stays the
    same when all logits of an item rise. The scores are computed without cancellation, however sure the model is.

    ``epsilon`` is in units of log-odds. Where some labels are wrong the sum with generalised cross-entropy (Zhang,
    Sabuncu, NeurIPS 2018) was among the best losses of all, for networks and for heads, with nothing to tune::

        log_p = logits.log_softmax(1).gather(1, labels[:, None])  # where no label is to be ignored
        MulticlassAPLoss()(logits, labels) - torch.expm1(0.7 * log_p).mean() / 0.7

    Args:
        logits: floating, (N, C) or (N, C, ...), two classes or more, as ``torch.nn.functional.cross_entropy`` has them.
        labels: integers, (N) or (N, ...), the class of each item.
        epsilon: that of :func:`fastap.direct_ap_loss`.
        update: that of :func:`fastap.direct_ap_loss`.
        weight: what each class counts, (C,), not negative.
        ignore_index: items with this label take no part. It may be a class, or None.
        reduction: over classes: ``"mean"`` over those that have items of the class and others, weighted; ``"sum"``; or
            ``"none"``, (C,). A class without items has loss 0 and no gradient.
        noise: that of :func:`fastap.direct_ap_loss`, on the log-odds; as are ``samples`` and ``generator``.
        samples: draws of the noise.
        generator: of its seeds.
        backend: that of :func:`fastap.direct_ap_loss`.
        process_group: the processes among which the items are spread, None for one process. The loss is that of all
            items, the same on every rank; gradients as those of :func:`fastap.direct_ap_loss`.
        method: that of :func:`fastap.direct_ap_loss`.

    Returns:
        float64 for float64 logits and float32 for all others; logits of 16 bits are turned to float32 first. A logit
        that is NaN or infinite makes losses NaN.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted. On CUDA a wrong label is no
            error, which would stall the stream: all losses are NaN.

    Memory is O(N C): at its peak some 38 bytes a float32 logit, of which 28 are kept for the backward pass.
    """
    if check_class_tensors(logits, labels, "labels") == 0:
        raise ValueError(f"logits must be (N, C) or (N, C, ...), got shape {tuple(logits.shape)}")
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least two classes along dimension 1, got shape {tuple(logits.shape)}")
    if isinstance(weight, Tensor) and weight.shape != logits.shape[1:2]:
        raise ValueError(f"weight must have the shape {tuple(logits.shape[1:2])}, got {tuple(weight.shape)}")
    labels, ignored = classes_of(labels, check_class_to_ignore(ignore_index))
    wrong = wrong_classes(labels, ignored, logits.shape[1], "labels")
    scores = log_odds(logits if ignored is None else logits.masked_fill(ignored.unsqueeze(1), 0.0))
    targets = _targets(labels, logits.shape[1], ignored, wrong)
    if labels.numel() == 1 and process_group is None:
        # The last batch of an epoch. Rankings of one item each are an error, so an ignored one joins it.
        scores, targets = torch.cat([scores, scores]), torch.cat([targets, torch.full_like(targets, -1)])
    return direct_ap_loss(
        scores,
        targets,
        epsilon=epsilon,
        update=update,
        dim=(0, *range(2, logits.dim())),
        weight=weight,
        ignore_index=-1,
        reduction=reduction,
        noise=noise,
        samples=samples,
        generator=generator,
        backend=backend,
        process_group=process_group,
        method=method,
    )


def log_odds(logits: Tensor) -> Tensor:
    """``log p - log(1 - p)`` of ``p = softmax(logits, 1)``, to the last digits also where ``p`` is near 0 or 1."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    best = logits.argmax(1, keepdim=True)
    # The largest p from the other logits. All others are at most 1/2, so that 1 - p keeps its digits; the largest is
    # taken out before, for the derivative of log(1 - p) may be infinite there.
    others = logits.scatter(1, best, -torch.inf).logsumexp(1, keepdim=True)
    log_p = logits.log_softmax(1).scatter(1, best, -1.0)
    odds = log_p - torch.log1p(-log_p.exp())
    return odds.scatter(1, best, logits.gather(1, best) - others)


def _targets(labels: Tensor, classes: int, ignored: Tensor | None, wrong: Tensor | None) -> Tensor:
    """int8 of the shape of the logits: 1 for the class of the item and 0 for others, -1 for ignored, 2 for wrong."""
    each = torch.arange(classes, device=labels.device).view(classes, *[1] * (labels.dim() - 1))
    targets = (labels.unsqueeze(1) == each).to(torch.int8)
    if wrong is not None:
        targets = targets.masked_fill(wrong.unsqueeze(1), 2)
    if ignored is not None:
        targets = targets.masked_fill(ignored.unsqueeze(1), -1)
    return targets

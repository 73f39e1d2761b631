"""The public functions. They check their arguments and call one operator each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastap import ops
from fastap.checks import (
    check_backend,
    check_method,
    check_reduction,
    check_scale,
    check_tensors,
    check_update,
    has_values,
)
from fastap.problem import AugmentedRanking, Method, Reduction, Update


def direct_ap_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    update: Update = "positive",
    method: Method = "auto",
    dim: int = -1,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    backend: str = "auto",
) -> Tensor:
    r"""Direct loss minimisation for average precision.

    With :math:`F(y) = \frac{1}{PN} \sum_{ij} y_{ij} (p_i - n_j)` the score of a ranking and :math:`L = 1 - AP`::

        update="positive":  D+ = 1/epsilon * [max(F + epsilon L) - max F]
        update="negative":  D- = 1/epsilon * [max F - max(F - epsilon L)]

    ``0 <= D- <= 1 - AP <= D+ <= 1`` where no scores are equal, and both tend to ``1 - AP`` as ``epsilon`` falls. The
    gradient is exactly the paper's update, ``+-1/epsilon * [grad F(y_direct) - grad F(y_standard)]``. Equal scores of
    a positive and a negative count as half above, half below, so permuting the items permutes the gradient.

    Args:
        scores: floating tensor of any shape; higher is better.
        targets: bool, integer or floating tensor of the same shape, 1 for positives and 0 for negatives.
        epsilon: weight of the task loss against the scores, in units of the scores; finite and positive.
        update: ``"positive"`` moves away from a worse ranking, ``"negative"`` towards a better one.
        method: how the loss-augmented ranking is found; the result is the same. ``"auto"`` searches each positive's
            place and runs the dynamic program only on rows in conflict: a sort and ``O((P + N) log N)`` where few are.
            ``"dp"`` is the paper's dynamic program over all ``P x (N + 1)`` cells, in ``O(P + N)`` memory: for
            comparing, and for certainty that needs no other argument.
        dim: the axis along which items are ranked; every other axis counts rankings.
        ignore_index: items with this target take no part.
        reduction: ``"mean"`` over the rankings that take part, ``"sum"`` or ``"none"`` (the shape of ``scores``
            without ``dim``).
        backend: ``"auto"`` (``"triton"`` for CUDA tensors, ``"native"`` on the CPU, ``"torch"`` elsewhere and where
            these are missing), ``"native"``, ``"torch"``, ``"triton"`` or ``"reference"`` (slow, for checking; the
            dynamic program by either method).

    Returns:
        The loss, float64 for float64 scores and float32 for all others. All arithmetic is float64. Rankings without a
        positive or without a negative take no part: loss 0, gradient 0. A ranking with a NaN or infinite score has
        loss NaN and gradient NaN; the gradients of the others are untouched.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted. On CUDA a wrong
            target value is no error, which would stall the stream: loss and gradient of its ranking are NaN.

    Source: Song, Schwing, Zemel, Urtasun, Training Deep Neural Networks via Direct Loss Minimization, ICML 2016.
    """
    return _ap_loss(
        scores,
        targets,
        "direct",
        check_scale("epsilon", epsilon),
        update,
        method,
        dim,
        ignore_index,
        reduction,
        backend,
    )


def ap_hinge_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    method: Method = "auto",
    dim: int = -1,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    backend: str = "auto",
) -> Tensor:
    """AP-SVM with margin rescaling: ``max(F + margin L) - F(y*)``, ``y*`` with every positive above every negative.

    A convex upper bound of ``margin * (1 - AP)``. ``margin`` is finite and positive; all other arguments, results and
    errors are those of :func:`direct_ap_loss`.

    Source: Yue, Finley, Radlinski, Joachims, A Support Vector Method for Optimizing Average Precision, SIGIR 2007.
    """
    return _ap_loss(
        scores,
        targets,
        "hinge",
        check_scale("margin", margin),
        "positive",
        method,
        dim,
        ignore_index,
        reduction,
        backend,
    )


def ap_perceptron_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    dim: int = -1,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    backend: str = "auto",
) -> Tensor:
    """The ranking perceptron: ``max F - F(y*)``, that is ``2/(P N) * sum over pairs of relu(n_j - p_i)``.

    The subgradient at equal scores is half of either side. All arguments, results and errors are those of
    :func:`direct_ap_loss`.
    """
    return _ap_loss(scores, targets, "perceptron", 1.0, "positive", "auto", dim, ignore_index, reduction, backend)


def average_precision(scores: Tensor, targets: Tensor, *, dim: int = -1, ignore_index: int | None = None) -> Tensor:
    """``sum over thresholds of (recall_k - recall_{k-1}) * precision_k``, exact, for every ranking; no gradient.

    Equal scores form one threshold, as in ``sklearn.metrics.average_precision_score``; only the order of the scores
    matters, so any real score and infinities are welcome. Arguments are those of :func:`direct_ap_loss`.

    Returns:
        float64, the shape of ``scores`` without ``dim``; NaN where a ranking has no positive or a NaN score.
    """
    dim = check_tensors(scores, targets, dim, ignore_index)
    result: Tensor = ops.average_precision(scores.detach(), targets, dim, ignore_index)
    return result


def loss_augmented_ranking(
    scores: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    update: Update = "positive",
    method: Method = "auto",
    dim: int = -1,
    ignore_index: int | None = None,
    backend: str = "auto",
) -> AugmentedRanking:
    """``y_direct = argmax F + s epsilon L``, ``s`` = +1 for the positive and -1 for the negative update.

    Arguments are those of :func:`direct_ap_loss`. No gradient.

    Returns:
        ``(ranks, value)``. ``ranks``: int64, shaped like ``scores``, the place of each item, 0 for the first, -1 for
        ignored items; equal scores of one class stand in the order of the input. ``value``: float64, the shape of
        ``scores`` without ``dim``, ``max F + s epsilon L`` in units of the scores. A ranking without a positive or
        without a negative is ranked by score and has value NaN; one with a NaN or infinite score has value NaN and
        ranks of no meaning.
    """
    dim = check_tensors(scores, targets, dim, ignore_index)
    ranks, value = ops.loss_augmented_ranking(
        scores.detach(),
        targets,
        check_scale("epsilon", epsilon),
        check_update(update),
        check_method(method),
        dim,
        ignore_index,
        check_backend(backend, scores.device),
    )
    return AugmentedRanking(ranks.movedim(-1, dim), value)


def _ap_loss(
    scores: Tensor,
    targets: Tensor,
    loss: str,
    epsilon: float,
    update: str,
    method: str,
    dim: int,
    ignore_index: int | None,
    reduction: str,
    backend: str,
) -> Tensor:
    dim = check_tensors(scores, targets, dim, ignore_index)
    run: Any = ops.EagerAPLoss.apply if has_values(scores) and has_values(targets) else ops.ap_loss
    value: Tensor = run(
        scores,
        targets,
        loss,
        epsilon,
        check_update(update),
        check_method(method),
        dim,
        ignore_index,
        check_reduction(reduction),
        check_backend(backend, scores.device),
    )[0]
    return value

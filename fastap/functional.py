"""The public functions. They check their arguments and call one operator each."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributed import ProcessGroup

from fastap import measures, operators, ragged
from fastap.arguments import (
    check_choice,
    check_class_to_ignore,
    check_count,
    check_generator,
    check_ignore_index,
    check_lengths,
    check_measure,
    check_method,
    check_nested,
    check_noise,
    check_process_group,
    check_ragged,
    check_reduction,
    check_sample_weight,
    check_scale,
    check_sharded,
    check_tensors,
    check_update,
    check_weight,
)
from fastap.backends import check_backend
from fastap.noise import seed_of
from fastap.reduce import mean_precision
from fastap.targets import can_look, without_ignored_class
from fastap.types import (
    ONE_SIDED,
    AnyMeasure,
    Arguments,
    AugmentedRanking,
    Dim,
    Method,
    Objective,
    Reduction,
    Sharded,
    Update,
    loss_dtype,
)

Average = Literal["none", "macro", "micro", "weighted", "samples"]
AVERAGES = ("none", "macro", "micro", "weighted", "samples")


def direct_ap_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    update: Update = "positive",
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    sharded: Sharded = "items",
    method: Method = "auto",
) -> Tensor:
    """Direct loss minimisation for average precision.

    With ``F(y) = 1/(P N) * sum over pairs of y_ij (p_i - n_j)`` the score of a ranking and ``L = 1 - AP``::

        update="positive":  D+ = 1/epsilon * [max(F + epsilon L) - max F]
        update="negative":  D- = 1/epsilon * [max F - max(F - epsilon L)]
        update="symmetric": D0 = 1/(2 epsilon) * [max(F + epsilon L) - max(F - epsilon L)] = (D+ + D-) / 2

    ``0 <= D- <= 1 - AP <= D+ <= 1`` where no scores are equal, and all tend to ``1 - AP`` as ``epsilon`` falls. The
    gradient is exactly the paper's update, ``+-1/epsilon * [grad F(y_direct) - grad F(y_standard)]``; that of ``D0``
    is the mean of the two, a central difference, whose bias falls with ``epsilon`` squared. Equal scores of a positive
    and a negative count as half above, half below, so permuting the items permutes the gradient.

    The defaults are the paper's, without noise. What trains better, where nothing is tuned, are those of the module,
    :class:`fastap.DirectAPLoss`: ``update="symmetric", epsilon=0.3, noise=0.9, samples=2``.

    Args:
        scores: floating tensor of any shape; higher is better. Or a nested tensor of jagged layout, (rankings, items),
            each row a ranking.
        targets: bool, integer or floating tensor of the same shape, 1 for positives and 0 for negatives.
        epsilon: weight of the task loss against the scores, in units of the scores; finite and positive.
        update: ``"positive"`` moves away from a worse ranking, ``"negative"`` towards a better one, ``"symmetric"``
            does both at little more than the price of the dearer one.
        dim: the axis along which items are ranked, or several that are ranked together, such as ``(0, 2, 3)`` of maps
            of pixels; every other axis counts rankings. Scores of one dimension need none. Of others there is no
            default: ``dim=0`` ranks the batch for each label (``(batch, labels)``), ``dim=-1`` each row (``(queries,
            gallery)``).
        groups: integers, one an item of flat (one-dimensional) scores: items of one id are a ranking, in whatever order
            they come (the ``indexes`` of TorchMetrics). Results are in ascending order of id.
        offsets: integers, (rankings + 1,): ranking ``r`` of flat scores has the items from ``offsets[r]`` to before
            ``offsets[r + 1]``; they begin with 0 and end with the number of items (``nn.EmbeddingBag`` with
            ``include_last_offset=True``, ``offsets()`` of a nested tensor). Rankings may be empty.
        weight: what each ranking counts, not negative; (rankings,) of ragged ones, else a shape that broadcasts to the
            shape of ``scores`` without ``dim``. It gets no gradient.
        ignore_index: items with this target take no part, whatever their score: the way to pad. A score of -inf is no
            padding, and makes the loss NaN.
        reduction: ``"mean"`` over the rankings that take part, weighted; ``"sum"``, of ``weight * loss``; or ``"none"``
            (the shape of ``scores`` without ``dim``; ragged, (rankings,)), ``weight * loss`` too. With a
            ``process_group`` sum what ``"none"`` gives: a mean of one rank's losses would count the ranks twice.
        noise: the loss becomes its expectation at noisy scores, ``E_z[loss(scores + noise * z)]``, ``z`` independent
            standard normal numbers: a smooth function, whose gradient the direct gradient at noisy scores is on
            average, as ``epsilon`` falls. In units of the scores, finite; 0 is none. An ``epsilon`` of a third of it is
            small enough. It is drawn anew in every call; a module draws none after ``eval()``. Noisy scores are
            float32, but of float64 scores: noise below 1e-4 of the largest score is lost in their rounding.
        samples: draws that the mean is of, in pairs ``z`` and ``-z``; of no meaning without noise. Time grows with
            them, and so does memory, until 4 million noisy scores are held.
        generator: of the one number that each call draws as a seed, on the device of the scores; None is PyTorch's own.
            The noise of an item depends on it, on the number of its ranking (of groups the id) and its place there: on
            one device the same seed gives the same bits, and a batch in shards the same as whole. With
            ``process_group`` the first rank draws. Under ``torch.compile`` it breaks the graph, and in
            ``torch.utils.checkpoint`` only PyTorch's own is drawn from alike a second time.
        backend: ``"auto"``: ``"native"``, in C, for tensors of the CPU and ``"triton"`` for those of a CUDA device;
            those of other devices are copied to the CPU, and the results back. ``"reference"`` is the dynamic program
            in NumPy: slow, for checking. :func:`show_config` tells what is there.
        process_group: the processes of ``torch.distributed`` among which the batch is spread, None for one process;
            every one of them makes the same call. The loss is that of the whole batch, the same on every rank, and the
            gradient is multiplied by their number, so that gradients averaged over ranks (DDP, FSDP) are those of one
            process. All communication is in the forward pass.
        sharded: what is spread. ``"items"``: each rank has some items of every ranking along ``dim``, or none, and with
            ``offsets`` its part of every ranking; items stand in the order of the ranks, each ranking is solved on one
            rank, and ``weight`` is the same on all (with ``groups``, of all ids there are). ``"rankings"``: each rank
            has whole rankings, or none, and their weights; with ``reduction="none"`` their losses stay there.
        method: for comparing; the result is the same. ``"auto"`` searches each positive's place and runs the dynamic
            program only on rows in conflict: a sort and ``O((P + N) log N)`` where few are. ``"dp"`` is the paper's
            dynamic program over all ``P x (N + 1)`` cells, in ``O(P + N)`` memory.

    Returns:
        The loss, float64 for float64 scores and float32 for all others. All arithmetic is float64. Rankings without a
        positive or without a negative take no part: loss 0, gradient 0; so is the mean where none takes part or all
        weights are 0. A ranking with a NaN or infinite score has loss NaN and gradient NaN, as has one whose sums over
        all pairs overflow float64 (``epsilon`` or a difference of scores near 1e308 / (16 n^2), n the number of items);
        the gradients of the others are untouched.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is wanted. On CUDA a wrong target, weight or
            offset is no error, which would stall the stream: loss and gradient are NaN, of its ranking or, of offsets
            and weights of a mean, of all. There only ``reduction="none"`` with ``groups`` waits for the device, to
            learn how many there are. With ``process_group`` a wrong value on one rank, or calls that differ, are a
            ValueError on all, and the host waits for the device to learn the lengths of the shards.
        RuntimeError: on any derivative of a gradient that came through the loss: that is constant but for jumps. Where
            a rank of ``process_group`` has died or makes no such call within the timeout of the group; over NCCL, whose
            calls do not wait, its watchdog ends the process instead unless ``TORCH_NCCL_BLOCKING_WAIT=1``.

    Source: Song, Schwing, Zemel, Urtasun, Training Deep Neural Networks via Direct Loss Minimization, ICML 2016.
    """
    objective = Objective("direct", check_scale("epsilon", epsilon), check_update(update), check_method(method))
    return _ap_loss(
        scores,
        targets,
        objective,
        dim=dim,
        groups=groups,
        offsets=offsets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        noise=noise,
        samples=samples,
        generator=generator,
        backend=backend,
        process_group=process_group,
        sharded=sharded,
    )


def direct_ranking_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    measure: AnyMeasure,
    k: int | None = None,
    epsilon: float = 1.0,
    update: Update = "positive",
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    sharded: Sharded = "items",
    method: Method = "auto",
) -> Tensor:
    """Direct loss minimisation for a measure of a ranking: :func:`direct_ap_loss` with ``L = 1 - measure``.

    With positive ``i`` of ``P`` (by score, from 1) below ``a_i`` of the ``N`` negatives, at rank ``r_i = i + a_i`` of
    ``n = P + N``::

        "ap":              1/min(k, P) * sum_i i / r_i
        "ndcg":            sum_i 1/log2(1 + r_i) / sum_i 1/log2(1 + i)
        "precision":       1/k * #{i: r_i <= k}
        "recall":          1/P * #{i: r_i <= k}
        "reciprocal_rank": 1 / r_1
        "auc":             1/(P N) * sum_i (N - a_i)
        "partial_auc":     1/(P beta N) * sum_i max(beta N - a_i, 0)
        "bedroc":          (E - E_worst) / (E_best - E_worst), E = sum_i exp(-alpha r_i / n)

    With ``k`` sums are over the positives with ``r_i <= k``, of NDCG's divisor over ``i <= k``. Every measure is at
    least 0 and at most 1, so the loss lies in [0, 1], and where no scores are equal it brackets ``1 - measure``. It is
    exact, as that of AP is: no measure is smoothed.

    Args:
        measure: one of these names, or of two of them name and number: ``("partial_auc", beta)``, the area under the
            ROC curve up to a rate ``beta`` of false positives, over ``beta``; ``("bedroc", alpha)``, 20 by its name
            alone.
        k: the rank up to which positives count, at least 1; None for no such rank. ``"precision"`` and ``"recall"``
            need one, the areas and BEDROC have none.

    All other arguments are those of :func:`direct_ap_loss`. ``backend="triton"`` has kernels for AP without ``k``: of
    other measures tensors of CUDA devices are copied to the CPU, and the results back.

    Returns:
        The loss, as of :func:`direct_ap_loss`.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`direct_ap_loss`.

    Sources: as of :func:`direct_ap_loss`; of NDCG Jarvelin, Kekalainen, Cumulated Gain-Based Evaluation of IR
    Techniques, ACM TOIS 2002, with gains of 0 and 1; of BEDROC Truchon, Bayly, Evaluating Virtual Screening Methods, J.
    Chem. Inf. Model. 2007.
    """
    objective = Objective(
        "direct", check_scale("epsilon", epsilon), check_update(update), check_method(method), check_measure(measure, k)
    )
    return _ap_loss(
        scores,
        targets,
        objective,
        dim=dim,
        groups=groups,
        offsets=offsets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        noise=noise,
        samples=samples,
        generator=generator,
        backend=backend,
        process_group=process_group,
        sharded=sharded,
    )


def smooth_ap_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    temperature: float = 0.01,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    sharded: Sharded = "items",
) -> Tensor:
    """SmoothAP, ``1 - 1/P * sum over positives of R+_i / R_i``, at the price of a sort.

    ``R_i = 1 + sum over all other items j of G((s_j - s_i) / temperature)``, ``R+_i`` the same over the positives, and
    ``G`` the distribution function of Laplace, ``e^x / 2`` below 0 and ``1 - e^-x / 2`` above: with it the sums of all
    pairs are recurrences along the sorted scores, exact, in ``O(n)`` time and memory after the sort. The authors have
    the sigmoid, which falls off alike but is flatter at 0, and ``P x n`` pairs. It tends to ``1 - AP`` with the
    temperature where no scores are equal; equal ones count half. A surrogate: nearer to AP its gradient vanishes where
    scores are many temperatures apart.

    Args:
        temperature: in units of the scores, finite and positive; 0.01 is the authors', for cosines.
        scores: as ``targets``, ``dim``, ``groups``, ``offsets``, ``weight``, ``ignore_index``, ``reduction``,
            ``backend``, ``process_group`` and ``sharded`` those of :func:`direct_ap_loss`; there are no kernels yet.
        targets: 1 for positives and 0 for negatives.
        dim: the axis or axes along which items are ranked.
        groups: which ranking each item is of.
        offsets: where each ranking begins.
        weight: what each ranking counts.
        ignore_index: items with this target take no part.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        backend: ``"auto"``, ``"native"`` or ``"reference"``.
        process_group: the processes among which the batch is spread.
        sharded: what is spread.

    Returns:
        The loss, between 0 and 1, as of :func:`direct_ap_loss`; rankings that lack a class take no part.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`direct_ap_loss`.

    Source: Brown, Xie, Kalogeiton, Zisserman, Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV
    2020.
    """
    return _ap_loss(
        scores,
        targets,
        Objective("smooth", check_scale("temperature", temperature)),
        dim=dim,
        groups=groups,
        offsets=offsets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        noise=0.0,
        samples=1,
        generator=None,
        backend=backend,
        process_group=process_group,
        sharded=sharded,
    )


def ap_hinge_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    sharded: Sharded = "items",
    method: Method = "auto",
) -> Tensor:
    """AP-SVM with margin rescaling: ``max(F + margin L) - F(y*)``, ``y*`` with every positive above every negative.

    A convex upper bound of ``margin * (1 - AP)``. ``margin`` is finite and positive; all other arguments, results and
    errors are those of :func:`direct_ap_loss`.

    Source: Yue, Finley, Radlinski, Joachims, A Support Vector Method for Optimizing Average Precision, SIGIR 2007.
    """
    objective = Objective("hinge", check_scale("margin", margin), method=check_method(method))
    return _ap_loss(
        scores,
        targets,
        objective,
        dim=dim,
        groups=groups,
        offsets=offsets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        noise=noise,
        samples=samples,
        generator=generator,
        backend=backend,
        process_group=process_group,
        sharded=sharded,
    )


def ap_perceptron_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    noise: float = 0.0,
    samples: int = 1,
    generator: Generator | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    sharded: Sharded = "items",
) -> Tensor:
    """The ranking perceptron: ``max F - F(y*)``, that is ``2/(P N) * sum over pairs of relu(n_j - p_i)``.

    The subgradient at equal scores is half of either side. All arguments, results and errors are those of
    :func:`direct_ap_loss`.
    """
    objective = Objective("perceptron")
    return _ap_loss(
        scores,
        targets,
        objective,
        dim=dim,
        groups=groups,
        offsets=offsets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        noise=noise,
        samples=samples,
        generator=generator,
        backend=backend,
        process_group=process_group,
        sharded=sharded,
    )


def average_precision(
    scores: Tensor,
    targets: Tensor,
    *,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = None,
    average: Average | None = "none",
) -> Tensor:
    """``sum over thresholds of (recall_k - recall_{k-1}) * precision_k``, exact, for every ranking; no gradient.

    Of class labels, ``(N,)`` integers, and the scores of C classes, ``(N, C)``, mean AP is one call::

        average_precision(scores, torch.nn.functional.one_hot(labels, C), dim=0, average="macro")

    Equal scores form one threshold, as in ``sklearn.metrics.average_precision_score``; only the order of the scores
    matters, so any real score and infinities are welcome.

    Args:
        scores: as ``targets``, ``dim``, ``groups`` and ``offsets`` those of :func:`direct_ap_loss`; with ``groups`` the
            host waits for CUDA to learn how many there are.
        targets: 1 for positives and 0 for negatives.
        dim: the axis or axes along which items are ranked; there is no default for scores of several dimensions.
        groups: which ranking each item is of.
        offsets: where each ranking begins.
        sample_weight: one weight an item, finite and not negative, of the shape of ``scores``: an item of weight 2
            counts as two.
        ignore_index: items with this target take no part; it may be 0 or 1, too.
        average: ``"none"`` or None, AP of every ranking; ``"macro"``, their mean over the rankings that have a
            positive; ``"weighted"``, that mean weighted by what their positives weigh; ``"micro"``, AP of all items of
            all rankings as one; ``"samples"``, for scores of two dimensions, the macro mean along the other axis, of
            the labels of each item.

    Returns:
        float64, 0-dimensional if averaged, else the shape of ``scores`` without ``dim``, ragged (rankings,); NaN where
        a ranking has no positive (of any weight) or a NaN score, and where no ranking has one to average.

    Raises:
        TypeError, ValueError: as :func:`direct_ap_loss`.
        RuntimeError: from ``backward`` through AP of scores that require a gradient: AP has none, and what trains is
            :func:`direct_ap_loss`. ``detach()`` takes the value out, as ``numpy()`` asks for.
    """
    average = "none" if average is None else average
    check_choice("average", average, AVERAGES)
    items = _ranked(scores, targets, dim, groups, offsets, sample_weight)
    targets, ignore_index = without_ignored_class(items.targets, check_class_to_ignore(ignore_index))
    scores, dim, offsets, sample_weight = items.scores.detach(), items.dim, items.offsets, items.sample_weight
    if average == "samples":
        if scores.dim() != 2:
            raise ValueError(f"scores must have two dimensions for average='samples', got shape {tuple(scores.shape)}")
        dim = 1 - dim
    if average == "micro":
        if offsets is not None and can_look(offsets):
            ragged.from_offsets(offsets, scores.shape[0])  # which may be wrong
        groups = offsets = None
        scores, targets = scores.reshape(-1), targets.reshape(-1)
        dim, sample_weight = 0, None if sample_weight is None else sample_weight.reshape(-1)
    counts = average in ("macro", "weighted", "samples")
    call = (scores, targets, groups, offsets, sample_weight, dim, ignore_index, counts)
    precisions, support = operators.called(measures.average_precision, measures.precision, *call)
    result: Tensor = mean_precision(precisions, support, weighted=average == "weighted") if counts else precisions
    return measures.constant(result, items.scores, "average_precision")


def ranking_measure(
    scores: Tensor,
    targets: Tensor,
    *,
    measure: AnyMeasure,
    k: int | None = None,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """A measure of every ranking, exact, by the formulas of :func:`direct_ranking_loss`; no gradient.

    Equal scores count as whoever defines the measure says:

    - ``"ap"``: as one threshold, :func:`average_precision`, scikit-learn's ``average_precision_score``; with ``k`` that
      share of a threshold's items counts that has room;
    - ``"ndcg"``, ``"precision"``, ``"recall"``: the mean over all orders of equal items, scikit-learn's ``ndcg_score``;
    - ``"reciprocal_rank"``: the negatives that score as much as the first positive stand above it, so that of one
      positive it is AP. Others have the middle rank (PyKEEN, PyG) or whatever order a sort leaves;
    - ``"auc"``, ``"partial_auc"``: a pair of equal scores is half right, and the ROC curve a straight line from
      threshold to threshold, scikit-learn's ``roc_auc_score`` and ``roc_curve``;
    - ``"bedroc"``: the mean over all orders of equal items; its authors and RDKit rank items that are all different.

    Args:
        scores: as ``targets``, ``dim``, ``groups`` and ``offsets`` those of :func:`direct_ap_loss`; infinities are
            welcome.
        targets: 1 for positives and 0 for negatives.
        measure: as ``k`` that of :func:`direct_ranking_loss`.
        k: the rank up to which positives count.
        dim: the axis or axes along which items are ranked.
        groups: which ranking each item is of.
        offsets: where each ranking begins.
        ignore_index: items with this target take no part; it may be 0 or 1, too.

    Returns:
        float64, the shape of ``scores`` without ``dim``, ragged (rankings,); NaN where a ranking has no positive or a
        NaN score, and of the areas and BEDROC where it has no negative.

    Raises:
        TypeError, ValueError: as :func:`direct_ap_loss`.
        RuntimeError: from ``backward`` through it, as of :func:`average_precision`.
    """
    checked = check_measure(measure, k)
    items = _ranked(scores, targets, dim, groups, offsets)
    targets, ignore_index = without_ignored_class(items.targets, check_class_to_ignore(ignore_index))
    call = (
        items.scores.detach(),
        targets,
        groups,
        items.offsets,
        items.dim,
        ignore_index,
        *checked[:2],
        checked.k or 0,
    )
    result: Tensor = operators.called(measures.measured, measures.value, *call)
    return measures.constant(result, items.scores, "ranking_measure")


def loss_augmented_ranking(
    scores: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    update: Literal["positive", "negative"] = "positive",
    measure: AnyMeasure = "ap",
    k: int | None = None,
    dim: Dim = None,
    groups: Tensor | None = None,
    offsets: Tensor | None = None,
    ignore_index: int | None = None,
    backend: str = "auto",
    method: Method = "auto",
) -> AugmentedRanking:
    """``y_direct = argmax F + s epsilon L``, ``s`` = +1 for the positive and -1 for the negative update.

    Arguments are those of :func:`direct_ranking_loss`. No gradient.

    Returns:
        ``(ranks, value)``. ``ranks``: int64, shaped like ``scores``, the place of each item in its ranking, 0 for the
        first, -1 for ignored items; equal scores of one class stand in the order of the input. ``value``: float64, the
        shape of ``scores`` without ``dim``, ragged (rankings,), ``max F + s epsilon L`` in units of the scores. A
        ranking without a positive or without a negative is ranked by score and has value NaN; one with a NaN or
        infinite score has value NaN and ranks of no meaning.
    """
    items, measured = _ranked(scores, targets, dim, groups, offsets), check_measure(measure, k)
    if items.scores.shape[items.dim] == 1 and groups is None and items.offsets is None:
        check_lengths(items.scores.numel(), items.scores.numel())
    ranks, value = operators.called(
        measures.loss_augmented_ranking,
        measures.ranking,
        items.scores.detach(),
        items.targets,
        groups,
        items.offsets,
        check_scale("epsilon", epsilon),
        check_choice("update", update, ONE_SIDED),  # the symmetric one has a ranking of each
        check_method(method),
        items.dim,
        check_ignore_index(ignore_index),
        check_backend(backend, items.scores.device, Objective("direct", measure=measured).without_kernels),
        *measured[:2],
        measured.k or 0,
    )
    return AugmentedRanking(items.as_given(ranks), measures.constant(value, items.scores, "loss_augmented_ranking"))


def _ap_loss(
    scores: Tensor,
    targets: Tensor,
    objective: Objective,
    *,
    dim: Dim,
    groups: Tensor | None,
    offsets: Tensor | None,
    weight: Tensor | None,
    ignore_index: int | None,
    reduction: Reduction,
    noise: float,
    samples: int,
    generator: Generator | None,
    backend: str,
    process_group: ProcessGroup | None,
    sharded: Sharded,
) -> Tensor:
    items = _ranked(scores, targets, dim, groups, offsets)
    scores, is_matrix = items.scores, groups is None and items.offsets is None
    if scores.shape[items.dim] == 1 and is_matrix and process_group is None:  # an error of one rank would be of all
        check_lengths(scores.numel(), scores.numel())
    if weight is not None:
        check_weight(weight, scores, items.dim, groups, items.offsets)
    noise = check_noise(noise, loss_dtype(scores))
    call = Arguments(
        scores=scores,
        targets=items.targets,
        groups=groups,
        offsets=items.offsets,
        weight=weight,
        seed=seed_of(noise, check_generator(generator, scores.device), scores.device),
        loss=objective.loss,
        epsilon=objective.epsilon,
        update=objective.update,
        method=objective.method,
        measure=objective.measure.name,
        parameter=objective.measure.parameter,
        k=objective.measure.k or 0,
        noise=noise,
        samples=check_count("samples", samples),
        dim=items.dim,
        ignore_index=check_ignore_index(ignore_index),
        reduction=check_reduction(reduction),
        backend=check_backend(backend, scores.device, objective.without_kernels),
        process_group=None if process_group is None else check_process_group(process_group),
        sharded=check_sharded(sharded),
        needs_gradient=torch.is_grad_enabled() and scores.requires_grad,
    )
    return operators.loss_of(call)


class _Ranked(NamedTuple):
    """What is ranked, checked, along one axis."""

    scores: Tensor
    targets: Tensor
    dim: int  # from the front
    offsets: Tensor | None
    sample_weight: Tensor | None
    given: Tensor  # the scores before several axes were made one, or their nested tensor
    axes: tuple[int, ...]

    def as_given(self, values: Tensor) -> Tensor:
        """One value an item, with the ranked axis last, in the shape of the scores as they were given."""
        if self.given.is_nested:
            nested: Tensor = torch.nested.nested_tensor_from_jagged(values, self.offsets)
            return nested.clone()  # no view
        shape = [self.given.shape[axis] for axis in self.axes]
        last = tuple(range(-len(shape), 0))
        if tuple(axis - self.given.dim() for axis in self.axes) == last == (-1,):
            return values
        placed: Tensor = values.unflatten(-1, shape).movedim(last, self.axes)
        return placed.clone()  # no view


def _ranked(
    scores: Tensor,
    targets: Tensor,
    dim: Dim,
    groups: Tensor | None,
    offsets: Tensor | None,
    sample_weight: Tensor | None = None,
) -> _Ranked:
    """Nested tensors as their items and offsets, several axes as one, last."""
    given = scores
    if isinstance(sample_weight, Tensor) and sample_weight.is_nested:
        sample_weight, _, _ = _items_of(sample_weight, scores, dim, groups, offsets, ("sample_weight", "scores"))
    if isinstance(scores, Tensor) and scores.is_nested:
        scores, targets, offsets = _items_of(scores, targets, dim, groups, offsets, ("scores", "targets"))
        dim = 0
    if dim is None and not groups is offsets is None:
        dim = -1
    axes = check_tensors(scores, targets, dim)
    check_ragged(scores, groups, offsets)
    if sample_weight is not None:
        check_sample_weight(sample_weight, scores)
    if len(axes) == 1:
        return _Ranked(scores, targets, axes[0], offsets, sample_weight, given, axes)
    last = tuple(range(-len(axes), 0))

    def joined(values: Tensor) -> Tensor:
        return values.movedim(axes, last).flatten(-len(axes))

    scores, targets = joined(scores), joined(targets)
    sample_weight = None if sample_weight is None else joined(sample_weight)
    return _Ranked(scores, targets, scores.dim() - 1, offsets, sample_weight, given, axes)


def _items_of(
    scores: Tensor,
    targets: Tensor,
    dim: Dim,
    groups: Tensor | None,
    offsets: Tensor | None,
    names: tuple[str, str],
) -> tuple[Tensor, Tensor, Tensor]:
    """The items of two nested tensors, and their offsets."""
    check_nested(scores, targets, dim, groups, offsets, names)
    (scores, offsets), (targets, others) = ragged.items_of(scores), ragged.items_of(targets)
    if others is not offsets:
        same = (offsets == others).all()
        if can_look(offsets):
            if not bool(same):
                lengths = offsets.diff().tolist(), others.diff().tolist()
                raise ValueError(
                    f"{names[1]} must have rows of the lengths of {names[0]}, {lengths[0]}, got {lengths[1]}"
                )
        else:
            offsets = torch.where(same, offsets, -1)  # which are wrong, and make NaN
    return scores, targets, offsets

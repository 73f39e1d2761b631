"""The retrieval loss as ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributed import ProcessGroup

from fastap.arguments import (
    check_class_to_ignore,
    check_count,
    check_method,
    check_process_group,
    check_reduction,
    check_scale,
    check_update,
)
from fastap.backends import check_backend
from fastap.modules import _NOISE, _Loss
from fastap.retrieval.loss import Similarity, _check_similarity, retrieval_ap_loss
from fastap.types import Method, Reduction, Update


class RetrievalAPLoss(_Loss):
    """:func:`fastap.retrieval_ap_loss` as a module: ``loss(embeddings, labels, ref_embeddings=None, ref_labels=None)``.

    It is called as pytorch-metric-learning calls its losses, too: ``loss(embeddings, labels, indices_tuple, ref_emb,
    ref_labels)``. A third argument that is a tensor is ``ref_embeddings``, a tuple is ``indices_tuple``, and by name
    both forms mix. So that package's trainers, miners and ``MultipleLosses`` take it as it is; for its wrappers, which
    take their own losses only, :mod:`fastap.metric_learning` has it as one of these.

    Its defaults are what trains best untuned, on cosines: the symmetric update with noise. The function's are the
    paper's positive update without noise. After ``.eval()`` there is no noise.

    A query whose relevant items all stand far below its irrelevant ones has no gradient. Hard miners leave such
    queries: ``BatchHardMiner`` all, ``PairMarginMiner`` and ``HDCMiner`` many, so that little or nothing trains with
    them. Take no miner, or one that keeps easy pairs too (``MultiSimilarityMiner``, ``TripletMarginMiner``,
    ``AngularMiner``).

    A ``similarity`` that is a module is a part of this one: its parameters get gradients.
    """

    _options = (
        "similarity",
        "epsilon",
        "update",
        "method",
        "ignore_index",
        "distractor_label",
        "reduction",
        *_NOISE,
        "backend",
        "max_pairs",
        "process_group",
    )

    def __init__(
        self,
        similarity: Similarity = "cosine",
        *,
        epsilon: float = 0.1,
        update: Update = "symmetric",
        method: Method = "auto",
        ignore_index: int | None = None,
        distractor_label: int | None = None,
        reduction: Reduction = "mean",
        noise: float = 0.3,
        samples: int = 2,
        generator: Generator | None = None,
        backend: str = "auto",
        max_pairs: int = 2**24,
        process_group: ProcessGroup | None = None,
    ) -> None:
        nn.Module.__init__(self)  # by name: in fastap.metric_learning another base comes next
        _check_similarity(similarity)
        self._hold_noise(noise, samples, generator)
        check_update(update)
        check_method(method)
        check_reduction(reduction)
        check_backend(backend)
        if process_group is not None:
            check_process_group(process_group)
        self.similarity = similarity
        self.epsilon = check_scale("epsilon", epsilon)
        self.update: Update = update
        self.method: Method = method
        self.ignore_index = check_class_to_ignore(ignore_index)
        self.distractor_label = check_class_to_ignore(distractor_label, "distractor_label")
        self.reduction: Reduction = reduction
        self.backend = backend
        self.max_pairs = check_count("max_pairs", max_pairs)
        self.process_group = process_group

    def _shown(self) -> dict[str, Any]:
        """A module is printed below, as a part."""
        return {name: option for name, option in super()._shown().items() if not isinstance(option, nn.Module)}

    @torch.jit.unused
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
        cameras: Tensor | None = None,
        ref_cameras: Tensor | None = None,
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
        given |= {"weight": weight, "cameras": cameras, "ref_cameras": ref_cameras}
        return retrieval_ap_loss(embeddings, labels, **given, **self._now())

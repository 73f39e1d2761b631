"""The figure of the docstring of ``retrieval_ap_loss``, taken again on a smaller problem."""

from __future__ import annotations

import sys

import pytest
import torch

import fastap
from bench import isolated


def peak_bytes(queries: int) -> int | None:
    """Of loss and gradient, cosines of 128 numbers, beyond embeddings and their gradient."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(queries, 128, generator=generator, requires_grad=True)
    embeddings.grad = torch.zeros_like(embeddings)
    labels = torch.randint(0, max(1, queries // 20), (queries,), generator=generator)
    fastap.retrieval_ap_loss(embeddings[:200], labels[:200]).backward()  # loads code
    return isolated.peak_bytes(lambda: fastap.retrieval_ap_loss(embeddings, labels).backward())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of a process")
def test_one_chunk_takes_what_is_told() -> None:
    """12.4 bytes and what glibc keeps; a copy of all similarities more would be 4 bytes."""
    outcome = isolated.run(peak_bytes, 2_000, seconds=120.0)
    assert outcome.status == "ok"
    assert outcome.value is not None
    assert 9 < outcome.value / 2_000**2 < 18

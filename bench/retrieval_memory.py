"""Peak memory of ``fastap.retrieval_ap_loss`` on the CPU, forward and backward, cosines of 128 numbers.

``python -m bench.retrieval_memory 4000 12000`` prints bytes a similarity held at a time, beyond embeddings and their
gradient. glibc keeps what is free unless ``MALLOC_MMAP_THRESHOLD_=65536`` stands before the command.
"""

from __future__ import annotations

import argparse

import torch

import fastap
from bench import isolated

MAX_PAIRS = 2**24  # the default of the loss


def peak_bytes(queries: int) -> int | None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(queries, 128, generator=generator, requires_grad=True)
    embeddings.grad = torch.zeros_like(embeddings)
    labels = torch.randint(0, max(1, queries // 20), (queries,), generator=generator)
    few = embeddings[:200]
    fastap.retrieval_ap_loss(few, labels[:200]).backward()  # loads code
    return isolated.peak_bytes(lambda: fastap.retrieval_ap_loss(embeddings, labels).backward())


def held(queries: int) -> int:
    """Similarities at a time."""
    return min(queries, max(1, MAX_PAIRS // queries)) * queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", type=int, nargs="+")
    for queries in parser.parse_args().queries:
        outcome = isolated.run(peak_bytes, queries, seconds=120.0)
        told = f"{outcome.value / held(queries):.1f} bytes" if outcome.value is not None else outcome.status
        print(f"{queries:,} x {queries:,}: {told} a similarity held at a time")


if __name__ == "__main__":
    main()

"""The figures of the docstring of ``retrieval_ap_loss``, of which one is taken again."""

from __future__ import annotations

import sys

import pytest

from bench import isolated, retrieval_memory


def test_similarities_at_a_time() -> None:
    assert retrieval_memory.held(4_000) == 4_000**2
    assert retrieval_memory.held(12_000) == 2**24 // 12_000 * 12_000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of a process")
def test_one_chunk_takes_what_is_told() -> None:
    """12.4 bytes and what glibc keeps; a copy of all similarities more would be 4 bytes."""
    outcome = isolated.run(retrieval_memory.peak_bytes, 2_000, seconds=120.0)
    assert outcome.status == "ok"
    assert outcome.value is not None
    assert 9 < outcome.value / 2_000**2 < 18

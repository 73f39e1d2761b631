"""Figures of the quick starts: their pages state what their own programs printed."""

from __future__ import annotations

import re

import pytest

from examples import quick_starts as quick


@pytest.mark.parametrize("page", quick.RUNS)
class TestCommitted:
    """After a page's program has changed: ``python -m examples.quick_starts``."""

    def test_the_page_is_what_the_results_give(self, page: str) -> None:
        text = quick.path_of(page).read_text(encoding="utf-8")
        assert quick.fill(text, quick.load()[page]) == text
        assert re.findall(r"<!-- (\w+) -->", text) == ["seeds", "multiples"][: len(quick.RUNS[page])]

    def test_the_results_are_of_the_page(self, page: str) -> None:
        code = quick.program(quick.path_of(page).read_text(encoding="utf-8"))
        results = quick.load()[page]
        assert results["program"] == quick.digest(code)
        runs = list(results["printed"])
        assert runs[0] == ", ".join(re.findall(r"^(?:seed|multiple) = \d+", code, re.M))
        assert len(runs) == 5 * (4 if "multiple" in runs[0] else 1)

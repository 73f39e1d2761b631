"""Figures of the quick starts: what their pages' own programs print, read, averaged and put back."""

from __future__ import annotations

import re

import pytest

from examples import quick_starts as quick

PRINTED = "pixels  mAP 0.648\na / 0.3 mAP 0.900\ndirect AP   mAP 0.940\n"
AGAIN = "pixels  mAP 0.652\na / 0.3 mAP 0.970\ndirect AP   mAP 0.960\n"
ABOUT = {
    "device": "CPU",
    "type": "cpu",
    "threads": 1,
    "versions": {"torch": "2"},
    "commit": "abc",
    "date": "2025-01-02",
}


def stored(printed: dict[str, str]) -> quick.Stored:
    return {"about": ABOUT, "program": "", "printed": printed}


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


def test_a_line_takes_the_place_of_one() -> None:
    code = "seed = 0  # of data\nuse(seed)\n"
    assert quick.with_lines(code, ["seed = 3"]) == "seed = 3\nuse(seed)\n"
    with pytest.raises(ValueError, match="one line of the program should set multiple, 0 do"):
        quick.with_lines(code, ["seed = 3", "multiple = 1"])
    with pytest.raises(ValueError, match="set seed, 2 do"):
        quick.with_lines(code + code, ["seed = 3"])


def test_a_page_is_filled() -> None:
    page = "It prints:\n```text\nold\n```\n<!-- seeds -->\nold\n<!-- / -->\nafter\n"
    text = quick.fill(page, stored({"seed = 0": PRINTED, "seed = 1": AGAIN}))
    assert f"```text\n{PRINTED}```" in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert rows == [
        ["mean of 2 seeds", "mAP", "direct AP less it, hundredths of mAP (least to most)"],
        ["pixels", "0.650", "+30.0 (+29.2 to +30.8)"],
        ["a / 0.3", "0.935", "+1.5 (-1.0 to +4.0)"],
        ["direct AP", "0.950", ""],
    ]
    assert "of `python -m examples.quick_starts`: CPU, 1 thread, torch 2, commit abc, 2025-01-02." in text
    assert text.endswith("<!-- / -->\nafter\n")
    assert quick.fill(text, stored({"seed = 0": PRINTED, "seed = 1": AGAIN})) == text
    with pytest.raises(ValueError, match="it does so 0 times"):
        quick.fill("nothing", stored({"seed = 0": PRINTED}))

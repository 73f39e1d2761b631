"""The page, its pictures and the guide's table are what the command makes of the committed CSV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import figures, page, store
from bench.environment import RESULTS
from bench.store import Result

STORED = store.newest(RESULTS)
ABOUT = {"device": "AMD EPYC", "type": "cpu", "cpu": "AMD EPYC", "threads": 2, "versions": {"torch": "2.13.0"}}


def test_the_committed_page_and_guide_are_what_the_files_give() -> None:
    """Otherwise run ``python -m bench.page``."""
    made = page.write(STORED, RESULTS, page.DOCS)
    assert (page.DOCS / page.PAGE).read_text(encoding="utf-8") == str(made)
    shown = {(page.DOCS / file).name for file in made.pictures}
    assert {path.name for path in (page.DOCS / "images").glob("bench-*.png")} == shown
    text = page.GUIDE.read_text(encoding="utf-8")
    assert page.put_into(text, page.in_guide(STORED)) == text


@pytest.mark.parametrize("exponent", [1.1, 2.0])
def test_an_exponent_is_found_again(exponent: float) -> None:
    """Small sizes, where starting a call costs more than its work, and too large ones do not count."""
    points = [(float(n), 3e-9 * n**exponent) for n in (1e5, 1e6, 1e7)]
    found = figures.fit([(1e2, 1.0), *points, (1e9, 1e-3)])
    assert found is not None
    np.testing.assert_allclose([found.exponent, found.factor], [exponent, 3e-9], rtol=1e-9)
    assert found[2:5] == (1e5, 1e7, 3)
    np.testing.assert_allclose(found.error, 0, atol=1e-7)
    assert figures.fit([(1e5, 1.0), (1e6, 2.0), (1e3, 0.1)]) is None


def peer(name: str, positive: float | None, negative: float = 4.0) -> dict[str, Any]:
    row: dict[str, Any] = {"peer": name, "gives": "gradient", "source": "paper", "P": 10, "N": 100}
    if positive is None:
        return {**row, "status": "out of time", "reason": "more than\n20 s"}
    times = {"fastap positive": positive, "fastap negative": negative}
    seconds = {"median": 1e-3, "calls": 2}
    return {**row, "status": "ok", "seconds": seconds, "ratio": {"median": 9.0}, "times": times}


def test_peers_are_named() -> None:
    rows = [peer("near", 2.0), peer("far", 40.0, 50.0), peer("silent", None)]
    assert figures.fastest_peer(rows, (10, 100)) == ("near", 2.0)
    made = page.Page(Path())
    page.add_peers(made, Result("peers", Path(), ABOUT, {"cap": {"seconds": 20.0, "bytes": 2**33}}, rows))
    assert re.search(r"\| near +\| paper +\| +2.00 \(2 calls\) \|", str(made))
    assert re.search(r"\| silent +\| paper +\| +out of time \|", str(made))


@pytest.mark.full
def test_axes_have_labels_and_nothing_is_cut_off() -> None:
    """All text lies inside the figure, and words in axes apart from one another."""
    for name, draw in page.write(STORED, RESULTS, page.DOCS).pictures.items():
        figure = draw()
        figure.draw_without_rendering()
        inches, tight = figure.get_size_inches(), figure.get_tightbbox()
        assert min(tight.x0, tight.y0) >= -0.01, name
        assert tight.x1 <= inches[0] + 0.01, name
        assert tight.y1 <= inches[1] + 0.01, name
        assert all(axes.get_xlabel() for axes in figure.axes) or figure.get_supxlabel(), name
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            for number, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[number + 1 :]), name

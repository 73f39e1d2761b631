"""Figures of the quick starts and of the guide to calibration: the program of each page, run from several seeds.

    python -m examples.quick_starts        # run what is not stored or has changed since, and fill the pages

The program of a page is its Python, block after block, as a reader pastes it; only the line ``seed = 0`` (and, for
calibration, ``multiple = 10``) is another in each run. What the runs print is kept in ``examples/results/``, with a
digest of the program, so that a page whose program is another by now is found out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from bench import environment
from bench.environment import ROOT
from bench.markdown import machine, table
from examples import harness

DOCS = ROOT / "docs"
RESULTS = ROOT / "examples" / "results" / "quick-starts.json"
SEEDS = tuple(f"seed = {seed}" for seed in range(5))
MULTIPLES = tuple(f"multiple = {multiple}" for multiple in (10, 1, 3, 30))
# Page -> the lines that its runs have in place of the page's own, and these first.
RUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "quickstart/frozen": (SEEDS,),
    "quickstart/multilabel": (SEEDS,),
    "quickstart/detection": (SEEDS,),
    "quickstart/retrieval": (SEEDS,),
    "quickstart/imbalanced": (SEEDS,),
    "guide/calibration": (SEEDS, MULTIPLES),
}
OURS = "direct AP"
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PRINTED = re.compile(r"^```text\n.*?^```", re.M | re.S)
MEASURE = re.compile(r"(m?AP|log loss|Brier) +([\d.]+)")

Stored = dict[str, Any]  # "about", "program", and "printed": lines that were set -> output
Measures = dict[str, dict[str, str]]  # name -> measure -> its figure, as printed


def path_of(page: str) -> Path:
    return DOCS / f"{page}.md"


def program(text: str) -> str:
    return "\n".join(PYTHON.findall(text))


def digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def with_lines(code: str, lines: Sequence[str]) -> str:
    """``seed = 3`` takes the place of the one line that sets ``seed``, and its comment."""
    for line in lines:
        name = line.partition(" =")[0]
        code, found = re.subn(rf"^{name} = .*$", line, code, flags=re.M)
        if found != 1:
            raise ValueError(f"one line of the program should set {name}, {found} do")
    return code


def output(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), harness.one_thread(), torch.random.fork_rng():
        exec(compile(code, "program", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def measures(printed: str) -> Measures:
    """The figures of every line ``name  AP 0.123``."""
    found = {}
    for line in printed.splitlines():
        first = MEASURE.search(line)
        if first is not None:
            found[line[: first.start()].strip()] = dict(MEASURE.findall(line[first.start() :]))
    return found


def mean(figures: Sequence[str]) -> str:
    """With as many digits as they have."""
    return f"{fmean(map(float, figures)):.{len(figures[0].partition('.')[2])}f}"


def lead(ours: Sequence[str], its: Sequence[str]) -> str:
    """Seed by seed, in hundredths: the mean, the least and the most."""
    found = [100 * (float(a) - float(b)) for a, b in zip(ours, its, strict=True)]
    return f"{fmean(found):+.1f} ({min(found):+.1f} to {max(found):+.1f})"


def of_seeds(stored: Stored) -> str:
    """Means over the seeds, and the lead of ours by the first measure, AP."""
    _, *others = next(iter(stored["printed"])).split(", ")  # than the seed, as the page has them
    runs = [measures(text) for lines, text in stored["printed"].items() if lines.split(", ")[1:] == others]
    (ap, *_) = names = list(runs[0][OURS])
    rows = []
    for name in runs[0]:
        cells = [mean([run[name][each] for run in runs]) for each in names]
        ahead = "" if name == OURS else lead([run[OURS][ap] for run in runs], [run[name][ap] for run in runs])
        rows.append([name, *cells, ahead])
    where = machine(stored["about"])
    return (
        table(rows, [f"mean of {len(runs)} seeds", *names, f"{OURS} less it, hundredths of {ap} (least to most)"])
        + f"\n\nThis table and the output above are of `python -m examples.quick_starts`: {where}."
    )


def of_multiples(stored: Stored) -> str:
    """Of the last line, the sum of both losses: means over the seeds, a row a multiple."""
    rows = []
    for line in sorted(MULTIPLES, key=lambda line: int(line.rpartition(" ")[2])):
        runs = [
            [*measures(text).values()][-1] for lines, text in stored["printed"].items() if lines.endswith(f" {line}")
        ]
        rows.append([line.partition("= ")[2], *(mean([run[each] for run in runs]) for each in runs[0])])
    return table(rows, ["multiple", *runs[0]], left=0)


PARTS = {"seeds": of_seeds, "multiples": of_multiples}


def fill(text: str, stored: Stored) -> str:
    """The page with what its own program printed, and with tables between ``<!-- seeds -->`` and ``<!-- / -->``."""
    own = next(iter(stored["printed"].values()))
    text, found = PRINTED.subn(lambda _: f"```text\n{own}```", text)
    if found != 1:
        raise ValueError(f"a page should show once what its program prints, it does so {found} times")
    return re.sub(
        r"<!-- (seeds|multiples) -->\n.*?<!-- / -->",
        lambda mark: f"<!-- {mark[1]} -->\n{PARTS[mark[1]](stored)}\n<!-- / -->",
        text,
        flags=re.S,
    )


def run(page: str, code: str, about: dict[str, Any], progress: tqdm[Any]) -> Stored:
    printed = {}
    for lines in product(*RUNS[page]):
        printed[", ".join(lines)] = output(with_lines(code, lines))
        progress.update()
    return {"about": about, "program": digest(code), "printed": printed}


def load() -> dict[str, Stored]:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def main() -> None:
    stored = load()
    with harness.one_thread():
        about = environment.about()  # before the results make the checkout another
    codes = {page: program(path_of(page).read_text(encoding="utf-8")) for page in RUNS}
    stale = [page for page, code in codes.items() if page not in stored or stored[page]["program"] != digest(code)]
    with tqdm(total=sum(len(list(product(*RUNS[page]))) for page in stale), unit=" runs") as progress:
        for page in stale:
            stored[page] = run(page, codes[page], about, progress)
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for page in RUNS:
        path = path_of(page)
        path.write_text(fill(path.read_text(encoding="utf-8"), stored[page]), encoding="utf-8")


if __name__ == "__main__":
    main()

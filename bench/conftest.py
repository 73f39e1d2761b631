"""Options and fixtures of the suites: ``pytest bench``, with pytest-benchmark's own options."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import pairs, store, truth
from bench.cases import Case, Prepare, peak_bytes
from bench.environment import about
from bench.inputs import Shape, shrink

# The largest --quick problem, in scores of a ranking.
QUICK = 2_000
# Resident memory is known to a megabyte or so: of fewer scores it says nothing.
WEIGHED = 100_000

ROWS = pytest.StashKey[list[store.Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "fastap suites",
        "fastap suites (of --benchmark-max-time a quarter goes into the rounds of a benchmark, the rest is for its"
        " sorts, inputs and checks)",
    )
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where scores lie (default: cpu)")
    group.addoption("--quick", action="store_true", help=f"up to {QUICK:,} scores a ranking and few rounds")
    group.addoption("--bench-threads", type=int, metavar="N", help="CPU threads (default: PyTorch's own choice)")
    group.addoption("--out", type=Path, metavar="DIR", help="write medians and quantiles there, as bench.page wants")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("the suites need pytest-benchmark: pip install 'fastap[bench]'")
    if config.getoption("device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: PyTorch finds no CUDA device here")
    # pytest-benchmark warns that there is nothing to save or to compare with, which as an error would be a traceback.
    config.addinivalue_line("filterwarnings", "default::pytest.PytestWarning")
    warnings.filterwarnings("default", category=pytest.PytestWarning)  # until that line is read
    if number := config.getoption("bench_threads"):
        torch.set_num_threads(number)
    config.stash[ROWS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Growth has one case a size: those that are not quick are left out, where other suites take smaller problems."""
    if config.getoption("quick"):
        large = [item for item in items if hasattr(item, "callspec") and item.callspec.params.get("scores", 0) > 20_000]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder, rows = session.config.getoption("out"), session.config.stash[ROWS]
    if folder is not None and rows:
        store.write(folder, "suites", about(session.config.getoption("device")), rows)


@dataclass
class Suite:
    """What a suite asks of the command line, and the one way to time a case."""

    benchmark: Any
    device: str
    quick: bool
    seconds: float
    least: int
    rows: list[store.Row]

    def case(self, shape: Shape, **options: Any) -> Case:
        """A case of this run; ``--quick`` shrinks it."""
        shape = shrink(shape, QUICK) if self.quick else shape
        return Case(shape, device=self.device, **{"threads": torch.get_num_threads(), **options})

    def __call__(
        self,
        suite: str,
        case: Case,
        *,
        prepare: Prepare | None = None,
        check: Callable[[Case], str] = truth.assert_right,
        memory: bool = False,
        **more: Any,
    ) -> None:
        """Assert that the case is right, then time it in turns with ``torch.sort``."""
        self.benchmark.group = f"{suite}: {case.shape}"
        torch.set_num_threads(case.threads)
        checked = check(case)
        if memory and self.benchmark.enabled and case.shape.scores >= WEIGHED:
            more["peak_bytes"] = peak_bytes(case)
        found = pairs.measure(self.benchmark, pairs.Pairs(case, prepare or case.prepare), self.seconds, self.least)
        if found is not None:
            self.rows.append({"suite": suite, **case.describe(), **found, **more, "checked": checked})
            self.benchmark.extra_info.update(ratio_to_sort=found["ratio"]["median"], checked=checked)


@pytest.fixture
def timed(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Suite]:
    """Times a case; a quarter of pytest-benchmark's ``--benchmark-max-time`` goes into the rounds."""
    config, threads = request.config, torch.get_num_threads()
    quick = config.getoption("quick")
    yield Suite(
        benchmark,
        config.getoption("device"),
        quick,
        0.01 if quick else float(config.getoption("benchmark_max_time")) / 4,
        3 if quick else int(config.getoption("benchmark_min_rounds")),
        config.stash[ROWS],
    )
    torch.set_num_threads(threads)

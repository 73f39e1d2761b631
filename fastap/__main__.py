"""``python -m fastap`` says what is here; with ``--check``, whether it computes what it should.

The engine in C is compared with the reference, and Triton's kernels with the engine, on the battery with which new
kernels prove themselves. Each loss, update, method, type of scores and kind of launch is there, but not each with every
other, for kernels take seconds to compile: so many processes as there are cores take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import TimeoutError as TooLateError
from multiprocessing import get_context
from typing import Any, NamedTuple, cast

import torch

from fastap import backends
from fastap.backends import about, native, reference
from fastap.backends.battery import EPSILON, battery, difference
from fastap.types import METHODS, Batch, Losses, Objective

_SECONDS = 55.0  # of all: with the start of the program, a minute
_HEADS = ("what", "rankings", "result", "seconds")
_POSITIVE, _NEGATIVE = Objective("direct"), Objective("direct", update="negative")
_SYMMETRIC, _HINGE, _PERCEPTRON = Objective("direct", update="symmetric"), Objective("hinge"), Objective("perceptron")
_HALF, _BRAIN, _SINGLE, _DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


class Result(NamedTuple):
    """Of one line of the table."""

    rankings: int
    wrong: str | None  # in words; None if nothing is
    seconds: float = 0.0


# What is compared, and how.
Line = tuple[str, Callable[[], Result]]


def main() -> int:
    """The program; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m fastap", description="Say what is here.")
    parser.add_argument(
        "--check", action="store_true", help="compare engine and kernels with what is right; a minute at most"
    )
    options = parser.parse_args()
    backends.show_config()
    print(f"threads: {torch.get_num_threads()}")
    print(f"GPUs: {_gpus()}")
    print(f"FASTAP_SELF_CHECK: {os.environ.get('FASTAP_SELF_CHECK', 'not set, as if 1')}")
    return check() if options.check else 0


def _gpus() -> str:
    if torch.cuda.is_available():
        return ", ".join(about.gpu(torch.device("cuda", number)) for number in range(torch.cuda.device_count()))
    is_built = torch.version.cuda or torch.version.hip
    return "none that PyTorch sees" if is_built else "none: this PyTorch is built for the CPU alone"


def check() -> int:
    """Print the table; 1 if anything is wrong."""
    end = time.monotonic() + _SECONDS
    results: list[Result | None] = []
    print()
    _print(*_HEADS)
    if native.IS_BUILT:
        for number, (what, _) in enumerate(of_the_engine()):
            results.append(_timed(of_the_engine, number))
            _print_line(what, results[-1])
    has_kernels = backends.HAS_TRITON and torch.cuda.is_available()
    if has_kernels:
        names = [what for what, _ in of_kernels(torch.device("cuda"))]
        for number, result in side_by_side(_kernel, len(names), end - time.monotonic()):
            results.append(result)
            _print_line(names[number], result)
    print()
    if not native.IS_BUILT:
        print("the engine in C is not there")
    if not has_kernels:
        print("no kernel was compared: there is no GPU for Triton here")
    if None in results:
        print("a minute is over; compiled kernels are kept, so that another call gets further")
    failed = sum(result is not None and result.wrong is not None for result in results)
    print(f"{failed} WRONG: please send this to {about.where_to_report()}" if failed else "nothing is wrong")
    return int(failed > 0)


def _print_line(what: str, result: Result | None) -> None:
    if result is None:
        _print(what, "", "not done", "")
        return
    _print(what, str(result.rankings), "right" if result.wrong is None else "WRONG", f"{result.seconds:.2f}")
    if result.wrong is not None:
        print(f"    {result.wrong}")


def _print(what: str, rankings: str, result: str, seconds: str) -> None:
    print(f"{what:<66} {rankings:>8} {result:>8} {seconds:>8}", flush=True)


def side_by_side(work: Callable[[int], Result], count: int, seconds: float) -> Iterator[tuple[int, Result | None]]:
    """Number and result of that many pieces of work as they come, in processes; None of what is not done in time."""
    end, left = time.monotonic() + seconds, set(range(count))
    with get_context("spawn").Pool(min(count, os.cpu_count() or 1)) as pool:  # leaving it ends what is under way
        coming = pool.imap_unordered(partial(_numbered, work), range(count))
        while left:
            try:
                number, result = coming.next(timeout=max(0.0, end - time.monotonic()))
            except TooLateError:
                break
            left.discard(number)
            yield number, result
    for number in sorted(left):
        yield number, None


def _numbered(work: Callable[[int], Result], number: int) -> tuple[int, Result]:
    return number, work(number)


def _kernel(number: int) -> Result:
    torch.set_num_threads(1)
    return _timed(partial(of_kernels, torch.device("cuda")), number)


def _timed(lines: Callable[[], Iterator[Line]], number: int) -> Result:
    """What comes of that line of the table; an error is wrong, too."""
    begun = time.monotonic()
    try:
        result = list(lines())[number][1]()
    except Exception as error:  # of a compiler, or of a GPU
        result = Result(0, f"{type(error).__name__}: {error}")
    return result._replace(seconds=time.monotonic() - begun)


def of_the_engine() -> Iterator[Line]:
    """The engine in C against the reference, which shares no code with it, on all types of scores."""
    each = battery((0, 1, 33, 150), has_ignore=True)

    def compare(name: str, *options: Any) -> Result:
        rankings, wrong = 0, None
        for dtype in (_HALF, _BRAIN, _SINGLE, _DOUBLE):
            batch = each.batch(dtype)
            rankings += batch.rankings
            given, right = (getattr(engine, name)(batch, *options) for engine in (native, reference))
            wrong = wrong or difference(given, right, each.offsets)
        return Result(rankings, wrong)

    for one in (_POSITIVE, _NEGATIVE, _SYMMETRIC, _HINGE, _PERCEPTRON):
        for method in ("auto",) if one is _PERCEPTRON else METHODS:
            objective = one._replace(method=cast(Any, method), epsilon=EPSILON)
            yield f"C: {_words(objective)}", partial(compare, "losses", objective, _DOUBLE)
            if one in (_POSITIVE, _NEGATIVE):
                yield f"C: ranking, {_words(objective)}", partial(compare, "ranking", objective)
    yield "C: average precision", partial(compare, "average_precision", None)
    yield "C: average precision, weighted", partial(compare, "average_precision", each.weight)


def of_kernels(device: torch.device) -> Iterator[Line]:
    """Triton's kernels against the engine of the CPU; those that take long to compile come last."""
    from fastap.backends import triton

    def batch(items: int, dtype: torch.dtype = _SINGLE, *, ragged: bool = False, ignored: bool = False) -> Batch:
        """Three rankings of so many items, as far as kernels are compiled for them."""
        scores = torch.zeros(3, items, dtype=dtype, device=device)
        targets = torch.zeros(3, items, dtype=torch.int64 if ignored else torch.bool, device=device)
        if ragged:
            offsets = torch.arange(0, 3 * items + 1, items, device=device)
            return Batch(scores.flatten(), targets.flatten(), -1 if ignored else None, offsets)
        return Batch(scores, targets, -1 if ignored else None)

    def line(name: str, given: Batch, *options: Any) -> Line:
        objective = options[0] if isinstance(options[0], Objective) else None
        layout = "ragged" if given.offsets is not None else f"of {given.items} items"
        ignored = "" if given.ignore_index is None else ", ignore_index"
        words = _words(objective) if objective else "average precision" + ", weighted" * (options[0] is not None)
        words = f"ranking, {words}" if name == "ranking" else words
        more = (_DOUBLE, True) if name == "losses" else ()
        dtype = str(given.scores.dtype).removeprefix("torch.")

        def compare() -> Result:
            return Result(*triton.verdict(name, given, *options, *more))

        return f"Triton: {words}, {layout}, {dtype}{ignored}", compare

    def dp(objective: Objective) -> Objective:
        return objective._replace(method="dp")

    def reduction() -> Result:
        loss, gradient = torch.zeros(3, dtype=_DOUBLE, device=device), torch.zeros(9, device=device)
        losses = Losses(loss, gradient, loss > 0)
        return Result(*triton.verdict_of_reduction(losses, _SINGLE, mean=True))

    weight = torch.zeros(300, dtype=_DOUBLE, device=device)
    yield "Triton: mean of losses", reduction
    yield line("average_precision", batch(100), None)
    yield line("average_precision", batch(100), weight)
    yield line("average_precision", batch(100, ragged=True), weight)
    yield line("losses", batch(100), _PERCEPTRON)
    yield line("losses", batch(100, ragged=True), _PERCEPTRON)
    yield line("losses", batch(100, _DOUBLE), dp(_POSITIVE))
    yield line("losses", batch(5000), dp(_NEGATIVE))
    yield line("losses", batch(100, _HALF), dp(_HINGE))
    yield line("ranking", batch(100, _DOUBLE), _POSITIVE)
    yield line("ranking", batch(5001, _BRAIN, ignored=True), _NEGATIVE)
    yield line("losses", batch(5000, _HALF), _POSITIVE)
    yield line("losses", batch(100, _DOUBLE, ignored=True), _SYMMETRIC)
    yield line("losses", batch(500, _HALF, ignored=True), _HINGE)
    yield line("losses", batch(100, ragged=True), _POSITIVE)
    yield line("losses", batch(100), _POSITIVE)
    yield line("losses", batch(4000), _POSITIVE)
    yield line("losses", batch(300, _DOUBLE, ragged=True, ignored=True), _SYMMETRIC)
    yield line("losses", batch(300, _BRAIN, ragged=True), _NEGATIVE)
    yield line("losses", batch(100), _NEGATIVE)
    yield line("losses", batch(500, _BRAIN), _NEGATIVE)
    yield line("losses", batch(100, ignored=True), _SYMMETRIC)
    yield line("losses", batch(1000), _NEGATIVE)
    yield line("losses", batch(4000), _NEGATIVE)


def _words(objective: Objective) -> str:
    update = f" {objective.update}" if objective.loss == "direct" else ""
    return objective.loss + update + " by the dynamic program" * (objective.method == "dp")


if __name__ == "__main__":
    sys.exit(main())

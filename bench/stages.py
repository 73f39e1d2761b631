"""The stages of a loss, each to be had alone: what comes before it is done untimed and handed to it.

A stage is the code of the library itself. Of the torch backend, where one function holds several stages, the others are
answered from what was computed before, by patches that are taken back after the round. The native backend says itself
what each stage of a call took; pytest-benchmark reads that off :func:`reported`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bench.cases import Case, Job
from fastap.backends import native
from fastap.backends.masked import to_problem
from fastap.backends.torch import augment, layout, outcome, rowsearch
from fastap.backends.torch.terms import Terms
from fastap.types import Batch, Objective, Problem


class Input(NamedTuple):
    """A problem, what is to be solved, and how long the patches live."""

    problem: Problem
    objective: Objective
    stack: ExitStack

    def answer(self, module: Any, name: str, value: Any) -> None:
        """Have the function return this value; a mock's own call would take 20 us of the stage."""

        def answer(*_: Any) -> Any:
            return value

        self.stack.enter_context(mock.patch.object(module, name, answer))

    def answer_once(self, module: Any, name: str, value: Any) -> None:
        """Have the function return this value when it is first called, and compute after that."""
        answers, real = [value], getattr(module, name)
        self.stack.enter_context(
            mock.patch.object(module, name, lambda *inputs: answers.pop() if answers else real(*inputs))
        )


def _sort(given: Input) -> Job:
    """Keys of all scores, and their order."""
    problem = given.problem
    return lambda: layout._sorted(layout._sort_keys(problem, False), problem.scores.shape[0])


def _rows(given: Input) -> Job:
    """The sorted scores, their prefix sums, a row a positive with the number of negatives above it, its terms."""
    in_order = _sort(given)()
    given.answer(layout, "_sort_keys", None)
    given.answer(layout, "_sorted", in_order)
    return lambda: _terms(given)


def _search(given: Input) -> Job:
    """The best place of every positive alone."""
    terms = _terms(given)
    search = rowsearch.concave_argmax if given.objective.sign > 0 else rowsearch.argmax
    return lambda: search(terms)


def _repair(given: Input) -> Job:
    """What it takes to bring the places found into one order, the dynamic program included."""
    terms = _terms(given)
    name = "concave_argmax" if given.objective.sign > 0 else "argmax"
    given.answer_once(rowsearch, name, getattr(rowsearch, name)(terms))
    return lambda: _chosen(given, terms)


def _dp(given: Input) -> Job:
    """The dynamic program over all ``P (N + 1)`` cells, in place of search and repair."""
    terms = _terms(given)
    return lambda: _chosen(given, terms)


def _gradient(given: Input) -> Job:
    """From the chosen ranking to the loss and the gradient of every item."""
    found = layout.sort_batch(given.problem)
    rows = layout.rows_of(found, found.takes_part)
    terms = Terms.of(found, rows, given.objective.sign * given.objective.epsilon)
    given.answer(outcome, "augmented", _chosen(given, terms))
    given.answer(outcome, "sort_batch", found)
    given.answer(outcome, "rows_of", rows)
    return lambda: outcome.losses(given.problem, given.objective)


def _terms(given: Input) -> Terms:
    found = layout.sort_batch(given.problem)
    rows = layout.rows_of(found, found.takes_part)
    return Terms.of(found, rows, given.objective.sign * given.objective.epsilon)


def _chosen(given: Input, terms: Terms) -> Tensor:
    return augment.augmented(terms, given.objective.sign, given.objective.method)


Stages = dict[str, Callable[[Input], Job]]

# Of each backend that can be taken apart and each method its stages, in order; their sum is the whole less the call's
# own costs.
STAGES: dict[tuple[str, str], Stages] = {
    ("torch", "auto"): {"sort": _sort, "rows": _rows, "search": _search, "repair": _repair, "gradient": _gradient},
    ("torch", "dp"): {"sort": _sort, "rows": _rows, "dp": _dp, "gradient": _gradient},
}
# The same names for what the native backend tells, on one thread.
REPORTED: dict[tuple[str, str], dict[str, str]] = {
    ("native", "auto"): {
        "sort": "sort",
        "rows": "sums",
        "search": "search",
        "repair": "repair",
        "gradient": "gradient",
    },
    ("native", "dp"): {"sort": "sort", "rows": "sums", "dp": "repair", "gradient": "gradient"},
}

_reported = 0.0


def reported() -> float:
    """The sum of the seconds of all stages that have been reported: a timer for pytest-benchmark."""
    return _reported


def _report(case: Case, stage: str, scores: Tensor, targets: Tensor) -> dict[str, float]:
    global _reported  # noqa: PLW0603
    batch = Batch(scores.movedim(case.dim, -1), targets.movedim(case.dim, -1), None)
    found = native.stage_seconds(batch, _objective(case))
    # A stage that had nothing to do takes the clock's least: of zero there is no ratio.
    _reported += max(found[REPORTED[case.backend, case.method][stage]], 1e-9)
    return found


def prepare(case: Case, stage: str, scores: Tensor, targets: Tensor, stack: ExitStack) -> Job:
    """The stage of the case's loss, ready to run."""
    if (case.backend, case.method) in REPORTED:
        return lambda: _report(case, stage, scores, targets)
    return STAGES[case.backend, case.method][stage](_input(case, scores, targets, stack))


@cache
def assert_whole(case: Case) -> str:
    """The stages are those of the case's loss, and of the same results."""
    scores, targets = next(case.inputs(seed=1))
    if (case.backend, case.method) in REPORTED:
        start = time.perf_counter()
        found = _report(case, "sort", scores, targets)
        taken = time.perf_counter() - start
        assert tuple(found) == native.STAGES, "the native backend reports other stages"
        assert 0 < sum(found.values()) <= taken, "the stages take longer than the call"
        return "the stages' times add up to no more than the call's"
    leaf = scores.clone().requires_grad_()
    loss = case.forward(leaf, targets)
    loss.backward()
    for stage in STAGES[case.backend, case.method]:
        with ExitStack() as stack:
            parts = prepare(case, stage, scores, targets, stack)()
    assert torch.equal(parts.loss.to(loss.dtype).view(()), loss.detach()), "the stages give another loss"
    assert torch.equal(parts.gradient.view(scores.shape), leaf.grad), "the stages give another gradient"
    return "the stages end in the whole's loss and gradient, to the bit"


def _objective(case: Case) -> Objective:
    update: Any = case.work
    method: Any = case.method
    return Objective("direct", case.epsilon, update, method)


def _input(case: Case, scores: Tensor, targets: Tensor, stack: ExitStack) -> Input:
    problem, _ = to_problem(Batch(scores, targets, None))
    return Input(problem, _objective(case), stack)

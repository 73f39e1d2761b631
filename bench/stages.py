"""The stages of a loss, each to be had alone: what comes before it is done untimed and handed to it.

A stage is the code of the library itself. Where one function holds several stages, the others are answered from what
was computed before, by patches that are taken back after the round.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bench.cases import Case, Job
from fastap.backends.masked import to_problem
from fastap.backends.torch import augment, layout, outcome, rowsearch, short
from fastap.backends.torch.terms import Terms
from fastap.problem import Batch, Objective, Problem


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
    given.answer(short, "table_of", None)
    return lambda: outcome.losses(given.problem, given.objective)


def _terms(given: Input) -> Terms:
    found = layout.sort_batch(given.problem)
    rows = layout.rows_of(found, found.takes_part)
    return Terms.of(found, rows, given.objective.sign * given.objective.epsilon)


def _chosen(given: Input, terms: Terms) -> Tensor:
    return augment.augmented(terms, given.objective.sign, given.objective.method)


# Of each backend that can be taken apart and each method its stages, in order; their sum is the whole less the call's
# own costs.
STAGES: dict[tuple[str, str], dict[str, Callable[[Input], Job]]] = {
    ("torch", "auto"): {"sort": _sort, "rows": _rows, "search": _search, "repair": _repair, "gradient": _gradient},
    ("torch", "dp"): {"sort": _sort, "rows": _rows, "dp": _dp, "gradient": _gradient},
}


def prepare(case: Case, stage: str, scores: Tensor, targets: Tensor, stack: ExitStack) -> Job:
    """The stage of the case's loss, ready to run."""
    given = _input(case, scores, targets, stack)
    return STAGES[case.backend, case.method][stage](given)


@cache
def assert_whole(case: Case) -> str:
    """Every stage runs; the last, fed by those before it, gives loss and gradient of the whole, to the bit."""
    scores, targets = next(case.inputs(seed=1))
    leaf = scores.clone().requires_grad_()
    loss = case.forward(leaf, targets)
    loss.backward()
    for stage in STAGES[case.backend, case.method]:
        with ExitStack() as stack:
            parts = prepare(case, stage, scores, targets, stack)()
    assert torch.equal(parts.loss.to(loss.dtype).view(()), loss.detach()), "the stages give another loss"
    assert torch.equal(parts.gradient.view(scores.shape), leaf.grad), "the stages give another gradient"
    return "the stages end in the whole's loss and gradient, to the bit"


def _input(case: Case, scores: Tensor, targets: Tensor, stack: ExitStack) -> Input:
    problem, _ = to_problem(Batch(scores, targets, None))
    update: Any = case.work
    method: Any = case.method
    return Input(problem, Objective("direct", case.epsilon, update, method), stack)

"""The engines behind the losses. Each is a module with ``losses`` and ``ranking`` on the same two arguments."""

from __future__ import annotations

from typing import Protocol

from fastap.backends import reference, torch
from fastap.problem import AugmentedRanking, Losses, Objective, Problem


class Backend(Protocol):
    """What a backend offers; see :class:`fastap.problem.Problem` and :class:`fastap.problem.Objective`."""

    def losses(self, problem: Problem, objective: Objective) -> Losses: ...

    def ranking(self, problem: Problem, objective: Objective) -> AugmentedRanking: ...


def get(name: str) -> Backend:
    """The backend of that (already checked) name; ``"auto"`` is the fastest that is there."""
    return reference if name == "reference" else torch

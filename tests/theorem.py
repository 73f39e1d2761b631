"""The figures of ``tests/test_theorem.py`` as the table of docs/experiments.md: ``python -m tests.theorem``."""

from __future__ import annotations

from bench.markdown import table
from fastap.types import UPDATES
from tests.test_theorem import EPSILONS, PREDICTORS, differences, direct_gradient, mean_and_error


def row(name: str, update: str) -> list[str]:
    """The norm of the bias at each epsilon (its largest part in standard errors), and that of the wrong sign."""
    predictor, slopes = differences(name)
    cells, opposite = [], 0.0
    for epsilon in EPSILONS:
        gradient = direct_gradient(predictor, epsilon, update)
        bias, error = mean_and_error(gradient - slopes)
        cells.append(f"{bias.norm():.2g} ({figures((bias / error).abs().max().item())})")
        bias, error = mean_and_error(-gradient - slopes)
        opposite = (bias / error).abs().max().item()
    return [f"{name}, {update}", f"{len(slopes):,}", *cells, f"({figures(opposite)})"]


def figures(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def as_table() -> str:
    rows = [row(name, update) for name in PREDICTORS for update in UPDATES]
    heads = ["", "draws", *(f"epsilon {epsilon:g}" for epsilon in EPSILONS), f"wrong sign, {EPSILONS[-1]:g}"]
    return table(rows, heads)


if __name__ == "__main__":
    print(as_table())

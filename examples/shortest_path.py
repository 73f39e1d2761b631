"""Learn edge costs so that shortest paths are short: direct loss minimisation of a task loss that is not AP.

A layered graph: from each of the nodes of a layer an edge leads to each node of the next, and a path takes one edge a
layer. An edge has a length and a congestion, and truly costs ``length + exp(1.5 congestion)``; the model, linear in
both, cannot say so. Squared error spends its two weights on the jams, which no good path meets. Direct loss
minimisation is told of the paths alone: its task loss is the regret, what the chosen path truly costs beyond the best
one. Regret is a sum over the edges of the path, so that loss-augmented inference is one more shortest path, with the
true costs, scaled, taken off the predicted ones.

All methods go on for the same number of steps from one fit by squared error, which sets the scale of the predictions:
regret alone does not. Epsilon is chosen by the regret on a validation part, and nothing by the test part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap

LAYERS, NODES = 8, 4
EPSILONS = (0.03, 0.1, 0.3)
Part = tuple[Tensor, Tensor]  # features (graphs, layers, nodes, nodes, 2) and true costs, the same but for the features


def draw(graphs: int, generator: torch.Generator) -> Part:
    """Random graphs; an edge leads from node ``[.., i, :]`` of its layer to node ``[.., :, j]`` of the next."""
    features = torch.randn(graphs, LAYERS, NODES, NODES, 2, generator=generator)
    length, congestion = features.unbind(-1)
    return features, 3 + length + (1.5 * congestion).exp()


def shortest_path(costs: Tensor) -> Tensor:
    """The edges of the cheapest path through each graph, as ones among zeros in the shape of ``costs``."""
    layers, sources = costs.unbind(1), []
    reached = torch.zeros_like(costs[:, 0, 0])  # what it costs to reach each node of the layer
    for layer in layers:
        reached, source = (reached.unsqueeze(2) + layer).min(1)
        sources.append(source)
    path = torch.zeros_like(costs)
    rows, node = torch.arange(len(costs)), reached.argmin(1)
    for k in reversed(range(len(layers))):
        node, target = sources[k][rows, node], node
        path[rows, k, node, target] = 1
    return path


def total(costs: Tensor, path: Tensor) -> Tensor:
    return (costs * path).sum((1, 2, 3))


def squared_error(costs: Tensor, true: Tensor) -> Tensor:
    return F.mse_loss(costs, true)


def direct(costs: Tensor, true: Tensor, *, update: str, epsilon: float) -> Tensor:
    """The score of a path is its negative predicted cost, its task loss the true cost (less a constant, the best)."""

    def solve(weight: float) -> Tensor:
        return shortest_path(costs - weight * true)

    return fastap.direct_loss(lambda path: -total(costs, path), solve, solve, epsilon=epsilon, update=update)


Loss = Callable[[Tensor, Tensor], Tensor]
METHODS: dict[str, list[Loss]] = {
    "squared error": [squared_error],
    "direct, positive": [partial(direct, update="positive", epsilon=epsilon) for epsilon in EPSILONS],
    "direct, negative": [partial(direct, update="negative", epsilon=epsilon) for epsilon in EPSILONS],
}


@torch.no_grad()
def regret(net: nn.Module, part: Part) -> float:
    """What the chosen paths cost beyond the best ones, in percent."""
    features, true = part
    best = total(true, shortest_path(true)).sum()
    chosen = total(true, shortest_path(net(features).squeeze(-1))).sum()
    return 100 * (chosen / best - 1).item()


def fit(net: nn.Module, loss: Loss, part: Part, steps: int) -> nn.Module:
    """A copy of the network, trained on the whole part at once, with a learning rate that falls to 0."""
    features, true = part
    net = deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(net(features).squeeze(-1), true).backward()
        optimiser.step()
        schedule.step()
    return net


def run(seeds: int, steps: int, graphs: int = 200) -> dict[str, Tensor]:
    """The regret of every method on the test part, one for each seed."""
    regrets: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        train, valid, test = (draw(n, generator) for n in (graphs, graphs, 5 * graphs))
        torch.manual_seed(seed)
        start = fit(nn.Linear(2, 1), squared_error, train, steps)
        for method, losses in METHODS.items():
            nets = [fit(start, loss, train, steps) for loss in losses]
            regrets[method].append(regret(min(nets, key=lambda net: regret(net, valid)), test))
    return {method: torch.tensor(values) for method, values in regrets.items()}


def main() -> None:
    from tabulate import tabulate  # here, so that tests of the paths need PyTorch alone

    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="repetitions")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--quick", action="store_true", help="two seeds of ten steps, to see that it runs")
    arguments = parser.parse_args()
    seeds, steps = (2, 10) if arguments.quick else (arguments.seeds, arguments.steps)

    torch.set_num_threads(1)  # the tensors are small: a second thread mostly waits for the first
    results = run(seeds, steps)
    rows = [(method, f"{r.mean():.2f} ± {r.std(correction=int(seeds > 1)):.2f}") for method, r in results.items()]
    print(
        f"True cost of the chosen paths beyond the best ones, in percent; mean ± standard deviation of {seeds} seeds:\n"
    )
    print(tabulate(rows, ["trained by", "regret on the test part"], tablefmt="github"))


if __name__ == "__main__":
    main()

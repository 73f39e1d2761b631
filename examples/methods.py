"""What the experiments compare: each method's loss, its own parameter and, where it brings one, its optimiser.

A network's scores are ``(n, classes)``, one ranking a column. The AP methods rank columns; the others choose a class,
by :meth:`Problem.choices`. The ranges of the methods' own parameters reach beyond what
their authors use, for the spread of the scores here is another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastap
from bench import baselines
from fastap.multiclass import log_odds

Loss = Callable[[Tensor, Tensor], Tensor]  # of scores and labels
# Of the network, inputs, labels and the places of these items in the training part.
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """``items`` to train on, with labels 0 .. classes - 1; or 0 .. classes, with 0 for the background.

    The background has no ranking and no score of its own: as a class to choose its logit is 0. With ``one_vs_rest``
    the labels are ``(n, classes)`` of 0 and 1, and every class is a choice of its own between it and a logit of 0.
    """

    items: int
    classes: int
    background: bool = False
    one_vs_rest: bool = False

    @property
    def n_labels(self) -> int:
        return 2 if self.one_vs_rest else self.classes + self.background

    def targets(self, labels: Tensor) -> Tensor:
        """Bool ``(n, classes)``."""
        if self.one_vs_rest:
            return labels == 1
        return labels[:, None] == torch.arange(self.background, self.n_labels, device=labels.device)

    def choices(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(choices, classes to choose from)`` and the right ones."""
        if self.one_vs_rest:
            return F.pad(scores.reshape(-1, 1), (1, 0)), labels.reshape(-1)
        return self.logits(scores), labels

    def logits(self, scores: Tensor) -> Tensor:
        """Of the kinds that exclude each other, the background first."""
        return F.pad(scores, (1, 0)) if self.background else scores

    def log_odds(self, scores: Tensor) -> Tensor:
        """What ranks items by the probability of each class, ``log p / (1 - p)`` of the softmax, without its rounding.

        A softmax does not change if all logits of an item are raised, so that those of two items do not compare.
        """
        if self.one_vs_rest:
            return scores
        return log_odds(self.logits(scores))[:, int(self.background) :]


@dataclass(frozen=True)
class Method:
    """``make(problem, value of the method's own parameter)`` gives what is to be minimised."""

    make: Callable[[Problem, float], Objective]
    parameter: str = ""
    low: float = 1.0
    high: float = 1.0  # the range of the parameter, searched by its logarithm
    optimiser: Callable[[Iterable[nn.Parameter], float, float], torch.optim.Optimizer] | None = None
    chooses: bool = False  # learns to choose a class, and ranks by its log-odds


def of_scores(loss: Loss) -> Objective:
    return lambda net, inputs, labels, index: loss(net(inputs), labels)


def ranking(
    loss: Callable[..., Tensor], parameter: str = "", low: float = 1.0, high: float = 1.0, **fixed: Any
) -> Method:
    """A loss of this library for scores and targets."""

    def make(problem: Problem, value: float) -> Objective:
        options = {**fixed, parameter: value} if parameter else fixed
        return of_scores(lambda scores, labels: loss(scores, problem.targets(labels), dim=0, **options))

    return Method(make, parameter, low, high)


def choosing(
    loss: Callable[..., Tensor], parameter: str = "", low: float = 1.0, high: float = 1.0, **fixed: Any
) -> Method:
    """A loss of one class for each item."""

    def make(problem: Problem, value: float) -> Objective:
        options = {**fixed, parameter: value} if parameter else fixed
        return of_scores(lambda scores, labels: loss(*problem.choices(scores, labels), **options))

    return Method(make, parameter, low, high, chooses=True)


def at_noisy_scores(
    loss: Callable[..., Tensor] = fastap.direct_ap_loss,
    parameter: str = "epsilon",
    noise: float = 3.0,
    *,
    by_log_odds: bool = False,
    share: float = 0.0,
    plus: Loss = F.cross_entropy,
    **fixed: Any,
) -> Method:
    """A loss of this library in one pair of draws, the noise so many times its own parameter, plus a share of another;
    of log-odds if the classes exclude each other."""

    def make(problem: Problem, value: float) -> Objective:
        options = {parameter: value, "noise": noise * value, "samples": 2, **fixed}

        def of(scores: Tensor, labels: Tensor) -> Tensor:
            ranked = problem.log_odds(scores) if by_log_odds else scores
            result = loss(ranked, problem.targets(labels), dim=0, **options)
            return result + share * plus(*problem.choices(scores, labels)) if share else result

        return of_scores(of)

    return Method(make, parameter, 0.03, 10.0, chooses=by_log_odds)


def untuned(method: Method, value: float) -> Method:
    """With this value of its own parameter, so that of its draws only learning rate and weight decay differ."""
    return Method(lambda problem, _: method.make(problem, value), chooses=method.chooses)


def noisy_cross_entropy(logits: Tensor, labels: Tensor, *, noise: float) -> Tensor:
    """At noisy logits, a mean of two draws: what noise does without AP."""
    drawn = noise * torch.randn_like(logits)
    return (F.cross_entropy(logits + drawn, labels) + F.cross_entropy(logits - drawn, labels)) / 2


def generalised_cross_entropy(logits: Tensor, labels: Tensor, *, q: float) -> Tensor:
    """``mean over items of (1 - softmax at the label ** q) / q``: cross-entropy as q falls to 0, half of MAE at 1.

    Source: Zhang, Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, NeurIPS
    2018.
    """
    # A power of softmax has no derivative at 0, which float32 rounds to 104 below the best logit.
    return -torch.expm1(q * logits.log_softmax(1).gather(1, labels[:, None])).mean() / q


def one_vs_rest_cross_entropy(problem: Problem, _: float) -> Objective:
    """Every class a choice of its own, whether or not they exclude each other."""
    return of_scores(
        lambda scores, labels: F.binary_cross_entropy_with_logits(scores, problem.targets(labels).to(scores.dtype))
    )


def each_ranking(loss: Callable[..., Tensor], parameter: str, low: float, high: float) -> Method:
    """A loss of one ranking: its mean over the classes that have both positives and negatives."""

    def make(problem: Problem, value: float) -> Objective:
        def mean(scores: Tensor, labels: Tensor) -> Tensor:
            targets = problem.targets(labels)
            columns = [c for c, n in enumerate(targets.sum(0).tolist()) if 0 < n < len(labels)]
            losses = [loss(scores[:, c], targets[:, c], **{parameter: value}) for c in columns]
            return torch.stack(losses).mean() if losses else 0 * scores.sum()

        return of_scores(mean)

    return Method(make, parameter, low, high)


def relative_direct_ap(scores: Tensor, targets: Tensor, *, dim: int, **options: Any) -> Tensor:
    """``epsilon`` in units of each ranking's standard deviation, which is a constant to the gradient."""
    spread = scores.detach().std(dim, keepdim=True).clamp(min=1e-6)
    return fastap.direct_ap_loss(scores / spread, targets, dim=dim, **options)


def standardised_direct_ap(scores: Tensor, targets: Tensor, *, dim: int, **options: Any) -> Tensor:
    """Of scores divided by their standard deviation, gradient and all: to shrink them gains nothing."""
    spread = scores.std(dim, keepdim=True).clamp(min=1e-6)
    return fastap.direct_ap_loss(scores / spread, targets, dim=dim, **options)


def mean_absolute_error(logits: Tensor, labels: Tensor) -> Tensor:
    """``mean over items of sum over classes |softmax - one_hot| = 2 (1 - softmax at the label)``.

    Source: Ghosh, Kumar, Sastry, Robust Loss Functions under Label Noise for Deep Neural Networks, AAAI 2017.
    """
    return 2 * (1 - logits.softmax(1).gather(1, labels[:, None])).mean()


def mixup(problem: Problem, alpha: float) -> Objective:
    """Cross-entropy of inputs and labels mixed in pairs, ``lambda ~ Beta(alpha, alpha)``, one a batch.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018.
    """
    beta = torch.distributions.Beta(alpha, alpha)

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        share = float(beta.sample())
        other = torch.randperm(len(inputs)).to(inputs.device)
        scores = net(share * inputs + (1 - share) * inputs[other])
        first, second = (F.cross_entropy(*problem.choices(scores, each)) for each in (labels, labels[other]))
        return share * first + (1 - share) * second

    return objective


def libauc_ap(problem: Problem, margin: float) -> Objective:
    """LibAUC's ``APLoss``, one for each class, with its moving averages of every item, at its default ``gamma``.

    Source: Qi, Luo, Xu, Ji, Yang, Stochastic Optimization of Areas Under Precision-Recall Curves with Provable
    Convergence, NeurIPS 2021.
    """
    from libauc.losses import APLoss

    losses: list[Any] = []

    def objective(net: nn.Module, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        scores, targets = net(inputs).sigmoid(), problem.targets(labels)
        if not losses:
            losses.extend(
                APLoss(data_len=problem.items, margin=margin, gamma=0.9, device=scores.device)
                for _ in range(problem.classes)
            )
        columns = [c for c, n in enumerate(targets.sum(0).tolist()) if n > 0]
        each = [losses[c](scores[:, c : c + 1], targets[:, c : c + 1].float(), index) for c in columns]
        return torch.stack(each).mean() if each else 0 * scores.sum()

    return objective


def soap(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """LibAUC's optimiser; its decay is a gradient, divided by Adam like the rest, where AdamW's is a share.

    So its weights are searched below AdamW's, by a factor of 100, about those in its examples.
    """
    from libauc.optimizers import SOAP

    parameters = list(parameters)
    device = parameters[0].device
    return SOAP(parameters, lr=lr, mode="adam", weight_decay=weight_decay / 100, verbose=False, device=device)


EPSILON = ("epsilon", 0.03, 10.0)

AP_SVM = {"hinge-AP, margin 1": ranking(fastap.ap_hinge_loss, margin=1.0)}  # as AP-SVM is defined and used
# The nine of the paper's synthetic experiment, by its names.
PAPER: dict[str, Method] = {
    "pos-AP": ranking(fastap.direct_ap_loss, *EPSILON, update="positive"),
    "neg-AP": ranking(fastap.direct_ap_loss, *EPSILON, update="negative"),
    "pos-01": choosing(fastap.direct_cost_loss, *EPSILON, update="positive"),
    "neg-01": choosing(fastap.direct_cost_loss, *EPSILON, update="negative"),
    "hinge-AP": ranking(fastap.ap_hinge_loss, "margin", 0.03, 10.0),
    "hinge-01": choosing(fastap.cost_hinge_loss, "margin", 0.03, 10.0),
    "per-AP": ranking(fastap.ap_perceptron_loss),
    "per-01": choosing(fastap.cost_perceptron_loss),
    "x-ent": choosing(F.cross_entropy),
}
ROBUST: dict[str, Method] = {
    "MAE": choosing(mean_absolute_error),
    "mixup": Method(mixup, "alpha", 0.1, 32.0, chooses=True),
}
OTHER_AP: dict[str, Method] = {
    "SmoothAP": each_ranking(baselines.smooth_ap_loss, "temperature", 0.003, 1.0),
    "blackbox AP": each_ranking(baselines.blackbox_ap_loss, "strength", 10.0, 100_000.0),
    "AP-loss": each_ranking(baselines.error_driven_ap_loss, "delta", 0.1, 10.0),
}
LIBAUC: dict[str, Method] = {"LibAUC AP": Method(libauc_ap, "margin", 0.1, 1.0, soap)}
if find_spec("libauc"):
    OTHER_AP |= LIBAUC
SMOOTHED: dict[str, Method] = {
    "sym-AP": ranking(fastap.direct_ap_loss, *EPSILON, update="symmetric"),
    "pos-AP noise": at_noisy_scores(update="positive"),
    "neg-AP noise": at_noisy_scores(update="negative"),
    "sym-AP noise": at_noisy_scores(update="symmetric"),
    "sym-AP noise + 0.1 x-ent": at_noisy_scores(update="symmetric", share=0.1),
    "sym-AP noise + 0.3 x-ent": at_noisy_scores(update="symmetric", share=0.3),
    "sym-AP noise + 1 x-ent": at_noisy_scores(update="symmetric", share=1.0),
}
LOG_ODDS: dict[str, Method] = {
    "sym-AP noise, odds": at_noisy_scores(update="symmetric", by_log_odds=True),
    "neg-AP noise, odds": at_noisy_scores(update="negative", by_log_odds=True),
    "sym-AP noise, odds + 0.1 x-ent": at_noisy_scores(update="symmetric", by_log_odds=True, share=0.1),
    "sym-AP noise, odds + 1 GCE": at_noisy_scores(
        update="symmetric", by_log_odds=True, share=1.0, plus=partial(generalised_cross_entropy, q=0.7)
    ),
}
# As the library recommends them, with nothing of their own to tune.
UNTUNED: dict[str, Method] = {
    f"{name}, untuned": untuned((SMOOTHED | LOG_ODDS)[name], 0.3)
    for name in (
        *("sym-AP noise", "sym-AP noise + 0.1 x-ent"),
        *("sym-AP noise, odds", "sym-AP noise, odds + 0.1 x-ent", "sym-AP noise, odds + 1 GCE"),
    )
}
CONTROLS: dict[str, Method] = {
    "hinge-AP noise": at_noisy_scores(fastap.ap_hinge_loss, "margin", 1.0),
    "x-ent noise": choosing(noisy_cross_entropy, "noise", 0.1, 10.0),
    "x-ent smoothed": choosing(F.cross_entropy, "label_smoothing", 0.01, 0.5),
    "GCE": choosing(generalised_cross_entropy, "q", 0.05, 1.0),
    "BCE": Method(one_vs_rest_cross_entropy),
}
RELATIVE: dict[str, Method] = {
    f"{sign}-AP {name}": ranking(loss, *EPSILON, update=update)
    for name, loss in (("relative", relative_direct_ap), ("standardised", standardised_direct_ap))
    for sign, update in (("pos", "positive"), ("neg", "negative"))
}
OTHER_NOISE: dict[str, Method] = {
    "sym-AP noise of 1 epsilon": at_noisy_scores(noise=1.0, update="symmetric"),
    "sym-AP noise of 10 epsilon": at_noisy_scores(noise=10.0, update="symmetric"),
}
# What is compared on models that cannot fit everything.
RESTRICTED = (
    "pos-AP",
    "neg-AP",
    "hinge-AP",
    "x-ent",
    *ROBUST,
    "SmoothAP",
    *SMOOTHED,
    "sym-AP noise, untuned",
    *CONTROLS,
)
# What those that can are compared by, beyond the paper's methods.
FLEXIBLE = (
    *("sym-AP noise", "sym-AP noise, untuned", "sym-AP noise + 0.1 x-ent", "sym-AP noise + 0.1 x-ent, untuned"),
    *("hinge-AP noise", "x-ent noise", "GCE"),
)
EXCLUSIVE = (
    "sym-AP noise",
    *LOG_ODDS,
    *("sym-AP noise, odds, untuned", "sym-AP noise, odds + 0.1 x-ent, untuned", "sym-AP noise, odds + 1 GCE, untuned"),
    "x-ent noise",
    "x-ent smoothed",
    "GCE",
)
METHODS = (
    PAPER | AP_SVM | ROBUST | OTHER_AP | LIBAUC | RELATIVE | SMOOTHED | LOG_ODDS | UNTUNED | CONTROLS | OTHER_NOISE
)

"""Exact losses for average precision: direct loss minimisation, AP hinge and AP perceptron, at the price of a sort."""

from importlib.metadata import version as _version

from fastap.functional import (
    ap_hinge_loss,
    ap_perceptron_loss,
    average_precision,
    direct_ap_loss,
    loss_augmented_ranking,
)
from fastap.modules import APHingeLoss, APPerceptronLoss, DirectAPLoss
from fastap.problem import AugmentedRanking

__version__ = _version("fastap")

__all__ = [
    "APHingeLoss",
    "APPerceptronLoss",
    "AugmentedRanking",
    "DirectAPLoss",
    "ap_hinge_loss",
    "ap_perceptron_loss",
    "average_precision",
    "direct_ap_loss",
    "loss_augmented_ranking",
]

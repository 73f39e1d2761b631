"""Exact losses for average precision at the price of a sort, and direct loss minimisation for any task loss."""

from importlib.metadata import version as _version

from fastap.backends import show_config
from fastap.functional import (
    ap_hinge_loss,
    ap_perceptron_loss,
    average_precision,
    direct_ap_loss,
    direct_ranking_loss,
    loss_augmented_ranking,
    ranking_measure,
    smooth_ap_loss,
)
from fastap.modules import (
    APHingeLoss,
    APPerceptronLoss,
    CostHingeLoss,
    CostPerceptronLoss,
    DirectAPLoss,
    DirectCostLoss,
    DirectRankingLoss,
    MulticlassAPLoss,
    SmoothAPLoss,
)
from fastap.multiclass import multiclass_ap_loss
from fastap.retrieval import RetrievalAPLoss, retrieval_ap_loss
from fastap.structured import cost_hinge_loss, cost_perceptron_loss, direct_cost_loss, direct_loss
from fastap.types import AugmentedRanking
from fastap.warning import FastapWarning

__version__ = _version("fastap")

__all__ = [
    "APHingeLoss",
    "APPerceptronLoss",
    "AugmentedRanking",
    "CostHingeLoss",
    "CostPerceptronLoss",
    "DirectAPLoss",
    "DirectCostLoss",
    "DirectRankingLoss",
    "FastapWarning",
    "MulticlassAPLoss",
    "RetrievalAPLoss",
    "SmoothAPLoss",
    "ap_hinge_loss",
    "ap_perceptron_loss",
    "average_precision",
    "cost_hinge_loss",
    "cost_perceptron_loss",
    "direct_ap_loss",
    "direct_cost_loss",
    "direct_loss",
    "direct_ranking_loss",
    "loss_augmented_ranking",
    "multiclass_ap_loss",
    "ranking_measure",
    "retrieval_ap_loss",
    "show_config",
    "smooth_ap_loss",
]

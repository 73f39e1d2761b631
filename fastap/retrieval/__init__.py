"""Retrieval from embeddings: each row is a query, and its similarities to all references are one ranking."""

from fastap.retrieval.loss import retrieval_ap_loss
from fastap.retrieval.module import RetrievalAPLoss

__all__ = ["RetrievalAPLoss", "retrieval_ap_loss"]

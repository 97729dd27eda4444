"""Self-attention among the K snapshots, then their mean (E-CDCTR, arXiv 2408.16238, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.aggregations.aggregation import Aggregation, shares

if TYPE_CHECKING:
    from ecdctr.config import Snapshots


class SelfAttention(Aggregation):
    """One head; starts as the plain mean of the snapshots."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(dim, dim, settings)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)  # softmax does not see a bias of the keys
        self.value = nn.Linear(dim, dim)
        with torch.no_grad():
            self.value.weight.copy_(torch.eye(dim))
            self.value.bias.zero_()

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Attend among [K, n, d] and average → [n, d]."""
        return self.attend(vectors, vectors, present, present.float())

    def attend(
        self,
        keys: torch.Tensor,
        vectors: torch.Tensor,
        present: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Attend with keys [K, n, d] to vectors [K, n, d].

        The K results are averaged by weights [K, n].

        The value of the mean is the mean of the values, as it is linear, and K times cheaper.
        """
        attention = torch.softmax(self._scores(keys).masked_fill(~present, -1e9), dim=1)
        share = (shares(weights)[:, None] * attention).sum(0)
        mixed: torch.Tensor = (
            self.value((share[..., None] * vectors).sum(0)) * share.sum(0)[:, None]
        )
        return mixed

    def _scores(self, keys: torch.Tensor) -> torch.Tensor:
        """Return scaled products of all pairs of an entity's snapshots, [K, K, n].

        (Wq k + b) · Wk k' = (Wkᵀ Wq k + Wkᵀ b) · k'
        """
        weight = self.key.weight.T @ self.query.weight
        query = nn.functional.linear(keys, weight, self.query.bias @ self.key.weight)
        scores: torch.Tensor = (query[:, None] * keys).sum(-1) / keys.shape[2] ** 0.5
        return scores

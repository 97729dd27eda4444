"""A learned weight per vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.aggregations.aggregation import Aggregation, weighted_mean

if TYPE_CHECKING:
    from ecdctr.config import Snapshots


class Gated(Aggregation):
    """A small network scores each vector by itself, a sigmoid makes the score a weight."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(dim, dim, settings)
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1))

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Average [K, n, d] by the weights → [n, d]."""
        return weighted_mean(
            vectors, present.float() * torch.sigmoid(self.score(vectors).squeeze(2))
        )

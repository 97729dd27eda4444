"""Weights that fall with age at a learned rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.aggregations.aggregation import Aggregation, weighted_mean

if TYPE_CHECKING:
    from ecdctr.config import Snapshots


class TimeDecayed(Aggregation):
    """2^(-rate · age) per stride; the rate is the softplus of what is learned."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(dim, dim, settings)
        self.decay = nn.Parameter(torch.zeros(()))

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Average [K, n, d] by the weights → [n, d]."""
        ages = torch.arange(len(vectors), device=vectors.device)
        weights = torch.exp2(-nn.functional.softplus(self.decay) * ages)[:, None]
        return weighted_mean(vectors, present.float() * weights)

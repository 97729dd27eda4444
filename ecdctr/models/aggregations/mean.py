"""The plain mean of the snapshots that know the entity."""

from __future__ import annotations

import torch

from ecdctr.models.aggregations.aggregation import Aggregation, weighted_mean


class Mean(Aggregation):
    """Every snapshot weighs the same."""

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Average [K, n, d] → [n, d]."""
        return weighted_mean(vectors, present.float())

"""The plain mean of the snapshots that know the entity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.models.aggregations.aggregation import Aggregation, weighted_mean

if TYPE_CHECKING:
    import torch


class Mean(Aggregation):
    """Every snapshot weighs the same."""

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Average [K, n, d] → [n, d]."""
        return weighted_mean(vectors, present.float())

"""All K vectors side by side."""

from __future__ import annotations

import torch

from ecdctr.config import Snapshots
from ecdctr.models.aggregations.aggregation import Aggregation


class Concat(Aggregation):
    """Zeros in the places of snapshots that lack the entity."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(count * dim, dim, settings)

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Join [K, n, d] → [n, K d]."""
        return (vectors * present[..., None]).transpose(0, 1).flatten(1)

"""All K vectors side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.models.aggregations.aggregation import Aggregation

if TYPE_CHECKING:
    import torch

    from ecdctr.config import Snapshots


class Concat(Aggregation):
    """Zeros in the places of snapshots that lack the entity."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(count * dim, dim, settings)

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Join [K, n, d] → [n, K d]."""
        return (vectors * present[..., None]).transpose(0, 1).flatten(1)

"""The newest snapshot alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.models.aggregations.aggregation import Aggregation

if TYPE_CHECKING:
    import torch


class Newest(Aggregation):
    """Zeros for an entity that the newest snapshot lacks."""

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Take the first of [K, n, d] → [n, d]."""
        return vectors[0] * present[0, :, None]

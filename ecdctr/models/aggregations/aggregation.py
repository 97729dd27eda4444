"""What every aggregation is: K vectors of an entity → one.

Snapshots that lack the entity have no say.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ecdctr.config import Snapshots


class Aggregation(nn.Module):
    """Pool the K snapshots of an entity; what no snapshot knows gets the default vector."""

    default: nn.Parameter | None

    def __init__(self, width: int, dim: int, settings: Snapshots) -> None:
        """Take widths: `width` of the pooled vector, `dim` of a snapshot's."""
        super().__init__()
        self.presence = settings.presence
        self.out_dim = width + 2 * self.presence
        learned = settings.missing == "learned"
        self.register_parameter("default", nn.Parameter(torch.zeros(dim)) if learned else None)

    @abstractmethod
    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Pool vectors [K, n, d], newest first, where present [K, n] bool → [n, width]."""

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Aggregate vectors [K, n, d], newest first, where present [K, n] bool → [n, out_dim]."""
        pooled = self.pool(vectors, present)
        if self.default is not None:
            default = self.default.repeat(pooled.shape[1] // len(self.default))
            pooled = torch.where(present.any(0)[:, None], pooled, default)
        if self.presence:
            flags = torch.stack([present[0].float(), present.float().mean(0)], dim=1)
            pooled = torch.cat([pooled, flags], dim=1)
        return pooled


def weighted_mean(vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average vectors [K, n, d] by weights [K, n] → [n, d]; zeros where all weights are zero."""
    return (shares(weights)[..., None] * vectors).sum(0)


def shares(weights: torch.Tensor) -> torch.Tensor:
    """Scale weights [K, n] so that they add up to one, or to zero where all are zero."""
    return weights / weights.sum(0).clamp(min=1e-6)

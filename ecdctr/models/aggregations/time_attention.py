"""Self-attention that knows the age of each snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.aggregations.self_attention import SelfAttention

if TYPE_CHECKING:
    from ecdctr.config import Snapshots


class TimeAttention(SelfAttention):
    """A learned vector per age is added to the keys, a learned weight per age to the mean."""

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__(count, dim, settings)
        self.age_key = nn.Parameter(torch.zeros(count, dim))
        self.age_weight = nn.Parameter(torch.zeros(count))

    def pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Attend among [K, n, d] and average → [n, d]."""
        weights = present.float() * self.age_weight.exp()[:, None]
        return self.attend(vectors + self.age_key[:, None], vectors, present, weights)

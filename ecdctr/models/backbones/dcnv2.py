"""DCN-V2 (Wang et al. 2021, arXiv 2008.13535), parallel form: a cross network beside an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecdctr.models.backbones.features import Features, Shape, tower

CROSS_LAYERS = 2


class DcnV2(nn.Module):
    """Cross layer: x ← x₀ ⊙ (W x + b) + x, equation 1 of the paper."""

    def __init__(self, shape: Shape, hidden: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(shape.width)
        self.cross = nn.ModuleList(nn.Linear(shape.width, shape.width) for _ in range(CROSS_LAYERS))
        self.deep = tower(shape.width, hidden)
        self.out = nn.Linear(shape.width + hidden[-1], 1)

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        flat = features.flat()
        start = crossed = self.norm(flat)
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        logits: torch.Tensor = self.out(torch.cat([crossed, self.deep(flat)], dim=1)).squeeze(1)
        return logits

"""MaskNet (Wang et al. 2021, arXiv 2102.07619), parallel form.

Masks made from all features multiply the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecdctr.models.backbones.features import Features, Shape, tower

BLOCKS = 3
# width of the mask's middle layer; the paper widens it, which costs and brought nothing here
REDUCTION = 0.25


class MaskBlock(nn.Module):
    """Instance-guided mask on the normalized features, then a layer with LayerNorm.

    Equations 8 to 11.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        middle = max(int(width * REDUCTION), 1)
        self.mask = nn.Sequential(nn.Linear(width, middle), nn.ReLU(), nn.Linear(middle, width))
        self.out = nn.Sequential(nn.Linear(width, size), nn.LayerNorm(size), nn.ReLU())

    def forward(self, flat: torch.Tensor, normalized: torch.Tensor) -> torch.Tensor:
        """Map raw and normalized features [B, W] → [B, size]."""
        masked: torch.Tensor = self.out(self.mask(flat) * normalized)
        return masked


class MaskNet(nn.Module):
    """Several mask blocks side by side, then an MLP."""

    def __init__(self, shape: Shape, hidden: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(MaskBlock(shape.width, hidden[0] // 2) for _ in range(BLOCKS))
        self.deep = tower(BLOCKS * (hidden[0] // 2), hidden)
        self.out = nn.Linear(hidden[-1], 1)

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        flat = features.flat()
        normalized = self.norm(flat)
        masked = torch.cat([block(flat, normalized) for block in self.blocks], dim=1)
        logits: torch.Tensor = self.out(self.deep(masked)).squeeze(1)
        return logits

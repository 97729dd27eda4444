"""MLP over everything.

With target attention over the click history it is DIN (Zhou et al. 2018, arXiv 1706.06978).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecdctr.models.backbones.features import Features, Shape, tower


class Mlp(nn.Module):
    """Linear, BatchNorm and ReLU per layer, then one logit."""

    def __init__(self, shape: Shape, hidden: Sequence[int]) -> None:
        super().__init__()
        self.hidden = tower(shape.width, hidden)
        self.out = nn.Linear(hidden[-1], 1)

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        return self.logits(features.flat())

    def logits(self, flat: torch.Tensor) -> torch.Tensor:
        """Return logits [B] of the flat vector [B, W]."""
        logits: torch.Tensor = self.out(self.hidden(flat)).squeeze(1)
        return logits

    def layers(self, features: Features) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers, [B, h] each.

        What a pre-trained network hands to another one.
        """
        outputs, value = [], features.flat()
        for start in range(0, len(self.hidden), 3):
            value = self.hidden[start : start + 3](value)
            outputs.append(value)
        return outputs

"""DeepFM (Guo et al. 2017, arXiv 1703.04247).

A linear term, pairwise products of all fields, and an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.backbones.mlp import Mlp

if TYPE_CHECKING:
    from ecdctr.models.backbones.features import Features, Shape


class DeepFm(nn.Module):
    """First order on the shared vectors, second order as a factorization machine.

    The paper has weights of their own for the first order.
    """

    def __init__(self, shape: Shape, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim = shape.dim
        self.linear = nn.Linear(shape.width, 1)
        self.deep = Mlp(shape, hidden)

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        vectors = [part.view(len(part), -1, self.dim) for part in features.fields]
        total = torch.stack([part.sum(1) for part in vectors]).sum(0)
        squares = torch.stack([part.square().sum((1, 2)) for part in vectors]).sum(0)
        pairs = 0.5 * (total.square().sum(1) - squares)
        flat = features.flat()
        logits: torch.Tensor = self.linear(flat).squeeze(1) + pairs + self.deep.logits(flat)
        return logits

"""MMoE (Ma et al. 2018).

Experts shared by all domains, mixed by a gate per domain, a head per domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecdctr.config import DOMAINS
from ecdctr.models.backbones.features import Features, Shape, by_domain, tower


class Mmoe(nn.Module):
    """Multi-gate mixture of experts, https://doi.org/10.1145/3219819.3220007.

    The tasks are the two domains.
    """

    def __init__(self, shape: Shape, hidden: Sequence[int], experts: int) -> None:
        super().__init__()
        first, rest = hidden[:1], hidden[1:]
        self.experts = nn.ModuleList(tower(shape.width, first) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(shape.width, experts) for _ in DOMAINS)
        self.heads = nn.ModuleList(
            nn.Sequential(tower(first[0], rest), nn.Linear(hidden[-1], 1)) for _ in DOMAINS
        )

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        flat = features.flat()
        outputs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        weights = by_domain(
            [torch.softmax(gate(flat), dim=1) for gate in self.gates], features.domain
        )
        mixed = (weights[..., None] * outputs).sum(1)
        return by_domain([head(mixed) for head in self.heads], features.domain).squeeze(1)

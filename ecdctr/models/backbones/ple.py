"""PLE (Tang et al. 2020): shared experts and experts of each domain, mixed by a gate per domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ecdctr.config import DOMAINS
from ecdctr.models.backbones.features import Features, Shape, by_domain, tower


class Ple(nn.Module):
    """Progressive layered extraction with one level (CGC).

    https://doi.org/10.1145/3383313.3412236
    """

    def __init__(self, shape: Shape, hidden: Sequence[int], experts: int) -> None:
        super().__init__()
        first, rest = hidden[:1], hidden[1:]
        self.shared = nn.ModuleList(tower(shape.width, first) for _ in range(experts))
        self.own = nn.ModuleList(
            nn.ModuleList(tower(shape.width, first) for _ in range(experts)) for _ in DOMAINS
        )
        self.gates = nn.ModuleList(nn.Linear(shape.width, 2 * experts) for _ in DOMAINS)
        self.heads = nn.ModuleList(
            nn.Sequential(tower(first[0], rest), nn.Linear(hidden[-1], 1)) for _ in DOMAINS
        )

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B]."""
        flat = features.flat()
        shared = [expert(flat) for expert in self.shared]
        logits = []
        for specific, gate, head in zip(
            cast("list[nn.ModuleList]", self.own), self.gates, self.heads, strict=True
        ):
            outputs = torch.stack([*shared, *(expert(flat) for expert in specific)], dim=1)
            weights = torch.softmax(gate(flat), dim=1)
            logits.append(head((weights[..., None] * outputs).sum(1)))
        return by_domain(logits, features.domain).squeeze(1)

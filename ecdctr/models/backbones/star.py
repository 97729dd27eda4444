"""STAR (Sheng et al. 2021, arXiv 2101.11427).

Every layer's weights are shared weights times the domain's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from ecdctr.config import DOMAINS
from ecdctr.models.backbones.features import Features, Shape, by_domain


class StarLayer(nn.Module):
    """x → x (W ⊙ W_p) + b + b_p, equation 3; W_p starts at one and b_p at zero."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, size)
        self.weight = nn.Parameter(torch.ones(len(DOMAINS), size, width))
        self.bias = nn.Parameter(torch.zeros(len(DOMAINS), size))

    def forward(self, x: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        """Map [B, width] → [B, size], each row by its domain's weights."""
        values = [
            nn.functional.linear(x, self.shared.weight * weight, self.shared.bias + bias)
            for weight, bias in zip(self.weight, self.bias, strict=True)
        ]
        return by_domain(values, domain)


class Star(nn.Module):
    """Star topology network, with the paper's auxiliary network as a bias per domain."""

    def __init__(self, shape: Shape, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [shape.width, *hidden]
        self.layers = nn.ModuleList(StarLayer(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in hidden)
        self.scale = nn.Parameter(torch.ones(len(DOMAINS), len(hidden), max(hidden)))
        self.shift = nn.Parameter(torch.zeros(len(DOMAINS), len(hidden), max(hidden)))
        self.out = StarLayer(hidden[-1], 1)
        self.auxiliary = nn.Embedding(len(DOMAINS), 1)
        nn.init.zeros_(self.auxiliary.weight)

    def forward(self, features: Features) -> torch.Tensor:
        """Compute logits [B].

        Normalization has scale and shift per domain, statistics of both (paper: of each).
        """
        value, domain = features.flat(), features.domain
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            value = norm(layer(value, domain))
            size = value.shape[1]
            value = torch.relu(value * self.scale[domain, i, :size] + self.shift[domain, i, :size])
        logits: torch.Tensor = (self.out(value, domain) + self.auxiliary(domain)).squeeze(1)
        return logits

"""Target attention over the click history: scaled dot product (Vaswani et al. 2017) with the target item as query."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.data.batches import GAP_BUCKETS


class TargetAttention(nn.Module):
    """What of the history speaks for this item (DIN, Zhou et al. 2018), with the time gap of each click as input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.gap = nn.Parameter(torch.zeros(GAP_BUCKETS, dim))
        self.gap_bias = nn.Parameter(torch.zeros(GAP_BUCKETS, heads))

    def forward(
        self, target: torch.Tensor, history: torch.Tensor, gaps: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """target [B, d], history [B, H, d], gaps [B, H], mask [B, H] true where there is a click → [B, d]."""
        batch, length, dim = history.shape
        clicks = history + self.gap[gaps]
        query = self.query(target).view(batch, self.heads, 1, -1)
        key = self.key(clicks).view(batch, length, self.heads, -1).transpose(1, 2)
        value = self.value(clicks).view(batch, length, self.heads, -1).transpose(1, 2)
        scores = (query * key).sum(-1) / (dim // self.heads) ** 0.5 + self.gap_bias[gaps].transpose(1, 2)
        weights = torch.softmax(scores.masked_fill(~mask[:, None], -1e9), dim=-1)
        pooled = (weights[..., None] * value).sum(2).reshape(batch, dim)
        return pooled * mask.any(1, keepdim=True)

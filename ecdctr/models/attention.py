"""Target attention over the click history.

Scaled dot product (Vaswani et al. 2017) with the target item as query.
"""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.examples.ragged import GAP_BUCKETS

FEW_SPEAK = -2.0  # a click weighs 0.12 at first: a long history is not far from its mean


class TargetAttention(nn.Module):
    """What of the history speaks for this item (DIN, Zhou et al. 2018).

    The time gap of each click is an input.

    A click is its item's vector plus a vector of its gap. Keys and values are linear in it, so
    neither is computed per click: q · (W c) = (Wᵀ q) · c, and a weighted mean of V c is V of the
    weighted mean. What remains per click are two products of a vector with the click's own; the
    gap's share is looked up among GAP_BUCKETS numbers per impression.
    """

    def __init__(self, dim: int, heads: int, intensity: bool = False) -> None:
        """With `intensity` weights are not normalised (DIN, section 4.3).

        Each click has a weight of its own between 0 and 1, and how many speak for the item shows in
        the length of their sum.
        """
        super().__init__()
        self.heads, self.intensity = heads, intensity
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)  # softmax does not see a bias of the keys
        self.value = nn.Linear(dim, dim)
        self.gap = nn.Parameter(torch.zeros(GAP_BUCKETS, dim))
        at_first = FEW_SPEAK if intensity else 0.0
        self.gap_bias = nn.Parameter(torch.full((GAP_BUCKETS, heads), at_first))

    def forward(
        self, target: torch.Tensor, history: torch.Tensor, gaps: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attend from target [B, d] over history [B, H, d] with gaps [B, H] → [B, d].

        The mask [B, H] is true where there is a click.
        """
        (batch, dim), heads = target.shape, self.heads
        size = dim // heads
        query = self.query(target).view(batch, heads, size) / size**0.5
        query = torch.einsum("bhs,hsd->bhd", query, self.key.weight.view(heads, size, dim))
        lookup = Products(gaps) if gaps.is_cuda else Places(gaps, heads)
        scores = query @ history.transpose(1, 2) + lookup.read(query @ self.gap.T + self.gap_bias.T)
        scores = scores.masked_fill(~mask[:, None], -1e9)
        weights = torch.sigmoid(scores) if self.intensity else torch.softmax(scores, dim=-1)
        by_gap = lookup.added(weights)
        clicks = weights @ history + by_gap @ self.gap
        value = torch.einsum(
            "bhd,hsd->bhs", clicks, self.value.weight.view(heads, size, dim)
        ).reshape(batch, dim)
        return (value + self.value.bias) * mask.any(1, keepdim=True)


class Places:
    """Clicks' places among the buckets of their gaps [B, H], looked up: least work."""

    def __init__(self, gaps: torch.Tensor, heads: int) -> None:
        self.index = gaps.long()[:, None].expand(-1, heads, -1)

    def read(self, buckets: torch.Tensor) -> torch.Tensor:
        """Return each click's number out of those of the buckets [B, h, G] → [B, h, H]."""
        return buckets.gather(2, self.index)

    def added(self, weights: torch.Tensor) -> torch.Tensor:
        """Add up the clicks' weights [B, h, H] in each bucket → [B, h, G]."""
        empty = weights.new_zeros(*weights.shape[:2], GAP_BUCKETS)
        return empty.scatter_add(2, self.index, weights)


class Products:
    """The same as products with zeros and ones.

    On a GPU products always add up in the same order, and what looks up does not when it learns.
    """

    def __init__(self, gaps: torch.Tensor) -> None:
        buckets = torch.arange(GAP_BUCKETS, device=gaps.device)
        self.chosen = (gaps[..., None] == buckets).float()  # [B, H, G]

    def read(self, buckets: torch.Tensor) -> torch.Tensor:
        """Return as Places does [B, h, G] → [B, h, H]."""
        return buckets @ self.chosen.transpose(1, 2)

    def added(self, weights: torch.Tensor) -> torch.Tensor:
        """Return as Places does [B, h, H] → [B, h, G]."""
        return weights @ self.chosen

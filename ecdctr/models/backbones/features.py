"""What every backbone gets, and the plain tower that most of them end in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class Features(NamedTuple):
    """One batch in parts, which are joined once.

    Embedding vectors, everything else, and the domain of each row.
    """

    fields: list[
        torch.Tensor
    ]  # [B, k·d] each: fields, pooled multi-valued features, interest from the click history
    rest: list[torch.Tensor]  # [B, …] each: products, numeric features, aggregated snapshots
    domain: torch.Tensor  # int64 [B]

    def flat(self) -> torch.Tensor:
        """Return everything in one vector.

        [B, F·d + R], under autocast in its type, so that no layer converts it again.
        """
        flat = torch.cat([*self.fields, *self.rest], dim=1)
        device = flat.device.type
        return (
            flat.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else flat
        )


class Shape(NamedTuple):
    """Sizes of Features without the batch."""

    fields: int
    dim: int
    rest: int

    @property
    def width(self) -> int:
        """Length of the flat vector."""
        return self.fields * self.dim + self.rest


def tower(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """Stack Linear, BatchNorm and ReLU per hidden size: [B, width] → [B, hidden[-1]]."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers)


def by_domain(values: list[torch.Tensor], domain: torch.Tensor) -> torch.Tensor:
    """Take of one tensor [B, …] per domain each row from its own domain's."""
    first, second = values
    return torch.where((domain == 0).view(-1, *[1] * (first.dim() - 1)), first, second)

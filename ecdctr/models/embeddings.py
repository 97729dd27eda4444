"""All embedding tables as one: a single gather serves every field and the click history."""

from __future__ import annotations

import torch
from torch import nn


class FieldEmbeddings(nn.Module):
    """Tables of several fields, concatenated; gradients are sparse, so a step costs the rows it touches."""

    def __init__(self, rows: dict[str, int], dim: int, seed: int) -> None:
        super().__init__()
        self.rows = rows
        self.offsets: dict[str, int] = {}
        total = 0
        for name, count in rows.items():
            self.offsets[name] = total
            total += count
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(total, dim, generator=generator) * 0.01
        for offset in self.offsets.values():
            weight[offset] = 0.0  # the unknown id: no opinion
        self.table = nn.Embedding(total, dim, sparse=True, _weight=weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Global rows [...] → vectors [..., dim]."""
        return self.table(rows)

    def field(self, name: str) -> torch.Tensor:
        """A view of one field's table [rows, dim]."""
        start = self.offsets[name]
        return self.table.weight[start : start + self.rows[name]]

    @torch.no_grad()
    def load_prefix(self, name: str, table: torch.Tensor) -> None:
        """Carry a parent's rows over. A child's vocabulary extends its parent's, so they are its first rows."""
        self.field(name)[: len(table)] = table.to(self.table.weight.device)

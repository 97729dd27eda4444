"""Snapshot aggregation: K historical TPM vectors of an entity become one (E-CDCTR, arXiv 2408.16238, section 3)."""

from __future__ import annotations

import torch
from torch import nn


class Aggregator(nn.Module):
    """Self-attention over the K snapshots of an entity, mean-pooled; or their mean; or the newest one."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "self_attention":
            self.query = nn.Linear(dim, dim)
            self.key = nn.Linear(dim, dim)
            self.value = nn.Linear(dim, dim)
            with torch.no_grad():  # start as the plain mean of the snapshots
                self.value.weight.copy_(torch.eye(dim))
                self.value.bias.zero_()

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """vectors [n, K, d], newest first; present [n, K] bool → [n, d], zeros where no snapshot knows the entity."""
        if self.kind == "newest":
            return vectors[:, 0] * present[:, :1]
        if self.kind == "self_attention":
            scores = self.query(vectors) @ self.key(vectors).transpose(1, 2) / vectors.shape[-1] ** 0.5
            weights = torch.softmax(scores.masked_fill(~present[:, None], -1e9), dim=-1)
            vectors = weights @ self.value(vectors)
        share = present.float() / present.sum(1, keepdim=True).clamp(min=1)
        return (share[..., None] * vectors).sum(1)


class EntitySnapshots(nn.Module):
    """The snapshots of all users, or of all items, aligned with the rows of the model's vocabulary.

    Unmerged, a lookup gathers K vectors and aggregates them, so that the aggregator learns. Merged, the aggregated
    vectors of all rows stand in one table: with a frozen aggregator both give the same numbers.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    merged: torch.Tensor | None

    def __init__(self, vectors: torch.Tensor, present: torch.Tensor, kind: str) -> None:
        """vectors [rows, K, d], present [rows, K] bool, newest snapshot first."""
        super().__init__()
        self.aggregator = Aggregator(vectors.shape[-1], kind)
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("merged", None, persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [B] → aggregated vectors [B, d]."""
        if self.merged is not None:
            return self.merged[rows]
        return self.aggregator(self.vectors[rows], self.present[rows])

    @torch.no_grad()
    def merge(self) -> None:
        """Aggregate every row once; from then on a lookup reads one row."""
        chunks = zip(self.vectors.split(65_536), self.present.split(65_536), strict=True)
        self.merged = torch.cat([self.aggregator(vectors, present) for vectors, present in chunks])
        self.vectors, self.present = self.vectors[:0], self.present[:0]

    @torch.no_grad()
    def set_merged(self, table: torch.Tensor) -> None:
        """Take a table merged earlier [rows, d]."""
        self.merged = table
        self.vectors, self.present = self.vectors[:0], self.present[:0]

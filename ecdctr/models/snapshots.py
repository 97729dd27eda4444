"""Snapshot aggregation: K historical TPM vectors of an entity become one (E-CDCTR, arXiv 2408.16238, section 3)."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.config import Snapshots


class Aggregator(nn.Module):
    """K vectors of an entity → one. Snapshots that lack the entity have no say.

    self_attention: attention among the K, then their mean (paper). time_attention: the same with a learned vector and
    bias per age. gated: a learned weight per vector. time_decayed: weights that halve with age at a learned rate.
    """

    def __init__(self, count: int, dim: int, settings: Snapshots) -> None:
        super().__init__()
        self.kind, self.presence = settings.aggregation, settings.presence
        self.out_dim = (count * dim if self.kind == "concat" else dim) + 2 * self.presence
        if self.kind in ("self_attention", "time_attention"):
            self.query = nn.Linear(dim, dim)
            self.key = nn.Linear(dim, dim)
            self.value = nn.Linear(dim, dim)
            with torch.no_grad():  # start as the plain mean of the snapshots
                self.value.weight.copy_(torch.eye(dim))
                self.value.bias.zero_()
        if self.kind == "time_attention":
            self.age_key = nn.Parameter(torch.zeros(count, dim))
            self.age_weight = nn.Parameter(torch.zeros(count))
        if self.kind == "gated":
            self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        if self.kind == "time_decayed":
            self.decay = nn.Parameter(torch.zeros(()))  # softplus of it halves the weight per stride
        if settings.missing == "learned":
            self.default = nn.Parameter(torch.zeros(dim))
        else:
            self.register_parameter("default", None)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """vectors [n, K, d], newest first; present [n, K] bool → [n, out_dim], the default where no snapshot knows."""
        pooled = self._pool(vectors, present)
        if self.default is not None:
            default = self.default.repeat(pooled.shape[1] // len(self.default))
            pooled = torch.where(present.any(1, keepdim=True), pooled, default)
        if self.presence:
            flags = torch.stack([present[:, 0].float(), present.float().mean(1)], dim=1)
            pooled = torch.cat([pooled, flags], dim=1)
        return pooled

    def _pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        count, dim = vectors.shape[1:]
        if self.kind == "newest":
            return vectors[:, 0] * present[:, :1]
        if self.kind == "concat":
            return (vectors * present[..., None]).flatten(1)
        weights = present.float()
        if self.kind == "gated":
            weights = weights * torch.sigmoid(self.score(vectors).squeeze(2))
        if self.kind == "time_decayed":
            ages = torch.arange(count, device=vectors.device)
            weights = weights * torch.exp2(-nn.functional.softplus(self.decay) * ages)
        if self.kind in ("self_attention", "time_attention"):
            keys = vectors
            if self.kind == "time_attention":
                keys = vectors + self.age_key
                weights = weights * self.age_weight.exp()
            scores = self.query(keys) @ self.key(keys).transpose(1, 2) / dim**0.5
            attention = torch.softmax(scores.masked_fill(~present[:, None], -1e9), dim=-1)
            vectors = attention @ self.value(vectors)
        share = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
        return (share[..., None] * vectors).sum(1)


class EntitySnapshots(nn.Module):
    """The snapshots of all users, or of all items, aligned with the rows of the model's vocabulary.

    Unmerged, a lookup gathers K vectors and aggregates them, so that the aggregator learns. Merged, the aggregated
    vectors of all rows stand in one table: with a frozen aggregator both give the same numbers.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    merged: torch.Tensor | None

    def __init__(self, vectors: torch.Tensor, present: torch.Tensor, settings: Snapshots) -> None:
        """vectors [rows, K, d], present [rows, K] bool, newest snapshot first."""
        super().__init__()
        self.aggregator: Aggregator | None = Aggregator(vectors.shape[1], vectors.shape[2], settings)
        self.out_dim = self.aggregator.out_dim
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("merged", None, persistent=False)

    @classmethod
    def of_merged(cls, table: torch.Tensor) -> EntitySnapshots:
        """From a table merged earlier [rows, out_dim]: enough to score, the aggregator is gone."""
        snapshots = cls.__new__(cls)
        nn.Module.__init__(snapshots)
        snapshots.aggregator, snapshots.out_dim = None, table.shape[1]
        snapshots.register_buffer("merged", table, persistent=False)
        return snapshots

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [...] → aggregated vectors [..., out_dim]."""
        if self.merged is not None:
            return self.merged[rows]
        assert self.aggregator is not None  # noqa: S101
        if rows.dim() == 1:
            return self.aggregator(self.vectors[rows], self.present[rows])
        unique, inverse = rows.unique(return_inverse=True)  # a history repeats its items
        return self.aggregator(self.vectors[unique], self.present[unique])[inverse]

    @torch.no_grad()
    def merge(self) -> None:
        """Aggregate every row once; from then on a lookup reads one row."""
        assert self.aggregator is not None  # noqa: S101
        chunks = zip(self.vectors.split(65_536), self.present.split(65_536), strict=True)
        self.merged = torch.cat([self.aggregator(vectors, present) for vectors, present in chunks])
        self.vectors, self.present = self.vectors[:0], self.present[:0]

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
            self.key = nn.Linear(dim, dim, bias=False)  # softmax does not see a bias of the keys
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
            self.decay = nn.Parameter(
                torch.zeros(())
            )  # softplus of it halves the weight per stride
        if settings.missing == "learned":
            self.default = nn.Parameter(torch.zeros(dim))
        else:
            self.register_parameter("default", None)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """vectors [K, n, d], newest first; present [K, n] bool → [n, out_dim], the default where no snapshot knows."""
        pooled = self._pool(vectors, present)
        if self.default is not None:
            default = self.default.repeat(pooled.shape[1] // len(self.default))
            pooled = torch.where(present.any(0)[:, None], pooled, default)
        if self.presence:
            flags = torch.stack([present[0].float(), present.float().mean(0)], dim=1)
            pooled = torch.cat([pooled, flags], dim=1)
        return pooled

    def _pool(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        count = len(vectors)
        if self.kind == "newest":
            return vectors[0] * present[0, :, None]
        if self.kind == "concat":
            return (vectors * present[..., None]).transpose(0, 1).flatten(1)
        weights = present.float()
        if self.kind == "gated":
            weights = weights * torch.sigmoid(self.score(vectors).squeeze(2))
        if self.kind == "time_decayed":
            ages = torch.arange(count, device=vectors.device)
            weights = weights * torch.exp2(-nn.functional.softplus(self.decay) * ages)[:, None]
        if self.kind == "time_attention":
            weights = weights * self.age_weight.exp()[:, None]
        share = weights / weights.sum(0).clamp(min=1e-6)
        if self.kind not in ("self_attention", "time_attention"):
            return (share[..., None] * vectors).sum(0)
        keys = vectors if self.kind == "self_attention" else vectors + self.age_key[:, None]
        attention = torch.softmax(self._scores(keys).masked_fill(~present, -1e9), dim=1)
        share = (share[:, None] * attention).sum(0)
        # the value of the mean is the mean of the values, as it is linear, and K times cheaper
        return self.value((share[..., None] * vectors).sum(0)) * share.sum(0)[:, None]

    def _scores(self, keys: torch.Tensor) -> torch.Tensor:
        """Scaled products of all pairs of an entity's snapshots, [K, K, n].

        (Wq k + b) · Wk k' = (Wkᵀ Wq k + Wkᵀ b) · k'
        """
        weight = self.key.weight.T @ self.query.weight
        query = nn.functional.linear(keys, weight, self.query.bias @ self.key.weight)
        return (query[:, None] * keys).sum(-1) / keys.shape[2] ** 0.5


class EntitySnapshots(nn.Module):
    """The snapshots of all users, or of all items, aligned with the rows of the model's vocabulary.

    Unmerged, a lookup gathers K vectors and aggregates them, so that the aggregator learns. Merged, the aggregated
    vectors of all rows stand in one table: with a frozen aggregator both give the same numbers.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    merged: torch.Tensor | None

    def __init__(self, vectors: torch.Tensor, present: torch.Tensor, settings: Snapshots) -> None:
        """vectors [rows, K, d], present [rows, K] bool, newest snapshot first.

        Kept as [K, rows, d], so that the sums over K run along the batch.
        """
        super().__init__()
        self.aggregator: Aggregator | None = Aggregator(
            vectors.shape[1], vectors.shape[2], settings
        )
        self.out_dim = self.aggregator.out_dim
        self.register_buffer("vectors", vectors.transpose(0, 1).contiguous(), persistent=False)
        self.register_buffer("present", present.T.contiguous(), persistent=False)
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
            return nn.functional.embedding(rows, self.merged)
        if rows.dim() == 1:
            return self._aggregate(rows)
        unique, inverse = rows.unique(return_inverse=True)  # a history repeats its items
        return self._aggregate(unique)[inverse]

    def _aggregate(self, rows: torch.Tensor) -> torch.Tensor:
        assert self.aggregator is not None  # noqa: S101
        count, total = self.present.shape
        index = rows + torch.arange(0, count * total, total, device=rows.device)[:, None]
        return self.aggregator(
            nn.functional.embedding(index, self.vectors.flatten(0, 1)),
            self.present.flatten()[index],
        )

    @torch.no_grad()
    def merge(self) -> None:
        """Aggregate every row once; from then on a lookup reads one row."""
        assert self.aggregator is not None  # noqa: S101
        chunks = zip(self.vectors.split(65_536, 1), self.present.split(65_536, 1), strict=True)
        self.merged = torch.cat([self.aggregator(vectors, present) for vectors, present in chunks])
        self.vectors, self.present = self.vectors[:, :0], self.present[:, :0]

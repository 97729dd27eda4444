"""Historical TPM vectors of all users, or of all items: aggregated per lookup, or merged into one table."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.config import Snapshots
from ecdctr.models.aggregations import Aggregation, build_aggregation


class EntitySnapshots(nn.Module):
    """The snapshots of all users, or of all items, aligned with the rows of the model's vocabulary.

    Unmerged, a lookup gathers K vectors and aggregates them, so that the aggregator learns. Merged, the aggregated
    vectors of all rows stand in one table: with a frozen aggregator both give the same numbers.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    merged: torch.Tensor | None

    def __init__(self, vectors: torch.Tensor, present: torch.Tensor, settings: Snapshots) -> None:
        """Vectors [rows, K, d], present [rows, K] bool, newest snapshot first.

        Kept as [K, rows, d], so that the sums over K run along the batch.
        """
        super().__init__()
        aggregator = build_aggregation(vectors.shape[1], vectors.shape[2], settings)
        self.aggregator: Aggregation | None = aggregator
        self.out_dim = aggregator.out_dim
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
        vectors = nn.functional.embedding(index, self.vectors.flatten(0, 1))
        aggregated: torch.Tensor = self.aggregator(vectors, self.present.flatten()[index])
        return aggregated

    @torch.no_grad()
    def merge(self) -> None:
        """Aggregate every row once; from then on a lookup reads one row."""
        assert self.aggregator is not None  # noqa: S101
        chunks = zip(self.vectors.split(65_536, 1), self.present.split(65_536, 1), strict=True)
        self.merged = torch.cat([self.aggregator(vectors, present) for vectors, present in chunks])
        self.vectors, self.present = self.vectors[:, :0], self.present[:, :0]

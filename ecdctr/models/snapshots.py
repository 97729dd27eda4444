"""Historical TPM vectors of all users, or of all items.

They are aggregated at each lookup, or merged into one table per set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.aggregations import Aggregation, build_aggregation
from ecdctr.models.share import ALL, Share

if TYPE_CHECKING:
    from ecdctr.config import Snapshots

ABSENT = -1  # in the place of a version that a set lacks
MERGED_AT_ONCE = 65_536  # rows


class EntitySnapshots(nn.Module):
    """The snapshots of all users, or of all items, aligned with the rows of the model's vocabulary.

    Impressions of different days know different versions: each lookup names a set of them, 0 is
    what serves. Unmerged, a lookup gathers the K vectors of its set and aggregates them, so that
    the aggregator learns. Merged, the aggregated vectors of all rows stand in one table per set:
    with a frozen aggregator both give the same numbers.

    Of several processes each holds its share of the rows, and a lookup asks who has them.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    sets: torch.Tensor
    merged: torch.Tensor | None

    def __init__(
        self,
        vectors: torch.Tensor,
        present: torch.Tensor,
        settings: Snapshots,
        sets: torch.Tensor | None = None,
        share: Share = ALL,
        total: int | None = None,
    ) -> None:
        """Hold vectors [versions, rows, d], present [versions, rows] bool.

        sets [S, K] int64 are places of versions, newest first, or ABSENT; by default one set of all
        versions. The rows are those of the share, of `total` in all.
        """
        super().__init__()
        self.share, self.total = share, vectors.shape[1] if total is None else total
        if sets is None:
            sets = torch.arange(len(vectors))[None]
        aggregator = build_aggregation(sets.shape[1], vectors.shape[2], settings)
        self.aggregator: Aggregation | None = aggregator
        self.out_dim = aggregator.out_dim
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("sets", sets, persistent=False)
        self.register_buffer("merged", None, persistent=False)

    @classmethod
    def of_merged(cls, table: torch.Tensor) -> EntitySnapshots:
        """Make it from a table merged earlier [rows, out_dim]: enough to score."""
        snapshots = cls.__new__(cls)
        nn.Module.__init__(snapshots)
        snapshots.aggregator, snapshots.out_dim = None, table.shape[1]
        snapshots.share, snapshots.total = ALL, len(table)
        snapshots.register_buffer("merged", table[None], persistent=False)
        return snapshots

    def forward(self, rows: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Look rows [B] or [B, H] up → aggregated vectors [..., out_dim].

        sets [B] are those of the impressions.
        """
        if self.share.of > 1:
            return self._from_everywhere(rows, sets)
        if self.merged is not None and len(self.merged) == 1:
            return nn.functional.embedding(rows, self.merged[0])
        place = self._places(rows, sets)
        if self.merged is not None:
            return nn.functional.embedding(place, self.merged.flatten(0, 1))
        if rows.dim() == 1:
            return self._aggregate(rows, sets)
        if rows.is_cuda:  # a GPU would have to be asked how many are distinct
            each = self._aggregate(rows.flatten(), sets[:, None].expand_as(rows).flatten())
            return each.view(*rows.shape, -1)
        unique, inverse = place.unique(return_inverse=True)  # a history repeats its items
        return self._aggregate(unique % self.total, unique // self.total)[inverse]

    def _places(self, rows: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Return a number for each row and its set: rows [B] or [B, H], sets [B]."""
        return sets.view(-1, *[1] * (rows.dim() - 1)) * self.total + rows

    def _from_everywhere(self, rows: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Do the same where each process holds a share; all of them call it at once."""
        distinct, places = self._places(rows, sets).flatten().unique(return_inverse=True)
        asked = torch.stack([distinct % self.total, distinct // self.total], 1)
        if self.merged is not None:
            vectors = self.share.fetch(self.total, asked, self._merged_of)
        else:
            gathered = self.share.fetch(self.total, asked, self._vectors_of)
            assert self.aggregator is not None  # noqa: S101  # not merged yet
            gathered = gathered.transpose(0, 1)  # [K, n, d + 1]
            vectors = self.aggregator(gathered[..., :-1].contiguous(), gathered[..., -1] > 0)
        return vectors[places].view(*rows.shape, -1)

    def _merged_of(self, asked: torch.Tensor) -> torch.Tensor:
        """Return the merged vectors of rows held and their sets [n, 2] → [n, out_dim]."""
        assert self.merged is not None  # noqa: S101  # the caller's
        row, number = asked.unbind(1)
        return self.merged[number if len(self.merged) > 1 else 0, row]

    def _vectors_of(self, asked: torch.Tensor) -> torch.Tensor:
        """Return vectors and presence in rows held and their sets [n, 2] → [n, K, d + 1]."""
        vectors, present = self._gathered(*asked.unbind(1))
        return torch.cat([vectors, present[..., None].float()], 2).transpose(0, 1)

    def _aggregate(self, rows: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Aggregate rows held [n] in sets [n] → [n, out_dim]."""
        assert self.aggregator is not None  # noqa: S101  # not merged yet
        aggregated: torch.Tensor = self.aggregator(*self._gathered(rows, sets))
        return aggregated

    def _gathered(
        self, rows: torch.Tensor, sets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the versions of sets [n] know of rows held [n]: [K, n, d], bool [K, n]."""
        versions = self.sets.index_select(0, sets).T  # [K, n]
        index = versions.clamp(min=0) * self.present.shape[1] + rows
        vectors = nn.functional.embedding(index, self.vectors.flatten(0, 1))
        return vectors, self.present.flatten()[index] & (versions != ABSENT)

    @torch.no_grad()
    def merge(self, serving_only: bool = False) -> None:
        """Aggregate every row once per set; from then on a lookup reads one row."""
        count = 1 if serving_only else len(self.sets)
        if self.merged is None:
            self.merged = self._merge_sets(count)
            self.vectors, self.present = self.vectors.new_empty(0), self.present.new_empty(0)
        if count < len(self.merged):
            self.merged = self.merged[:count].clone()
        self.sets = self.sets[:count]

    def _merge_sets(self, count: int) -> torch.Tensor:
        """Aggregate every row in the first sets [count, rows, out_dim]."""
        held = self.present.shape[1]
        merged = self.vectors.new_empty(count, held, self.out_dim)
        for number in range(count):
            for rows in torch.arange(held, device=self.present.device).split(MERGED_AT_ONCE):
                aggregated = self._aggregate(rows, torch.full_like(rows, number))
                merged[number].index_copy_(0, rows, aggregated)
        return merged

"""The one network of CPM and A-CTR: all features, target attention, aggregated snapshots, MLP with BatchNorm."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.config import Config
from ecdctr.data.batches import Batch, Inputs
from ecdctr.models.attention import TargetAttention
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.snapshots import EntitySnapshots


class CtrNet(nn.Module):
    """CPM and A-CTR. Without snapshots (K = 0) the same network with fewer inputs."""

    field_offsets: torch.Tensor
    multi_offsets: torch.Tensor

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        rows: dict[str, int],
        seed: int,
        snapshots: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        """snapshots: for 'user' and 'item' the vectors [rows, K, d] and their presence [rows, K]; None for K = 0."""
        super().__init__()
        self.inputs = inputs
        dim = config.network.embedding_dim
        self.embeddings = FieldEmbeddings(rows, dim, seed)
        offsets = self.embeddings.offsets
        self.register_buffer("field_offsets", torch.tensor([offsets[n] for n in inputs.fields]), persistent=False)
        multi_offsets = [offsets[name] for name, width in inputs.multi for _ in range(width)]
        self.register_buffer("multi_offsets", torch.tensor(multi_offsets, dtype=torch.int64), persistent=False)
        self.item_offset = offsets["item_id"]
        torch.manual_seed(seed + 1)
        self.attention = TargetAttention(dim, config.network.attention_heads)
        self.numeric_norm = nn.BatchNorm1d(len(inputs.numeric))
        width = dim * (len(inputs.fields) + len(inputs.multi) + 3) + len(inputs.numeric)
        self.snapshots = nn.ModuleDict()
        if snapshots:
            for side, (vectors, present) in snapshots.items():
                self.snapshots[side] = EntitySnapshots(vectors, present, config.snapshots.aggregation)
                width += vectors.shape[-1]
            width += next(iter(snapshots.values()))[0].shape[-1]
        layers: list[nn.Module] = []
        for hidden in config.network.hidden:
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [B]."""
        fields, multi = batch.ids.shape[1], batch.multi.shape[1]
        rows = torch.cat(
            [batch.ids + self.field_offsets, batch.multi + self.multi_offsets, batch.history + self.item_offset], dim=1
        )
        vectors = self.embeddings(rows)
        user, item = vectors[:, 0], vectors[:, 1]
        parts = [vectors[:, :fields].flatten(1), user * item]
        start = fields
        for _, width in self.inputs.multi:
            mask = (batch.multi[:, start - fields : start - fields + width] > 0).float()
            values = vectors[:, start : start + width] * mask[..., None]
            parts.append(values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
            start += width
        interest = self.attention(item, vectors[:, fields + multi :], batch.gaps, batch.history > 0)
        parts += [interest, interest * item, self.numeric_norm(batch.numeric)]
        if self.snapshots:
            long_user = self.snapshots["user"](batch.ids[:, 0])
            long_item = self.snapshots["item"](batch.ids[:, 1])
            parts += [long_user, long_item, long_user * long_item]
        return self.mlp(torch.cat(parts, dim=1)).squeeze(1)

    def merge_snapshots(self) -> None:
        """Replace the K snapshot tables by one merged table per entity (E-CDCTR: freeze and merge)."""
        for entity in self.snapshots.values():
            assert isinstance(entity, EntitySnapshots)  # noqa: S101
            entity.merge()

    def freeze_aggregator(self) -> None:
        """Stop the aggregators from learning."""
        for parameter in self.snapshots.parameters():
            parameter.requires_grad_(False)

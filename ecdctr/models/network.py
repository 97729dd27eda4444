"""The one network of CPM and A-CTR.

All features, click history, aggregated snapshots, and a backbone over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.attention import TargetAttention
from ecdctr.models.backbones import Features, Shape, build_backbone
from ecdctr.models.backbones.mlp import Mlp
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.share import ALL, Share
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.source import Adapters, FrozenSource

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.examples.batches import Batch, Inputs


ATTENTION = ("target_attention", "intensity_attention")


class CtrNet(nn.Module):
    """CPM and A-CTR. Without snapshots (K = 0) the same network with fewer inputs."""

    field_offsets: torch.Tensor
    multi_offsets: torch.Tensor
    history_offsets: torch.Tensor

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        rows: dict[str, int],
        seed: int,
        snapshots: dict[str, EntitySnapshots] | None = None,
        source: FrozenSource | None = None,
        share: Share = ALL,
    ) -> None:
        """Take `snapshots` of 'user' and 'item', None for K = 0.

        `rows` are those of each vocabulary; `source` is a pre-trained network, of KEEP or CTNet;
        `share` says which rows of the tables this process holds.
        """
        super().__init__()
        self.inputs, self.settings = inputs, config.network
        dim = config.network.embedding_dim
        self.embeddings = FieldEmbeddings(rows, dim, seed, share)
        offsets = self.embeddings.offsets
        self.register_buffer(
            "field_offsets", torch.tensor([offsets[n] for n in inputs.fields]), persistent=False
        )
        multi_offsets = [offsets[name] for name, width in inputs.multi for _ in range(width)]
        self.register_buffer(
            "multi_offsets", torch.tensor(multi_offsets, dtype=torch.int64), persistent=False
        )
        self.widths = [width for _, width in inputs.multi]
        clicked = [offsets[name] for name in inputs.history_fields]
        self.register_buffer(
            "history_offsets", torch.tensor(clicked, dtype=torch.int64), persistent=False
        )
        self.of_click = [inputs.fields.index(name) for name in inputs.history_features]
        torch.manual_seed(seed + 1)
        if config.network.history in ATTENTION:
            intensity = config.network.history == "intensity_attention"
            self.attention = TargetAttention(dim, config.network.attention_heads, intensity)
        self.numeric_norm = nn.BatchNorm1d(len(inputs.numeric)) if inputs.numeric else nn.Identity()
        self.snapshots = nn.ModuleDict(snapshots or {})
        reads_history = config.network.history != "none"
        fields = len(inputs.fields) + len(inputs.multi) + reads_history
        rest = dim * (1 + reads_history) + len(inputs.numeric)
        if snapshots:
            rest += self._add_snapshots(config, snapshots)
            if config.snapshots.history:
                self.long_term = nn.Linear(snapshots["item"].out_dim, dim, bias=False)
        self.source = source
        if self.source and config.actr.source == "keep":
            rest += config.network.hidden[-1]
        self.backbone = build_backbone(Shape(fields, dim, rest), config.network)
        if self.source and config.actr.source in {"keep_added", "ctnet"}:
            assert isinstance(self.backbone, Mlp)  # noqa: S101  # the configuration says so
            self.adapters = Adapters(config.network.hidden, config.actr.source == "ctnet")

    def _add_snapshots(self, config: Config, snapshots: dict[str, EntitySnapshots]) -> int:
        """Make what reads the snapshots; return how many inputs they are."""
        sizes = [entity.out_dim for entity in snapshots.values()]
        if config.snapshots.inputs == "vectors":
            return sum(sizes) + min(sizes)
        self.product_norm = nn.BatchNorm1d(config.snapshots.count)
        return config.snapshots.count

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute logits [B]."""
        features = self.features(batch)
        logits: torch.Tensor
        if self.source is None:
            logits = self.backbone(features)
        elif hasattr(self, "adapters"):
            logits = self.adapters(self.backbone, features, self.source(batch))
        else:
            knowledge = self.source(batch)[-1]
            logits = self.backbone(features._replace(rest=[*features.rest, knowledge]))
        return logits

    def features(self, batch: Batch) -> Features:
        """Return what the backbone reads."""
        single, multi, clicks = self.embeddings(
            batch.ids + self.field_offsets,
            batch.multi + self.multi_offsets,
            batch.history + self.history_offsets.repeat_interleave(batch.gaps.shape[1]),
        )
        user, item, *_ = single.unbind(1)
        parts, rest = [single.flatten(1)], [user * item]
        for values, rows in zip(
            multi.split(self.widths, 1), batch.multi.split(self.widths, 1), strict=True
        ):
            mask = (rows > 0).float()
            parts.append((values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        long_user = long_item = None
        if self.snapshots:
            long_user, long_item = (
                self.snapshots["user"](batch.ids[:, 0], batch.snapshots),
                self.snapshots["item"](batch.ids[:, 1], batch.snapshots),
            )
        if self.settings.history != "none":
            # a click is its item and features, added up, and so is what is asked for
            target = item + single[:, self.of_click].sum(1) if self.of_click else item
            interest = self._interest(batch, target, clicks, long_item)
            parts.append(interest)
            rest.append(interest * target)
        rest.append(self.numeric_norm(self._numbers(batch)))
        if long_user is not None and long_item is not None:
            rest += self._of_snapshots(long_user, long_item)
        return Features(parts, rest, batch.domain)

    def _of_snapshots(self, user: torch.Tensor, item: torch.Tensor) -> list[torch.Tensor]:
        """Return aggregated vectors [B, d] and their product, or each snapshot's product [B, K]."""
        if hasattr(self, "product_norm"):
            count = self.product_norm.num_features
            products = (user * item).unflatten(1, (count, -1)).sum(2)
            return [self.product_norm(products)]
        size = min(user.shape[1], item.shape[1])
        return [user, item, user[:, :size] * item[:, :size]]

    def _numbers(self, batch: Batch) -> torch.Tensor:
        """Return the numeric features [B, N].

        What is unknown of memory counts as its mean so far.
        """
        if not self.inputs.memory:
            return batch.numeric
        mean = self.numeric_norm.running_mean
        assert isinstance(mean, torch.Tensor)  # noqa: S101  # a buffer of BatchNorm
        return torch.where(batch.numeric.isnan(), mean, batch.numeric)

    def knowledge(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers [B, h] each, for a child that is taught.

        KEEP, CTNet. The batch's rows are those of the own tables. Raises TypeError for a backbone
        without hidden layers of its own.
        """
        if not isinstance(self.backbone, Mlp):
            raise TypeError(f"{type(self.backbone).__name__} hands on no hidden layers.")
        return self.backbone.layers(self.features(batch))

    def _interest(
        self, batch: Batch, item: torch.Tensor, clicks: torch.Tensor, long_item: torch.Tensor | None
    ) -> torch.Tensor:
        length = batch.gaps.shape[1]
        items = batch.history[:, :length]
        if self.of_click:
            clicks = clicks.unflatten(1, (-1, length)).sum(1)
        mask = items > 0
        if long_item is not None and hasattr(self, "long_term"):
            item = item + self.long_term(long_item)
            aggregated = self.snapshots["item"](items, batch.snapshots)
            clicks = clicks + self.long_term(aggregated)
        if self.settings.history in ATTENTION:
            interest: torch.Tensor = self.attention(item, clicks, batch.gaps, mask)
            return interest
        return (clicks * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def merge_snapshots(self, serving_only: bool = False) -> None:
        """Replace the K snapshot tables of a set by one merged table per entity.

        E-CDCTR: freeze and merge.

        `serving_only` keeps the set that serves and forgets those of the days of training.
        """
        for entity in self.snapshots.values():
            assert isinstance(entity, EntitySnapshots)  # noqa: S101  # torch forgets it
            entity.merge(serving_only)

    def freeze_aggregator(self) -> None:
        """Stop the aggregators from learning."""
        for parameter in self.snapshots.parameters():
            parameter.requires_grad_(False)

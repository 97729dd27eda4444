"""TPM, the Tiny Pre-training Model: a shallow MLP over the embeddings of a few fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.share import ALL, Share

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.examples.batches import Batch, Inputs


class TpmNet(nn.Module):
    """Embeddings of user, item and a few more fields, their user-item product, a shallow MLP."""

    field_offsets: torch.Tensor

    def __init__(
        self, config: Config, inputs: Inputs, rows: dict[str, int], seed: int, share: Share = ALL
    ) -> None:
        super().__init__()
        self.inputs = inputs
        dim = config.tpm.embedding_dim
        self.embeddings = FieldEmbeddings(rows, dim, seed, share)
        offsets = torch.tensor([self.embeddings.offsets[name] for name in inputs.fields])
        self.register_buffer("field_offsets", offsets, persistent=False)
        torch.manual_seed(seed + 1)
        layers: list[nn.Module] = []
        width = dim * (len(inputs.fields) + 1)
        for hidden in config.tpm.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute logits [B]."""
        (vectors,) = self.embeddings(batch.ids + self.field_offsets)
        user, item, *_ = vectors.unbind(1)
        product = user * item
        logits: torch.Tensor = self.mlp(torch.cat([vectors.flatten(1), product], dim=1)).squeeze(
            1
        ) + product.sum(1)
        return logits

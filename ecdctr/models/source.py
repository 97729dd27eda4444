"""A pre-trained network that helps another one without being trained: KEEP-like and CTNet-like transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ecdctr.examples.batches import Batch
from ecdctr.models.backbones.features import Features
from ecdctr.models.backbones.mlp import Mlp

if TYPE_CHECKING:
    from ecdctr.models.network import CtrNet


class FrozenSource(nn.Module):
    """The hidden layers of a CPM, in inference mode whatever the mode of the network around it."""

    def __init__(self, network: CtrNet) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenSource:
        """Stay in inference mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> list[torch.Tensor]:
        """Outputs of the hidden layers, [B, h] each. Rows that the source does not know become its unknown row."""
        network = self.network
        assert isinstance(network.backbone, Mlp)  # noqa: S101
        rows, inputs = network.embeddings.rows, network.inputs
        ids = _known(batch.ids, [rows[name] for name in inputs.fields])
        multi = _known(
            batch.multi, [rows[name] for name, width in inputs.multi for _ in range(width)]
        )
        history = _known(batch.history, [rows["item_id"]] * batch.history.shape[1])
        return network.backbone.layers(
            network.features(replace(batch, ids=ids, multi=multi, history=history))
        )


class Adapters(nn.Module):
    """CTNet (Liu et al. 2022, arXiv 2208.05728): each hidden layer receives a mapped copy of the source's.

    Here: h ← layer(h) + A(source h), A linear and zero at first.
    """

    def __init__(self, backbone: Mlp, hidden: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(size, size) for size in hidden)
        for layer in self.maps:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, backbone: Mlp, features: Features, knowledge: list[torch.Tensor]
    ) -> torch.Tensor:
        """Logits [B] of the backbone with the source's hidden layers mixed in."""
        value: Any = features.flat()
        for i, (layer, known) in enumerate(zip(self.maps, knowledge, strict=True)):
            value = backbone.hidden[3 * i : 3 * i + 3](value) + layer(known)
        return backbone.out(value).squeeze(1)


def _known(rows: torch.Tensor, limits: list[int]) -> torch.Tensor:
    """A child's vocabulary extends its parent's: what lies beyond the parent's rows is unknown to it."""
    return rows * (rows < torch.tensor(limits, dtype=rows.dtype, device=rows.device))

"""A pre-trained network that teaches another one without being trained.

KEEP-like and CTNet-like transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from ecdctr.examples.batches import Batch
    from ecdctr.models.backbones.features import Features
    from ecdctr.models.backbones.mlp import Mlp


class Knowing(Protocol):
    """A network that can be asked for what its hidden layers say."""

    def knowledge(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers, [B, h] each."""


class FrozenSource(nn.Module):
    """The hidden layers of a CPM, in inference mode whatever the mode of the network around it."""

    def __init__(self, network: nn.Module) -> None:
        """network: one that is Knowing."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenSource:
        """Stay in inference mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers, [B, h] each."""
        return cast("Knowing", self.network).knowledge(batch)


class Adapters(nn.Module):
    """CTNet (Liu et al. 2022, arXiv 2208.05728).

    Each hidden layer receives a mapped copy of the source's. Here: h ← layer(h) + A(source h), A
    linear and zero at first.
    """

    def __init__(self, backbone: Mlp, hidden: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(size, size) for size in hidden)
        for parameter in self.maps.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, backbone: Mlp, features: Features, knowledge: list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute logits [B] of the backbone with the source's hidden layers mixed in."""
        value: Any = features.flat()
        for i, (layer, taught) in enumerate(zip(self.maps, knowledge, strict=True)):
            value = backbone.hidden[3 * i : 3 * i + 3](value) + layer(taught)
        logits: torch.Tensor = backbone.out(value).squeeze(1)
        return logits

"""A pre-trained network that teaches another one without being trained.

KEEP-like and CTNet-like transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ecdctr.examples.batches import Batch, Inputs
    from ecdctr.models.backbones.features import Features
    from ecdctr.models.backbones.mlp import Mlp


class Knowing(Protocol):
    """A network that can be asked for what its hidden layers say."""

    inputs: Inputs

    def knowledge(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers, [B, h] each."""


class FrozenSource(nn.Module):
    """The hidden layers of a CPM, in inference mode whatever the mode of the network around it."""

    def __init__(self, network: nn.Module, rows: dict[str, NDArray[np.int32]]) -> None:
        """Take a network over.

        Args:
            network: one that is Knowing.
            rows: for each vocabulary the row that the id of each of the child's rows has in the
                network's own tables [the child's rows]; 0 where it does not know the id.
        """
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        for name, of_child in rows.items():
            self.register_buffer(f"rows_{name}", torch.from_numpy(of_child), persistent=False)

    def train(self, mode: bool = True) -> FrozenSource:
        """Stay in inference mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the hidden layers, [B, h] each."""
        return cast("Knowing", self.network).knowledge(self.translated(batch))

    def translated(self, batch: Batch) -> Batch:
        """Return a batch of the child's rows as rows of the network's own tables."""
        inputs = cast("Knowing", self.network).inputs
        multi = [name for name, width in inputs.multi for _ in range(width)]
        clicked = [name for name in inputs.history_fields for _ in range(batch.gaps.shape[1])]
        history = self._columns(batch.history, clicked)
        ids, multi_rows = self._columns(batch.ids, inputs.fields), self._columns(batch.multi, multi)
        return replace(batch, ids=ids, multi=multi_rows, history=history)

    def rows(self, name: str) -> torch.Tensor:
        """Return the network's row of each of the child's rows of a vocabulary, int32 [rows]."""
        return self.get_buffer(f"rows_{name}")

    def _columns(self, rows: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        if not names:
            return rows
        columns = zip(names, rows.long().unbind(1), strict=True)
        return torch.stack([self.rows(name)[column] for name, column in columns], 1)


class Adapters(nn.Module):
    """Add to hidden layers what the source's say: h ← layer(h) + A(source h).

    A is linear and zero at first. CTNet (Liu et al. 2022, arXiv 2208.05728): each layer receives a
    mapped copy of the source's own. KEEP (Zhang et al. 2022, arXiv 2208.10174): the first one
    receives the source's last.
    """

    def __init__(self, hidden: Sequence[int], every_layer: bool) -> None:
        """Take the sizes of the hidden layers, which are the source's too."""
        super().__init__()
        taught = zip(hidden, hidden, strict=True) if every_layer else [(hidden[-1], hidden[0])]
        self.maps = nn.ModuleList(nn.Linear(theirs, size) for theirs, size in taught)
        self.every_layer = every_layer
        for parameter in self.maps.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, backbone: Mlp, features: Features, knowledge: list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute logits [B] of the backbone with the source's hidden layers mixed in."""
        added = knowledge if self.every_layer else knowledge[-1:]
        value: Any = features.flat()
        for i in range(len(knowledge)):
            value = backbone.hidden[3 * i : 3 * i + 3](value)
            if i < len(added):
                value = value + self.maps[i](added[i])
        logits: torch.Tensor = backbone.out(value).squeeze(1)
        return logits

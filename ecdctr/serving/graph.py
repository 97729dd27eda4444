"""The network as a server calls it.

What it reads of ids comes with the batch, not from tables of its own.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from ecdctr.errors import EcdctrError
from ecdctr.examples.batches import Batch
from ecdctr.files import durable
from ecdctr.models.checkpoint import SIDES
from ecdctr.models.source import FrozenSource

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ecdctr.models.network import CtrNet
    from ecdctr.models.snapshots import EntitySnapshots
    from ecdctr.serving import tables

OPSET = 20
INPUTS = ("ids", "multi", "numeric", "history", "gaps", "rows")


class Rows:
    """What a network reads of an id, side by side: its own vector, its teacher's, merged snapshots.

    `parts` are their widths. A vocabulary that is neither of users nor of items has no snapshots,
    which therefore stand last.
    """

    def __init__(self, network: CtrNet) -> None:
        self.networks, self.source = [network], network.source
        if network.source is not None:
            self.networks.append(cast("CtrNet", network.source.network))
        self.parts: list[int] = []
        for one in self.networks:
            self.parts.append(one.embeddings.table.embedding_dim)
        self.parts += [1] * (len(self.networks) - 1)  # whether the teacher knows the id
        for one in self.networks:
            if one.snapshots:
                self.parts.append(max(_merged(one, side).shape[1] for side in SIDES))

    @property
    def width(self) -> int:
        """Numbers of an id."""
        return sum(self.parts)

    def of(self, name: str) -> tables.Rows:
        """Return the parts of a vocabulary's rows."""
        side = {name: side for side, name in SIDES.items()}.get(name)

        def rows(numbers: NDArray[np.int64]) -> list[NDArray[np.float32]]:
            index = torch.from_numpy(numbers)
            places = [index]  # in the tables of each network
            if self.source is not None:
                places.append(self.source.rows(name)[index].long())
            each = list(zip(self.networks, places, strict=True))
            taken = [one.embeddings.field(name)[place] for one, place in each]
            taken += [(place > 0).float()[:, None] for place in places[1:]]
            if side:
                taken += [_merged(one, side)[place] for one, place in each if one.snapshots]
            return [
                nn.functional.pad(part.detach(), (0, width - part.shape[1])).numpy()
                for part, width in zip(taken, self.parts, strict=False)
            ]

        return rows


class Probability(nn.Module):
    """Ads, probabilities instead of logits, and the rows of ids from the batch."""

    def __init__(self, network: CtrNet) -> None:
        """Take a network over; its tables are dropped."""
        super().__init__()
        self.slices = _slices(Rows(network), network)
        if network.source is not None:
            network.source = _LocalSource(network.source)
            _drop_tables(cast("CtrNet", network.source.network))
        _drop_tables(network)
        self.network = network

    def forward(
        self,
        ids: torch.Tensor,
        multi: torch.Tensor,
        numeric: torch.Tensor,
        history: torch.Tensor,
        gaps: torch.Tensor,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Compute click probabilities [B]; ids, multi and history are places in rows [U, width]."""
        ads = torch.ones_like(ids[:, 0])
        numeric = self._with_means(numeric)
        batch = Batch(ids, multi, numeric, history, gaps, ads, ads - 1, ads.float())
        parts = {name: rows[:, start:end] for name, (start, end) in self.slices.items()}
        parts |= {name: part[None] for name, part in parts.items() if name.endswith(".merged")}
        return torch.sigmoid(torch.func.functional_call(self.network, parts, (batch,)))

    def _with_means(self, numeric: torch.Tensor) -> torch.Tensor:
        """Put its mean in training for each number [B, N] that a request does not know.

        Those of memory are left to the network, whose teacher has means of its own.
        """
        norm = self.network.numeric_norm
        if not isinstance(norm, nn.BatchNorm1d):
            return numeric
        others = norm.num_features - self.network.inputs.memory
        mean = cast("torch.Tensor", norm.running_mean)
        told, memory = numeric[:, :others], numeric[:, others:]
        return torch.cat([torch.where(told.isnan(), mean[:others], told), memory], 1)


class _LocalSource(FrozenSource):
    """A teacher whose ids are places in the batch's rows.

    It does not see the clicks that it does not know.
    """

    knows: torch.Tensor

    def __init__(self, source: FrozenSource) -> None:
        super().__init__(source.network, {})
        self.register_buffer("knows", torch.zeros(1, 1))

    def translated(self, batch: Batch) -> Batch:
        """Return the batch without the clicks and values that the teacher does not know."""
        length = batch.gaps.shape[1]
        items, features = batch.history[:, :length], batch.history[:, length:]
        history = torch.cat([self._masked(items), features], 1)
        return replace(batch, multi=self._masked(batch.multi), history=history)

    def _masked(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep the places of ids that the teacher knows; the others become 0, which pads."""
        seen = nn.functional.embedding(rows, self.knows)[..., 0].round().to(rows.dtype)
        return rows * seen


def _slices(rows: Rows, network: CtrNet) -> dict[str, tuple[int, int]]:
    """Return which numbers of a row stand for which tensor of the network."""
    ends = np.cumsum(rows.parts).tolist()
    spans = iter(zip([0, *ends[:-1]], ends, strict=True))
    names = ["", *(["source.network."] if network.source is not None else [])]
    slices = {f"{name}embeddings.table.weight": next(spans) for name in names}
    if network.source is not None:
        slices["source.knows"] = next(spans)
    for name, one in zip(names, rows.networks, strict=True):
        if not one.snapshots:
            continue
        start, _ = next(spans)
        for side in SIDES:
            width = _merged(one, side).shape[1]
            slices[f"{name}snapshots.{side}.merged"] = (start, start + width)
    return slices


def _merged(network: CtrNet, side: str) -> torch.Tensor:
    entity = cast("EntitySnapshots", network.snapshots[side])
    assert entity.merged is not None  # noqa: S101  # merged for serving
    return entity.merged[0]  # of a stored version there is one set, that which serves


def _drop_tables(network: CtrNet) -> None:
    """Leave a network without tables and offsets: ids are places in one small table."""
    embeddings = network.embeddings
    embeddings.table = nn.Embedding(1, embeddings.table.embedding_dim).requires_grad_(False)
    network.field_offsets.zero_()
    network.multi_offsets.zero_()
    network.history_offsets.zero_()
    for side in network.snapshots:
        entity = cast("EntitySnapshots", network.snapshots[side])
        entity.merged = torch.zeros(1, 1, _merged(network, side).shape[1])


def write_graphs(
    graph: Probability, arguments: tuple[torch.Tensor, ...], folder: Path, tolerance: float
) -> None:
    """Write model.pt2 for runtimes of PyTorch, and model.onnx from the same exported program.

    arguments: an example of each of INPUTS [B, …]; B may be another in each call.
    Raises EcdctrError where the program differs from the graph by more than the tolerance.
    """
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in INPUTS)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        exported = torch.export.export(graph, arguments, dynamic_shapes=shapes)
        worst = float((exported.module()(*arguments) - graph(*arguments)).abs().max())
        if not worst <= tolerance:
            raise EcdctrError(
                f"The exported graph differs from the network by {worst:.1e}; nothing was written."
            )
        content = io.BytesIO()  # torch's own writer ends the process where a disk is full
        torch.export.save(exported, content)
        durable.write_bytes(folder / "model.pt2", content.getvalue())
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=["probability"],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # noqa: S101  # torch gives one
        program.save(folder / "model.onnx")

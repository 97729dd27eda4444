"""All embedding tables as one: a single gather serves every field and the click history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARRIED_AT_ONCE = 1 << 20  # rows; bounds what is held twice


class Block(NamedTuple):
    """The rows that a batch reads: what a step learns.

    Each row once, or with `fixed_shapes` as often as it is read.
    """

    rows: torch.Tensor  # int64 [U]
    vectors: torch.Tensor  # float32 [U, d], a leaf of the graph


class FieldEmbeddings(nn.Module):
    """Tables of several fields, concatenated.

    In training a batch gets a block of the rows that it reads, each once, and gradients go to this
    block: a step costs the rows it touches, however large the tables, and the optimizer has nothing
    to merge. How many distinct rows that are is not known before; with `fixed_shapes` a block has a
    row for each that is read, the optimizer adds up what belongs together, and nothing of a step
    has a size that depends on the ids: so a GPU can repeat it without asking.
    """

    fixed_shapes = False

    def __init__(self, rows: dict[str, int], dim: int, seed: int) -> None:
        super().__init__()
        self.rows = rows
        self.offsets: dict[str, int] = {}
        total = 0
        for name, count in rows.items():
            self.offsets[name] = total
            total += count
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(total, dim, generator=generator) * 0.01
        for offset in self.offsets.values():
            weight[offset] = 0.0  # the unknown id: no opinion
        self.table = nn.Embedding(total, dim, _weight=weight)
        self.table.weight.requires_grad_(False)  # RowAdam writes the block's rows back
        self.position = torch.empty(0, dtype=torch.int64)
        self.block: Block | None = None

    @staticmethod
    def of(model: nn.Module) -> FieldEmbeddings:
        """Return a network's tables; raises TypeError for a network without them."""
        embeddings = model.embeddings
        if not isinstance(embeddings, FieldEmbeddings):
            raise TypeError(f"{type(model).__name__} has no embedding tables.")
        return embeddings

    def forward(self, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Look several tensors of global rows up: each [...] → its vectors [..., dim].

        Once per training step.
        """
        if not self.training:
            return tuple(self.table(part) for part in rows)
        if self.fixed_shapes:
            taken = self.take(torch.cat([part.flatten() for part in rows]))
            pieces = zip(rows, taken.split([part.numel() for part in rows]), strict=True)
            return tuple(piece.view(*part.shape, taken.shape[1]) for part, piece in pieces)
        if len(self.position) == 0:
            self.position = torch.empty(
                len(self.table.weight), dtype=torch.int64, device=rows[0].device
            )
        distinct, places = distinct_rows(
            torch.cat([part.flatten() for part in rows]), self.position
        )
        vectors = self.take(distinct)
        parts = zip(rows, places.split([part.numel() for part in rows]), strict=True)
        return tuple(
            vectors.index_select(0, place).view(*part.shape, vectors.shape[1])
            for part, place in parts
        )

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the vectors of rows [U] → [U, dim], the block of this step."""
        vectors = self.table.weight.index_select(0, rows).requires_grad_()
        self.block = Block(rows, vectors)
        return vectors

    def field(self, name: str) -> torch.Tensor:
        """Return a view of one field's table [rows, dim]."""
        start = self.offsets[name]
        return self.table.weight[start : start + self.rows[name]]

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this process's part [r, …] of something [R, …] with a row for each of the tables'.

        All of it, unless sharded (models/sharded.py).
        """
        return whole

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Join what `part` took apart: [r, …] of each process → [R, …]."""
        return part

    @torch.no_grad()
    def load(self, name: str, table: torch.Tensor, rows: NDArray[np.int32]) -> None:
        """Carry a parent's vectors over; `rows` [own rows] as in `carry`."""
        carry(table, rows, self.field(name))


@torch.no_grad()
def carry(source: torch.Tensor, rows: NDArray[np.int32], target: torch.Tensor) -> None:
    """Copy row rows[r] of a parent's table to row r of a child's, and row 0 to row 0.

    Where rows[r] is 0 the parent lacks the id, and the child's row stays as it is. Source [n, d],
    rows [m], target [m, d].
    """
    carried = np.flatnonzero(rows)
    for part in np.split(carried, range(CARRIED_AT_ONCE, len(carried), CARRIED_AT_ONCE)):
        target[torch.from_numpy(part)] = source[torch.from_numpy(rows[part]).long()]
    target[0] = source[0]


def distinct_rows(rows: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct values of rows [n] and each row's place among them [n].

    It is torch.unique without a sort.

    `position` [rows of the table] is scratch memory. Every occurrence writes its own place under
    its row and reads back whose stayed: those that find their own speak for the row.
    """
    places = torch.arange(len(rows), device=rows.device)
    position.index_copy_(0, rows, places)
    distinct = rows[position.index_select(0, rows) == places]
    position.index_copy_(0, distinct, places[: len(distinct)])
    return distinct, position.index_select(0, rows)


def summed_by_row(rows: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the gradients of each row: rows [n], gradient [n, d] → rows in order [n], sums [n, d].

    A row that is read k times stands k times in the result, each time with its whole sum. Always
    the same to the last bit, since a sort decides the order of the sums.
    """
    ordered, order = rows.sort(stable=True)
    begins = (ordered[1:] != ordered[:-1]).cumsum(0)
    number = torch.cat([begins.new_zeros(1), begins])
    sums: torch.Tensor = torch.ops.aten.embedding_dense_backward(
        gradient.index_select(0, order), number, len(rows), -1, False
    )
    return ordered, sums.index_select(0, number)


def tables_of(model: nn.Module) -> FieldEmbeddings:
    """Return the embedding tables of a model that is not sharded."""
    embeddings = model.embeddings
    assert isinstance(embeddings, FieldEmbeddings)  # noqa: S101  # torch types attributes as modules
    return embeddings

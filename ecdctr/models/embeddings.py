"""All embedding tables as one: a single gather serves every field and the click history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from ecdctr.models.share import ALL, AT_ONCE, Share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.models.tensors import Stored

LACKED = -1  # in the place of a parent's row, of an id that the parent lacks


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

    Of several processes each holds its share of the rows of all fields together.
    """

    fixed_shapes = False

    def __init__(self, rows: dict[str, int], dim: int, seed: int, share: Share = ALL) -> None:
        super().__init__()
        self.rows, self.share = rows, share
        self.offsets: dict[str, int] = {}
        self.total = 0
        for name, count in rows.items():
            self.offsets[name] = self.total
            self.total += count
        self.held = share.rows(self.total)
        weight = drawn(self.total, dim, seed, self.held)
        for offset in self.offsets.values():
            if offset in self.held:
                weight[offset - self.held.start] = 0.0  # the unknown id: no opinion
        self.table = nn.Embedding(len(self.held), dim, _weight=weight)
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
            return tuple(self._read(part) for part in rows)
        if self.fixed_shapes:
            taken = self.take(torch.cat([part.flatten() for part in rows]))
            pieces = zip(rows, taken.split([part.numel() for part in rows]), strict=True)
            return tuple(piece.view(*part.shape, taken.shape[1]) for part, piece in pieces)
        distinct, places = self._distinct(torch.cat([part.flatten() for part in rows]))
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

    def _distinct(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct values of rows [n] and each row's place among them [n]."""
        if len(self.position) == 0:
            self.position = torch.empty(
                len(self.table.weight), dtype=torch.int64, device=rows.device
            )
        return distinct_rows(rows, self.position)

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the vectors of rows [...] → [..., dim], without learning."""
        if self.share.of == 1:
            vectors: torch.Tensor = self.table(rows)
            return vectors
        distinct, places = rows.flatten().long().unique(return_inverse=True)
        weight = self.table.weight
        read = self.share.fetch(self.total, distinct[:, None], lambda asked: weight[asked[:, 0]])
        return read[places].view(*rows.shape, -1)

    def held_of(self, name: str) -> range:
        """Return which rows of a field this process holds, counted from the field's first."""
        start, count = self.offsets[name], self.rows[name]
        first, end = (min(max(at - start, 0), count) for at in (self.held.start, self.held.stop))
        return range(first, end)

    def of_field(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of what belongs to a field in a tensor over the rows held [r, …]."""
        held, before = self.held_of(name), self.offsets[name] - self.held.start
        return tensor[before + held.start : before + held.stop] if held else tensor[:0]

    def field(self, name: str) -> torch.Tensor:
        """Return a view of the rows held of one field's table [rows, dim]."""
        return self.of_field(name, self.table.weight)

    @torch.no_grad()
    def load(self, name: str, table: Stored, rows: NDArray[np.int32]) -> None:
        """Carry a parent's vectors over; `rows` [rows held of the field] as in `carry`."""
        carry(table, rows, self.field(name))


def drawn(total: int, dim: int, seed: int, held: range) -> torch.Tensor:
    """Return the first values of some of all rows [rows held, dim].

    They are drawn for all rows and kept for these, so that a row's are the same whoever holds it.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.empty(len(held), dim)
    start = 0
    while start < total:  # torch draws a whole as its parts, but for the end of a part that is odd
        count = AT_ONCE if total - start >= 2 * AT_ONCE else total - start
        part = torch.randn(count, dim, generator=generator) * 0.01
        first, end = max(start, held.start), min(start + count, held.stop)
        if first < end:
            kept[first - held.start : end - held.start] = part[first - start : end - start]
        start += count
    return kept


@torch.no_grad()
def carry(source: Stored, rows: NDArray[np.int32], target: torch.Tensor) -> None:
    """Copy row rows[r] of a parent's table to row r of a child's.

    Where rows[r] is LACKED the parent lacks the id, and the child's row stays as it is. Source
    [n, d], rows [m], target [m, d].
    """
    carried = np.flatnonzero(rows != LACKED)
    for part in np.split(carried, range(AT_ONCE, len(carried), AT_ONCE)):
        taken = source[torch.from_numpy(rows[part]).long()]
        target[torch.from_numpy(part)] = taken.to(target.device)


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

"""Chunks of prepared examples → batches of tensors.

Mapped to rows, shuffled inside a chunk, one chunk ahead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecdctr.config.terms import IDS
from ecdctr.errors import ContractError, StoreError
from ecdctr.examples import histories
from ecdctr.examples.chunks import OF_PART, WHOLE, Part, Shard, read_chunks
from ecdctr.examples.ragged import pad
from ecdctr.examples.transforms import COUNT_FEATURES
from ecdctr.memory.columns import input_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Config, Level
    from ecdctr.examples.vocabulary import Vocabulary

CPU = torch.device("cpu")
ENCODERS = 8  # pieces of a chunk that are encoded at once for a GPU


@dataclass(frozen=True)
class Inputs:
    """What a level's model reads. `fields` starts with user_id and item_id."""

    fields: tuple[str, ...]
    multi: tuple[tuple[str, int], ...]
    numeric: tuple[str, ...]
    history_length: int
    memory: int = 0  # as many of the numbers, the last ones, are a user's memory; nan is unknown
    history_features: tuple[str, ...] = ()  # fields that stand beside the ids of the history

    @classmethod
    def of(cls, config: Config, level: Level) -> Inputs:
        """Return the inputs of a level.

        TPM's few, or everything declared, the hour, the counts and the click history.
        """
        if level == "tpm":
            return cls((*IDS, *(f.name for f in config.features if f.tpm)), (), (), 0)
        single = tuple(f.name for f in config.features if f.kind == "categorical")
        multi = tuple((f.name, f.max_values) for f in config.features if f.kind == "multi_valued")
        numeric = tuple(f.name for f in config.features if f.kind == "numeric")
        hour = () if "hour" in single else ("hour",)
        memory: list[str] = []
        if config.memory.enabled:
            memory = input_names(config.memory_keys, config.memory.windows)
        return cls(
            (*IDS, *single, *hour),
            multi,
            (*numeric, *COUNT_FEATURES, *memory),
            config.data.history_length,
            len(memory),
            config.data.history_features,
        )

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Names of all fields that have a vocabulary."""
        return (*self.fields, *(name for name, _ in self.multi))

    @property
    def columns(self) -> list[str]:
        """Columns read from the examples."""
        features = map(histories.of_feature, self.history_features)
        history = ["ts", histories.ITEMS, histories.TIMES, *features] if self.history_length else []
        return [*self.vocabularies, *self.numeric, *history, "click"]

    @property
    def history_fields(self) -> tuple[str, ...]:
        """Vocabularies of what is read of each click of the history, the item's own first."""
        return ("item_id", *self.history_features) if self.history_length else ()


@dataclass(frozen=True)
class Batch:
    """Rows of embedding tables and numbers.

    B batch, F fields, M values of all multi-valued fields, H history, G its fields, one after
    another: H item rows, then H rows of its first feature.
    """

    ids: torch.Tensor  # int32 [B, F]
    multi: torch.Tensor  # int32 [B, M], 0 pads
    numeric: torch.Tensor  # float32 [B, N]
    history: torch.Tensor  # int32 [B, G * H] rows, newest click first, 0 of an item pads
    gaps: torch.Tensor  # uint8 [B, H] log2 bucket of the seconds since each click, 0 pads
    domain: torch.Tensor  # int64 [B], 0 natural content, 1 ads
    snapshots: torch.Tensor  # int64 [B], number of the set of snapshots, 0 is what serves
    label: torch.Tensor  # float32 [B]

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def empty(cls, part: Part, inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Batch:
        """Return a batch of no rows, of the shapes that a part's rows would have."""
        schema = pq.read_schema(part.path)
        for name, kind in OF_PART.items():
            schema = schema.append(pa.field(name, kind))
        return encode(schema.empty_table(), inputs, vocabularies)

    @classmethod
    def concat(cls, batches: list[Batch]) -> Batch:
        """Join batches one after another."""
        if len(batches) == 1:
            return batches[0]
        return cls(*(torch.cat([getattr(batch, f.name) for batch in batches]) for f in fields(cls)))

    def take(self, index: torch.Tensor | slice) -> Batch:
        """Return the chosen rows: of a tensor [k] of row numbers, or a slice."""
        tensors = [getattr(self, f.name) for f in fields(self)]
        if isinstance(index, slice):
            return Batch(*(tensor[index] for tensor in tensors))
        # copies whole rows, where indexing would copy number by number
        return Batch(*(tensor.index_select(0, index) for tensor in tensors))

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device.

        To a GPU it goes through pinned memory, beside what runs there, and has arrived at the end.
        """
        tensors = [getattr(self, f.name) for f in fields(self)]
        if device.type != "cuda":
            return Batch(*(tensor.to(device) for tensor in tensors))
        beside = torch.cuda.Stream(device)
        with torch.cuda.stream(beside):
            moved = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
        beside.synchronize()
        for tensor in moved:
            tensor.record_stream(torch.cuda.current_stream(device))  # who reads it from now on
        return Batch(*moved)


def encode(table: pa.Table, inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Batch:
    """Map a table from read_chunks to rows and numbers.

    Raises ContractError for a number that is not finite.
    """
    rows = table.num_rows
    missing = sorted(set(inputs.columns) - set(table.column_names)) if rows else []
    if missing:
        raise ContractError(
            f"The prepared rows lack {', '.join(missing)}, which the version reads; use the "
            "configuration, or the variant, that it was trained with."
        )
    with ThreadPoolExecutor(1) as beside:  # histories are as much work as everything else
        clicks = beside.submit(_histories, table, inputs, vocabularies)
        ids, multi, numeric = _values(table, inputs, vocabularies)
        history, gaps = clicks.result()
    label = table.column("click").to_numpy().astype(np.float32)
    domain = table.column("domain").to_numpy().astype(np.int64)
    sets = table.column("snapshots").to_numpy().astype(np.int64)
    arrays = (ids, multi, numeric, history, gaps, domain, sets, label)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _values(
    table: pa.Table, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return Batch.ids [B, F], Batch.multi [B, M] and Batch.numeric [B, N]."""
    rows = table.num_rows
    ids = np.empty((rows, len(inputs.fields)), dtype=np.int32)
    for i, name in enumerate(inputs.fields):
        ids[:, i] = _rows(vocabularies, name, table.column(name).combine_chunks())
    padded = [np.zeros((rows, 0), dtype=np.int32)]
    for name, width in inputs.multi:
        values, lengths = _flat(table.column(name))
        padded.append(pad(_rows(vocabularies, name, values), lengths, width))
    numeric = np.empty((rows, len(inputs.numeric)), dtype=np.float32)
    for i, name in enumerate(inputs.numeric):
        numeric[:, i] = table.column(name).to_numpy()
        if i >= len(inputs.numeric) - inputs.memory:
            continue
        if not np.isfinite(numeric[:, i]).all():
            bad = int((~np.isfinite(numeric[:, i])).sum())
            raise ContractError(
                f"Numeric feature {name}: expected finite numbers, found {bad} others of {rows} "
                "rows."
            )
    return ids, np.concatenate(padded, axis=1), numeric


def _histories(
    table: pa.Table, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return Batch.history [B, G * H] and Batch.gaps [B, H]."""
    if not inputs.history_length:
        return np.zeros((len(table), 0), np.int32), np.zeros((len(table), 0), np.uint8)
    columns = [histories.ITEMS, *map(histories.of_feature, inputs.history_features)]
    lookups = [partial(_rows, vocabularies, name) for name in inputs.history_fields]
    fields = list(zip(columns, lookups, strict=True))
    # rows of one file share an array of clicks, so that files are not joined before
    return histories.encoded(table.to_batches(), fields, inputs.history_length)


def _rows(vocabularies: dict[str, Vocabulary], name: str, ids: pa.Array) -> NDArray[np.int32]:
    try:
        return vocabularies[name].lookup(ids)
    except StoreError as error:
        raise StoreError(f"{name}: {error}") from None


class Cut(NamedTuple):
    """How rows become batches: the same cut gives the same ones."""

    batch_size: int
    chunk_rows: int  # rows that are read, encoded and shuffled together
    seed: int
    shard: Shard = WHOLE

    @property
    def least(self) -> int:
        """Rows of the smallest batch: BatchNorm cannot use one alone, but one of a shard's."""
        return 2 if self.shard.of == 1 else 1

    def batches(self, rows: int) -> int:
        """Return how many batches a chunk of so many rows gives."""
        return math.ceil(rows / self.batch_size) - (0 < rows % self.batch_size < self.least)


def training_batches(
    parts: list[Part],
    inputs: Inputs,
    vocabularies: dict[str, Vocabulary],
    cut: Cut,
    *,
    skip: int = 0,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yield shuffled batches over the parts, chunk by chunk in their order.

    The same seed gives the same batches. Chunks are read, encoded and brought to the device one
    ahead, and batches are cut from them there. For a GPU, which would wait otherwise, a chunk is
    encoded in pieces at once.

    A last batch of one row is left out, but not of a shard. `skip` leaves the first batches out:
    of them, whole chunks are read but not encoded.
    """
    # epochs move the seed by one
    generator = torch.Generator().manual_seed(cut.seed + 500 * cut.shard.number)
    tables = read_chunks(parts, inputs.columns, cut.chunk_rows, cut.seed, cut.shard)
    encoder = _Encoder(inputs, vocabularies, cut, skip, device)
    with encoder.pool:
        for rows, chunk, first in _one_ahead(map(encoder, tables)):
            order = torch.randperm(rows, generator=generator)  # drawn for skipped ones as well
            if chunk is None:
                continue
            order = order.to(device)
            for start in range(first, rows, cut.batch_size):
                index = order[start : start + cut.batch_size]
                if len(index) >= cut.least:
                    yield chunk.take(index)


class _Chunk(NamedTuple):
    rows: int
    batch: Batch | None  # None: all of its batches are skipped
    first: int  # row of the shuffled chunk to begin at


class _Encoder:
    """Makes chunks of tables, on the device; it skips so many batches of the first ones."""

    def __init__(
        self,
        inputs: Inputs,
        vocabularies: dict[str, Vocabulary],
        cut: Cut,
        skip: int,
        device: torch.device,
    ) -> None:
        self.inputs, self.vocabularies, self.device = inputs, vocabularies, device
        self.cut, self.skip = cut, skip
        self.pieces = ENCODERS if device.type == "cuda" else 1
        self.pool = ThreadPoolExecutor(self.pieces)

    def __call__(self, table: pa.Table) -> _Chunk:
        batches = self.cut.batches(table.num_rows)
        if self.skip >= batches:
            self.skip -= batches
            return _Chunk(table.num_rows, None, 0)
        first, self.skip = self.skip * self.cut.batch_size, 0
        height = math.ceil(table.num_rows / self.pieces)
        parts = [table.slice(start, height) for start in range(0, table.num_rows, height)]
        return _Chunk(table.num_rows, Batch.concat(list(self.pool.map(self._piece, parts))), first)

    def _piece(self, table: pa.Table) -> Batch:
        return encode(table, self.inputs, self.vocabularies).to(self.device)


def _one_ahead(chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
    """Yield chunks, of which a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = reader.submit(next, chunks, None)
            yield chunk


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    return lists.flatten(), np.diff(offsets)

"""Parquet examples → batches of tensors.

Read in chunks, mapped to rows, shuffled inside a chunk, one chunk ahead.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecdctr.config import DOMAINS, Config, Domain, Level
from ecdctr.config.terms import IDS
from ecdctr.errors import ContractError, StoreError
from ecdctr.examples.ragged import gap_buckets, pad
from ecdctr.examples.transforms import COUNT_FEATURES
from ecdctr.memory.columns import input_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.examples.vocabulary import Vocabulary

CPU = torch.device("cpu")
ENCODERS = 8  # pieces of a chunk that are encoded at once for a GPU
OF_PART = {"domain": pa.int8(), "snapshots": pa.int16()}  # columns that all rows of a part share


class Shard(NamedTuple):
    """One of several consecutive pieces of every part.

    No row is in two of them, none in neither.
    """

    number: int = 0
    of: int = 1

    def rows(self, total: int) -> tuple[int, int]:
        """Return the first row and the one after the last."""
        return total * self.number // self.of, total * (self.number + 1) // self.of


WHOLE = Shard()


class Part(NamedTuple):
    """One day's examples of a domain, or some of them.

    `share` draws at random, `moments` by user and time, always the same ones. With `hold_out_every`
    n, each n-th row of the file is held out: the others are read, or with `held_out` only those.
    `snapshots` is the number of the set of TPM snapshots that its rows are given.
    """

    path: Path
    domain: Domain
    share: float = 1.0
    hold_out_every: int = 0
    held_out: bool = False
    snapshots: int = 0
    moments: float = 1.0

    @property
    def rows(self) -> int:
        """Rows that are read, about."""
        total = pq.read_metadata(self.path).num_rows * self.share * self.moments
        held_out = total / self.hold_out_every if self.hold_out_every else 0
        return round(held_out if self.held_out else total - held_out)


@dataclass(frozen=True)
class Inputs:
    """What a level's model reads. `fields` starts with user_id and item_id."""

    fields: tuple[str, ...]
    multi: tuple[tuple[str, int], ...]
    numeric: tuple[str, ...]
    history_length: int
    memory: int = 0  # as many of the numbers, the last ones, are a user's memory; nan is unknown

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
        )

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Names of all fields that have a vocabulary."""
        return (*self.fields, *(name for name, _ in self.multi))

    @property
    def columns(self) -> list[str]:
        """Columns read from the examples."""
        history = ["history", "history_gap"] if self.history_length else []
        return [*self.vocabularies, *self.numeric, *history, "click"]


@dataclass(frozen=True)
class Batch:
    """Rows of embedding tables and numbers.

    B batch, F fields, M values of all multi-valued fields, H history.
    """

    ids: torch.Tensor  # int32 [B, F]
    multi: torch.Tensor  # int32 [B, M], 0 pads
    numeric: torch.Tensor  # float32 [B, N]
    history: torch.Tensor  # int32 [B, H] item rows, newest first, 0 pads
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
        return Batch(*(getattr(self, f.name)[index] for f in fields(self)))

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
    history, gaps = np.zeros((rows, 0), dtype=np.int32), np.zeros((rows, 0), dtype=np.uint8)
    if inputs.history_length:
        values, lengths = _flat(table.column("history"))
        history = pad(_rows(vocabularies, "item_id", values), lengths, inputs.history_length)
        seconds, _ = _flat(table.column("history_gap"))
        bucket = gap_buckets(seconds.to_numpy(zero_copy_only=False))
        gaps = pad(bucket, lengths, inputs.history_length)
    label = table.column("click").to_numpy().astype(np.float32)
    domain = table.column("domain").to_numpy().astype(np.int64)
    sets = table.column("snapshots").to_numpy().astype(np.int64)
    arrays = (ids, np.concatenate(padded, axis=1), numeric, history, gaps, domain, sets, label)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _rows(vocabularies: dict[str, Vocabulary], name: str, ids: pa.Array) -> NDArray[np.int32]:
    try:
        return vocabularies[name].lookup(ids)
    except StoreError as error:
        raise StoreError(f"{name}: {error}") from None


def read_chunks(
    parts: list[Part],
    columns: list[str] | None,
    chunk_rows: int,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> Iterator[pa.Table]:
    """Yield tables of about `chunk_rows` rows in the order of the parts, with the columns OF_PART.

    A share of a part is drawn by the seed, the part's position and the shard.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for position, part in enumerate(parts):
        draw = np.random.default_rng(
            [seed, position, shard.number] if shard.number else [seed, position]
        )
        names = [*columns, "ts"] if columns and part.moments < 1 else columns
        for start, batch in _read_rows(part.path, names, chunk_rows, shard):
            keep = np.ones(batch.num_rows, dtype=bool)
            if part.hold_out_every:
                index = np.arange(start, start + batch.num_rows)
                keep = (index % part.hold_out_every == 0) == part.held_out
            if part.share < 1:
                keep &= draw.random(batch.num_rows) < part.share
            if part.moments < 1:
                keep &= drawn_moments(batch, part.moments)
            kept = batch if keep.all() else batch.filter(pa.array(keep))
            kept = kept.select(columns) if columns else kept
            added = zip((DOMAINS.index(part.domain), part.snapshots), OF_PART.values(), strict=True)
            same = [pa.repeat(pa.scalar(value, kind), kept.num_rows) for value, kind in added]
            arrays = [*kept.columns, *same]
            # by names: one day's file says that a column has no nulls, another's does not
            waiting.append(pa.record_batch(arrays, names=[*kept.schema.names, *OF_PART]))
            rows += kept.num_rows
            if rows >= chunk_rows:
                yield _joined(waiting)
                waiting, rows = [], 0
    if rows:
        yield _joined(waiting)


def drawn_moments(rows: pa.RecordBatch | pa.Table, share: float) -> NDArray[np.bool_]:
    """Say which rows stay where a share of the moments of users is drawn, always the same ones.

    `rows` [n] have the columns user_id and ts; returns [n].
    """
    times = rows.column("ts").cast(pa.int64()).to_pylist()
    users = rows.column("user_id").to_pylist()
    keys = (f"{user}/{time}".encode() for user, time in zip(users, times, strict=True))
    return np.fromiter(map(zlib.crc32, keys), np.float64, len(users)) < share * 2**32


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    """Return one table.

    A column that is null throughout a day (of type null) takes the type of the other days.
    """
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    return pa.concat_tables(tables, promote_options="permissive")


def _read_rows(
    path: Path, columns: list[str] | None, chunk_rows: int, shard: Shard
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of a shard of a file with the number of the first.

    Row groups without any are not read.
    """
    with pq.ParquetFile(path) as file:
        first, end = shard.rows(file.metadata.num_rows)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = [i for i, last in enumerate(ends) if last > first and last - sizes[i] < end]
        at = int(ends[groups[0]] - sizes[groups[0]]) if groups else 0
        for batch in (
            file.iter_batches(batch_size=chunk_rows, columns=columns, row_groups=groups)
            if groups
            else ()
        ):
            start, stop = max(at, first), min(at + batch.num_rows, end)
            if stop > start:
                yield start, batch.slice(start - at, stop - start)
            at += batch.num_rows


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

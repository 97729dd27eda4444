"""Prepared examples → tables of some thousand rows: which rows are read, and in which order."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import DOMAINS, Domain
from ecdctr.examples import histories

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def read_chunks(
    parts: list[Part],
    columns: list[str] | None,
    chunk_rows: int,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> Iterator[pa.Table]:
    """Yield tables of about `chunk_rows` rows in the order of the parts, with the columns OF_PART.

    Columns are those of the files, all where none are named; histories come as list views. A share
    of a part is drawn by the seed, the part's position and the shard.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for position, part in enumerate(parts):
        draw = np.random.default_rng(
            [seed, position, shard.number] if shard.number else [seed, position]
        )
        names = histories.stored_columns(columns) if columns else None
        if names and part.moments < 1 and "ts" not in names:
            names = [*names, "ts"]
        clicks: histories.Clicks | None = None
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
            if histories.are_in(kept):
                clicks = clicks or histories.Clicks.read(part.path)
                kept = clicks.seen_by(kept)
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
    tables = [pa.Table.from_batches([batch]) for batch in histories.alike(batches)]
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

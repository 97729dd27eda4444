"""The click histories of a prepared day, each click stored once.

Beside a day's rows lie the clicks that they look back on: those of a user one after another, newest
first. A row says where its own begin and how many they are, so that twenty rows of a user share
what they see instead of having twenty copies (RecD, Zhao et al. 2023, arXiv 2211.05239).

Read, they are Arrow's list views: places in an array that all rows of a file share.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ContractError
from ecdctr.examples import transforms
from ecdctr.examples.ragged import gap_buckets, pad
from ecdctr.files import durable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Lookup = Callable[[pa.Array], "NDArray[np.int32]"]  # ids [n] → rows [n]
STORED = ("history_start", "history_length")  # columns of the rows, integers
TIMES = "history_ts"
ITEMS = "history"


def clicks_path(rows: Path) -> Path:
    """Return where the clicks of a file of rows lie."""
    return rows.with_name(f"{rows.stem}.clicks.parquet")


def is_whole(path: Path) -> bool:
    """Tell whether a file of rows and its clicks are there and hold what they held when written."""
    return all([durable.is_whole(each) for each in (clicks_path(path), path)])  # each says so


@contextlib.contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """Do as durable.sealing does, for rows and the clicks beside them, which are in place first."""
    with durable.sealing(path) as temporary:
        try:
            yield temporary
            with durable.sealing(clicks_path(path)) as clicks:
                os.replace(clicks_path(temporary), clicks)
        finally:
            clicks_path(temporary).unlink(missing_ok=True)


def of_feature(name: str) -> str:
    """Return the column with a feature of the history's items; no declared one is named so."""
    return f"{ITEMS}.{name}"


class Clicks(NamedTuple):
    """The clicks that the rows of a file look back on, by the column that shows them."""

    columns: dict[str, pa.Array]  # [clicks] each
    path: Path

    @classmethod
    def read(cls, rows: Path) -> Clicks:
        """Read the clicks of a file of rows; raises ContractError where they are missing."""
        path = clicks_path(rows)
        try:
            table = pq.read_table(path, partitioning=None)
        except FileNotFoundError:
            raise ContractError(
                f"{rows} lacks the clicks of its histories, expected in {path.name} beside it; "
                "keep the two files together, or prepare the day again."
            ) from None
        columns = {_shown_as(name): table.column(name) for name in table.column_names}
        return cls({name: column.combine_chunks() for name, column in columns.items()}, path)

    def seen_by(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows [n] with the lists that they look back on in place of STORED.

        Raises ContractError for rows of another file.
        """
        start, length = (pc.fill_null(rows.column(name), 0) for name in STORED)
        ends = start.to_numpy(zero_copy_only=False) + length.to_numpy(zero_copy_only=False)
        count = len(self.columns[ITEMS])
        if len(ends) and ends.max() > count:
            raise ContractError(
                f"{self.path}: expected the clicks of its rows, at least {ends.max():,}, found "
                f"{count:,}; keep the two files together, or prepare the day again."
            )
        kept = [name for name in rows.schema.names if name not in STORED]
        places = start.cast(pa.int32()), length.cast(pa.int32())
        lists = {
            name: pa.ListViewArray.from_arrays(*places, values)
            for name, values in self.columns.items()
        }
        arrays = [*(rows.column(name) for name in kept), *lists.values()]
        return pa.record_batch(arrays, names=[*kept, *lists])


def are_in(rows: pa.RecordBatch) -> bool:
    """Tell whether rows, as they are stored, look back on clicks."""
    return STORED[0] in rows.schema.names


def stored_columns(columns: list[str]) -> list[str]:
    """Return the columns of a file of rows that hold what is asked for, each once."""
    lists = [name for name in columns if name in {ITEMS, TIMES} or name.startswith(of_feature(""))]
    rest = [name for name in columns if name not in lists]
    return [*rest, *STORED] if lists else rest


def encoded(
    rows: pa.RecordBatch, fields: Sequence[tuple[str, Lookup]], width: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the histories of rows [n], newest click first, 0 pads.

    `fields` are columns of lists and how their values are looked up, G of them. Returns their rows
    side by side [n, G * width], and the buckets of the seconds since each click [n, width]. A click
    is looked up once, however many rows see it.
    """
    items = rows.column(ITEMS)
    lengths = items.sizes.to_numpy().astype(np.int64)
    before = np.cumsum(lengths) - lengths
    places = np.arange(lengths.sum()) + np.repeat(items.offsets.to_numpy() - before, lengths)
    blocks = [
        pad(_looked_up(rows.column(name).values, places, lookup), lengths, width)
        for name, lookup in fields
    ]
    clicked = _microseconds(rows.column(TIMES).values)[places]
    moments = np.repeat(_microseconds(rows.column("ts")), lengths)
    seconds = transforms.gap(moments, clicked).astype(np.float32)
    return np.concatenate(blocks, axis=1), pad(gap_buckets(seconds), lengths, width)


def _looked_up(values: pa.Array, places: NDArray[np.int64], lookup: Lookup) -> NDArray[np.int32]:
    """Return the rows of the values at some places [n]: of all of them, or where less, of these."""
    if len(values) <= len(places):
        return lookup(values)[places]
    return lookup(values.take(pa.array(places)))


def _microseconds(times: pa.Array) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _shown_as(column: str) -> str:
    names = {"item_id": ITEMS, "ts": TIMES}
    return names.get(column) or of_feature(column)

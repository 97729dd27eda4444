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
from ecdctr.examples.ragged import gap_buckets
from ecdctr.files import durable

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHED = 1 << 15  # clicks that are worked on at once
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
            names = [name for name in pq.read_schema(path).names if name != "user_id"]
            table = pq.read_table(path, columns=names, partitioning=None)
        except FileNotFoundError:
            raise ContractError(
                f"{rows} lacks the clicks of its histories, expected in {path.name} beside it; "
                "keep the two files together, or prepare the day again."
            ) from None
        return cls({_shown_as(name): table.column(name).combine_chunks() for name in names}, path)

    def seen_by(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows [n] with the lists that they look back on in place of STORED.

        Raises ContractError for rows of another file.
        """
        start, length = (pc.fill_null(rows.column(name), 0).cast(pa.int64()) for name in STORED)
        least = pc.min(pa.chunked_array([start, length])).as_py() or 0
        most, count = pc.max(pc.add(start, length)).as_py() or 0, len(self.columns[ITEMS])
        if least < 0 or most > count:
            raise ContractError(
                f"{self.path}: its rows look back on clicks from {min(least, 0):,} to {most:,}, "
                f"found {count:,}; keep the two files together, or prepare the day again."
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


def alike(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Give lists of a feature that holds nothing the type that they have in another batch."""
    typed: dict[str, pa.DataType] = {}
    for batch in batches:
        lists = [field for field in batch.schema if pa.types.is_list_view(field.type)]
        typed |= {f.name: f.type for f in lists if not pa.types.is_null(f.type.value_type)}
    return [_typed(batch, typed) for batch in batches]


def _typed(batch: pa.RecordBatch, typed: dict[str, pa.DataType]) -> pa.RecordBatch:
    arrays = {name: batch.column(name) for name in batch.schema.names}
    for name, kind in typed.items():
        lists = arrays.get(name)
        if lists is not None and pa.types.is_null(lists.type.value_type):
            values = lists.values.cast(kind.value_type)
            arrays[name] = pa.ListViewArray.from_arrays(lists.offsets, lists.sizes, values)
    return pa.record_batch([*arrays.values()], names=[*arrays])


def stored_columns(columns: list[str]) -> list[str]:
    """Return the columns of a file of rows that hold what is asked for, each once."""
    lists = [name for name in columns if name in {ITEMS, TIMES} or name.startswith(of_feature(""))]
    rest = [name for name in columns if name not in lists]
    return [*rest, *STORED] if lists else rest


def encoded(
    pieces: Sequence[pa.RecordBatch], fields: Sequence[tuple[str, Lookup]], width: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the newest clicks of rows [n] in pieces, newest first, at most `width`; 0 pads.

    `fields` are columns of lists and how their values are looked up, G of them. Returns their rows
    side by side [n, G * width], and the buckets of the seconds since each click [n, width]. A click
    is looked up once in each piece, however many rows see it.
    """
    count = sum(map(len, pieces))
    history = np.zeros((count, len(fields), width), np.int32)
    gaps = np.zeros((count, width), np.uint8)
    start = 0
    for rows in pieces:
        part = slice(start, start + len(rows))
        _encode(rows, fields, history[part], gaps[part])
        start += len(rows)
    return history.reshape(count, len(fields) * width), gaps


def _encode(
    rows: pa.RecordBatch,
    fields: Sequence[tuple[str, Lookup]],
    history: NDArray[np.int32],
    gaps: NDArray[np.uint8],
) -> None:
    """Write the histories of rows [n] into zeros: history [n, G, width], gaps [n, width]."""
    items = rows.column(ITEMS)
    starts = items.offsets.to_numpy().astype(np.int64)
    lengths = np.minimum(items.sizes.to_numpy(), gaps.shape[1]).astype(np.int64)
    shared = _reach(starts, lengths)
    starts -= shared.start
    seen = _seen(starts, lengths, len(shared))
    shown = [(rows.column(name).values[shared.start : shared.stop], find) for name, find in fields]
    looked_up = [_looked_up(values, seen, lookup) for values, lookup in shown]
    times = rows.column(TIMES).values[shared.start : shared.stop]
    clicked, moments = map(_microseconds, (times, rows.column("ts")))
    at_once = max(1, CACHED * len(rows) // max(1, int(lengths.sum())))
    for first in range(0, len(rows), at_once):  # what is made between stays in the cache
        part = slice(first, first + at_once)
        length = lengths[part]
        holds = np.arange(gaps.shape[1]) < length[:, None]
        row = np.repeat(np.arange(len(length)), length)
        shift = starts[part] - np.cumsum(length) + length
        places = np.arange(len(row)) + shift[row]
        seconds = transforms.gap(moments[part][row], clicked[places]).astype(np.float32)
        gaps[part][holds] = gap_buckets(seconds)
        for n, values in enumerate(looked_up):
            history[part, n][holds] = values[places]


def _reach(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> range:
    """Return from the first to the last click that lies in any of the slices [n]."""
    held = lengths > 0
    if not held.any():
        return range(0)
    return range(int(starts[held].min()), int((starts + lengths)[held].max()))


def _seen(starts: NDArray[np.int64], lengths: NDArray[np.int64], clicks: int) -> NDArray[np.bool_]:
    """Return which clicks [clicks] lie in any of the slices [n]."""
    held = lengths > 0
    begins, ends = (
        np.bincount(at[held], minlength=clicks + 1) for at in (starts, starts + lengths)
    )
    seen: NDArray[np.bool_] = np.cumsum(begins - ends)[:clicks] > 0
    return seen


def _looked_up(values: pa.Array, seen: NDArray[np.bool_], lookup: Lookup) -> NDArray[np.int32]:
    """Return the rows of the clicks' values [clicks], 0 for those that nobody sees."""
    if seen.all():
        return lookup(values)
    rows = np.zeros(len(values), np.int32)
    rows[seen] = lookup(values.filter(pa.array(seen)))
    return rows


def _microseconds(times: pa.Array) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _shown_as(column: str) -> str:
    names = {"item_id": ITEMS, "ts": TIMES}
    return names.get(column) or of_feature(column)

"""Raw id → embedding row. Row 0 stands for every id that is not known.

Whose a row is stands in the vocabulary of the version. Rows are only ever appended, unless
examples/admission.py evicts: then a freed row goes to another id.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import StoreError
from ecdctr.files import duck

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

AT_ONCE = 1 << 18  # ids that are looked up at once, where they are many
DENSE = 16  # ids that fill at least a 16th of their range are looked up in a table over the range


class Sightings(NamedTuple):
    """When ids were last seen and how often; each id once."""

    ids: pa.Array  # [n]
    last: NDArray[np.int32]  # [n] days since 1970
    counts: NDArray[np.int64]  # [n] impressions


class _Index(NamedTuple):
    """Where the rows of integers are found, either in a table over their range or by order."""

    low: int = 0  # the first of the range
    table: NDArray[np.int32] | None = None
    order: NDArray[np.int32] = np.empty(0, np.int32)
    numbers: NDArray[np.int64] = np.empty(0, np.int64)  # in this order

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> _Index:
        """Make it of the ids [n] that have rows 1 to n; at least one."""
        low, high = (
            int(numbers.min()) - 1,
            int(numbers.max()) + 1,
        )  # both ends stand for all that lies beyond
        if high - low < DENSE * len(numbers) and low >= -(2**63) and high < 2**63:
            table = np.zeros(high - low + 1, np.int32)
            table[numbers - low] = np.arange(1, len(numbers) + 1)
            return cls(low, table)
        order = np.argsort(numbers, kind="stable").astype(np.int32)
        return cls(low, None, order, numbers[order])


INDEXING = threading.Lock()  # threads that encode share a vocabulary


class Vocabulary:
    """The ids of one field in order of their rows: values[i] has row i + 1.

    `sightings` are of these ids in this order, and then of ids that wait for a row; None where
    every id has one for ever.
    """

    def __init__(self, values: pa.Array, sightings: Sightings | None = None) -> None:
        self.values, self.sightings = values, sightings
        self._index: _Index | None = None

    @property
    def rows(self) -> int:
        """Rows of the embedding table, the unknown row included."""
        return len(self.values) + 1

    def extended(self, candidates: pa.Array) -> Vocabulary:
        """Return a vocabulary with the unknown ones among `candidates` appended in sorted order.

        candidates: [n], with repetitions and nulls. Known rows stay. Raises StoreError for ids of
        another type.
        """
        candidates = normalized(candidates).drop_null()
        if len(self.values) == 0:
            return Vocabulary(candidates.unique().sort())
        if not len(candidates):
            return self
        new = candidates.filter(pa.array(self.rows_of_each(candidates) == 0)).unique()
        if not len(new) and self.sightings is None:
            return self
        return Vocabulary(pa.concat_arrays([self.values, new.sort()]))

    def lookup(self, ids: pa.Array) -> NDArray[np.int32]:
        """Return rows of ids [n] → [n]; 0 for unknown and null."""
        ids = normalized(ids)
        if len(self.values) == 0 or ids.null_count == len(ids):
            return np.zeros(len(ids), dtype=np.int32)
        refuse_other_type(self.values.type, ids)
        if self._indexed().table is None:  # ids repeat: look up each once
            encoded = ids.dictionary_encode()
            distinct = np.append(self._lookup_distinct(encoded.dictionary), np.int32(0))
            indices = pc.fill_null(encoded.indices, len(distinct) - 1).to_numpy()
            return np.asarray(distinct[indices], dtype=np.int32)
        return self._lookup_in_table(ids)

    def rows_of_each(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Do the same for many ids [n] → [n], not null, that hardly repeat, in little memory."""
        ids = normalized(ids)
        if len(self.values) == 0 or len(ids) == 0:
            return np.zeros(len(ids), dtype=np.int32)
        refuse_other_type(self.values.type, ids)
        if not pa.types.is_int64(ids.type):  # what is known is put in order once for all
            return self._lookup_distinct(ids)
        dense = self._indexed().table is not None
        find = self._lookup_in_table if dense else self._lookup_distinct
        pieces = (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
        return np.concatenate([find(piece) for piece in pieces])

    def _indexed(self) -> _Index:
        """Return where ids are found, made when the first are looked up."""
        with INDEXING:
            if self._index is None:
                integers = pa.types.is_int64(self.values.type) and len(self.values)
                self._index = _Index.of(self.values.to_numpy()) if integers else _Index()
            return self._index

    def _lookup_in_table(self, ids: pa.Array) -> NDArray[np.int32]:
        low, table, *_ = self._indexed()
        assert table is not None  # noqa: S101  # the callers'
        places = np.clip(_numbers(ids), low, low + len(table) - 1) - low
        rows = table[places]
        if ids.null_count:
            rows[pc.is_null(ids).to_numpy(zero_copy_only=False)] = 0
        return rows

    def rows_in(self, other: Vocabulary) -> NDArray[np.int32]:
        """Return the row of each own row's id in another vocabulary [rows]; 0 where it has none."""
        rows = np.zeros(self.rows, np.int32)
        shared = len(other.values)
        if self.values[:shared].equals(other.values):  # a child that only grew
            rows[: shared + 1] = np.arange(shared + 1)
        else:
            rows[1:] = other.lookup(self.values)
        return rows

    def _lookup_distinct(self, ids: pa.Array) -> NDArray[np.int32]:
        if not pa.types.is_int64(self.values.type):
            after_unknown = pc.add(pc.index_in(ids, value_set=self.values), 1)
            rows = pc.fill_null(after_unknown, 0).to_numpy(zero_copy_only=False)
            return np.asarray(rows, dtype=np.int32)
        numbers = _numbers(ids)
        _, _, order, ordered = self._indexed()
        place = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
        return np.where(ordered[place] == numbers, order[place] + 1, 0).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write as Parquet (id, row), with sightings (id, row, last_seen, impressions).

        Ids that wait for a row have row 0.
        """
        columns = {"id": self.values, "row": np.arange(1, self.rows)}
        if self.sightings:
            ids, last, counts = self.sightings
            rows = np.zeros(len(ids), np.int64)
            rows[: len(self.values)] = columns["row"]
            seen = {"last_seen": pa.array(last, pa.date32()), "impressions": counts}
            columns = {"id": ids, "row": rows, **seen}
        table = pa.table(columns)
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what save wrote."""
        counted = "last_seen" in pq.read_schema(path).names
        columns = None if counted else ["id"]
        table = pq.read_table(path, columns=columns, partitioning=None)
        ids = table.column("id").combine_chunks()
        if not counted:
            return cls(ids)
        last = table.column("last_seen").cast(pa.int32()).to_numpy()
        sightings = Sightings(ids, last, table.column("impressions").to_numpy())
        return cls(ids[: int(np.count_nonzero(table.column("row").to_numpy()))], sightings)


EMPTY = Vocabulary(pa.array([], type=pa.int64()))


def refuse_other_type(expected: pa.DataType, ids: pa.Array) -> None:
    """Raise StoreError for ids [n] of another type than a version's."""
    if ids.type != expected:
        raise StoreError(
            f"Ids changed their type: the version has {expected}, the data has {ids.type}. Deliver "
            "the ids as before, or train the version again."
        )


def normalized(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return ids [n] → [n] as one array of int64, string, bool, or null where there are none."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if pa.types.is_integer(ids.type):
        return ids.cast(pa.int64())
    return ids.cast(pa.string()) if pa.types.is_large_string(ids.type) else ids


def _numbers(ids: pa.Array) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = pc.fill_null(ids, 0).to_numpy(zero_copy_only=False)
    return numbers


def distinct(
    connection: duckdb.DuckDBPyConnection, files: list[Path], column: str, multi_valued: bool
) -> pa.Array:
    """Return the distinct non-null values [n] of a column over many prepared days.

    Where there are none, they are of type null. They are read within the connection's bounds.
    """
    parts = [path for path in files if not _holds_nothing(path, column)]
    if not parts:
        return pa.nulls(0)
    query = f"SELECT DISTINCT {_value(column, multi_valued)} AS value FROM {duck.parquet(parts)}"
    return normalized(_table(connection, query).column("value")).drop_null()


def seen(
    connection: duckdb.DuckDBPyConnection, files: list[Path], column: str, multi_valued: bool
) -> Sightings:
    """Count the impressions of each non-null value of a column over many prepared days.

    Where there are none, they are of type null. They are read within the connection's bounds.
    """
    parts = [path for path in files if not _holds_nothing(path, column)]
    if not parts:
        return Sightings(pa.nulls(0), np.empty(0, np.int32), np.empty(0, np.int64))
    values = f"SELECT {_value(column, multi_valued)} AS value, ts FROM {duck.parquet(parts)}"
    query = (
        f"SELECT value, max(ts)::DATE AS last, count(*) AS counts FROM ({values}) "
        "WHERE value IS NOT NULL GROUP BY value"
    )
    table = _table(connection, query)
    last = table.column("last").cast(pa.int32()).to_numpy()
    return Sightings(normalized(table.column("value")), last, table.column("counts").to_numpy())


def _value(column: str, multi_valued: bool) -> str:
    return f'unnest("{column}")' if multi_valued else f'"{column}"'


def _table(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table: pa.Table = connection.execute(query).to_arrow_table()
    return table


def _holds_nothing(path: Path, column: str) -> bool:
    kind = pq.read_schema(path).field(column).type
    return bool(pa.types.is_null(kind.value_type if pa.types.is_list(kind) else kind))

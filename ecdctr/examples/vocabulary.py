"""Raw id → embedding row. Row 0 stands for every id that is not known.

Rows are only ever appended.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import StoreError
from ecdctr.files import duck

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

DENSE = 16  # ids that fill at least a 16th of their range are looked up in a table over the range


class Vocabulary:
    """The ids of one field in order of their rows: values[i] has row i + 1."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        self._table: NDArray[np.int32] | None = None
        self._low = 0
        self._sorted = self._order = np.empty(0, np.int64)
        if pa.types.is_int64(values.type) and len(values):
            numbers = values.to_numpy()
            self._low, high = (
                int(numbers.min()) - 1,
                int(numbers.max()) + 1,
            )  # both ends stand for all that lies beyond
            if high - self._low < DENSE * len(numbers) and self._low >= -(2**63) and high < 2**63:
                self._table = np.zeros(high - self._low + 1, np.int32)
                self._table[numbers - self._low] = np.arange(1, len(numbers) + 1)
            else:
                self._order = np.argsort(numbers, kind="stable")
                self._sorted = numbers[self._order]

    @property
    def rows(self) -> int:
        """Rows of the embedding table, the unknown row included."""
        return len(self.values) + 1

    def extended(self, candidates: pa.Array) -> Vocabulary:
        """Return a vocabulary with the unknown ones among `candidates` appended in sorted order.

        Known rows stay.
        """
        candidates = normalized(candidates).drop_null().unique()
        if len(self.values) == 0:
            return Vocabulary(candidates.sort())
        if not len(candidates):
            return self
        self._refuse_other_type(candidates)
        new = candidates.filter(pc.invert(pc.is_in(candidates, value_set=self.values)))
        return Vocabulary(pa.concat_arrays([self.values, new.sort()]))

    def lookup(self, ids: pa.Array) -> NDArray[np.int32]:
        """Return rows of ids [n] → [n]; 0 for unknown and null."""
        ids = normalized(ids)
        if len(self.values) == 0 or ids.null_count == len(ids):
            return np.zeros(len(ids), dtype=np.int32)
        self._refuse_other_type(ids)
        if self._table is None:  # ids repeat: look up each once
            encoded = ids.dictionary_encode()
            distinct = np.append(self._lookup_distinct(encoded.dictionary), np.int32(0))
            indices = pc.fill_null(encoded.indices, len(distinct) - 1).to_numpy()
            return np.asarray(distinct[indices], dtype=np.int32)
        places = np.clip(_numbers(ids), self._low, self._low + len(self._table) - 1) - self._low
        rows = self._table[places]
        if ids.null_count:
            rows[pc.is_null(ids).to_numpy(zero_copy_only=False)] = 0
        return rows

    def _refuse_other_type(self, ids: pa.Array) -> None:
        if ids.type != self.values.type:
            raise StoreError(
                f"Ids changed their type: the version has {self.values.type}, the data has "
                f"{ids.type}. Deliver the ids as before, or train the version again."
            )

    def _lookup_distinct(self, ids: pa.Array) -> NDArray[np.int32]:
        if not pa.types.is_int64(self.values.type):
            after_unknown = pc.add(pc.index_in(ids, value_set=self.values), 1)
            rows = pc.fill_null(after_unknown, 0).to_numpy(zero_copy_only=False)
            return np.asarray(rows, dtype=np.int32)
        numbers = _numbers(ids)
        place = np.minimum(np.searchsorted(self._sorted, numbers), len(self._sorted) - 1)
        return np.where(self._sorted[place] == numbers, self._order[place] + 1, 0).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write as Parquet (id, row)."""
        table = pa.table({"id": self.values, "row": np.arange(1, self.rows)})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what save wrote."""
        return cls(pq.read_table(path, partitioning=None).column("id").combine_chunks())


EMPTY = Vocabulary(pa.array([], type=pa.int64()))


def normalized(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return ids as one array of int64, string, bool, or null where there are none."""
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
    """Return the distinct non-null values of a column over many prepared days.

    Where there are none, they are of type null. They are read within the connection's bounds.
    """
    value = f'unnest("{column}")' if multi_valued else f'"{column}"'
    parts = [path for path in files if not _holds_nothing(path, column)]
    if not parts:
        return pa.nulls(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        query = f"SELECT DISTINCT {value} AS value FROM {duck.parquet(parts)}"
        table: pa.Table = connection.execute(query).to_arrow_table()
    return normalized(table.column("value")).drop_null()


def _holds_nothing(path: Path, column: str) -> bool:
    kind = pq.read_schema(path).field(column).type
    return bool(pa.types.is_null(kind.value_type if pa.types.is_list(kind) else kind))

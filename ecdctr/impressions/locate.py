"""Where in a log file a row stands: the line of a CSV file, the row of a Parquet file.

Looked for only when a sentence is to name it: rows are mapped in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ecdctr.files.duck import identifier, one_row, parquet
from ecdctr.impressions import csv_text, encodings
from ecdctr.impressions.csv_count import lines_of
from ecdctr.impressions.mapped_rows import fails, key_at_fault, view_of
from ecdctr.impressions.tables import dialect_of

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from ecdctr.impressions.mapped_rows import Staged
    from ecdctr.impressions.tables import Table, TableFile

RECORD = identifier("number of the record")  # in its file, from 0
Where = Callable[[Iterable[int]], dict[int, str]]


@contextmanager
def numbered(
    db: duckdb.DuckDBPyConnection, table: Table, file: TableFile, scratch: Path
) -> Iterator[Where]:
    """Let the view `log` be one file with RECORD as one more column.

    Yields what says where records stand, such as 'line 7'. CSV is copied once more, in order, into
    the file `scratch`.
    """
    stored = file.path if file.kind == "parquet" else scratch
    try:
        where = _rows if file.kind == "parquet" else _lines(db, table, file, scratch)
        source = f"{parquet([stored])[:-1]}, file_row_number = true)"
        db.execute(
            f"CREATE OR REPLACE VIEW log AS SELECT {', '.join(file.values)}, "
            f"file_row_number AS {RECORD} FROM {source}"
        )
        yield where
    finally:
        view_of(db, file)
        scratch.unlink(missing_ok=True)


def first_place(db: duckdb.DuckDBPyConnection, table: Table, staged: Staged, condition: str) -> str:
    """Return where the first of the mapped rows stands for which a condition holds."""
    with numbered(db, table, staged.file, staged.stored.with_suffix(".again")) as where:
        query = f"SELECT min({RECORD}) FROM {staged.again(RECORD)} WHERE {condition}"
        (record,) = one_row(db, query)
        return where([record])[record]


def place_at_fault(db: duckdb.DuckDBPyConnection, table: Table, staged: Staged) -> str | None:
    """Return the first key whose values cannot be made, and where the first of them stands."""
    key = key_at_fault(db, staged)
    if key is None:
        return None
    part = staged.parts[key]
    with numbered(db, table, staged.file, staged.stored.with_suffix(".again")) as where:
        low, high = 0, staged.file.rows
        while high - low > 1:  # the first stands among [low, high)
            middle = (low + high) // 2
            some = f"log.{RECORD} >= {low} AND log.{RECORD} < {middle}"
            if fails(db, part, f"{staged.source} WHERE {some}"):
                high = middle
            else:
                low = middle
        return f"{key}, first in {where([low])[low]}"


def _rows(records: Iterable[int]) -> dict[int, str]:
    return {record: f"row {record + 1:,}" for record in records}


def _lines(db: duckdb.DuckDBPyConnection, table: Table, file: TableFile, target: Path) -> Where:
    """Copy a CSV file in order; returns what finds the lines of its records."""
    in_utf8 = target.with_suffix(".csv.zst")
    dialect = dialect_of(table)
    text = csv_text.text_of(file.path, dialect.encoding, in_utf8)
    opening = csv_text.look(text, dialect)
    assert opening is not None, file.path  # noqa: S101  # rows were read of it
    db.execute("SET preserve_insertion_order = true")
    try:
        csv_text.copy(db, text, opening, target, [n for n in opening.names if n not in file.unread])
    finally:
        db.execute("SET preserve_insertion_order = false")

    def where(records: Iterable[int]) -> dict[int, str]:
        shift = int(opening.header)
        with encodings.opened(text.content) as content:
            lines = lines_of(
                content,
                opening.skip,
                dialect.quotes,
                opening.delimiter,
                {record + shift for record in records},
                blanks=len(opening.names) == 1,
            )
        return {record - shift: f"line {line:,}" for record, line in lines.items()}

    return where

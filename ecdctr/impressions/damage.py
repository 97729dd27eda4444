"""A damaged Parquet file is named by one sentence, whoever notices the damage, and however.

DuckDB sees some damage only where values contradict a file's statistics, in the midst of a query,
and answers nothing more then. Arrow checks the checksums of pages, where their writer made some.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ContractError, lacks_room
from ecdctr.files.duck import connect, parquet
from ecdctr.files.durable import stamp
from ecdctr.impressions.declared import undecodable
from ecdctr.impressions.footers import unread

NEXT_INTEGER = b"\x15"  # the header of the next field, an integer, in Thrift's compact protocol

NOT_A_TIME = -(2**63)  # numpy's NaT, whatever its unit


def refuse_damaged(error: Exception, paths: Iterable[Path]) -> None:
    """Raise ContractError with the damaged one of some files, where that explains an error.

    Not of what the operating system says, nor of errors of anything but DuckDB and Arrow.
    """
    of_system = getattr(error, "errno", None) is not None or _is_no_damage(error)
    if of_system or not isinstance(error, duckdb.Error | pa.ArrowException | OSError):
        return
    if damage := first_damaged(paths):
        raise ContractError(
            f"{damage}. Deliver it again; remove it if preparation made it, which then makes it "
            "anew."
        ) from None


def _is_no_damage(error: Exception) -> bool:
    """Tell whether the machine has no room, or this user no right, to read a file."""
    return lacks_room(error) or "Permission denied" in str(error)  # DuckDB's words


def first_damaged(paths: Iterable[Path]) -> str | None:
    """Say which of some files is damaged; None where all can be read, and for what is gone."""
    return next((damage for path in paths if path.is_file() and (damage := damaged(path))), None)


def damaged(path: Path) -> str | None:
    """Say that a Parquet file cannot be read to its end; None where it can.

    By a connection of its own: some errors leave one that answers nothing more.
    """
    with connect(threads=1) as db:
        rows = f"(SELECT * FROM {parquet([path])})"
        try:
            if name := undecodable(db, rows):
                return f"{path} cannot be read: column {name} holds text that is no UTF-8"
            why = _no_time(path)
            if not why:
                db.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM {rows}").fetchall()
                why = broken_checksum(path) or _contradiction(path)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if _is_no_damage(error):
                raise
            why = unread(path, error)
    return f"{path} cannot be read: {why}" if why else None


def broken_checksum(path: Path) -> str | None:
    """Say that a page of a file has another checksum than its writer wrote down.

    None where all are right, and where the file has none. Read once per size and times of change.
    """
    return _broken_checksum(path, *stamp(path))


@lru_cache(maxsize=100_000)
def _broken_checksum(path: Path, _size: int, _mtime_ns: int, _ctime_ns: int) -> str | None:
    if not _has_checksums(path):
        return None
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        try:
            for i in range(file.num_row_groups):
                for name in dict.fromkeys(file.schema_arrow.names):
                    file.read_row_group(i, columns=[name])
        except (pa.ArrowException, OSError) as error:
            if lacks_room(error):
                raise
            return unread(path, error)
    return None


def _has_checksums(path: Path) -> bool:
    """Say whether the first page's header has a checksum: its fourth field, after three integers.

    https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift (PageHeader)
    It follows the file's first four bytes; Arrow ends the process where asked for the place of a
    column that is encrypted.
    """
    with path.open("rb") as file:
        header = file.read(44)[4:]
    at = 0
    for _ in range(3):
        at += 1  # the field's own byte
        while at < len(header) and header[at] >= 0x80:  # a number goes on while this bit is set
            at += 1
        at += 1
    return header[at : at + 1] == NEXT_INTEGER


def _contradiction(path: Path) -> str | None:
    """Say that values lie beyond what a file's own statistics promise of them."""
    with pq.ParquetFile(path) as file:
        for i in range(file.num_row_groups):
            group = file.metadata.row_group(i)
            for j in range(group.num_columns):
                said = group.column(j).statistics
                name = group.column(j).path_in_schema
                if said is None or not said.has_min_max or name not in file.schema_arrow.names:
                    continue
                if not _is_compared(file.schema_arrow.field(name).type):
                    continue
                values = file.read_row_group(i, columns=[name]).column(0)
                if _beyond(values, said.min, said.max):
                    return (
                        "expected a whole Parquet file, found a damaged one (values of column "
                        f"{name} contradict its statistics)"
                    )
    return None


def _no_time(path: Path) -> str | None:
    """Say that a column of times holds numpy's NaT as a value, as fastparquet may write it.

    DuckDB's own statements fail on it, and answer nothing more where it is written as text.
    """
    with suppress(pa.ArrowException, OSError), pq.ParquetFile(path) as file:  # DuckDB tells those
        for field in file.schema_arrow:
            if not pa.types.is_timestamp(field.type):
                continue
            for i in range(file.num_row_groups):
                values = file.read_row_group(i, columns=[field.name]).column(0).cast(pa.int64())
                if pc.any(pc.equal(values, NOT_A_TIME)).as_py():
                    return f"column {field.name} holds a time that is none (NaT); write null there"
    return None


def _is_compared(kind: pa.DataType) -> bool:
    """Say whether statistics of a type can be held against values.

    Text is cut there, times and decimals come in other forms, and some times in none of Python's.
    """
    of_numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(of_numbers or pa.types.is_boolean(kind))


def _beyond(values: pa.ChunkedArray, low: Any, high: Any) -> bool:
    extremes = pc.min_max(values).as_py()
    return extremes["min"] is not None and bool(extremes["min"] < low or extremes["max"] > high)

"""What a Parquet file says of itself, or why it cannot be read: something else, or damaged."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.errors import ContractError, first_line, lacks_room
from ecdctr.files.durable import stamp
from ecdctr.impressions.declared import MOST_DIGITS, NARROWER
from ecdctr.impressions.encodings import LOAD_AGAIN, format_of, no_log
from ecdctr.impressions.layout import no_file

TEXT = frozenset(range(32, 127)) | set(b"\t\r\n")
DAMAGED = "expected a whole Parquet file, found a damaged one"


class Violation(NamedTuple):
    """One breach of the contract."""

    kind: str
    where: str
    message: str
    bad_rows: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Footer(NamedTuple):
    """What a Parquet file says of itself."""

    rows: int
    schema: pa.Schema


def read_footer(path: Path) -> Footer | Violation:
    """Return what a file says of itself, or what is wrong with it."""
    where = str(path)
    if words := no_file(path):
        return Violation("unreadable", where, words)
    try:
        size, *times = stamp(path)
        if size == 0:
            return Violation("empty_file", where, "expected a Parquet file, found 0 bytes")
        return _footer(where, size, *times)
    except UnicodeDecodeError:
        return Violation("unreadable", where, "expected names of columns in UTF-8, found others")
    except (pa.ArrowException, OSError) as error:
        if lacks_room(error) or isinstance(error, PermissionError):
            raise
        return Violation("unreadable", where, unread(path, error))


def unread(path: Path, error: Exception) -> str:
    """Say why a file cannot be read as Parquet: encrypted, something else, damaged, or too new."""
    said = first_line(error)
    if isinstance(error, pa.ArrowNotImplementedError):  # one column is enough, read or not
        return (
            f"expected types that Arrow has, found another ({said.rstrip('.')}); write that column "
            "otherwise, as text say"
        )
    if "crypt" in said:
        return "expected Parquet without encryption, found an encrypted file; write it plainly"
    try:
        with path.open("rb") as file:
            start = file.read(100)
    except OSError:
        start = b""
    if what := no_log(start):
        return f"expected a Parquet file, found {what}"
    what = format_of(start)
    if not what and start and all(byte in TEXT for byte in start):
        what = "text"
    if what and what != "Parquet":
        mend = "unpack it" if what.endswith("archive") else "convert it to Parquet"
        return f"expected a Parquet file, found {what}; {mend}"
    return f"{DAMAGED} ({said})"


def with_remedy(why: str) -> str:
    """Say what to do, too, where a file of another place is damaged."""
    return f"{why}; {LOAD_AGAIN}" if DAMAGED in why else why


@lru_cache(maxsize=20_000)
def _footer(path: str, *_stamp: int) -> Footer:
    """Read once per size and times of change."""
    with pq.ParquetFile(path) as file:
        return Footer(file.metadata.num_rows, file.schema_arrow)


def refuse_too_wide(schema: pa.Schema, where: str, said: str) -> None:
    """Raise ContractError for a column that stands in `said` and that DuckDB would round."""
    for field in schema:
        digits = re.search(r"decimal256\((\d+)", str(field.type))  # also within a list
        if digits and int(digits[1]) > MOST_DIGITS and field.name.lower() in said.lower():
            raise ContractError(
                f"{where}: column {field.name} is {field.type}, which DuckDB reads as doubles, "
                f"rounded{NARROWER}."
            )

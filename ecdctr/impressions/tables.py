"""CSV and Parquet files of any shape as typed rows in DuckDB: read as they are written, or refused by file and line.

CSV is read strictly (RFC 4180) and as text. A column then gets a type that holds every value of all files unchanged:
whole numbers only when each is written as int64 prints it, so that 007 and twenty digits stay text.
"""

from __future__ import annotations

import csv
import glob
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from ecdctr.config import Section
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.files.duck import identifier, literal, parquet

DELIMITERS = (",", "\t", ";", "|")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
COMMENT = "#"
PARQUET = (".parquet", ".pq", ".parq")
UNREAD = (
    ".bz2",
    ".xz",
    ".zip",
    ".7z",
    ".lz4",
    ".tar",
    ".tgz",
    ".xlsx",
    ".json",
    ".jsonl",
    ".ndjson",
    ".avro",
    ".orc",
)
NUMBER = r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
LONGEST_LINE = 64_000_000  # bytes


class Table(Section):
    """Files of one kind: CSV (.csv, .tsv, .dat and the like, also as .gz and .zst) or Parquet."""

    files: tuple[str, ...] = Field(
        min_length=1, description="names or patterns, relative to the source folder"
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        description="CSV only; when left out, the one that the first line has most of",
    )
    header: bool | None = Field(
        None, description="CSV only; when left out, there is one unless 'names' is given"
    )
    names: tuple[str, ...] | None = Field(
        None, description="CSV without a header: the columns in order"
    )
    encoding: Literal["utf-8", "latin-1", "utf-16"] = Field("utf-8", description="CSV only")
    types: dict[str, Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP"]] = (
        Field(
            default_factory=dict,
            description="CSV only: types of columns, in place of those that follow from all their values",
        )
    )


class TableFile(NamedTuple):
    """One file as a query; all files of a table have the same columns and types."""

    path: Path
    rows: int
    absent: tuple[str, ...]  # columns that only other files have: null here
    query: str


class _Part(NamedTuple):
    """A file as it is read: Parquet, or CSV copied to Parquet as text."""

    path: Path
    stored: Path
    rows: int
    types: dict[str, str]  # DuckDB's, by column


def open_table(
    db: duckdb.DuckDBPyConnection,
    table: Table,
    source: Path,
    scratch: Path,
    on_file: Callable[[Path], None] | None = None,
) -> list[TableFile]:
    """Read the files of a table; CSV is copied into the folder `scratch`.

    Raises ConfigError for a pattern without a file or a type of no column, ContractError for what cannot be read.
    """
    paths = matches(table, source)
    kinds = {path.suffix.lower() in PARQUET for path in paths}
    if len(kinds) > 1:
        raise ConfigError(
            f"{', '.join(table.files)} match both CSV and Parquet files; name one kind."
        )
    scratch.mkdir(parents=True, exist_ok=True)
    parts = []
    for i, path in enumerate(paths):
        if on_file:
            on_file(path)
        if path.suffix.lower() in PARQUET:
            parts.append(_parquet_part(db, path))
        elif part := _csv_part(db, table, path, scratch / f"{i}.parquet"):
            parts.append(part)
        else:
            parts.append(_Part(path, path, 0, {}))  # 0 bytes
    names = list(dict.fromkeys(name for part in parts for name in part.types))
    _refuse_alike(names, "the files " + ", ".join(table.files))
    if unknown := sorted(set(table.types) - set(names)):
        raise ConfigError(f"types: no column '{unknown[0]}' in the log; it has {', '.join(names)}.")
    types = _common_types(parts, names) if kinds == {True} else _text_types(db, table, parts, names)
    return [_as_query(part, types) for part in parts]


def matches(table: Table, source: Path) -> list[Path]:
    """List the files of a table: a name that is there, else a pattern under the folder `source`, which is a name."""
    paths: list[Path] = []
    for pattern in table.files:
        if (source / pattern).is_file():
            paths.append(source / pattern)
            continue
        hits = sorted(glob.glob(pattern, root_dir=source, recursive=True))
        if not hits:
            raise ConfigError(f"No file matches '{pattern}' in {source}.")
        paths += [source / hit for hit in hits]
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, expected a file; name the files in it.")
        if path.suffix.lower() in UNREAD or ".tar." in path.name:
            raise ConfigError(
                f"{path}: expected CSV, as it is or as .gz or .zst, or Parquet; convert it first."
            )
    return list(dict.fromkeys(paths))


def _parquet_part(db: duckdb.DuckDBPyConnection, path: Path) -> _Part:
    with _explained(path):
        with pq.ParquetFile(path) as file:
            rows, names = file.metadata.num_rows, file.schema_arrow.names
        _refuse_alike(names, str(path))
        described = db.execute(f"DESCRIBE SELECT * FROM {parquet([path])}").fetchall()
    return _Part(path, path, rows, {row[0]: row[1] for row in described})


def _csv_part(
    db: duckdb.DuckDBPyConnection, table: Table, path: Path, target: Path
) -> _Part | None:
    """Copy a CSV file as text; None for one of 0 bytes."""
    skip, lines = _first_lines(table, path)
    if not lines:
        return None
    delimiter = table.delimiter or _delimiter(table, lines[0])
    first = _cells(lines, delimiter)
    header = table.names is None if table.header is None else table.header
    names = list(table.names or (first if header else ()))
    names = [name.strip() or f"column{i}" for i, name in enumerate(names or [""] * len(first))]
    _refuse_alike(names, str(path))
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    options = (
        f"auto_detect = false, columns = {{{columns}}}, delim = {literal(delimiter)}, "
        f"header = {str(header).lower()}, skip = {skip}, quote = '\"', escape = '\"', strict_mode = true, "
        f"encoding = '{table.encoding}', max_line_size = {LONGEST_LINE}"
    )
    escaped = re.sub(r"[\[*?]", r"[\g<0>]", str(path))
    with _explained(path):
        row = db.execute(
            f"COPY (SELECT * FROM read_csv({literal(escaped)}, {options})) TO {literal(target)} (FORMAT parquet)"
        ).fetchone()
    return _Part(path, target, int(row[0]) if row else 0, dict.fromkeys(names, "VARCHAR"))


def _first_lines(table: Table, path: Path) -> tuple[int, list[str]]:
    """How many lines of comment a CSV file starts with, and the lines after them, a few."""
    with _explained(path), _opened(path) as file:
        start = file.read(4)
        if table.encoding != "utf-16" and start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ContractError(f"{path} is UTF-16; say so in the mapping (encoding: utf-16).")
        encoding = "utf-8-sig" if table.encoding == "utf-8" else table.encoding
        if table.encoding == "utf-16" and start[:2] == b"\xfe\xff":
            raise ContractError(f"{path} is UTF-16 with the big end first; save it as UTF-8.")
        raw = start + file.read(1_000_000)
        if path.suffix in COMPRESSED:  # DuckDB does not see that an archive was cut or damaged
            while file.read(1 << 22):
                pass
        text = raw.decode(encoding, errors="replace")
    lines = LINE_END.split(text)  # not splitlines: U+2028 and others are no ends of lines in a CSV
    skip = 0
    while skip < len(lines) and lines[skip].startswith(COMMENT):
        skip += 1
    return skip, [line for line in lines[skip:] if line.strip()]


def _opened(path: Path) -> AbstractContextManager[Any]:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        stream: AbstractContextManager[Any] = pa.input_stream(str(path))
        return stream
    return path.open("rb")


def _delimiter(table: Table, line: str) -> str:
    """The delimiter that the first line has most of; where names are given, one that makes as many cells."""
    if table.names:
        for delimiter in DELIMITERS:
            if len(_cells([line], delimiter)) == len(table.names):
                return delimiter
    return max(DELIMITERS, key=line.count)


def _cells(lines: list[str], delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return lines[0].rstrip("\r\n").split(delimiter)
    return next(csv.reader(lines, delimiter=delimiter))


def _refuse_alike(names: list[str], where: str) -> None:
    """Raise ContractError when two columns have one name but for upper and lower case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            raise ContractError(
                f"{where}: columns {seen[name.lower()]} and {name} have the same name but for upper and lower case; "
                "rename one."
            )
        seen[name.lower()] = name


def _text_types(
    db: duckdb.DuckDBPyConnection, table: Table, parts: list[_Part], names: list[str]
) -> dict[str, str]:
    """The type of each column of CSV, from all values of all files: the narrowest that changes none."""
    stored = [part.stored for part in parts if part.types]
    if not stored:
        return {}
    rows = f"{parquet(stored)[:-1]}, union_by_name = true)"
    checks = ", ".join(check for name in names for check in _checks(identifier(name)))
    row = db.execute(f"SELECT {checks} FROM {rows}").fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one row
    types: dict[str, str] = {}
    for i, name in enumerate(names):
        count, whole, number, some_number, boolean, date, moment = row[7 * i : 7 * i + 7]
        fitting = {
            "BIGINT": whole,
            "DOUBLE": number and some_number,
            "BOOLEAN": boolean,
            "DATE": date,
            "TIMESTAMP": moment,
        }
        inferred = next((kind for kind, fits in fitting.items() if fits), "VARCHAR")
        types[name] = table.types.get(name, inferred if count else "NULL")
    return types


def _checks(column: str) -> list[str]:
    """Whether every value of a column of text is printed so by a type, in the order of `_text_types`."""

    def every(condition: str) -> str:
        return f"bool_and(coalesce({condition}, false)) FILTER ({column} IS NOT NULL)"

    digits = f"length(ltrim(regexp_replace({column}, '[eE].*|[^0-9]', '', 'g'), '0')) <= 15"
    exact = f"TRY_CAST({column} AS DOUBLE)::VARCHAR = {column}"
    number = f"regexp_full_match({column}, {literal(NUMBER)}) AND ({digits} OR {exact})"
    return [
        f"count({column})",
        every(f"TRY_CAST({column} AS BIGINT)::VARCHAR = {column}"),
        every(f"lower({column}) = 'nan' OR ({number})"),
        f"coalesce(bool_or({number}), false)",
        *(
            every(f"TRY_CAST({column} AS {kind})::VARCHAR = {column}")
            for kind in ("BOOLEAN", "DATE", "TIMESTAMP")
        ),
    ]


def _common_types(parts: list[_Part], names: list[str]) -> dict[str, str]:
    """The type of each column of Parquet files; refused where files differ in more than the width of numbers."""
    types: dict[str, str] = {}
    where: dict[str, Path] = {}
    for part in parts:
        for name, kind in part.types.items():
            before = types.setdefault(name, kind)
            where.setdefault(name, part.path)
            if before == kind or "NULL" in (before, kind) or '"NULL"' in (before, kind):
                types[name] = kind if "NULL" in before else before
            elif (wider := _wider(before, kind)) is not None:
                types[name] = wider
            else:
                raise ContractError(
                    f"{part.path}: column {name} is {kind}, but {before} in {where[name]}; "
                    "write all files with one type."
                )
    return {name: types[name].replace('"', "") for name in names}


def _wider(one: str, other: str) -> str | None:
    """A type that holds both without loss; None where there is none."""
    signed = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
    unsigned = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
    for family in (signed, unsigned, ("FLOAT", "DOUBLE")):
        if one in family and other in family:
            return max(one, other, key=family.index)
    if {one, other} <= {*signed, *unsigned}:
        return "HUGEINT"
    return "DOUBLE" if {one, other} <= {*signed[:3], *unsigned[:3], "FLOAT", "DOUBLE"} else None


def _as_query(part: _Part, types: dict[str, str]) -> TableFile:
    values = []
    for name, kind in types.items():
        column = identifier(name)
        if kind == "NULL":
            values.append(f"NULL AS {column}")
        elif name in part.types:
            values.append(f"{column}::{kind} AS {column}")
        else:
            values.append(f"NULL::{kind} AS {column}")
    absent = tuple(name for name in types if name not in part.types)
    source = f"FROM {parquet([part.stored])}" if part.types else "WHERE false"
    return TableFile(part.path, part.rows, absent, f"SELECT {', '.join(values)} {source}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever a reader says, as one sentence with the file and, where it is known, the line."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, EOFError, OSError, csv.Error, zlib.error) as error:
        text = str(error)
        line = re.search(r"CSV Error on Line: (\d+)", text)
        if line is None:
            raise ContractError(f"{path} cannot be read: {first_line(error)}") from None
        reasons = [part.strip() for part in text.splitlines()[1:] if part.strip()]
        reason = next(
            (part for part in reasons if not part.startswith("Original Line")), reasons[0]
        )
        reason = next((part for part in reasons if "Expected Number" in part or "unterminated" in part
                       or "Invalid unicode" in part), reason)  # fmt: skip
        raise ContractError(
            f"{path}, line {line[1]}: {reason.rstrip('.')}. Mend the line, or describe the file in the mapping "
            "(delimiter, header, names, encoding)."
        ) from None

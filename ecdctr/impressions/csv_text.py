"""A CSV file as it is written: its dialect, and a copy of it as text in Parquet.

Or one sentence with file and line. CSV is read strictly (RFC 4180). Before a header may stand blank
lines, comments (`#`) and a spreadsheet's `sep=;`; in a file without a header every line is a row.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow as pa

from ecdctr.errors import ContractError, first_line
from ecdctr.files.duck import identifier, literal, parquet

Encoding = Literal["utf-8", "latin-1", "utf-16"]
DELIMITERS = (",", "\t", ";", "|", "\x01")  # the last one is Hive's
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
ESCAPE = re.compile(r"\\(?:t|x[0-9a-fA-F]{2})")
COMMENT = "#"
SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
MAGIC = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
}
LONGEST_LINE = 64_000_000  # bytes
LOOKED_AT = 1_000_000  # bytes at the start of a file


class Dialect(NamedTuple):
    """What is said of a table's CSV files; None where the file tells."""

    delimiter: str | None
    header: bool | None
    names: tuple[str, ...] | None
    encoding: Encoding
    quotes: bool = True
    nulls: tuple[str, ...] = ()

    @property
    def has_header(self) -> bool:
        """Whether the first line names the columns."""
        return self.names is None if self.header is None else self.header


class Opening(NamedTuple):
    """How one file is read: lines before its header or first row, its columns."""

    skip: int
    delimiter: str
    names: tuple[str, ...]
    dialect: Dialect


def delimiter_of(text: str) -> str:
    r"""Return a delimiter as it is written in YAML, where `\t` and `\x01` stand for what they name.

    Raises ValueError.
    """
    value = ESCAPE.sub(lambda escape: escape[0].encode().decode("unicode_escape"), text)
    if not 1 <= len(value.encode()) <= 4 or set(value) & set('"\r\n\0'):
        raise ValueError(
            rf"expected one to four bytes without quotes and ends of lines, such as ';', '\t' or "
            rf"'\x01', found {text!r}"
        )
    return value


def look(path: Path, dialect: Dialect) -> Opening | None:
    """Look at the start of a CSV file; None if it holds nothing.

    Raises ContractError with the file for another encoding, an archive that is cut or damaged, an
    open quote.
    """
    lines = LINE_END.split(_start(path, dialect))
    skip, separator = _before_the_rows(lines, dialect.has_header)
    _refuse_other_ends(path, lines[: skip + 1])
    lines = lines[skip:]
    if not any(line.strip() for line in lines):
        return None
    where = f"{path}, line {skip + 1}"
    delimiter = dialect.delimiter or separator or _delimiter(lines, dialect)
    first = _cells(lines, delimiter, dialect, where)
    names = list(dialect.names or (first if dialect.has_header else [""] * len(first)))
    named = tuple(name.strip() or f"column{i}" for i, name in enumerate(names))
    return Opening(skip, delimiter, named, dialect)


def copy(db: duckdb.DuckDBPyConnection, path: Path, opening: Opening, target: Path) -> int:
    """Copy a CSV file as text into a Parquet file; returns its rows.

    Raises ContractError with file and line.
    """
    dialect = opening.dialect
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in opening.names)
    quote = literal('"' if dialect.quotes else "")
    nulls = ", ".join(map(literal, ["", *dialect.nulls]))
    options = (
        f"auto_detect = false, columns = {{{columns}}}, delim = {literal(opening.delimiter)}, "
        f"header = {str(dialect.has_header).lower()}, skip = {opening.skip}, "
        f"quote = {quote}, escape = {quote}, strict_mode = true, encoding = '{dialect.encoding}', "
        f"max_line_size = {LONGEST_LINE}, nullstr = [{nulls}], "
        f"compression = '{COMPRESSIONS.get(path.suffix.lower(), 'none')}'"
    )
    name = re.sub(r"[\[*?]", r"[\g<0>]", str(path))
    with explained(path):
        row = db.execute(
            f"COPY (SELECT * FROM read_csv({literal(name)}, {options})) TO {literal(target)} "
            "(FORMAT parquet)"
        ).fetchone()
        _refuse_put_together(db, path, opening, target)
    rows = int(row[0]) if row else 0
    if not rows:
        _refuse_lost(path, opening)
    return rows


def _refuse_lost(path: Path, opening: Opening) -> None:
    """Raise ContractError where nothing was read although lines stand after the header."""
    lines = LINE_END.split(_start(path, opening.dialect))
    open_quote = False
    for i, line in enumerate(lines[opening.skip :]):
        header = opening.dialect.has_header and (i == 0 or open_quote)
        if not header and line.strip():
            raise ContractError(
                f"{path}, line {opening.skip + i + 1}: no row was read although this line is not "
                "blank; save the file with one kind of line end."
            )
        open_quote ^= opening.dialect.quotes and line.count('"') % 2 == 1


def _refuse_put_together(
    db: duckdb.DuckDBPyConnection, path: Path, opening: Opening, copied: Path
) -> None:
    """Raise ContractError where a header or a byte order mark stands among the rows."""
    first, *_ = columns = [identifier(name) for name in opening.names]
    again = " AND ".join(
        f"trim({column}) = {literal(name)}"
        for column, name in zip(columns, opening.names, strict=True)
    )
    counted = db.execute(
        f"SELECT count(*) FILTER ({again}), count(*) FILTER (starts_with({first}, '\ufeff')) "
        f"FROM {parquet([copied])}"
    ).fetchone()
    headers, marks = counted or (0, 0)
    if headers or marks:
        what = (
            f"its header stands again in {headers:,} rows"
            if headers
            else f"{marks:,} rows begin with a byte order mark"
        )
        raise ContractError(
            f"{path}: {what}; it seems to be several files put together. Name the single ones, or "
            "say header: true."
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say whatever a reader says as one sentence with the file and, where known, the line."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, EOFError, OSError, zlib.error) as error:
        text = str(error)
        line = re.search(r"CSV Error on Line: (\d+)", text)
        if line is None:
            raise ContractError(f"{path}{_unplaced(path, text, error)}") from None
        raise ContractError(
            f"{path}, line {line[1]}: {_reason(text)}. Mend the line, or describe the file in "
            "the mapping (delimiter, header, names, quotes, encoding)."
        ) from None


def _reason(text: str) -> str:
    """Return what DuckDB says of a line, out of all that it says."""
    reasons = [part.strip() for part in text.splitlines()[1:] if part.strip()]
    telling = [
        part
        for part in reasons
        if "Expected Number" in part or "unterminated" in part or "Invalid unicode" in part
    ]
    others = [part for part in reasons if not part.startswith("Original Line")]
    return next(iter([*telling, *others, *reasons])).rstrip(".")


def _unplaced(path: Path, text: str, error: Exception) -> str:
    if "state machine" in text and (line := _other_end(_all_lines(path))):
        return _unlike(line)
    return f" cannot be read: {first_line(error)}"


def _unlike(line: int) -> str:
    return (
        f", line {line}: it ends unlike the lines before (\\r\\n, \\n or \\r); "
        "save the file with one kind of line end."
    )


def _refuse_other_ends(path: Path, lines: list[str]) -> None:
    """Raise ContractError where lines before the first read one end otherwise than it.

    DuckDB then skips to the end of the file, without a word.
    """
    if len(lines) > 1 and (line := _other_end(lines)):
        raise ContractError(f"{path}{_unlike(line)}")


def _other_end(lines: Iterable[str]) -> int | None:
    """Return the first line whose end is unlike the first one's, outside of quotes."""
    first, open_quote = "", False
    for number, line in enumerate(lines, 1):
        open_quote ^= line.count('"') % 2 == 1
        end = line[len(line.rstrip("\r\n")) :] if line.endswith(("\r", "\n")) else ""
        if open_quote or not end:
            continue
        first = first or end
        if end != first:
            return number
    return None


def _all_lines(path: Path) -> Iterator[str]:
    rest = ""
    with _opened(path) as file:
        while block := file.read(1 << 20):
            *lines, rest = LINE_END.split(rest + block.decode("latin-1"))
            if (
                lines and lines[-1].endswith("\r") and not rest
            ):  # its \n may come with the next block
                rest = lines.pop()
            yield from lines
    if rest:
        yield rest


def _start(path: Path, dialect: Dialect) -> str:
    """Return the start of a file as text.

    An archive is read to its end, since DuckDB does not see that one was cut.
    """
    with explained(path), _opened(path) as file:
        raw: bytes = file.read(LOOKED_AT)
        if path.suffix.lower() in COMPRESSIONS:
            while file.read(1 << 22):
                pass
    _refuse_other_content(path, raw, dialect.encoding)
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    return raw.decode(encoding, errors="replace")


def _refuse_other_content(path: Path, raw: bytes, encoding: Encoding) -> None:
    """Raise ContractError where the first bytes are of no CSV, or of another encoding."""
    for magic, what in MAGIC.items():
        if raw.startswith(magic):
            raise ContractError(f"{path} is {what}; name it so, or convert it to CSV first.")
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise ContractError(f"{path} is UTF-32; save it as UTF-8.")
    if encoding == "utf-16" and raw.startswith(b"\xfe\xff"):
        raise ContractError(f"{path} is UTF-16 with the big end first; save it as UTF-8.")
    zeros = b"\0" in raw[:1000].split(b"\n")[0]
    if encoding != "utf-16" and (raw.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros):
        raise ContractError(f"{path} is UTF-16; say so in the mapping (encoding: utf-16).")


def _opened(path: Path) -> AbstractContextManager[Any]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        stream: AbstractContextManager[Any] = pa.input_stream(str(path), compression="zstd")
        return stream
    return path.open("rb")


def _before_the_rows(lines: list[str], header: bool) -> tuple[int, str | None]:
    """Count the lines before the header or the first row; the delimiter one of them names."""
    skip, separator = 0, None
    for line in lines:
        told = SEPARATOR.fullmatch(line) if header else None
        if told:
            separator = told[1]
        elif line.strip() and not (header and line.startswith(COMMENT)):
            break
        skip += 1
    return skip, separator


def _delimiter(lines: list[str], dialect: Dialect) -> str:
    """Return the delimiter that makes as many cells as there are names.

    Without names, the most cells of the first line.
    """
    with _long_cells():
        counts = {one: len(next(_reader(lines[:1], one, dialect))) for one in DELIMITERS}
    names = dialect.names
    fitting = [one for one, count in counts.items() if names and count == len(names)]
    return fitting[0] if fitting else max(counts, key=lambda one: counts[one])


def _cells(lines: list[str], delimiter: str, dialect: Dialect, where: str) -> list[str]:
    """Return the cells of the first record; raises ContractError where a quote in it stays open."""
    if len(delimiter) > 1:
        return lines[0].rstrip("\r\n").split(delimiter)
    try:
        with _long_cells():
            return next(_reader(lines, delimiter, dialect, strict=True))
    except csv.Error as error:
        raise ContractError(
            f"{where}: {error}; a quote may be open. Mend the line, or describe the file in "
            "the mapping (delimiter, header, names, quotes, encoding)."
        ) from None


def _reader(
    lines: list[str], delimiter: str, dialect: Dialect, strict: bool = False
) -> Iterator[list[str]]:
    if dialect.quotes:
        return csv.reader(lines, delimiter=delimiter, strict=strict)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=strict)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Python's reader with cells as long as DuckDB's lines; its own limit is 131,072 characters."""
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)

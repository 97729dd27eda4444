"""A CSV file as it is written, copied as text into Parquet, or one sentence with file and line.

CSV is read strictly (RFC 4180). Its rows are counted apart from the reader: none is lost.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from ecdctr.errors import ContractError, first_line, lacks_room
from ecdctr.files.duck import identifier, literal, parquet
from ecdctr.impressions import encodings
from ecdctr.impressions.csv_count import (
    LONGEST_LINE,
    blank_beside_quote,
    count_records,
    read_records,
    row_inside_cell,
)
from ecdctr.impressions.csv_opening import (
    COMMENT,
    DESCRIBE,
    LINE_END,
    Dialect,
    Opening,
    opening_of,
    other_end,
    unlike,
)

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ESCAPED = re.compile(r"^Original Line:.*\\(?:[\"\t,;|\x01]|$)", re.MULTILINE)
BEHIND_BACKSLASH = (
    "A quote, a delimiter or an end of line stands there behind a backslash, which is no CSV; "
    "write the file with quotes around cells and each quote in them doubled (Spark: option "
    "'escape' '\"'), or as Parquet"
)
LOOKED_AT = 1_000_000  # bytes at the start of a file


class Text(NamedTuple):
    """A CSV file: its name in messages, and where its content lies as UTF-8."""

    path: Path
    content: Path


def text_of(path: Path, encoding: str, scratch: Path) -> Text:
    """Look at a file's first bytes, and make UTF-8 of it in the file `scratch` where it is not.

    Raises ContractError with the file, and the line and byte where known, for another encoding, for
    what is no CSV, and for an archive that is cut or damaged.
    """
    with explained(path):
        with encodings.opened(path) as file:
            start: bytes = file.read(LOOKED_AT)
        encodings.refuse_other(path, start, encoding)
        return Text(path, encodings.in_utf8(path, encoding, scratch))


def look(text: Text, dialect: Dialect) -> Opening | None:
    """Look at the start of a CSV file; None if it holds nothing. Raises ContractError."""
    with explained(text.path), encodings.opened(text.content) as file:
        start: bytes = file.read(LOOKED_AT)
    return opening_of(text.path, start.decode("utf-8-sig", errors="replace"), dialect)


def read_csv(content: Path, opening: Opening) -> str:
    """Write the table function that reads a CSV file in UTF-8, every cell as text."""
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in opening.names)
    quote = literal('"' if opening.dialect.quotes else "")
    nulls = ", ".join(map(literal, ["", *opening.dialect.nulls]))
    name = re.sub(r"[\[*?]", r"[\g<0>]", str(content))
    return (
        f"read_csv({literal(name)}, auto_detect = false, columns = {{{columns}}}, "
        f"delim = {literal(opening.delimiter)}, header = {str(opening.header).lower()}, "
        f"skip = {opening.skip}, quote = {quote}, escape = {quote}, strict_mode = true, "
        f"encoding = 'utf-8', max_line_size = {LONGEST_LINE}, nullstr = [{nulls}], "
        f"compression = '{COMPRESSIONS.get(content.suffix.lower(), 'none')}', "
        "hive_partitioning = false)"  # of a folder click=1, also far above, DuckDB makes a column
    )


def copy(
    db: duckdb.DuckDBPyConnection,
    text: Text,
    opening: Opening,
    target: Path,
    only: list[str] | None = None,
) -> int:
    """Copy a CSV file as text into a Parquet file, or some of its columns; returns its rows.

    Raises ContractError with file and line, and where it has more rows than were read, or fewer.
    """
    path, content = text
    names = list(opening.names) if only is None else only
    query = f"SELECT {', '.join(map(identifier, names))} FROM {read_csv(content, opening)}"
    with explained(path, content):
        # also reads an archive to its end, since DuckDB does not see that one was cut
        there = _count(text, opening, opening.dialect.quotes)
        row = db.execute(f"COPY ({query}) TO {literal(target)} (FORMAT parquet)").fetchone()
        _refuse_put_together(db, path, opening, names, target)
        _refuse_blanks(text, opening)
    rows = int(row[0]) if row else 0
    if rows != there:
        _refuse_lost(text, opening, rows)
    _refuse_rows_in_cells(text, opening, rows)
    return rows


def _count(text: Text, opening: Opening, quotes: bool) -> int:
    """Count a file's rows apart from DuckDB; where a row is one cell, a blank line is null."""
    blanks = len(opening.names) == 1
    blocks = _without_zeros(text.path, encodings.blocks(text.content))
    return count_records(blocks, opening.skip, quotes, blanks) - opening.header


def _refuse_rows_in_cells(text: Text, opening: Opening, rows: int) -> None:
    """Raise ContractError where rows seem to be lost in a cell, and nobody says what quotes are.

    MySQL, Hive and Postgres write a quote as a letter like others: one that begins a cell, and one
    that ends another of a later row, put all between them into one.
    """
    # where no cell has an end of line, there are as many rows without quotes
    if opening.dialect.sure_of_quotes or _count(text, opening, quotes=False) == rows:
        return
    with encodings.opened(text.content) as file:
        line = row_inside_cell(file, opening.skip, opening.delimiter)
    if line:
        raise ContractError(
            f"{text.path}, line {line}: a cell in quotes holds the ends of lines and what looks "
            "like other rows, which would be lost. Say quotes: false in the mapping where a quote "
            "is a letter, as MySQL and Hive write it, quotes: true where the cell is as it is."
        )


def _without_zeros(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks of text; raises ContractError with the line of a zero byte, which no text has.

    A log that was cut while its writer went on has a hole of them, and an id beside it is another.
    """
    ends: Counter[bytes] = Counter()
    for block in blocks:
        zero = block.find(b"\0")
        told = len(block) if zero < 0 else zero
        ends.update({end: block.count(end, 0, told) for end in (b"\n", b"\r")})
        if zero >= 0:
            line = 1 + (ends[b"\n"] or ends[b"\r"])
            raise ContractError(
                f"{path}, line {line}: a zero byte, which no text has; a file that was cut while "
                "it was written has holes of them. Load it again, or take them away (tr -d '\\0')."
            )
        yield block


def _refuse_blanks(text: Text, opening: Opening) -> None:
    """Raise ContractError where a blank stands beside the quotes around a cell."""
    between = re.escape(opening.delimiter.encode())
    beside = re.compile(rb'(?:^|%b|[\r\n])[ \t]+"|"[ \t]+(?:%b|[\r\n]|$)' % (between, between))
    if not opening.dialect.quotes or not any(
        beside.search(block)
        for block in _overlapping(text.content)
        if any(pair in block for pair in (b' "', b'" ', b'\t"', b'"\t'))
    ):
        return
    with encodings.opened(text.content) as file:
        line = blank_beside_quote(file, opening.skip, opening.delimiter)
    if line:
        raise ContractError(
            f"{text.path}, line {line}: a blank stands beside the quotes around a cell, and would "
            "be lost. Take it away, or say quotes: false in the mapping where quotes are letters."
        )


def _overlapping(content: Path) -> Iterator[bytes]:
    """Yield blocks of a file, each after the last bytes of the one before."""
    tail = b""
    for block in encodings.blocks(content):
        yield tail + block
        tail = block[-100:]


def _refuse_lost(text: Text, opening: Opening, rows: int) -> None:
    """Raise ContractError where a reader that knows cells finds other rows than DuckDB, too."""
    dialect, blanks = opening.dialect, len(opening.names) == 1
    try:
        with encodings.opened(text.content) as file:
            records = read_records(file, opening.skip, dialect.quotes, opening.delimiter, blanks)
    except csv.Error as error:
        raise ContractError(f"{text.path}: {error}. Mend it, or {DESCRIBE}.") from None
    there = records - opening.header
    if rows != there:
        line = other_end(_all_lines(text.content))
        why = unlike(line) if line else f": mend it, or {DESCRIBE}."
        raise ContractError(f"{text.path}: {rows:,} rows were read, but {there:,} stand there{why}")


def _refuse_put_together(
    db: duckdb.DuckDBPyConnection, path: Path, opening: Opening, names: list[str], copied: Path
) -> None:
    """Raise ContractError where a header or a byte order mark stands among the rows."""
    first = identifier(opening.names[0])
    again = " AND ".join(
        f"ltrim(trim({column}), '{COMMENT if column == first else ''} ') = {literal(name)}"
        for column, name in ((identifier(name), name) for name in names)
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
        advice = "" if opening.dialect.has_header else ", or say header: true"
        raise ContractError(
            f"{path}: {what}; it seems to be several files put together. Name the single ones"
            f"{advice}."
        )


@contextmanager
def explained(path: Path, content: Path | None = None) -> Iterator[None]:
    """Raise ContractError for whatever a reader says, with the file and, where known, the line.

    `content` is where what is read of the file lies, if not in itself.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, EOFError, OSError, zlib.error) as error:
        if lacks_room(error):
            raise
        text = str(error)
        line = re.search(r"CSV Error on Line: (\d+)", text)
        if "Invalid unicode" in text:
            raise encodings.refused(path, "utf-8") from None
        if "state machine" in text or "unterminated quote" in text:  # what mixed ends look like
            other = other_end(_all_lines(content or path))
            if other:
                raise ContractError(f"{path}{unlike(other)}") from None
        if line is None:
            raise ContractError(
                f"{path} cannot be read: {first_line(error)}; {_mend_archive(path)}."
            ) from None
        if re.search(rf"^Original Line: *{COMMENT}", text, re.MULTILINE):
            raise ContractError(
                f"{path}, line {line[1]}: a comment ({COMMENT}) stands among the rows, where every "
                "line is a row; take it away. Comments may stand before the header."
            ) from None
        mend = BEHIND_BACKSLASH if ESCAPED.search(text) else f"Mend the line, or {DESCRIBE}"
        raise ContractError(f"{path}, line {line[1]}: {_reason(text)}. {mend}.") from None


def _mend_archive(path: Path) -> str:
    """Say what to do with a file that cannot be read as what its name says that it is."""
    try:
        with path.open("rb") as file:
            start = file.read(encodings.NO_TEXT_IN)
    except OSError:
        start = b""
    what = encodings.format_of(start)
    of_name = COMPRESSIONS.get(path.suffix.lower())
    if of_name and what and what != f"a {of_name} archive":
        return f"it is {what} and no {of_name} archive; {encodings.mend_of_format(what)}"
    if of_name and start and not what:
        return f"it does not begin as a {of_name} archive; if it is CSV take {path.suffix} away"
    return f"it is cut or damaged, {encodings.LOAD_AGAIN}"


def _reason(text: str) -> str:
    """Return what DuckDB says of a line, out of all that it says."""
    reasons = [part.strip() for part in text.splitlines()[1:] if part.strip()]
    telling = [part for part in reasons if "Expected Number" in part or "unterminated" in part]
    others = [part for part in reasons if not part.startswith("Original Line")]
    return next(iter([*telling, *others, *reasons])).rstrip(".")


def _all_lines(path: Path) -> Iterator[str]:
    rest = ""
    for block in encodings.blocks(path):
        *lines, rest = LINE_END.split(rest + block.decode("latin-1"))
        if lines and lines[-1].endswith("\r") and not rest:  # its \n may come with the next block
            rest = lines.pop()
        yield from lines
    if rest:
        yield rest

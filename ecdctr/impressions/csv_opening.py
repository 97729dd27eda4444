"""How a CSV file begins: what stands before its rows, its delimiter, the names of its columns.

Before a header may stand blank lines, comments (`#`) and a spreadsheet's `sep=;`, and the header
may itself be the last of the comments; in a file without a header every line is a row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ecdctr.errors import ContractError
from ecdctr.impressions.csv_count import csv_reader, long_cells

DELIMITERS = (",", "\t", ";", "|", "\x01")  # the last one is Hive's
LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
ESCAPE = re.compile(r"\\(?:t|x[0-9a-fA-F]{2})")
COMMENT = "#"
FIELDS = re.compile(r"#\s*Fields:\s*(.*)", re.IGNORECASE)  # of the W3C's extended log format
SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
DESCRIBE = "describe the file in the mapping (delimiter, header, names, quotes, encoding)"


class Dialect(NamedTuple):
    """What is said of a table's CSV files; None where the file tells."""

    delimiter: str | None
    header: bool | None
    names: tuple[str, ...] | None
    encoding: str = "utf-8"
    quotes: bool = True
    nulls: tuple[str, ...] = ()
    sure_of_quotes: bool = False  # whether somebody says what they are

    @property
    def has_header(self) -> bool:
        """Whether the first line names the columns."""
        return self.names is None if self.header is None else self.header


class Opening(NamedTuple):
    """How one file is read.

    Lines before its header, or its first row where `header` is false; its columns.
    """

    skip: int
    delimiter: str
    names: tuple[str, ...]
    header: bool
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


def opening_of(path: Path, start: str, dialect: Dialect) -> Opening | None:
    """Return how a file with this start is read; None if it holds nothing.

    Raises ContractError with the file and line for an open quote, for lines that end in two ways,
    and where either of two lines may be the header.
    """
    lines = LINE_END.split(start)
    skip, separator = _before_the_rows(lines, dialect.has_header)
    _refuse_other_ends(path, lines[: skip + 1])
    before, lines = lines[:skip], lines[skip:]
    if not any(line.strip() for line in lines):
        return None
    delimiter = dialect.delimiter or separator or _delimiter(lines, dialect)
    first = _cells(lines, delimiter, dialect, f"{path}, line {skip + 1}")
    behind = _behind_comment(path, before, first, delimiter, dialect)
    header = dialect.has_header and behind is None
    names = dialect.names or behind or (first if header else [""] * len(first))
    if any("\0" in name for name in names):
        raise ContractError(
            f"{path}, line {skip + 1}: a column's name holds the character 0; this is no CSV, or "
            "one that was damaged."
        )
    named = tuple(name.strip() or f"column{i}" for i, name in enumerate(names))
    return Opening(skip, delimiter, named, header, dialect)


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


def _behind_comment(
    path: Path, before: list[str], first: list[str], delimiter: str, dialect: Dialect
) -> list[str] | None:
    """Return the names of a header that stands behind `#`; None where there is none.

    It is the last comment that has as many cells as the line after the comments (`first`), and
    names. Raises ContractError where that line may be the header as well, and nobody says that
    it is.
    """
    comments = {i: line for i, line in enumerate(before, 1) if line.startswith(COMMENT)}
    if not comments or not dialect.has_header:
        return None
    fields = [told[1].split() for line in comments.values() if (told := FIELDS.match(line))]
    split = {i: _split(one.lstrip("# \t"), delimiter, dialect) for i, one in comments.items()}
    if fields:
        split = {max(comments): fields[-1]}
    fitting = [
        (i, cells)
        for i, cells in split.items()
        if len(cells) == len(first) > 1 and _are_names(cells)
    ]
    if not fitting:
        return None
    number, cells = fitting[-1]
    if not _are_names(first) or dialect.names == tuple(cells):
        return cells
    if dialect.header is None:
        raise ContractError(
            f"{path}, line {number}: it begins with # and has as many cells as the line after the "
            "comments, so that either may be the header. Take the # away if it is this one, or say "
            "header: true in the mapping if it is the other."
        )
    return None


def _are_names(cells: list[str]) -> bool:
    """Tell whether cells can name columns: none is without a letter, none comes twice."""
    lower = {cell.strip().lower() for cell in cells}
    return len(lower) == len(cells) and all(any(map(str.isalpha, cell)) for cell in cells)


def _delimiter(lines: list[str], dialect: Dialect) -> str:
    """Return the delimiter that makes as many cells as there are names.

    Without names, the most cells of the first line.
    """
    with long_cells():
        counts = {one: len(_split(lines[0], one, dialect)) for one in DELIMITERS}
    names = dialect.names
    fitting = [one for one, count in counts.items() if names and count == len(names)]
    return fitting[0] if fitting else max(counts, key=lambda one: counts[one])


def _split(line: str, delimiter: str, dialect: Dialect) -> list[str]:
    """Return the cells of one line, whatever its quotes."""
    if len(delimiter) > 1:
        return line.rstrip("\r\n").split(delimiter)
    return next(csv_reader([line], delimiter, dialect.quotes), [])


def _cells(lines: list[str], delimiter: str, dialect: Dialect, where: str) -> list[str]:
    """Return the cells of the first record; raises ContractError where a quote in it stays open."""
    if len(delimiter) > 1:
        return lines[0].rstrip("\r\n").split(delimiter)
    try:
        with long_cells():
            return next(csv_reader(lines, delimiter, dialect.quotes, strict=True))
    except csv.Error as error:
        raise ContractError(
            f"{where}: {error}; a quote may be open. Mend the line, or {DESCRIBE}."
        ) from None


def unlike(line: int) -> str:
    """Say that a line ends otherwise than those before."""
    return (
        f", line {line}: it ends unlike the lines before (\\r\\n, \\n or \\r); "
        "save the file with one kind of line end."
    )


def other_end(lines: Iterable[str]) -> int | None:
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


def _refuse_other_ends(path: Path, lines: list[str]) -> None:
    """Raise ContractError where lines before the first read one end otherwise than it.

    DuckDB then skips to the end of the file, without a word.
    """
    if len(lines) > 1 and (line := other_end(lines)):
        raise ContractError(f"{path}{unlike(line)}")

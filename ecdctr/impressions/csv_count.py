"""How many rows a CSV file has, counted apart from the reader that reads them.

A net below the reader, which might skip rows or put them together: over the whole file, whatever
its size, one block at a time.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

EMPTY = re.compile(rb"(?<=\n)\n")
BESIDE = re.compile(r'[ \t]"|"[ \t]')
LINE = re.compile(r"\r\n|\n|\r")
NUMBER = re.compile(r"[+-]?[\d.]+")
LONGEST_LINE = 64_000_000  # bytes


def count_records(blocks: Iterable[bytes], skip: int, quotes: bool, blanks: bool = False) -> int:
    """Count the records after the first `skip` lines, a header among them, with or without blanks.

    A record ends with an end of line outside of quotes, wherever in a cell these stand: right for
    files whose quotes stand around whole cells, which nearly all are; else see `read_records`.
    """
    count, inside, blank, held = 0, False, True, b""
    for block in itertools.chain(blocks, [b""]):
        content = held + block
        held = b"\r" if block and content.endswith(b"\r") else b""  # its \n may come with the next
        content = content[: len(content) - len(held)]
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        while skip and content:
            _, end, content = content.partition(b"\n")
            skip -= bool(end)
        parts = content.split(b'"') if quotes else [content]
        outside = b"x" * inside + b"x".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        outside += b"x" * inside
        count += outside.count(b"\n")
        if not blanks:
            count -= len(EMPTY.findall(outside)) + (blank and outside.startswith(b"\n"))
        blank = outside.endswith(b"\n") if outside else blank
    return count + (not blank)


def read_records(
    file: IO[bytes], skip: int, quotes: bool, delimiter: str, blanks: bool = False
) -> int:
    """Count the same by Python's reader, whose quotes stand at the start of a cell; slower.

    Raises csv.Error for an open quote.
    """
    lines, delimiter = _after(file, skip, delimiter)
    with long_cells():
        rows = csv_reader(lines, delimiter, quotes, strict=True)
        return sum(blanks or bool(row) for row in rows)


def lines_of(
    file: IO[bytes], skip: int, quotes: bool, delimiter: str, records: set[int], blanks: bool
) -> dict[int, int]:
    """Return the lines, from 1, at which records begin; records count from 0, after `skip` lines.

    Found by Python's reader, as `read_records` counts.
    """
    lines, delimiter = _after(file, skip, delimiter)
    beginnings: dict[int, int] = {}
    record = before = 0
    with long_cells():
        rows: Any = csv_reader(lines, delimiter, quotes)  # which counts the lines that it reads
        for row in rows:
            begins, before = skip + before + 1, rows.line_num
            if not (blanks or row):
                continue
            if record in records:
                beginnings[record] = begins
            record += 1
            if len(beginnings) == len(records):
                break
    return beginnings


def _after(file: IO[bytes], skip: int, delimiter: str) -> tuple[Iterator[str], str]:
    """Return a file's lines after the first ones, and a delimiter of one letter in them."""
    lines: Iterator[str] = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
    lines = itertools.islice(lines, skip, None)
    if len(delimiter) > 1:
        return (line.replace(delimiter, "\x1f") for line in lines), "\x1f"
    return lines, delimiter


def csv_reader(
    lines: Iterable[str], delimiter: str, quotes: bool, strict: bool = False
) -> Iterator[list[str]]:
    """Read records by Python's reader."""
    if quotes:
        return csv.reader(lines, delimiter=delimiter, strict=strict)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=strict)


def blank_beside_quote(file: IO[bytes], skip: int, delimiter: str) -> int | None:
    """Return the first line with a blank between a quote around a cell and the cell's end.

    RFC 4180 has blanks as letters; DuckDB takes them away, so that two ids would become one.
    """
    between, blank = re.escape(delimiter), "[ \t]" if delimiter != "\t" else " "
    letter = rf"(?!{between})[^\r\n]"
    cell = re.compile(
        rf'(?P<odd>{blank}+"|"(?:[^"]|"")*"{blank}+(?={between}|[\r\n]|$))?'
        rf'(?:"(?:[^"]|"")*"|(?:{letter})*)(?:{letter})*(?:{between}|[\r\n]+|$)'
    )
    read: list[str] = []

    def kept(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            read.append(line)
            # one letter for the parser alone, whose delimiter can be no more
            yield line if len(delimiter) == 1 else line.replace(delimiter, "\x1f")

    text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
    number = skip + 1
    with long_cells():
        lines = kept(itertools.islice(text, skip, None))
        for _ in csv_reader(lines, delimiter if len(delimiter) == 1 else "\x1f", quotes=True):
            record = "".join(read)
            if BESIDE.search(record) and any(one["odd"] for one in cell.finditer(record)):
                return number
            number += len(read)
            read.clear()
    return None


def row_inside_cell(file: IO[bytes], skip: int, delimiter: str) -> int | None:
    """Return the line of the first cell that holds whole rows by quotes that are letters, it seems.

    Where a cell begins with a quote and a later row's ends with one, what lies between is that
    cell by RFC 4180: the end of a row, other rows and the start of one, of as many cells and of
    numbers where the record has them.
    """
    lines, delimiter = _after(file, skip, delimiter)
    before = 0
    with long_cells():
        rows: Any = csv_reader(lines, delimiter, quotes=True)  # which counts the lines it reads
        for row in rows:
            several = rows.line_num - before > 1
            if several and any(_holds_rows(row, i, delimiter) for i in range(len(row))):
                return skip + before + 1
            before = rows.line_num
    return None


def _holds_rows(row: list[str], place: int, delimiter: str) -> bool:
    first, *others = LINE.split(row[place])
    if not others:
        return False
    last = others[-1]
    cells = [*last.split(delimiter)[:-1], *first.split(delimiter)[1:]]
    beside = [*row[:place], *row[place + 1 :]]
    return bool(beside) and _are_numbers(cells) == _are_numbers(beside)


def _are_numbers(cells: list[str]) -> list[bool]:
    return [NUMBER.fullmatch(cell.strip('"')) is not None for cell in cells]


@contextmanager
def long_cells() -> Iterator[None]:
    """Let Python's reader take cells as long as DuckDB's lines; its own limit is 128 KiB."""
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)

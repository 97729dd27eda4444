"""The import of a log: rows as a mapping says, one ordered file per domain and day, run by DuckDB.

Every row of the log is kept, or counted under the reason for which it is left out; what cannot be
an impression (an id that is null, a label that is no label, a time that cannot be) stops the import
with the file and the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb

from ecdctr.config import DOMAINS
from ecdctr.errors import ContractError, first_line, lacks_room
from ecdctr.files import duck
from ecdctr.files.duck import identifier, one_row, parquet
from ecdctr.impressions.expressions import (
    checked_type,
    columns_read,
    scalar_kind,
    text_columns,
)
from ecdctr.impressions.ids import rounded_ids, rounded_values
from ecdctr.impressions.import_rows import (
    refuse_rows,
    words_for_cut_times,
    words_for_domains,
    words_for_none,
    words_for_unclear_times,
)
from ecdctr.impressions.instants import instant, make_macros, words_for_int96
from ecdctr.impressions.joins import check_joins, same_key
from ecdctr.impressions.like_ids import words_for_like_ids
from ecdctr.impressions.locate import place_at_fault
from ecdctr.impressions.log_files import words_for_hidden
from ecdctr.impressions.mapped_rows import (
    Staged,
    damage_of,
    explained,
    map_file,
    parts_of,
    split,
    view_of,
)
from ecdctr.impressions.mapping import Mapping, refuse_names
from ecdctr.impressions.odd_cells import Declared, finder, refuse_kinds
from ecdctr.impressions.staging import FINAL, staging
from ecdctr.impressions.syntax import Tables, columns_of
from ecdctr.impressions.tables import Opened, TableFile, open_table


class Imported(NamedTuple):
    """What became of the log's rows."""

    read: int
    natural: int
    ads: int
    left_out: int
    duplicates: int
    first: str
    last: str


def import_log(
    mapping: Mapping,
    source: Path,
    root: Path,
    memory: str = "2GB",
    threads: int = 2,
    on_file: Callable[[str], None] | None = None,
    declared: Declared | None = None,
) -> Imported:
    """Stream a log into `root` as impressions.

    One file per domain and day, in order of time, doubles removed. Nothing appears under `root`
    until everything is written. `on_file` hears of each log file. Of doubles (same user, item and
    time) a click stays before none, then the least by all columns. `declared` is what a
    configuration says of features. Raises ConfigError for an expression that does not fit the
    columns, ContractError for files that cannot be read, rows that cannot be impressions, features
    of another kind than declared, or a domain without clicks.
    """
    # DuckDB takes ~ and file: for more than names
    source, root = source.absolute(), root.absolute()
    refuse_names(mapping)
    say = on_file or (lambda _: None)
    with staging(root) as scratch, _connect(scratch, memory, threads) as db:
        for table in (mapping.log, *mapping.joins.values()):
            for sentence in words_for_hidden(table.files, source):
                say(sentence)
        said = mapping.said()
        opened = {
            name: open_table(db, join, source, scratch / f"join-{name}", said, say)
            for name, join in mapping.joins.items()
        }
        log = open_table(db, mapping.log, source, scratch / "log", said)
        with _joining(mapping, [log, *opened.values()]):
            tables = _create(db, mapping, {"log": log, **opened}, scratch)
            check_joins(tables, mapping)
        types = {}
        view_of(db, log.files[0])  # to bind expressions
        for key, text in mapping.expressions().items():
            with explained(db, log.files[0], partial(str, key)):
                types[key] = checked_type(tables, key, text)
        make_macros(db)
        ts = instant(tables, mapping.ts, _texts(tables, columns_read(tables, mapping.ts)))
        of_tables = _columns_by_table(tables, mapping)
        view_of(db, *log.files)
        notes = text_columns(tables, mapping)
        notes += [note for name in opened for note in _cut_in(opened[name], of_tables[name])]
        for sentence in notes:
            say(sentence)
        joined = _joins_sql(tables, mapping)
        if declared:
            refuse_kinds(tables, mapping, types, log, f"log{joined}", declared, scratch / "cells")
            view_of(db, *log.files)
        parts = parts_of(
            mapping, types, ts, rounded_ids(tables, mapping), rounded_values(tables, mapping)
        )
        for i, file in enumerate(log.files):
            raw, later = scratch / f"raw-{i}", tuple(log.files[i + 1 :])
            staged = Staged(file, raw.with_suffix(".parquet"), parts, f"log{joined}", later)
            notes = _stage(db, mapping, staged, raw)
            cut = _cut_in(log._replace(files=[file]), of_tables["log"])
            for sentence in (_rows_of(file), *notes, *cut):
                say(sentence)
        done = _finish(db, mapping, types, scratch, sum(file.rows for file in log.files))
        days = parquet(sorted((scratch / FINAL).rglob("*.parquet")))
        for sentence in words_for_like_ids(db, mapping, types, days):
            say(sentence)
        return done


@contextmanager
def _connect(folder: Path, memory: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(memory, threads, folder / "spill") as db:
        db.execute("SET preserve_insertion_order = false")
        yield db


@contextmanager
def _joining(mapping: Mapping, opened: list[Opened]) -> Iterator[None]:
    """Say what DuckDB says of files that it reads whole for joins, or to look for keys."""
    try:
        yield
    except duckdb.Error as error:
        if lacks_room(error):
            raise
        for file in (file for table in opened for file in table.files):
            if damage := damage_of(file.path):
                raise ContractError(
                    f"mapping joins.{', '.join(mapping.joins)}: {damage}."
                ) from None
        files = [name for table in (mapping.log, *mapping.joins.values()) for name in table.files]
        raise ContractError(
            f"mapping joins.{', '.join(mapping.joins)}: one of {', '.join(files)} cannot be read: "
            f"{first_line(error)}"
        ) from None


def _joins_sql(tables: Tables, mapping: Mapping) -> str:
    return "".join(
        f" LEFT JOIN {identifier(name)} ON {same_key(tables, name, join.key)}"
        for name, join in mapping.joins.items()
    )


def _rows_of(file: TableFile) -> str:
    """Say how many rows a log file has, and which columns it lacks."""
    lacks = f"; without {', '.join(file.absent)}, null there" if file.absent and file.rows else ""
    return f"{file.name}: {file.rows:,} rows{lacks}"


def _create(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, opened: dict[str, Opened], scratch: Path
) -> Tables:
    """Make the log a view of all its files, joins tables."""
    for name, table in opened.items():
        if name == "log":
            view_of(db, *table.files)
            continue
        query = " UNION ALL ".join(file.query for file in table.files)
        db.execute(f"CREATE TABLE {identifier(name)} AS {query}")
    return Tables(
        db,
        {name: columns_of(db, name) for name in opened},
        frozenset(name for name, table in opened.items() if table.kind == "csv"),
        {name: table.ambiguous for name, table in opened.items()},
        finder(db, mapping, opened, scratch / "cells"),
    )


def _stage(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged, target: Path
) -> list[str]:
    """Map one log file and split it by domain and day, every row of it.

    Returns what is to be said of its ids and times. Raises ContractError for bad rows.
    """
    with explained(db, staged.file, partial(place_at_fault, db, mapping.log, staged)):
        map_file(db, staged)
        refuse_rows(db, mapping, staged)
        notes = [
            words(db, staged)
            for words in (
                words_for_none,
                words_for_domains,
                words_for_cut_times,
                words_for_unclear_times,
            )
        ]
        split(db, staged, target)
    return [f"{staged.file.name}: {note}" for note in notes if note]


def _columns_by_table(tables: Tables, mapping: Mapping) -> dict[str, list[str]]:
    """Return the columns that the mapping reads of each table, keys of joins among them."""
    read: dict[str, list[str]] = {name: [] for name in tables.columns}
    for text in mapping.expressions().values():
        for table, name in columns_read(tables, text):
            read[table].append(name)
    for table, join in mapping.joins.items():
        read[table].append(join.key)
        read["log"].append(join.key)
    return read


def _cut_in(table: Opened, columns: list[str]) -> list[str]:
    """Write sentences about times of Parquet files that DuckDB cuts as it reads them."""
    if table.kind != "parquet":
        return []
    return [
        f"{file.name}: {note}"
        for file in table.files
        for note in words_for_int96(file.path, columns)
    ]


def _texts(tables: Tables, columns: list[tuple[str, str]]) -> list[str]:
    """Return those of columns that are text, as SQL."""
    return [
        f"{identifier(table)}.{identifier(name)}"
        for table, name in columns
        if tables.columns[table][name] == "VARCHAR"
    ]


def _finish(
    db: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    types: dict[str, str],
    scratch: Path,
    read: int,
) -> Imported:
    """Write one ordered file per domain and day without doubles.

    Every row that was read is in one of the counts.
    """
    narrow = _narrow(db, types, scratch)
    counts = {str(domain): [0, 0, 0] for domain in DOMAINS}  # rows, clicks, doubles
    partitions = {
        path.relative_to(path.parents[1]) for path in scratch.glob("raw-*/_domain=*/_date=*")
    }
    days = set()
    left_out = 0
    for partition in sorted(partitions):
        domain, date = (part.split("=", 1)[1] for part in partition.parts)
        rows = parquet(sorted(scratch.glob(f"raw-*/{partition}/*.parquet")))
        if domain == "other":
            left_out += one_row(db, f"SELECT count(*) FROM {rows}")[0]
            continue
        target = scratch / FINAL / f"domain={domain}" / f"date={date}" / "part-0.parquet"
        others = "".join(f", {identifier(name)}" for name in mapping.features)
        duck.write_parquet(
            db,
            f"SELECT DISTINCT ON (ts, user_id, item_id) user_id, item_id, ts, click{others} "
            f"FROM (SELECT * {narrow} FROM {rows}) ORDER BY ts, user_id, item_id, click "
            f"DESC{others}",
            target,
        )
        before = one_row(db, f"SELECT count(*) FROM {rows}")[0]
        kept, clicks = one_row(
            db, f"SELECT count(*), coalesce(sum(click), 0) FROM {parquet([target])}"
        )
        days.add(date)
        for i, number in enumerate((kept, int(clicks), before - kept)):
            counts[domain][i] += number
    _refuse_empty(mapping, counts)
    natural, ads = counts["natural"], counts["ads"]
    done = Imported(read, natural[0], ads[0], left_out, natural[2] + ads[2], min(days), max(days))
    if read != done.natural + done.ads + done.left_out + done.duplicates:
        raise ContractError(f"Rows got lost: {done}. Nothing was imported; please report this.")
    return done


def _narrow(db: duckdb.DuckDBPyConnection, types: dict[str, str], scratch: Path) -> str:
    """Return the REPLACE for wide integers: int64 where all of the log's values fit, else text."""
    staged = sorted(scratch.glob("raw-*/_domain=*/_date=*/*.parquet"))
    names = {key.removeprefix("features."): kind for key, kind in types.items()}
    wide = [name for name, kind in names.items() if scalar_kind(kind.removesuffix("[]")) == "wide"]
    replaced = []
    for name in wide:
        column = identifier(name)
        many = names[name].endswith("[]")
        values = f"unnest({column})" if many else column
        fits = (
            "SELECT bool_and(TRY_CAST(v AS BIGINT) IS NOT NULL OR v IS NULL) FROM (SELECT "
            f"{values} AS v FROM {parquet(staged)})"
        )
        target = "BIGINT" if one_row(db, fits)[0] is not False else "VARCHAR"
        replaced.append(f"{column}::{target}{'[]' if many else ''} AS {column}")
    return f"REPLACE ({', '.join(replaced)})" if replaced else ""


def _refuse_empty(mapping: Mapping, counts: dict[str, list[int]]) -> None:
    for domain, (rows, clicks, _) in counts.items():
        if not clicks:
            raise ContractError(
                f"The log has {rows:,} impressions and {clicks} clicks of domain '{domain}', "
                "expected some of both; check 'domain' and 'click' in the mapping: "
                f"{mapping.domain}; {mapping.click}."
            )

"""The data contract: which columns and types impressions have.

Checked file by file and row by row.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from ecdctr.config.terms import IDS
from ecdctr.errors import ContractError, lacks_room
from ecdctr.files import duck
from ecdctr.impressions.damage import broken_checksum, damaged
from ecdctr.impressions.declared import ColumnType, undecodable
from ecdctr.impressions.delivery import Delivery
from ecdctr.impressions.footers import Violation, unread
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import absence, date_of
from ecdctr.impressions.reading import one_delivery, one_reading
from ecdctr.impressions.schema import DaySchema, disagreement, read_schema

if TYPE_CHECKING:
    from ecdctr.config import Config, Domain


class DayReport(NamedTuple):
    """What one day of one domain holds; `schema` only where the files can be read."""

    domain: Domain
    date: dt.date
    rows: int
    clicks: int
    violations: list[Violation]
    schema: DaySchema | None = None


AT_ONCE = 50  # columns in one query: planning grows with the square of them
RULED = (*IDS, "ts", "click", "impression_id")  # columns that the rules read

# What a good row is, as SQL over the typed columns; each with what a bad one breaks.
ROW_RULES = {
    "null_id": (
        "user_id IS NOT NULL AND item_id IS NOT NULL",
        "user_id, item_id: expected no nulls",
    ),
    "label": ("click IS NOT NULL AND click IN (0, 1)", "click: expected 0 or 1"),
    "timestamp": (
        "ts IS NOT NULL AND ts >= $day AND ts < $day + INTERVAL 1 DAY",
        "ts: expected a timestamp inside the partition's date (UTC)",
    ),
}
OF_TABLE = (
    "expected folders of Parquet files alone, found those of a table of {}, some of which, or of "
    "whose rows, it counts as removed; write its rows out as plain Parquet"
)
OF_BOTH = (
    "expected impressions of one domain, found the same files under the other, too; deliver what "
    "belongs here"
)
NO_NULL_KEY = ("impression_id IS NOT NULL", "impression_id: expected no nulls")


def connect(config: Config) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with the configured bounds; it goes on on the disk of what is prepared."""
    spill = duck.spill_folder(config.data.prepared)
    return duck.connect(config.data.duckdb_memory, config.data.threads, spill)


def row_rules(schema: DaySchema) -> dict[str, tuple[str, str]]:
    """List the rules of a day's rows: condition of a good one, what a bad one breaks.

    `_misfit` is asked apart.
    """
    has_id = "impression_id" in schema.names
    return ROW_RULES | ({"null_key": NO_NULL_KEY} if has_id else {})


def good_rows(schema: DaySchema, date: dt.date) -> str:
    """Write the condition of a good row, SQL over `DaySchema.select`."""
    rules = [rule for rule, _ in row_rules(schema).values()] + ["_misfit IS NULL"]
    condition = " AND ".join(f"coalesce({rule}, false)" for rule in rules)
    return condition.replace("$day", f"TIMESTAMPTZ '{date} 00:00:00+00'")


def validate_day(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> DayReport:
    """Check one day; reads it once and keeps nothing.

    Raises DeliveredAnew, whatever it seems to hold, where its files changed meanwhile: what was
    read is then of no delivery.
    """
    impressions = open_impressions(config.data.root)
    before = impressions.stamps(domain, date)
    where = impressions.where(domain, date)
    with one_delivery(lambda: impressions.stamps(domain, date) == before, where):
        return _look_at(connection, config, domain, date)


def _look_at(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> DayReport:
    impressions = open_impressions(config.data.root)
    if table := impressions.table(domain, date):
        foreign = Violation("table_format", str(config.data.root), OF_TABLE.format(table))
        return DayReport(domain, date, 0, 0, [foreign])
    files = impressions.files(domain, date)
    if not files:
        where = impressions.where(domain, date)
        missing = Violation("missing_day", where, "expected at least one .parquet file, found none")
        return DayReport(domain, date, 0, 0, [missing])
    delivery = Delivery.of(config.data)
    lacking = delivery.lacks(domain, date)
    if lacking:
        message = f"expected a whole day, but {lacking} (data.ready: {config.data.ready})"
        incomplete = Violation("incomplete_day", impressions.where(domain, date), message)
        return DayReport(domain, date, 0, 0, [incomplete])
    unread = [name for name in impressions.unread(domain, date) if name != config.data.marker]
    if unread:
        foreign = Violation("unread_file", impressions.where(domain, date), _of_unread(unread))
        return DayReport(domain, date, 0, 0, [foreign])
    if delivery.is_in_both(domain, date):
        twice = Violation("same_files", impressions.where(domain, date), OF_BOTH)
        return DayReport(domain, date, 0, 0, [twice])
    schema, violations = read_schema(files, config.features)
    if schema is None:
        return DayReport(domain, date, 0, 0, violations)
    if damage := _broken_checksum(files):
        return DayReport(domain, date, 0, 0, [damage])
    try:
        rows, clicks, violations = _check_rows(connection, schema, files, date)
    except duckdb.Error as error:  # the footer was whole, the pages are not
        if lacks_room(error):
            raise
        return DayReport(domain, date, 0, 0, [unreadable(connection, schema, error)])
    return DayReport(domain, date, rows, clicks, violations, schema)


def _of_unread(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"expected *.parquet files alone, found {names[0]}{more}; give it such a name in this "
        "folder, move it away, or hide it by a dot or an underscore"
    )


def _broken_checksum(files: list[Path]) -> Violation | None:
    reasons = ((path, broken_checksum(path)) for path in files)
    return next((Violation("unreadable", str(path), why) for path, why in reasons if why), None)


def unreadable(
    connection: duckdb.DuckDBPyConnection, schema: DaySchema, error: duckdb.Error
) -> Violation:
    """Return which file cannot be read, and the column where it holds text that is no UTF-8."""
    files = [path for group in schema.groups for path in group.files]
    columns = ", ".join(map(duck.identifier, schema.names))
    for path in files:
        rows = f"(SELECT {columns} FROM {duck.parquet([path])})"
        with contextlib.suppress(duckdb.Error):
            if name := undecodable(connection, rows):
                message = f"column {name}: expected text in UTF-8, found other bytes"
                return Violation("unreadable", str(path), message)
        if damaged(path):
            return Violation("unreadable", str(path), unread(path, error))
    where = str(files[0] if len(files) == 1 else files[0].parent)
    return Violation("unreadable", where, unread(files[0], error))


@one_reading()
def validate(
    config: Config,
    domains: Iterable[Domain],
    dates: Iterable[dt.date] | None = None,
    on_day: Callable[[DayReport], None] | None = None,
    types: LogTypes | None = None,
) -> list[DayReport]:
    """Check many days one after another.

    Without `dates`, every day from the first to the last one found. Then as many of them may be
    missing as data.allowed_missing_days says. A column must have one type on all of them, and as in
    the days that `types` has seen.
    """
    reports = []
    types = types or LogTypes()
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(connect(config))
        for domain in domains:
            for date in _all_days(config, domain) if dates is None else list(dates):
                report = validate_day(connection, config, domain, date)
                if any(violation.kind == "unreadable" for violation in report.violations):
                    connection = stack.enter_context(connect(config))  # damage may have spoilt it
                report.violations.extend(types.add(report))
                reports.append(report)
                if on_day:
                    on_day(report)
    return reports


class LogTypes:
    """The types of a log's columns, as the days say that are added one after another."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[ColumnType, Path]] = {}

    def look_back(self, config: Config, domain: Domain, date: dt.date) -> None:
        """Add the days before one that its examples look back on, by their footers alone."""
        impressions = open_impressions(config.data.root)
        first = date - dt.timedelta(days=config.data.looked_back_days)
        for day in impressions.dates(domain):
            if first <= day < date:
                schema, violations = read_schema(impressions.files(domain, day), config.features)
                self.add(DayReport(domain, day, 0, 0, violations, schema))

    def add(self, report: DayReport) -> list[Violation]:
        """Compare a day with those before it; what is of another type than there."""
        if report.schema is None:
            return []
        path = report.schema.groups[0].files[0]
        violations = []
        for column, kind in zip(report.schema.columns, report.schema.types, strict=True):
            before, where = self.seen.get(column.name, (kind, path))
            if column.optional:
                continue
            if not before.agrees(kind):
                violations.append(disagreement(column.name, path, str(kind), where, str(before)))
            elif before.name == "nothing" or column.name not in self.seen:
                self.seen[column.name] = (kind, path)
        return violations


def raise_for(report: DayReport, config: Config) -> DaySchema:
    """Raise ContractError with every violation of a day, else return how it is read.

    Bad rows pass when they are to be quarantined.
    """
    fatal = [v for v in report.violations if not (config.data.quarantine and v.bad_rows)]
    if fatal or report.schema is None:
        hint = ""
        if all(v.bad_rows for v in fatal):
            hint = " Mend the files, or set data.quarantine: true to set bad rows aside."
        raise ContractError(". ".join(map(str, fatal)) + "." + hint)
    return report.schema


def _all_days(config: Config, domain: Domain) -> list[dt.date]:
    """List the days from the first to the last; those that may be missing are left out."""
    root = config.data.root
    dates = open_impressions(root).dates(domain)
    if not dates:
        others = open_impressions(root).other_folders(domain)
        another = f", found {others[0]}, {_why_no_day(others[0])}" if others else ""
        raise ContractError(
            f"{root}/domain={domain}: no day of impressions found; "
            f"expected date=YYYY-MM-DD folders with *.parquet files{another}"
            f"{absence(root, domain) if isinstance(root, Path) else ''}."
        )
    every = [dates[0] + dt.timedelta(days=i) for i in range((dates[-1] - dates[0]).days + 1)]
    return dates if len(every) - len(dates) <= config.data.allowed_missing_days else every


def _why_no_day(folder: str) -> str:
    """Say why a folder is no day: by its name, or since its files lie deeper, or nowhere."""
    if date_of(folder):
        return "in which itself none lies; move files of folders in it up"
    return "whose name is no such date"


def _check_rows(
    connection: duckdb.DuckDBPyConnection, schema: DaySchema, files: list[Path], date: dt.date
) -> tuple[int, int, list[Violation]]:
    rules = row_rules(schema)
    counts = ", ".join(
        f"count(*) FILTER (NOT coalesce({rule}, false))" for rule, _ in rules.values()
    )
    key = ", ".join(schema.key)
    keyed = f"count(*) FILTER ({' AND '.join(f'{name} IS NOT NULL' for name in schema.key)})"
    unique = (
        "count(DISTINCT CASE WHEN "
        f"{' AND '.join(f'{name} IS NOT NULL' for name in schema.key)} THEN ({key}) END)"
    )
    sql = (
        f"SELECT count(*), coalesce(sum(click), 0), {keyed} - {unique}, {counts} "
        f"FROM ({schema.only(*RULED).select()})"
    )
    start = dt.datetime.combine(date, dt.time(), dt.UTC)
    rows, clicks, duplicates, *bad = duck.one_row(connection, sql, {"day": start})
    where = str(files[0]) if len(files) == 1 else str(files[0].parent)
    violations = [
        Violation(kind, where, f"{expected}, found {count} bad rows of {rows}", count)
        for (kind, (_, expected)), count in zip(rules.items(), bad, strict=True)
        if count
    ]
    for name, count in _misfits(connection, schema).items():
        message = f"column {name}: {schema.fits(name)}, found {count} bad rows of {rows}"
        violations.append(Violation("value", where, message, count))
    if duplicates:
        message = (
            f"{key}: expected each impression once, found {duplicates} duplicates among {rows} rows"
        )
        violations.append(Violation("duplicate", where, message, duplicates))
    return rows, int(clicks), violations


def _misfits(connection: duckdb.DuckDBPyConnection, schema: DaySchema) -> dict[str, int]:
    """Count the rows with a value that does not fit, by the first such column of some together.

    Every value is looked at, so that damaged pages, and text that is no UTF-8, are told here and
    not in training. Raises duckdb.Error for them.
    """
    misfits: dict[str, int] = {}
    for start in range(0, len(schema.names), AT_ONCE):
        names = schema.names[start : start + AT_ONCE]
        looked_at = ", ".join(f"bit_xor(hash({duck.identifier(name)}))" for name in names)
        rows = schema.only(*names).select()
        sql = f"SELECT histogram(_misfit), {looked_at} FROM ({rows})"
        misfits |= duck.one_row(connection, sql)[0] or {}
    return misfits

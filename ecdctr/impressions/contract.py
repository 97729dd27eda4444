"""The data contract: which columns and types impressions have, checked file by file and row by row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import Config, Domain, Feature
from ecdctr.errors import ContractError, first_line
from ecdctr.impressions.days import available_dates, day_files, day_folder


class Violation(NamedTuple):
    """One breach of the contract."""

    kind: str
    where: str
    message: str
    bad_rows: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class DayReport(NamedTuple):
    """What was found in one day of one domain."""

    domain: Domain
    date: dt.date
    rows: int
    clicks: int
    violations: list[Violation]


# What a good row is, as SQL over the columns of the contract; each with what a bad one breaks.
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


DAMAGED = "expected a whole Parquet file, found a damaged one"


def identity(columns: Iterable[str]) -> str:
    """What makes an impression one: its id where there is one, else who saw what when."""
    return "impression_id" if "impression_id" in columns else "user_id, item_id, ts"


def connect(config: Config) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the configured bounds, in UTC."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{config.data.duckdb_memory}'")
    connection.execute(f"SET threads = {config.data.threads}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


def validate_day(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> DayReport:
    """Check one day; reads it once and keeps nothing."""
    files = day_files(config.data.root, domain, date)
    if not files:
        folder = day_folder(config.data.root, domain, date)
        missing = Violation(
            "missing_day", str(folder), "expected at least one .parquet file, found none"
        )
        return DayReport(domain, date, 0, 0, [missing])
    violations: list[Violation] = []
    for path in files:
        violations += _check_schema(path, config)
    if violations:
        return DayReport(domain, date, 0, 0, violations)
    try:
        rows, clicks, found = _check_rows(connection, files, date)
    except duckdb.Error as error:  # the footer was whole, the pages are not
        where = str(files[0] if len(files) == 1 else files[0].parent)
        return DayReport(
            domain, date, 0, 0, [Violation("unreadable", where, f"{DAMAGED} ({first_line(error)})")]
        )
    return DayReport(domain, date, rows, clicks, found)


def validate(
    config: Config,
    domains: Iterable[Domain],
    dates: Iterable[dt.date] | None = None,
    on_day: Callable[[DayReport], None] | None = None,
) -> list[DayReport]:
    """Check many days one after another; without `dates`, every day from the first to the last one found.

    Then as many of them may be missing as data.allowed_missing_days says.
    """
    reports = []
    with connect(config) as connection:
        for domain in domains:
            for date in _all_days(config, domain) if dates is None else list(dates):
                reports.append(validate_day(connection, config, domain, date))
                if on_day:
                    on_day(reports[-1])
    return reports


def raise_for(report: DayReport, config: Config) -> None:
    """Raise ContractError with every violation of a day; bad rows pass when they are to be quarantined."""
    fatal = [v for v in report.violations if not (config.data.quarantine and v.bad_rows)]
    if fatal:
        hint = ""
        if all(v.bad_rows for v in fatal):
            hint = " Mend the files, or set data.quarantine: true to set bad rows aside."
        raise ContractError(". ".join(map(str, fatal)) + "." + hint)


def _all_days(config: Config, domain: Domain) -> list[dt.date]:
    """From the first to the last day; those that may be missing are left out."""
    root = config.data.root
    dates = available_dates(root, domain)
    if not dates:
        raise ContractError(
            f"{root}/domain={domain}: no day of impressions found; "
            "expected date=YYYY-MM-DD folders with Parquet files."
        )
    every = [dates[0] + dt.timedelta(days=i) for i in range((dates[-1] - dates[0]).days + 1)]
    return dates if len(every) - len(dates) <= config.data.allowed_missing_days else every


def _check_schema(path: Path, config: Config) -> list[Violation]:
    if path.stat().st_size == 0:
        return [Violation("empty_file", str(path), "expected a Parquet file, found 0 bytes")]
    try:
        footer = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        return [Violation("unreadable", str(path), f"{DAMAGED} ({first_line(error)})")]
    schema: pa.Schema = footer.schema_arrow
    if footer.metadata.num_rows == 0:
        return [Violation("empty_file", str(path), "expected at least one row, found 0")]
    found = []
    for name, expected, fits in _expected_columns(config.features):
        if name not in schema.names:
            kind = (
                "missing_column"
                if name in ("user_id", "item_id", "ts", "click")
                else "unknown_feature"
            )
            declared = (
                ""
                if kind == "missing_column"
                else " declared in the configuration under 'features'"
            )
            columns = ", ".join(schema.names)
            found.append(
                Violation(
                    kind,
                    str(path),
                    f"column {name}{declared}: expected, not found among: {columns}",
                )
            )
        elif not fits(schema.field(name).type):
            message = f"column {name}: expected {expected}, found {schema.field(name).type}"
            found.append(Violation("wrong_type", str(path), message))
    return found


def _expected_columns(
    features: Iterable[Feature],
) -> list[tuple[str, str, Callable[[pa.DataType], bool]]]:
    columns: list[tuple[str, str, Callable[[pa.DataType], bool]]] = [
        ("user_id", "int64 or string", _is_id),
        ("item_id", "int64 or string", _is_id),
        ("ts", "timestamp[us, tz=UTC]", lambda t: t == pa.timestamp("us", tz="UTC")),
        ("click", "int8", lambda t: t == pa.int8()),
    ]
    for feature in features:
        if feature.kind == "numeric":
            columns.append(
                (
                    feature.name,
                    "a number",
                    lambda t: pa.types.is_integer(t) or pa.types.is_floating(t),
                )
            )
        elif feature.kind == "categorical":
            columns.append((feature.name, "an integer, string or bool", _is_category))
        else:
            fits = lambda t: pa.types.is_list(t) and _is_category(t.value_type)  # noqa: E731
            columns.append((feature.name, "a list of integers or strings", fits))
    return columns


def _is_id(kind: pa.DataType) -> bool:
    return kind == pa.int64() or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_category(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _check_rows(
    connection: duckdb.DuckDBPyConnection, files: list[Path], date: dt.date
) -> tuple[int, int, list[Violation]]:
    names = [str(path) for path in files]
    counts = ", ".join(
        f"count(*) FILTER (NOT coalesce({rule}, false))" for rule, _ in ROW_RULES.values()
    )
    key = identity(pq.ParquetFile(files[0]).schema_arrow.names)
    sql = (
        f"SELECT count(*), coalesce(sum(click), 0), count(*) - count(DISTINCT ({key})), {counts} "
        "FROM read_parquet($files, hive_partitioning = false)"
    )
    start = dt.datetime.combine(date, dt.time(), dt.UTC)
    row = connection.execute(sql, {"files": names, "day": start}).fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one row
    rows, clicks, duplicates, *bad = row
    where = str(files[0]) if len(files) == 1 else str(files[0].parent)
    found = [
        Violation(kind, where, f"{expected}, found {count} bad rows of {rows}", count)
        for (kind, (_, expected)), count in zip(ROW_RULES.items(), bad, strict=True)
        if count
    ]
    if duplicates:
        message = (
            f"{key}: expected each impression once, found {duplicates} duplicates among {rows} rows"
        )
        found.append(Violation("duplicate", where, message, duplicates))
    return rows, int(clicks), found

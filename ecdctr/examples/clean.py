"""A day's valid, typed rows as DuckDB views.

With quarantine on, bad rows are left out and written aside.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.config import DOMAINS, Config, Domain
from ecdctr.files.duck import write_parquet
from ecdctr.impressions import contract
from ecdctr.impressions.contract import validate_day
from ecdctr.impressions.impressions import open_impressions

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.schema import DaySchema


def declared(config: Config) -> list[dict[str, object]]:
    """Return the features as preparation reads them; whether TPM does is none of it."""
    return [feature.model_dump(mode="json", exclude={"tpm"}) for feature in config.features]


def set_aside_by(config: Config) -> list[object]:
    """Name what decides which rows are set aside, for whatever is kept of a day's rows.

    With quarantine on, a row goes by what is wrong in any declared feature, read or not.
    """
    if not config.data.quarantine:
        return [False]
    return [True, *declared(config)]


def raw_views(
    connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date
) -> dict[str, str]:
    """Return a view per domain that has a day, of its typed impressions.

    Raises ContractError for a broken day.
    """
    impressions = open_impressions(config.data.root)
    views: dict[str, str] = {}
    types = contract.LogTypes()
    for domain in DOMAINS:
        if impressions.has(domain, date):
            report = validate_day(connection, config, domain, date)
            report.violations.extend(types.add(report))
            views[domain] = f"raw_{domain}"
            clean_view(connection, config, report, views[domain])
    return views


def clean_view(
    connection: duckdb.DuckDBPyConnection, config: Config, report: contract.DayReport, view: str
) -> None:
    """Make a view of a day's typed rows.

    With quarantine on, bad rows are left out and written aside.

    Of several good rows with one key, a click stays before none, then the least by all columns in
    their order.
    """
    day = contract.raise_for(report, config)
    if not config.data.quarantine:
        query = f"SELECT * EXCLUDE (_misfit) FROM ({day.select()})"
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {query}")
        return
    good = contract.good_rows(day, report.date)
    marked = (
        f"SELECT *, ({good}) AS _good, row_number() OVER (PARTITION BY {', '.join(day.key)}, "
        f"({good}) ORDER BY {day.preference}) AS _n FROM ({day.select()})"
    )
    keep = f"SELECT * EXCLUDE (_misfit, _good, _n) FROM ({marked}) WHERE _good AND _n = 1"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {keep}")
    assert isinstance(config.data.root, Path)  # noqa: S101  # refused at load
    folder = f"domain={report.domain}/date={report.date}"
    write_parquet(
        connection,
        f"SELECT * EXCLUDE (_good, _n) FROM ({marked}) WHERE NOT (_good AND _n = 1) ORDER BY ALL",
        config.data.root / "_quarantine" / folder / "bad.parquet",
    )


def day_view(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> DaySchema:
    """Return the view `day` of a valid day's rows; raises ContractError for another."""
    report = validate_day(connection, config, domain, date)
    clean_view(connection, config, report, "day")
    return contract.raise_for(report, config)

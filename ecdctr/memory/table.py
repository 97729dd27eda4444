"""The weekly table: what each user did with each item, or value of a feature, in each window.

A table as of a date is made from that of a week before: the new days are added, those that left
a window are taken off. A week therefore costs a week, however long the windows are; only where
there is no table of the week before, all days of the longest window are read. Either way the
table is the same, since it is sums of whole numbers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.domains import DOMAINS
from ecdctr.files import durable
from ecdctr.files.duck import literal, parquet
from ecdctr.memory.columns import counts
from ecdctr.memory.pairs import as_counts

if TYPE_CHECKING:
    import duckdb

    from ecdctr.config import Memory

WEEK = dt.timedelta(days=7)
Daily = Callable[[dt.date], Path | None]  # the extract of a day, None if there is no such day


def newest_table(memory: Memory, date: dt.date) -> dt.date:
    """Return the date of the newest weekly table that knows nothing after `date`."""
    return date - dt.timedelta(days=(date.weekday() - memory.weekday) % 7)


def days_since(table: dt.date, date: dt.date) -> list[dt.date]:
    """Return the days after a table up to and with `date`."""
    return [table + dt.timedelta(days=n) for n in range(1, (date - table).days + 1)]


def build_table(
    connection: duckdb.DuckDBPyConnection,
    memory: Memory,
    date: dt.date,
    daily: Daily,
    target: Path,
    before: Path | None = None,
) -> None:
    """Write the table as of `date`; `before` is that of a week earlier, if there is one.

    The longest window must have a day.

    Columns: user_id, value, place, per domain and window shown and clicks, per domain last (the
    day of the last click in the longest window). `place` numbers a user's pairs, most recent and
    frequent first: readers take those up to memory.max_pairs.
    """
    start = date - WEEK if before else date - dt.timedelta(days=memory.longest)
    parts = [f"SELECT * EXCLUDE (place) FROM {parquet([before])}"] if before else []
    added = _files(daily, days_since(start, date))
    if added:
        parts.append(f"SELECT {as_counts(memory.windows)} FROM {parquet(added)}")
    for window in memory.windows:
        span = dt.timedelta(days=window)
        first = start - span if before else start
        expired = _files(daily, days_since(first, date - span))
        if expired:
            parts.append(f"SELECT {as_counts([window], -1)} FROM {parquet(expired)}")
    weights = " + ".join(
        f"({domain}_shown_{window} / {window}.0)" for domain in DOMAINS for window in memory.windows
    )
    horizon = date - dt.timedelta(days=memory.longest)
    lasts = ", ".join(
        f"CASE WHEN {domain}_last > DATE '{horizon}' THEN {domain}_last END AS {domain}_last"
        for domain in DOMAINS
    )
    held = " + ".join(f"{domain}_shown_{memory.longest}" for domain in DOMAINS)
    query = f"""
        WITH summed AS ({sums(memory, parts)})
        SELECT user_id, value,
            row_number() OVER (PARTITION BY user_id ORDER BY {weights} DESC, value) AS place,
            {", ".join(counts(memory.windows))}, {lasts}
        FROM summed WHERE {held} > 0 ORDER BY user_id, value
    """
    durable.make_dir(target.parent)
    with durable.sealing(target) as temporary:
        connection.execute(
            f"COPY ({query}) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd)"
        )


def sums(memory: Memory, parts: list[str]) -> str:
    """Return one row per user and value of several relations with (some of) a table's columns."""
    added = [f"coalesce(sum({name}), 0)::INTEGER AS {name}" for name in counts(memory.windows)]
    added += [f"max({domain}_last) AS {domain}_last" for domain in DOMAINS]
    every = [*parts, f"SELECT {', '.join(_facts(memory))} WHERE false"]
    return (
        f"SELECT user_id, value, {', '.join(added)} "
        f"FROM ({' UNION ALL BY NAME '.join(every)}) GROUP BY user_id, value"
    )


def _facts(memory: Memory) -> list[str]:
    columns = [f"NULL::INTEGER AS {name}" for name in counts(memory.windows)]
    return columns + [f"NULL::DATE AS {domain}_last" for domain in DOMAINS]


def _files(daily: Daily, dates: Iterable[dt.date]) -> list[Path]:
    return [path for path in map(daily, dates) if path]

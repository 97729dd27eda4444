"""Where memory lies on this machine.

The days' extracts and the weekly tables, made when first needed. Everything is named by the content
of the days behind it, so days can be prepared in any order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.code import code_digest
from ecdctr.config import DOMAINS, Config, Domain, digest
from ecdctr.examples.clean import set_aside_by
from ecdctr.files import durable
from ecdctr.files.duck import literal
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import keep
from ecdctr.memory import pairs
from ecdctr.memory.join import Source
from ecdctr.memory.table import WEEK, build_table, days_since, newest_table

if TYPE_CHECKING:
    import duckdb

READING = ("examples.clean", "examples.remembered", "files.duck", "impressions", "memory")
Views = Callable[[dt.date], dict[str, str]]  # a relation with a day's impressions per domain


class Remembered:
    """The memory of one configuration; content of days is digested once for the life of this."""

    def __init__(self, config: Config) -> None:
        self.config, self.memory = config, config.memory
        self._contents: dict[dt.date, dict[Domain, str]] = {}
        self._names: dict[dt.date, str] = {}

    def fingerprint(self, date: dt.date) -> str:
        """Name what is remembered the day before `date`."""
        before = date - dt.timedelta(days=1)
        newest = newest_table(self.memory, before)
        since = {str(day): self._content(day) for day in days_since(newest, before)}
        keys = self.config.memory_keys
        return digest([self._table_name(newest), since, self.memory.max_pairs, keys])

    def sources(
        self, connection: duckdb.DuckDBPyConnection, views: Views, date: dt.date
    ) -> dict[str, Source]:
        """Return per key the weekly table and the extracts since, up to the day before `date`."""
        before = date - dt.timedelta(days=1)
        newest = newest_table(self.memory, before)
        tables = self.tables(connection, views, newest)
        by_key = {}
        for key in self.config.memory_keys:
            daily = partial(self._extract, connection, views, key)
            since = [path for path in map(daily, days_since(newest, before)) if path]
            by_key[key] = Source(tables.get(key), since)
        return by_key

    def tables(
        self, connection: duckdb.DuckDBPyConnection, views: Views, date: dt.date
    ) -> dict[str, Path]:
        """Return the weekly tables as of `date`, by key; none where the log begins later."""
        if not any(map(self._content, window(date, self.memory.longest))):
            return {}
        by_key = {}
        for key in self.config.memory_keys:
            target, before = self._table_path(key, date), self._table_path(key, date - WEEK)
            if not durable.is_whole(target):
                daily = partial(self._extract, connection, views, key)
                week_before = before if durable.is_whole(before) else None
                build_table(connection, self.memory, date, daily, target, week_before)
            by_key[key] = target
        return by_key

    def _extract(
        self, connection: duckdb.DuckDBPyConnection, views: Views, key: str, date: dt.date
    ) -> Path | None:
        """Extract a day by a key; None if neither domain has the day.

        By the other keys as well: looking through the day's rows costs more than an extract.
        """
        content = self._content(date)
        if not content:
            return None
        paths = {each: self._extract_path(each, date, content) for each in self.config.memory_keys}
        if durable.is_whole(paths[key]):
            return paths[key]
        relations = cache(partial(views, date))

        def write(target: Path, of: str) -> None:
            query = pairs.pairs_sql(relations(), of, date)
            connection.execute(
                f"COPY ({query}) TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)"
            )

        def still() -> bool:
            return _content(self.config, date) == content

        where = open_impressions(self.config.data.root).where(DOMAINS[0], date)
        for each, path in paths.items():
            keep(path, partial(write, of=each), still, where)
        return paths[key]

    def _extract_path(self, key: str, date: dt.date, content: dict[Domain, str]) -> Path:
        name = digest([_code_digest(), set_aside_by(self.config), key, content])[:20]
        return self.config.data.prepared / "daily" / f"date={date}" / f"pairs-{name}.parquet"

    def _table_path(self, key: str, date: dt.date) -> Path:
        name = digest([self._table_name(date), key])[:20]
        return self.config.data.prepared / "memory" / f"date={date}" / f"{key}-{name}.parquet"

    def _table_name(self, date: dt.date) -> str:
        if date not in self._names:
            days = {str(day): self._content(day) for day in window(date, self.memory.longest)}
            windows, aside = self.memory.windows, set_aside_by(self.config)
            self._names[date] = digest([_code_digest(), windows, aside, str(date), days])
        return self._names[date]

    def _content(self, date: dt.date) -> dict[Domain, str]:
        if date not in self._contents:
            self._contents[date] = _content(self.config, date)
        return self._contents[date]


def _content(config: Config, date: dt.date) -> dict[Domain, str]:
    """Return the digest of a day of each domain that has it."""
    impressions = open_impressions(config.data.root)
    return {
        domain: impressions.digest(domain, date)
        for domain in DOMAINS
        if impressions.has(domain, date)
    }


@lru_cache(maxsize=1)
def _code_digest() -> str:
    return code_digest(["examples.remembered"], READING)

"""Preparation in DuckDB: impressions become examples, a Parquet file of rows per day and domain.

Beside it lie the clicks that its rows look back on (histories.py). Named by fingerprint. Two steps.
extracts.py reduces a day of impressions to its clicks and its counts per entity; `build_examples`
joins a day with the extracts of the days before it. A day therefore costs the day plus so many
small extracts as it may look back on, however much lies behind, and days can be prepared in any
order.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb

from ecdctr.config import DOMAINS, Config, Domain, digest
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.examples import histories
from ecdctr.examples.clean import day_view, declared, raw_views, set_aside_by
from ecdctr.examples.extracts import preparing_code, recent_prior, recent_views
from ecdctr.examples.query import CLICKS, LOOKED_BACK, examples_query, look_back
from ecdctr.examples.remembered import Remembered
from ecdctr.examples.same_types import refuse_other_types
from ecdctr.files import durable
from ecdctr.files.duck import write_parquet
from ecdctr.files.reads import note_read
from ecdctr.impressions import contract
from ecdctr.impressions.days import present_days, refuse_gaps, window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import keep, settled, told_damage
from ecdctr.memory.join import memory_relation

Build = Callable[[dt.date, Path], None]


class Prepared(NamedTuple):
    """One prepared day."""

    date: dt.date
    path: Path
    fingerprint: str


@settled
def prepare(
    config: Config,
    domain: Domain,
    dates: list[dt.date],
    basic: bool = False,
    on_day: Callable[[dt.date], None] | None = None,
) -> list[Prepared]:
    """Prepare those of `dates` that are not prepared yet; returns all of them, oldest first.

    `basic` examples hold ids, label and TPM's features only: TPM reads months, and needs no history
    or counts. With data.engine 'spark' examples are made by ecdctr/examples/spark.py, basic ones
    always here. Raises ContractError for a missing or broken day, or where the days that others
    look at have gaps, before anything is written for it. A day that is delivered again meanwhile is
    prepared again; DeliveredAnew if that never ends.
    """
    prepared = []
    with contextlib.ExitStack() as stack:
        build: Build | None = None
        remembered = Remembered(config)
        present = present_days(config, domain, dates)
        if not basic:
            refuse_gaps(config, present, config.examples_look_back)
        for date in present:
            day = example_path(config, domain, date, basic, remembered)
            how = durable if basic else histories
            if not how.is_whole(day.path):
                build = build or stack.enter_context(_builder(config, domain, basic))
                where = open_impressions(config.data.root).where(domain, date)

                def still(day: Prepared = day) -> bool:
                    return example_path(config, domain, day.date, basic) == day

                keep(day.path, partial(_build, build, date, where=where), still, where, how)
            prepared.append(day)
            if on_day:
                on_day(date)
    note_read(day.path for day in prepared)
    if not basic:
        note_read(histories.clicks_path(day.path) for day in prepared)
    refuse_other_types([day.path for day in prepared])
    return prepared


def _build(build: Build, date: dt.date, target: Path, where: str) -> None:
    """Build a day.

    What a file turns out not to hold only when all of it is read is told as ContractError.
    """
    try:
        with told_damage():
            build(date, target)
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise ContractError(
            f"{where}: cannot be prepared, {first_line(error)}. Deliver the day's files, or those "
            "of the days that it looks back on, again."
        ) from None


@contextlib.contextmanager
def _builder(config: Config, domain: Domain, basic: bool) -> Iterator[Build]:
    """Yield what writes the examples of a day to a path.

    An engine starts with the first day that needs it.
    """
    durable.make_dir(config.data.prepared)
    with contract.connect(config) as connection:
        if basic or config.data.engine == "duckdb":
            yield partial(_build_basic if basic else build_examples, connection, config, domain)
            return
        try:
            from ecdctr.examples.spark import SparkBuilder
        except ImportError:
            raise ConfigError(
                "Preparation on Spark needs the extra 'spark': pip install 'ecdctr[spark]'"
            ) from None
        yield SparkBuilder(connection, config, domain)


def example_path(
    config: Config,
    domain: Domain,
    date: dt.date,
    basic: bool = False,
    remembered: Remembered | None = None,
) -> Prepared:
    """Return where the examples of a day lie, once they are prepared."""
    fingerprint = example_fingerprint(config, domain, date, basic, remembered)
    kind = "basic" if basic else "examples"
    folder = config.data.prepared / kind / f"domain={domain}" / f"date={date}"
    return Prepared(date, folder / f"{fingerprint[:20]}.parquet", fingerprint)


def example_fingerprint(
    config: Config,
    domain: Domain,
    date: dt.date,
    basic: bool = False,
    remembered: Remembered | None = None,
) -> str:
    """Name the examples of a day by code, settings, and what was read.

    That is the content of the day and of the days it looks back on.
    """
    if basic:
        names = [feature.name for feature in config.features if feature.tpm]
        day = open_impressions(config.data.root).digest(domain, date)
        return digest([preparing_code(), names, set_aside_by(config), domain, str(date), day])
    before = window(date - dt.timedelta(days=1), config.data.looked_back_days)
    impressions = open_impressions(config.data.root)
    days = {f"{d}/{day}": impressions.digest(d, day) for d in DOMAINS for day in [*before, date]}
    parts: list[object] = [preparing_code(), _settings(config), domain, str(date), days]
    if config.memory.enabled:
        parts.append((remembered or Remembered(config)).fingerprint(date))
    return digest(parts)


def _settings(config: Config) -> dict[str, object]:
    data = config.data
    return {
        "features": declared(config),
        "history_length": data.history_length,
        "history_features": data.history_features,
        "lookback_days": data.lookback_days,
        "click_days": data.click_days,
        "numeric_null": data.numeric_null,
        "quarantine": data.quarantine,
    }


def _build_basic(
    connection: duckdb.DuckDBPyConnection,
    config: Config,
    domain: Domain,
    date: dt.date,
    target: Path,
) -> None:
    day = day_view(connection, config, domain, date)
    names = [
        "user_id",
        "item_id",
        "ts",
        "click",
        *(feature.name for feature in config.features if feature.tpm),
    ]
    columns = ", ".join(f'"{name}"' for name in names)
    write_parquet(connection, f"SELECT {columns} FROM day ORDER BY {day.order}", target)


def build_examples(
    connection: duckdb.DuckDBPyConnection,
    config: Config,
    domain: Domain,
    date: dt.date,
    target: Path,
    prior: float | None = None,
    rows_of: Config | None = None,
) -> None:
    """Write the examples of one day, and their clicks beside them.

    `prior` stands in for the click-through rate of the days before. The day's rows are those of
    `rows_of`, where it is given, looking back on the impressions of `config`.
    """
    recent_views(connection, config, date)
    day = day_view(connection, rows_of or config, domain, date)
    if config.memory.enabled:
        _memory_views(connection, config, date)
    prior = recent_prior(connection, domain) if prior is None else prior
    for statement in look_back(config, date, day):
        connection.execute(statement)
    write_parquet(connection, CLICKS, histories.clicks_path(target))
    write_parquet(connection, examples_query(config, domain, date, day, prior), target)
    for name in LOOKED_BACK:
        connection.execute(f"DROP TABLE {name}")


def _memory_views(connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date) -> None:
    """Make `memory_0` and so on: per key what the users of the day remember."""
    sources = Remembered(config).sources(connection, partial(raw_views, connection, config), date)
    for n, key in enumerate(config.memory_keys):
        relation = memory_relation(config.memory, key, sources[key])
        connection.execute(f"CREATE OR REPLACE TEMP VIEW memory_{n} AS {relation}")

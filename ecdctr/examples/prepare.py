"""Preparation in DuckDB: impressions become examples, one Parquet file per day and domain.

Named by fingerprint. Two steps. `extract` reduces a day of impressions to its clicks and its counts
per entity; `build_examples` joins a day with the extracts of the days before it. A day therefore
costs the day plus `lookback_days` small extracts, however much history lies behind, and days can be
prepared in any order.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import DOMAINS, Config, Domain, digest
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.examples import transforms
from ecdctr.examples.clean import day_view, declared, raw_views, set_aside_by
from ecdctr.examples.query import examples_query
from ecdctr.examples.remembered import READING, Remembered
from ecdctr.files import duck, durable
from ecdctr.files.duck import one_row, write_parquet
from ecdctr.files.reads import note_read
from ecdctr.impressions import contract
from ecdctr.impressions.days import present_days, refuse_gaps, window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import keep, settled, told_damage
from ecdctr.memory.join import memory_relation

Build = Callable[[dt.date, Path], None]
ALGORITHM = 2  # raised by whoever changes the examples where no module shows it
PREPARING = (
    *READING,
    "examples.query",
    "examples.transforms",
)  # and this module; Spark makes the same rows


EXTRACTS = (
    "SELECT user_id, ts, item_id FROM impressions WHERE click = 1 ORDER BY user_id, ts, item_id",
    """
    SELECT 'user' AS side, domain, user_id AS id,
        count(*) AS impressions, sum(click)::BIGINT AS clicks
    FROM impressions GROUP BY ALL
    UNION ALL
    SELECT 'item', domain, item_id, count(*), sum(click)::BIGINT FROM impressions GROUP BY ALL
    ORDER BY side, domain, id
    """,
)  # of a day over both domains: its clicks, and its counts per entity


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
            if not durable.is_whole(day.path):
                build = build or stack.enter_context(_builder(config, domain, basic))
                where = open_impressions(config.data.root).where(domain, date)

                def still(day: Prepared = day) -> bool:
                    return example_path(config, domain, day.date, basic) == day

                keep(day.path, partial(_build, build, date, where=where), still, where)
            prepared.append(day)
            if on_day:
                on_day(date)
    note_read(day.path for day in prepared)
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


def refuse_other_types(paths: list[Path]) -> None:
    """Raise ContractError when a column has another type in one file than in those before.

    A column that holds nothing on a day has Arrow's type null there, which agrees with any other.
    """
    types: dict[str, tuple[pa.DataType, Path]] = {}
    for path in paths:
        for field in pq.read_schema(path):
            kind = field.type.value_type if pa.types.is_list(field.type) else field.type
            before, where = types.setdefault(field.name, (kind, path))
            if pa.types.is_null(before):
                types[field.name] = (kind, path)
            elif kind != before and not pa.types.is_null(kind):
                raise ContractError(
                    f"Column {field.name} changes its type: {before} on {_day_of(where)}, {kind} "
                    f"on {_day_of(path)}. A column has one type in the whole log; deliver one of "
                    "the days anew."
                )


def _day_of(path: Path) -> str:
    """Return the folders that name a prepared day, e.g. domain=ads/date=2026-01-06."""
    return "/".join(part for part in path.parts if part.startswith(("domain=", "date=")))


@contextlib.contextmanager
def _builder(config: Config, domain: Domain, basic: bool) -> Iterator[Build]:
    """Yield what writes the examples of a day to a path.

    An engine starts with the first day that needs it.
    """
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
    before = window(date - dt.timedelta(days=1), config.data.lookback_days)
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
        "lookback_days": data.lookback_days,
        "numeric_null": data.numeric_null,
        "quarantine": data.quarantine,
    }


@lru_cache(maxsize=1)
def preparing_code() -> str:
    """Digest the code that examples are made with; comments and layout are not in it."""
    return digest([ALGORITHM, code_digest(["examples.prepare"], PREPARING)])


def _extract(
    connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date
) -> tuple[Path, Path] | None:
    """Extract clicks and counts of one day over both domains; None if neither has the day."""
    impressions = open_impressions(config.data.root)
    folder = config.data.prepared / "daily" / f"date={date}"

    def files() -> tuple[Path, Path] | None:
        raw = {d: impressions.digest(d, date) for d in DOMAINS if impressions.has(d, date)}
        name = digest([preparing_code(), set_aside_by(config), raw])[:20]
        made = folder / f"clicks-{name}.parquet", folder / f"counts-{name}.parquet"
        return made if raw else None

    paths = files()
    if paths is None or all(map(durable.is_whole, paths)):
        return paths

    @cache
    def view() -> None:
        selects = [
            f"SELECT '{domain}' AS domain, user_id, item_id, ts, click FROM {relation}"
            for domain, relation in raw_views(connection, config, date).items()
        ]
        union = " UNION ALL ".join(selects)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW impressions AS {union}")

    def write(target: Path, query: str) -> None:
        view()
        write_parquet(connection, query, target)

    where = impressions.where(DOMAINS[0], date)
    for path, query in zip(paths, EXTRACTS, strict=True):
        keep(path, partial(write, query=query), lambda: files() == paths, where)
    return paths


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
    """Write the examples of one day.

    `prior` stands in for the click-through rate of the days before. The day's rows are those of
    `rows_of`, where it is given, looking back on the impressions of `config`.
    """
    data = config.data
    extracts = [_extract(connection, config, day) for day in window(date, data.lookback_days + 1)]
    refuse_other_types([pair[0] for pair in extracts if pair])
    day = day_view(connection, rows_of or config, domain, date)
    click_files = [pair[0] for pair in extracts if pair]
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW recent_clicks AS SELECT * FROM {duck.parquet(click_files)}"
    )
    _counts_view(connection, [pair[1] for pair in extracts[:-1] if pair])
    if config.memory.enabled:
        _memory_views(connection, config, date)
    prior = _prior(connection, domain) if prior is None else prior
    write_parquet(connection, examples_query(config, domain, date, day, prior), target)


def _memory_views(connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date) -> None:
    """Make `memory_0` and so on: per key what the users of the day remember."""
    sources = Remembered(config).sources(connection, partial(raw_views, connection, config), date)
    for n, key in enumerate(config.memory_keys):
        relation = memory_relation(config.memory, key, sources[key])
        connection.execute(f"CREATE OR REPLACE TEMP VIEW memory_{n} AS {relation}")


def _counts_view(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """Make `recent_counts`: side, domain, id, impressions, clicks of these extracts' days."""
    if files:
        counts = f"SELECT * FROM {duck.parquet(files)}"
    else:  # the very first day: nothing lies before it
        counts = (
            "SELECT 'user' AS side, 'ads' AS domain, user_id AS id, 0::BIGINT AS impressions, "
            "0::BIGINT AS clicks FROM recent_clicks WHERE false"
        )
    connection.execute(f"CREATE OR REPLACE TEMP VIEW recent_counts AS {counts}")


def _prior(connection: duckdb.DuckDBPyConnection, domain: Domain) -> float:
    query = (
        "SELECT coalesce(sum(clicks), 0)::BIGINT, coalesce(sum(impressions), 0)::BIGINT "
        f"FROM recent_counts WHERE side = 'user' AND domain = '{domain}'"
    )
    return transforms.prior_ctr(*one_row(connection, query))

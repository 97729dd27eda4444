"""A day's extracts, its clicks and its counts per entity, and what the days before add up to."""

from __future__ import annotations

import datetime as dt
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import DOMAINS, Config, Domain, digest
from ecdctr.examples import transforms
from ecdctr.examples.clean import raw_views, set_aside_by
from ecdctr.examples.remembered import READING
from ecdctr.examples.same_types import refuse_other_types
from ecdctr.files import duck, durable
from ecdctr.files.duck import one_row, write_parquet
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import keep

if TYPE_CHECKING:
    import duckdb

ALGORITHM = 3  # raised by whoever changes the examples where no module shows it
PREPARING = (
    *READING,
    "examples.same_types",
    "examples.extracts",
    "examples.query",
    "examples.transforms",
)  # and examples.prepare; Spark makes the same rows
COUNTS = """
    SELECT 'user' AS side, domain, user_id AS id,
        count(*) AS impressions, sum(click)::BIGINT AS clicks
    FROM impressions GROUP BY ALL
    UNION ALL
    SELECT 'item', domain, item_id, count(*), sum(click)::BIGINT FROM impressions GROUP BY ALL
    ORDER BY side, domain, id
"""


@lru_cache(maxsize=1)
def preparing_code() -> str:
    """Digest the code that examples are made with; comments and layout are not in it."""
    return digest([ALGORITHM, code_digest(["examples.prepare"], PREPARING)])


def recent_views(connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date) -> None:
    """Make `recent_clicks` and `recent_counts`, as far as a day's examples may look back.

    Of both domains, clicks of the day itself, too. Raises ContractError for a broken day, and for
    ids that change their type.
    """
    days = window(date, config.data.looked_back_days + 1)
    extracts = {day: _extract(connection, config, day) for day in days}
    within = set(window(date, config.data.click_days + 1))
    clicks = [pair[0] for day, pair in extracts.items() if pair and day in within]
    refuse_other_types(clicks)
    relation = _clicks_relation(clicks, config.data.history_features)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW recent_clicks AS {relation}")
    counted = set(window(date - dt.timedelta(days=1), config.data.lookback_days))
    _counts_view(connection, [pair[1] for day, pair in extracts.items() if pair and day in counted])


def recent_prior(connection: duckdb.DuckDBPyConnection, domain: Domain) -> float:
    """Return the click-through rate of `recent_counts` in a domain."""
    query = (
        "SELECT coalesce(sum(clicks), 0)::BIGINT, coalesce(sum(impressions), 0)::BIGINT "
        f"FROM recent_counts WHERE side = 'user' AND domain = '{domain}'"
    )
    return transforms.prior_ctr(*one_row(connection, query))


def _extract(
    connection: duckdb.DuckDBPyConnection, config: Config, date: dt.date
) -> tuple[Path, Path] | None:
    """Extract clicks and counts of one day over both domains; None if neither has the day."""
    impressions = open_impressions(config.data.root)
    folder = config.data.prepared / "daily" / f"date={date}"
    features = config.data.history_features

    def files() -> tuple[Path, Path] | None:
        raw = {d: impressions.digest(d, date) for d in DOMAINS if impressions.has(d, date)}
        made_of = [preparing_code(), set_aside_by(config), raw]
        counts, clicks = digest(made_of)[:20], digest([*made_of, features])[:20]
        made = folder / f"clicks-{clicks}.parquet", folder / f"counts-{counts}.parquet"
        return made if raw else None

    paths = files()
    if paths is None or all(map(durable.is_whole, paths)):
        return paths
    names = ["user_id", "ts", "item_id", *features]
    columns = ", ".join(map(duck.identifier, names))

    @cache
    def view() -> None:
        read = ", ".join(map(duck.identifier, [*names, "click"]))
        selects = [
            f"SELECT '{domain}' AS domain, {read} FROM {relation}"
            for domain, relation in raw_views(connection, config, date).items()
        ]
        union = " UNION ALL ".join(selects)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW impressions AS {union}")

    def write(target: Path, query: str) -> None:
        view()
        write_parquet(connection, query, target)

    clicks = f"SELECT {columns} FROM impressions WHERE click = 1 ORDER BY {columns}"
    where = impressions.where(DOMAINS[0], date)
    for path, query in zip(paths, (clicks, COUNTS), strict=True):
        keep(path, partial(write, query=query), lambda: files() == paths, where)
    return paths


def _clicks_relation(files: list[Path], features: tuple[str, ...]) -> str:
    """Return a query of the clicks of files; a feature that holds nothing in one has no type there.

    Files are read together where the same features hold something.
    """
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in files:
        schema = pq.read_schema(path) if features else pa.schema([])
        held = tuple(name for name in features if not pa.types.is_null(schema.field(name).type))
        groups.setdefault(held, []).append(path)
    selects = []
    for held, paths in groups.items():
        columns = [
            duck.identifier(name) if name in held else f"NULL AS {duck.identifier(name)}"
            for name in features
        ]
        columns = ["user_id", "ts", "item_id", *columns]
        selects.append(f"SELECT {', '.join(columns)} FROM {duck.parquet(paths)}")
    return " UNION ALL ".join(selects)


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

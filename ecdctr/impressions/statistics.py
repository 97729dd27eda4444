"""Statistics of a log that decide what pays.

How often users come, how sparse ads are, what is clicked again. Measured on a sample of users with
all of their impressions, on real logs and simulated ones alike, so that a log can be placed among
worlds (docs/map.md).
"""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.config import DOMAINS, Config
from ecdctr.errors import StoreError
from ecdctr.files import duck
from ecdctr.files.duck import one_row
from ecdctr.impressions import contract
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import refuse_no_files
from ecdctr.impressions.schema import sound_schema

if TYPE_CHECKING:
    import duckdb

SAMPLED_USERS = 3000
LONGEST_LOG = 120  # days, the newest
VISIT_GAP = "INTERVAL 1 HOUR"  # Halfaker et al. 2015
JUDGED_DAYS = 14  # the last ones, whose clicks are compared with those before
WINDOWS = {"week": (1, 7), "month": (22, 35), "season": (77, 98)}  # days before, first and last


class Statistics(NamedTuple):
    """One log; nan where it is too short to say.

    A kind is a value of the items' first categorical feature.
    """

    days: float
    users: float  # about
    visits_per_month: float  # of the users that were seen
    gap_days: float  # median between a user's visits
    per_visit: float  # impressions
    ads_share: float  # of impressions
    natural_ctr: float
    ads_ctr: float
    repeated_items: float  # share of the clicks on ads whose item this user had clicked before
    # click rate of ads of a kind clicked in natural content in four weeks, over that of others
    cross_lift: float
    lift_week: float  # the same within natural content, of kinds clicked 1 to 7 days before
    lift_month: float  # 22 to 35 days before
    lift_season: float  # 77 to 98 days before


def measure(config: Config) -> Statistics:
    """Measure the configured impressions.

    Raises StoreError without days of both domains, ContractError for columns of other types.
    """
    impressions = open_impressions(config.data.root)
    dates = {domain: impressions.dates(domain) for domain in DOMAINS}
    if not all(dates.values()):
        raise StoreError(
            f"Statistics need days of both domains under {config.data.root}; found "
            + ", ".join(f"{len(dates[domain])} of {domain}" for domain in DOMAINS)
            + "; ecdctr validate says what lies there."
        )
    last = min(days[-1] for days in dates.values())
    kept = [last - dt.timedelta(days=n) for n in range(LONGEST_LOG)]
    first = max(min(kept), min(days[0] for days in dates.values()))
    with contract.connect(config) as connection:
        selects = []
        for domain in DOMAINS:
            files = [
                path
                for date in dates[domain]
                if first <= date <= last
                for path in impressions.files(domain, date)
            ]
            name = ([*config.memory_keys, "item_id"])[1]  # the item where no feature is declared
            kinds = [feature for feature in config.features if feature.name == name]
            rows = (
                sound_schema(files, kinds).only("user_id", "item_id", "ts", "click", name).select()
            )
            kind = duck.identifier(name)
            selects.append(
                f"SELECT '{domain}' AS domain, user_id::VARCHAR AS u, item_id::VARCHAR AS item, "
                f"ts::TIMESTAMP AS ts, click::INTEGER AS click, {kind}::VARCHAR AS kind "
                f"FROM ({rows})"
            )
        connection.execute(f"CREATE TEMP VIEW log AS {' UNION ALL '.join(selects)}")
        return _measure(connection, (last - first).days + 1)


def ads_of_last(config: Config, days: int) -> tuple[int, int]:
    """Return the impressions of ads of so many days up to the newest, and the days from the first.

    Raises StoreError.
    """
    impressions = open_impressions(config.data.root)
    dates = impressions.dates("ads")
    span = (dates[-1] - dates[0]).days + 1
    first = window(dates[-1], days)[0]
    files = [path for date in dates if date >= first for path in impressions.files("ads", date)]
    refuse_no_files(files)
    with contract.connect(config) as connection:
        ads = _numbers(connection, f"SELECT count(*) FROM {duck.parquet(files)}")[0]
    return int(ads), span


def _measure(connection: duckdb.DuckDBPyConnection, days: int) -> Statistics:
    users = _numbers(connection, "SELECT approx_count_distinct(u) FROM log")[0]
    one_of = max(1, round(users / SAMPLED_USERS))
    connection.execute(f"CREATE TEMP TABLE part AS SELECT * FROM log WHERE hash(u) % {one_of} = 0")
    per_user, gap, per_visit = _numbers(connection, _VISITS)
    share, natural, ads = _numbers(connection, _RATES)
    (repeated,) = _numbers(connection, _REPEATED)
    lifts = {name: _lift(connection, "natural", *bounds) for name, bounds in WINDOWS.items()}
    return Statistics(
        days, users, per_user / days * 30, gap, per_visit, share, natural, ads, repeated,
        _lift(connection, "ads", 1, 28), *lifts.values(),
    )  # fmt: skip


_VISITS = f"""
WITH stamped AS (SELECT u, ts, lag(ts) OVER (PARTITION BY u ORDER BY ts) AS before FROM part),
begins AS (SELECT u, ts FROM stamped WHERE before IS NULL OR ts - before > {VISIT_GAP}),
gaps AS (SELECT epoch(ts - lag(ts) OVER (PARTITION BY u ORDER BY ts)) / 86400 AS gap FROM begins)
SELECT (SELECT count(*) / count(DISTINCT u) FROM begins), (SELECT median(gap) FROM gaps),
       (SELECT count(*) FROM part) / (SELECT count(*) FROM begins)
"""
_RATES = """
SELECT avg((domain = 'ads')::INTEGER), avg(click) FILTER (domain = 'natural'),
    avg(click) FILTER (domain = 'ads')
FROM part
"""
_REPEATED = f"""
WITH clicks AS (
    SELECT u, item, ts, domain, min(ts) OVER (PARTITION BY u, item) AS first
    FROM part WHERE click = 1
)
SELECT avg((first < ts)::INTEGER) FROM clicks
WHERE domain = 'ads' AND ts > (SELECT max(ts) FROM part) - INTERVAL {JUDGED_DAYS} DAY
"""


def _lift(connection: duckdb.DuckDBPyConnection, domain: str, near: int, far: int) -> float:
    """Return how much more often impressions of a kind clicked before are clicked.

    The click rate of a domain's last impressions whose kind the user clicked in natural content, so
    many days before, over that of others. Only users with any click in these days are
    asked, nan without a log that long.
    """
    query = f"""
    WITH judged AS (
        SELECT u, kind, ts::DATE AS day, click FROM part
        WHERE domain = '{domain}' AND ts > (SELECT max(ts) FROM part) - INTERVAL {JUDGED_DAYS} DAY
    ),
    clicked AS (
        SELECT DISTINCT u, kind, ts::DATE AS day FROM part WHERE domain = 'natural' AND click = 1
    ),
    asked AS (
        SELECT j.click, coalesce(bool_or(c.kind = j.kind), false) AS known
        FROM (SELECT *, row_number() OVER () AS n FROM judged) j JOIN clicked c
            ON c.u = j.u AND c.day BETWEEN j.day - {far} AND j.day - {near}
        GROUP BY j.n, j.click
    )
    SELECT avg(click) FILTER (known), avg(click) FILTER (NOT known) FROM asked
    """
    clicked_before, others = _numbers(connection, query)
    return clicked_before / others if others else math.nan


def _numbers(connection: duckdb.DuckDBPyConnection, query: str) -> list[float]:
    row = one_row(connection, query)
    return [math.nan if value is None else float(value) for value in row]

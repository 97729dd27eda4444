"""A small log of two domains that tests write in many ways."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import Config, Data, Domain, Feature
from ecdctr.impressions.layout import day_folder

FIRST = dt.date(2026, 1, 1)
LAST = FIRST + dt.timedelta(days=2)  # of a log of three days, as write_log makes it
FEATURES = (
    Feature(name="category", side="item", kind="categorical", tpm=True),
    Feature(name="brand", side="item", kind="categorical"),
    Feature(name="flag", side="user", kind="categorical"),
    Feature(name="born", side="user", kind="categorical"),
    Feature(name="tags", side="item", kind="multi_valued", max_values=3),
    Feature(name="words", side="item", kind="multi_valued", max_values=3),
    Feature(name="price", side="item", kind="numeric", transform="log1p"),
)


def day_table(domain: Domain, day: int, rows: int = 60) -> pa.Table:
    """Return a day of few users and items, in canonical types, with nulls in every feature."""
    rng = np.random.default_rng([day, domain == "ads"])
    user, item = rng.integers(0, 9, rows), rng.integers(0, 7, rows)
    start = dt.datetime.combine(FIRST + dt.timedelta(days=day), dt.time(), dt.UTC)
    seconds = np.sort(rng.choice(86_400, rows, replace=False))

    def every(values: list, unknown: int, kind: pa.DataType) -> pa.Array:
        return pa.array([None if i % 11 == unknown else v for i, v in enumerate(values)], kind)

    return pa.table(
        {
            "user_id": pa.array(user, pa.int64()),
            "item_id": pa.array(item, pa.int64()),
            "ts": pa.array(
                [start + dt.timedelta(seconds=int(s)) for s in seconds],
                pa.timestamp("us", tz="UTC"),
            ),
            "click": pa.array((rng.random(rows) < 0.4).astype(np.int8)),
            "category": every([int(i) % 5 for i in item], 1, pa.int64()),
            "brand": every([f"b{i % 3}" for i in item], 2, pa.string()),
            "flag": every([bool(u % 2) for u in user], 3, pa.bool_()),
            "born": every([dt.date(1990, 1, 1 + u % 5) for u in user], 4, pa.date32()),
            "tags": every([[int(i), int(i) % 2] for i in item], 5, pa.list_(pa.int64())),
            "words": every([[f"w{i}", "ä"] for i in item], 6, pa.list_(pa.string())),
            "price": every([float(i) + 0.5 for i in item], 7, pa.float64()),
        }
    )


def put(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the table with another column of that name."""
    return table.set_column(table.column_names.index(name), name, values)


def cast(table: pa.Table, **kinds: pa.DataType) -> pa.Table:
    """Return the table with columns of other types, the values unchanged."""
    for name, kind in kinds.items():
        column = table[name]
        other = pa.types.is_decimal(kind) and pa.types.is_floating(column.type)
        made = column.cast(kind) if other else pa.array(column.to_pylist(), kind)
        table = put(table, name, made)
    return table


def write_day(root: Path, domain: Domain, day: int, table: pa.Table, name: str = "part-0") -> Path:
    """Return one file of a day."""
    folder = day_folder(root, domain, FIRST + dt.timedelta(days=day))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return path


def write_log(
    root: Path, days: int = 3, change: Callable[[pa.Table, Domain, int], pa.Table] | None = None
) -> None:
    """Days of both domains, one file each; `change` may alter a day."""
    for day in range(days):
        for domain in ("natural", "ads"):
            table = day_table(domain, day)
            write_day(root, domain, day, change(table, domain, day) if change else table)


def config_of(root: Path, prepared: Path, **data: object) -> Config:
    """Return a configuration over such a log."""
    settings = Data(
        root=root, prepared=prepared, history_length=4, lookback_days=2, numeric_null=-1.0
    )
    return Config(data=settings.model_copy(update=data), features=FEATURES)

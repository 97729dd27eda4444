"""A small log of few users and items with days that lack, and its configuration with memory."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import DOMAINS, Config, Data, Feature, Memory

FIRST = dt.date(2026, 1, 1)
DAYS = [FIRST + dt.timedelta(days=n) for n in range(24)]
MEMORY = Memory(enabled=True, windows=(3, 9), weekday=6, max_pairs=1000)
FEATURES = (
    Feature(name="city", side="user", kind="categorical"),
    Feature(name="category", side="item", kind="categorical"),
    Feature(name="price", side="item", kind="numeric"),
)
Row = dict[str, Any]


def write_log(root: Path, rng: np.random.Generator, strings: bool) -> list[Row]:
    """Return a few users and items over DAYS with days that lack; a category may be unknown."""
    log: list[Row] = []
    for date in DAYS:
        for domain in DOMAINS:
            if rng.random() < 0.15:
                continue
            start = dt.datetime.combine(date, dt.time(), dt.UTC)
            rows: list[Row] = []
            for n in range(int(rng.integers(1, 12))):
                user, item = int(rng.integers(4)), int(rng.integers(5))
                rows.append(
                    {
                        "user_id": f"u{user}" if strings else user,
                        "item_id": f"i{item}" if strings else item,
                        "ts": start + dt.timedelta(minutes=n),
                        "click": int(rng.random() < 0.4),
                        "city": "x",
                        "category": None if item == 4 else item % 2,
                        "price": 1.0,
                    }
                )
            folder = root / f"domain={domain}" / f"date={date}"
            folder.mkdir(parents=True)
            schema = pa.schema(
                [
                    ("user_id", pa.string() if strings else pa.int64()),
                    ("item_id", pa.string() if strings else pa.int64()),
                    ("ts", pa.timestamp("us", tz="UTC")),
                    ("click", pa.int8()),
                    ("city", pa.string()),
                    ("category", pa.int64()),
                    ("price", pa.float64()),
                ]
            )
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / "part-0.parquet")
            log += [row | {"domain": domain, "date": date} for row in rows]
    return log


def config_of(folder: Path, memory: Memory = MEMORY) -> Config:
    data = Data(
        root=folder / "data",
        prepared=folder / "prepared",
        lookback_days=2,
        allowed_missing_days=100,
        threads=1,
    )
    return Config(data=data, features=FEATURES, memory=memory)

"""A chain of many small days whose ids come and go: does a day's cost stay what it was?

python -m benchmarks.years 1100          # days; with admission and eviction
python -m benchmarks.years 1100 off      # without

Each day as many users and items arrive as leave. TPM goes on weekly, CPM and A-CTR daily; raw and
prepared days and versions that nothing needs are removed weekly, as a deployment would. Figures are
means (peak memory: largest) over the last week before each of three days.
"""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import time
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, Row, report
from ecdctr.config import DOMAINS, Config
from ecdctr.levels import train
from ecdctr.levels.request import Request
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from ecdctr.training.process import peak_memory_mb

FIRST = dt.date(2026, 1, 1)
WARM = 30  # days before the first that is trained
LIFE = 60  # days that a user or an item stays
ARRIVING = {"user_id": 500, "item_id": 50}  # a day
ROWS = {"natural": 10_000, "ads": 1_000}  # impressions a day
LOOKBACK = 7
MOST = 1.1  # of the first point's: the issue asks for flat within 10 %
UNSEEN = {"evict_after_days": 30}
BOUNDED = {"user_id": {"min_impressions": 2, **UNSEEN}, "item_id": UNSEEN}


class Day(NamedTuple):
    """What a day cost, and what lay there after it."""

    seconds: float
    peak_mb: float
    disk_mb: float
    rows: float  # of CPM's tables of users and items


def configuration(root: Path, bounded: bool) -> Config:
    """Return the settings of the chain."""
    own = {"vocabulary": BOUNDED} if bounded else {}
    longer = {name: {"evict_after_days": 60} for name in BOUNDED}
    raw = {
        "data": {
            "prepared": str(root / "prepared"),
            "lookback_days": LOOKBACK,
            "history_length": 5,
        },
        "tpm": {"window_days": 14, **({"vocabulary": longer} if bounded else {})},
        "snapshots": {"count": 2, "stride_days": 14},
        "network": {"hidden": [32, 16]},
        "cpm": {"window_days": 7, **own},
        "actr": {"policy": "continue", "window_days": 7, **own},
        "quality": {"action": "off"},
    }
    config = Config.model_validate(raw)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root / "log"})})


def deliver(root: Path, number: int) -> None:
    """Write a day's impressions: of those who have arrived and not left yet, a few often."""
    date = FIRST + dt.timedelta(days=number)
    for place, domain in enumerate(DOMAINS):
        rng = np.random.default_rng([number, place])
        count = ROWS[domain]
        ids = {
            name: number * arriving + (rng.random(count) ** 2 * arriving * LIFE).astype(np.int64)
            for name, arriving in ARRIVING.items()
        }
        likes = (ids["user_id"] * 7 + ids["item_id"] * 3) % 10 == 0
        seconds = np.sort(rng.integers(0, 86_400 * 10**6, count))
        midnight = dt.datetime.combine(date, dt.time(), dt.UTC)
        ts = pa.array(seconds + int(midnight.timestamp()) * 10**6, pa.timestamp("us", "UTC"))
        click = (rng.random(count) < np.where(likes, 0.5, 0.1)).astype(np.int8)
        folder = root / "log" / f"domain={domain}" / f"date={date}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table(ids | {"ts": ts, "click": click}), folder / "part-0.parquet")


def forget(root: Path, store: Store, config: Config, number: int) -> None:
    """Remove days that no window reaches any more, and versions that nothing needs."""
    oldest = FIRST + dt.timedelta(days=number - 30)
    for folder in [*root.glob("log/*/date=*"), *root.glob("prepared/**/date=*")]:
        if dt.date.fromisoformat(folder.name.removeprefix("date=")) < oldest:
            shutil.rmtree(folder)
    remove(store, 3, config.snapshot_days, "no longer needed")


def a_day(root: Path, store: Store, config: Config, number: int) -> Day:
    """Deliver a day and train what is due on it."""
    deliver(root, number)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory starts anew
    date = FIRST + dt.timedelta(days=number)
    began = time.perf_counter()
    if (number - WARM) % 7 == 0:
        train("tpm", Request(config, store, date - dt.timedelta(days=1)))
    cpm = train("cpm", Request(config, store, date)).manifest
    train("actr", Request(config, store, date))
    seconds = time.perf_counter() - began
    if number % 7 == 0:
        forget(root, store, config, number)
    disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    rows = sum(cpm.rows[name] for name in BOUNDED)
    return Day(seconds, peak_memory_mb(), disk / 1e6, rows)


def measured(days: int, bounded: bool) -> list[Day]:
    """Run the chain; returns what each of its days cost."""
    root = RESULTS / "years"
    shutil.rmtree(root, ignore_errors=True)
    config, store = configuration(root, bounded), Store(root / "store")
    for number in range(WARM):
        deliver(root, number)
    made = []
    for number in range(WARM, WARM + days):
        made.append(a_day(root, store, config, number))
        if len(made) % 10 == 0:
            print(len(made), made[-1], file=sys.stderr, flush=True)
    problems = store.verify()
    if problems:
        raise SystemExit(f"the store is damaged: {problems}")
    return made


def main() -> None:
    """Compare three days of a chain."""
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 1100
    made = measured(days, "off" not in sys.argv)
    points = [max(days // 11, 7), max(days * 5 // 11, 7), days]
    rows = []
    for name, unit in (("seconds", "s"), ("peak_mb", "MB"), ("disk_mb", "MB"), ("rows", "rows")):
        of_week = [[getattr(day, name) for day in made[point - 7 : point]] for point in points]
        values = [max(week) if name == "peak_mb" else mean(week) for week in of_week]
        shown = ", ".join(f"{value:,.4g}" for value in values) + f" {unit}"
        work = f"{name} of days {', '.join(map(str, points))}"
        ratio = MOST * values[0] / max(values[-1], 1e-9)
        rows.append(Row(work, "flat within 10 %", shown, "–", ratio, 1))
    report("years" if "off" not in sys.argv else "years-off", rows)


if __name__ == "__main__":
    main()

"""Three years of a deployment on small days: does a day's cost stay what it was?

python -m benchmarks.years 1100          # days; goes on where it was interrupted
python -m benchmarks.years 1100 off      # without admission, eviction, memory and changes

Each day as many users and items arrive as leave. TPM goes on weekly, CPM and A-CTR daily, with
snapshots, memory of users, and versions as changes; each day is a process of its own. Raw and
prepared days and versions that nothing needs are removed weekly, as a deployment would. Three
points of the chain are compared: seconds of a processor and disk are medians of its weeks (least to
most), memory is the largest of a week, its median over the weeks. In the end the store is
verified, and a day before the second point, whose versions serve, is trained again from its days,
delivered again: its files have to be the same, byte for byte.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, Row, report
from ecdctr.config import DOMAINS, LEVELS, Config, Level
from ecdctr.examples.extracts import preparing_code
from ecdctr.files.cache import FOLDER as CACHE
from ecdctr.files.cache import LIMIT as CACHE_GB
from ecdctr.levels import actr, cpm, tpm, train
from ecdctr.levels.fingerprint import level_code
from ecdctr.levels.request import Request
from ecdctr.store.aliases import SERVING
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from ecdctr.training.process import peak_memory_mb

LOADED = (actr, cpm, tpm)  # before a training's process is forked
FIRST = dt.date(2026, 1, 1)
WARM = 45  # days before the first that is trained
KEPT = 50  # days of the log and of what is prepared: windows, and the memory behind their first day
LIFE = 60  # days that a user or an item stays
ARRIVING = {"user_id": 50, "item_id": 5}  # a day
CATEGORIES = 30
ROWS = {"natural": 1_000, "ads": 100}  # impressions a day
LOOKBACK = 7
WEEKS = 4  # of a point
MOST = 1.1  # of the first point's: the issue asks for flat within 10 %
UNSEEN = {"evict_after_days": 30}
BOUNDED = {"user_id": {"min_impressions": 2, **UNSEEN}, "item_id": UNSEEN}


class Day(NamedTuple):
    """What a day cost, and what lay there after it."""

    seconds: float  # of a processor
    peak_mb: float  # of its process
    disk_mb: float  # as the file system counts it
    files: int  # and folders
    rows: int  # of CPM's tables of users and items
    yardstick: float  # seconds of a processor for the same piece of work each day


def configuration(root: Path, bounded: bool) -> Config:
    """Return the settings of the chain."""
    longer = {name: {"evict_after_days": 60} for name in BOUNDED}
    categories = {"name": "category", "side": "item", "kind": "categorical"}
    levels: dict[str, dict[str, Any]] = {
        "tpm": {"window_days": 14},
        "cpm": {"window_days": 7},
        "actr": {"policy": "continue", "window_days": 7},
    }
    raw = levels | {
        "data": {
            "prepared": str(root / "prepared"),
            "lookback_days": LOOKBACK,
            "history_length": 5,
            "threads": 1,
        },
        "snapshots": {"count": 2, "stride_days": 14},
        "network": {"hidden": [32, 16]},
        "quality": {"action": "off"},
    }
    if bounded:
        levels["tpm"]["vocabulary"] = longer
        levels["cpm"]["vocabulary"] = levels["actr"]["vocabulary"] = BOUNDED | {"category": {}}
        raw["features"] = [categories]
        raw["memory"] = {"enabled": True, "windows": [7, 21]}
        raw["store"] = {"deltas": {"levels": ["cpm", "actr"]}}
    config = Config.model_validate(raw)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root / "log"})})


def deliver(root: Path, number: int, times: int = 1) -> None:
    """Write a day's impressions: of those who have arrived and not left yet, a few often.

    Of so many times as many users and items, in so many times as many impressions.
    """
    date = date_of(number)
    for place, domain in enumerate(DOMAINS):
        rng = np.random.default_rng([number, place])
        count = ROWS[domain] * times
        arriving = {name: times * each for name, each in ARRIVING.items()}
        ids = {
            name: number * each + (rng.random(count) ** 2 * each * LIFE).astype(np.int64)
            for name, each in arriving.items()
        }
        likes = (ids["user_id"] * 7 + ids["item_id"] * 3) % 10 == 0
        seconds = np.sort(rng.integers(0, 86_400 * 10**6, count))
        midnight = dt.datetime.combine(date, dt.time(), dt.UTC)
        ts = pa.array(seconds + int(midnight.timestamp()) * 10**6, pa.timestamp("us", "UTC"))
        click = (rng.random(count) < np.where(likes, 0.5, 0.1)).astype(np.int8)
        category = ids["item_id"] % CATEGORIES
        folder = root / "log" / f"domain={domain}" / f"date={date}"
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.table(ids | {"category": category, "ts": ts, "click": click})
        pq.write_table(table, folder / "part-0.parquet")


def date_of(number: int) -> dt.date:
    """Return a day's date."""
    return FIRST + dt.timedelta(days=number)


def forget(root: Path, store: Store, config: Config, number: int) -> None:
    """Remove days that no window reaches any more, and versions that nothing needs."""
    oldest = date_of(number - KEPT)
    for folder in [*root.glob("log/*/date=*"), *root.glob("prepared/**/date=*")]:
        if dt.date.fromisoformat(folder.name.removeprefix("date=")) < oldest:
            shutil.rmtree(folder)
    remove(store, 3, config.snapshot_days, "no longer needed")


def in_a_process(work: Callable[[], int]) -> tuple[int, float, float]:
    """Do work as a command does, in a process of its own.

    Returns its answer, its processor's seconds and peak memory in MiB.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_tell, args=(there, work))
    process.start()
    there.close()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a process of the chain ended with {process.exitcode}")
    answer: tuple[int, float, float] = here.recv()
    return answer


def _tell(there: Connection, work: Callable[[], int]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory starts anew
    answer = work()
    used = resource.getrusage(resource.RUSAGE_SELF)
    there.send((answer, used.ru_utime + used.ru_stime, peak_memory_mb()))
    os._exit(0)  # without a look through what was loaded


def due(store: Store, config: Config, number: int, force: bool = False) -> dict[Level, Request]:
    """Return what is trained on a day."""
    date = date_of(number)
    daily = Request(config, store, date, force=force)
    weekly = Request(config, store, date - dt.timedelta(days=1), force=force)
    first: dict[Level, Request] = {} if (number - WARM) % 7 else {"tpm": weekly}
    return {**first, "cpm": daily, "actr": daily}


def trained(store: Store, config: Config, number: int, force: bool = False) -> int:
    """Train what is due on a day; returns the rows of users and items of CPM."""
    rows = {
        level: train(level, request).manifest.rows
        for level, request in due(store, config, number, force).items()
    }
    return sum(rows["cpm"][name] for name in BOUNDED)


def worked(root: Path, store: Store, config: Config, number: int) -> int:
    """Train what is due on a day, and remove weekly what is not needed any more."""
    rows = trained(store, config, number)
    if number % 7 == 0:
        forget(root, store, config, number)
    return rows


def a_day(root: Path, config: Config, number: int, serves: bool) -> Day:
    """Deliver a day, work on it in a process of its own, look at what lies there then."""
    store = Store(root / "store")
    deliver(root, number)
    rows, seconds, peak = in_a_process(partial(worked, root, store, config, number))
    for level in due(store, config, number) if serves else ():
        newest = store.newest("production", level)
        assert newest
        store.set_alias(SERVING, newest, "its day is trained again in the end")
    disk, files = occupied(root)
    return Day(seconds, peak, disk / 1e6, files, rows, in_a_process(yardstick)[1])


def yardstick() -> int:
    """Do a fixed piece of work: what it takes shows how much others slow the processor down."""
    numbers = np.random.default_rng(1).random(500_000)
    return sum(int(np.sort(numbers * n)[n]) for n in range(4)) + sum(range(1_000_000))


def occupied(root: Path) -> tuple[int, int]:
    """Return the bytes that lie under a folder by the file system's blocks, and in how many."""
    sizes = []
    for folder, _, files in os.walk(root):
        for name in (".", *files):
            sizes.append(os.lstat(os.path.join(folder, name)).st_blocks * 512)
    return sum(sizes), len(sizes)


def measured(root: Path, config: Config, days: int, served: int) -> list[Day]:
    """Run the chain from where it is; returns what each of its days cost."""
    log = root / "days.jsonl"
    if not log.exists():
        root.mkdir(parents=True)
        for number in range(WARM):
            deliver(root, number)
        log.touch()
    made = [Day(*json.loads(line)) for line in log.read_text("utf-8").splitlines()]
    for place in range(len(made), days):
        made.append(a_day(root, config, WARM + place, place == served))
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(made[-1]) + "\n")
        if len(made) % 10 == 0:
            print(len(made), made[-1], file=sys.stderr, flush=True)
    return made[:days]


def backfilled(root: Path, config: Config, number: int) -> list[str]:
    """Train a past day again from its days, delivered again; returns the files that differ."""
    shutil.rmtree(root / "prepared")
    for earlier in range(number - KEPT, number + 1):
        deliver(root, earlier)
    store, differing = Store(root / "store"), []
    in_a_process(partial(trained, store, config, number, force=True))
    for level, request in due(store, config, number).items():
        first, again = (
            store.serving("production", level),
            store.newest("production", level, request.date),
        )
        assert first
        assert again
        assert again.date == first.ref.date
        assert again.version != first.ref.version
        before, after = store.manifest(first.ref).files, store.manifest(again).files
        names = sorted(before | after)
        differing += [f"{again}/{name}" for name in names if before.get(name) != after.get(name)]
        print(f"{again}: {len(after)} files", file=sys.stderr, flush=True)
    return differing


def compared(made: list[Day], points: list[int]) -> list[Row]:
    """Return a row for each figure: at the points, and how much it grew."""
    rows = []
    units = ("s", "MiB", "MB", "files", "rows", "s")
    for name, unit in zip(Day._fields, units, strict=True):
        shown, middles = [], []
        for point in points:
            weeks = [made[end - 7 : end] for end in range(point - 7 * (WEEKS - 1), point + 1, 7)]
            of_weeks = [_of_a_week(name, [getattr(day, name) for day in week]) for week in weeks]
            middles.append(median(of_weeks))
            shown.append(f"{middles[-1]:,.4g} ({min(of_weeks):,.4g} to {max(of_weeks):,.4g})")
        text = f"{', '.join(shown)} {unit}"
        work = f"{name} of days {', '.join(map(str, points))}"
        rows.append(Row(work, "flat within 10 %", text, "–", MOST * middles[0] / middles[-1], 1))
    return rows


def _of_a_week(name: str, values: list[float]) -> float:
    return max(values) if name == "peak_mb" else sum(values) / len(values)


def digest_code() -> None:
    """Digest the project's code once for all processes: half of what a training costs here."""
    preparing_code()
    for level in LEVELS:
        level_code(level)


def main() -> None:
    """Compare three points of a chain."""
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 1100
    bounded = "off" not in sys.argv
    name = "years" if bounded else "years-off"
    root = RESULTS / name
    os.environ |= {CACHE: str(root / "cache"), CACHE_GB: "0.02"}
    config = configuration(root, bounded)
    points = [max(days * share // 1100, 7 * WEEKS) for share in (100, 500, 1100)]
    served = max(days * 400 // 1100 // 7 * 7, 7)  # a day on which TPM is due, too
    digest_code()
    gc.freeze()  # no process copies what was loaded by looking through it
    made = measured(root, config, days, served)
    problems = Store(root / "store").verify()
    differing = backfilled(root, config, WARM + served)
    problems += Store(root / "store").verify()
    report(name, compared(made, points))
    if problems or differing:
        raise SystemExit(f"the store is damaged: {problems}; the backfill differs: {differing}")
    print(f"the store is whole; day {served} trained again has the same bytes")


if __name__ == "__main__":
    main()

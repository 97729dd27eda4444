"""What a day of `full` costs on the purchases from March to December, on one core.

python -m benchmarks.purchases         # after `./run real`, which downloads and converts the data

At each date, a Sunday, a chain stands as a deployment's would: TPM weekly for the months that
snapshots reach back, CPM of the day before. Then the day's commands are timed as a user would run
them, one after another: `train cpm`, which prepares the day's natural content, `train actr`, which
prepares its ads, and on the first day `train tpm`, which makes the week's table of memory and
counts a seventh. Everything runs on one core.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml

from benchmarks.common import ONE_ROW, RESULTS, ROOT, Row, ecdctr, json_of, report
from ecdctr.config import load_config
from ecdctr.impressions.impressions import open_impressions

FOLDER = RESULTS / "purchases"
CONFIGURATION = ROOT / "configs" / "completejourney.yaml"
# Sundays, on which weekly tables end (memory.weekday): TPM makes them, as in a deployment
DATES = [dt.date(2017, *day) for day in ((3, 26), (6, 25), (9, 24), (12, 17))]
WEEK = dt.timedelta(days=7)
DAYS = 3  # of each date: the middle one counts
LEAST_DAYS = 14  # of log before the first TPM
ASKED = 60.0  # seconds a day
FLAT = 1.1


class Day(NamedTuple):
    """Seconds of a day's commands; TPM's is a seventh of a week's."""

    cpm: float
    actr: float
    tpm: float

    @property
    def total(self) -> float:
        """Of all three."""
        return sum(self)


def configuration() -> Path:
    """Write the shipped settings with prepared days and threads of this bench's own."""
    shipped = load_config(CONFIGURATION)
    if not Path(shipped.data.root, "domain=natural").is_dir():
        raise SystemExit(f"No purchases under {shipped.data.root}; make them by: ./run real")
    raw = yaml.safe_load(CONFIGURATION.read_text("utf-8"))
    places = {"root": str(shipped.data.root), "prepared": str(FOLDER / "prepared"), "threads": 1}
    raw["data"] |= places
    raw |= ONE_ROW
    path = FOLDER / "config.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    return path


def seconds(config: Path, store: Path, level: str, date: dt.date) -> float:
    """Train a level by a command; returns its seconds, the start of Python included."""
    began = time.perf_counter()
    json_of(ecdctr(config, store, "train", level, "--date", str(date)))
    return time.perf_counter() - began


def chain(config: Path, store: Path, first: dt.date, date: dt.date) -> None:
    """Train what a deployment has on a day before its commands of the day run."""
    settings = load_config(config)
    reach = dt.timedelta(
        days=settings.actr.window_days + settings.snapshots.count * settings.snapshots.stride_days
    )
    refreshes = []
    refresh = date - WEEK
    while refresh >= max(first + dt.timedelta(days=LEAST_DAYS), date - reach):
        refreshes.append(refresh)
        refresh -= WEEK
    for refresh in reversed(refreshes):
        seconds(config, store, "tpm", refresh)
    seconds(config, store, "cpm", date - dt.timedelta(days=1))


def measured(config: Path, first: dt.date, date: dt.date) -> list[Day]:
    """Return what each of some days from a date on costs; TPM is due on the first of them."""
    store = FOLDER / "store" / str(date)
    chain(config, store, first, date)
    days = [date + dt.timedelta(days=number) for number in range(DAYS)]
    trained, tpm = [], 0.0
    for day in days:
        trained.append([seconds(config, store, level, day) for level in ("cpm", "actr")])
        if day == date:  # before the next day asks for the week's table
            tpm = seconds(config, store, "tpm", date) / WEEK.days
    return [Day(cpm, actr, tpm) for cpm, actr in trained]


def main() -> None:
    """Compare the dates, the last one with the first."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # and all commands that it starts
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    config = configuration()
    first = open_impressions(load_config(config).data.root).dates("natural")[0]
    rows = []
    begun = None
    for date in DATES:  # oldest first: no day of a later date is prepared yet
        days = measured(config, first, date)
        print(date, days, file=sys.stderr, flush=True)
        total = median(day.total for day in days)
        begun = begun or total
        parts = ", ".join(
            f"{name} {median(getattr(day, name) for day in days):.3g}" for name in Day._fields
        )
        spread = f"{min(day.total for day in days):.3g} to {max(day.total for day in days):.3g}"
        text = f"{total:.3g} s ({spread}): {parts}"
        rows.append(Row(f"a day of full, {date}", f"{ASKED:.0f} s", text, "–", ASKED / total, 1))
    rows.append(Row("its growth over the year", "flat", f"{total:.3g} s", f"{begun:.3g} s",
                    FLAT * begun / total, 1))  # fmt: skip
    report("purchases", rows)


if __name__ == "__main__":
    main()
